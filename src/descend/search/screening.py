"""What is known of a member of a space before it is trained, found out once for all members that mean the same."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic

from descend.expr import FormulaError
from descend.search.canonical import canonical, text_key
from descend.search.probes import HORIZON, Examined, examine
from descend.search.space import Member, Space


class Screening(Generic[Member]):
    """Examines members of a space on probes, with a memory.

    Args:
        space: whose members.

    Attributes:
        forms: how many canonical forms it has met.
    """

    def __init__(self, space: Space[Member]) -> None:
        self._space = space
        self._schedules = space.schedules(HORIZON)
        self._essences: dict[Hashable, Examined] = {}
        self._forms: dict[str, Examined] = {}

    @property
    def forms(self) -> int:
        """How many canonical forms it has met."""
        return len(self._forms)

    def examine(self, member: Member) -> Examined:
        """Return what probes say of a member."""
        essence = self._space.essence(member)
        if essence not in self._essences:
            self._essences[essence] = self._examine(member)
        return self._essences[essence]

    def identify(self, member: Member) -> str | None:
        """Return the class of a member: its fingerprint, or None if it is not worth training."""
        examined = self.examine(member)
        return examined.key if examined.descends else None

    def _examine(self, member: Member) -> Examined:
        try:
            update, slots = canonical(*self._space.update(member))
        except FormulaError:  # such as a slot that is given one number
            return Examined("not a rule")
        form = text_key(update, slots)
        if form not in self._forms:
            self._forms[form] = examine(update, slots, self._schedules)
        return self._forms[form]

    def verdicts(self) -> dict[str, str]:
        """Return the verdict on each canonical form that it has met."""
        return {form: examined.verdict for form, examined in self._forms.items()}
