"""Child networks: what update rules are tried on, many at once, each row of a matrix the weights of one network.

A child gives the gradients of all rows on one batch, in one call. The same seed means the same initial weights and the
same batches in the same order whatever the rule: differences between rules are not those of luck. Everything is seen of
a task but its test split.
"""

from __future__ import annotations

import abc
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from descend import tasks
from descend.restoring import seeded
from descend.search import perceptrons

Batch = tuple[Tensor, Tensor]
"""Inputs and classes."""


class Child(abc.ABC):
    """A network for one task, in as many rows as wanted.

    Attributes:
        name: under which `load` finds it.
        width: the number of weights.
        memory: numbers that a row keeps beside its weights, such as running statistics; they are no weights.
        batch_size: examples of one batch.
    """

    name: str
    width: int
    memory: int = 0
    batch_size: int

    @abc.abstractmethod
    def initial(self, seed: int) -> Tensor:
        """The weights before the first step; the seed alone decides them."""

    @abc.abstractmethod
    def gradients(self, params: Tensor, grads: Tensor, batch: Batch, memory: Tensor) -> Tensor:
        """Write each row's gradient of the training loss on a batch into `grads`.

        Args:
            params: the weights, rows x width.
            grads: takes the gradients.
            batch: the same for all rows.
            memory: of the rows, rows x `memory`, updated in place.

        Returns:
            The training loss of each row.
        """

    @abc.abstractmethod
    def evaluate(self, params: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """The mean cross entropy in nats and the accuracy of each row on the validation split."""

    @property
    @abc.abstractmethod
    def splits(self) -> dict[str, Batch]:
        """The prepared "train" and "validation" examples."""

    def begin(self, rows: int) -> Tensor:
        """What so many rows keep beside their weights before the first step."""
        return torch.zeros(rows, self.memory)

    def batches(self, seed: int) -> Iterator[Batch]:
        """Yield batches for ever: epochs in an order drawn from the seed, each without its odd rest."""
        inputs, targets = self.splits["train"]
        generator = torch.Generator().manual_seed(seed)
        while True:
            order = torch.randperm(len(targets), generator=generator)
            for chosen in order[: len(order) // self.batch_size * self.batch_size].view(-1, self.batch_size):
                yield inputs[chosen], targets[chosen]

    def __reduce__(self) -> tuple[Callable[[str], Child], tuple[str]]:
        return load, (self.name,)  # a process reads the data itself


def _examples(task: Any) -> dict[str, Batch]:
    """The training and validation examples of a task, prepared for its models."""
    with seeded(0):
        found = task.tensors()
    return {part: (task.prepare(found[part][0]), found[part][1]) for part in ("train", "validation")}


class Perceptron(Child):
    """A perceptron with one hidden layer of rectified linear units.

    A layer's weights are a matrix outputs x (inputs + 1), the bias its last column. Weights and biases begin uniform
    within 1 / sqrt(inputs), as torch's linear layers do. Where they can be compiled, kernels do the work; else batched
    matrix products of torch.

    Args:
        name: of the child.
        task: gives the data; called at first need.
        sizes: inputs, hidden units, classes.
        batch_size: examples of one batch.
    """

    def __init__(self, name: str, task: Callable[[], Any], sizes: tuple[int, int, int], batch_size: int) -> None:
        self.name, self.sizes, self.batch_size, self._task = name, sizes, batch_size, task
        inputs, hidden, classes = sizes
        self._cut = hidden * (inputs + 1)
        self.width = self._cut + classes * (hidden + 1)

    @functools.cached_property
    def splits(self) -> dict[str, Batch]:
        """The images as rows of numbers, and their classes."""
        return {part: (x.flatten(1), y) for part, (x, y) in _examples(self._task()).items()}

    def initial(self, seed: int) -> Tensor:
        """See `Child.initial`."""
        generator = torch.Generator().manual_seed(seed)
        parts = [
            (torch.rand(outputs * (inputs + 1), generator=generator) * 2 - 1) / inputs**0.5
            for inputs, outputs in itertools.pairwise(self.sizes)
        ]
        return torch.cat(parts)

    def gradients(self, params: Tensor, grads: Tensor, batch: Batch, memory: Tensor) -> Tensor:
        """See `Child.gradients`."""
        if self._is_native:
            return perceptrons.gradients(params, grads, perceptrons.examples(*batch), self.sizes)
        return self._gradients_in_torch(params, grads, batch)

    def evaluate(self, params: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """See `Child.evaluate`."""
        if self._is_native:
            return perceptrons.evaluate(params, self._validation, self.sizes)
        inputs, targets = self.splits["validation"]
        return _judged(self._forward(_with_ones(inputs, len(params)), *self._layers(params))[1], targets)

    @property
    def _is_native(self) -> bool:
        return perceptrons.is_available(self.sizes[0], self.batch_size)

    @functools.cached_property
    def _validation(self) -> perceptrons.Examples:
        return perceptrons.examples(*self.splits["validation"])

    def _gradients_in_torch(self, params: Tensor, grads: Tensor, batch: Batch) -> Tensor:
        """The gradients in batched matrix products, which take the biases along as weights of an input that is 1."""
        inputs, targets = batch
        x = _with_ones(inputs, len(params))
        first, second = self._layers(params)
        grad_first, grad_second = self._layers(grads)
        hidden, logits = self._forward(x, first, second)
        log_probabilities = logits.log_softmax(2)
        right = targets.view(1, -1, 1).expand(len(params), -1, 1)
        losses = -log_probabilities.gather(2, right).double().mean((1, 2))
        delta = log_probabilities.exp_()
        delta.scatter_add_(2, right, delta.new_full((), -1.0).expand(right.shape))
        delta /= len(targets)
        _product(grad_second, delta.mT, hidden)
        back = torch.bmm(delta, second[:, :, :-1])
        back = torch.ops.aten.threshold_backward(back, hidden[:, :, :-1], 0)
        _product(grad_first, back.mT, x)
        return losses

    def _layers(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        inputs, hidden, classes = self.sizes
        first = flat[:, : self._cut].view(len(flat), hidden, inputs + 1)
        return first, flat[:, self._cut :].view(len(flat), classes, hidden + 1)

    def _forward(self, x: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        hidden = x.new_ones(*x.shape[:2], first.shape[1] + 1)
        hidden[:, :, :-1] = torch.bmm(x, first.mT).relu_()
        return hidden, torch.bmm(hidden, second.mT)


class ConvNet(Child):
    """The child of Bello et al. 2017 (arXiv:1709.07417, section 4.1): two convolutions of 32 filters of 3x3, each with
    rectified linear units and batch normalization, and a linear layer.

    Images are pooled to half their size after each rectification, as in the implementation of Wang et al. 2022
    (arXiv:2209.13575); whether the paper's child pools is not told. Rows are computed one after the other: a row is
    work enough for the calls that it takes.

    Args:
        name: of the child.
        task: gives the data; called at first need.
        batch_size: examples of one batch.
    """

    filters: Final = 32

    def __init__(self, name: str, task: Callable[[], Any], batch_size: int) -> None:
        self.name, self.batch_size, self._task = name, batch_size, task
        self._shapes = [parameter.shape for parameter in self._network().parameters()]
        self._sizes = [shape.numel() for shape in self._shapes]
        self.width = sum(self._sizes)
        self.memory = 4 * self.filters

    def _network(self) -> nn.Module:
        """What gives the weights their first values."""
        return nn.Sequential(
            nn.Conv2d(3, self.filters, 3, padding=1),
            nn.BatchNorm2d(self.filters),
            nn.Conv2d(self.filters, self.filters, 3, padding=1),
            nn.BatchNorm2d(self.filters),
            nn.Linear(self.filters * 8 * 8, 10),
        )

    @functools.cached_property
    def splits(self) -> dict[str, Batch]:
        """The images, with their channels last, which convolves them in two thirds of the time; and their classes."""
        found = _examples(self._task()).items()
        return {part: (x.contiguous(memory_format=torch.channels_last), y) for part, (x, y) in found}

    def initial(self, seed: int) -> Tensor:
        """See `Child.initial`."""
        with seeded(seed):
            return nn.utils.parameters_to_vector(self._network().parameters()).detach()

    def begin(self, rows: int) -> Tensor:
        """Running means of 0 and variances of 1, for both batch normalizations."""
        return torch.cat([torch.zeros(rows, 2 * self.filters), torch.ones(rows, 2 * self.filters)], 1)

    def gradients(self, params: Tensor, grads: Tensor, batch: Batch, memory: Tensor) -> Tensor:
        """See `Child.gradients`."""
        inputs, targets = batch
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        losses = torch.empty(len(params))
        for row, (weights, statistics) in enumerate(zip(params, memory, strict=True)):
            with torch.enable_grad():
                pieces = [piece.requires_grad_() for piece in self._pieces(weights.detach())]
                loss = functional.cross_entropy(self._forward(inputs, pieces, statistics, training=True), targets)
                found = torch.autograd.grad(loss, pieces)
            torch.cat([x.reshape(-1) for x in found], out=grads[row])
            losses[row] = loss.detach()
        return losses

    def evaluate(self, params: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """See `Child.evaluate`."""
        inputs, targets = self.splits["validation"]
        judged = []
        for weights, statistics in zip(params, memory, strict=True):
            pieces = self._pieces(weights)
            parts = [self._forward(x, pieces, statistics, training=False) for x in torch.split(inputs, self.batch_size)]
            judged.append(_judged(torch.cat(parts)[None], targets))
        losses, accuracies = zip(*judged, strict=True)
        return torch.cat(losses), torch.cat(accuracies)

    def _pieces(self, flat: Tensor) -> list[Tensor]:
        return [x.view(shape) for x, shape in zip(torch.split(flat, self._sizes), self._shapes, strict=True)]

    def _forward(self, x: Tensor, pieces: list[Tensor], statistics: Tensor, training: bool) -> Tensor:
        means, variances = statistics.view(2, 2, self.filters)
        for layer, (mean, variance) in enumerate(zip(means, variances, strict=True)):
            weight, bias, scale, shift = pieces[4 * layer : 4 * layer + 4]
            x = functional.max_pool2d(functional.conv2d(x, weight, bias, padding=1).relu(), 2)
            x = functional.batch_norm(x, mean, variance, scale, shift, training)
        return functional.linear(x.flatten(1), *pieces[8:])


def _with_ones(x: Tensor, rows: int) -> Tensor:
    """The inputs with a 1 behind them, the same for all rows."""
    return torch.cat([x, x.new_ones(len(x), 1)], 1).expand(rows, -1, -1)


def _product(out: Tensor, a: Tensor, b: Tensor) -> None:
    """The batched matrix product, into memory that may have gaps."""
    torch.baddbmm(out, a, b, beta=0, out=out)


def _judged(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross entropy and accuracy of each row, given rows x examples x classes."""
    right = targets.view(1, -1, 1).expand(len(logits), -1, 1)
    losses = -logits.log_softmax(2).gather(2, right).double().mean((1, 2))
    accuracies = (logits.argmax(2) == targets).double().mean(1)
    return losses, accuracies


_IMAGES: Final = 10_000
_REGISTRY: Final[dict[str, Callable[[], Child]]] = {
    "digits": lambda: Perceptron("digits", lambda: tasks.load("digits"), (64, 32, 10), 64),
    "mnist": lambda: Perceptron("mnist", lambda: tasks.load("mnist", subset=_IMAGES), (784, 20, 10), 128),
    "cifar10": lambda: ConvNet("cifar10", lambda: tasks.load("cifar10", subset=_IMAGES), 100),
}


def names() -> tuple[str, ...]:
    """The children that there are."""
    return tuple(_REGISTRY)


@functools.cache
def load(name: str) -> Child:
    """The child of a name, one object per process.

    Raises:
        ValueError: for another name.
    """
    if name not in _REGISTRY:
        raise ValueError(f"child is {name!r}; choose one of {', '.join(_REGISTRY)}")
    return _REGISTRY[name]()
