"""Regularized evolution: a population in which the oldest dies, however good it is."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable, Sequence
from itertools import cycle, islice
from random import Random
from typing import Final, Generic, NamedTuple

from descend.schedules.arguments import finite, whole
from descend.search.policies.base import Result, check_told, checked_seed, register
from descend.search.space import Member, Space

_TRIES: Final = 100  # mutations of one parent, before a child is taken although it was seen


class _Living(NamedTuple, Generic[Member]):
    member: Member
    reward: float


@register
class Evolution(Generic[Member]):
    """Regularized (ageing) evolution. Real et al. 2019, arXiv:1802.01548, Algorithm 1.

    The population is a queue. Of `tournament` members drawn from it with replacement, the best one is the parent of the
    next proposal, a mutation of it. What is told enters the queue, and the oldest leaves it. The first `population`
    proposals are random; with `start` the queue begins full of known members instead, as Chen et al. 2023,
    arXiv:2302.06675, begin with AdamW.

    Where we differ: proposals come in rounds, so the parents of a round are chosen from the population as it was at the
    ask. Invalid proposals do not enter, so that the queue may fill only later; as long as it is empty, proposals are
    random. Repeats do enter, with the reward of the first time: what is found again and again stays alive. A child is
    mutated twice with probability `second`, for what one change cannot reach. A child that `identify` finds invalid or
    seen is skipped with probability `skip` before it is proposed; after 99 skips in a row the next child is proposed
    whatever it is.

    Args:
        space: what to search.
        seed: a whole number from 0 up.
        identify: a member's class, equal for members that are the same rule in other words; None for an invalid one.
        population: how many live.
        tournament: how many compete to be a parent; at most `population`. More is greedier.
        second: the probability of a second mutation of a child.
        skip: the probability of mutating the parent anew when its child was proposed before or is invalid.
        start: members that fill the population, repeated in turn up to `population`; each distinct one is proposed
            once. Until the first of them is told, they are themselves the parents. None begins at random.

    Raises:
        TypeError, ValueError: naming the argument.
    """

    name = "evolution"

    def __init__(
        self,
        space: Space[Member],
        *,
        seed: int = 0,
        identify: Callable[[Member], Hashable | None],
        population: int = 50,
        tournament: int = 10,
        second: float = 0.1,
        skip: float = 0.9,
        start: Sequence[Member] | None = None,
    ) -> None:
        if not callable(identify):
            raise TypeError(f"evolution: identify must be a function of a member; got {identify!r}")
        size = whole("evolution: population", population)
        self._tournament = whole("evolution: tournament", tournament)
        if self._tournament > size:
            raise ValueError(f"evolution: tournament must be at most the population, {size}; got {tournament!r}")
        self._second = _probability("evolution: second", second)
        self._skip = _probability("evolution: skip", skip)
        self._random = Random(checked_seed(self.name, seed))
        self._start = _checked_start(start, size)
        self._copies = Counter(islice(cycle(self._start), size))
        self._unproposed = deque(dict.fromkeys(self._start))
        self._strangers = 0 if self._start else size  # random proposals to come
        self._space = space
        self._identify = identify
        self._seen: set[Hashable | None] = {None}  # what is invalid is skipped alike
        self._population: deque[_Living[Member]] = deque(maxlen=size)

    def ask(self, count: int) -> list[Member]:
        """Return so many proposals: what is left of the start, else children, or random members at the beginning."""
        alive = list(self._population)
        return [self._propose(alive) for _ in range(whole("count", count))]

    def tell(self, members: Sequence[Member], results: Sequence[Result]) -> None:
        """Let the members with a reward enter the population, and the oldest leave it."""
        check_told(members, results)
        for member, result in zip(members, results, strict=True):
            copies = self._copies.pop(member, 1)  # of a start, when it is told for the first time
            if result.reward is not None:
                self._population.extend([_Living(member, float(result.reward))] * copies)

    def _propose(self, alive: Sequence[_Living[Member]]) -> Member:
        if self._unproposed:
            return self._see(self._unproposed.popleft())
        if self._strangers or not (alive or self._start):
            self._strangers = max(self._strangers - 1, 0)
            return self._see(self._space.random(self._random))
        return self._child(self._parent(alive) if alive else self._random.choice(self._start))

    def _parent(self, alive: Sequence[_Living[Member]]) -> Member:
        return max(self._random.choices(alive, k=self._tournament), key=lambda living: living.reward).member

    def _child(self, parent: Member) -> Member:
        for _ in range(_TRIES):
            child = self._space.mutate(parent, self._random)
            if self._random.random() < self._second:
                child = self._space.mutate(child, self._random)
            kind = self._identify(child)
            known = kind in self._seen
            if not known or self._random.random() >= self._skip:
                break
        self._seen.add(kind)
        return child

    def _see(self, member: Member) -> Member:
        self._seen.add(self._identify(member))
        return member


def _probability(where: str, value: float) -> float:
    if not 0 <= finite(where, value) <= 1:
        raise ValueError(f"{where} must be a probability, from 0 to 1; got {value!r}")
    return float(value)


def _checked_start(start: Sequence[Member] | None, population: int) -> tuple[Member, ...]:
    if start is None:
        return ()
    members = tuple(start)
    if not 1 <= len(members) <= population:
        raise ValueError(
            f"evolution: start must have 1 to {population} members, as many as the population at most; got "
            f"{len(members)}: give fewer, raise population, or give None to begin at random"
        )
    return members
