from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError, dataclass
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from descend import schedules
from descend.schedules import Schedule, constant, cosine, cyclical, function, linear, restart, warmup

EXACT = 1e-12


def law(*cases: st.SearchStrategy):
    """Hypothesis' `given` without its deadline: nothing here is timed."""
    return lambda test: settings(deadline=None)(given(*cases)(test))


def halves(s: float) -> float:
    return 0.5**s


class Sawtooth(Schedule):
    """Own schedule as a plain class, endless by default."""

    def __call__(self, s: float) -> float:
        return self.held(s) % 1


@dataclass(frozen=True)
class sine(Schedule):
    """Own schedule as a dataclass."""

    length: int = 100

    def __call__(self, s: float) -> float:
        return math.sin(math.pi * self.held(s) / self.length)


NAMES = {**vars(schedules), "halves": halves, "sine": sine}

lengths = st.integers(1, 60)
numbers = st.floats(-4, 4)
finite = st.one_of(
    st.builds(linear, lengths, numbers, numbers),
    st.builds(cosine, lengths, floor=numbers),
    st.builds(cyclical, lengths, periods=st.floats(0.1, 30)),
    st.builds(restart, lengths, periods=st.integers(1, 7)),
    st.builds(warmup, lengths),
    st.builds(function, st.just(halves), length=lengths),
    st.builds(sine, lengths),
)
endless = st.one_of(st.builds(constant, numbers), st.just(function(halves)))


def combined(atoms: st.SearchStrategy[Schedule]) -> st.SearchStrategy[Schedule]:
    """Schedules with a length keep one under >> and *, so these can be nested at will."""
    return st.recursive(
        atoms,
        lambda inner: st.one_of(
            st.builds(lambda a, b: a >> b, inner, inner),
            st.builds(lambda a, b: a * b, inner, inner),
            st.builds(lambda number, a: number * a, numbers, inner),
        ),
        max_leaves=4,
    )


def tails(ended: st.SearchStrategy[Schedule]) -> st.SearchStrategy[Schedule]:
    """Schedules with or without a length."""
    return st.one_of(
        ended, endless, st.builds(lambda a, b: a >> b, ended, endless), st.builds(lambda a, b: a * b, ended, endless)
    )


ended = combined(finite)
anything = tails(ended)
steps = st.one_of(st.integers(0, 300), st.floats(0, 300))


# ---- closed forms ----------------------------------------------------------------------------------------------------

FORMS = [
    (constant(0.3), lambda s: 0.3),
    (linear(1000), lambda s: 1 - s / 1000),
    (linear(700, 0.2, 3.0), lambda s: 0.2 + 2.8 * s / 700),
    (cosine(1000), lambda s: math.cos(math.pi * s / 2000) ** 2),
    (cosine(900, floor=0.1), lambda s: 0.1 + 0.9 * math.cos(math.pi * s / 1800) ** 2),
    (cyclical(1000), lambda s: math.cos(math.pi * s / 2000) ** 2),
    (cyclical(1000, periods=3.25), lambda s: math.cos(math.pi * 3.25 * s / 1000) ** 2),
    (restart(1000), lambda s: math.cos(math.pi * s / 2000) ** 2),
    (restart(1000, periods=4), lambda s: math.cos(math.pi * (s % 250) / 500) ** 2),
    (warmup(1000), lambda s: (s + 1) / 1000),
    (function(halves), lambda s: 2.0**-s),
]


@pytest.mark.parametrize(("schedule", "form"), FORMS, ids=[str(schedule) for schedule, _ in FORMS])
def test_closed_form(schedule, form):
    for s in (*range(700), 0.5, 33.25, 698.75):
        assert schedule(s) == pytest.approx(form(s), rel=0, abs=EXACT)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 10, 49, 1000, 10**9 + 7])
@pytest.mark.parametrize("floor", [0.0, 0.01, 0.1, 0.3, -2.7, 5.1])
def test_both_ends_are_exact(n, floor):
    assert (cosine(n, floor)(0), cosine(n, floor)(n)) == (1.0, floor)
    assert (linear(n, floor, 0.7)(0), linear(n, floor, 0.7)(n)) == (floor, 0.7)
    assert (cyclical(n)(0), cyclical(n)(n)) == (1.0, 0.0)
    assert (restart(n, 3)(0), restart(n, 3)(n)) == (1.0, 0.0)
    assert (warmup(n)(0), warmup(n)(n - 1), warmup(n)(n)) == (1 / n, 1.0, 1.0)


