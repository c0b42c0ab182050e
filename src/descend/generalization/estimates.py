"""Means with their standard errors and intervals, without SciPy, which the core does without."""

from __future__ import annotations

import math
from collections.abc import Sequence


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error, which is infinite for one value."""
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return mean, math.inf
    return mean, math.sqrt(math.fsum((one - mean) ** 2 for one in values) / (count - 1) / count)


def interval(mean: float, error: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a mean by Student's t over so many values; itself where nothing was drawn."""
    reach = student(count - 1) * error if count > 1 else error
    return mean - reach, mean + reach


def student(freedom: int, share: float = 0.975) -> float:
    """Return a quantile of Student's t, by bisection of its distribution function; without SciPy, which core lacks.

    Args:
        freedom: degrees, 1 or more.
        share: of the distribution below, from a half to 1.
    """
    low, high = 0.0, 1e3
    while high - low > 1e-9 * max(1.0, low):
        middle = (low + high) / 2
        low, high = (middle, high) if _below(middle, freedom) < share else (low, middle)
    return (low + high) / 2


def _below(t: float, freedom: int) -> float:
    """The distribution function of Student's t from 0 up, in closed form (Abramowitz & Stegun 26.7.3, 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    is_odd = freedom % 2 == 1
    term = cosine if is_odd else 1.0
    total = 0.0 if freedom == 1 else term
    for number in range(3 if is_odd else 2, freedom - 1, 2):
        term *= cosine**2 * (number - 1) / number
        total += term
    return 0.5 + (angle + sine * total) / math.pi if is_odd else 0.5 + sine * total / 2
