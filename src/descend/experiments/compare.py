"""The protocol of a comparison.

1. Tuning: every optimizer gets the same number of peak rates, log-spaced around its known default, each run under one
   seed with the same schedule shape and the same number of steps.
2. Choice: the rate with the best validation metric at the end (ties: the lower validation loss). A divergence has the
   worst metric.
3. Final: the chosen rate under fresh seeds. The same seed gives every optimizer the same initial weights and the same
   batches. The optimizers take turns within a seed, so that a drift of the machine meets all of them. The test set is
   looked at once, at the end of each of these runs.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from descend.experiments import search_space, trial
from descend.experiments.errors import Interrupted
from descend.experiments.options import TUNING_SEED, Options
from descend.experiments.store import TrialStore
from descend.experiments.trial import Record, Trial
from descend.tasks import Task


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


def run(task: Task, options: Options, store: TrialStore, progress: Progress) -> list[Record]:
    """Run every trial of a comparison that is not stored yet.

    Args:
        task: the task that `options` names.
        options: what is compared, and how thoroughly.
        store: keeps each trial as soon as it is finished.
        progress: is told before and after each trial.

    Returns:
        The records of all trials, in the protocol's order.

    Raises:
        Interrupted: by the keyboard; the running trial is lost.
    """
    done = store.records()
    tuning, total = tuning_trials(options), len(options.optimizers) * (options.trials + options.seeds)
    task.sizes  # noqa: B018 (loads the data now, so that no trial is charged with it)
    progress.begin(total, len(done))
    try:
        _run_missing(task, options, tuning, store, done, progress)
        final = final_trials(options, chosen_rates(task, options, [done[trial] for trial in tuning]))
        _run_missing(task, options, final, store, done, progress)
    except KeyboardInterrupt:
        raise Interrupted(len(done), total) from None
    finally:
        progress.end()
    return [done[trial] for trial in (*tuning, *final)]


def tuning_trials(options: Options) -> list[Trial]:
    """Return the trials that choose the rates; the optimizers take turns, rate by rate."""
    grids = {name: search_space.rates(name, options.trials) for name in options.optimizers}
    return [Trial("tuning", name, grids[name][i], TUNING_SEED) for i in range(options.trials) for name in grids]


def chosen_rates(task: Task, options: Options, tuning: Iterable[Record]) -> dict[str, float]:
    """Return each optimizer's best rate: best validation metric, then lower validation loss, then lower rate."""
    records = list(tuning)
    return {
        name: min((r for r in records if r.optimizer == name), key=lambda r: _rank(task, r)).rate
        for name in options.optimizers
    }


def final_trials(options: Options, rates: Mapping[str, float]) -> list[Trial]:
    """Return the final trials: seed by seed, the optimizers taking turns within each."""
    return [Trial("final", name, rates[name], seed) for seed in options.final_seeds() for name in options.optimizers]


def _rank(task: Task, record: Record) -> tuple[bool, float, float, float]:
    metric = task.worst if record.validation_metric is None else record.validation_metric
    loss = math.inf if record.validation_loss is None else record.validation_loss
    return record.diverged, -metric if task.direction == "maximize" else metric, loss, record.rate


def _run_missing(
    task: Task,
    options: Options,
    trials: Iterable[Trial],
    store: TrialStore,
    done: dict[Trial, Record],
    progress: Progress,
) -> None:
    missing = [wanted for wanted in trials if wanted not in done]
    first_of_each = {wanted.optimizer: wanted for wanted in reversed(missing)}
    for wanted in reversed(first_of_each.values()):
        with _named(wanted):
            trial.warm_up(task, wanted)
    for wanted in missing:
        progress.running(wanted)
        with _named(wanted):
            record = trial.run(task, wanted, options.steps)
        store.add(record)
        done[wanted] = record
        progress.finished(record)


@contextmanager
def _named(wanted: Trial) -> Iterator[None]:
    """Let an error of the task's own code keep its type and traceback, and say in which trial it happened."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in {wanted.phase} trial of {wanted.optimizer}, rate {wanted.rate:g}, seed {wanted.seed}")
        raise
