"""What optimizers are learned on: families of problems, drawn by a seed, many solved at once."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from descend import tasks
from descend.learned.pairs import Params
from descend.restoring import seeded
from descend.tasks import Ordered

Split = Literal["train", "validation", "test"]
_INITIAL: Final = 0.01
"""Deviation of initial weights, unless they are torch's."""
_JUDGED: Final = 10_000
"""Training examples that a final loss is of, at most."""


class Problems(abc.ABC):
    """A batch of problems; see `descend.learned.unrolling.Problem`.

    Attributes:
        count: number of them.
    """

    count: int

    @abc.abstractmethod
    def first(self) -> dict[str, Tensor]:
        """Return the parameters before the first step, (problems, ...)."""

    @abc.abstractmethod
    def losses(self, params: Params, step: int) -> Tensor:
        """Return the loss of each problem on its batch of a step, (problems,)."""

    @abc.abstractmethod
    def final(self, params: Params) -> Tensor:
        """Return the loss of each problem on all of its training data, (problems,), without gradients."""

    def accuracies(self, params: Params, split: Split) -> Tensor | None:
        """Return the accuracy of each problem on a split; None where there are no classes."""
        return None


class Family(abc.ABC):
    """A distribution of problems."""

    @abc.abstractmethod
    def draw(self, count: int, seed: int) -> Problems:
        """Return problems; the seed alone decides them, their initial weights and the order of their data.

        Args:
            count: of problems.
            seed: of everything.
        """


@dataclass(frozen=True)
class Quadratics(Family):
    """Quadratics f(theta) = |W theta - y|^2 with random W and y.

    Attributes:
        dimension: of theta.
        uniform: draw W and y from U(0, 1), as the authors' code does; else they are normal, as in the paper.

    Source: Andrychowicz et al. 2016, arXiv:1606.04474, section 3.1.
    """

    dimension: int = 10
    uniform: bool = False

    def draw(self, count: int, seed: int) -> Problems:
        """See `Family.draw`."""
        source = torch.Generator().manual_seed(seed)
        draw = torch.rand if self.uniform else torch.randn
        matrix = draw(count, self.dimension, self.dimension, generator=source)
        target = draw(count, self.dimension, generator=source)
        return DrawnQuadratics(matrix, target, _INITIAL * torch.randn(count, self.dimension, generator=source))


class DrawnQuadratics(Problems):
    """Quadratics.

    Args:
        matrix: (problems, dimension, dimension).
        target: (problems, dimension).
        start: (problems, dimension).
    """

    def __init__(self, matrix: Tensor, target: Tensor, start: Tensor) -> None:
        self.matrix, self.target, self.start = matrix, target, start
        self.count = len(target)

    def first(self) -> dict[str, Tensor]:
        """See `Problems.first`."""
        return {"theta": self.start}

    def losses(self, params: Params, step: int) -> Tensor:
        """See `Problems.losses`: there are no batches."""
        return (torch.einsum("pij,pj->pi", self.matrix, params["theta"]) - self.target).square().sum(1)

    def final(self, params: Params) -> Tensor:
        """See `Problems.final`."""
        return self.losses(params, 0).detach()


_ACTIVATIONS: Final[Mapping[str, Callable[[], nn.Module]]] = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU}


@dataclass(frozen=True)
class Classifiers(Family):
    """Small networks that learn to classify images.

    Where several values stand in an attribute, one is drawn for all problems of a batch.

    Attributes:
        task: whose data: the name of one with images.
        models: of "mlp", "convnet" and "logistic".
        layers: hidden layers of a perceptron, convolutions of a ConvNet.
        widths: units of a layer, channels of a convolution.
        activations: of "sigmoid", "tanh" and "relu".
        initials: of "small", normal with deviation 0.01 for weights and biases, and "torch", the layers' own.
        batch_size: examples of a step.
    """

    task: str = "digits"
    models: Sequence[str] = ("mlp",)
    layers: Sequence[int] = (1,)
    widths: Sequence[int] = (20,)
    activations: Sequence[str] = ("sigmoid",)
    initials: Sequence[str] = ("small",)
    batch_size: int = 128

    def draw(self, count: int, seed: int) -> Problems:
        """See `Family.draw`."""
        source = torch.Generator().manual_seed(seed)

        def one_of(values: Sequence[Any]) -> Any:
            return values[int(torch.randint(len(values), (), generator=source))]

        data = images(self.task)
        chosen = [one_of(values) for values in (self.models, self.layers, self.widths, self.activations, self.initials)]
        model, layers, width, activation, start = chosen
        with seeded(seed):
            networks = [network(data, model, layers, width, activation, start) for _ in range(count)]
        params, buffers = torch.func.stack_module_state(networks)
        assert not buffers
        return DrawnClassifiers(
            networks[0], {name: one.detach() for name, one in params.items()}, data, self.batch_size, seed
        )


