"""Torch's schedulers resume on our optimizers as on torch's: right where these are right, and wrong where not."""

import copy
import warnings

import pytest
import torch
from torch.optim import lr_scheduler

import descend
from fused_optimizers import TOLERANCE, clones, needs_kernels
from optimizers import parameters, relative_difference, train
from resuming import saved

BEFORE, AFTER = 5, 7
SCHEDULERS = {
    "StepLR": lambda o, **at: lr_scheduler.StepLR(o, 3, 0.5, **at),
    "MultiStepLR": lambda o, **at: lr_scheduler.MultiStepLR(o, [2, 4, 8], 0.5, **at),
    "ExponentialLR": lambda o, **at: lr_scheduler.ExponentialLR(o, 0.9, **at),
    "CosineAnnealingLR": lambda o, **at: lr_scheduler.CosineAnnealingLR(o, 20, **at),
    "PolynomialLR": lambda o, **at: lr_scheduler.PolynomialLR(o, 20, 2.0, **at),
    "LinearLR": lambda o, **at: lr_scheduler.LinearLR(o, 0.1, 1.0, 8, **at),
    "LambdaLR": lambda o, **at: lr_scheduler.LambdaLR(o, lambda epoch: 0.95**epoch, **at),
    "CosineAnnealingWarmRestarts": lambda o, **at: lr_scheduler.CosineAnnealingWarmRestarts(o, 4, 2, **at),
    "CyclicLR": lambda o, **at: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=4, **at),
    "OneCycleLR": lambda o, **at: lr_scheduler.OneCycleLR(o, 0.1, total_steps=20, **at),
    "SequentialLR": lambda o, **at: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, 1.0, 4), lr_scheduler.CosineAnnealingLR(o, 10)], [4], **at
    ),
    "ChainedScheduler": lambda o, **at: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(o, 0.1, 1.0, 8), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
}


def both_then_load(build, schedule, state, scheduler_state, rate):
    optimizer = build()
    scheduler = schedule(optimizer)
    optimizer.load_state_dict(state)
    scheduler.load_state_dict(scheduler_state)
    return optimizer, scheduler


def optimizer_first(build, schedule, state, scheduler_state, rate):
    optimizer = build()
    optimizer.load_state_dict(state)
    scheduler = schedule(optimizer)
    scheduler.load_state_dict(scheduler_state)
    return optimizer, scheduler


def scheduler_alone(build, schedule, state, scheduler_state, rate):
    optimizer = build()
    scheduler = schedule(optimizer)
    scheduler.load_state_dict(scheduler_state)
    return optimizer, scheduler


def last_epoch_of_fresh(build, schedule, state, scheduler_state, rate):
    optimizer = build()
    group = optimizer.param_groups[0]
    group["initial_lr"], group["lr"] = group["lr"], rate
    return optimizer, schedule(optimizer, last_epoch=BEFORE - 1)


def last_epoch_of_loaded(build, schedule, state, scheduler_state, rate):
    optimizer = build()
    optimizer.load_state_dict(state)
    return optimizer, schedule(optimizer, last_epoch=BEFORE - 1)


def state_without_scheduler(build, schedule, state, scheduler_state, rate):
    """A state that was saved without a scheduler: what one left in the groups before must not stay."""
    optimizer = build()
    schedule(optimizer)
    foreign = copy.deepcopy(state)
    for key in ("initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum"):
        foreign["param_groups"][0].pop(key, None)
    foreign["param_groups"][0]["lr"] = 0.025
    optimizer.load_state_dict(foreign)
    return optimizer, schedule(optimizer)


def same_dict_twice(build, schedule, state, scheduler_state, rate):
    optimizer = build()
    scheduler = schedule(optimizer)
    for _ in range(2):
        optimizer.load_state_dict(state)
        scheduler.load_state_dict(scheduler_state)  # CyclicLR takes an entry out of the caller's dict
    return optimizer, scheduler


ORDERS = [
    both_then_load,
    optimizer_first,
    scheduler_alone,
    last_epoch_of_fresh,
    last_epoch_of_loaded,
    state_without_scheduler,
    same_dict_twice,
]
RIGHT_IN_TORCH_2_13 = {
    both_then_load: set(SCHEDULERS),
    optimizer_first: {"StepLR", "MultiStepLR", "ExponentialLR", "CosineAnnealingLR", "PolynomialLR"},
    scheduler_alone: set(),
    last_epoch_of_fresh: set(SCHEDULERS) - {"CyclicLR", "OneCycleLR", "SequentialLR", "ChainedScheduler"},
}
OPTIMIZERS = {"SGD": dict(lr=0.05, momentum=0.9), "AdamW": dict(lr=0.05, weight_decay=0.1)}


