"""Times of several ways to do the same, taken in turns, so that what disturbs the machine disturbs all of them."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

Step = Callable[[], object]
WARM_UP = 3
"""Rounds that are not timed: the first steps make state, compile, and bring memory in."""

TO_BE_WARM = 4
"""Steps of one contestant in a row after which its memory is in the caches; from then on its times do not fall."""


@dataclass(frozen=True)
class Timing:
    """Times of one contestant, in seconds.

    Attributes:
        median: of all rounds.
        low, high: the quartiles.
        n: the number of rounds.
    """

    median: float
    low: float
    high: float
    n: int


def summary(seconds: list[float]) -> Timing:
    """The median and the quartiles of some times; of a single one, itself."""
    if len(seconds) == 1:
        return Timing(seconds[0], seconds[0], seconds[0], 1)
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return Timing(median, low, high, len(seconds))


def interleaved(
    steps: Mapping[str, Step], rounds: int, warm: bool = False, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Timing]:
    """Time every contestant once per round; who begins changes from round to round.

    Args:
        steps: the contestants.
        rounds: how often each is timed, after three rounds that are not.
        warm: let each take four untimed steps more at the beginning of its turn, after which its memory is in the
            caches; otherwise the others' steps have left what they touched there, as a model's passes do.
        clock: gives the time in seconds.
    """
    names = list(steps)
    times: dict[str, list[float]] = {name: [] for name in names}
    with _without_collections():
        for turn in range(-WARM_UP, rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                for _ in range(TO_BE_WARM if warm else 0):
                    steps[name]()
                start = clock()
                steps[name]()
                if turn >= 0:
                    times[name].append(clock() - start)
    return {name: summary(seconds) for name, seconds in times.items()}


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch, and kernels, use so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _without_collections() -> Iterator[None]:
    """Let no garbage collection fall into somebody's turn."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