@dataclass(frozen=True)
class Images:
    """Images and their classes.

    Attributes:
        splits: images (examples, channels, height, width) and classes (examples,), by split.
        classes: number of them.
    """

    splits: Mapping[str, tuple[Tensor, Tensor]] = field(repr=False)
    classes: int


@cache
def images(task: str) -> Images:
    """Return the images of a task, all splits, once.

    Args:
        task: name of one.
    """
    problem = cast(Ordered, tasks.load(task))
    splits: dict[str, tuple[Tensor, Tensor]] = {}
    names: tuple[Split, ...] = ("train", "validation", "test")
    for split in names:
        batches = problem.ordered(split, 10_000)
        inputs, classes = (torch.cat(parts) for parts in zip(*batches, strict=True))
        splits[split] = inputs, classes
    return Images(splits, int(splits["train"][1].max()) + 1)


def network(data: Images, model: str, layers: int, width: int, activation: str, initial: str) -> nn.Module:
    """Return a network; see `Classifiers` for the arguments."""
    channels, height, side = data.splits["train"][0].shape[1:]
    hidden: list[nn.Module] = []
    inputs = channels * height * side
    if model == "convnet":
        for layer in range(layers):
            hidden += [nn.Conv2d(channels if layer == 0 else width, width, 3, padding=1), _ACTIVATIONS[activation]()]
            hidden.append(nn.AvgPool2d(2))
            height, side = height // 2, side // 2
        inputs = width * height * side
    hidden.append(nn.Flatten())
    if model == "mlp":
        for _ in range(layers):
            hidden += [nn.Linear(inputs, width), _ACTIVATIONS[activation]()]
            inputs = width
    found = nn.Sequential(*hidden, nn.Linear(inputs, data.classes))
    if initial == "small":
        for param in found.parameters():
            nn.init.normal_(param, std=_INITIAL)
    return found


class DrawnClassifiers(Problems):
    """Networks of one layout, each with its own weights and order of data.

    Args:
        model: one of them, for its layout.
        start: the weights of all, (problems, ...).
        data: that they learn.
        batch_size: examples of a step.
        seed: of the order.
    """

    def __init__(self, model: nn.Module, start: dict[str, Tensor], data: Images, batch_size: int, seed: int) -> None:
        self.model, self.start, self.data = model, start, data
        self.batch_size, self.seed = batch_size, seed
        self.count = len(next(iter(start.values())))

    def first(self) -> dict[str, Tensor]:
        """See `Problems.first`."""
        return dict(self.start)

    def losses(self, params: Params, step: int) -> Tensor:
        """See `Problems.losses`: examples are drawn with replacement."""
        inputs, classes = self.data.splits["train"]
        source = torch.Generator().manual_seed((self.seed * 1_000_003 + step) % 2**63)
        rows = torch.randint(len(classes), (self.count, self.batch_size), generator=source)
        logits = torch.vmap(self._logits)(dict(params), inputs[rows])
        return functional.cross_entropy(logits.transpose(1, 2), classes[rows], reduction="none").mean(1)

    def _logits(self, params: Params, inputs: Tensor) -> Tensor:
        return cast(Tensor, torch.func.functional_call(self.model, dict(params), (inputs,)))

    def _on(self, params: Params, split: str) -> tuple[Tensor, Tensor]:
        inputs, classes = self.data.splits[split]
        every = max(1, math.ceil(len(classes) / _JUDGED)) if split == "train" else 1
        inputs, classes = inputs[::every], classes[::every]
        with torch.no_grad():
            logits = [
                self._logits({name: one[place] for name, one in params.items()}, inputs) for place in range(self.count)
            ]
        return torch.stack(logits), classes

    def final(self, params: Params) -> Tensor:
        """See `Problems.final`: of at most 10,000 examples that lie evenly in the training data."""
        logits, classes = self._on(params, "train")
        return torch.stack([functional.cross_entropy(one, classes) for one in logits])

    def accuracies(self, params: Params, split: Split) -> Tensor:
        """See `Problems.accuracies`."""
        logits, classes = self._on(params, split)
        return (logits.argmax(2) == classes).double().mean(1)
