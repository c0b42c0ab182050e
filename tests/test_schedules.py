from __future__ import annotations

import copy
import itertools
import math
import pickle
import sys
from dataclasses import FrozenInstanceError, dataclass
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from descend import schedules
from descend.schedules import (
    Schedule,
    base,
    clamp,
    constant,
    cosine,
    cyclical,
    epochs,
    exp_range,
    exponential,
    function,
    inverse_sqrt,
    linear,
    linear_cosine,
    multistep,
    noam,
    noisy_linear_cosine,
    normalized_decay,
    one_cycle,
    one_cycle_momentum,
    parse,
    polynomial,
    restart,
    snapshot,
    step,
    triangular,
    triangular2,
    warm_restarts,
    warmup,
)

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
    st.builds(polynomial, lengths, power=st.floats(0.1, 4), end=numbers),
    st.builds(linear_cosine, lengths, periods=st.floats(0.1, 30), alpha=numbers),
    st.builds(noisy_linear_cosine, lengths, variance=st.floats(0.1, 2), seed=st.integers(0, 9)),
    st.builds(lambda n, count: snapshot(n, min(n, count)), lengths, st.integers(1, 7)),
    st.builds(one_cycle, st.integers(20, 60), up=st.floats(0.2, 0.4), three=st.booleans(), straight=st.booleans()),
    st.builds(one_cycle_momentum, st.integers(20, 60), low=numbers, three=st.booleans()),
    st.builds(lambda n, low: clamp(linear(n, 2.0), low=low, high=low + 1), lengths, numbers),
)
own = st.one_of(st.builds(function, st.just(halves), length=lengths), st.builds(sine, lengths))
factors = st.floats(0.01, 1)
endless = st.one_of(
    st.builds(constant, numbers),
    st.builds(exponential, lengths, factor=factors),
    st.builds(inverse_sqrt, lengths),
    st.builds(step, lengths, factor=factors),
    st.builds(
        lambda steps, factor: multistep(*steps, factor=factor), st.sets(lengths, min_size=1).map(sorted), factors
    ),
    st.builds(noam, lengths, lengths),
    st.builds(
        warm_restarts, lengths, mult=st.sampled_from([1, 1.3, 2]), floor=st.floats(-1, 0.9), decay=st.floats(0.1, 1)
    ),
    st.builds(triangular, lengths, down=st.none() | lengths, floor=numbers),
    st.builds(triangular2, lengths, floor=numbers),
    st.builds(exp_range, lengths, gamma=factors),
    st.builds(normalized_decay, lengths, mult=st.sampled_from([1, 1.3, 2])),
)


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


ended = combined(finite | own)
anything = tails(ended) | st.just(function(halves))
readable = tails(combined(finite))
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


@law(readable)
def test_text_reads_back_without_being_evaluated(a):
    assert parse(str(a)) == a


@law(anything)
def test_cycles_end_within_the_length_and_rise(a):
    ends = list(itertools.islice(a.cycles(), 9))
    assert all(type(end) is int and end >= 1 for end in ends)
    assert ends == sorted(set(ends))
    assert a.length is None or not ends or ends[-1] <= a.length


@law(anything)
def test_a_cycle_ends_where_the_list_says(a):
    ends = set(itertools.takewhile(lambda end: end <= 200, a.cycles()))
    assert {s for s in range(201) if a.ends_cycle(s)} == ends


def test_the_end_of_a_cycle_far_out_is_found_without_walking():
    for schedule in (warm_restarts(10), triangular(3, 7), warmup(10) >> warm_restarts(10), 0.5 * warm_restarts(10)):
        assert schedule.ends_cycle(10**15)
        assert not schedule.ends_cycle(10**15 + 1)
    assert clamp(warm_restarts(10, mult=2), low=0.1).ends_cycle(10 * (2**40 - 1))


def test_cycles_of_what_is_joined_and_multiplied():
    joined = warmup(5) >> cosine(10) >> linear(3, 1.0, 1.0) >> 0.5 * warm_restarts(4, mult=2)
    assert list(itertools.islice(joined.cycles(), 4)) == [15, 22, 30, 46]
    assert list((snapshot(12, 3) * cosine(8) * cosine(6)).cycles()) == [4, 6, 8, 12]
    assert list(constant().cycles()) == list(linear(3).cycles()) == []
    assert list(restart(10, periods=3).cycles()) == [4, 7, 10]
    assert list(clamp(cosine(3), low=0.1).cycles()) == [3]
    assert list(restart(3, periods=5).cycles()) == [1, 2, 3]
    assert list(snapshot(10, 6).cycles()) == [2, 4, 6, 8, 10]


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
    assert set(listed) == set(schedules.__all__) - {
        "Schedule",
        "catalog",
        "epochs",
        "function",
        "parse",
        "register",
        "to_torch",
    }
    assert listed["cosine"].startswith("Half a cosine")
    assert all(line.endswith(".") for line in listed.values())


def test_an_own_schedule_is_registered_once(monkeypatch):
    monkeypatch.setattr(base, "_constructors", dict(base._constructors))
    assert schedules.register(sine) is sine
    assert schedules.catalog()["sine"] == "Own schedule as a dataclass."
    with pytest.raises(ValueError, match=r"'sine' is registered already: choose another name"):
        schedules.register(sine)


