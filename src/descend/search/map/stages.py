"""The trainings of the map: all rules briefly, the best quarter longer, the top with fresh seeds; known optimizers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from descend.experiments.workers import Here, Pool
from descend.search.evaluation import RELATIVE_RATES, Chunk, Recipe, chunks, work
from descend.search.known import SENTENCES
from descend.search.map.enumeration import SPACE, Classes, place_of
from descend.search.nos import SEPARATOR
from descend.search.sentences import Sentence
from descend.search.store import Store

Numbers = npt.NDArray[np.float64]

STEPS, LONG_STEPS = 30, 200
SEEDS: Final = (0, 1)
FRESH_SEEDS: Final = tuple(range(2, 10))
BEST_RATES: Final = 3
QUARTER: Final = 0.25
TOP: Final = 1000
_BATCH: Final = 16
"""Chunks whose results are stored together."""


@dataclass(frozen=True)
class Stage:
    """One training of many classes, each at rates of its own.

    Attributes:
        name: under which the results are stored.
        classes: which.
        rates: of each, relative to its size: classes x rates.
        recipe: of the training.
        together: how many a process trains at a time; None for as many as are quickest on small networks.
    """

    name: str
    classes: tuple[int, ...]
    rates: tuple[tuple[float, ...], ...]
    recipe: Recipe
    together: int | None = None

    def cut(self, classes: Classes) -> list[Chunk[Sentence]]:
        """The jobs of the stage, always alike, whatever is done of them."""
        members = [classes.sentence(number) for number in self.classes]
        rates = [
            tuple(rate / float(classes.sizes[number]) for rate in of)
            for number, of in zip(self.classes, self.rates, strict=True)
        ]
        if self.together is None:
            return chunks(SPACE, members, rates, self.recipe)
        parts = [slice(begin, begin + self.together) for begin in range(0, len(members), self.together)]
        return [
            Chunk(number, SPACE, tuple(members[part]), tuple(rates[part]), self.recipe)
            for number, part in enumerate(parts)
        ]


@dataclass(frozen=True, eq=False)
class Results:
    """What a stage came to: arrays classes x rates x seeds.

    Attributes:
        classes: which.
        rates: relative to the size of each, classes x rates.
        losses: validation cross-entropies, infinite for what diverged.
        accuracies: of validation examples.
    """

    classes: npt.NDArray[np.int64]
    rates: Numbers
    losses: Numbers
    accuracies: Numbers

    @property
    def means(self) -> Numbers:
        """The mean loss of each class at each rate."""
        means: Numbers = self.losses.mean(-1)
        return means

    @property
    def best(self) -> Numbers:
        """The mean loss of each class at its best rate."""
        best: Numbers = self.means.min(1)
        return best


def brief(classes: Classes, child: str) -> Stage:
    """All that descend: 7 rates, 2 seeds, 30 steps."""
    recipe = Recipe(child, SEEDS, ((STEPS, len(Recipe(child).rates)),))
    chosen = tuple(map(int, classes.descending))
    return Stage("brief", chosen, (recipe.rates,) * len(chosen), recipe)


def long(found: Results, child: str) -> Stage:
    """The best quarter, at its three best rates, to 200 steps."""
    order = np.argsort(found.best, kind="stable")
    order = order[: int(np.ceil(QUARTER * len(order)))]
    ranked = np.argsort(found.means[order], axis=1, kind="stable")[:, :BEST_RATES]
    return _stage("long", found, order, ranked, Recipe(child, SEEDS))


def fresh(found: Results, child: str) -> Stage:
    """The top thousand of these, at their best rate, with eight seeds that selected nothing."""
    order = np.argsort(found.best, kind="stable")[:TOP]
    return _stage("fresh", found, order, found.means[order].argmin(1)[:, None], Recipe(child, FRESH_SEEDS))


def known_classes(classes: Classes) -> dict[str, int]:
    """The class of each known optimizer that has a sentence of one group."""
    found = {
        name: int(classes.of_sentence[place_of(SPACE.decode(text))])
        for name, text in SENTENCES.items()
        if SEPARATOR not in text
    }
    return {name: number for name, number in found.items() if number >= 0}


def known(classes: Classes, child: str) -> Stage:
    """The known optimizers as the long training has the best, but at all rates."""
    recipe = Recipe(child, SEEDS, ((LONG_STEPS, len(RELATIVE_RATES)),))
    chosen = tuple(known_classes(classes).values())
    return Stage("known", chosen, (recipe.rates,) * len(chosen), recipe)


def known_fresh(found: Results, child: str) -> Stage:
    """The known optimizers at their best rate, with the seeds that selected nothing."""
    ranked = found.means.argmin(1)[:, None]
    return _stage("known_fresh", found, np.arange(len(found.classes)), ranked, Recipe(child, FRESH_SEEDS))


def _stage(
    name: str, found: Results, order: npt.NDArray[np.int64], ranked: npt.NDArray[np.int64], recipe: Recipe
) -> Stage:
    rates = np.sort(np.take_along_axis(found.rates[order], ranked, axis=1), axis=1)
    recipe = replace(recipe, rungs=((LONG_STEPS, rates.shape[1]),), rates=RELATIVE_RATES[: rates.shape[1]])
    return Stage(name, tuple(map(int, found.classes[order])), tuple(map(tuple, rates.tolist())), recipe)


def carry_out(
    stage: Stage, classes: Classes, store: Store, hands: Here | Pool, done: Callable[[int], None] = lambda count: None
) -> Results:
    """Train what a store does not hold yet, and return everything; `done` is told how many classes are finished."""
    keys = [classes.keys[number] for number in stage.classes]
    kept = store.results(stage.name)
    done(sum(key in kept for key in keys))
    cut = stage.cut(classes)  # before it is looked what is there, so that jobs are always alike
    starts = np.cumsum([0, *(len(chunk.members) for chunk in cut)])
    missing = [
        chunk for chunk in cut if any(key not in kept for key in keys[starts[chunk.number] : starts[chunk.number + 1]])
    ]
    waiting: list[tuple[str, str, dict[str, Any]]] = []
    for number, trained in hands.run(work, missing, lambda chunk: None):
        for place, member in enumerate(cut[number].members):
            value = {
                "losses": _plain(trained.losses[place, :, :, -1]),
                "accuracies": _plain(trained.accuracies[place, :, :, -1]),
            }
            waiting.append((keys[starts[number] + place], SPACE.encode(member), value))
        done(len(cut[number].members))
        if len(waiting) >= _BATCH * len(cut[0].members):
            store.add(stage.name, waiting)
            waiting = []
    store.add(stage.name, waiting)
    return _results(stage, keys, store.results(stage.name))


def _plain(losses: Numbers) -> list[list[float | None]]:
    return [[float(loss) if np.isfinite(loss) else None for loss in of_rate] for of_rate in losses]


def _results(stage: Stage, keys: Sequence[str], kept: dict[str, Any]) -> Results:
    shape = (len(keys), len(stage.recipe.rates), len(stage.recipe.seeds))
    losses = np.array([kept[key]["losses"] for key in keys], dtype=np.float64).reshape(shape)  # None becomes NaN
    accuracies = np.array([kept[key]["accuracies"] for key in keys], dtype=np.float64).reshape(shape)
    return Results(
        np.array(stage.classes, dtype=np.int64),
        np.array(stage.rates).reshape(shape[:2]),
        np.where(np.isnan(losses), np.inf, losses),
        accuracies,
    )
