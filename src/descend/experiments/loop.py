"""A plain training loop that measures itself."""

import math
import statistics
import time
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from descend.experiments.logs import Log, Silent
from descend.rate_scaling import rate_scaled
from descend.tasks import EvaluationSplit, Task, TaskError, rate_share

UNTIMED_STEPS = 10
"""First steps left out of the timing: they allocate state and warm caches."""


@dataclass(frozen=True)
class Checkpoint:
    """One point of a learning curve.

    Attributes:
        step: optimizer steps applied so far.
        seconds: time spent in them, evaluation excluded.
        train_loss: mean training loss of the steps since the last checkpoint.
        validation_loss: loss on the validation split.
        validation_metric: the task's metric on the validation split.
    """

    step: int
    seconds: float
    train_loss: float
    validation_loss: float
    validation_metric: float


@dataclass
class Training:
    """What a training run left behind.

    Attributes:
        curve: its checkpoints, the last one after the last step unless it diverged.
        diverged: whether a loss or a weight became infinite or NaN, which ends the run.
        step_seconds: duration of each step, from fetching the batch to the updated weights.
        optimizer_seconds: the optimizer's part of it.
    """

    curve: list[Checkpoint] = field(default_factory=list)
    diverged: bool = False
    step_seconds: list[float] = field(default_factory=list)
    optimizer_seconds: list[float] = field(default_factory=list)


def train(
    task: Task,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    seed: int,
    steps: int,
    points: Container[int] = (),
    log: Log | None = None,
    after: Callable[[int, Training], None] | None = None,
) -> Training:
    """Train a model and evaluate it on the validation split.

    Args:
        task: gives batches and loss.
        model: trained in place.
        optimizer: holds the model's parameters.
        seed: decides the batches.
        steps: optimizer steps to take.
        points: the steps after which there is a checkpoint; the last one has one always.
        log: is told what every checkpoint measures.
        after: is called after every step, with the number of steps and what has been measured, the step's own
            checkpoint included.
    """
    log = log or Silent()
    training = Training()
    batches = task.batches(seed)
    model.train()
    losses: list[float] = []
    for count in range(1, steps + 1):
        loss = step(task, model, optimizer, batches, training)
        losses.append(loss)
        if training.diverged:
            break
        if count in points or count == steps:
            training.diverged = not _is_finite(model)
            if training.diverged:
                break
            scores = evaluate(task, model, "validation")
            point = Checkpoint(
                step=count,
                seconds=sum(training.step_seconds),
                train_loss=statistics.fmean(losses),
                validation_loss=scores["loss"],
                validation_metric=scores[task.metric],
            )
            log.log(measured(task.metric, point, optimizer), count)
            training.diverged = not math.isfinite(point.validation_loss)
            if training.diverged:
                break
            training.curve.append(point)
            losses.clear()
            model.train()
        if after is not None:
            after(count, training)
    return training


def step(
    task: Task, model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterator[Any], training: Training
) -> float:
    """Take one step and time it; a loss that is not finite ends the run before the weights move."""
    begun = time.perf_counter()
    try:
        batch = next(batches)
    except StopIteration:
        count = len(training.step_seconds)
        raise TaskError(f"task {task.name}: batches() ended after {count} batches; let it go on without end") from None
    share = rate_share(task, batch)
    optimizer.zero_grad()
    loss = task.loss(model, batch)
    value = loss.item()
    if not math.isfinite(value):
        training.diverged = True
        return value
    loss.backward()  # type: ignore[no-untyped-call]
    stepping = time.perf_counter()
    _apply(optimizer, share)
    ended = time.perf_counter()
    training.step_seconds.append(ended - begun)
    training.optimizer_seconds.append(ended - stepping)
    return value


def _apply(optimizer: torch.optim.Optimizer, share: float) -> None:
    if share == 1:
        optimizer.step()
        return
    with rate_scaled(optimizer, share):
        optimizer.step()


def measured(metric: str, point: Checkpoint, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return what a log is told of a checkpoint; the rate is the one in force for the next step."""
    return {
        "train_loss": point.train_loss,
        "validation_loss": point.validation_loss,
        metric: point.validation_metric,
        "seconds": point.seconds,
        "lr": float(optimizer.param_groups[0]["lr"]),
    }


def evaluate(task: Task, model: nn.Module, split: EvaluationSplit) -> Mapping[str, float]:
    """Return loss, metric and whatever else the task's own evaluation measures as plain numbers.

    Raises:
        TaskError: one of them is missing or no number, or the metric says nothing although the loss is finite.
    """
    scores = task.evaluate(model, split)
    for key in ("loss", task.metric):
        if key not in scores:
            raise TaskError(f"task {task.name}: evaluate() returned {sorted(scores)}, without '{key}'; add it")
    loss, metric = _number(task, "loss", scores["loss"]), _number(task, task.metric, scores[task.metric])
    better_than_any = math.inf if task.direction == "maximize" else -math.inf
    if math.isfinite(loss) and (math.isnan(metric) or metric == better_than_any):
        raise TaskError(
            f"task {task.name}: score() gave {metric} at a finite loss ({task.metric}, {split} split); let it return a "
            f"number for every model, and worst ({task.worst}) where there is nothing to judge"
        )
    others = {key: _number(task, key, value) for key, value in scores.items() if key not in ("loss", task.metric)}
    return {"loss": loss, task.metric: metric, **others}


def _number(task: Task, key: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):  # the last for a tensor of several elements
        raise TaskError(
            f"task {task.name}: {key} is a {type(value).__name__} that is no single number; let score() or evaluate() "
            "return a float"
        ) from None


def milliseconds(seconds: list[float]) -> float | None:
    """Return the median of step durations in milliseconds, the first steps left out; None if there are none."""
    timed = seconds[min(UNTIMED_STEPS, len(seconds) // 2) :]
    return 1e3 * statistics.median(timed) if timed else None


def _is_finite(model: nn.Module) -> bool:
    return all(bool(parameter.isfinite().all()) for parameter in model.parameters())
