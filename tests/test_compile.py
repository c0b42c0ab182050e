"""Steps under torch.compile: one stated break of the graph, or the eager backend traced where none may break."""

import copy

import pytest
import torch
import torch._dynamo
from torch._dynamo.testing import CompileCounterWithBackend

import descend
from descend import Slot, orthogonalize, rule, schedules
from descend.vocabulary import global_norm, norm
from optimizers import BY_NAME, ROWS, gradients, parameters, relative_difference

STEPS = 5


@pytest.fixture(autouse=True)
def _afresh():
    torch._dynamo.reset()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
    torch._dynamo.reset()


def both(make, backend="eager", steps=STEPS, prepare=lambda step, optimizer: None, which=(0, 2), dtype=None):
    """The same steps compiled without breaks and not compiled: both optimizers and the number of graphs.

    `which` parameters of the table's: a matrix and a single number unless told.
    """
    counter = CompileCounterWithBackend(backend)
    optimizers = []
    for _ in range(2):
        params = parameters(dtype=dtype)
        optimizers.append(make([params[i] for i in which]))
    compiled = torch.compile(optimizers[0].step, backend=counter, fullgraph=True)
    for s in range(steps):
        for optimizer, step in zip(optimizers, (compiled, optimizers[1].step), strict=True):
            give_gradients(optimizer, s)
            prepare(s, optimizer)
            step()
    return *optimizers, counter.frame_count


def give_gradients(optimizer, step):
    params = weights(optimizer)
    for p, g in zip(params, gradients(step, params), strict=True):
        p.grad = g


def weights(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


def assert_same(ours, theirs, tolerance=1e-12):
    assert relative_difference(weights(ours), weights(theirs)) <= tolerance
    for p, q in zip(weights(ours), weights(theirs), strict=True):
        assert list(ours.state.get(p, {})) == list(theirs.state.get(q, {}))
        for key, value in ours.state.get(p, {}).items():
            torch.testing.assert_close(value, theirs.state[q][key], rtol=tolerance, atol=tolerance)
    assert str(ours.state_dict()["param_groups"]) == str(theirs.state_dict()["param_groups"])


def harshest(row):
    """The last combination of a row's options: most of them in force."""
    return list(row.combinations())[-1]


TRACED = [row for row in ROWS if not row.looks_at_all]  # the others keep plain numbers, which no graph can write


def rows(*quick):
    """The names in the table; those that are not quick are long."""
    return [pytest.param(row.name, marks=[] if row.name in quick else pytest.mark.long) for row in TRACED]


@pytest.mark.parametrize("name", rows("SGD", "AdamW", "NAdam", "Rprop"))
def test_every_rule_is_traced_and_compiled_once_for_its_first_step_and_once_for_all_others(name):
    row = BY_NAME[name]
    options = harshest(row)
    ours, theirs, graphs = both(lambda p: row.ours(p, backend="eager", **options))
    assert_same(ours, theirs)
    assert graphs <= 2
    assert ours.applied_steps == STEPS


@pytest.mark.long
@pytest.mark.parametrize("row", TRACED, ids=lambda row: row.name)
def test_every_combination_is_traced(row):
    for options in row.combinations():
        torch._dynamo.reset()
        ours, theirs, _ = both(lambda p, options=options: row.ours(p, backend="eager", **options), which=range(4))
        assert_same(ours, theirs)


@pytest.mark.parametrize("name", rows("AdamW"))
def test_aot_autograd_traces_into_the_backend(name):
    row = BY_NAME[name]
    ours, theirs, _ = both(lambda p: row.ours(p, backend="eager", **harshest(row)), "aot_eager")
    assert_same(ours, theirs)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # torch's own
@pytest.mark.parametrize(
    ("name", "which"),
    [
        ("SGD", (1,)),
        *(pytest.param(name, range(4), marks=pytest.mark.long) for name in ("AdamW", "NAdam", "RAdam", "Rprop")),
    ],
)
def test_inductor_generates_the_step(name, which):
    row = BY_NAME[name]
    ours, theirs, _ = both(lambda p: row.ours(p, backend="eager", **harshest(row)), "inductor", which=which)
    assert_same(ours, theirs)


def set_in(group, **values):
    return lambda step, optimizer: optimizer.param_groups[group].update({k: v(step) for k, v in values.items()})


def fill_rate(step, optimizer):
    optimizer.param_groups[0]["lr"].fill_(0.1 / (step + 1))


MOVING_RATES = {
    "schedule": (lambda p: descend.AdamW(p, lr=0.1 * schedules.cosine(5)), None),
    "scheduled decay": (lambda p: descend.AdamW(p, lr=0.1, weight_decay=0.1 * schedules.warmup(4)), None),
    "written": (lambda p: descend.AdamW(p, lr=0.1), set_in(0, lr=lambda step: 0.1 / (step + 1))),
    "tensor": (lambda p: descend.AdamW(p, lr=torch.tensor(0.1), foreach=False), fill_rate),
    "capturable": (lambda p: descend.AdamW(p, lr=0.1 * schedules.warmup(4), capturable=True, backend="eager"), None),
}


@pytest.mark.parametrize(("make", "prepare"), MOVING_RATES.values(), ids=MOVING_RATES)
def test_a_rate_that_moves_compiles_nothing_anew(make, prepare):
    ours, theirs, graphs = both(make, steps=10, prepare=prepare or (lambda step, optimizer: None))
    assert_same(ours, theirs)
    assert graphs == 2


def test_a_decay_that_is_switched_on_is_noticed():
    prepare = set_in(0, weight_decay=lambda step: 0.1 * (step >= 3))
    ours, theirs, graphs = both(lambda p: descend.AdamW(p, lr=0.1, weight_decay=0.0), prepare=prepare)
    assert_same(ours, theirs)
    assert graphs == 3


def test_a_flag_that_is_turned_is_noticed():
    prepare = set_in(0, maximize=lambda step: step >= 3)
    ours, theirs, _ = both(lambda p: descend.SGD(p, lr=0.1), prepare=prepare)
    assert_same(ours, theirs)


@rule
def scaled_momentum(p, g, m=Slot("m"), *, lr=0.1, beta=0.9):
    """Reductions of both kinds."""
    m = beta * m + g * norm(p) / (norm(g) + 1e-3) / (1 + global_norm(g))
    return dict(p=p - lr * m, m=m)


OTHERS = {
    "global reductions": lambda p: descend.Optimizer(p, scaled_momentum, backend="eager"),
    "options": lambda p: descend.AdamW(p, lr=0.1, backend="eager", clip_norm=0.5, clip_value=0.3, ema_decay=0.9),
    "kernels beside": lambda p: descend.AdamW(p, lr=0.1),
    "two rules": lambda p: descend.AdamW(
        [{"params": p[:1], "lr": 0.3}, {"params": p[1:], "rule": descend.rules.lion}], lr=0.1, backend="eager"
    ),
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_what_else_an_optimizer_can_be(make):
    assert_same(*both(make, which=(0, 1))[:2])


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2), (torch.complex128, 1e-12)]
)
def test_types(dtype, tolerance):
    ours, theirs, _ = both(lambda p: descend.Rprop(p, lr=0.1, backend="eager"), steps=3, which=(1,), dtype=dtype)
    assert_same(ours, theirs, tolerance)


