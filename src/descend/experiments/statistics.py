"""The statistics of a comparison: small samples of seeds, with misses and divergences in them."""

import math
import statistics
from collections.abc import Sequence


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float | None, float | None]:
    """Return the mean and the two ends of its Student t interval.

    The ends are None for fewer than two values and where a value is infinite, as no interval follows from them.
    """
    mean = sum(values) / len(values)
    if len(values) < 2 or not math.isfinite(mean):
        return mean, None, None
    from scipy.special import stdtrit  # the quantile alone; scipy.stats takes a second to import

    mean = statistics.fmean(values)
    quantile = float(stdtrit(len(values) - 1, (1 + confidence) / 2))
    half = quantile * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def median_with_misses(values: Sequence[float | None]) -> float:
    """Return the median where None is a miss, later than everything: inf when at least half of them are misses."""
    ranked = sorted(math.inf if value is None else value for value in values)
    middle = len(ranked) // 2
    if len(ranked) % 2:
        return ranked[middle]
    return (ranked[middle - 1] + ranked[middle]) / 2


def smallest_sign_flip_p(n: int) -> float:
    """Return the smallest two-sided p that an exact sign-flip test of n paired differences can give: 2 / 2^n."""
    return min(1.0, 2.0 / 2.0**n)
