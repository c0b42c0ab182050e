"""Many update rules trained on a child network at once: every rule at several rates, from several seeds.

Rungs thin the rates out as training goes on (successive halving; Jamieson and Talwalkar 2016, arXiv:1502.07943): each
rule keeps its best rates and goes on with them from where they are. Rows are trained chunk by chunk, each to the end,
so that the weights and state of a chunk stay in the processor's caches. What a row comes to depends neither on the rows
beside it nor on the number of threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from descend.backends.many import Rows
from descend.experiments.trial import one_thread
from descend.rule import Rule
from descend.schedules import Schedule
from descend.search import children
from descend.search.children import Batch, Child

Numbers = npt.NDArray[np.float64]
Rung = tuple[int, int]
"""Until which step, and with how many rates of each rule."""

CHUNK: Final = 112
"""Rows that are trained together."""
_RATE: Final = "lr"
_DEAD_SHARE: Final = 0.25  # of a chunk's rows, from which on it is worth dropping them


@dataclass(frozen=True, eq=False)
class Trained:
    """Validation results of rules, all arrays rules x rates x seeds x rungs.

    Attributes:
        rates: of each rule, rules x rates.
        losses: the mean cross entropy in nats; infinite for what diverged, NaN where a rate was no longer kept.
        accuracies: the share of right classes; 0 for what diverged, NaN where a rate was no longer kept.
    """

    rates: Numbers
    losses: Numbers
    accuracies: Numbers

    def best_rates(self, rung: int = -1) -> npt.NDArray[np.int64]:
        """The place of each rule's best rate on a rung: of the smallest mean loss over the seeds."""
        return _ranked(self.losses[..., rung], self.rates)[:, 0]

    def best_losses(self, rung: int = -1) -> Numbers:
        """The mean loss over the seeds of each rule's best rate."""
        best = self.best_rates(rung)
        means: Numbers = _means(self.losses[..., rung])[np.arange(len(best)), best]
        return means

    def rewards(self, rung: int = -1) -> Numbers:
        """What a search is rewarded with for each rule: exp(-loss) of its best rate, 0 if that diverged."""
        return reward(self.best_losses(rung))


def reward(loss: Numbers) -> Numbers:
    """exp(-loss) of validation cross entropies: the geometric mean of the right classes' probabilities."""
    return np.exp(-np.asarray(loss, dtype=np.float64))