def test_gradients_that_are_absent_now_and_then():
    def prepare(step, optimizer):
        for p in weights(optimizer)[: step % 2]:
            p.grad = None

    ours, theirs, _ = both(lambda p: descend.SGD(p, lr=0.1, momentum=0.9, backend="eager"), prepare=prepare)
    assert_same(ours, theirs)


def test_steps_inside_and_outside_of_graphs_and_checkpoints_go_on_from_each_other():
    def prepare(step, optimizer):
        if step == 2:
            optimizer.step()
        if step == 3:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))

    ours, theirs, _ = both(lambda p: descend.AdamW(p, lr=0.1 * schedules.warmup(9)), prepare=prepare)
    assert_same(ours, theirs)


def test_state_made_anew_starts_from_the_rate_in_force():
    def prepare(step, optimizer):
        if step == 2:
            optimizer.state.clear()
            optimizer.param_groups[0]["lr"] = 0.3

    assert_same(*both(lambda p: descend.Rprop(p, lr=0.1, backend="eager"), prepare=prepare)[:2])


def test_two_steps_in_one_graph():
    ours, theirs = (descend.AdamW(parameters()[:1], lr=0.1, backend="eager") for _ in range(2))
    for optimizer in (ours, theirs):
        give_gradients(optimizer, 0)

    @torch.compile(backend="aot_eager", fullgraph=True)
    def twice():
        ours.step()
        ours.step()

    twice()
    theirs.step()
    theirs.step()
    assert_same(ours, theirs)


class Training:
    """A small model, and its training step in one function."""

    def __init__(self):
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
        self.data = torch.randn(8, 3)
        self.optimizer = descend.AdamW(self.model.parameters(), lr=0.1)

    def loss(self):
        loss = self.model(self.data).square().mean()
        loss.backward()
        return loss

    def step(self):
        loss = self.loss()
        self.optimizer.step()
        return loss.detach()

    def step_with_closure(self):
        return self.optimizer.step(self.loss).detach()

    def run(self, step):
        """The losses of a few steps. Gradients are dropped outside: dynamo 2.13 is broken by `p.grad = None` inside."""
        losses = []
        for _ in range(STEPS):
            self.optimizer.zero_grad()
            losses.append(step().item())
        return losses


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo's, at any break
@pytest.mark.parametrize(("backend", "fullgraph"), [("aot_eager", False), ("eager", True)])
@pytest.mark.parametrize("name", ["step", "step_with_closure"])
def test_a_whole_training_step(backend, fullgraph, name):
    ours, theirs = Training(), Training()
    step = torch.compile(getattr(ours, name), backend=backend, fullgraph=fullgraph)
    with torch._dynamo.config.patch(trace_autograd_ops=fullgraph):
        losses = ours.run(step)
    assert losses == pytest.approx(theirs.run(getattr(theirs, name)), rel=1e-12)
    assert losses[-1] < losses[0]
    assert_same(ours.optimizer, theirs.optimizer)


