"""The `Task` protocol: what a problem must offer to be trained on and compared."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Protocol, TypeVar, cast, runtime_checkable

from torch import Tensor, nn

Direction = Literal["maximize", "minimize"]
EvaluationSplit = Literal["validation", "test"]
Split = Literal["train", "validation", "test"]
Average = Literal["probabilities", "values"]

_MARK = "__descend_task__"
_TaskClass = TypeVar("_TaskClass", bound=type)


class TaskError(ValueError):
    """A task that cannot be used: unknown, missing or incomplete. The message says what to do."""


class Task(Protocol):
    """A problem: data, model, loss and metric.

    Any class with these members will do; `TensorTask` supplies most of them where the data fit in memory. The same seed
    must give the same initial weights and the same batches in the same order, whatever the optimizer. Data are loaded
    at first need, not by the constructor, whose arguments, all with defaults, are the task's settings. Three of them
    have options of the command line: `subset` (training examples to take, the other splits in proportion), `model`
    (which of several) and `data` (a file or folder in place of the usual one).

    A task may also have `quick`, a mapping: its settings in the smallest honest run, and "steps" if that is not a
    quarter of the steps; and the members of `ScalesRates`, `Ordered` and `Averages`.
    """

    name: str
    """What the command line calls it."""
    title: str
    """What tables and reports call it."""
    description: str
    """One line: data, model, split sizes."""
    metric: str
    """Name of the metric, for example "accuracy"; also its key in what `evaluate` returns."""
    direction: Direction
    """Whether the metric is better when larger or when smaller."""
    target: float | None
    """The validation metric that counts as reached; None without one."""
    worst: float
    """The metric's worst value, which a diverged run is given: 0 for an accuracy, math.inf for an error."""
    steps: int
    """The default budget: optimizer steps of one run."""
    batch_size: int
    """Examples in one training batch."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Number of examples in "train", "validation" and "test"."""
        ...

    def model(self, seed: int) -> nn.Module:
        """Return a freshly initialised model; the seed alone decides its weights."""
        ...

    def batches(self, seed: int) -> Iterator[Any]:
        """Yield training batches without end; the seed alone decides their order."""
        ...

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the training loss of the model on a batch: a scalar to call backward on."""
        ...

    def evaluate(self, model: nn.Module, split: EvaluationSplit) -> Mapping[str, float]:
        """Return {"loss": ..., metric: ...} on all of the split, in evaluation mode and without gradients."""
        ...


class ScalesRates(Protocol):
    """A task whose batches do not all weigh the same, such as sequences whose length varies."""

    def rate_share(self, batch: Any) -> float:
        """Return what the rates of the step on this batch are multiplied by; 1 leaves them as they are."""
        ...


@runtime_checkable
class Ordered(Protocol):
    """A task whose examples can be visited one after the other, for what looks at a fixed data set."""

    def ordered(self, split: Split, size: int, count: int | None = None) -> list[Any]:
        """Return batches of a split's examples in their order, without augmentation, the last one perhaps short.

        Args:
            split: which.
            size: examples of a batch.
            count: of the examples, evenly spread over the split; by default all.
        """
        ...


class Averages(Protocol):
    """A task whose models' predictions can be averaged, for ensembles: `evaluate` in two parts.

    For every split, `judge(outputs(model, split), split)` is what `evaluate(model, split)` says of loss and metric. It
    may also have `block`: how many successive rows depend on each other, as characters of one window do, so that
    intervals draw them together; 1 without.
    """

    averages: Average
    """What an average of outputs is: of the probabilities whose logs they are, or of the values themselves."""

    def outputs(self, model: nn.Module, split: EvaluationSplit) -> Tensor:
        """Return what the model says on a whole split, in evaluation mode: a row for each example.

        Where probabilities are averaged, the rows are their natural logs.
        """
        ...

    def judge(self, outputs: Tensor, split: EvaluationSplit) -> Mapping[str, float]:
        """Return {"loss": ..., metric: ...} of such outputs."""
        ...

    def targets(self, split: EvaluationSplit) -> Tensor | None:
        """Return the right class of each row; None where a row is not one distribution over classes."""
        ...


def averages(task: object) -> Averages | None:
    """Return the task as one whose predictions can be averaged; None if it is none."""
    members = ("averages", "outputs", "judge", "targets")
    return cast(Averages, task) if all(hasattr(type(task), member) for member in members) else None


def rate_share(task: Task, batch: Any) -> float:
    """Return what the rates of the step on a batch are multiplied by: 1 unless the task says otherwise.

    Args:
        task: any; one that has the method of `ScalesRates` is asked.
        batch: of its batches.

    Raises:
        TaskError: its answer is no finite number above 0.
    """
    asked = getattr(task, "rate_share", None)
    if asked is None:
        return 1.0
    share = asked(batch)
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < math.inf:
        raise TaskError(f"task {task.name}: rate_share() gave {share!r}; let it return a finite number above 0")
    return float(share)


def task(cls: _TaskClass) -> _TaskClass:
    """Mark a class as the task of its file, so that it is found there by name."""
    setattr(cls, _MARK, True)
    return cls


def is_marked(thing: object, module: str) -> bool:
    """Tell whether a thing is a class that `@task` marks and that the named module defines itself."""
    return isinstance(thing, type) and _MARK in vars(thing) and thing.__module__ == module
