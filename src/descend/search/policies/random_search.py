"""Random search: the policy that every other one has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Generic

from descend.schedules.arguments import whole
from descend.search.policies.base import Result, check_told, checked_seed, register
from descend.search.space import Member, Space


@register
class RandomSearch(Generic[Member]):
    """Every proposal is a member drawn anew; nothing is learned, and repeats are not avoided.

    A search counts distinct evaluations, so that a repeat costs it nothing. Bergstra & Bengio 2012, JMLR 13, is the
    case for comparing with it.

    Args:
        space: what to draw from.
        seed: a whole number from 0 up.

    Raises:
        TypeError, ValueError: naming the argument.
    """

    name = "random"

    def __init__(self, space: Space[Member], *, seed: int = 0) -> None:
        self._space = space
        self._random = Random(checked_seed(self.name, seed))

    def ask(self, count: int) -> list[Member]:
        """Return so many members, drawn independently."""
        return [self._space.random(self._random) for _ in range(whole("count", count))]

    def tell(self, members: Sequence[Member], results: Sequence[Result]) -> None:
        """Check the results and forget them."""
        check_told(members, results)
