"""Lengths of sequences for backpropagation through time that vary from step to step."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from descend.schedules.arguments import whole

_DEVIATION = 5
_LEAST = 5
_USUAL = 0.95  # the share of sequences about the base; the others are about half of it


def sequence_lengths(base: int = 70, *, seed: int = 0) -> Iterator[int]:
    """Yield lengths of sequences for backpropagation through time, without end.

    Each is drawn from a normal distribution of deviation 5 about the base or, one time in twenty, about half of it, and
    is 5 or more (Merity, Keskar & Socher 2018, arXiv:1708.02182, section 4.1). A fixed rate would favour what is in
    short sequences: `descend.rate_scaling.rate_scaled(optimizer, length / base)` goes with them.

    Args:
        base: the usual length, 1 or more; 70 in the paper.
        seed: of the draws.

    Raises:
        ValueError: the base is below 1.
    """
    base = whole("base", base)
    draws = Random(seed)
    while True:
        middle = base if draws.random() < _USUAL else base / 2
        yield max(_LEAST, int(draws.gauss(middle, _DEVIATION)))
