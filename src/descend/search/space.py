"""What a space of update rules offers to whoever searches it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from random import Random
from typing import Protocol, TypeVar

from descend.expr import Expr
from descend.rule import Rule
from descend.schedules import Schedule

Member = TypeVar("Member")


class SearchError(ValueError):
    """A search cannot be done as asked; the message names the remedy."""


class Space(Protocol[Member]):
    """A set of update rules. A member is hashable and can be pickled; every member is a `Rule`."""

    @property
    def name(self) -> str:
        """What the command line calls it."""

    def random(self, random: Random) -> Member:
        """Draw a member."""

    def mutate(self, member: Member, random: Random) -> Member:
        """Return a member one small change away."""

    def essence(self, member: Member) -> Hashable:
        """Return what of the member matters: equal only for members with the same formula, in whatever order."""

    def update(self, member: Member) -> tuple[Expr, Mapping[str, Expr]]:
        """Return the member's update at rate 1, which p loses, and what is assigned to each slot that it needs."""

    def source(self, member: Member, name: str = "found", doc: str = "") -> str:
        """Return the member as a Python file with one rule."""

    def rule(self, member: Member, name: str = "found") -> Rule:
        """Return the member as a rule."""

    def schedules(self, steps: int) -> Mapping[str, Schedule]:
        """Return what drives the hyper-parameters, beside the rate, of a training of so many steps."""

    def encode(self, member: Member) -> str:
        """Return the member as text of one line."""

    def decode(self, text: str) -> Member:
        """Return the member of a text.

        Raises:
            SearchError: it is no member.
        """
