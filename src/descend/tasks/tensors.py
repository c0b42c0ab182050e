"""`TensorTask`: a task whose data are tensors in memory needs only these and a network."""

import abc
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from descend.restoring import evaluating, seeded
from descend.tasks.base import Average, Direction, EvaluationSplit, Split, TaskError

_EVALUATION_BATCH = 128


class TensorTask(abc.ABC):
    """A task on tensors in memory, by default classification judged by accuracy.

    A subclass gives `name`, `target`, `tensors` and `network`; it overrides `criterion` and `score` (with `metric`,
    `direction` and `worst`) for another loss and metric, `prepare` to keep its inputs in a smaller type than its model
    takes, and `augment` to vary them in training. Without a `description` its docstring's first line is taken.
    """

    name: str
    title: str
    description: str
    metric: str = "accuracy"
    direction: Direction = "maximize"
    target: float | None
    worst: float = 0.0
    steps: int = 600
    batch_size: int = 32

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in vars(cls):  # a base of tasks is none itself
            return
        if not hasattr(cls, "title"):
            cls.title = cls.name
        if cls.__doc__ and "description" not in vars(cls):
            cls.description = cls.__doc__.strip().splitlines()[0]

    @abc.abstractmethod
    def tensors(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Return inputs and targets of "train", "validation" and "test"; called once, at first need."""

    @abc.abstractmethod
    def network(self) -> nn.Module:
        """Return a new model; torch's global generator, seeded beforehand, decides its initial weights."""

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss over the examples; by default the cross entropy in nats."""
        return nn.functional.cross_entropy(outputs, targets)

    def score(self, outputs: Tensor, targets: Tensor) -> float:
        """Return the metric over all examples; by default the share of right classes."""
        return (outputs.argmax(1) == targets).double().mean().item()

    def prepare(self, inputs: Tensor) -> Tensor:
        """Return inputs as the model takes them, from a part of what `tensors` gave; by default as they are."""
        return inputs

    def augment(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Return prepared inputs varied for training, all draws from the generator; by default as they are."""
        return inputs

    @property
    def sizes(self) -> Mapping[str, int]:
        """Number of examples in each split."""
        return {name: len(targets) for name, (_, targets) in self._splits.items()}

    def model(self, seed: int) -> nn.Module:
        """Return `network()` as initialised under the seed."""
        with seeded(seed):
            return self.network()

    def batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches of `batch_size` for ever: epochs in an order drawn from the seed, each without its odd rest."""
        inputs, targets = self._splits["train"]
        size = min(self.batch_size, len(targets))
        generator = torch.Generator().manual_seed(seed)
        while True:
            order = torch.randperm(len(targets), generator=generator)
            for start in range(0, len(order) - size + 1, size):
                chosen = order[start : start + size]
                yield self.augment(self.prepare(inputs[chosen]), generator), targets[chosen]

    def ordered(self, split: Split, size: int, count: int | None = None) -> list[tuple[Tensor, Tensor]]:
        """Return batches of a split in its order, prepared and not augmented; of `count` examples, spread evenly."""
        inputs, targets = self._splits[split]
        taken = len(targets) if count is None else min(count, len(targets))
        chosen = torch.arange(taken) * len(targets) // taken
        return [(self.prepare(inputs[rows]), targets[rows]) for rows in torch.split(chosen, size)]

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return `criterion` on one batch."""
        inputs, targets = batch
        return self.criterion(model(inputs), targets)

    def evaluate(self, model: nn.Module, split: EvaluationSplit) -> dict[str, float]:
        """Return loss and metric on a whole split, in evaluation mode; a model in training mode goes back to it."""
        return self.judge(self._outputs(model, split), split)

    @property
    def averages(self) -> Average:
        """What an average of outputs is: of probabilities where the targets are classes, else of values."""
        return "values" if self._splits["test"][1].is_floating_point() else "probabilities"

    def outputs(self, model: nn.Module, split: EvaluationSplit) -> Tensor:
        """Return what the model says on a whole split: log-probabilities of classes, in dimension 1, or values."""
        outputs = self._outputs(model, split)
        return outputs.log_softmax(1) if self.averages == "probabilities" else outputs

    def judge(self, outputs: Tensor, split: EvaluationSplit) -> dict[str, float]:
        """Return loss and metric of outputs on a whole split."""
        targets = self._splits[split][1]
        return {"loss": self.criterion(outputs, targets).item(), self.metric: self.score(outputs, targets)}

    def targets(self, split: EvaluationSplit) -> Tensor | None:
        """Return the right class of each example; None where targets are no classes, or several for an example."""
        targets = self._splits[split][1]
        return targets if self.averages == "probabilities" and targets.ndim == 1 else None

    def _outputs(self, model: nn.Module, split: EvaluationSplit) -> Tensor:
        inputs = self._splits[split][0]
        with evaluating(model):
            return torch.cat([model(self.prepare(part)) for part in torch.split(inputs, _EVALUATION_BATCH)])

    @cached_property
    def _splits(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        with seeded(0):  # data drawn from the global generators are the same in every process
            splits = self.tensors()
        for name in ("train", "validation", "test"):
            if name not in splits:
                raise TaskError(
                    f"task {self.name}: tensors() gives no '{name}' split; return train, validation and test"
                )
            inputs, targets = splits[name]
            if len(inputs) != len(targets) or len(targets) == 0:
                raise TaskError(
                    f"task {self.name}: the '{name}' split has {len(inputs)} inputs and {len(targets)} targets; "
                    "give as many of one as of the other, and at least one"
                )
        return splits
