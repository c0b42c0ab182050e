"""An ensemble's predictions are the members' averages, however they are run, and nothing of the user's changes."""

import copy
import io
import weakref

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from descend.ensembles import Ensemble, EnsembleModule, module
from descend.snapshots import SnapshotStore
from snapshot_training import Map, Memory, Net, Tied, copied, made, same

INPUTS = torch.randn(23, 4, generator=torch.Generator().manual_seed(1))
STRATEGIES = ["stream", "batched", "auto"]


def varied(model=Net, count=3):
    """Members that differ in all that they hold, the statistics of batch normalization too."""
    members = [made(model, seed) for seed in range(count)]
    for seed, member in enumerate(members):
        for one in member.modules():
            if isinstance(one, nn.modules.batchnorm._BatchNorm):
                one.running_mean.fill_(0.3 * seed)
                one.running_var.fill_(1 + seed)
    return members


def states(members):
    return [copied(member) for member in members]


def by_hand(members, inputs, dim=-1, average="softmax"):
    """The average in float64."""
    total = 0
    for member in members:
        with torch.no_grad():
            wide = inputs.double() if inputs.is_floating_point() else inputs
            output = copy.deepcopy(member).double().eval()(wide)
        total = total + (output.softmax(dim) if average == "softmax" else output)
    return total / len(members)


def close(found, expected):
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)


CASES = [
    (Net, INPUTS, -1),
    (Map, torch.randn(23, 4, 5, 5, generator=torch.Generator().manual_seed(2)), 1),
    (Tied, torch.arange(23) % 5, -1),
    (Memory, torch.randn(23, 6, 4, generator=torch.Generator().manual_seed(3)), -1),
]


