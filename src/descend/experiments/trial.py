"""One trial: a task trained by one optimizer at one rate under one seed, and the record of it."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import nn

from descend import optim
from descend.experiments import search_space
from descend.experiments.loop import Training, evaluate, milliseconds, step, train
from descend.schedules import Schedule, cosine, warmup
from descend.tasks import Task, seeded

Phase = Literal["tuning", "final"]

CHECKPOINTS = 15
"""Points of a learning curve, at least; the steps to the target are known to a fifteenth of the run."""
WARM_UP_SHARE = 10
"""The warm-up takes one step in ten."""


@dataclass(frozen=True)
class Trial:
    """What distinguishes one trial of a comparison from the others; everything else is the comparison's.

    Attributes:
        phase: "tuning" chooses the rate on validation data; "final" is a fresh seed at the chosen rate, with a test.
        optimizer: name of the rule.
        rate: peak learning rate.
        seed: decides initial weights and data order.
    """

    phase: Phase
    optimizer: str
    rate: float
    seed: int


@dataclass(frozen=True)
class Record:
    """A finished trial as it is stored: plain numbers, None where one is not finite or was not measured.

    A diverged trial has the task's worst metric, if that is finite, in place of the one it did not earn.
    """

    phase: Phase
    optimizer: str
    rate: float
    seed: int
    diverged: bool
    curve: list[dict[str, float | None]]
    validation_loss: float | None
    validation_metric: float | None
    test_loss: float | None
    test_metric: float | None
    steps_to_target: int | None
    ms_per_step: float | None
    optimizer_ms_per_step: float | None
    state_bytes: int

    @property
    def trial(self) -> Trial:
        """Which trial this is the record of."""
        return Trial(self.phase, self.optimizer, self.rate, self.seed)

    def as_dict(self) -> dict[str, Any]:
        """Return the record as a dict that JSON can hold."""
        return asdict(self)


def schedule(steps: int) -> Schedule:
    """Return the shape that every optimizer's rate follows: warm-up, then cosine to 0 at the end of the budget."""
    rising = max(1, steps // WARM_UP_SHARE)
    return warmup(rising) >> cosine(steps - rising)


def run(task: Task, trial: Trial, steps: int) -> Record:
    """Run one trial from its seed to its record.

    It runs on one thread, so that its numbers do not depend on the machine's cores, and leaves the global random
    generators and the number of threads as they were.

    Args:
        task: what is trained.
        trial: with what.
        steps: optimizer steps, 2 or more.
    """
    with _one_thread(), seeded(trial.seed):
        model, optimizer = _made(task, trial, steps)
        training = train(task, model, optimizer, seed=trial.seed, steps=steps, every=max(1, steps // CHECKPOINTS))
        test: Mapping[str, float] = {}
        if trial.phase == "final" and not training.diverged:
            test = evaluate(task, model, "test")
            training.diverged = not math.isfinite(test["loss"])
    return _record(task, trial, training, test, _state_bytes(optimizer))


def warm_up(task: Task, trial: Trial) -> None:
    """Take one step of a trial and forget it: it pays for what a process does once, such as loading code."""
    with _one_thread(), seeded(trial.seed):
        model, optimizer = _made(task, trial, steps=2)
        step(task, model, optimizer, task.batches(trial.seed), Training())


def _made(task: Task, trial: Trial, steps: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = task.model(trial.seed)
    arguments = search_space.arguments(trial.optimizer, trial.rate, schedule(steps))
    return model, optim.by_name(trial.optimizer)(model.parameters(), **arguments)


def _record(task: Task, trial: Trial, training: Training, test: Mapping[str, float], state_bytes: int) -> Record:
    diverged = training.diverged
    last = training.curve[-1] if training.curve and not diverged else None
    is_final = trial.phase == "final"
    return Record(
        **asdict(trial),
        diverged=diverged,
        curve=[{name: _plain(value) for name, value in asdict(point).items()} for point in training.curve],
        validation_loss=_plain(last.validation_loss) if last else None,
        validation_metric=_plain(last.validation_metric if last else task.worst),
        test_loss=None if diverged else _plain(test.get("loss")),
        test_metric=_plain(task.worst if diverged and is_final else test.get(task.metric)),
        steps_to_target=None if diverged else steps_to_target(task, training),
        ms_per_step=milliseconds(training.step_seconds),
        optimizer_ms_per_step=milliseconds(training.optimizer_seconds),
        state_bytes=state_bytes,
    )


def steps_to_target(task: Task, training: Training) -> int | None:
    """Return the step of the first checkpoint whose validation metric reaches the target, None without one."""
    for point in training.curve:
        ahead = point.validation_metric - task.target
        if (ahead if task.direction == "maximize" else -ahead) >= 0:
            return point.step
    return None


def _plain(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _state_bytes(optimizer: torch.optim.Optimizer) -> int:
    tensors = [
        value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)
    ]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