@law(lengths, numbers, steps)
def test_a_line_that_does_not_change_is_exactly_constant(n, value, s):
    assert linear(n, value, value)(s) == value


def test_warmup_never_exceeds_one_between_steps():
    assert [warmup(4)(s) for s in (0, 0.5, 2.5, 3.5, 4.5)] == [0.25, 0.375, 0.875, 1.0, 1.0]


def test_restart_ends_at_the_end_of_its_last_run():
    schedule = restart(12, periods=3)
    assert [schedule(s) for s in (0, 4, 8)] == [1.0, 1.0, 1.0]
    assert schedule(12) == schedule(100) == 0.0
    for periods in range(1, 40):
        last_instant = math.nextafter(12, 0)
        assert restart(12, periods)(last_instant) == pytest.approx(0, abs=EXACT)


def test_large_steps_lose_nothing():
    """Against rational arithmetic: the phase is reduced exactly, whatever the number of steps and runs."""
    n, periods = 3 * 10**9 + 1, 777_777
    waves, runs, slope = cyclical(n, periods), restart(n, periods), linear(n, 2.0, 1.0)
    for s in (10**9, 10**9 + 1, 2 * 10**9 + 12345, n - 1):
        wave = float(Fraction(periods * s, n) % 1)
        assert waves(s) == pytest.approx(0.5 * (1 + math.cos(2 * math.pi * wave)), rel=0, abs=EXACT)
        assert runs(s) == pytest.approx(0.5 * (1 + math.cos(math.pi * wave)), rel=0, abs=EXACT)
        assert slope(s) == pytest.approx(float(2 - Fraction(s, n)), rel=0, abs=EXACT)
    late = linear(10**9) >> restart(1000, 10)
    assert [late(10**9 + s) for s in range(1000)] == restart(1000, 10).values(1000)
    assert late(10**9 + 0.25) == restart(1000, 10)(0.25)
    assert constant(0.1)(10**18) == 0.1
    assert warmup(10)(10**18) == 1.0


# ---- against torch ---------------------------------------------------------------------------------------------------


def torch_trace(make, n):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scheduler = make(optimizer)
    trace = []
    for _ in range(n):
        trace.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return trace


TWINS = [
    (cosine(500), 501, lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 500)),
    (cosine(300, floor=0.05), 301, lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 300, eta_min=0.05)),
    (linear(400, 0.25, 1.0), 600, lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.25, 1.0, 400)),
    (linear(70), 100, lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.0, 70)),
    (constant(0.3), 50, lambda o: torch.optim.lr_scheduler.ConstantLR(o, 0.3, 1000)),
    (
        linear(20, 0.1, 1.0) * function(lambda s: 0.99**s),
        60,
        lambda o: torch.optim.lr_scheduler.ChainedScheduler(
            [torch.optim.lr_scheduler.LinearLR(o, 0.1, 1.0, 20), torch.optim.lr_scheduler.ExponentialLR(o, 0.99)]
        ),
    ),
]


@pytest.mark.parametrize(("schedule", "n", "make"), TWINS, ids=[str(twin[0]) for twin in TWINS])
def test_same_trace_as_torch(schedule, n, make):
    assert schedule.values(n) == pytest.approx(torch_trace(make, n), rel=0, abs=EXACT)


# ---- the laws --------------------------------------------------------------------------------------------------------


@law(ended, steps)
def test_holds_its_value_from_its_length_on(a, s):
    assert isinstance(a.length, int)
    assert a(a.length + s) == a(a.length)


@law(ended, anything, steps)
def test_join_runs_one_after_the_other(a, b, s):
    joined = a >> b
    assert joined.length == (None if b.length is None else a.length + b.length)
    assert joined(s) == (a(s) if s < a.length else b(s - a.length))
    assert joined(a.length) == b(0)


