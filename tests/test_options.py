"""An optimizer's own options: clipping, gradient scales, averages of the weights, types of state, random rounding."""

import copy
import inspect
import io
import pickle
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import descend
from descend import arguments, options, schedules
from descend.backends import portions
from descend.backends.random_bits import stochastically
from descend.rule import RESERVED, Slot, rule
from optimizers import ROWS, gradients, parameters, relative_difference, train

all_rows = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def clones(tensors):
    return [x.detach().clone().requires_grad_(x.requires_grad) for x in tensors]


def stepped(optimizer, params, steps, scale=1.0, clip=None):
    """Take steps with the usual gradients times `scale`, clipped by `clip` as a user of torch does."""
    for step in steps:
        for p, g in zip(params, gradients(step, params), strict=True):
            p.grad = g * scale
        if clip is not None:
            clip(params)
        optimizer.step()
    return params


# --- what options may be --------------------------------------------------------------------------------------------

BAD = [
    ({"backend": "fast"}, ValueError, "backend must be one of auto, eager"),
    ({"state_dtype": torch.int32}, ValueError, "state_dtype must be one of torch.float64, torch.float32"),
    ({"state_dtype": "float32"}, ValueError, "or None for the parameter's, not 'float32'"),
    ({"stochastic_rounding": 1}, TypeError, "stochastic_rounding takes True or False"),
    ({"clip_norm": 0.0}, ValueError, "clip_norm must be above 0"),
    ({"clip_norm": -1}, ValueError, "clip_norm must be above 0"),
    ({"clip_norm": float("nan")}, ValueError, "clip_norm must be above 0"),
    ({"clip_norm": True}, TypeError, "clip_norm takes a plain number or None"),
    ({"clip_norm": "1"}, TypeError, "no schedule or tensor, not '1'"),
    ({"clip_norm": schedules.cosine(3)}, TypeError, "clip_norm takes a plain number or None"),
    ({"clip_value": 0}, ValueError, "clip_value must be above 0"),
    ({"clip_value": torch.tensor(1.0)}, TypeError, "clip_value takes a plain number or None"),
    ({"ema_decay": 1.0}, ValueError, "ema_decay must lie in [0, 1)"),
    ({"ema_decay": -0.1}, ValueError, "ema_decay must lie in [0, 1)"),
    ({"ema_decay": float("nan")}, ValueError, "ema_decay must lie in [0, 1)"),
    ({"ema_decay": "0.9"}, TypeError, "ema_decay takes a plain number or None"),
    ({"seed": 1.0}, TypeError, "seed takes an int"),
    ({"seed": True}, TypeError, "seed takes an int"),
    ({"seed": -1}, ValueError, "seed must lie in [0, 2**64)"),
    ({"stochastic_rounding": True, "differentiable": True}, RuntimeError, "leave one of them unset"),
]


@pytest.mark.parametrize(("bad", "error", "message"), BAD, ids=lambda x: str(x) if isinstance(x, dict) else "")
def test_bad_options_are_named(bad, error, message):
    with pytest.raises(error, match=re.escape(message)):
        descend.AdamW(parameters(), **bad)


def test_infinite_limits_and_no_decay_are_allowed():
    descend.AdamW(parameters(), clip_norm=float("inf"), clip_value=float("inf"), ema_decay=0)


def test_options_stand_on_the_optimizer_and_not_in_groups():
    optimizer = descend.AdamW(parameters(), clip_norm=2.0, seed=3)
    assert (optimizer.options.clip_norm, optimizer.options.seed, optimizer.options.ema_decay) == (2.0, 3, None)
    assert not arguments.OPTIONS.keys() & optimizer.param_groups[0].keys()
    for name in arguments.OPTIONS:
        with pytest.raises(TypeError, match=f"{name} is an option of the whole optimizer"):
            descend.AdamW([{"params": parameters(), name: 1}])


def test_one_list_of_options():
    signature = inspect.signature(descend.Optimizer.__init__).parameters
    assert {name: signature[name].default for name in arguments.OPTIONS} == arguments.OPTIONS
    assert list(arguments.OPTIONS) == [name for name in signature if name in arguments.OPTIONS]
    for row in ROWS:
        taken = inspect.signature(row.ours).parameters
        assert {name: taken[name].default for name in arguments.OPTIONS} == arguments.OPTIONS
    assert arguments.OPTIONS.keys() <= RESERVED


