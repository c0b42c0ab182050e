"""Our schedules resume bit for bit, in whatever order model, optimizer, schedule and state come back.

The oracle is the run that was never broken off: the same numbers in the groups before every step, the same bits of
weights and state after the last.
"""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import descend
from descend import rules, schedules
from descend.schedules import constant, cosine, cyclical, function, linear, restart, warmup
from fused_optimizers import needs_kernels
from optimizers import gradients, parameters, train
from resuming import RATE, after_three, saved

STEPS = 18


class Model(nn.Module):
    """The parameters of the conformance table, in a model with a state dict."""

    def __init__(self, seed=0, dtype=None):
        super().__init__()
        self.weights = nn.ParameterList(parameters(seed, dtype))


def rate(params, **options):
    return descend.AdamW(params, lr=RATE, **options)


def everything(params, **options):
    betas = (linear(10, 0.95, 0.85), 0.99)
    return descend.AdamW(params, lr=RATE, betas=betas, weight_decay=0.3 * cyclical(9, periods=2.5), **options)


def restarts(params, **options):
    """Momentum is 0 for four steps, and kept none the less, since a schedule drives it."""
    momentum = function(after_three)
    return descend.SGD(params, lr=0.05 * restart(16, periods=4), momentum=momentum, **options)


def groups(params, **options):
    params = list(params)
    own = [{"params": params[:1], "lr": 0.1 * linear(30)}, {"params": params[1:3], "weight_decay": constant(0.1)}]
    return descend.NAdam([*own, {"params": params[3:], "lr": 0.02}], lr=RATE, **options)


def two_rules(params, **options):
    params = list(params)
    lion = {"params": params[:2], "rule": rules.lion, "betas": (0.9, linear(12, 0.9, 0.99)), "lr": 0.01 * cosine(15)}
    return descend.RMSprop([lion, {"params": params[2:]}], lr=0.1 * RATE, momentum=0.9, **options)


def with_options(params, **options):
    return descend.Adam(
        params, lr=RATE, ema_decay=0.9, clip_norm=1.0, stochastic_rounding=True, state_dtype=torch.bfloat16, **options
    )


def captured(params, **options):
    """The rates are tensors, as graphs that were captured read them."""
    params = list(params)
    own = {"params": params[:2], "lr": 0.01 * linear(30)}
    return descend.Adam([own, {"params": params[2:]}], lr=RATE, capturable=True, **{**options, "backend": "eager"})


SETUPS = [rate, everything, restarts, groups, two_rules, with_options, captured]
all_setups = pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: setup.__name__)
backends = pytest.mark.parametrize("backend", [pytest.param("cpp", marks=needs_kernels), "eager"])


def numbers(optimizer):
    """What the groups hold for the next step."""
    held = [{k: v for k, v in group.items() if k not in ("params", "param_names")} for group in optimizer.param_groups]
    return copy.deepcopy(held)


def advance(optimizer, model, steps):
    """Some parameters have no gradient on some steps, so that their own counts lag behind the clock."""
    trace, params = [], list(model.parameters())
    for step in steps:
        trace.append(numbers(optimizer))
        for i, (p, g) in enumerate(zip(params, gradients(step, params), strict=True)):
            p.grad = None if i % 2 and (step + i) % 4 == 0 else g
        optimizer.step()
    return trace


def bits(optimizer, model):
    """Weights and state, in order."""
    return [(p.detach(), dict(optimizer.state[p])) for p in model.parameters()]


def assert_same(run, expected):
    (optimizer, model, trace), (other, whole, its_trace) = run, expected
    assert trace == its_trace[len(its_trace) - len(trace) :]
    assert numbers(optimizer) == numbers(other)
    for (p, state), (q, its_state) in zip(bits(optimizer, model), bits(other, whole), strict=True):
        assert p.dtype is q.dtype
        assert torch.equal(p, q)
        assert state.keys() == its_state.keys()
        for key, value in state.items():
            assert value.dtype is its_state[key].dtype, key
            assert torch.equal(value, its_state[key]), key


def uninterrupted(setup, backend, steps=STEPS, dtype=None):
    model = Model(dtype=dtype)
    optimizer = setup(model.parameters(), backend=backend)
    return optimizer, model, advance(optimizer, model, range(steps))


def copied(how, optimizer, model):
    return copy.deepcopy((optimizer, model)) if how == "deepcopy" else pickle.loads(pickle.dumps((optimizer, model)))


