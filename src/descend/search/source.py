"""From Python text to a rule, and from templates to expressions: what both spaces are written with."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import descend.vocabulary as vocabulary
from descend.expr import OPERATIONS, Expr, Operand, apply, constant
from descend.expr import t as step
from descend.formula import Slot
from descend.rule import Rule

_ARITHMETIC: Final = frozenset(["add", "sub", "mul", "div", "pow", "neg", "abs", "lt", "le", "gt", "ge", "eq", "ne"])
WORDS: Final[Mapping[str, Any]] = {
    **{name: getattr(vocabulary, name) for name in (*(set(OPERATIONS) - _ARITHMETIC), "ema", "fresh")},
    "constant": constant,
    "Slot": Slot,
}
"""What a rule's text may call, by name."""

RANDOM: Final = ("keep", "normal")
"""The operations whose calls are numbered."""


class SourcedRule(Rule):
    """A rule that was made of text, so that it can be pickled."""

    def __init__(self, function: Callable[..., Mapping[str, Any]], source: str) -> None:
        super().__init__(function)
        self.written = source

    def __reduce__(self) -> tuple[Any, ...]:
        return rule_of, (self.written, self.name)


def rule_of(source: str, name: str) -> Rule:
    """Make the rule that a text defines as the function `name`.

    Raises:
        FormulaError: for what the language does not hold.
    """
    names = dict(WORDS)
    exec(compile(source, f"<rule {name}>", "exec"), names)
    made = SourcedRule(names[name], source)
    made.formula()  # what is wrong is said here
    return made


def as_file(source: str) -> str:
    """The text of one rule as a Python file that is ready to import."""
    called = {word for word in WORDS if word != "constant" and re.search(rf"(?<![\w.]){word}\(", source)}
    constants = "from descend.expr import constant\n" if re.search(r"(?<![\w.])constant\(", source) else ""
    return f"from descend import {', '.join(sorted({'rule', *called}))}\n{constants}\n\n@rule\n{source}"


class Namespace(dict[str, Any]):
    """The words of the language where no rule is being traced: calls of random operations are numbered by itself."""

    def __init__(self) -> None:
        super().__init__(WORDS)
        for op in RANDOM:
            self[op] = self._numbered(op)
        self._sites = itertools.count()

    def restart(self) -> None:
        """Number the next call 0."""
        self._sites = itertools.count()

    def _numbered(self, op: str) -> Callable[..., Expr]:
        def operation(*args: Operand) -> Expr:
            return apply(op, *args, step, site=next(self._sites))

        return operation

    def function(self, template: str, *holes: str) -> Callable[..., Any]:
        """A template such as "sqrt(abs({x}))" as a function of what its holes stand for."""
        text = template.format(**{hole: hole for hole in holes})
        made: Callable[..., Any] = eval(f"lambda {', '.join(holes)}: {text}", self)
        return made
