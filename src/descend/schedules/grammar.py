"""Reading schedules from text: names, numbers, `>>`, `*`, brackets and keyword arguments; nothing is evaluated."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Callable
from typing import Any

from descend.schedules.arguments import positive, whole
from descend.schedules.base import Schedule, constructors
from descend.schedules.shapes import constant

_LONGEST = 20_000  # characters
_CONSTANTS = {"True": True, "False": False, "None": None}
_EXAMPLE = 'such as "warmup(200) >> cosine(1000)"'


def epochs(count: float, steps_per_epoch: int) -> int:
    """Return how many steps so many epochs have, for the lengths of schedules; the nearest whole number.

    count: epochs, above 0; fractions are welcome. steps_per_epoch: whole. ValueError if that is no whole step.
    """
    steps = round(positive("epochs: count", count) * whole("epochs: steps_per_epoch", steps_per_epoch))
    if steps < 1:
        raise ValueError(f"epochs: {count} epochs of {steps_per_epoch} steps are no whole step; give more")
    return steps


def parse(text: str) -> Schedule:
    """Return the schedule that a text describes: what `str(schedule)` prints, or a user writes.

        parse("0.1 * (warmup(200) >> warm_restarts(500, mult=2))")

    text: calls of the names in `catalog()` with numbers, True, False, None, schedules or `epochs(...)` as arguments,
    joined by `>>` and multiplied by `*`, in brackets where need be; or a number alone, a constant. It is read, never
    evaluated.

    ValueError if it is anything else; the message shows the place.
    """
    if not isinstance(text, str):
        raise TypeError(f"parse: text must be a string; got {text!r}")
    if len(text) > _LONGEST:
        raise ValueError(f"parse: a schedule of {len(text)} characters is too long; the longest has {_LONGEST}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        place = f" (at character {error.offset})" if isinstance(error, SyntaxError) and error.offset else ""
        raise ValueError(f"schedule '{text}' cannot be read{place}; write one {_EXAMPLE}") from None
    try:
        found = _Reader(text.strip()).value(tree)
    except RecursionError:
        raise ValueError("parse: the schedule is nested too deeply; join or multiply fewer") from None
    if isinstance(found, Schedule):
        return found
    if isinstance(tree, ast.Call) or isinstance(found, bool) or found is None:
        raise ValueError(f"schedule '{text}' is none; write one {_EXAMPLE}")
    return constant(found)


class _Reader:
    """Makes values of the few kinds of nodes that the grammar has."""

    def __init__(self, text: str) -> None:
        self._text = text

    def value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=bool() | int() | float() | None):
                return node.value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
                return -number
            case ast.BinOp(op=ast.Mult() | ast.RShift()):
                return self._joined(node)
            case ast.Call(func=ast.Name(id=name)):
                return self._call(node, name)
        raise self._wrong(node, "is no part of a schedule")

    def _joined(self, node: ast.BinOp) -> Any:
        left, right = self.value(node.left), self.value(node.right)
        try:
            if isinstance(node.op, ast.RShift):
                if not isinstance(left, Schedule) or not isinstance(right, Schedule):
                    raise TypeError("`>>` joins schedules; for a number write constant(number)")
                return left >> right
            if not isinstance(left, Schedule) and not isinstance(right, Schedule):
                raise TypeError("`*` multiplies a schedule; write the product of two numbers as one")
            return left * right
        except (TypeError, ValueError) as error:
            raise self._wrong(node, f"cannot be: {error}") from None

    def _call(self, node: ast.Call, name: str) -> Any:
        known: dict[str, Callable[..., Any]] = {**constructors(), "epochs": epochs}
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known)}"
            raise ValueError(f"schedule '{self._text}': '{name}' is no schedule; {hint}")
        if any(keyword.arg is None for keyword in node.keywords):
            raise self._wrong(node, "is no part of a schedule")
        positional = [self.value(argument) for argument in node.args]
        named = {str(keyword.arg): self.value(keyword.value) for keyword in node.keywords}
        try:
            return known[name](*positional, **named)
        except (TypeError, ValueError) as error:
            raise self._wrong(node, f"cannot be: {error}") from None

    def _wrong(self, node: ast.expr, what: str) -> ValueError:
        part = ast.get_source_segment(self._text, node)
        return ValueError(f"schedule '{self._text}': '{part}' {what}")
