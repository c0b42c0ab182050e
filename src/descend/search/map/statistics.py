"""Rank correlation and bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
WithInterval = tuple[float, float, float]
"""A value and its 95 % interval."""

_RESAMPLES, _FEWER, _MANY = 2000, 200, 3000  # fewer suffice for many observations, and their time counts
_TAILS: Final = (2.5, 97.5)


def ranks(values: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Numbers:
    """The rank of each value, equal ones sharing their mean; with weights, a value counts as so many of its kind."""
    found, inverse = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True)
    heavy = np.ones(len(inverse)) if weights is None else np.asarray(weights, dtype=np.float64)
    mass = np.bincount(inverse, heavy, len(found))
    middles: Numbers = (np.cumsum(mass) - (mass - 1) / 2)[inverse]
    return middles


def spearman(one: npt.ArrayLike, other: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """Spearman's rank correlation, of weighted observations where weights are given; NaN without any spread."""
    x, y = ranks(one, weights), ranks(other, weights)
    heavy = np.ones(len(x)) if weights is None else np.asarray(weights, dtype=np.float64)
    x, y = x - np.average(x, weights=heavy), y - np.average(y, weights=heavy)
    spread = np.sqrt((heavy * x * x).sum() * (heavy * y * y).sum())
    return float((heavy * x * y).sum() / spread) if spread > 0 else float("nan")


def bootstrap(
    statistic: Callable[[npt.NDArray[np.int64]], float], groups: Sequence[npt.NDArray[np.int64]], seed: int = 0
) -> WithInterval:
    """A statistic with its 95 % percentile interval, every group resampled by itself.

    Args:
        statistic: of the places of observations.
        groups: the places, by group, such as the strata of a sample.
        seed: of the draws.
    """
    random = np.random.default_rng(seed)
    count = _RESAMPLES if sum(map(len, groups)) < _MANY else _FEWER
    drawn = [statistic(np.concatenate([random.choice(group, len(group)) for group in groups])) for _ in range(count)]
    kept = [value for value in drawn if np.isfinite(value)]
    low, high = np.percentile(kept, _TAILS) if kept else (np.nan, np.nan)
    return float(statistic(np.concatenate(groups))), float(low), float(high)


def correlation(one: npt.ArrayLike, other: npt.ArrayLike) -> WithInterval:
    """Spearman's correlation with its interval over the observations."""
    x, y = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    return bootstrap(lambda drawn: spearman(x[drawn], y[drawn]), [np.arange(len(x))])


def paired(differences: npt.ArrayLike) -> WithInterval:
    """The mean of differences, one per seed, with Student's 95 % interval."""
    values = np.asarray(differences, dtype=np.float64)
    mean = float(values.mean())
    half = _student(len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def _student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, to three digits."""
    table = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
    if not 1 <= freedom <= len(table):
        raise ValueError(f"there are differences of 2 to {len(table) + 1} seeds in a map, not {freedom + 1}")
    return table[freedom - 1]