def rebuilt(setup, backend, checkpoint, events, dtype=None):
    """Model and optimizer made anew from a checkpoint by these events, in this order."""
    model, optimizer = Model(seed=9, dtype=dtype), None
    for event in events:
        if event == "weights":
            model.load_state_dict(checkpoint["model"])
        elif event == "replaced weights":
            model.load_state_dict(copy.deepcopy(checkpoint["model"]), assign=optimizer is None)
        elif event == "build":
            optimizer = setup(model.parameters(), backend=backend)
        elif event == "state":
            optimizer.load_state_dict(checkpoint["optimizer"])
        elif event == "train":
            advance(optimizer, model, range(50, 53))
        else:
            optimizer, model = copied(event, optimizer, model)
    return optimizer, model


WEIGHTS = st.sampled_from(["weights", "replaced weights"])
COPY = st.sampled_from(["deepcopy", "pickle"])


@st.composite
def ways_back(draw):
    """Any events that end with the weights and the state of the checkpoint in place."""
    before = draw(st.lists(WEIGHTS, max_size=1))
    between = draw(st.lists(st.one_of(st.sampled_from(["state", "train"]), WEIGHTS, COPY), max_size=4))
    untouched = bool(before) and "train" not in between
    needed = draw(st.permutations(["state"] if untouched else ["state", draw(WEIGHTS)]))
    last = draw(st.lists(st.one_of(st.just("state"), WEIGHTS, COPY), max_size=2))
    return [*before, "build", *between, *needed, *last]


def checkpoint_of(optimizer, model):
    return saved({"model": model.state_dict(), "optimizer": optimizer.state_dict()})


@settings(max_examples=8)
@given(ways=st.lists(ways_back(), min_size=1, max_size=3), data=st.data())
@all_setups
@backends
def test_every_order_of_rebuilding_resumes_bit_for_bit(setup, backend, ways, data):
    """Resumed up to three times, each time in another order."""
    dtype = torch.bfloat16 if setup is with_options else None
    expected = uninterrupted(setup, backend, dtype=dtype)
    breaks = sorted(data.draw(st.lists(st.integers(0, STEPS - 1), min_size=len(ways), max_size=len(ways))))
    optimizer, model, _ = uninterrupted(setup, backend, breaks[0], dtype)
    for way, start, stop in zip(ways, breaks, [*breaks[1:], STEPS], strict=True):
        optimizer, model = rebuilt(setup, backend, checkpoint_of(optimizer, model), way, dtype)
        trace = advance(optimizer, model, range(start, stop))
    assert_same((optimizer, model, trace), expected)


@backends
@pytest.mark.parametrize("named", [False, True])
def test_a_saved_dict_is_left_as_it_was_and_may_be_loaded_again(named, backend):
    """Without a file between: the dict's tensors are those of the running optimizer."""
    model = Model()
    taken = model.named_parameters() if named else model.parameters()
    optimizer = everything(taken, backend=backend)
    advance(optimizer, model, range(7))
    state, before = optimizer.state_dict(), saved(optimizer.state_dict())
    runs = []
    for _ in range(2):
        other = copy.deepcopy(model)
        resumed = everything(other.named_parameters() if named else other.parameters(), backend=backend)
        resumed.load_state_dict(state)
        runs.append((resumed, other, advance(resumed, other, range(7, STEPS))))
    assert all(
        torch.equal(value, state["state"][i][key]) for i in range(4) for key, value in before["state"][i].items()
    )
    assert state["param_groups"] == before["param_groups"]
    for run in runs:
        assert_same(run, uninterrupted(everything, backend))


# --- the schedule rebuilt -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [False, True], ids=["equal", "text"])
@pytest.mark.parametrize(
    "schedule",
    [RATE, 0.1 / 3 * (warmup(3) * restart(30, periods=7) >> linear(4, 0.3, 0.1) >> constant(0.1)), 0.07 * cyclical(9)],
    ids=str,
)
def test_a_schedule_rebuilt_from_its_parts_or_its_text_gives_the_same_bits(schedule, text):
    def setup(params, lr=schedule, **options):
        return descend.SGD(params, lr=lr, momentum=0.9, **options)

    again = eval(repr(schedule), vars(schedules)) if text else pickle.loads(pickle.dumps(schedule))
    assert again is not schedule
    optimizer, model, _ = uninterrupted(setup, "auto", 6)
    checkpoint = checkpoint_of(optimizer, model)
    for later in (False, True):  # given to the constructor, or set once the state is back
        resumed, other = rebuilt(
            lambda p, backend, later=later: setup(p, 0.3 if later else again, backend=backend),
            "auto",
            checkpoint,
            ["build", "weights", "state"],
        )
        if later:
            resumed.set_schedule("lr", again)
        trace = advance(resumed, other, range(6, STEPS))
        assert_same((resumed, other, trace), uninterrupted(setup, "auto"))


