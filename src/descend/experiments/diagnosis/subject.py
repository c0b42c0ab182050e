"""What instruments look at: a task with weights of solutions, and some of its training examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, TypeAlias

from torch import nn

from descend.experiments.diagnosis.solutions import Solution
from descend.generalization import Objective
from descend.generalization.linear import Conditions
from descend.model_states import State
from descend.tasks import Ordered, Task

BATCH = 250
"""Examples whose graph is in memory at a time."""
SEED = 0
"""Of what instruments draw."""
INACCURATE = "not as accurate as was asked"

Part: TypeAlias = dict[str, Any]
"""Of `diagnosis.json`, as plain values."""


@dataclass(frozen=True)
class Subject:
    """The task and the weights that an instrument looks at.

    Attributes:
        task: decides model and loss.
        solutions: the weights; most instruments look at the first.
        examples: of the training data that they see.
    """

    task: Task
    solutions: Sequence[Solution]
    examples: int

    @cached_property
    def batches(self) -> list[Any]:
        """Training examples in order, without augmentation, or where the task has no order, batches of an epoch."""
        return examples_of(self.task, self.examples)

    def model(self, place: int = 0) -> nn.Module:
        """Return the model with the weights of a solution."""
        model = self.task.model(0)
        model.load_state_dict(dict(self.solutions[place].state()))
        return model.eval()

    def states(self) -> list[State]:
        """Return the weights of all solutions, in the types that the model has."""
        return [self.model(place).state_dict() for place in range(len(self.solutions))]

    def objective(self, model: nn.Module | None = None, **options: Any) -> Objective:
        """Return the loss on these examples."""
        model = self.model() if model is None else model
        found = Objective(model, self.task.loss, self.batches, **options)
        if not isinstance(self.task, Ordered):
            found.notes.append("the task has no order of its examples: they are the first of its training batches")
        return found

    def setting(self, conditions: Conditions, *notes: str) -> Part:
        """Return what was measured, as the document has it."""
        return {
            "solution": self.solutions[0].name,
            "mode": conditions.mode,
            "examples": conditions.examples,
            "batches": conditions.batches,
            "parameters": conditions.parameters,
            "weight_decay": conditions.weight_decay,
            "seed": conditions.seed,
            "notes": [*conditions.notes, *notes],
        }


def examples_of(task: Task, count: int) -> list[Any]:
    """Return training examples in batches, at most so many."""
    if isinstance(task, Ordered):
        return task.ordered("train", BATCH, count)
    batches = max(1, min(count, task.sizes["train"]) // task.batch_size)
    return list(islice(task.batches(SEED), batches))


def plain(value: float | None) -> float | None:
    """Return a number as JSON holds it: None for what is not finite."""
    return value if value is not None and math.isfinite(value) else None


def plains(values: Sequence[float]) -> list[float | None]:
    """Return numbers as JSON holds them."""
    return [plain(value) for value in values]


def has_statistics(model: nn.Module) -> bool:
    """Tell whether a model has batch normalization."""
    return any(isinstance(one, nn.modules.batchnorm._BatchNorm) for one in model.modules())
