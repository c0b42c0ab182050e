"""The protocol of a comparison.

1. Tuning: every optimizer gets the same number of peak rates, log-spaced around its known default, each run under one
   seed with the same schedule shape and the same number of steps. With a grid, every rate meets every value of one
   more hyper-parameter.
2. Choice: the rate (and value) with the best validation metric at the end (ties: the lower validation loss). A
   divergence has the worst metric.
3. Final: the chosen rate under fresh seeds. The same seed gives every optimizer the same initial weights and the same
   batches. The optimizers take turns within a seed, so that a drift of the machine meets all of them. The test set is
   looked at once, at the end of each of these runs.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from descend.experiments import search_space
from descend.experiments.errors import Interrupted
from descend.experiments.options import TUNING_SEED, Options
from descend.experiments.store import TrialStore
from descend.experiments.trial import Record, Trial
from descend.tasks import Problem


class Progress(Protocol):
    """Who is told how a comparison goes on."""

    def begin(self, total: int, done: int) -> None:
        """A comparison of `total` trials starts or goes on, `done` of them being finished already."""

    def running(self, trial: Trial) -> None:
        """A trial starts."""

    def finished(self, record: Record) -> None:
        """A trial is finished and stored."""

    def end(self) -> None:
        """No trial follows: all are finished, or the comparison was stopped."""


class Silence:
    """Progress that nobody is told about."""

    def begin(self, total: int, done: int) -> None:
        """Say nothing."""

    def running(self, trial: Trial) -> None:
        """Say nothing."""

    def finished(self, record: Record) -> None:
        """Say nothing."""

    def end(self) -> None:
        """Say nothing."""


Run = Callable[[Iterable[Trial], Callable[[Trial], None]], Iterator[Record]]
"""Runs trials, tells when each starts, and yields each record when it is finished, in any order."""


def run(task: Problem, options: Options, store: TrialStore, progress: Progress, run_trials: Run) -> list[Record]:
    """Run every trial of a comparison that is not stored yet.

    Args:
        task: the task that `options` names.
        options: what is compared, and how thoroughly.
        store: keeps each trial as soon as it is finished.
        progress: is told before and after each trial.
        run_trials: runs them, in this process or in several.

    Returns:
        The records of all trials, in the protocol's order.

    Raises:
        Interrupted: by the keyboard; the running trials are lost.
    """
    done = store.records()
    tuning, total = tuning_trials(options), options.trials_in_all()
    task.sizes  # noqa: B018 (loads the data now, so that no trial is charged with it, and errors come at once)
    progress.begin(total, len(done))
    try:
        _run_missing(run_trials, tuning, store, done, progress)
        final = final_trials(options, chosen(task, options, [done[trial] for trial in tuning]))
        _run_missing(run_trials, final, store, done, progress)
    except KeyboardInterrupt:
        raise Interrupted(len(done), total) from None
    finally:
        progress.end()
    return [done[trial] for trial in (*tuning, *final)]


def tuning_trials(options: Options) -> list[Trial]:
    """Return the trials that choose rate and value; the optimizers take turns, rate by rate."""
    grids = {name: search_space.rates(options.rule(name), options.trials) for name in options.optimizers}
    every = [tuple(zip(options.grid, values, strict=True)) for values in itertools.product(*options.grid.values())]
    return [
        Trial("tuning", name, grids[name][place], TUNING_SEED, values, options.rules.get(name))
        for place in range(options.trials)
        for values in every
        for name, rates in grids.items()
        if place < len(rates)
    ]


def chosen(task: Problem, options: Options, tuning: Iterable[Record]) -> dict[str, Trial]:
    """Return each optimizer's best trial: best validation metric, then lower validation loss, then lower rate."""
    records = list(tuning)
    return {
        name: min((r for r in records if r.optimizer == name), key=lambda r: _rank(task, r)).trial
        for name in options.optimizers
    }


def final_trials(options: Options, best: Mapping[str, Trial]) -> list[Trial]:
    """Return the final trials: seed by seed, the optimizers taking turns within each."""
    return [
        dataclasses.replace(best[name], phase="final", seed=seed, source=options.rules.get(name))
        for seed in options.final_seeds()
        for name in options.optimizers
    ]


def _rank(task: Problem, record: Record) -> tuple[bool, float, float, float]:
    metric = task.worst if record.validation_metric is None else record.validation_metric
    loss = math.inf if record.validation_loss is None else record.validation_loss
    return record.diverged, -metric if task.direction == "maximize" else metric, loss, record.rate


def _run_missing(
    run_trials: Run, trials: Iterable[Trial], store: TrialStore, done: dict[Trial, Record], progress: Progress
) -> None:
    missing = [wanted for wanted in trials if wanted not in done]
    for record in run_trials(missing, progress.running):
        store.add(record)
        done[record.trial] = record
        progress.finished(record)