def test_elsewhere_the_step_is_one_break_that_says_why():
    training = Training()
    training.loss()

    def around(x):
        y = x * 2
        training.optimizer.step()
        return y * 3

    explained = torch._dynamo.explain(around)(torch.ones(2))
    assert explained.graph_break_count == 1
    assert "descend steps outside of graphs" in explained.break_reasons[0].reason
    assert training.optimizer.applied_steps == 1


@rule
def counting(p, g, k=Slot("k", shape="optimizer"), *, lr=0.1):
    """A slot that exists once per optimizer."""
    return dict(p=p - lr * g, k=k + 1)


@rule
def orthogonal(p, g, *, lr=0.1):
    return dict(p=p - lr * orthogonalize(g, 1.5, -0.5, 0, 1e-7, 5))


REFUSED = {
    "kernels": lambda p: descend.AdamW(p, fused=True),
    "differentiable": lambda p: descend.AdamW(p, differentiable=True),
    "stochastic_rounding": lambda p: descend.AdamW(p, stochastic_rounding=True),
    "once per optimizer": lambda p: descend.Optimizer(p, counting),
    "clip_agc is not traced": lambda p: descend.AdamW(p, clip_agc=0.01),
    "orthogonalize, which is not traced": lambda p: descend.Optimizer(p, orthogonal),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_no_graph_can_hold_is_refused(sentence):
    optimizer = REFUSED[sentence]([torch.ones(3, requires_grad=True)])
    give_gradients(optimizer, 0)
    with pytest.raises(torch._dynamo.exc.Unsupported, match=f"{sentence}.*compile without fullgraph=True"):
        torch.compile(optimizer.step, backend="eager", fullgraph=True)()
    assert optimizer.applied_steps == 0
    assert torch.equal(weights(optimizer)[0], torch.ones(3))


def drop_group(optimizer):
    del optimizer.param_groups[1]


@pytest.mark.parametrize(
    ("spoil", "error", "sentence"),
    [
        (lambda o: o.param_groups[0].update(lr=float("nan")), ValueError, "Invalid learning rate: nan"),
        (lambda o: setattr(o, "grad_scale", torch.tensor(2.0)), RuntimeError, "scaler.step"),
        (drop_group, RuntimeError, "lacks a group"),
    ],
)
@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.long)])
def test_errors_leave_everything_as_it_was(backend, spoil, error, sentence):
    optimizer = descend.AdamW([{"params": parameters()[:1]}, {"params": parameters()[1:2]}])
    step = torch.compile(optimizer.step, backend=backend, fullgraph=True)
    give_gradients(optimizer, 0)
    for _ in range(2):
        step()
    before = copy.deepcopy((weights(optimizer)[0], dict(optimizer.state[weights(optimizer)[0]])))
    spoil(optimizer)
    with pytest.raises(error, match=sentence):
        step()
    assert torch.is_grad_enabled()
    assert optimizer.applied_steps == 2
    assert torch.equal(before[0], weights(optimizer)[0])
    assert all(torch.equal(x, optimizer.state[weights(optimizer)[0]][key]) for key, x in before[1].items())
    optimizer.param_groups[0]["lr"], optimizer.grad_scale = 0.1, None
    step()
    assert optimizer.applied_steps == 3


def test_averaged_weights_are_not_stepped():
    optimizer = descend.AdamW(parameters()[:1], ema_decay=0.9)
    step = torch.compile(optimizer.step, backend="eager", fullgraph=True)
    give_gradients(optimizer, 0)
    step()
    with optimizer.averaged(), pytest.raises(RuntimeError, match="averaged weights are in place"):
        step()


def test_copies_step_on_by_themselves():
    optimizer = descend.AdamW(parameters()[:1], lr=0.1)
    step = torch.compile(lambda o: o.step(), backend="eager", fullgraph=True)
    give_gradients(optimizer, 0)
    step(optimizer)
    other = copy.deepcopy(optimizer)
    give_gradients(other, 0)
    before = weights(optimizer)[0].clone()
    step(other)
    assert (optimizer.applied_steps, other.applied_steps) == (1, 2)
    assert torch.equal(before, weights(optimizer)[0])