def test_copies_keep_the_options():
    optimizer = descend.AdamW(parameters(), clip_norm=2.0, ema_decay=0.5, state_dtype=torch.float64, seed=3)
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert other.options == optimizer.options


@pytest.mark.parametrize("slots", [{"weights_average": Slot("other")}, {"m": Slot("ema")}])
def test_a_rule_with_a_slot_like_the_average_is_refused(slots):
    name, slot = next(iter(slots.items()))
    source = f"def keeps(p, g, {name}=slot, *, lr=0.1):\n    return dict(p=p - lr * g, {name}={name} + g)\n"
    scope = {"slot": slot}
    exec(source, scope)
    keeps = descend.Rule(scope["keeps"])
    descend.Optimizer(parameters(), keeps)
    with pytest.raises(ValueError, match="rename the slot and its key"):
        descend.Optimizer(parameters(), keeps, ema_decay=0.9)
    optimizer = descend.AdamW(parameters(), ema_decay=0.9)
    with pytest.raises(ValueError, match="rename the slot and its key"):
        optimizer.add_param_group({"params": parameters(1), "rule": keeps})
    assert len(optimizer.param_groups) == 1


def test_explain_names_the_options_in_force():
    p = parameters()
    optimizer = descend.AdamW(p, clip_norm=1.5, ema_decay=0.9, state_dtype=torch.float64)
    train(optimizer, p, range(1))
    said = optimizer.explain()
    for part in ("clip_norm=1.5", "ema_decay=0.9", "state_dtype=torch.float64", "state 640 bytes", "state 24 bytes"):
        assert part in said, said
    assert "clip_value" not in said
    assert "options" not in descend.AdamW(p).explain()


# --- the formula ----------------------------------------------------------------------------------------------------


def test_an_extended_formula_is_made_once_and_keeps_the_author_s_names():
    formula = descend.rules.adamw.formula(maximize=True)
    names = ("gradient_scale", "clip_value", "clip_coefficient", "ema_decay")
    made = options.extended(formula, names, torch.bfloat16)
    assert made is options.extended(formula, set(names), torch.bfloat16)
    assert made is not options.extended(formula, names)
    assert options.extended(formula, ()) is formula
    assert [name for name, _ in made.bindings] == [name for name, _ in formula.bindings]
    assert any(node is dict(made.bindings)["v_hat"] for node in made.nodes)
    assert list(made.outputs) == [*formula.outputs, "weights_average"]
    assert {slot.dtype for slot in made.slots.values()} == {"bfloat16"}


def test_a_fresh_slot_is_settled_in_an_extended_formula():
    made = options.extended(descend.rules.sgd.formula(momentum=0.9), ("clip_value", "ema_decay"))
    first, later = made.settle(made.asks_fresh), made.settle(frozenset())
    assert not any(node.op == "fresh" for node in (*first.nodes, *later.nodes))
    assert "weights_average" in first.slots
    assert dict(first.bindings).keys() == dict(made.bindings).keys()


def test_reductions_of_a_rule_see_the_gradient_clipped(float64):
    @rule
    def by_norm(p, g, *, lr=0.1):
        return dict(p=p - lr * g / descend.global_norm(g))

    p, q = parameters(), parameters()
    ours = descend.Optimizer(p, by_norm, clip_value=0.3)
    stepped(ours, p, range(3))
    for step in range(3):
        grads = [g.clamp(-0.3, 0.3) for g in gradients(step, q)]
        norm = torch.cat([g.reshape(-1) for g in grads]).norm()
        q = [x.detach() - 0.1 * g / norm for x, g in zip(q, grads, strict=True)]
    assert relative_difference(p, q) < 1e-13


# --- all rules, all options -----------------------------------------------------------------------------------------


