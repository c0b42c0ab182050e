"""A rule in one line, for tables and progress."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from descend.rule import Rule
from descend.search.nos import Nos

LEGEND: Final = "m̂, v̂, γ̂: bias-corrected averages of g, g², g³; adam, rmsprop: the updates of these rules at rate 1"
_HELPERS: Final = ("ADAM g x x left", "RMSProp g x x left", "gamma g x x left")


def one_line(rule: Rule, **hyper_parameters: Any) -> str:
    """Return a rule's equations in one line, without those of the usual averages, which the legend explains."""
    lines = rule.text(**hyper_parameters).splitlines()
    kept = [line for line in lines[:-1] if line not in _usual()]
    return "; ".join([*kept, lines[-1]])


@cache
def _usual() -> frozenset[str]:
    space = Nos(1)
    rules = (space.rule(space.decode(text)) for text in _HELPERS)
    return frozenset(line for rule in rules for line in rule.text().splitlines()[:-1])
