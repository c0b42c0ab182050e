"""`Schedule`, its operators, and the catalog of schedules by name."""

from __future__ import annotations

import inspect
import itertools
import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, is_dataclass
from heapq import merge
from typing import Any, ClassVar, TypeVar

from descend.schedules.arguments import call, convert, finite, whole

_Constructor = TypeVar("_Constructor", bound=Callable[..., "Schedule"])
_constructors: dict[str, Callable[..., Schedule]] = {}

_CYCLES_SHOWN = 4  # of an endless schedule, in a plot
_STEPS_SHOWN = 1000  # of an endless schedule without cycles
_POINTS = 2000


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


def constructors() -> dict[str, Callable[..., Schedule]]:
    """Every registered schedule's class, or function that makes one, by name."""
    return dict(_constructors)


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
        if hasattr(s, "item"):  # NumPy's and torch's numbers, which may overflow
            s = s.item()
        if not 0 <= s < math.inf:
            raise ValueError(f"s is the number of steps already applied, from 0 up; got {s!r}")
        return s if self.length is None else min(s, self.length)

    def values(self, n: int) -> list[float]:
        """Multipliers of the first n updates: s = 0, 1, ..., n - 1."""
        return [self(s) for s in range(whole("values: n", n, least=0))]

    def cycles(self) -> Iterator[int]:
        """Yield the steps at which its cycles end, rising: after so many updates a snapshot is due.

        They are the ends of annealing runs, those just before a restart among them: SGDR's recommended solutions
        (Loshchilov & Hutter 2017, section 3) and the snapshots of Huang et al. 2017. Endless where the schedule is.
        """
        return iter(())

    def ends_cycle(self, s: int) -> bool:
        """Tell whether a cycle has ended after s updates: whether s is one of `cycles()`."""
        return next((end for end in self.cycles() if end >= s), None) == s

    def plot(self, n: int | None = None) -> Any:
        """Return a picture of the first n multipliers, an Altair chart.

        n: updates to show; by default the length, and of an endless schedule four cycles or 1,000 updates.
        ModuleNotFoundError if Altair, which the extra descend[lab] has, is not installed.
        """
        try:
            import altair
        except ModuleNotFoundError:
            raise ModuleNotFoundError("Schedule.plot needs altair: pip install 'descend[lab]'") from None
        shown = self._shown() if n is None else whole("plot: n", n)
        steps = {*range(0, shown, max(1, shown // _POINTS)), shown - 1}
        rows = altair.InlineData(values=[{"step": s, "multiplier": self(s)} for s in sorted(steps)])
        line = altair.Chart(rows, title=str(self)).mark_line(interpolate="linear")
        return line.encode(x=altair.X("step:Q", title="applied steps"), y=altair.Y("multiplier:Q"))

    def _shown(self) -> int:
        if self.length is not None:
            return self.length + 1
        return max(itertools.islice(self.cycles(), _CYCLES_SHOWN), default=_STEPS_SHOWN)

    def __rshift__(self, other: Schedule) -> Schedule:
        if not isinstance(other, Schedule):
            raise TypeError(f"`>>` joins schedules; got {other!r}: use constant(number) or function(f)")
        return Join(_join_parts(self) + _join_parts(other))

    def __mul__(self, other: Schedule | float) -> Schedule:
        factor, parts = _factored(self)
        if isinstance(other, Schedule):
            other_factor, other_parts = _factored(other)
            return _product(factor * other_factor, parts + other_parts)
        return _product(factor * finite("a factor of a schedule", other), parts)

    def __rmul__(self, other: float) -> Schedule:
        return self * other

    def __repr__(self) -> str:
        return call(self) if is_dataclass(self) else super().__repr__()


@dataclass(frozen=True, repr=False)
class OfLength(Schedule):
    """A schedule whose first argument is its length."""

    n: int

    def __post_init__(self) -> None:
        convert(self, n=whole)
        object.__setattr__(self, "length", self.n)


@dataclass(frozen=True, repr=False)
class Join(Schedule):
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
        """Return the value of the part that s is in."""
        s = self.held(s)
        index = bisect_right(self.starts, s) - 1
        return self.parts[index](s - self.starts[index])

    def cycles(self) -> Iterator[int]:
        """Yield those of one part after the other."""
        for start, part in zip(self.starts, self.parts, strict=True):
            yield from (start + end for end in part.cycles())

    def ends_cycle(self, s: int) -> bool:
        """Tell whether a cycle of one of them has ended."""
        return any(part.ends_cycle(s - start) for start, part in zip(self.starts, self.parts, strict=True) if s > start)

    def __repr__(self) -> str:
        return " >> ".join(map(repr, self.parts))


@dataclass(frozen=True, repr=False)
class Product(Schedule):
    """`number * a * b`; flat with the numbers multiplied out, so that equal products print and compare alike."""

    factor: float
    parts: tuple[Schedule, ...]

    def __post_init__(self) -> None:
        convert(self, factor=finite)
        lengths = [part.length for part in self.parts if part.length is not None]
        object.__setattr__(self, "length", max(lengths) if len(lengths) == len(self.parts) else None)

    def __call__(self, s: float) -> float:
        """Return the product of the parts' values."""
        s = self.held(s)
        return math.prod((part(s) for part in self.parts), start=self.factor)

    def cycles(self) -> Iterator[int]:
        """Yield those of all parts."""
        return (end for end, _ in itertools.groupby(merge(*(part.cycles() for part in self.parts))))

    def ends_cycle(self, s: int) -> bool:
        """Tell whether a cycle of one of them has ended."""
        return any(part.ends_cycle(s) for part in self.parts)

    def __repr__(self) -> str:
        # In Python `*` binds tighter than `>>`.
        parts = [f"({part!r})" if isinstance(part, Join) else repr(part) for part in self.parts]
        return " * ".join(parts if self.factor == 1 else [repr(self.factor), *parts])


def _join_parts(schedule: Schedule) -> tuple[Schedule, ...]:
    return schedule.parts if isinstance(schedule, Join) else (schedule,)


def _factored(schedule: Schedule) -> tuple[float, tuple[Schedule, ...]]:
    return (schedule.factor, schedule.parts) if isinstance(schedule, Product) else (1.0, (schedule,))


def _product(factor: float, parts: tuple[Schedule, ...]) -> Schedule:
    return parts[0] if factor == 1 and len(parts) == 1 else Product(factor, parts)
