"""One trial: a task trained by one optimizer at one rate under one seed, and the record of it."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from descend import optim
from descend.experiments import handle, rule_files, search_space
from descend.experiments.conditions import Kept
from descend.experiments.keeping import Keeping
from descend.experiments.logs import Log, Silent
from descend.experiments.loop import Checkpoint, Training, evaluate, milliseconds, step, train
from descend.experiments.search_space import schedule
from descend.optimizer import Optimizer
from descend.rule import Rule
from descend.schedules import Schedule
from descend.tasks import Problem, Script, Task, seeded

Phase = Literal["tuning", "final", "control"]
Values: TypeAlias = tuple[tuple[str, float], ...]

CHECKPOINTS = 15
"""Points of a learning curve, at least; the steps to the target are known to a fifteenth of the run."""
_MOST_CYCLES = 2 * CHECKPOINTS


@dataclass(frozen=True)
class Trial:
    """What distinguishes one trial of a comparison from the others; everything else is the comparison's.

    Attributes:
        phase: "tuning" chooses the rate on validation data; "final" is a fresh seed at the chosen rate, with a test;
            "control" is trained for an ensemble, beside a comparison.
        optimizer: name of the rule.
        rate: peak learning rate.
        seed: decides initial weights and data order.
        values: name and value of the hyper-parameter that is tuned beside the rate, if one is.
        source: the text that makes the rule, where it is the user's; None for one of ours. The comparison's, as what
            the name stands for, so that it distinguishes no trials.
    """

    phase: Phase
    optimizer: str
    rate: float
    seed: int
    values: Values = ()
    source: str | None = field(default=None, compare=False)

    @property
    def rule(self) -> Rule:
        """The rule."""
        return rule_files.rule(self.optimizer, self.source)

    def as_dict(self) -> dict[str, Any]:
        """Return what distinguishes it by name, and the source where there is one."""
        own = asdict(self)
        if self.source is None:
            del own["source"]
        return own

    def file_name(self) -> str:
        """Return a name for the trial's files."""
        more = "".join(f"-{name}{value}" for name, value in self.values)
        return f"{self.phase}-{self.optimizer}-{self.rate:g}{more}-seed{self.seed}"


