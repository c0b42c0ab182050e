"""A benchmark of search policies with a known optimum: the complete map of depth one.

    from descend.search import benchmark

    found = benchmark.run({"mine": lambda seed: MyPolicy(benchmark.SPACE, seed=seed)}, evaluations=1000)
    print(benchmark.summary(found))

A policy proposes sentences of `SPACE` (`ask`) and is told rewards (`tell`), as `descend.search.policies` says. A class
of sentences counts as one evaluation, the first time that it is proposed; repeats and sentences that are not worth
training are free. Two numbers say how far a search has come after so many evaluations: regret, by which the best reward
found falls short of the best there is, and rank, the place of the best class found among all.

Rewards are exp(-validation cross-entropy) of the child `digits` at the best of seven rates after 30 steps, the mean of
two seeds. The best of them owes something to luck, so look at rank, too, and at intervals. Tune policies on
`TUNING_SEEDS`, and report `SEEDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from descend.search.map.enumeration import SPACE
from descend.search.map.table import Table, published
from descend.search.policies import Controller, Evolution, Policy, RandomSearch
from descend.search.rounds import rounds
from descend.search.sentences import Sentence

__all__ = ["SEEDS", "SPACE", "TUNING_SEEDS", "Curves", "policies", "run", "summary"]

SEEDS: Final = tuple(range(1000, 1030))
"""Seeds that no policy was tuned on."""
TUNING_SEEDS: Final = tuple(range(20))
_RESAMPLES: Final = 4000

MakePolicy = Callable[[int], Policy[Sentence]]
"""A policy for a seed."""


@dataclass(frozen=True, eq=False)
class Curves:
    """Searches with several seeds, after each evaluation: arrays seeds x evaluations.

    Attributes:
        seeds: of the policy.
        regrets: by which the best reward found is below the best of the map.
        ranks: the place of the best class found, 1 being the best of the map.
        proposals: how many sentences were proposed in all, per seed.
    """

    seeds: tuple[int, ...]
    regrets: npt.NDArray[np.float64]
    ranks: npt.NDArray[np.int64]
    proposals: npt.NDArray[np.int64]


def policies(table: Table | None = None) -> dict[str, MakePolicy]:
    """The policies of this library with their settings by default, and the controller as published.

    Args:
        table: the map; by default the one that comes with the library.
    """
    identify = _identify(table or published())
    return {
        "random": lambda seed: RandomSearch(SPACE, seed=seed),
        "evolution": lambda seed: Evolution(SPACE, seed=seed, identify=identify),
        "controller": lambda seed: Controller(SPACE, seed=seed),
        "controller as published": lambda seed: Controller.published(SPACE, seed=seed),
    }


def run(
    made: Mapping[str, MakePolicy],
    *,
    evaluations: int = 1000,
    seeds: Iterable[int] = SEEDS,
    size: int = 20,
    table: Table | None = None,
) -> dict[str, Curves]:
    """Search the map with each policy from each seed.

    Args:
        made: what makes a policy for a seed, by name.
        evaluations: distinct classes that each search may see.
        seeds: of the searches.
        size: proposals per round, between which a policy learns nothing.
        table: the map; by default the one that comes with the library.
    """
    table = table or published()
    chosen = tuple(seeds)
    return {name: _curves(make, evaluations, chosen, size, table) for name, make in made.items()}


def _identify(table: Table) -> Callable[[Sentence], str | None]:
    def identify(sentence: Sentence) -> str | None:
        number = table.class_of(sentence)
        return None if number is None else str(number)

    return identify


def _curves(make: MakePolicy, evaluations: int, seeds: tuple[int, ...], size: int, table: Table) -> Curves:
    rewards, ranks = table.rewards, table.ranks
    best = np.nanmax(rewards)
    found = [_search(make(seed), evaluations, size, table) for seed in seeds]
    numbers = np.array([classes for classes, _ in found])
    reached = np.maximum.accumulate(rewards[numbers], axis=1)
    return Curves(
        seeds,
        best - reached,
        np.minimum.accumulate(ranks[numbers], axis=1),
        np.array([proposals for _, proposals in found]),
    )


def _search(policy: Policy[Sentence], evaluations: int, size: int, table: Table) -> tuple[list[int], int]:
    """The classes in the order of their evaluation (the last again where a policy ran dry), and proposals in all."""
    classes: list[int] = []
    proposals = 0

    def evaluate(wanted: Sequence[tuple[str, Sentence]]) -> list[float]:
        return [float(table.rewards[int(key)]) for key, _ in wanted]

    for finished in rounds(policy, _identify(table), evaluate, size=size, limit=evaluations):
        classes += map(int, finished.new)
        proposals += len(finished.proposals)
    if not classes:
        raise ValueError("the policy proposed nothing that is worth training")
    return [*classes, *[classes[-1]] * (evaluations - len(classes))], proposals


def summary(
    found: Mapping[str, Curves], at: Sequence[int] = (100, 300, 1000), against: str = "random"
) -> list[dict[str, Any]]:
    """What the searches come to, a row for each policy and number of evaluations.

    Medians of regret and rank with 95 % intervals (bootstrap over seeds, percentiles); for every policy but `against`
    the difference of the two medians of regret, positive where the policy is better, with its interval; and the
    probability that one of its searches has the smaller regret, a tie counting half.
    """
    rows = []
    for name, curves in found.items():
        for count in at:
            if count > curves.regrets.shape[1]:
                continue
            regrets, ranks = curves.regrets[:, count - 1], curves.ranks[:, count - 1]
            row: dict[str, Any] = {"policy": name, "evaluations": count, "seeds": len(curves.seeds)}
            row["regret"] = _with_interval(lambda x: np.median(x, axis=-1), regrets)
            row["rank"] = _with_interval(lambda x: np.median(x, axis=-1), ranks.astype(np.float64))
            if against in found and name != against:
                other = found[against].regrets[:, count - 1]
                row["better by"] = _difference(other, regrets)
                wins = (regrets[:, None] < other).mean() + 0.5 * (regrets[:, None] == other).mean()
                row["probability"] = float(wins)
            rows.append(row)
    return rows


def _resampled(values: npt.NDArray[np.float64], seed: int) -> npt.NDArray[np.float64]:
    random = np.random.default_rng(seed)
    return values[random.integers(0, len(values), (_RESAMPLES, len(values)))]


def _with_interval(
    statistic: Callable[[npt.NDArray[np.float64]], Any], values: npt.NDArray[np.float64]
) -> tuple[float, float, float]:
    low, high = np.percentile(statistic(_resampled(values, 1)), (2.5, 97.5))
    return float(statistic(values)), float(low), float(high)


def _difference(theirs: npt.NDArray[np.float64], ours: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    drawn = np.median(_resampled(theirs, 1), axis=-1) - np.median(_resampled(ours, 2), axis=-1)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return float(np.median(theirs) - np.median(ours)), float(low), float(high)