@backends
def test_a_constant_s_optimizer_takes_the_saved_number_and_keeps_it(backend):
    optimizer, model, _ = uninterrupted(rate, backend, 6)
    checkpoint = checkpoint_of(optimizer, model)
    resumed, other = rebuilt(
        lambda p, backend: descend.AdamW(p, lr=0.3, backend=backend), backend, checkpoint, ["build", "state", "weights"]
    )
    assert [held[0]["lr"] for held in advance(resumed, other, range(6, 9))] == [RATE(6)] * 3
    assert resumed.applied_steps == 9


@pytest.mark.parametrize("cls", [torch.optim.AdamW, descend.AdamW])
def test_a_rate_that_groups_share_and_whose_type_rounds_gives_way_to_each_group_s_schedule(cls):
    def groups_of(params, **own):
        return [{"params": params[:2], **own}, {"params": params[2:]}]

    params, here = parameters(), parameters()
    first = cls(groups_of(params), lr=torch.tensor(0.1), capturable=cls is descend.AdamW)
    train(first, params, range(4))
    second = descend.AdamW(groups_of(here, lr=0.1 * linear(30)), lr=RATE)
    second.load_state_dict(saved(first.state_dict()))
    for s in range(4, 8):
        assert [float(group["lr"]) for group in second.param_groups] == [0.1 * linear(30)(s), RATE(s)]
        train(second, here, range(s, s + 1))


@backends
def test_groups_that_come_back_in_another_order_are_matched_by_name(backend):
    def setup(model, order):
        named = list(model.named_parameters())
        parts = [{"params": named[:1], "lr": 0.1 * linear(30)}, {"params": named[1:], "betas": (0.8, constant(0.99))}]
        return descend.NAdam([parts[place] for place in order], lr=RATE, backend=backend)

    model, whole = Model(), Model()
    optimizer, expected = setup(model, (0, 1)), setup(whole, (0, 1))
    advance(optimizer, model, range(6))
    trace = advance(expected, whole, range(STEPS))
    other = Model(seed=3)
    resumed = setup(other, (1, 0))
    resumed.load_state_dict(saved(optimizer.state_dict()))
    other.load_state_dict(model.state_dict())
    assert [held[::-1] for held in advance(resumed, other, range(6, STEPS))] == trace[6:]
    resumed.param_groups.reverse()
    assert_same((resumed, other, []), (expected, whole, trace))


@backends
def test_a_load_ends_the_use_of_a_number_that_was_written_over_a_schedule_s(backend):
    optimizer, model, _ = uninterrupted(rate, backend, 6)
    checkpoint = checkpoint_of(optimizer, model)
    resumed, other = rebuilt(rate, backend, checkpoint, ["build"])
    for _ in range(2):
        resumed.param_groups[0]["lr"] = 0.7
        with pytest.warns(UserWarning, match="while a schedule drives it") as caught:
            advance(resumed, other, range(50, 52))
        assert len(caught) == 1, "once in a run, and again in the run that was loaded"
        resumed.param_groups[0]["betas"] = (0.5, 0.5)
        resumed.load_state_dict(checkpoint["optimizer"])
    other.load_state_dict(checkpoint["model"])
    trace = advance(resumed, other, range(6, STEPS))
    assert_same((resumed, other, trace), uninterrupted(rate, backend))


# --- set_schedule: not saved, so it is called again -----------------------------------------------------------------

SET = [("lr", 0.2 * linear(40), 0), ("momentum", function(after_three), None), ("weight_decay", 0.01, 1)]


def plain(params, **options):
    params = list(params)
    return descend.SGD([{"params": params[:2]}, {"params": params[2:]}], lr=RATE, **options)


def set_all(optimizer):
    for name, value, group in SET:
        optimizer.set_schedule(name, value, group)


