"""Schedules beside torch's, and beside the papers' formulas where torch has none or another."""

import itertools
import math
from fractions import Fraction

import pytest
import torch
from torch.optim import lr_scheduler

from descend import optim
from descend.schedules import (
    constant,
    cosine,
    exp_range,
    exponential,
    inverse_sqrt,
    linear,
    linear_cosine,
    multistep,
    noam,
    one_cycle,
    one_cycle_momentum,
    polynomial,
    snapshot,
    step,
    to_torch,
    triangular,
    triangular2,
    warm_restarts,
)

EXACT = 1e-12
STEPS = 10_000


def optimizer(lr=1.0, **arguments):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, **arguments)


def closed_form(made, steps):
    """A torch scheduler's closed form at each step: its chained form carries rounding from one to the next."""
    form = getattr(made, "_get_closed_form_lr", None) or made.get_lr
    made._get_lr_called_within_step = True  # else it warns
    values = []
    for s in steps:
        made.last_epoch = s
        values.append(float(form()[0]))
    return values


def cyclic(o, **arguments):
    return lr_scheduler.CyclicLR(o, arguments.pop("base", 0.0), 1.0, cycle_momentum=False, **arguments)


TWINS = [
    (constant(0.3), lambda o: lr_scheduler.ConstantLR(o, 0.3, 10**6)),
    (linear(9000, 0.25, 1.0), lambda o: lr_scheduler.LinearLR(o, 0.25, 1.0, 9000)),
    (polynomial(9000, power=2.5), lambda o: lr_scheduler.PolynomialLR(o, 9000, 2.5)),
    (exponential(1, factor=0.9993), lambda o: lr_scheduler.ExponentialLR(o, 0.9993)),
    (step(1234, factor=0.3), lambda o: lr_scheduler.StepLR(o, 1234, 0.3)),
    (multistep(60, 999, 7777, factor=0.2), lambda o: lr_scheduler.MultiStepLR(o, [60, 999, 7777], 0.2)),
    (cosine(STEPS, floor=0.01), lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS, 0.01)),
    (triangular(700, floor=0.1), lambda o: cyclic(o, base=0.1, step_size_up=700)),
    (triangular(700, down=100), lambda o: cyclic(o, step_size_up=700, step_size_down=100)),
    (triangular2(500, floor=0.1), lambda o: cyclic(o, base=0.1, step_size_up=500, mode="triangular2")),
    (exp_range(500, gamma=0.9991), lambda o: cyclic(o, step_size_up=500, mode="exp_range", gamma=0.9991)),
    (one_cycle(STEPS), lambda o: lr_scheduler.OneCycleLR(o, 1.0, STEPS)),
    (
        one_cycle(STEPS, up=0.2, start=0.1, final=1e-5, three=True, straight=True),
        lambda o: lr_scheduler.OneCycleLR(
            o,
            1.0,
            STEPS,
            pct_start=0.2,
            div_factor=10,
            final_div_factor=1e4,
            three_phase=True,
            anneal_strategy="linear",
        ),
    ),
]


@pytest.mark.parametrize(("schedule", "make"), TWINS, ids=[str(twin[0]) for twin in TWINS])
def test_closed_forms_of_torch(schedule, make):
    made = make(optimizer(momentum=0.9))
    assert schedule.values(STEPS) == pytest.approx(closed_form(made, range(STEPS)), rel=0, abs=EXACT)


@pytest.mark.parametrize("three", [False, True])
def test_momentum_of_one_cycle(three):
    o = optimizer(momentum=0.9)
    made = lr_scheduler.OneCycleLR(o, 1.0, 10_000, three_phase=three)
    expected = []
    for _ in range(10_000):
        expected.append(o.param_groups[0]["momentum"])
        o.step()
        if len(expected) < 10_000:
            made.step()
    assert (0.95 * one_cycle_momentum(10_000, three=three)).values(10_000) == pytest.approx(expected, rel=0, abs=EXACT)


