"""What a search may cost: so much time, or so many distinct evaluations."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

from descend.experiments.errors import UsageError

_SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}
_REMEDY: Final = "give a time, such as 90s, 20m or 1.5h, or a number of distinct evaluations, such as 2000"


@dataclass(frozen=True)
class Budget:
    """One of the two.

    Attributes:
        evaluations: distinct classes of rules that are trained; None where time counts.
        seconds: that rounds may take; None where evaluations count.
    """

    evaluations: int | None = None
    seconds: float | None = None

    @property
    def unit(self) -> str:
        """What is counted, in the plural."""
        return "seconds" if self.evaluations is None else "evaluations"

    @property
    def amount(self) -> int:
        """How much, in whole units."""
        return math.ceil(self.seconds or 0) if self.evaluations is None else self.evaluations


def parse(given: str | int) -> Budget:
    """Read a budget.

    Raises:
        UsageError: it is neither a time nor a number above 0.
    """
    text = str(given).strip()
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)([smh]?)", text)
    if isinstance(given, bool) or not found:
        raise UsageError(f"budget is {given!r}; {_REMEDY}")
    number, unit = found.groups()
    if not unit and not number.isdecimal():
        raise UsageError(f"budget is {given!r}, no whole number of evaluations; {_REMEDY}")
    if float(number) == 0:
        raise UsageError(f"budget is {given!r}, which is nothing; {_REMEDY}")
    return Budget(seconds=float(number) * _SECONDS[unit]) if unit else Budget(evaluations=int(number))
