"""A search, round by round: ask a policy, evaluate what is new, tell it in the order of asking.

A policy is a deterministic function of its seed and of what it is told, so a search that was stopped goes on by being
played again with the results that were kept; no state of a policy is ever stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Generic

from descend.search.policies import Policy, Result
from descend.search.space import Member

ROUND: Final = 32
"""Proposals of one round."""
_BARREN: Final = 300
"""Rounds without anything new, one after the other, after which a search ends: the policy repeats itself."""


@dataclass(frozen=True)
class Proposal(Generic[Member]):
    """One proposal: the member, its class (None if it is not worth training), and what the policy was told."""

    member: Member
    key: str | None
    result: Result


@dataclass(frozen=True)
class Round(Generic[Member]):
    """A finished round: its number, from 0, its proposals, and the classes that were seen for the first time."""

    number: int
    proposals: tuple[Proposal[Member], ...]
    new: tuple[str, ...]


Identify = Callable[[Member], str | None]
Evaluate = Callable[[Sequence[tuple[str, Member]]], Sequence[float]]
"""Rewards of members with their classes."""


def rounds(
    policy: Policy[Member],
    identify: Identify[Member],
    evaluate: Evaluate[Member],
    *,
    size: int = ROUND,
    limit: int | None = None,
) -> Iterator[Round[Member]]:
    """Yield the rounds of a search, without end if there is no limit.

    Args:
        policy: what proposes.
        identify: the class of a member; None if it is invalid.
        evaluate: is given members of classes that were not seen before, each class once.
        size: proposals per round.
        limit: how many classes are evaluated. The round that would go beyond is cut off there.
    """
    rewards: dict[str, float] = {}
    number = barren = 0
    while (limit is None or len(rewards) < limit) and barren < _BARREN:
        asked = [(member, identify(member)) for member in policy.ask(size)]
        asked, new = _up_to(asked, rewards, None if limit is None else limit - len(rewards))
        repeats = _repeats(asked, rewards)
        rewards |= dict(zip(new, evaluate(list(new.items())) if new else [], strict=True))
        results = [
            Result(None if key is None else rewards[key], repeat)
            for (_, key), repeat in zip(asked, repeats, strict=True)
        ]
        policy.tell([member for member, _ in asked], results)
        proposals = (Proposal(*pair, result) for pair, result in zip(asked, results, strict=True))
        yield Round(number, tuple(proposals), tuple(new))
        number, barren = number + 1, 0 if new else barren + 1


def _up_to(
    asked: list[tuple[Member, str | None]], known: dict[str, float], left: int | None
) -> tuple[list[tuple[Member, str | None]], dict[str, Member]]:
    """The proposals before the one that would exceed the limit, and the first member of each new class among them."""
    new: dict[str, Member] = {}
    for place, (member, key) in enumerate(asked):
        if key is not None and key not in known and key not in new:
            if left is not None and len(new) == left:
                return asked[:place], new
            new[key] = member
    return asked, new


def _repeats(asked: Sequence[tuple[Member, str | None]], known: dict[str, float]) -> list[bool]:
    """Whether each proposal's class was met before, in this round or an earlier one."""
    seen, repeats = set(known), []
    for _, key in asked:
        repeats.append(key in seen)
        if key is not None:
            seen.add(key)
    return repeats