def test_warm_restarts_where_torch_has_them():
    """torch counts restarts with logarithms; where it is a step off, its T_cur leaves the run, which is left out."""
    for period, mult in ((10, 1), (10, 2), (7, 3)):
        o = optimizer()
        made = lr_scheduler.CosineAnnealingWarmRestarts(o, period, mult, eta_min=0.05)
        schedule = warm_restarts(period, mult=mult, floor=0.05)
        for s in range(10_000):
            made.step(s)
            if 0 <= made.T_cur < made.T_i:
                assert schedule(s) == pytest.approx(o.param_groups[0]["lr"], rel=0, abs=EXACT), (period, mult, s)


@pytest.mark.parametrize(("period", "restart"), [(3, 363), (10, 1210), (100, 12_100)])
def test_a_restart_that_torch_misses_is_taken_here(period, restart):
    """Its closed form counts restarts by logarithms: after period * (1 + 3 + ... + 3^4) steps its rate is the floor."""
    o = optimizer()
    lr_scheduler.CosineAnnealingWarmRestarts(o, period, 3).step(restart)
    assert o.param_groups[0]["lr"] == 0.0
    assert warm_restarts(period, mult=3)(restart) == 1.0


# ---- what the papers say ---------------------------------------------------------------------------------------------


def test_sgdr_is_at_its_peak_at_restarts_and_at_its_floor_just_before():
    schedule = warm_restarts(10, mult=2, floor=0.1)
    for s in (0, 10, 30, 70, 150, 310):
        assert schedule(s) == 1.0
        if s:
            assert schedule(math.nextafter(s, 0)) == pytest.approx(0.1, rel=0, abs=EXACT)
    assert list(itertools.islice(schedule.cycles(), 5)) == [10, 30, 70, 150, 310]
    assert list(itertools.islice(warm_restarts(100, mult=2).cycles(), 4)) == [100, 300, 700, 1500]
    assert list(itertools.islice(warm_restarts(1, mult=2).cycles(), 8)) == [1, 3, 7, 15, 31, 63, 127, 255]