def groups_of(name):
    return [getattr(module, name)([torch.zeros(1)]).param_groups[0].keys() for module in (descend, torch.optim)]


OURS_ALONE = {key for name in OPTIMIZERS for ours, theirs in [groups_of(name)] for key in ours - theirs}


def advance(optimizer, scheduler, params, steps):
    """What a group holds before each step, in full but for what only ours have."""
    trace = []
    for step in steps:
        held = {k: v for k, v in optimizer.param_groups[0].items() if k not in ("params", *OURS_ALONE)}
        trace.append(copy.deepcopy(held))  # a rate that is a tensor changes in place
        train(optimizer, params, range(step, step + 1))
        scheduler.step()
    return trace


def resumed(make, schedule, order, dtype):
    """Everything that shows of a run that was broken off and resumed: trace, weights, the exception, the warnings."""
    trace, error = [], None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        params = parameters(dtype=dtype)
        optimizer = make(params)
        scheduler = schedule(optimizer)
        advance(optimizer, scheduler, params, range(BEFORE))
        here = clones(params)
        rate = optimizer.param_groups[0]["lr"]
        dicts = saved(optimizer.state_dict()), copy.deepcopy(scheduler.state_dict())
        try:
            optimizer, scheduler = order(lambda: make(here), schedule, *dicts, rate)
            trace = advance(optimizer, scheduler, here, range(BEFORE, BEFORE + AFTER))
        except Exception as raised:
            error = type(raised), str(raised)
    return trace, here, error, [(w.category, str(w.message)) for w in caught]


@pytest.mark.parametrize("backend", [pytest.param("cpp", marks=needs_kernels), "eager"])
@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.__name__)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_torch_s_schedulers_resume_ours_as_torch_s(name, scheduler, order, backend):
    ours, theirs = getattr(descend, name), getattr(torch.optim, name)
    options, schedule = OPTIMIZERS[name], SCHEDULERS[scheduler]
    for dtype in (torch.float64, torch.float32):
        trace, params, error, said = resumed(lambda p: ours(p, backend=backend, **options), schedule, order, dtype)
        its_trace, its_params, its_error, its_said = resumed(lambda p: theirs(p, **options), schedule, order, dtype)
        assert error == its_error
        assert trace == its_trace
        assert relative_difference(params, its_params) <= (BEFORE + AFTER) * TOLERANCE[dtype][1]
        assert said == its_said


@pytest.mark.skipif(not torch.__version__.startswith("2.13"), reason="what is right was measured with torch 2.13")
@pytest.mark.parametrize("order", RIGHT_IN_TORCH_2_13, ids=lambda order: order.__name__)
def test_the_orders_are_those_in_which_torch_s_schedulers_are_known_to_be_right_or_wrong(order):
    right = set()
    for name, schedule in SCHEDULERS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SequentialLR calls its parts as it warns not to
            params = parameters()
            whole = torch.optim.SGD(params, **OPTIMIZERS["SGD"])
            expected = advance(whole, schedule(whole), params, range(BEFORE + AFTER))[BEFORE:]
        found = resumed(lambda p: torch.optim.SGD(p, **OPTIMIZERS["SGD"]), schedule, order, None)[0]
        rates = [[(held["lr"], held["momentum"]) for held in trace] for trace in (found, expected)]
        if found and torch.allclose(*map(torch.tensor, rates), rtol=1e-6):
            right.add(name)
    assert right == RIGHT_IN_TORCH_2_13[order]


@pytest.mark.parametrize("order", [both_then_load, optimizer_first], ids=lambda order: order.__name__)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_torch_s_schedulers_resume_a_rate_that_is_a_tensor(scheduler, order, float64):
    def run(cls):
        return resumed(lambda p: cls(p, lr=torch.tensor(0.05)), SCHEDULERS[scheduler], order, None)

    trace, params, *rest = run(descend.AdamW)
    its_trace, its_params, *its_rest = run(torch.optim.AdamW)
    assert rest == its_rest
    assert trace == its_trace
    assert isinstance(trace[-1]["lr"], torch.Tensor)
    assert relative_difference(params, its_params) <= 1e-12