@pytest.mark.parametrize(("model", "inputs", "dim"), CASES)
@pytest.mark.parametrize("average", ["softmax", "mean"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_average_by_hand(model, inputs, dim, average, strategy):
    members = varied(model)
    ensemble = Ensemble(made(model, 9), states(members), average=average, dim=dim)
    if model is Memory and strategy == "batched":
        with pytest.raises(RuntimeError, match=r"Memory may not run in a batched pass \(.*\); try strategy='stream'"):
            ensemble.predict([inputs], strategy=strategy)
        return
    found = ensemble.predict(inputs.split(10), strategy=strategy)  # 10, 10 and 3
    close(found, by_hand(members, inputs, dim, average))
    close(ensemble.module()(inputs), by_hand(members, inputs, dim, average))
    assert not found.requires_grad
    if average == "softmax":
        torch.testing.assert_close(found.sum(dim), torch.ones_like(found.sum(dim)))


def test_members_of_a_store(tmp_path):
    members, store = varied(), SnapshotStore(tmp_path)
    for step, member in enumerate(members):
        store.add(member, step=step)
    for count in (1, 2, 3):
        close(Ensemble(Net(), store.last(count)).predict([INPUTS]), by_hand(members[-count:], INPUTS))


@pytest.mark.parametrize(
    ("batches", "forward"),
    [
        (DataLoader(TensorDataset(INPUTS, torch.zeros(23)), 10), None),
        ([(part, None) for part in INPUTS.split(7)], None),
        ([[part] for part in INPUTS.split(7)], None),
        ([{"inputs": part} for part in INPUTS.split(7)], None),
        ([{"x": part, "y": 0} for part in INPUTS.split(7)], lambda model, batch: model(batch["x"])),
        ([part.tolist() for part in INPUTS.split(7)], lambda model, batch: model(torch.tensor(batch))),
    ],
)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_batches_of_all_kinds(batches, forward, strategy):
    members = varied()
    found = Ensemble(Net(), states(members), forward=forward).predict(batches, strategy=strategy)
    close(found, by_hand(members, INPUTS))


class Busy(Net):
    """Changes its buffers whenever it runs, in place and by a new one, and draws random numbers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last_sum", torch.zeros(()), persistent=False)
        self.register_buffer("unsaved", torch.zeros(2), persistent=False)

    def forward(self, inputs):
        self.calls += 1
        self.unsaved += 1
        self.last_sum = inputs.sum()
        return super().forward(inputs) + 0 * torch.rand(3)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nothing_of_the_user_s_changes(strategy):
    kind = Net if strategy == "batched" else Busy
    model, given = made(kind, 9), states(varied(kind))
    model.norm.eval()
    model(INPUTS).sum().backward()
    held = {name: (value, value.clone()) for name, value in [*model.named_buffers(), *model.named_parameters()]}
    gradients = [one.grad.clone() for one in model.parameters()]
    modes = [one.training for one in model.modules()]
    before, drawn = copy.deepcopy(given), torch.get_rng_state()
    Ensemble(model, given).predict(DataLoader(TensorDataset(INPUTS), 10), strategy=strategy)
    now = dict([*model.named_buffers(), *model.named_parameters()])
    assert all(now[name] is one and torch.equal(one, value) for name, (one, value) in held.items())
    assert all(map(torch.equal, [one.grad for one in model.parameters()], gradients))
    assert [one.training for one in model.modules()] == modes
    assert all(map(same, given, before))
    assert torch.equal(torch.get_rng_state(), drawn)


def test_nothing_changes_between_members_or_by_an_error():
    model, given = made(Net, 9), states(varied())
    modes, drawn = [one.training for one in model.modules()], torch.get_rng_state()
    for _ in Ensemble(model, given).outputs([INPUTS]):
        assert [one.training for one in model.modules()] == modes
        assert torch.is_grad_enabled()
        assert torch.equal(torch.get_rng_state(), drawn)
    with pytest.raises(ZeroDivisionError):
        Ensemble(model, states(varied()), forward=lambda *_: 1 / 0).predict([INPUTS])
    assert [one.training for one in model.modules()] == modes
    assert torch.equal(model(INPUTS).isfinite(), torch.ones(23, 3, dtype=bool))


class Counted:
    """Members whose tensors are counted while they are alive."""

    def __init__(self, members):
        self.members, self.reads, self.alive, self.most = members, 0, 0, 0

    def __len__(self):
        return len(self.members)

    def __getitem__(self, place):
        state = copied(self.members[place])
        self.reads, self.alive = self.reads + 1, self.alive + 1
        self.most = max(self.most, self.alive)
        weakref.finalize(state["first.weight"], self.gone)
        return state

    def gone(self):
        self.alive -= 1


def test_streaming_holds_one_member_at_a_time():
    members = Counted(varied(count=6))
    close(Ensemble(Net(), members).predict(INPUTS.split(10), strategy="stream"), by_hand(members.members, INPUTS))
    assert (members.reads, members.alive) == (6, 0)
    assert members.most <= 2  # the next is read before the name of the one before is free


def test_large_members_are_streamed_without_a_probe(monkeypatch):
    import descend.ensembles.ensemble as streaming

    members = Counted(varied())
    monkeypatch.setattr(streaming, "_PROBED_BYTES", 100)
    Ensemble(Net(), members).predict([INPUTS])
    assert members.reads == 3


def test_members_are_brought_to_the_model_s_type():
    members = varied()
    wide = [{name: value.double() for name, value in state.items()} for state in states(members)]
    for strategy in STRATEGIES:
        found = Ensemble(Net(), wide).predict([INPUTS], strategy=strategy)
        assert found.dtype == torch.float32
        close(found, by_hand(members, INPUTS))


# ---- EnsembleModule --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "inputs", "dim"), CASES[:3])
@pytest.mark.parametrize("strategy", ["loop", "batched"])
@pytest.mark.parametrize("is_dynamic", [False, True])
def test_the_module_is_exported(model, inputs, dim, strategy, is_dynamic):
    members = varied(model)
    together = EnsembleModule(made(model, 9), states(members), dim=dim)
    together.strategy = strategy
    dynamic = ({0: torch.export.Dim("batch", min=2)},) if is_dynamic else None
    program = torch.export.export(together, (inputs,), dynamic_shapes=(dynamic,) if is_dynamic else None)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for part in (inputs, inputs[:5]) if is_dynamic else (inputs,):
        close(loaded(part), by_hand(members, part, dim))


@pytest.mark.parametrize("model", [Net, Tied])
def test_the_module_is_copied_saved_and_converted(model):
    members = varied(model)
    inputs = INPUTS if model is Net else torch.arange(7) % 5
    together, other = EnsembleModule(Net() if model is Net else Tied(), states(members)), varied(model, 4)[1:]
    file, expected = io.BytesIO(), by_hand(members, inputs)
    torch.save(together.state_dict(), file)
    file.seek(0)
    fresh = EnsembleModule(made(model, 8), states(other))
    fresh.load_state_dict(torch.load(file, weights_only=True))
    twin = copy.deepcopy(together)
    with torch.no_grad():
        for value in together.parameters():
            value.zero_()
    close(fresh(inputs), expected)
    close(twin(inputs), expected)
    wide = twin.train().to(torch.float64)
    for strategy in ("loop", "batched"):
        wide.strategy = strategy
        torch.testing.assert_close(wide(inputs.double() if model is Net else inputs), expected, rtol=1e-12, atol=1e-12)
    assert len(list(together.parameters())) == len(list(members[0].parameters()))
    assert all(len(value) == 3 for value in together.state_dict().values())


@pytest.mark.parametrize(("faster", "slower"), [("loop", "batched"), ("batched", "loop")])
def test_choose_takes_the_faster(monkeypatch, faster, slower):
    together, clock = EnsembleModule(Net(), states(varied())), [0.0]

    def ticking(*inputs, **named):
        clock[0] += 1.0 if together.strategy == faster else 2.0
        return EnsembleModule.forward(together, *inputs, **named)

    monkeypatch.setattr(together, "forward", ticking)
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    assert together.choose(INPUTS) == {faster: 1.0, slower: 2.0}
    assert together.strategy == faster


def test_choose_where_vmap_fails():
    together = EnsembleModule(Memory(), states(varied(Memory)))
    seconds = together.choose(CASES[3][1])
    assert seconds["batched"] == float("inf") > seconds["loop"]
    assert together.strategy == "loop"


# ---- what makes no sense ---------------------------------------------------------------------------------------------

GOOD = made().state_dict()
LACKING = {name: value for name, value in GOOD.items() if name != "last.bias"}


@pytest.mark.parametrize("make", [lambda m, s, **o: Ensemble(m, s, **o).predict([INPUTS]), EnsembleModule])
@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([], r"members is \[\]; give a list of the state dicts of one model or more"),
        (GOOD, "members is one state dict; give a list of them"),
        (iter([GOOD]), "members is .*; give a list of the state dicts"),
        ([GOOD, Net()], "a member is a Net; give state dicts, such as model.state_dict"),
        ([GOOD, LACKING], "last.bias"),
        ([GOOD, {**GOOD, "more.weight": torch.ones(2)}], "more.weight"),
        ([GOOD, {**GOOD, "last.bias": torch.ones(7)}], r"last.bias(.|\n)*7"),
    ],
)
def test_members_that_are_none(make, members, message):
    model = made()
    before = copied(model)
    with pytest.raises(ValueError, match=message):
        make(model, members)
    assert same(copied(model), before)


@pytest.mark.parametrize("make", [Ensemble, EnsembleModule])
def test_an_average_that_is_none(make):
    with pytest.raises(ValueError, match="average is 'median'; give 'softmax' for scores of classes, or 'mean'"):
        make(Net(), [GOOD], average="median")


@pytest.mark.parametrize(
    ("batches", "options", "error", "message"),
    [
        ([INPUTS], {"strategy": "fast"}, ValueError, "strategy is 'fast'; give 'auto', 'stream' or 'batched'"),
        (iter([INPUTS]), {}, ValueError, "batches is an iterator, which can be gone through once; give a list or a Da"),
        ((one for one in [INPUTS]), {"strategy": "batched"}, ValueError, "batches is an iterator"),
        ([], {}, ValueError, "batches has none; give one or more"),
        ([], {"strategy": "stream"}, ValueError, "batches has none"),
        ([], {"strategy": "batched"}, ValueError, "batches has none"),
        (
            DataLoader(TensorDataset(INPUTS), 5, shuffle=True),
            {},
            ValueError,
            "batches is shuffled, .*shuffle=False",
        ),
    ],
)
def test_batches_that_make_no_sense(batches, options, error, message):
    with pytest.raises(error, match=message):
        Ensemble(Net(), [GOOD, GOOD]).predict(batches, **options)


class Shrinking:
    """Has fewer batches in every pass."""

    passes = 0

    def __iter__(self):
        self.passes += 1
        return iter([INPUTS] * (4 - self.passes))


def test_passes_that_differ_and_outputs_that_are_no_tensor():
    with pytest.raises(ValueError, match=r"outputs of shape \(69, 3\) at first and \(46, 3\) later; give the same"):
        Ensemble(Net(), [GOOD, GOOD]).predict(Shrinking(), strategy="stream")
    for strategy in STRATEGIES:
        pair = Ensemble(Net(), [GOOD], forward=lambda model, batch: (model(batch), 1))
        if strategy != "batched":
            with pytest.raises(TypeError, match="the model gave a tuple; an ensemble averages one tensor: give"):
                pair.predict([INPUTS], strategy=strategy)
    with pytest.raises(ValueError, match="batches is an iterator"):
        next(pair.outputs(iter([INPUTS])))


def test_low_precision_is_averaged_in_float32():
    members = [made(Net, seed).bfloat16() for seed in range(9)]
    inputs = INPUTS.bfloat16()
    with torch.no_grad():
        each = torch.stack([member.eval()(inputs).float().softmax(-1) for member in members])
    found = Ensemble(made(Net, 9).bfloat16(), states(members)).predict([inputs], strategy="stream")
    torch.testing.assert_close(found, each.mean(0))
    assert found.dtype == torch.float32


@pytest.mark.parametrize("batches", [INPUTS, {"x": INPUTS}])
def test_one_batch_is_no_list_of_batches(batches):
    with pytest.raises(ValueError, match=r"give a list of batches, such as \[inputs\]"):
        Ensemble(made(Net, 9), states(varied())).predict(batches)