def oracle(row, params, steps, chosen, maximize, decay):
    """Torch's class, or the published rule, on gradients clipped by torch, with averages in a plain loop."""
    params = clones(params)
    averages = clones(params)
    twin = row.twin(params, maximize=maximize, **chosen) if row.twin else None
    states = [{} for _ in params]
    for step in steps:
        for p, g in zip(params, gradients(step, params), strict=True):
            p.grad = g.clone()
        nn.utils.clip_grad_value_(params, 0.8)
        nn.utils.clip_grad_norm_(params, 1.5)
        if twin is not None:
            twin.step()
        elif row.looks_at_all:
            grads = [-p.grad if maximize else p.grad for p in params]
            for p, new in zip(
                params, row.reference([p.detach() for p in params], grads, states[0], step + 1, **chosen), strict=True
            ):
                p.data = new
        else:
            for p, s in zip(params, states, strict=True):
                g = -p.grad if maximize else p.grad
                p.data = row.reference(p.detach(), g, s, step + 1, **chosen)
        averages = [decay * a.detach() + (1 - decay) * p.detach() for a, p in zip(averages, params, strict=True)]
    return params, averages


@pytest.mark.parametrize("maximize", [False, True])
@all_rows
def test_every_rule_with_scale_clipping_and_average(row, maximize, float64):
    p = parameters()
    theirs, averages = oracle(row, p, range(5), {"lr": 0.02}, maximize, 0.7)
    ours = row.ours(p, lr=0.02, maximize=maximize, clip_value=0.8, clip_norm=1.5, ema_decay=0.7)
    ours.grad_scale = torch.tensor(1024.0)
    stepped(ours, p, range(5), scale=1024.0)
    assert relative_difference(p, theirs) < 1e-12
    assert relative_difference([ours.state[x]["ema"] for x in p], averages) < 1e-12


@pytest.mark.parametrize(
    "limits", [(0.01, None), (3.0, None), (1e9, None), (float("inf"), None), (None, 0.1), (2, 0.5)]
)
@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_clipping_is_torch_s_followed_by_torch_s_step(name, limits, float64):
    norm, value = limits

    def clip(params):
        if value is not None:
            nn.utils.clip_grad_value_(params, value)
        if norm is not None:
            nn.utils.clip_grad_norm_(params, norm)

    p, q = parameters(), parameters()
    stepped(getattr(descend, name)(p, lr=0.1, clip_norm=norm, clip_value=value), p, range(6))
    stepped(getattr(torch.optim, name)(q, lr=0.1), q, range(6), clip=clip)
    assert relative_difference(p, q) < 1e-13


def test_gradients_are_not_written():
    p = parameters()
    ours = descend.AdamW(p, clip_norm=0.1, clip_value=0.1)
    ours.grad_scale = torch.tensor(8.0)
    stepped(ours, p, range(1))
    assert all(torch.equal(x.grad, g) for x, g in zip(p, gradients(0, p), strict=True))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_makes_what_it_makes_in_torch(bad):
    p, q = parameters(), parameters()
    for params in (p, q):
        for x, g in zip(params, gradients(0, params), strict=True):
            x.grad = g
        params[0].grad[0, 0] = bad
    nn.utils.clip_grad_norm_(q, 1.0)
    descend.SGD(p, lr=0.1, clip_norm=1.0).step()
    torch.optim.SGD(q, lr=0.1).step()
    assert all(torch.equal(a.isnan(), b.isnan()) for a, b in zip(p, q, strict=True))
    assert p[0].isnan().any()


def test_a_step_without_gradients_or_with_zero_ones_clips_nothing():
    p = parameters()
    before = clones(p)
    optimizer = descend.SGD(p, lr=0.1, clip_norm=1.0)
    optimizer.step()
    for x in p:
        x.grad = torch.zeros_like(x)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(p, before, strict=True))


@given(
    st.lists(st.integers(0, 3), min_size=4, max_size=4).map(sorted),
    st.lists(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]), min_size=4, max_size=4),
)
def test_clip_norm_does_not_depend_on_groups(places, dtypes):
    """However the parameters are cut into groups, and these into buckets by type, not a bit changes."""

    def trained(places):
        params = parameters()
        for p, dtype in zip(params, dtypes, strict=True):
            p.data = p.data.to(dtype)
        groups = [[p for p, place in zip(params, places, strict=True) if place == k] for k in range(4)]
        optimizer = descend.SGD([{"params": group} for group in groups if group], lr=0.1, momentum=0.9, clip_norm=0.7)
        return stepped(optimizer, params, range(3))

    assert all(torch.equal(a, b) for a, b in zip(trained([0] * 4), trained(places), strict=True))