def test_a_picture_of_a_schedule():
    def points(chart):
        [rows] = chart.to_dict()["datasets"].values()
        return rows

    drawn = warm_restarts(100, mult=2).plot()
    rows = points(drawn)
    assert [rows[0], rows[-1]["step"]] == [{"step": 0, "multiplier": 1.0}, 1499]
    assert drawn.to_dict()["title"] == "warm_restarts(100, mult=2)"
    assert len(points(cosine(10).plot())) == 11
    assert len(points(cosine(10**6).plot())) < 5000
    assert points(cosine(10).plot(3))[-1]["step"] == 2


def test_a_picture_needs_altair(monkeypatch):
    monkeypatch.setitem(sys.modules, "altair", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs altair: pip install 'descend\[lab\]'"):
        cosine(3).plot()


def test_lengths_in_epochs():
    assert epochs(10, steps_per_epoch=391) == 3910
    assert epochs(0.5, 391) == 196
    with pytest.raises(ValueError, match=r"epochs: 0.001 epochs of 10 steps are no whole step"):
        epochs(0.001, 10)


def test_noise_is_decided_by_seed_and_step():
    schedule = noisy_linear_cosine(1000, seed=3)
    assert schedule(7) == noisy_linear_cosine(1000, seed=3)(7) != noisy_linear_cosine(1000, seed=4)(7)
    assert schedule(7.9) != schedule(8.0)
    # Where the line and its cosine are at 1, what is added is the noise: of mean 0 and variance 1 / (1 + s)**decay.
    many = [
        noisy_linear_cosine(10**9, beta=10.0, decay=0.0, seed=seed)(s) - 11 for seed in range(5) for s in range(4000)
    ]
    assert np.mean(many) == pytest.approx(0, abs=0.03)
    assert np.std(many) == pytest.approx(1, abs=0.03)
    late = [noisy_linear_cosine(10**12, beta=10.0)(10**6 + s) - 11 for s in range(4000)]
    assert np.std(late) == pytest.approx(1e6 ** (-0.55 / 2), rel=0.05)
    assert min(noisy_linear_cosine(1000, variance=4.0).values(1000)) == 0.0


def test_bounds():
    assert (
        clamp(linear(10), low=0.25, high=0.75).values(11)
        == [0.75] * 3 + [0.7, 0.6, 0.5, 0.4, pytest.approx(0.3)] + [0.25] * 3
    )


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
        (lambda: step(3, factor=0), ValueError, "step: factor must be a number above 0, at most 1; got 0"),
        (lambda: exponential(3, factor=1.5), ValueError, "exponential: factor must be a number above 0, at most 1"),
        (lambda: multistep(), ValueError, r"multistep: milestones must be one whole number or more, rising; got \(\)"),
        (lambda: multistep(3, 3), ValueError, "multistep: milestones must be one whole number or more, rising"),
        (lambda: multistep(3, 2.5), ValueError, f"multistep: milestones {WHOLE}; got 2.5"),
        (lambda: warm_restarts(3, mult=0.5), ValueError, "warm_restarts: mult must be 1 or more; got 0.5"),
        (lambda: warm_restarts(3, floor=1), ValueError, "warm_restarts: floor must be below 1; got 1.0"),
        (lambda: warm_restarts(3, decay=2), ValueError, "warm_restarts: decay must be a number above 0, at most 1"),
        (lambda: snapshot(3, 4), ValueError, "snapshot: count must be at most the number of steps, 3; got 4"),
        (lambda: triangular(3, down=0), ValueError, f"triangular: down {WHOLE}; got 0"),
        (lambda: one_cycle(3), ValueError, "with n=3 and up=0.3 a part has no step of its own"),
        (lambda: one_cycle(100, up=1), ValueError, "one_cycle: up must be a number between 0 and 1; got 1"),
        (lambda: one_cycle(100, up=0.6, three=True), ValueError, "with n=100 and up=0.6 a part has no step"),
        (lambda: one_cycle(100, three=1), TypeError, "one_cycle: three must be True or False; got 1"),
        (lambda: noam(0, 10), ValueError, f"noam: d_model {WHOLE}; got 0"),
        (lambda: noisy_linear_cosine(3, seed=-1), ValueError, "seed must be a whole number from 0 up; got -1"),
        (lambda: clamp(0.1), TypeError, r"clamp: schedule must be a schedule; got 0.1: for a number use constant\(\)"),
        (lambda: clamp(cosine(3), low=2, high=1), ValueError, "clamp: low must be at most high; got 2.0 and 1.0"),
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


@pytest.mark.parametrize("name", sorted(base.constructors()))
def test_no_step_is_infinite(name):
    made = EXAMPLES.get(name, f"{name}(10)")
    with pytest.raises(ValueError, match="s is the number of steps already applied, from 0 up; got inf"):
        parse(made)(math.inf)


EXAMPLES = {
    "multistep": "multistep(3, 6)",
    "noam": "noam(512, 4000)",
    "snapshot": "snapshot(10, 2)",
    "clamp": "clamp(cosine(10), low=0.1)",
    "noisy_linear_cosine": "noisy_linear_cosine(10, seed=0)",
}


def test_steps_of_numpy_and_torch():
    schedule = restart(10**6, periods=10**4)
    assert schedule(np.int32(999_999)) == schedule(torch.tensor(999_999)) == schedule(999_999)


def test_runs_of_nearly_one_length_are_walked_in_proportion():
    schedule = warm_restarts(1, mult=1.00001)
    ends = list(itertools.islice(schedule.cycles(), 100_000))
    assert schedule.values(ends[-1] + 1)[-1] == 1.0  # copying what was walked took minutes


def test_the_last_step_is_drawn():
    rows = next(iter(cosine(5001).plot().to_dict()["datasets"].values()))
    assert rows[-1] == {"step": 5001, "multiplier": 0.0}
