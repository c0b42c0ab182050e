"""Schedules that come back: warm restarts, cyclical rates, one cycle."""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock

from descend.schedules.arguments import convert, factor, finite, flag, positive, share, whole
from descend.schedules.base import OfLength, Schedule, register
from descend.schedules.shapes import half_wave, waves

_starts: dict[tuple[int, float], list[int]] = {}
"""First steps of runs that were walked already, by period and mult; they only grow."""
_walking = Lock()


@register
@dataclass(frozen=True, repr=False)
class warm_restarts(Schedule):
    """Cosine runs from a peak down to a floor, each followed by a restart at the peak, without end.

    period: steps of the first run, a whole number. mult: each run is so many times as long as the one before, 1 or
    more; lengths are rounded to whole steps. floor: where runs end, below 1. decay: each peak is so many times the one
    before, above 0, at most 1, and never below the floor.

    SGDR (Loshchilov & Hutter 2017, arXiv:1608.03983, equation 5), with eta_max = 1: floor + (peak - floor) *
    (1 + cos(pi * T_cur / T_i)) / 2, where T_cur counts updates and fractions of them. The restart is the update with
    T_cur = 0: s = period, period * (1 + mult), ... . Momentum and moments are kept by it. torch's
    CosineAnnealingWarmRestarts wants a whole T_mult; its closed form with logarithms is at the floor at some restarts.
    """

    period: int
    mult: float = 1
    floor: float = 0.0
    decay: float = 1.0

    def __post_init__(self) -> None:
        convert(self, period=whole, mult=_at_least_one, floor=finite, decay=factor)
        if self.floor >= 1:
            raise ValueError(f"warm_restarts: floor must be below 1; got {self.floor!r}")

    def __call__(self, s: float) -> float:
        """Return floor + (peak - floor) * (1 + cos(pi * T_cur / T_i)) / 2."""
        index, start, length = _run(self.period, self.mult, self.held(s))
        height = half_wave((s - start) / length)
        peak = max(self.decay**index, self.floor)
        return peak * height + self.floor * (1 - height)

    def cycles(self) -> Iterator[int]:
        """Yield the ends of runs, which are the restarts, without end."""
        return itertools.accumulate(_length(self.period, self.mult, index) for index in itertools.count())

    def ends_cycle(self, s: int) -> bool:
        """Tell whether a run has ended, without walking all of them."""
        return s > 0 and _run(self.period, self.mult, s)[1] == s


@register
@dataclass(frozen=True, repr=False)
class normalized_decay(Schedule):
    """1 / sqrt(T), where T is the number of steps of the run of `warm_restarts` that s is in; no multiplier.

    period, mult: as there. A weight decay times this is the normalised decay of Loshchilov & Hutter 2019
    (arXiv:1711.05101, appendix B.1): w_norm * sqrt(b / (B * T_i)) with T_i epochs of B examples in batches of b, which
    are B * T_i / b steps. It is computed anew for each run, as in the authors' code. For training without restarts the
    period is all of its steps.
    """

    period: int
    mult: float = 1

    def __post_init__(self) -> None:
        convert(self, period=whole, mult=_at_least_one)

    def __call__(self, s: float) -> float:
        """Return 1 / sqrt(T)."""
        return 1 / math.sqrt(_run(self.period, self.mult, self.held(s))[2])