@dataclass(frozen=True)
class Record:
    """A finished trial as it is stored: plain numbers, None where one is not finite or was not measured.

    A diverged trial has the task's worst metric, if that is finite, in place of the one it did not earn. `test_scores`
    is what the task measures on test data beside its loss and metric; `fixed` the hyper-parameters that a training
    script set itself; `ensemble_loss` and `ensemble_metric` are those of the averaged predictions of the snapshots that
    a final trial took, on test data.
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
    seconds_to_target: float | None = None
    values: dict[str, float] = field(default_factory=dict)
    test_scores: dict[str, float | None] = field(default_factory=dict)
    fixed: dict[str, Any] = field(default_factory=dict)
    ensemble_loss: float | None = None
    ensemble_metric: float | None = None

    @property
    def trial(self) -> Trial:
        """Which trial this is the record of."""
        return Trial(self.phase, self.optimizer, self.rate, self.seed, tuple(self.values.items()))

    def as_dict(self) -> dict[str, Any]:
        """Return the record as a dict that JSON can hold."""
        return asdict(self)


def run(
    task: Problem,
    trial: Trial,
    steps: int,
    log: Log | None = None,
    shape: Schedule | None = None,
    kept: Kept | None = None,
    watch: Callable[[int, nn.Module], None] | None = None,
) -> Record:
    """Run one trial from its seed to its record.

    It runs on one thread, so that its numbers do not depend on the machine's cores, and leaves the global random
    generators and the number of threads as they were.

    Args:
        task: what is trained: a task, or a training script.
        trial: with what.
        steps: optimizer steps, 2 or more.
        log: is told what is measured, at every checkpoint.
        shape: the schedule that the rate follows; by default warm-up, then a cosine to the end. Where its cycles end
            there is a checkpoint.
        kept: what is kept of the weights, of a task that can be averaged; only tuning keeps nothing.
        watch: is shown the model after every step, which it leaves as it is.
    """
    log = log or Silent()
    shape = shape or schedule(steps)
    with one_thread(), seeded(trial.seed):
        if isinstance(task, Script):
            ran = handle.run(task, trial, steps, _arguments(trial, shape), log)
            return _record(task, trial, ran.training, ran.test, _state_bytes(ran.optimizer), ran.fixed)
        keeping = None if kept is None or trial.phase == "tuning" else Keeping(task, trial.file_name(), kept)
        model, optimizer = _made(task, trial, shape, **({} if keeping is None else keeping.options()))

        def after(step: int, training: Training) -> None:
            if keeping is not None:
                keeping.after(step, model, training.curve)
            if watch is not None:
                watch(step, model)

        stride = max(1, steps // CHECKPOINTS)
        points = {*range(stride, steps + 1, stride), *cycle_ends(shape, steps), *(keeping.steps if keeping else ())}
        training = train(task, model, optimizer, seed=trial.seed, steps=steps, points=points, log=log, after=after)
        test: Mapping[str, float] = {}
        if trial.phase == "final" and not training.diverged:
            test = evaluate(task, model, "test")
            training.diverged = not math.isfinite(test["loss"])
        together: Mapping[str, float] = {}
        if keeping is not None and not training.diverged:
            together = keeping.end(model, optimizer, trial.seed, is_final=trial.phase == "final")
    return _record(task, trial, training, test, _state_bytes(optimizer), together=together)


def cycle_ends(shape: Schedule, steps: int) -> list[int]:
    """Return the steps at which cycles of a schedule end; none if they are too many to look at each."""
    ends = list(itertools.islice(shape.cycles(), _MOST_CYCLES + 1))
    within = [end for end in ends if end <= steps]
    return within if len(within) <= _MOST_CYCLES else []


def warm_up(task: Problem, trial: Trial) -> None:
    """Take one step of a trial and forget it: it pays for what a process does once, such as loading code.

    A script is not run for that; its first steps are left out of the timing all the same.
    """
    if isinstance(task, Script):
        return
    with one_thread(), seeded(trial.seed):
        model, optimizer = _made(task, trial, schedule(2))
        step(task, model, optimizer, task.batches(trial.seed), Training())


def _made(task: Task, trial: Trial, shape: Schedule, **options: Any) -> tuple[nn.Module, Optimizer]:
    model = task.model(trial.seed)
    made = optim.of(trial.rule)
    return model, made(search_space.params(trial.rule, model), **_arguments(trial, shape), **options)


def _arguments(trial: Trial, shape: Schedule) -> dict[str, Any]:
    return search_space.arguments(trial.rule, trial.rate, shape, dict(trial.values))


def _record(
    task: Problem,
    trial: Trial,
    training: Training,
    test: Mapping[str, float],
    state_bytes: int,
    fixed: Mapping[str, Any] | None = None,
    together: Mapping[str, float] | None = None,
) -> Record:
    diverged = training.diverged
    last = training.curve[-1] if training.curve and not diverged else None
    is_final = trial.phase == "final"
    reached = None if diverged else at_target(task, training)
    own = {name: value for name, value in asdict(trial).items() if name != "source"}
    return Record(
        **{**own, "values": dict(trial.values)},
        diverged=diverged,
        curve=[{name: _plain(value) for name, value in asdict(point).items()} for point in training.curve],
        validation_loss=_plain(last.validation_loss) if last else None,
        validation_metric=_plain(last.validation_metric if last else task.worst),
        test_loss=None if diverged else _plain(test.get("loss")),
        test_metric=_plain(task.worst if diverged and is_final else test.get(task.metric)),
        steps_to_target=reached.step if reached else None,
        seconds_to_target=reached.seconds if reached else None,
        ms_per_step=milliseconds(training.step_seconds),
        optimizer_ms_per_step=milliseconds(training.optimizer_seconds),
        state_bytes=state_bytes,
        test_scores={name: _plain(value) for name, value in test.items() if name not in ("loss", task.metric)},
        fixed={name: list(value) if isinstance(value, tuple) else value for name, value in (fixed or {}).items()},
        ensemble_loss=_plain((together or {}).get("loss")),
        ensemble_metric=_plain((together or {}).get(task.metric)),
    )


def at_target(task: Problem, training: Training) -> Checkpoint | None:
    """Return the first checkpoint whose validation metric reaches the target, None without one."""
    if task.target is None:
        return None
    for point in training.curve:
        ahead = point.validation_metric - task.target
        if (ahead if task.direction == "maximize" else -ahead) >= 0:
            return point
    return None


def _plain(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _state_bytes(optimizer: torch.optim.Optimizer) -> int:
    tensors = [
        value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)
    ]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run a block on one thread of torch, so that its numbers do not depend on the machine's cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