def test_squares_are_added_in_the_order_of_parameters_whatever_the_buckets():
    generator = torch.Generator().manual_seed(0)
    squares = list((1e6 * torch.rand(50, generator=generator, dtype=torch.float64) ** 9).unbind())
    whole = options.clip_coefficient(0.5, [dict(enumerate(squares))])
    for seed in range(20):
        order = torch.randperm(50, generator=torch.Generator().manual_seed(seed)).tolist()
        buckets = [{i: squares[i] for i in order[:seed]}, {i: squares[i] for i in order[seed:]}]
        assert options.clip_coefficient(0.5, buckets) == whole


def test_clip_norm_runs_over_groups_of_different_rules(float64):
    p, q = parameters(), parameters()
    ours = descend.AdamW(
        [{"params": p[:2]}, {"params": p[2:], "rule": descend.rules.sgd, "lr": 0.5, "weight_decay": 0}],
        lr=0.1,
        clip_norm=0.4,
    )
    stepped(ours, p, range(3))
    first, second = torch.optim.AdamW(q[:2], lr=0.1), torch.optim.SGD(q[2:], lr=0.5)
    for step in range(3):
        for x, g in zip(q, gradients(step, q), strict=True):
            x.grad = g
        nn.utils.clip_grad_norm_(q, 0.4)
        first.step()
        second.step()
    assert relative_difference(p, q) < 1e-13


def test_complex_gradients_are_clipped_by_their_norm():
    p = torch.tensor([1 + 2j, -3j], dtype=torch.complex128, requires_grad=True)
    q = p.detach().clone().requires_grad_()
    for x in (p, q):
        x.grad = torch.tensor([3 - 1j, 2 + 2j], dtype=torch.complex128)
    nn.utils.clip_grad_norm_([q], 1.0)
    torch.optim.SGD([q], lr=0.1).step()
    descend.SGD([p], lr=0.1, clip_norm=1.0, state_dtype=torch.float32, ema_decay=0.5).step()
    assert torch.allclose(p, q, rtol=1e-13)


# --- gradient scales ------------------------------------------------------------------------------------------------


def scaled_training(make, dtype, *, unscale=False, clip=None):
    """Six scaled steps, the third with an infinite gradient; small scales so that growth and backoff both happen."""
    p = parameters(dtype=dtype)
    optimizer = make(p)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=2)
    scales = []
    for step in range(6):
        for x, g in zip(p, gradients(step, p), strict=True):
            x.grad = scaler.scale(g.float()).to(dtype)
        if step == 2:
            p[0].grad[0, 0] = float("inf")
        if unscale:
            scaler.unscale_(optimizer)
        if clip:
            nn.utils.clip_grad_norm_(p, clip)
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return p, scales, optimizer


@pytest.mark.parametrize(
    ("dtype", "tolerance", "unscale"),
    [(torch.float32, 2e-6, False), (torch.float32, 2e-6, True), (torch.float16, 2e-3, False)],  # torch unscales no half
)
def test_a_gradient_scaler_steps_as_with_torch_s_fused_adamw(dtype, tolerance, unscale):
    ours, our_scales, optimizer = scaled_training(lambda p: descend.AdamW(p, lr=0.01), dtype, unscale=unscale)
    theirs, their_scales, _ = scaled_training(
        lambda p: torch.optim.AdamW(p, lr=0.01, fused=True), dtype, unscale=unscale
    )
    assert our_scales == their_scales
    assert len(set(our_scales)) > 1
    assert relative_difference(ours, theirs) < tolerance
    assert optimizer.applied_steps == 5
    assert all(optimizer.state[x]["step"] == 5 for x in ours)