@pytest.mark.parametrize("mult", [1, 1.1, 1.25, 1.5, 2, 2.5, 3, 7, 10])
@pytest.mark.parametrize("period", [1, 2, 3, 7, 10, 391, 1000, 12345])
def test_restarts_are_exact_after_a_milliard_steps(period, mult):
    """Every restart is walked, with rational numbers, to past 10^9 steps."""
    schedule, end, index = warm_restarts(period, mult=mult, floor=0.25), 0, 0
    if mult == 1:
        starts = [period * run for run in (1, 2, 10, 10**5, 10**9 // period, 10**9 // period + 1)]
        assert list(itertools.islice(schedule.cycles(), 3)) == [period, 2 * period, 3 * period]
    else:
        starts = []
        while end <= 10**9:
            end += round(period * Fraction(mult) ** index)
            index += 1
            starts.append(end)
        assert list(itertools.islice(schedule.cycles(), len(starts))) == starts
    for start in starts:
        assert schedule(start) == 1.0
        assert schedule(start - 1e-6) < 0.26 or period == 1
        assert schedule(start + 0.0) == 1.0
    assert [warm_restarts(period, mult=mult)(start) for start in reversed(starts)] == [1.0] * len(starts)


def test_peaks_decay_and_stop_at_the_floor():
    schedule = warm_restarts(4, floor=0.2, decay=0.5)
    assert [schedule(s) for s in (0, 4, 8, 12, 400)] == [1.0, 0.5, 0.25, 0.2, 0.2]
    assert schedule(6) == pytest.approx(0.35, abs=EXACT)


def test_triangular2_halves_per_cycle_and_starts_at_the_floor():
    schedule = triangular2(100, floor=0.2)
    assert [schedule(200 * index) for index in range(4)] == [0.2] * 4
    assert [schedule(200 * index + 100) for index in range(4)] == pytest.approx([1.0, 0.6, 0.4, 0.3], abs=EXACT)
    assert list(itertools.islice(schedule.cycles(), 3)) == [200, 400, 600]


def test_exp_range_counts_steps_from_the_beginning_of_training():
    schedule = exp_range(10, gamma=0.99)
    assert [schedule(s) for s in (10, 30)] == pytest.approx([0.99**10, 0.99**30], rel=EXACT)


@pytest.mark.parametrize("arguments", [{}, {"three": True}, {"straight": True}, {"up": 0.25, "final": 1e-5}])
@pytest.mark.parametrize("n", [10, 100, 4321])
def test_one_cycle_is_at_its_floor_in_its_last_update(n, arguments):
    schedule = one_cycle(n, **arguments)
    assert schedule(0) == 0.04
    assert schedule(n - 1) == schedule(n) == schedule(10 * n) == arguments.get("final", 4e-6)
    assert min(schedule.values(n - 1)) > schedule(n - 1)
    assert max(schedule.values(n)) == pytest.approx(1, abs=0.1)
    assert list(schedule.cycles()) == [n]


def test_noam_peaks_where_the_paper_says():
    schedule = noam(512, 4000)
    assert schedule(3999) == max(schedule.values(8000)) == pytest.approx(6.98771e-4, rel=1e-6)
    assert noam(1024, 4000)(3999) == pytest.approx(4.941e-4, rel=1e-4)
    assert schedule(0) == pytest.approx(512**-0.5 * 4000**-1.5, rel=EXACT)
    assert schedule(15_999) == pytest.approx(schedule(3999) / 2, rel=EXACT)


def test_inverse_square_root():
    assert [inverse_sqrt(100)(s) for s in (0, 300, 9900)] == [1.0, 0.5, 0.1]


def test_snapshots_begin_at_the_peak_and_end_a_little_above_zero():
    n, count = 300, 6
    schedule = snapshot(n, count)
    for t in range(1, n + 1):  # equation 2, with the paper's t
        expected = 0.5 * (math.cos(math.pi * ((t - 1) % math.ceil(n / count)) / math.ceil(n / count)) + 1)
        assert schedule(t - 1) == pytest.approx(expected, rel=0, abs=EXACT)
    assert list(schedule.cycles()) == [50, 100, 150, 200, 250, 300]
    assert schedule(300) == schedule(10_000) == 0.0
    assert list(snapshot(10, 3).cycles()) == [4, 8, 10]
    assert snapshot(10, 3)(10) == snapshot(10, 3)(99) == pytest.approx(0.5, abs=EXACT)


def test_linear_cosine():
    schedule = linear_cosine(1000)
    assert schedule(0) == 1.001
    assert schedule(500) == pytest.approx(0.5 * 0.5 + 0.001, abs=EXACT)
    assert schedule(1000) == schedule(9999) == 0.001
    assert linear_cosine(1000, periods=2.0, alpha=0.1, beta=0.0)(500) == pytest.approx(0.6, abs=EXACT)


# ---- a scheduler of torch --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [torch.optim.SGD, optim.SGD])
def test_a_scheduler_of_torch_multiplies_each_groups_rate(make):
    first, second = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    o = make([{"params": [first], "lr": 2.0}, {"params": [second]}], lr=0.5)
    schedule = warm_restarts(5, mult=2)
    scheduler = to_torch(schedule, o)
    for s in range(20):
        assert [group["lr"] for group in o.param_groups] == [2 * schedule(s), 0.5 * schedule(s)]
        first.grad = second.grad = torch.ones(1)
        o.step()
        scheduler.step()
    saved = scheduler.state_dict()
    again = to_torch(schedule, make([{"params": [first], "lr": 2.0}, {"params": [second]}], lr=0.5))
    again.load_state_dict(saved)
    assert again.last_epoch == 20
    with pytest.raises(TypeError, match=r"schedule must be a schedule; got 0.1"):
        to_torch(0.1, o)
