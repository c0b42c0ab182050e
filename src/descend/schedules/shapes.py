"""Schedules that rise or fall once: lines, powers, steps, cosines, and what is made of other schedules."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import NormalDist

from descend.schedules.arguments import convert, factor, finite, positive, whole
from descend.schedules.base import OfLength, Schedule, register


@register
@dataclass(frozen=True, repr=False)
class constant(Schedule):
    """The same value at every step, without end.

    value: the multiplier, a finite number.
    """

    value: float = 1.0

    def __post_init__(self) -> None:
        convert(self, value=finite)

    def __call__(self, s: float) -> float:
        """Return `value`."""
        self.held(s)
        return self.value


@register
@dataclass(frozen=True, repr=False)
class linear(OfLength):
    """A straight line: start + (end - start) * s / n.

    n: length in steps. start, end: the values at s = 0 and s = n, finite numbers; both are met exactly.
    `linear(n)` is the linear decay f(t) of PowerSign and AddSign (Bello et al. 2017, arXiv:1709.07417).
    """

    start: float = 1.0
    end: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        convert(self, start=finite, end=finite)

    def __call__(self, s: float) -> float:
        """Return start + (end - start) * s / n."""
        x = self.held(s) / self.n
        change = self.end - self.start
        # Measured from the nearer end: both ends are exact, and so is a line that does not change.
        return self.start + change * x if x < 0.5 else self.end - change * (1 - x)


@register
@dataclass(frozen=True, repr=False)
class polynomial(OfLength):
    """A power of the steps that are left: end + (1 - end) * (1 - s / n)**power.

    n: length in steps. power: above 0; 1 is a line. end: the value at s = n, a finite number.
    torch's PolynomialLR with end = 0.
    """

    power: float = 1.0
    end: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        convert(self, power=positive, end=finite)

    def __call__(self, s: float) -> float:
        """Return end + (1 - end) * (1 - s / n)**power."""
        height = float((1 - self.held(s) / self.n) ** self.power)
        return height + self.end * (1 - height)


@register
@dataclass(frozen=True, repr=False)
class exponential(Schedule):
    """A fall by a factor every n steps, without end: factor**(s / n).

    n: steps, a whole number. factor: above 0, at most 1.
    `exponential(1, factor=gamma)` is torch's ExponentialLR.
    """

    n: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        convert(self, n=whole, factor=factor)

    def __call__(self, s: float) -> float:
        """Return factor**(s / n)."""
        return float(self.factor ** (self.held(s) / self.n))


@register
@dataclass(frozen=True, repr=False)
class inverse_sqrt(Schedule):
    """The inverse square root of the steps, from 1 and without end: 1 / sqrt(1 + s / n).

    n: steps after which it has fallen to 1 / sqrt(2), a whole number. `warmup(n) >> inverse_sqrt(n)` falls as the
    schedule of Vaswani et al. 2017 with n warm-up steps does, one step later, and peaks at 1.
    """

    n: int

    def __post_init__(self) -> None:
        convert(self, n=whole)

    def __call__(self, s: float) -> float:
        """Return 1 / sqrt(1 + s / n)."""
        return 1 / math.sqrt(1 + self.held(s) / self.n)


@register
@dataclass(frozen=True, repr=False)
class step(Schedule):
    """A fall by a factor at every n-th step, without end: factor**floor(s / n).

    n: steps between two falls, a whole number. factor: above 0, at most 1. torch's StepLR.
    """

    n: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        convert(self, n=whole, factor=factor)

    def __call__(self, s: float) -> float:
        """Return factor**floor(s / n)."""
        return float(self.factor ** (self.held(s) // self.n))


@register
@dataclass(frozen=True, repr=False, init=False)
class multistep(Schedule):
    """A fall by a factor at each of several steps, without end: factor**(how many of them are past).

    milestones: the steps at which it falls, whole numbers, rising. factor: above 0, at most 1. torch's MultiStepLR.
    """

    milestones: tuple[int, ...]
    factor: float = 0.1

    def __init__(self, *milestones: int, factor: float = 0.1) -> None:
        object.__setattr__(self, "milestones", milestones)
        object.__setattr__(self, "factor", factor)
        convert(self, milestones=_rising, factor=_factor)

    def __call__(self, s: float) -> float:
        """Return factor**(how many milestones are past)."""
        return float(self.factor ** bisect_right(self.milestones, self.held(s)))

    def __repr__(self) -> str:
        arguments = list(map(repr, self.milestones)) + ([] if self.factor == 0.1 else [f"factor={self.factor!r}"])
        return f"multistep({', '.join(arguments)})"


@register
@dataclass(frozen=True, repr=False)
class cosine(OfLength):
    """Half a cosine from 1 down to a floor: floor + (1 - floor) * (1 + cos(pi * s / n)) / 2.

    n: length in steps. floor: the value at s = n, a finite number; 1 and the floor are met exactly.
    One run of SGDR (Loshchilov & Hutter 2017, arXiv:1608.03983, equation 5); its end ends a cycle.
    """

    floor: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        convert(self, floor=finite)

    def __call__(self, s: float) -> float:
        """Return floor + (1 - floor) * (1 + cos(pi * s / n)) / 2."""
        height = half_wave(self.held(s) / self.n)
        return height + self.floor * (1 - height)

    def cycles(self) -> Iterator[int]:
        """Yield n."""
        yield self.n


@register
@dataclass(frozen=True, repr=False)
class linear_cosine(OfLength):
    """A line times cosine waves: (alpha + 1 - s / n) * (1 + cos(2 * pi * periods * s / n)) / 2 + beta.

    n: length in steps. periods: the number of waves in it, above 0. alpha: added to the line. beta: the value where the
    product ends, at half a wave. By the documentation of TensorFlow's linear_cosine_decay, which names Bello et al.
    2017 (arXiv:1709.07417) as its source; with the defaults it starts at 1 + beta.
    """

    periods: float = 0.5
    alpha: float = 0.0
    beta: float = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        convert(self, periods=positive, alpha=finite, beta=finite)

    def __call__(self, s: float) -> float:
        """Return (alpha + 1 - s / n) * (1 + cos(2 * pi * periods * s / n)) / 2 + beta."""
        return self._between(s, 0.0)

    def _between(self, s: float, noise: float) -> float:
        x = self.held(s) / self.n
        return (self.alpha + (1 - x) + noise) * waves(self.periods, self.held(s), self.n) + self.beta


@register
@dataclass(frozen=True, repr=False)
class noisy_linear_cosine(linear_cosine):
    """`linear_cosine` with Gaussian noise added to its line, of variance variance / (1 + s)**decay.

    n, periods, alpha, beta: as there. variance: of the noise at s = 0. decay: how fast it falls. seed: a whole number
    from 0 up. Each step has noise of its own that seed and step alone decide, so a resumed run sees the same. Values
    below 0, which the formula gives while the noise is large, are 0 here: no step climbs the gradient. By the
    documentation of TensorFlow's noisy_linear_cosine_decay, where they stay negative.
    """

    variance: float = 1.0
    decay: float = 0.55
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        convert(self, variance=positive, decay=finite, seed=lambda where, value: whole(where, value, least=0))

    def __call__(self, s: float) -> float:
        """Return max(0, (alpha + 1 - s / n + noise) * (1 + cos(2 * pi * periods * s / n)) / 2 + beta)."""
        at = int(self.held(s))
        noise = math.sqrt(self.variance / (1 + at) ** self.decay) * _standard_normal(self.seed, at)
        return max(0.0, self._between(s, noise))


@register
@dataclass(frozen=True, repr=False)
class warmup(OfLength):
    """A straight line up to 1: (s + 1) / n, then 1.

    n: length in steps. The first update already has 1 / n and the last one of the warm-up, s = n - 1, has 1: none is
    spent on a rate of 0. Gradual warm-up (Goyal et al. 2017, arXiv:1706.02677, section 2.2), from 0.
    """

    def __call__(self, s: float) -> float:
        """Return (s + 1) / n, and 1 from s = n - 1 on."""
        return min(1.0, (self.held(s) + 1) / self.n)


@register
@dataclass(frozen=True, repr=False)
class noam(Schedule):
    """The Transformer's rate, no multiplier: min(t**-0.5, t * warmup**-1.5) / sqrt(d_model) with t = s + 1.

    d_model: width of the embedding, a whole number. warmup: steps of the linear rise. The peak is
    1 / sqrt(d_model * warmup) at t = warmup: 6.98771e-4 for 512 and 4,000. Equation 3 of Vaswani et al. 2017
    (arXiv:1706.03762), whose Adam has beta2 = 0.98 and eps = 1e-9. Tensor2Tensor's "noam" is 10 times its learning
    rate times this; OpenNMT multiplies it by a rate, often 2: `2 * noam(512, 8000)`.
    """

    d_model: int
    warmup: int

    def __post_init__(self) -> None:
        convert(self, d_model=whole, warmup=whole)

    def __call__(self, s: float) -> float:
        """Return min(t**-0.5, t * warmup**-1.5) / sqrt(d_model), t = s + 1."""
        t = self.held(s) + 1
        return float(min(t**-0.5, t * self.warmup**-1.5) / math.sqrt(self.d_model))


@register
@dataclass(frozen=True, repr=False)
class clamp(Schedule):
    """A schedule kept within bounds: min(max(schedule(s), low), high).

    schedule: any. low, high: finite numbers, low at most high; None is no bound.
    """

    schedule: Schedule
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, Schedule):
            raise TypeError(f"clamp: schedule must be a schedule; got {self.schedule!r}: for a number use constant()")
        for name in ("low", "high"):
            if getattr(self, name) is not None:
                convert(self, **{name: finite})
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"clamp: low must be at most high; got {self.low!r} and {self.high!r}")
        object.__setattr__(self, "length", self.schedule.length)

    def __call__(self, s: float) -> float:
        """Return min(max(schedule(s), low), high)."""
        value = self.schedule(s)
        value = value if self.low is None else max(value, self.low)
        return value if self.high is None else min(value, self.high)

    def cycles(self) -> Iterator[int]:
        """Yield those of the schedule."""
        return self.schedule.cycles()

    def ends_cycle(self, s: int) -> bool:
        """Tell whether one of the schedule has ended."""
        return self.schedule.ends_cycle(s)


@dataclass(frozen=True, repr=False)
class function(Schedule):
    """A plain function of s as a schedule, to be joined, multiplied and given to an optimizer.

    fn: takes s, returns a number; it must depend on s alone. A lambda can be neither pickled nor read back from
    print, a module's function can. length: in steps, after which the value at s = length is held; None is endless.
    """

    fn: Callable[[float], float]
    length: int | None = None

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise TypeError(f"function: fn must be callable with s; got {self.fn!r}; for a number use constant()")
        if self.length is not None:
            convert(self, length=whole)

    def __call__(self, s: float) -> float:
        """Return fn(s)."""
        return float(self.fn(self.held(s)))


def half_wave(x: float) -> float:
    """(1 + cos(pi * x)) / 2: from exactly 1 at x = 0 to exactly 0 at x = 1."""
    return 0.5 * (1 + math.cos(math.pi * x))


def waves(periods: float, s: float, n: int) -> float:
    """(1 + cos(2 * pi * periods * s / n)) / 2."""
    # Whole waves are taken off before the angle is formed: that is exact, while pi times a large number is not.
    return half_wave(2 * math.fmod(periods * s, n) / n)


_factor = factor  # the name is a field above


def _rising(where: str, value: object) -> tuple[int, ...]:
    assert isinstance(value, tuple)
    steps = tuple(whole(where, one) for one in value)
    if not steps or any(later <= earlier for earlier, later in itertools.pairwise(steps)):
        raise ValueError(f"{where} must be one whole number or more, rising; got {value!r}")
    return steps


def _standard_normal(seed: int, s: int) -> float:
    """A number that seed and step decide, as if drawn from the standard normal distribution: splitmix64, inverted."""
    bits = (seed * 0xD1342543DE82EF95 + (s + 1) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return NormalDist().inv_cdf(((bits ^ (bits >> 31)) >> 11) / 2**53 + 2**-54)