def test_the_norm_is_that_of_the_unscaled_gradients():
    ours, *_ = scaled_training(lambda p: descend.AdamW(p, lr=0.01, clip_norm=0.5), torch.float32)
    theirs, *_ = scaled_training(lambda p: torch.optim.AdamW(p, lr=0.01), torch.float32, unscale=True, clip=0.5)
    assert relative_difference(ours, theirs) < 2e-6


def test_a_skipped_step_changes_nothing():
    p = parameters()
    optimizer = descend.AdamW(p, lr=0.1 * schedules.linear(10), ema_decay=0.5)
    before = clones(p)
    for x, g in zip(p, gradients(0, p), strict=True):
        x.grad = g
    optimizer.found_inf = torch.tensor(1.0)
    assert optimizer.step(lambda: 3.0) == 3.0
    assert all(torch.equal(a, b) for a, b in zip(p, before, strict=True))
    assert not optimizer.state
    assert (optimizer.applied_steps, optimizer.param_groups[0]["lr"]) == (0, 0.1)
    optimizer.found_inf = torch.tensor(0.0)
    optimizer.step()
    assert optimizer.applied_steps == 1


def test_gradients_flow_through_scale_and_clipping(float64):
    """The step, differentiated with respect to the gradient and its scale, is the derivative that differences give."""

    def after(gradient, scale, clip_norm):
        p = torch.tensor([1.0, -2.0, 0.5], requires_grad=True).clone()
        p.grad = gradient
        optimizer = descend.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, differentiable=True, clip_norm=clip_norm)
        optimizer.param_groups[0]["params"] = [p]
        optimizer.grad_scale = scale
        optimizer.step()
        return p

    gradient = torch.tensor([3.0, -1.0, 2.0], requires_grad=True)
    scale = torch.tensor(2.0, requires_grad=True)
    for clip_norm in (0.3, 100.0, None):
        assert torch.autograd.gradcheck(lambda g, s, c=clip_norm: after(g, s, c), (gradient, scale))
    flat = torch.zeros(3, requires_grad=True)
    (slope,) = torch.autograd.grad(after(flat, scale, 0.3).sum(), flat)
    assert slope.isfinite().all()


# --- the average of the weights -------------------------------------------------------------------------------------


def test_the_average_is_that_of_the_new_weights(float64):
    p = parameters()
    optimizer = descend.AdamW(p, lr=0.1, ema_decay=0.9)
    averages = clones(p)
    for step in range(7):
        stepped(optimizer, p, range(step, step + 1))
        averages = [0.9 * a.detach() + 0.1 * x.detach() for a, x in zip(averages, p, strict=True)]
    weights = clones(p)
    with optimizer.averaged():
        assert relative_difference(p, averages) < 1e-14
    assert all(torch.equal(a, b) for a, b in zip(p, weights, strict=True))


def interrupted(params, weights):
    assert not any(torch.equal(a, b) for a, b in zip(params, weights, strict=True))
    raise KeyError


@pytest.mark.parametrize("state_dtype", [None, torch.float32, torch.float64])
def test_weights_come_back_bit_for_bit_after_an_error(state_dtype):
    p = parameters(dtype=torch.bfloat16)
    optimizer = descend.SGD(p, lr=0.1, ema_decay=0.5, state_dtype=state_dtype)
    stepped(optimizer, p, range(3))
    weights, averages = clones(p), [optimizer.state[x]["ema"].clone() for x in p]
    with pytest.raises(KeyError), optimizer.averaged():
        interrupted(p, weights)
    assert all(torch.equal(a, b) for a, b in zip(p, weights, strict=True))
    assert all(torch.equal(optimizer.state[x]["ema"], a) for x, a in zip(p, averages, strict=True))
    stepped(optimizer, p, range(3, 4))


def test_a_parameter_without_an_average_keeps_its_weights():
    p = parameters()
    optimizer = descend.SGD(p, lr=0.1, ema_decay=0.5)
    p[0].grad = torch.ones_like(p[0])
    optimizer.step()
    before = clones(p)
    with optimizer.averaged():
        assert not torch.equal(p[0], before[0])
        assert all(torch.equal(a, b) for a, b in zip(p[1:], before[1:], strict=True))


