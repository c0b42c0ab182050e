"""Intervals and medians of few seeds, against SciPy and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from descend.experiments import statistics


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=9))
def test_the_interval_is_students(values):
    from scipy import stats

    mean, low, high = statistics.mean_interval(values)
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    half = stats.t.ppf(0.975, len(values) - 1) * error
    assert mean == pytest.approx(np.mean(values), abs=1e-12)
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=1e-9)


def test_no_interval_from_one_value_or_an_infinite_one():
    assert statistics.mean_interval([0.5]) == (0.5, None, None)
    assert statistics.mean_interval([0.5, math.inf]) == (math.inf, None, None)


@pytest.mark.parametrize(
    ("values", "median"),
    [([10, None, 30], 30), ([10, None, None], math.inf), ([10, 20, None, None], math.inf), ([10, 20, 40, None], 30)],
)
def test_misses_are_later_than_everything(values, median):
    assert statistics.median_with_misses(values) == median


@pytest.mark.parametrize(("n", "p"), [(1, 1.0), (3, 0.25), (5, 0.0625), (6, 0.03125)])
def test_smallest_sign_flip_p(n, p):
    assert statistics.smallest_sign_flip_p(n) == p
