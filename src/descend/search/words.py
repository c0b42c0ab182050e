"""The grammar of programs, as data: what a statement may call, on values of what kind."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class Kind(IntEnum):
    """What a value is: true or false for each element, one number for a parameter, or a number for each element."""

    CONDITION = 0
    NUMBER = 1
    ELEMENT = 2


@dataclass(frozen=True)
class Word:
    """A row of the grammar.

    Attributes:
        text: how it is written in Python, {0} and so on being its arguments.
        takes: the kind of each argument; where an element is taken, a number will do.
        gives: the kind of its value; None is the highest among its arguments' kinds, conditions apart.
    """

    text: str
    takes: tuple[Kind, ...]
    gives: Kind | None = None

    def kind(self, given: tuple[Kind, ...]) -> Kind | None:
        """The kind of its value for arguments of these kinds; None where it does not take them."""
        for wanted, kind in zip(self.takes, given, strict=True):
            if (wanted is Kind.CONDITION) != (kind is Kind.CONDITION) or kind > wanted:
                return None
        if self.gives is not None:
            return self.gives
        return max((kind for kind in given if kind is not Kind.CONDITION), default=Kind.ELEMENT)

    def written(self, args: Sequence[str | float]) -> str:
        """How it is written for these arguments, in Python; expressions among them stand in parentheses."""
        shown = [arg if isinstance(arg, str) else _number(arg) for arg in args]
        if not any(isinstance(arg, str) for arg in args):  # Python would calculate what the formula is to hold
            shown = [f"constant({arg})" for arg in shown]
        return self.text.format(*shown)


def _number(value: float) -> str:
    return f"({value!r})" if math.copysign(1, value) < 0 else repr(value)


_E: Final = Kind.ELEMENT
_N: Final = Kind.NUMBER

WORDS: Final[Mapping[str, Word]] = {
    "neg": Word("-{0}", (_E,)),
    "abs": Word("abs({0})", (_E,)),
    "sign": Word("sign({0})", (_E,)),
    "square": Word("{0} * {0}", (_E,)),
    "sqrt": Word("sqrt(abs({0}))", (_E,)),
    "exp": Word("exp({0})", (_E,)),
    "log": Word("log(abs({0}))", (_E,)),
    "tanh": Word("tanh({0})", (_E,)),
    "add": Word("{0} + {1}", (_E, _E)),
    "sub": Word("{0} - {1}", (_E, _E)),
    "mul": Word("{0} * {1}", (_E, _E)),
    "div": Word("{0} / {1}", (_E, _E)),
    "pow": Word("{0} ** {1}", (_E, _E)),
    "minimum": Word("minimum({0}, {1})", (_E, _E)),
    "maximum": Word("maximum({0}, {1})", (_E, _E)),
    "clip": Word("clip({0}, -{1}, {1})", (_E, _E)),
    "interp": Word("ema({1}, {0}, {2})", (_E, _E, _E)),
    "keep": Word("keep({0}, {1})", (_E, _N), _E),
    "normal": Word("normal({0})", (_E,), _E),
}
"""The functions of the program space: those of Chen et al. 2023, arXiv:2302.06675, that this language has, on elements.

interp(x, y, a) is (1 - a) x + a y, as there. sqrt and log take the magnitude of their argument, as there and in the
sentences of Bello et al.; div does not avoid 0, and pow of a negative number is NaN.
"""
