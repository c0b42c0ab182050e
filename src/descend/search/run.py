"""A search: rounds until the budget is spent, each kept as soon as it is paid for.

A search that was stopped is played again: what the store holds costs nothing, and rounds keep the time that they took
when they were paid for, so that a budget of time is spent once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, Generic

from descend.experiments.errors import UsageError
from descend.experiments.run_directory import Kind
from descend.search import policies
from descend.search.budget import Budget
from descend.search.nos import Nos
from descend.search.policies import Evolution, Policy
from descend.search.programs import Programs
from descend.search.progress import Counts, Progress
from descend.search.rounds import Evaluate, Round, rounds
from descend.search.screening import Screening
from descend.search.space import Member, Space
from descend.search.store import Store

SEARCH: Final = Kind("search", "search.db", "results", "search.json", "search.html", 1, folders=("rules", "held-out"))
"""The directory of a search."""
MAP: Final = Kind("search --map", "map.db", "results", "map.npz", "map.html", 1, added=("classes.npz",))
"""The directory of a map."""
SPACES: Final = ("nos", "programs")
_SHOWN: Final = 3


@dataclass
class Found(Generic[Member]):
    """What a search came to.

    Attributes:
        counts: how much was done.
        members: the first member of every class that was trained, with its reward, by class, in order.
        improvements: the numbers of the evaluations, from 1, that were better than all before, with their classes.
        best: the best members with their rewards, as many as are shown.
    """

    counts: Counts = field(default_factory=Counts)
    members: dict[str, tuple[Member, float]] = field(default_factory=dict)
    improvements: list[tuple[int, str]] = field(default_factory=list)
    best: list[tuple[Member, float]] = field(default_factory=list)

    @property
    def best_rewards(self) -> list[float]:
        """The best reward after each evaluation."""
        best, rewards = 0.0, []
        for _, reward in self.members.values():
            best = max(best, reward)
            rewards.append(best)
        return rewards

    def add(self, finished: Round[Member], seconds: float, verdict: Callable[[Member], str]) -> None:
        """Count a finished round."""
        counts = self.counts
        counts.rounds += 1
        counts.seconds += seconds
        counts.proposals += len(finished.proposals)
        for proposal in finished.proposals:
            if proposal.key is None or proposal.result.reward is None:
                said = verdict(proposal.member)
                counts.invalid[said] = counts.invalid.get(said, 0) + 1
            elif proposal.result.repeat:
                counts.repeats += 1
            else:
                self._enter(proposal.key, proposal.member, proposal.result.reward)

    def _enter(self, key: str, member: Member, reward: float) -> None:
        if not self.best or reward > self.best[0][1]:
            self.improvements.append((len(self.members) + 1, key))
        self.members[key] = (member, reward)
        self.counts.evaluated += 1
        self.best = sorted([*self.best, (member, reward)], key=lambda entry: -entry[1])[:_SHOWN]


def space(name: str, depth: int | None = None, decays: bool = False) -> Nos | Programs:
    """Return a space by its name.

    Raises:
        UsageError: there is none of this name, or it has no such settings.
    """
    if name == "nos":
        if depth is not None and (isinstance(depth, bool) or depth not in (1, 2, 3)):
            raise UsageError(f"depth is {depth!r}; a sentence has 1, 2 or 3 groups")
        return Nos(1 if depth is None else depth, decays)
    if name != "programs":
        raise UsageError(f"space is {name!r}; choose {' or '.join(SPACES)}")
    if depth is not None:
        raise UsageError("programs have no depth; leave --depth out, or search --space nos")
    if decays:
        raise UsageError("programs have no decays; leave --decays out, or search --space nos")
    return Programs()


def policy(name: str, space: Nos | Programs, screening: Screening[Any], seed: int) -> Policy[Any]:
    """Return a policy by its name, with its settings by default; evolution of programs starts from AdamW.

    Raises:
        UsageError: there is none of this name, it does not fit the space, or the seed is none.
    """
    known = policies.catalog()
    if name not in known:
        raise UsageError(f"policy is {name!r}; choose {', '.join(known)}")
    options: dict[str, Any] = {"seed": seed}
    if known[name] is Evolution:
        options["identify"] = screening.identify
        if isinstance(space, Programs):
            options["start"] = [space.start]
    if name == "controller" and isinstance(space, Programs):
        raise UsageError("a controller writes sentences, and programs are none; take --policy evolution or random")
    make: Callable[..., Policy[Any]] = known[name]
    try:
        return make(space, **options)
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from None


def search(
    policy: Policy[Member],
    space: Space[Member],
    screening: Screening[Member],
    evaluate: Evaluate[Member],
    store: Store,
    budget: Budget,
    progress: Progress,
    say: Callable[[Member], str] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Found[Member]:
    """Search until the budget is spent, or nothing new is proposed any more.

    A budget of evaluations is met exactly. One of time ends the search after the first round at whose end the rounds
    together have taken it.

    Args:
        policy: what proposes.
        space: what it searches.
        screening: what is known of its members.
        evaluate: trains them.
        store: keeps how long rounds took.
        budget: of the search.
        progress: is told of every round.
        say: writes a member for it; by default as the space does.
        clock: gives the time in seconds.
    """
    found: Found[Member] = Found()
    known = store.seconds()
    say = cache(say or space.encode)
    progress.searching(budget.amount, budget.unit)
    began = clock()
    for finished in rounds(policy, screening.identify, evaluate, limit=budget.evaluations):
        taken = clock() - began
        store.add_round(finished.number, taken)
        seconds = known.get(finished.number, taken)
        found.add(finished, seconds, lambda member: screening.examine(member).verdict)
        best = [(reward, say(member)) for member, reward in found.best]
        progress.searched(done(found.counts, budget), found.counts, best)
        if budget.seconds is not None and found.counts.seconds >= budget.seconds:
            break
        began = clock()
    return found


def done(counts: Counts, budget: Budget) -> int:
    """How much of a budget is spent, in its whole units."""
    return counts.evaluated if budget.evaluations is not None else min(int(counts.seconds), budget.amount)