def test_misuse_of_the_average_raises():
    p = parameters()
    with pytest.raises(RuntimeError, match="build it with ema_decay"), descend.SGD(p).averaged():
        pass
    optimizer = descend.SGD(p, lr=0.1, ema_decay=0.5)
    stepped(optimizer, p, range(2))
    with optimizer.averaged():
        inside = clones(p)
        with pytest.raises(RuntimeError, match="then step"):
            optimizer.step()
        with pytest.raises(RuntimeError, match="leave the outer"), optimizer.averaged():
            pass
        assert all(torch.equal(a, b) for a, b in zip(p, inside, strict=True))
    optimizer.step()


# --- types of state -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state_dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_is_stored_in_its_type_and_calculated_in_the_parameter_s(dtype, state_dtype):
    p = parameters(dtype=dtype)
    q, stored = [x.detach().clone() for x in p], [torch.zeros(x.shape, dtype=state_dtype) for x in p]
    optimizer = descend.SGD(p, lr=0.1, momentum=0.9, dampening=0.2, state_dtype=state_dtype)
    stepped(optimizer, p, range(4))
    for step in range(4):
        for i, g in enumerate(gradients(step, q)):
            new = g.float() if step == 0 else stored[i].float() * 0.9 + g.float() * (1 - 0.2)
            q[i], stored[i] = (q[i].float() - 0.1 * new).to(dtype), new.to(state_dtype)
    held = [optimizer.state[x]["momentum_buffer"] for x in p]
    assert {x.dtype for x in held} == {state_dtype}
    tolerance = 4 * max(torch.finfo(dtype).eps, torch.finfo(state_dtype).eps)
    assert relative_difference([x.double() for x in held], [x.double() for x in stored]) < tolerance
    assert relative_difference([x.double() for x in p], [x.double() for x in q]) < tolerance


@all_rows
def test_every_rule_keeps_its_state_in_the_type_asked_for(row):
    p = parameters()
    optimizer = row.ours(p, lr=0.01, state_dtype=torch.float64, ema_decay=0.5)
    stepped(optimizer, p, range(3))
    for x in p:
        slots = {k: v.dtype for k, v in optimizer.state[x].items() if v.shape == x.shape and x.ndim}
        assert set(slots.values()) <= {torch.float64}
        assert not x.ndim or "ema" in slots


def test_a_slot_with_a_type_of_its_own_keeps_it():
    @rule
    def two(p, g, m=Slot("m", dtype="float64"), n=Slot("n"), a=Slot("a", init="p", dtype="float64"), *, lr=0.1):
        m, n = m + g, n + g
        return dict(p=p - lr * (m + n), m=m, n=n, a=(a + p) / 2)

    p = parameters()
    optimizer = descend.Optimizer(p, two, state_dtype=torch.bfloat16)
    stepped(optimizer, p, range(2))
    kinds = {"m": torch.float64, "n": torch.bfloat16, "a": torch.float64}
    assert {k: v.dtype for k, v in optimizer.state[p[0]].items()} == kinds


def test_loaded_state_takes_the_type_asked_for():
    p = parameters()
    narrow = descend.AdamW(p, ema_decay=0.5)
    stepped(narrow, p, range(2))
    q = clones(p)
    wide = descend.AdamW(q, ema_decay=0.5, state_dtype=torch.float64)
    wide.load_state_dict(narrow.state_dict())
    for x, y in zip(p, q, strict=True):
        for key in ("exp_avg", "exp_avg_sq", "ema"):
            assert wide.state[y][key].dtype is torch.float64
            assert torch.equal(wide.state[y][key], narrow.state[x][key].double())
        assert wide.state[y]["step"].dtype is torch.float32
    narrow.load_state_dict(wide.state_dict())  # which asks for no type: nothing is lost
    assert narrow.state[p[0]]["exp_avg"].dtype is torch.float64
    asking = descend.AdamW(p, state_dtype=torch.float32)
    asking.load_state_dict(wide.state_dict())
    assert asking.state[p[0]]["exp_avg"].dtype is torch.float32