@law(ended, ended, anything, steps)
def test_join_is_associative(a, b, c, s):
    assert (a >> b) >> c == a >> (b >> c)
    assert str((a >> b) >> c) == str(a >> (b >> c))
    assert ((a >> b) >> c)(s) == (a >> (b >> c))(s)


@law(anything, anything, steps)
def test_product_multiplies(a, b, s):
    product = a * b
    assert product.length == (None if None in (a.length, b.length) else max(a.length, b.length))
    assert product(s) == pytest.approx(a(s) * b(s), rel=EXACT, abs=EXACT)


@law(numbers, anything, steps)
def test_a_number_scales(number, a, s):
    assert number * a == a * number
    assert (number * a).length == a.length
    assert (number * a)(s) == pytest.approx(number * a(s), rel=EXACT, abs=EXACT)
    assert 1 * a == a


@law(anything, st.integers(0, 200))
def test_values_are_the_first_multipliers(a, n):
    values = a.values(n)
    assert values == [a(s) for s in range(n)]
    assert all(type(value) is float for value in values)


@law(anything)
def test_a_schedule_is_a_value(a):
    for twin in (pickle.loads(pickle.dumps(a)), copy.copy(a), copy.deepcopy(a)):
        assert twin == a
        assert hash(twin) == hash(a)
        assert twin.length == a.length
        assert twin.values(5) == a.values(5)


@law(anything)
def test_prints_what_reads_back(a):
    assert eval(str(a), dict(NAMES)) == a
    assert str(a) == repr(a)


def test_prints_as_written():
    for text in (
        "warmup(200) >> 0.1 * cosine(1000, floor=0.01)",
        "0.1 * (warmup(200) >> cosine(1000, floor=0.01))",
        "(warmup(3) >> cosine(4)) * linear(5, end=0.5)",
        "0.5 * cyclical(100, periods=20.0) * restart(10, periods=2) >> constant(0.01)",
        "constant()",
        "function(halves, length=8)",
    ):
        assert str(eval(text, dict(NAMES))) == text


def test_the_rate_of_a_usual_run():
    rate = 0.1 * (warmup(200) >> cosine(1000, floor=0.01))
    assert rate.length == 1200
    assert [rate(s) for s in (0, 199, 200, 1200, 5000)] == pytest.approx([0.0005, 0.1, 0.1, 0.001, 0.001], rel=EXACT)
    assert rate(700) == pytest.approx(0.1 * 0.505, rel=EXACT)


def test_is_frozen():
    for schedule in (cosine(3), cosine(3) >> warmup(2), 2 * cosine(3)):
        with pytest.raises(FrozenInstanceError):
            schedule.length = 5


def test_equal_arguments_make_equal_schedules():
    assert cosine(1e3) == cosine(1000) == cosine(np.int64(1000), 0) == cosine(Fraction(1000))
    assert type(cosine(1e3).n) is int
    assert type(linear(3, 1, 0).start) is float
    assert len({cosine(3), cosine(3, floor=0.0), cosine(4), cyclical(3)}) == 3
    assert 2 * cosine(3) != 3 * cosine(3)


@pytest.mark.parametrize("number", [np.float64(0.1), np.float32(0.5), np.int64(3), Fraction(1, 4), 2])
def test_any_real_number_is_a_factor(number):
    for product in (number * cosine(3), cosine(3) * number):
        assert isinstance(product, Schedule)
        assert product == float(number) * cosine(3)


# ---- own schedules ---------------------------------------------------------------------------------------------------


def test_own_schedules_join_and_multiply():
    own = Sawtooth()
    assert own.length is None
    assert (warmup(2) >> 0.5 * own)(2.5) == 0.25
    assert (sine(4) >> own)(2) == 1.0
    assert (function(halves, 3) >> constant()).values(5) == [1.0, 0.5, 0.25, 1.0, 1.0]
    assert function(halves, 3)(100) == 0.125
    assert type(function(int)(2.5)) is float
    assert "Sawtooth" in str(warmup(1) >> own)
    with pytest.raises(ValueError, match=r"Sawtooth.* has no length: put it last"):
        own >> warmup(1)


def test_schedule_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Schedule()


# ---- the catalog -----------------------------------------------------------------------------------------------------