def train(
    child: Child | str,
    rules: Sequence[Rule],
    rates: npt.ArrayLike,
    seeds: Sequence[int],
    *,
    rungs: Sequence[Rung],
    hyper_parameters: Mapping[str, Any] | None = None,
    chunk: int = CHUNK,
) -> Trained:
    """Train every rule at its rates from each seed.

    Args:
        child: the network and its data, or its name.
        rules: each with a hyper-parameter lr.
        rates: of each rule, rules x rates, or one list for all.
        seeds: of initial weights, batches and the rules' random numbers.
        rungs: pairs of a step and a number of rates: until that step each rule is trained with its so many best rates.
            All take part in the first. ((30, 7), (100, 3), (200, 1)) ends with 200 steps at one rate.
        hyper_parameters: further ones, for the rules that declare them: numbers, or schedules over the training.
        chunk: rows that are trained together; results do not depend on it.

    Raises:
        FormulaError: a rule is not elementwise; the message names it.
        ValueError: arguments that do not fit each other.
    """
    if isinstance(child, str):
        child = children.load(child)
    table = _rate_table(rates, len(rules))
    rungs = _checked_rungs(rungs, table.shape[1])
    if not seeds:
        raise ValueError("seeds is empty; give at least one")
    missing = [rule.name for rule in rules if _RATE not in rule.hyper_parameters]
    if missing:
        raise ValueError(f"rule {missing[0]!r} has no hyper-parameter {_RATE}, which rates are for; declare it")
    shape = (len(rules), table.shape[1], len(seeds), len(rungs))
    trained = Trained(table, np.full(shape, np.nan), np.full(shape, np.nan))
    further = _numbers(hyper_parameters or {}, rungs[-1][0])
    size = max(1, chunk // (table.shape[1] * len(seeds)))
    with one_thread(), torch.no_grad():
        for begin in range(0, len(rules), size):
            part = slice(begin, begin + size)
            within = Trained(table[part], trained.losses[part], trained.accuracies[part])
            _Chunk(child, rules[part], within, seeds, rungs[-1][0], further).train(rungs)
    return trained


class _Chunk:
    """The rows of some rules, each at its rates from each seed; those of one seed stand together."""

    def __init__(
        self,
        child: Child,
        rules: Sequence[Rule],
        results: Trained,
        seeds: Sequence[int],
        steps: int,
        further: Mapping[str, Any],
    ) -> None:
        self.child, self.results = child, results
        count, rates = results.rates.shape
        self.seed, self.rule, self.rate = (
            x.reshape(-1) for x in np.indices((len(seeds), count, rates), dtype=np.int64)
        )
        formulas, values = [], []
        for rule, of_rule in zip(rules, results.rates, strict=True):
            own = {name: value for name, value in further.items() if name in rule.hyper_parameters}
            formulas.append(rule.formula(ndim=1, **_variant(own), lr=float(of_rule[0])))
            values.append([{_RATE: float(rate), **own} for rate in of_rule])
        initial = torch.stack([child.initial(seed) for seed in seeds])
        self.rows = Rows(
            [formulas[rule] for rule in self.rule],
            [values[rule][rate] for rule, rate in zip(self.rule, self.rate, strict=True)],
            initial[torch.from_numpy(self.seed)],
            steps=steps,
            seeds=[seeds[seed] for seed in self.seed],
        )
        self.memory = child.begin(len(self.rows))
        self.batches = [child.batches(seed) for seed in seeds]
        self.alive = torch.ones(len(self.rows), dtype=torch.bool)
        self.kept = np.ones((count, rates), dtype=bool)
        self._parts = self._of_seeds()
        self.step = 0

    def train(self, rungs: Sequence[Rung]) -> None:
        """Train up to every rung, and note what there is."""
        for place, (until, _) in enumerate(rungs):
            while self.step < until:
                self._step()
            self._evaluate(place)
            if place + 1 < len(rungs):
                self._keep_best(place, rungs[place + 1][1])

    def _step(self) -> None:
        batches = [next(batches) for batches in self.batches]
        self.step += 1
        if not len(self.rows):
            return
        losses = torch.cat([self._gradients(*part, batches) for part in self._parts])
        self.alive &= losses.isfinite()
        self.alive &= self.rows.step(None if bool(self.alive.all()) else self.alive)
        if int(self.alive.sum()) < (1 - _DEAD_SHARE) * len(self.alive):
            self._select(self.alive.numpy())

    def _of_seeds(self) -> list[tuple[int, slice]]:
        """The rows of each seed that has some."""
        seeds, begins = np.unique(self.seed, return_index=True)
        ends = np.append(begins, len(self.seed))[1:]
        return [(int(seed), slice(int(a), int(b))) for seed, a, b in zip(seeds, begins, ends, strict=True)]

    def _gradients(self, seed: int, part: slice, batches: Sequence[Batch]) -> Tensor:
        return self.child.gradients(self.rows.params[part], self.rows.grads[part], batches[seed], self.memory[part])

    def _evaluate(self, rung: int) -> None:
        """Note the results of the rows that are left; whatever was dropped on the way has diverged."""
        self._select(self.alive.numpy())
        losses, accuracies = (np.where(self.kept[:, :, None], worst, np.nan) for worst in (np.inf, 0.0))
        losses, accuracies = (np.repeat(x, self.results.losses.shape[2], axis=2) for x in (losses, accuracies))
        if len(self.rows):
            loss, accuracy = (x.numpy() for x in self.child.evaluate(self.rows.params, self.memory))
            place = (self.rule, self.rate, self.seed)
            losses[place] = np.where(np.isfinite(loss), loss, np.inf)
            accuracies[place] = np.where(np.isfinite(loss), accuracy, 0.0)
        self.results.losses[..., rung], self.results.accuracies[..., rung] = losses, accuracies

    def _keep_best(self, rung: int, count: int) -> None:
        """Drop all but so many rates of each rule."""
        best = _ranked(self.results.losses[..., rung], self.results.rates)[:, :count]
        among = np.zeros_like(self.kept)
        np.put_along_axis(among, best, True, axis=1)
        self.kept &= among
        self._select(self.kept[self.rule, self.rate])

    def _select(self, chosen: npt.NDArray[np.bool_]) -> None:
        """Drop all other rows."""
        if chosen.all():
            return
        places = np.flatnonzero(chosen)
        self.rows.select(places)
        self.seed, self.rule, self.rate = self.seed[places], self.rule[places], self.rate[places]
        kept = torch.from_numpy(places)
        self.memory, self.alive = self.memory[kept], self.alive[kept]
        self._parts = self._of_seeds()


def _means(losses: Numbers) -> Numbers:
    """The mean over the seeds, the last dimension; infinite if it is not finite."""
    means = losses.mean(axis=-1)
    return np.where(np.isfinite(means), means, np.inf)


def _ranked(losses: Numbers, rates: Numbers) -> npt.NDArray[np.int64]:
    """The places of each rule's rates, the best first: by mean loss, and of equal ones the smaller rate.

    Args:
        losses: rules x rates x seeds.
        rates: rules x rates.
    """
    is_left = ~np.isnan(losses).all(axis=-1)
    return np.lexsort((rates, _means(losses), ~is_left), axis=-1)


def _rate_table(rates: npt.ArrayLike, rules: int) -> Numbers:
    table = np.array(rates, dtype=np.float64)
    if table.ndim == 1:
        table = np.repeat(table[None], rules, axis=0)
    if table.ndim != 2 or len(table) != rules or table.shape[1] == 0:
        raise ValueError(f"rates is a list of rates, or one for each of {rules} rules, not of shape {table.shape}")
    if not (np.isfinite(table) & (table > 0)).all():
        raise ValueError("rates are finite numbers above 0; one is not")
    return table


def _checked_rungs(rungs: Sequence[Rung], rates: int) -> list[Rung]:
    found = [(int(step), int(count)) for step, count in rungs]
    steps, counts = [step for step, _ in found], [count for _, count in found]
    if not found or steps != sorted(set(steps)) or steps[0] < 1:
        raise ValueError(f"rungs are pairs of a step and a number of rates, in rising steps from 1, not {rungs}")
    if counts[0] != rates or counts != sorted(counts, reverse=True) or counts[-1] < 1:
        raise ValueError(f"of {rates} rates all take part in the first rung and ever fewer later, not {counts}")
    return found


def _numbers(given: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """Hyper-parameters as numbers, or as arrays with one for each step."""
    return {
        name: np.array([value(s) for s in range(steps)], dtype=np.float64) if isinstance(value, Schedule) else value
        for name, value in given.items()
    }


def _variant(own: Mapping[str, Any]) -> dict[str, Any]:
    """What chooses the variant of a rule: numbers, and the names of what changes in time."""
    scheduled = [name for name, value in own.items() if isinstance(value, np.ndarray)]
    return {**{name: value for name, value in own.items() if name not in scheduled}, "scheduled": scheduled}
