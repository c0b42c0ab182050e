"""The grammar of the whole language: a word for every operation, and between what numbers it takes values to what."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any, Final

from descend.expr import OPERATIONS, WINDOWS
from descend.search.words import Kind, Word

NOT_DRAWN: Final = WINDOWS | {name for name, row in OPERATIONS.items() if row.whole}
"""Operations that have tests of their own, and no word."""


@dataclass(frozen=True)
class Range:
    """Two numbers that values hardly leave."""

    low: float = -math.inf
    high: float = math.inf

    def holds(self, other: Range) -> bool:
        """Whether another lies inside."""
        return self.low <= other.low and other.high <= self.high

    def clamp(self, other: Range) -> Range:
        """Another with both ends held inside."""
        return Range(*(min(max(end, self.low), self.high) for end in (other.low, other.high)))

    @property
    def ends(self) -> set[float]:
        """Where a function that is monotone or even has its extremes."""
        return {self.low, self.high, min(max(0.0, self.low), self.high)}


ANY: Final = Range()


@dataclass(frozen=True)
class Ranged(Word):
    """A word that says where its arguments are to lie, and how often it is drawn beside others.

    Past the last of `asks`, arguments may lie anywhere.
    """

    asks: tuple[Range, ...] = ()
    weight: int = 1

    @property
    def asked(self) -> tuple[Range, ...]:
        """A range for each argument."""
        return (*self.asks, *[ANY] * (len(self.takes) - len(self.asks)))

    def may_give(self, kind: Kind) -> bool:
        """Whether some arguments that it takes give a value of the kind."""
        return kind in ((Kind.NUMBER, Kind.ELEMENT) if self.gives is None else (self.gives,))

    def kinds(self, kind: Kind, random: Random) -> list[Kind]:
        """Kinds of arguments of which it gives the kind; where an element is taken, a number may do for all but one."""
        highest = kind if self.gives is None else Kind.ELEMENT
        kinds = [min(taken, highest if random.random() < 0.7 else Kind.NUMBER) for taken in self.takes]
        kinds[random.choice([at for at, taken in enumerate(self.takes) if taken])] = min(max(self.takes), highest)
        return kinds

    def range(self, *given: Range) -> Range:
        """The range of its value: its own text on the ends of its arguments' ranges, held within what it asks."""
        held = [asked.clamp(one).ends for asked, one in zip(self.asked, given, strict=True)]
        found = [x for ends in itertools.product(*held) for x in _all(self._on_numbers(*ends))]
        return Range(min(found), max(found))

    @cached_property
    def _on_numbers(self) -> Callable[..., Any]:
        holes = [f"a{number}" for number in range(len(self.takes))]
        made: Callable[..., Any] = eval(f"lambda {', '.join(holes)}: {self.text.format(*holes)}", dict(_NUMBERS))
        return made


def _all(result: Any) -> Iterator[float]:
    yield from map(float, result if isinstance(result, tuple) else (result,))


_NUMBERS: Final[Mapping[str, Any]] = {
    "sqrt": math.sqrt,
    "exp": math.exp,
    "log": math.log,
    "tanh": math.tanh,
    "sign": lambda x: (x > 0) - (x < 0),
    "minimum": min,
    "maximum": max,
    "clip": lambda x, low, high: min(max(x, low), high),
    "where": lambda condition, a, b: a if condition else b,
    "ema": lambda average, x, beta: beta * average + (1 - beta) * x,
    "keep": lambda x, q: (x, 0.0),
    "normal": lambda std: (-6 * std, 6 * std),
    **{f"{where}mean": lambda x: x for where in ("", "global_")},
    **{f"{where}sum": lambda x: (x, 100 * x) for where in ("", "global_")},
    **{f"{where}norm": lambda x: (0.0, 20 * x, -20 * x) for where in ("", "global_")},
    "eps": 1e-3,
}
"""What the operations may make of numbers: one, or several between which the result lies for tensors of usual sizes."""

_C: Final = Kind.CONDITION
_E: Final = Kind.ELEMENT
_N: Final = Kind.NUMBER
_SIGNS: Final = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
_SHARE: Final = Range(0, 1)
_POSITIVE: Final = Range(1e-3)

LANGUAGE: Final[Mapping[str, Ranged]] = {
    "neg": Ranged("-{0}", (_E,)),
    "abs": Ranged("abs({0})", (_E,)),
    "sign": Ranged("sign({0})", (_E,)),
    "sqrt": Ranged("sqrt({0})", (_E,), asks=(Range(0),)),
    "exp": Ranged("exp({0})", (_E,), asks=(Range(-6, 6),)),
    "log": Ranged("log({0})", (_E,), asks=(_POSITIVE,)),
    "tanh": Ranged("tanh({0})", (_E,)),
    "add": Ranged("{0} + {1}", (_E, _E)),
    "sub": Ranged("{0} - {1}", (_E, _E)),
    "mul": Ranged("{0} * {1}", (_E, _E)),
    "div": Ranged("{0} / {1}", (_E, _E), asks=(ANY, _POSITIVE)),
    "pow": Ranged("{0} ** {1}", (_E, _E), asks=(Range(1e-3, 100), Range(-2, 3))),
    "minimum": Ranged("minimum({0}, {1})", (_E, _E)),
    "maximum": Ranged("maximum({0}, {1})", (_E, _E)),
    "clip": Ranged("clip({0}, {1}, {2})", (_E, _E, _E), asks=(ANY, Range(-50, 0.5), Range(0.5, 50))),
    "where": Ranged("where({0}, {1}, {2})", (_C, _E, _E), _E, weight=5),
    **{op: Ranged(f"{{0}} {sign} {{1}}", (_E, _E), _C) for op, sign in _SIGNS.items()},
    **{op: Ranged(f"{op}({{0}})", (_E,), _N, weight=3) for op, row in OPERATIONS.items() if row.reduces is not None},
    "keep": Ranged("keep({0}, {1})", (_E, _E), _E, asks=(ANY, _SHARE)),
    "normal": Ranged("normal({0})", (_E,), _E),
    # what is written with several operations, or with numbers of its own
    "ema": Ranged("ema({0}, {1}, {2})", (_E, _E, _E), asks=(ANY, ANY, _SHARE)),
    "square": Ranged("{0} ** 2", (_E,)),
    "cube": Ranged("{0} ** 3", (_E,)),
    "ratio": Ranged("{0} / (abs({0}) + 1)", (_E,)),
    "above_eps": Ranged("abs({0}) + eps", (_E,)),
    "above_one": Ranged("abs({0}) + 1", (_E,)),
    # a condition does not tell what of, and a choice by elements has elements
    **{f"where_{op}": Ranged(f"where({{0}} {sign} {{1}}, {{2}}, {{3}})", (_N,) * 4, _N) for op, sign in _SIGNS.items()},
}
"""Every operation but those that are not drawn, under its name, and some words more."""

PLAIN: Final[Mapping[str, Ranged]] = {
    name: word
    for name, word in LANGUAGE.items()
    if name not in OPERATIONS or (OPERATIONS[name].reduces is None and not OPERATIONS[name].random)
}
"""The words that make the value of an element of its own arguments alone."""