def test_parameters_whose_state_has_different_types_step_side_by_side(float64):
    p, q = parameters(), parameters()
    ours, theirs = descend.AdamW(p, lr=0.1), torch.optim.AdamW(q, lr=0.1)
    stepped(ours, p, range(2))
    stepped(theirs, q, range(2))
    ours.state[p[1]]["exp_avg"] = ours.state[p[1]]["exp_avg"].float()
    theirs.state[q[1]]["exp_avg"] = theirs.state[q[1]]["exp_avg"].float().double()
    stepped(ours, p, range(2, 3))
    stepped(theirs, q, range(2, 3))
    assert ours.state[p[1]]["exp_avg"].dtype is torch.float32
    assert relative_difference(p, q) < 1e-13


# --- random rounding ------------------------------------------------------------------------------------------------


def test_small_updates_survive_in_the_mean_and_are_lost_without():
    """4,000 weights of 1 take steps of a fiftieth of what bfloat16 tells apart."""
    step, n, steps = 2**-8 / 25, 4000, 50
    for stochastic in (False, True):
        p = torch.full((n,), 1.0, dtype=torch.bfloat16, requires_grad=True)
        p.grad = torch.full((n,), -1.0, dtype=torch.bfloat16)
        optimizer = descend.SGD([p], lr=step, stochastic_rounding=stochastic)
        for _ in range(steps):
            optimizer.step()
        moved = (p.double() - 1).mean().item()
        if not stochastic:
            assert moved == 0
            continue
        spread = 2**-7 * (steps * 0.02 / n) ** 0.5  # a step goes up by 2**-7 with probability near 0.02
        assert abs(moved - steps * step) < 5 * spread


def test_random_rounding_is_that_of_seed_clock_place_and_name():
    frozen, p = torch.zeros(3, requires_grad=True), torch.linspace(1, 2, 600, requires_grad=True)
    q = p.detach().bfloat16().requires_grad_()
    q.grad = torch.linspace(-1, 1, 600).bfloat16()
    optimizer = descend.SGD([frozen, q], lr=0.01, momentum=0.9, stochastic_rounding=True, seed=11, step=5)
    before = q.detach().clone()
    optimizer.step()
    momentum = stochastically(q.grad.float(), seed=11, step=5, ordinal=1, site=1)
    weights = stochastically(before.float() - 0.01 * q.grad.float(), seed=11, step=5, ordinal=1, site=0)
    assert torch.equal(optimizer.state[q]["momentum_buffer"], momentum)
    assert (q.detach() == weights).double().mean() > 0.99  # a contracted product may round elsewhere


def test_portions_round_as_the_whole_does(monkeypatch):
    def trained():
        p = [x.repeat(40).detach().requires_grad_() for x in parameters(dtype=torch.bfloat16)[1:2]]
        p += parameters(dtype=torch.bfloat16)
        optimizer = descend.AdamW(p, lr=0.01, stochastic_rounding=True, ema_decay=0.9)
        stepped(optimizer, p, range(3))
        return [*p, *(v for x in p for v in optimizer.state[x].values())]

    whole = trained()
    monkeypatch.setattr(portions, "PORTION", 7)
    assert all(torch.equal(a, b) for a, b in zip(whole, trained(), strict=True))


def test_elements_are_numbered_in_the_order_of_the_parameter_s_memory():
    """Two layouts of one list of values in memory are rounded alike, whatever strides a rule's result has."""

    @rule
    def thirds(p, g, *, lr=0.1):
        return dict(p=0 * p + lr / 3)

    @rule
    def third(p, g, *, lr=0.1):
        return dict(p=lr / 3)

    p = torch.zeros(2, 3, 4, 5, dtype=torch.bfloat16).to(memory_format=torch.channels_last).requires_grad_()
    q = torch.zeros(2, 4, 5, 3, dtype=torch.bfloat16, requires_grad=True)
    for x, chosen in [(p, third), (q, thirds)]:
        x.grad = torch.ones_like(x)
        descend.Optimizer([x], chosen, stochastic_rounding=True).step()
    assert len(q.detach().unique()) == 2
    assert torch.equal(p.permute(0, 2, 3, 1), q)