def with_set(backend, start, stop):
    optimizer, model, trace = uninterrupted(plain, backend, start)
    set_all(optimizer)
    return optimizer, model, trace + advance(optimizer, model, range(start, stop))


@backends
@pytest.mark.parametrize(("start", "stop"), [(0, 3), (2, 2), (2, 3), (2, 9), (7, 9)])
@pytest.mark.parametrize(
    "events",
    [["set", "state"], ["state", "set"], ["set", "train", "state"], ["state", "set", "deepcopy", "state"]],
    ids=" ".join,
)
def test_set_schedule_around_a_load(backend, start, stop, events):
    """A schedule that was set drives at the loaded clock; a number that was set gives way to the loaded one."""
    optimizer, model, _ = with_set(backend, start, stop)
    checkpoint = checkpoint_of(optimizer, model)
    resumed, other = rebuilt(plain, backend, checkpoint, ["build"])
    for event in events:
        if event == "set":
            set_all(resumed)
        elif event == "state":
            resumed.load_state_dict(checkpoint["optimizer"])
        elif event == "train":
            advance(resumed, other, range(50, 53))
        else:
            resumed, other = copied(event, resumed, other)
    other.load_state_dict(checkpoint["model"])
    trace = advance(resumed, other, range(stop, STEPS))
    assert_same((resumed, other, trace), with_set(backend, start, STEPS))


def test_what_was_set_and_is_not_set_again_gives_way_to_the_constructor_s_schedule():
    optimizer, model, _ = with_set("auto", 3, 8)
    resumed, other = rebuilt(plain, "auto", checkpoint_of(optimizer, model), ["build", "weights", "state"])
    trace = advance(resumed, other, range(8, 12))
    assert [[held["lr"] for held in groups] for groups in trace] == [[RATE(s)] * 2 for s in range(8, 12)]
    assert {held["momentum"] for groups in trace for held in groups} == {0.9}, "a number is in the state, as ever"
    assert [held["weight_decay"] for held in trace[0]] == [0, 0.01]


@backends
@pytest.mark.parametrize("scheduled", [True, False])
def test_set_schedule_takes_effect_where_the_number_stays_the_same(backend, scheduled):
    """A scheduled 0 is active, so that momentum is kept from then on; the number 0 is not."""
    optimizer, model, _ = uninterrupted(
        lambda p, backend: descend.SGD(p, momentum=0.0 if scheduled else constant(0.0), backend=backend), backend, 2
    )
    optimizer.set_schedule("momentum", function(after_three) if scheduled else 0.0)
    last = gradients(2, list(model.parameters()))
    advance(optimizer, model, range(2, 3))
    held = [optimizer.state[p].get("momentum_buffer") for p in model.parameters()]
    kept = [buffer is not None and torch.equal(buffer, g) for buffer, g in zip(held, last, strict=True)]
    assert kept == [scheduled] * len(held)


# --- groups added ---------------------------------------------------------------------------------------------------


@backends
@pytest.mark.parametrize("added", [0, 4])
@pytest.mark.parametrize("lr", [None, 0.2 * linear(30), 0.01], ids=["constructor's", "its own", "number"])
@pytest.mark.parametrize("order", ["at once", "added, then loaded", "added late, then loaded"])
def test_a_group_added_before_the_load(backend, added, lr, order):
    own = {} if lr is None else {"lr": lr}

    def grown(model, at, steps):
        params = list(model.parameters())
        optimizer = descend.AdamW(params[:2], lr=RATE, backend=backend)
        trace = advance(optimizer, model, range(at))
        optimizer.add_param_group({"params": params[2:], **own})
        return optimizer, model, trace + advance(optimizer, model, range(at, steps))

    def anew(model):
        params = list(model.parameters())
        if order == "at once":
            return descend.AdamW([{"params": params[:2]}, {"params": params[2:], **own}], lr=RATE, backend=backend)
        return grown(model, 3 if "late" in order else 0, 3)[0]

    optimizer, model, _ = grown(Model(), added, 9)
    checkpoint = checkpoint_of(optimizer, model)
    other = Model(seed=5)
    resumed = anew(other)
    resumed.load_state_dict(checkpoint["optimizer"])
    other.load_state_dict(checkpoint["model"])
    trace = advance(resumed, other, range(9, STEPS))
    assert_same((resumed, other, trace), grown(Model(), added, STEPS))