@register
@dataclass(frozen=True, repr=False)
class snapshot(OfLength):
    """Cosine runs of one length for a snapshot ensemble: (1 + cos(pi * (s mod c) / c)) / 2, c = ceil(n / count).

    n: updates in all. count: the number of runs, each of which ends with a snapshot; `cycles()` yields where. Where
    they do not divide n, the last run is cut short, and with few steps per run there are fewer: 5 of 2 steps each for
    n = 10 and a count of 6. Huang et al. 2017 (arXiv:1704.00109, equation 2), whose iteration t
    is s + 1: each run begins at exactly 1, and its last update has a little more than 0. The authors' code is one
    update ahead.
    """

    count: int

    def __post_init__(self) -> None:
        super().__post_init__()
        convert(self, count=whole)
        if self.count > self.n:
            raise ValueError(f"snapshot: count must be at most the number of steps, {self.n}; got {self.count}")

    def __call__(self, s: float) -> float:
        """Return (1 + cos(pi * (s mod c) / c)) / 2; from s = n on, where the last run has ended."""
        s, run = self.held(s), -(-self.n // self.count)
        last = (self.n - 1) // run * run
        return half_wave((s - last if s >= last else s % run) / run)

    def cycles(self) -> Iterator[int]:
        """Yield the ends of runs, n the last."""
        run = -(-self.n // self.count)
        return (min(start + run, self.n) for start in range(0, self.n, run))


@register
@dataclass(frozen=True, repr=False)
class cyclical(OfLength):
    """Cosine waves between 1 and 0: (1 + cos(2 * pi * periods * s / n)) / 2.

    n: length in steps. periods: the number of waves in it, above 0; the default, half a wave, ends at 0.
    The cyclical decay f(t) of PowerSign and AddSign (Bello et al. 2017, arXiv:1709.07417).
    """

    periods: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        convert(self, periods=positive)

    def __call__(self, s: float) -> float:
        """Return (1 + cos(2 * pi * periods * s / n)) / 2."""
        return waves(self.periods, self.held(s), self.n)


@register
@dataclass(frozen=True, repr=False)
class restart(OfLength):
    """Runs from 1 down to 0, each restarting at 1: (1 + cos(pi * (periods * s mod n) / n)) / 2.

    n: length in steps of all runs together. periods: the number of runs, a whole number from 1 up.
    The decay with restarts f(t) of PowerSign and AddSign (Bello et al. 2017, arXiv:1709.07417). Taken literally,
    and in the code published with the paper, the formula is back at 1 at s = n, where a further run would begin.
    Here the value at s = n is 0, the end of the last run, since it is held from there on; below n they agree.
    """

    periods: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        convert(self, periods=whole)

    def __call__(self, s: float) -> float:
        """Return (1 + cos(pi * (periods * s mod n) / n)) / 2 before s = n and 0 from there on."""
        position = self.periods * self.held(s)
        ended = position >= self.periods * self.n
        return half_wave(1.0 if ended else position % self.n / self.n)

    def cycles(self) -> Iterator[int]:
        """Yield the steps at which runs have ended."""
        ends = (-(-index * self.n // self.periods) for index in range(1, self.periods + 1))
        return (end for end, _ in itertools.groupby(ends))  # several end at a step where there are more runs than steps


@dataclass(frozen=True, repr=False)
class _Triangles(Schedule):
    """Lines up from a floor to a peak and down again, without end."""

    up: int
    down: int | None = None
    floor: float = 0.0

    def __post_init__(self) -> None:
        convert(self, up=whole, floor=finite)
        if self.down is not None:
            convert(self, down=whole)

    def __call__(self, s: float) -> float:
        """Return floor + (1 - floor) * height * peak."""
        down = self.down or self.up
        s = self.held(s)
        index, position = divmod(s, self.up + down)
        height = position / self.up if position <= self.up else (self.up + down - position) / down
        return self.floor + (1 - self.floor) * height * self._peak(int(index), s)

    def cycles(self) -> Iterator[int]:
        """Yield the steps at which it is down at the floor again, without end."""
        return itertools.count(self._length, self._length)

    def ends_cycle(self, s: int) -> bool:
        """Tell whether it is down at the floor again, without walking all cycles."""
        return s > 0 and s % self._length == 0

    @property
    def _length(self) -> int:
        return self.up + (self.down or self.up)

    @abstractmethod
    def _peak(self, index: int, s: float) -> float:
        """How high a cycle goes at s, as a share of the way from the floor to 1."""


@register
@dataclass(frozen=True, repr=False)
class triangular(_Triangles):
    """Straight lines from a floor up to 1 and down again, without end.

    up: steps of the way up (the paper's stepsize, half a cycle: 2 to 10 epochs). down: steps of the way down, by
    default as many. floor: where a cycle begins, base rate / largest rate. Smith 2017 (arXiv:1506.01186), "triangular".
    torch's CyclicLR moves the momentum as well unless it is told not to; the paper does not.
    """

    def _peak(self, index: int, s: float) -> float:
        return 1.0


@register
@dataclass(frozen=True, repr=False)
class triangular2(_Triangles):
    """`triangular`, the way from floor to peak being halved after every cycle.

    up, down, floor: as there. Smith 2017 (arXiv:1506.01186), "triangular2".
    """

    def _peak(self, index: int, s: float) -> float:
        return 0.5**index


@register
@dataclass(frozen=True, repr=False)
class exp_range(_Triangles):
    """`triangular`, the way from the floor up shrinking with every step: times gamma**s.

    up, down, floor: as there. gamma: above 0, at most 1. Smith 2017 (arXiv:1506.01186), "exp_range"; s counts from the
    beginning of training, not of the cycle, as in the author's code.
    """

    gamma: float = 0.99994

    def __post_init__(self) -> None:
        super().__post_init__()
        convert(self, gamma=factor)

    def _peak(self, index: int, s: float) -> float:
        return float(self.gamma**s)


@register
@dataclass(frozen=True, repr=False)
class one_cycle(OfLength):
    """One way up to 1, down, and far below the start: exactly at `final` in the last of n updates, s = n - 1.

    n: updates, 3 or more. up: share of them on the way up. start: the value at s = 0. final: the value at s = n - 1,
    which is held. three: go down to `start` in as many steps as up, and only then to `final`, as the paper does; by
    default one way down. straight: lines; by default half cosines.

    Smith & Topin 2017 (arXiv:1708.07120): "1cycle". Defaults are those of torch's OneCycleLR: start 1/25, final
    start / 1e4 = 4e-6. fastai's fit_one_cycle has up = 0.25 and final 1e-5 of the peak; the paper says no more than
    "several orders of magnitude" below. `one_cycle_momentum` is the twin that moves the momentum against it.
    """

    up: float = 0.3
    start: float = 0.04
    final: float = 4e-6
    three: bool = False
    straight: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        convert(self, up=share, start=finite, final=finite, three=flag, straight=flag)
        _check_phases(self.n, self.up, self.three)

    def __call__(self, s: float) -> float:
        """Return the value on the way up, down, or out."""
        corners = (self.start, 1.0, self.start, self.final) if self.three else (self.start, 1.0, self.final)
        return _along(self.held(s), _corners(self.n, self.up, self.three), corners, self.straight)

    def cycles(self) -> Iterator[int]:
        """Yield n."""
        yield self.n


@register
@dataclass(frozen=True, repr=False)
class one_cycle_momentum(OfLength):
    """The momentum of `one_cycle`: from 1 down to `low` where the rate peaks, and back to 1.

    n, up, three, straight: as there. low: the least, as a share of the largest, 0.85 / 0.95 by default:
    `momentum=0.95 * one_cycle_momentum(1000)`, or `betas=(0.95 * one_cycle_momentum(1000), 0.99)`.
    """

    low: float = 0.85 / 0.95
    up: float = 0.3
    three: bool = False
    straight: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        convert(self, low=finite, up=share, three=flag, straight=flag)
        _check_phases(self.n, self.up, self.three)

    def __call__(self, s: float) -> float:
        """Return the value on the way down and up again."""
        corners = (1.0, self.low, 1.0, 1.0) if self.three else (1.0, self.low, 1.0)
        return _along(self.held(s), _corners(self.n, self.up, self.three), corners, self.straight)


def _length(period: int, mult: float, index: int) -> int:
    """Steps of a run; exact where mult is a whole number, as Python's are unbounded."""
    return round(period * mult**index)


def _run(period: int, mult: float, s: float) -> tuple[int, int, int]:
    """Index, first step and length of the run that s is in."""
    if mult == 1:
        index = int(s // period)
        return index, index * period, period
    starts = _starts.setdefault((period, mult), [0])
    if starts[-1] <= s:
        with _walking:
            while starts[-1] <= s:
                starts.append(starts[-1] + _length(period, mult, len(starts) - 1))
    index = bisect_right(starts, s) - 1
    return index, starts[index], starts[index + 1] - starts[index]


def _corners(n: int, up: float, three: bool) -> tuple[float, ...]:
    """Where the ways of one cycle begin and end, in steps; fractions of one, as in torch."""
    top = up * n - 1
    return (0.0, top, 2 * top, n - 1) if three else (0.0, top, n - 1)


def _check_phases(n: int, up: float, three: bool) -> None:
    corners = _corners(n, up, three)
    if any(end <= begin for begin, end in itertools.pairwise(corners)):
        raise ValueError(
            f"one_cycle: with n={n} and up={up:g} a part has no step of its own; take more steps, or another up"
        )


def _along(s: float, corners: tuple[float, ...], values: tuple[float, ...], straight: bool) -> float:
    """The value at s on the way between the corners that it lies between; the last one from there on."""
    if s >= corners[-1]:
        return values[-1]
    index = max(0, bisect_right(corners, s) - 1)
    x = (s - corners[index]) / (corners[index + 1] - corners[index])
    height = 1 - x if straight else half_wave(x)
    return values[index] * height + values[index + 1] * (1 - height)


def _at_least_one(where: str, value: object) -> float:
    number = positive(where, value)
    if number < 1:
        raise ValueError(f"{where} must be 1 or more; got {value!r}")
    return int(number) if number == int(number) else number
