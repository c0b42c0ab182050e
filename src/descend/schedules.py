"""Schedules: hyper-parameters as pure functions of the step.

A schedule takes s, the number of steps already applied, and returns a multiplier. Lengths come first and are in steps;
`>>` joins, `*` multiplies, and a number times a schedule is a rate:

    from descend.schedules import cosine, warmup

    rate = 0.1 * (warmup(200) >> cosine(1000, floor=0.01))
    rate(0), rate(199), rate(1200)           # (0.0005, 0.1, 0.001)
    rate.length                              # 1200
    print(rate)                              # 0.1 * (warmup(200) >> cosine(1000, floor=0.01))
    descend.AdamW(model.parameters(), lr=rate, weight_decay=0.1)

The laws, for every schedule here:

- The first update uses s = 0. s may be fractional and as large as you like: each value is computed from s alone, so
  nothing accumulates and a resumed run needs no state but s.
- A schedule of length n holds its value at s = n from there on; one without a length (`length` is None) is endless.
- `a >> b` runs a for its length, then b from its own 0, so what is endless can only come last.
- `a * b` has the longer of the two lengths, and none if one of them has none.
- A schedule is a value: frozen, hashable, picklable, equal to what has the same parts, printed as the call that makes
  it.

An own schedule is a plain function, `function(lambda s: 0.99**s)`, or a class that subclasses `Schedule`.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from numbers import Real
from typing import Any, ClassVar, TypeVar

_Constructor = TypeVar("_Constructor", bound=Callable[..., "Schedule"])
_constructors: dict[str, Callable[..., Schedule]] = {}


def register(constructor: _Constructor) -> _Constructor:
    """Enter a schedule's class, or a function that returns a schedule, under its name in the `catalog`.

    Raises ValueError if the name is taken.
    """
    name = constructor.__name__
    if name in _constructors:
        raise ValueError(f"a schedule named {name!r} is registered already: choose another name")
    _constructors[name] = constructor
    return constructor


def catalog() -> dict[str, str]:
    """Name of every registered schedule, with the first line of its documentation."""
    return {name: (inspect.getdoc(made) or "").partition("\n")[0] for name, made in _constructors.items()}


class Schedule(ABC):
    """A pure function of s, the number of steps already applied, that returns a multiplier.

    A subclass defines `__call__(s)` and, unless it is endless, the attribute `length` in steps. From there on it holds
    its value, which is what `held` is for:

        @dataclass(frozen=True)
        class sine(Schedule):
            length: int = 100

            def __call__(self, s):
                return math.sin(math.pi * self.held(s) / self.length)
    """

    length: int | None = None
    # NumPy's scalars would otherwise take `np.float64(0.1) * schedule` for the product of two arrays.
    __array_ufunc__: ClassVar[None] = None

    @abstractmethod
    def __call__(self, s: float) -> float:
        """Multiplier of the update that follows s applied steps; ValueError if s is negative."""

    def held(self, s: float) -> float:
        """Return s while it is within the length and the length from there on; ValueError if s is not 0 or more."""
        if not s >= 0:
            raise ValueError(f"s is the number of steps already applied, from 0 up; got {s!r}")
        return s if self.length is None else min(s, self.length)

    def values(self, n: int) -> list[float]:
        """Multipliers of the first n updates: s = 0, 1, ..., n - 1."""
        return [self(s) for s in range(_whole("values: n", n, least=0))]

    def __rshift__(self, other: Schedule) -> Schedule:
        if not isinstance(other, Schedule):
            raise TypeError(f"`>>` joins schedules; got {other!r}: use constant(number) or function(f)")
        return _Join(_join_parts(self) + _join_parts(other))

    def __mul__(self, other: Schedule | float) -> Schedule:
        factor, parts = _factored(self)
        if isinstance(other, Schedule):
            other_factor, other_parts = _factored(other)
            return _product(factor * other_factor, parts + other_parts)
        return _product(factor * _finite("a factor of a schedule", other), parts)

    def __rmul__(self, other: float) -> Schedule:
        return self * other

    def __repr__(self) -> str:
        return _call(self) if is_dataclass(self) else super().__repr__()


# ---- the schedules ---------------------------------------------------------------------------------------------------


@register
@dataclass(frozen=True, repr=False)
class constant(Schedule):
    """The same value at every step, without end.

    value: the multiplier, a finite number.
    """

    value: float = 1.0

    def __post_init__(self) -> None:
        _convert(self, value=_finite)

    def __call__(self, s: float) -> float:
        """Return `value`."""
        self.held(s)
        return self.value


@dataclass(frozen=True, repr=False)
class _OfLength(Schedule):
    """A schedule whose first argument is its length."""

    n: int

    def __post_init__(self) -> None:
        _convert(self, n=_whole)
        object.__setattr__(self, "length", self.n)


@register
@dataclass(frozen=True, repr=False)
class linear(_OfLength):
    """A straight line: start + (end - start) * s / n.

    n: length in steps. start, end: the values at s = 0 and s = n, finite numbers; both are met exactly.
    `linear(n)` is the linear decay f(t) of PowerSign and AddSign (Bello et al. 2017, arXiv:1709.07417).
    """

    start: float = 1.0
    end: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _convert(self, start=_finite, end=_finite)

    def __call__(self, s: float) -> float:
        """Return start + (end - start) * s / n."""
        x = self.held(s) / self.n
        change = self.end - self.start
        # Measured from the nearer end: both ends are exact, and so is a line that does not change.
        return self.start + change * x if x < 0.5 else self.end - change * (1 - x)


@register
@dataclass(frozen=True, repr=False)
class cosine(_OfLength):
    """Half a cosine from 1 down to a floor: floor + (1 - floor) * (1 + cos(pi * s / n)) / 2.

    n: length in steps. floor: the value at s = n, a finite number; 1 and the floor are met exactly.
    One run of SGDR (Loshchilov & Hutter 2017, arXiv:1608.03983, equation 5).
    """

    floor: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _convert(self, floor=_finite)

    def __call__(self, s: float) -> float:
        """Return floor + (1 - floor) * (1 + cos(pi * s / n)) / 2."""
        height = _half_wave(self.held(s) / self.n)
        return height + self.floor * (1 - height)


@register
@dataclass(frozen=True, repr=False)
class cyclical(_OfLength):
    """Cosine waves between 1 and 0: (1 + cos(2 * pi * periods * s / n)) / 2.

    n: length in steps. periods: the number of waves in it, above 0; the default, half a wave, ends at 0.
    The cyclical decay f(t) of PowerSign and AddSign (Bello et al. 2017, arXiv:1709.07417).
    """

    periods: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        _convert(self, periods=_positive)

    def __call__(self, s: float) -> float:
        """Return (1 + cos(2 * pi * periods * s / n)) / 2."""
        # Whole waves are taken off before the angle is formed: that is exact, while pi times a large number is not.
        return _half_wave(2 * math.fmod(self.periods * self.held(s), self.n) / self.n)


@register
@dataclass(frozen=True, repr=False)
class restart(_OfLength):
    """Runs from 1 down to 0, each restarting at 1: (1 + cos(pi * (periods * s mod n) / n)) / 2.

    n: length in steps of all runs together. periods: the number of runs, a whole number from 1 up.
    The decay with restarts f(t) of PowerSign and AddSign (Bello et al. 2017, arXiv:1709.07417). Taken literally,
    and in the code published with the paper, the formula is back at 1 at s = n, where a further run would begin.
    Here the value at s = n is 0, the end of the last run, since it is held from there on; below n they agree.
    """

    periods: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _convert(self, periods=_whole)

    def __call__(self, s: float) -> float:
        """Return (1 + cos(pi * (periods * s mod n) / n)) / 2 before s = n and 0 from there on."""
        position = self.periods * self.held(s)
        ended = position >= self.periods * self.n
        return _half_wave(1.0 if ended else position % self.n / self.n)


@register
@dataclass(frozen=True, repr=False)
class warmup(_OfLength):
    """A straight line up to 1: (s + 1) / n, then 1.

    n: length in steps. The first update already has 1 / n and the last one of the warm-up, s = n - 1, has 1: none is
    spent on a rate of 0. Gradual warm-up (Goyal et al. 2017, arXiv:1706.02677, section 2.2), from 0.
    """

    def __call__(self, s: float) -> float:
        """Return (s + 1) / n, and 1 from s = n - 1 on."""
        return min(1.0, (self.held(s) + 1) / self.n)


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
            _convert(self, length=_whole)

    def __call__(self, s: float) -> float:
        """Return fn(s)."""
        return float(self.fn(self.held(s)))


# ---- what the operators make -----------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class _Join(Schedule):
    """`a >> b >> c`; flat, so that `>>` is associative in what it prints and equals, too."""

    parts: tuple[Schedule, ...]
    starts: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        starts = [0]
        for part in self.parts[:-1]:
            if part.length is None:
                raise ValueError(
                    f"nothing can follow {part!r}, which has no length: put it last, "
                    "or use a schedule that takes a length in steps, such as linear(n, start=1.0, end=1.0)"
                )
            starts.append(starts[-1] + part.length)
        last = self.parts[-1].length
        object.__setattr__(self, "starts", tuple(starts))
        object.__setattr__(self, "length", None if last is None else starts[-1] + last)

    def __call__(self, s: float) -> float:
        s = self.held(s)
        index = bisect_right(self.starts, s) - 1
        return self.parts[index](s - self.starts[index])

    def __repr__(self) -> str:
        return " >> ".join(map(repr, self.parts))


@dataclass(frozen=True, repr=False)
class _Product(Schedule):
    """`number * a * b`; flat with the numbers multiplied out, so that equal products print and compare alike."""

    factor: float
    parts: tuple[Schedule, ...]

    def __post_init__(self) -> None:
        _convert(self, factor=_finite)
        lengths = [part.length for part in self.parts if part.length is not None]
        object.__setattr__(self, "length", max(lengths) if len(lengths) == len(self.parts) else None)

    def __call__(self, s: float) -> float:
        s = self.held(s)
        return math.prod((part(s) for part in self.parts), start=self.factor)

    def __repr__(self) -> str:
        # In Python `*` binds tighter than `>>`.
        parts = [f"({part!r})" if isinstance(part, _Join) else repr(part) for part in self.parts]
        return " * ".join(parts if self.factor == 1 else [repr(self.factor), *parts])


def _join_parts(schedule: Schedule) -> tuple[Schedule, ...]:
    return schedule.parts if isinstance(schedule, _Join) else (schedule,)


def _factored(schedule: Schedule) -> tuple[float, tuple[Schedule, ...]]:
    return (schedule.factor, schedule.parts) if isinstance(schedule, _Product) else (1.0, (schedule,))


def _product(factor: float, parts: tuple[Schedule, ...]) -> Schedule:
    return parts[0] if factor == 1 and len(parts) == 1 else _Product(factor, parts)


# ---- arguments -------------------------------------------------------------------------------------------------------


def _half_wave(x: float) -> float:
    """(1 + cos(pi * x)) / 2: from exactly 1 at x = 0 to exactly 0 at x = 1."""
    return 0.5 * (1 + math.cos(math.pi * x))


def _call(instance: Any) -> str:
    """Return the call that makes a dataclass's instance: names only where there is a default, defaults left out."""
    arguments = []
    for index, argument in enumerate(fields(instance)):
        value = getattr(instance, argument.name)
        if argument.default is not MISSING and value == argument.default:
            continue
        # A function reads back by its name.
        text = getattr(value, "__qualname__", None) or repr(value)
        positional = index == 0 or argument.default is MISSING
        arguments.append(text if positional else f"{argument.name}={text}")
    return f"{type(instance).__name__}({', '.join(arguments)})"


def _convert(schedule: Schedule, **converters: Callable[[str, object], object]) -> None:
    """Check the named arguments of a frozen schedule and store them in their canonical type."""
    for name, converter in converters.items():
        value = converter(f"{type(schedule).__name__}: {name}", getattr(schedule, name))
        object.__setattr__(schedule, name, value)


def _number(wanted: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{wanted}; got {value!r} ({type(value).__name__})")
    if not math.isfinite(value):
        raise ValueError(f"{wanted}; got {value!r}")
    return value


def _finite(where: str, value: object) -> float:
    return float(_number(f"{where} must be a finite number", value))


def _positive(where: str, value: object) -> float:
    wanted = f"{where} must be a finite number above 0"
    if _number(wanted, value) <= 0:
        raise ValueError(f"{wanted}; got {value!r}")
    return _finite(where, value)


def _whole(where: str, value: object, least: int = 1) -> int:
    wanted = f"{where} must be a whole number from {least} up"
    number = _number(wanted, value)
    if number < least or number != int(number):
        raise ValueError(f"{wanted}; got {value!r}")
    return int(number)