def test_seeds_differ_and_float32_is_left_alone():
    def trained(dtype, **chosen):
        p = parameters(dtype=dtype)
        return stepped(descend.AdamW(p, lr=0.01, **chosen), p, range(3))

    def same(a, b):
        return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))

    first = trained(torch.bfloat16, stochastic_rounding=True)
    assert same(first, trained(torch.bfloat16, stochastic_rounding=True))
    assert not same(first, trained(torch.bfloat16, stochastic_rounding=True, seed=1))
    assert same(trained(torch.float32), trained(torch.float32, stochastic_rounding=True))


def test_reductions_and_scalar_values_are_rounded_too():
    """A rule that is computed whole before it is written, and one that assigns a number to all elements."""

    @rule
    def level(p, g, *, lr=0.1):
        return dict(p=0 * g + lr / 3 + 0 * descend.norm(g))

    p = torch.zeros(2000, dtype=torch.bfloat16, requires_grad=True)
    p.grad = torch.ones(2000, dtype=torch.bfloat16)
    descend.Optimizer([p], level, stochastic_rounding=True).step()
    near = torch.tensor(0.1 / 3).bfloat16()
    assert len(p.detach().unique()) == 2
    assert near in p.detach()
    assert abs(p.detach().double().mean() - 0.1 / 3) < 5 * 2**-13 / 2000**0.5


# --- everything together --------------------------------------------------------------------------------------------

EVERYTHING = dict(clip_norm=0.5, clip_value=0.4, ema_decay=0.8, stochastic_rounding=True, seed=7)


@pytest.mark.parametrize("state_dtype", [None, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["AdamW", "SGD", "NAdam", "Rprop"])
def test_training_resumes_bit_for_bit_with_all_options(name, dtype, state_dtype):
    def made(p):
        chosen = {"momentum": 0.9} if name == "SGD" else {}
        lr = 0.02 if name == "Rprop" else 0.02 * schedules.cosine(9)
        return getattr(descend, name)(p, lr=lr, state_dtype=state_dtype, **chosen, **EVERYTHING)

    whole = parameters(dtype=dtype)
    uninterrupted = made(whole)
    stepped(uninterrupted, whole, range(9))
    begun = parameters(dtype=dtype)
    first = made(begun)
    stepped(first, begun, range(4))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    resumed = clones(begun)
    second = made(resumed)
    second.load_state_dict(torch.load(file, weights_only=True))
    stepped(second, resumed, range(4, 9))
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))
    for x, y in zip(whole, resumed, strict=True):
        assert uninterrupted.state[x].keys() == second.state[y].keys()
        for key, value in uninterrupted.state[x].items():
            assert value.dtype is second.state[y][key].dtype
            assert torch.equal(value, second.state[y][key])


def test_a_step_that_fails_leaves_everything_as_it_was():
    p = parameters()
    optimizer = descend.AdamW(p, lr=0.01, **EVERYTHING)
    stepped(optimizer, p, range(2))
    weights, state = clones(p), copy.deepcopy(optimizer.state_dict())
    optimizer.param_groups[0]["lr"] = float("nan")
    with pytest.raises(ValueError, match="Invalid learning rate"):
        stepped(optimizer, p, range(2, 3))
    optimizer.param_groups[0]["lr"] = 0.01
    assert all(torch.equal(a, b) for a, b in zip(p, weights, strict=True))
    for index, entry in state["state"].items():
        assert all(torch.equal(v, optimizer.state_dict()["state"][index][k]) for k, v in entry.items())
    assert optimizer.applied_steps == 2


def test_tensor_rates_and_capturable_go_with_all_options(float64):
    p, q = parameters(), parameters()
    chosen = dict(clip_norm=0.5, clip_value=0.4, ema_decay=0.8)
    plain = descend.AdamW(p, lr=0.02, **chosen)
    tensors = descend.AdamW(q, lr=torch.tensor(0.02), capturable=True, foreach=False, **chosen)
    stepped(plain, p, range(4))
    stepped(tensors, q, range(4))
    assert relative_difference(p, q) < 1e-14
    assert relative_difference([plain.state[x]["ema"] for x in p], [tensors.state[x]["ema"] for x in q]) < 1e-14
