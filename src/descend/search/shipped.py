"""The known rules that a leaderboard shows beside what was found: this library's own, trained like any other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from descend.experiments import rule_files, search_space
from descend.rule import Rule
from descend.search.known import SENTENCES, program_of
from descend.search.nos import SEPARATOR, Nos
from descend.search.probes import Examined
from descend.search.programs import Programs, parse
from descend.search.screening import Screening

NAMES: Final = ("adam", "adamw", "sgd", "signum", "rmsprop", "powersign", "addsign", "lion")
_MOMENTUM: Final = "x1 = mul(m, 0.9); m = add(x1, g); update = mul(m, 1.0)"
"""SGD with a momentum of 0.9; that the rule begins with the gradient itself is no other number, and no program says."""


@dataclass(frozen=True)
class Shipped:
    """This library's rules as what is trained: a member is a name.

    Args:
        fixed: hyper-parameters that differ from the rules' defaults, as comparisons have them.
    """

    fixed: tuple[tuple[str, Any], ...] = ()

    def rule(self, member: str) -> Rule:
        """Return the rule."""
        return rule_files.rule(member)

    def schedules(self, steps: int) -> Mapping[str, Any]:
        """Return the hyper-parameters."""
        return dict(self.fixed)

    def encode(self, member: str) -> str:
        """Return the name."""
        return member


def fixed(name: str) -> dict[str, Any]:
    """Return the hyper-parameters at which a rule is compared, where they differ from its defaults."""
    return dict(search_space.space(name).fixed)


@cache
def examined(name: str) -> Examined:
    """Return what probes say of a shipped rule: its class, and the size that rates are relative to."""
    if name == "sgd":
        return Screening(Programs(("m",))).examine(parse(_MOMENTUM))
    program, memory = program_of(rule_files.rule(name), **fixed(name))
    return Screening(Programs(memory)).examine(program)


@cache
def names_of_classes() -> Mapping[str, str]:
    """Return the names of the known rules by class: those above, and sentences such as plain gradient descent."""
    found: dict[str, str] = {}
    for name, text in SENTENCES.items():
        space = Nos(len(text.split(SEPARATOR)))
        found[Screening(space).examine(space.decode(text)).key] = "sgd without momentum" if name == "sgd" else name
    return found | {examined(name).key: name for name in NAMES}
