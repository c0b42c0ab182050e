"""The leaderboard: the best of a search trained again, beside known rules, with seeds that selected nothing.

    1. grid     the recipe's seven rates, the seeds of the search, to the last step: halving may have dropped the rate
                that is best in the end
    2. refined  a quarter of a decade below and above the best of these, the same seeds
    3. fresh    the best of these, with fresh seeds; this alone is compared

Rows are sorted by mean fresh loss and parted into tiers: the first of a tier is its best, and a rule belongs to it as
long as the 95 % interval of their paired difference, seed by seed, contains 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from descend.experiments.statistics import mean_interval
from descend.experiments.workers import Here, Pool
from descend.rule import Rule
from descend.search import shipped
from descend.search.evaluation import Outcome, Recipe, Rules, Trainings
from descend.search.screening import Screening
from descend.search.shipped import Shipped
from descend.search.space import Space
from descend.search.store import Store

FRESH_SEEDS: Final = tuple(range(2, 10))
"""Seeds that selected nothing."""
REFINED: Final = (10**-0.25, 1.0, 10**0.25)
"""Factors of the best rate."""
TOP: Final = 30


class Stage(Protocol):
    """Tells of a stage."""

    def __call__(self, what: str, total: int) -> Callable[[int], None]:
        """A stage of so many rules begins; what is returned is told of every number of finished ones."""


@dataclass(frozen=True)
class Candidate:
    """What takes part.

    Attributes:
        key: under which its results are kept.
        rules: whose member it is.
        member: it.
        size: of its update on probes.
        name: of a known rule; empty for what was found.
        reward: in the search; None for what it did not find.
    """

    key: str
    rules: Rules[Any]
    member: Any
    size: float
    name: str = ""
    reward: float | None = None

    @property
    def rule(self) -> Rule:
        """The rule."""
        return self.rules.rule(self.member)


@dataclass(frozen=True)
class Row:
    """What became of a candidate.

    Attributes:
        candidate: it.
        selection: what it came to at the chosen rate with the seeds of the search.
        fresh: likewise with fresh seeds.
        mean, low, high: of the fresh losses, with the 95 % interval; infinite and None where it diverged.
        tier: from 1.
        difference: its fresh loss less that of the best of its tier: mean and interval; None for the best itself.
    """

    candidate: Candidate
    selection: Outcome
    fresh: Outcome
    mean: float
    low: float | None
    high: float | None
    tier: int = 0
    difference: tuple[float, float | None, float | None] | None = None

    @property
    def accuracy(self) -> float:
        """The mean accuracy with fresh seeds."""
        return math.fsum(self.fresh.accuracies) / len(self.fresh.accuracies)


def candidates(
    space: Space[Any], screening: Screening[Any], found: Mapping[str, tuple[Any, float]], top: int
) -> list[Candidate]:
    """Return who takes part: the known rules, and the best of what was found that is none of them.

    Args:
        space: that was searched.
        screening: what is known of its members.
        found: members with their rewards by class, in the order of their evaluation.
        top: how many at most.
    """
    known = {shipped.examined(name).key: name for name in shipped.NAMES}
    ranked = sorted(found.items(), key=lambda entry: -entry[1][1])
    own = [
        Candidate(key, space, member, screening.examine(member).size, reward=reward)
        for key, (member, reward) in ranked
        if key not in known and reward > 0
    ]
    others = []
    for key, name in known.items():
        _, reward = found.get(key, (None, None))
        rules = Shipped(tuple(shipped.fixed(name).items()))
        others.append(Candidate(name, rules, name, shipped.examined(name).size, name, reward))
    return [*own[:top], *others]


def train(
    among: Sequence[Candidate], recipe: Recipe, fresh: Sequence[int], store: Store, hands: Here | Pool, stage: Stage
) -> list[Row]:
    """Train candidates, or what is missing of that, and return the leaderboard.

    Args:
        among: the candidates.
        recipe: of the search.
        fresh: seeds.
        store: of the results.
        hands: what does the work.
        stage: tells of it.
    """
    steps, count = recipe.rungs[-1][0], len(recipe.rates)
    whole = replace(recipe, rungs=((steps, count),))
    rates = [[rate / one.size for rate in recipe.rates] for one in among]
    grid = _stage("grid", among, rates, whole, store, hands, stage)
    near = replace(recipe, rungs=((steps, len(REFINED)),), rates=REFINED)
    rates = [[outcome.rate * factor for factor in REFINED] for outcome in grid]
    refined = _stage("refined", among, rates, near, store, hands, stage)
    last = replace(recipe, rungs=((steps, 1),), rates=(1.0,), seeds=tuple(fresh))
    found = _stage("fresh", among, [[outcome.rate] for outcome in refined], last, store, hands, stage)
    return ranked(
        [
            Row(one, chosen, outcome, *mean_interval(outcome.losses))
            for one, chosen, outcome in zip(among, refined, found, strict=True)
        ]
    )


def _stage(
    name: str,
    among: Sequence[Candidate],
    rates: Sequence[Sequence[float]],
    recipe: Recipe,
    store: Store,
    hands: Here | Pool,
    stage: Stage,
) -> list[Outcome]:
    """Train all candidates at their rates: those of one space, with one set of hyper-parameters, together."""
    done = stage(name, len(among))
    outcomes: dict[str, Outcome] = {}
    groups: dict[int, list[int]] = {}
    kinds: list[Rules[Any]] = []
    for place, one in enumerate(among):
        if one.rules not in kinds:
            kinds.append(one.rules)
        groups.setdefault(kinds.index(one.rules), []).append(place)
    for kind, places in groups.items():
        trainings: Trainings[Any] = Trainings(kinds[kind], recipe, store, hands, name)
        wanted = [(among[place].key, among[place].member, rates[place]) for place in places]
        outcomes |= dict(zip((key for key, _, _ in wanted), trainings(wanted, done), strict=True))
    return [outcomes[one.key] for one in among]


def ranked(rows: Sequence[Row]) -> list[Row]:
    """Sort rows by mean fresh loss, and part them into tiers; the sentence on tiers stands above."""
    result: list[Row] = []
    best: Row | None = None
    tier = 0
    for row in sorted(rows, key=lambda row: row.mean):
        difference = None if best is None else paired(row, best)
        if difference is None or not _may_be_0(difference):
            best, tier, difference = row, tier + 1, None
        result.append(replace(row, tier=tier, difference=difference))
    return result


def paired(row: Row, other: Row) -> tuple[float, float | None, float | None]:
    """Return the mean difference of fresh losses, seed by seed, with its 95 % interval."""
    if math.isinf(row.mean) and math.isinf(other.mean):
        return 0.0, None, None
    return mean_interval([mine - theirs for mine, theirs in zip(row.fresh.losses, other.fresh.losses, strict=True)])


def _may_be_0(difference: tuple[float, float | None, float | None]) -> bool:
    mean, low, high = difference
    if low is None or high is None:  # a single seed, or one that diverged
        return math.isfinite(mean)
    return low <= 0 <= high
