"""Whether rank on the proxy transfers: a stratified sample of the map trained on other children, and rank correlations.

The strata are parts of the proxy's ranking (the brief training), best first: up to 1, 5, 25, 50, 75 and 100 % of the
classes. Equal numbers are drawn of each, so that the top is looked at as closely as the rest; an overall correlation
weighs every rule by how many of its stratum it stands for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from descend.search import children
from descend.search.evaluation import RELATIVE_RATES, Recipe
from descend.search.map.stages import Numbers, Results, Stage
from descend.search.map.statistics import WithInterval, bootstrap, spearman
from descend.search.space import SearchError

EDGES: Final = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 1.0)
"""Between the strata, as shares of the ranking."""
KNOWN: Final = -1
"""In place of a stratum: a known optimizer, which nobody drew."""
_SEED: Final = 0


@dataclass(frozen=True)
class Target:
    """How rules are trained on another child.

    Attributes:
        per_stratum: how many rules are drawn of each stratum.
        steps: of the training.
        seeds: of the training.
        rates: how many half-decades are tried; 7 are all.
        below: how many of them are below the proxy's best rate.
        together: rules that a process trains at a time.
    """

    per_stratum: int
    steps: int
    seeds: tuple[int, ...]
    rates: int
    below: int
    together: int


TARGETS: Final = {
    "mnist": Target(34, 100, (0, 1), rates=len(RELATIVE_RATES), below=0, together=4),
    "cifar10": Target(10, 40, (0,), rates=4, below=3, together=2),
}
"""On the larger networks the best rates are about a decade lower, as a pilot showed."""


@dataclass(frozen=True, eq=False)
class Transfer:
    """What a sample came to on another child.

    Attributes:
        results: of the training there.
        strata: of each rule; `KNOWN` for the known optimizers that are trained beside the sample.
    """

    results: Results
    strata: npt.NDArray[np.int8]


def check(targets: Sequence[str]) -> None:
    """Read the data of each child, so that what is missing is told before the work begins.

    Raises:
        SearchError: there is no plan for a child of that name.
        TaskError: its data cannot be read.
    """
    for name in targets:
        if name not in TARGETS:
            raise SearchError(f"nothing is known of a transfer to {name!r}; choose of {', '.join(TARGETS)}")
        children.load(name).splits  # noqa: B018


def strata_of(found: Results) -> npt.NDArray[np.int8]:
    """The stratum of each class by its rank on the proxy, 0 being the best."""
    places = np.argsort(np.argsort(found.best, kind="stable"), kind="stable")
    return (np.searchsorted(EDGES, (places + 0.5) / len(places)) - 1).astype(np.int8)


def stage(name: str, found: Results, known: Sequence[int]) -> tuple[Stage, npt.NDArray[np.int8]]:
    """The training of a sample on a child, and the stratum of each of its rules.

    A smaller sample is part of a larger one, so that children can be compared with each other.

    Args:
        name: of the child.
        found: of the proxy.
        known: classes that are trained beside the sample.
    """
    target, strata = TARGETS[name], strata_of(found)
    order = np.random.default_rng(_SEED).permutation(len(strata))
    drawn = [order[strata[order] == stratum][: target.per_stratum] for stratum in range(len(EDGES) - 1)]
    beside = np.flatnonzero(np.isin(found.classes, known))
    beside = beside[~np.isin(beside, np.concatenate(drawn))]
    places = np.concatenate([*drawn, beside])
    begins = np.clip(found.means[places].argmin(1) - target.below, 0, found.rates.shape[1] - target.rates)
    rates = np.take_along_axis(found.rates[places], begins[:, None] + np.arange(target.rates), axis=1)
    recipe = Recipe(name, target.seeds, ((target.steps, target.rates),), RELATIVE_RATES[: target.rates])
    made = Stage(
        name, tuple(map(int, found.classes[places])), tuple(map(tuple, rates.tolist())), recipe, target.together
    )
    return made, np.concatenate([strata[np.concatenate(drawn)], np.full(len(beside), KNOWN, dtype=np.int8)])


def correlations(proxy: Numbers, transfer: Transfer) -> dict[str, WithInterval]:
    """Spearman's correlation between the proxy and the target, each by the loss at the best rate.

    Args:
        proxy: losses of all classes on the proxy, by class; NaN for classes that are left out.
        transfer: the sample.

    Returns:
        "all", if no stratum is left out: every rule weighs as much as what it stands for of its stratum;
        "best quarter": the first three strata, weighted alike; and one for each stratum, by its percents. With 95 %
        intervals: rules are resampled within strata.
    """
    losses, drawn = proxy[transfer.results.classes], transfer.strata != KNOWN
    places = np.flatnonzero(drawn & ~np.isnan(losses))
    counts = np.bincount(transfer.strata[places], minlength=len(EDGES) - 1)
    # of a class that stands for a share of the ranking
    weights = (np.diff(EDGES) / np.maximum(counts, 1))[transfer.strata]
    groups = [places[transfer.strata[places] == stratum] for stratum in range(len(EDGES) - 1)]

    def between(chosen: npt.NDArray[np.int64]) -> float:
        return spearman(losses[chosen], transfer.results.best[chosen], weights[chosen])

    wanted = {"all": groups} if all(map(len, groups)) else {}
    wanted["best quarter"] = groups[:3]
    wanted |= {stratum_name(stratum): [group] for stratum, group in enumerate(groups)}
    return {
        name: bootstrap(between, [group for group in of if len(group)])
        for name, of in wanted.items()
        if sum(map(len, of)) > 2
    }


def stratum_name(stratum: int) -> str:
    """A stratum by its percents."""
    return f"{100 * EDGES[stratum]:g} to {100 * EDGES[stratum + 1]:g} %"


def facts(targets: Sequence[str]) -> dict[str, Any]:
    """How rules are trained on the other children, for the table."""
    return {name: {"steps": TARGETS[name].steps, "seeds": list(TARGETS[name].seeds)} for name in targets}