def test_the_catalog_has_every_schedule_with_a_line():
    listed = schedules.catalog()
    assert list(listed) == ["constant", "linear", "cosine", "cyclical", "restart", "warmup"]
    assert listed["cosine"].startswith("Half a cosine")
    assert all(line.endswith(".") for line in listed.values())


def test_an_own_schedule_is_registered_once(monkeypatch):
    monkeypatch.setattr(schedules, "_constructors", dict(schedules._constructors))
    assert schedules.register(sine) is sine
    assert schedules.catalog()["sine"] == "Own schedule as a dataclass."
    with pytest.raises(ValueError, match=r"'sine' is registered already: choose another name"):
        schedules.register(sine)


def test_needs_no_torch():
    code = (
        "import importlib.util, sys; "
        f"spec = importlib.util.spec_from_file_location('schedules', {schedules.__file__!r}); "
        "module = importlib.util.module_from_spec(spec); sys.modules['schedules'] = module; "
        "spec.loader.exec_module(module); assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- bad input -------------------------------------------------------------------------------------------------------

WHOLE = "must be a whole number from 1 up"
FINITE = "must be a finite number"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: cosine(0), ValueError, f"cosine: n {WHOLE}; got 0"),
        (lambda: linear(-3), ValueError, f"linear: n {WHOLE}; got -3"),
        (lambda: warmup(2.5), ValueError, f"warmup: n {WHOLE}; got 2.5"),
        (lambda: warmup(math.inf), ValueError, f"warmup: n {WHOLE}; got inf"),
        (lambda: warmup(math.nan), ValueError, f"warmup: n {WHOLE}; got nan"),
        (lambda: restart(True), TypeError, f"restart: n {WHOLE}; got True"),
        (lambda: cyclical("10"), TypeError, f"cyclical: n {WHOLE}; got '10'"),
        (lambda: cosine(None), TypeError, f"cosine: n {WHOLE}; got None"),
        (lambda: function(halves, 0), ValueError, f"function: length {WHOLE}; got 0"),
        (lambda: function(0.1), TypeError, "function: fn must be callable .* use constant"),
        (lambda: constant(math.nan), ValueError, f"constant: value {FINITE}; got nan"),
        (lambda: constant(True), TypeError, f"constant: value {FINITE}; got True"),
        (lambda: linear(3, start=math.inf), ValueError, f"linear: start {FINITE}; got inf"),
        (lambda: linear(3, end="0"), TypeError, f"linear: end {FINITE}; got '0'"),
        (lambda: cosine(3, floor=1j), TypeError, f"cosine: floor {FINITE}; got 1j"),
        (lambda: cyclical(3, periods=0), ValueError, f"cyclical: periods {FINITE} above 0; got 0"),
        (lambda: restart(3, periods=1.5), ValueError, f"restart: periods {WHOLE}; got 1.5"),
        (lambda: math.inf * cosine(3), ValueError, f"a factor of a schedule {FINITE}; got inf"),
        (lambda: cosine(3) * True, TypeError, f"a factor of a schedule {FINITE}; got True"),
        (lambda: halves * cosine(3), TypeError, f"a factor of a schedule {FINITE}; got <function"),
        (lambda: np.ones(2) * cosine(3), TypeError, f"a factor of a schedule {FINITE}; got array"),
        (lambda: torch.ones(()) * cosine(3), TypeError, f"a factor of a schedule {FINITE}; got tensor"),
        (lambda: warmup(3) >> 0.1, TypeError, r">>. joins schedules; got 0.1: use constant\(number\)"),
        (lambda: constant() >> warmup(3), ValueError, r"nothing can follow constant\(\), .* put it last"),
        (lambda: warmup(3) >> 2 * constant() * cosine(4) >> cosine(3), ValueError, r"nothing can follow 2.0 \* const"),
        (lambda: cosine(3).values(-1), ValueError, "values: n must be a whole number from 0 up; got -1"),
    ],
)
def test_bad_arguments_name_themselves(make, error, message):
    with pytest.raises(error, match=message):
        make()


@law(anything, st.floats(max_value=0, exclude_max=True) | st.just(math.nan) | st.integers(max_value=-1))
def test_steps_count_from_zero(a, s):
    with pytest.raises(ValueError, match="s is the number of steps already applied, from 0 up"):
        a(s)
