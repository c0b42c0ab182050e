"""What a trial keeps of its weights: snapshots on the way, and at the end their average and what they say together."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from descend.averaging import recompute_batch_norm
from descend.ensembles.combining import log_mean
from descend.experiments.conditions import AVERAGE, Kept
from descend.experiments.loop import Checkpoint
from descend.optimizer import Optimizer
from descend.snapshots import SnapshotStore
from descend.tasks import Averages, EvaluationSplit, Task, TaskError, averages

_OUTPUTS = (
    "for classes, let outputs() return their log-probabilities and judge() take them; TensorTask does for scores of "
    "classes in dimension 1 under the cross entropy, and for values under float targets (descend.tasks.Averages)"
)

BATCHES = 100
"""Training batches over which the statistics of batch normalization are recomputed; an epoch if that is less."""


class Keeping:
    """Keeps the weights of one trial.

    Args:
        task: what is trained.
        name: of the trial's folder.
        kept: what to keep, and where.
    """

    def __init__(self, task: Task, name: str, kept: Kept) -> None:
        self._task, self._kept = task, kept
        self._store = SnapshotStore(kept.folder / name)
        self._average = SnapshotStore(kept.folder / name / AVERAGE)
        self._store.clear()  # what a trial that was killed has left
        self._average.clear()

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps after which there is a snapshot."""
        return self._kept.steps

    def options(self) -> dict[str, Any]:
        """Return what the optimizer must be built with."""
        return {} if self._kept.ema_decay is None else {"ema_decay": self._kept.ema_decay}

    def after(self, step: int, model: nn.Module, curve: Sequence[Checkpoint]) -> None:
        """Take a snapshot if it is due, with the validation metric of its checkpoint."""
        if step in self._kept.steps:
            cycle = self._kept.steps.index(step) + 1
            self._store.add(model, step=step, cycle=cycle, metric=curve[-1].validation_metric)

    def end(self, model: nn.Module, optimizer: Optimizer, seed: int, *, is_final: bool) -> Mapping[str, float]:
        """Store the average of the weights, if one is kept; return what the snapshots of a final trial say together."""
        if self._kept.ema_decay is not None:
            with optimizer.averaged():
                renew_batch_norm(self._task, model, seed)
                self._average.add(model, step=optimizer.applied_steps)
        if not is_final:
            return {}
        return together(self._task, self._task.model(seed), self._store.last(), "test")


def together(
    task: Task, model: nn.Module, members: Sequence[Mapping[str, Tensor]], split: EvaluationSplit
) -> Mapping[str, float]:
    """Return loss and metric of the averaged predictions of several states of a model.

    Args:
        task: one that can be averaged.
        model: takes the states, one after the other.
        members: the states.
        split: on which they are judged.
    """
    able = averageable(task)
    return able.judge(averaged(able, members_outputs(able, model, members, split)), split)


def members_outputs(
    task: Averages, model: nn.Module, members: Sequence[Mapping[str, Tensor]], split: EvaluationSplit
) -> Iterator[Tensor]:
    """Yield what each state of a model says on a split, one after the other."""
    for state in members:
        model.load_state_dict(dict(state))
        yield task.outputs(model, split)


def averaged(task: Averages, outputs: Iterator[Tensor]) -> Tensor:
    """Return the average of outputs, as the task has it: of probabilities whose logs they are, or of values."""
    if task.averages == "probabilities":
        return log_mean(outputs)
    total, count = next(outputs), 1
    for one in outputs:
        total, count = total + one, count + 1
    return total / count


def averageable(task: object) -> Averages:
    """Return a task as one whose predictions can be averaged.

    Raises:
        TaskError: it says nothing that could be.
    """
    able = averages(task)
    if able is None:
        name = getattr(task, "name", type(task).__name__)
        raise TaskError(
            f"task {name} has no predictions to average; give it outputs, judge, targets and averages "
            "(descend.tasks.Averages), derive it from TensorTask, or take snapshots in your own loop "
            "(descend.snapshots)"
        )
    return able


def check_averages(task: Task) -> None:
    """Refuse a task whose outputs say something else than its evaluation, before anything is trained.

    Raises:
        TaskError: says what differs.
    """
    able, model = averageable(task), task.model(0)
    whole = task.evaluate(model, "validation")
    try:
        parts = able.judge(able.outputs(model, "validation"), "validation")
    except Exception as error:
        raise TaskError(
            f"task {task.name}: judging its outputs failed with {type(error).__name__}: {error}; {_OUTPUTS}"
        ) from error
    for name in ("loss", task.metric):
        if not math.isclose(parts[name], whole[name], rel_tol=1e-3, abs_tol=1e-6):
            raise TaskError(
                f"task {task.name}: judging its outputs gives {name} {parts[name]:.6g} where evaluate() gives "
                f"{whole[name]:.6g}; {_OUTPUTS}"
            )


@torch.no_grad()
def renew_batch_norm(task: Task, model: nn.Module, seed: int, batches: int = BATCHES) -> None:
    """Recompute the statistics of batch normalization over training batches; nothing where there is none.

    Args:
        task: has the batches.
        model: in any mode.
        seed: of the batches.
        batches: how many, at most an epoch.
    """
    count = min(batches, max(1, task.sizes["train"] // task.batch_size))
    recompute_batch_norm(model, islice(task.batches(seed), count), forward=task.loss)
