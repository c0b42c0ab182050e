"""Losses of a model on a batch, and how many examples a batch has."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from descend.model_states import run_on

Loss: TypeAlias = Callable[[nn.Module, Any], Tensor]
"""From a model and a batch to the mean loss over the batch, a scalar."""


def supervised(criterion: Callable[[Any, Any], Tensor]) -> Loss:
    """Return the loss of batches of inputs and targets: criterion(model(inputs), targets).

    Args:
        criterion: a mean over the batch, such as `nn.functional.cross_entropy` or `nn.CrossEntropyLoss()`.
    """

    def loss(model: nn.Module, batch: Any) -> Tensor:
        if not isinstance(batch, Sequence) or len(batch) != 2:
            raise TypeError(
                f"batches has a {type(batch).__name__} that is no pair of inputs and targets; give loss=, say "
                "lambda model, batch: criterion(model(batch.inputs), batch.targets)"
            )
        return criterion(run_on(model, batch), batch[1])

    return loss


@dataclass(frozen=True)
class UnitLogits:
    """The normalization of logits, made by `unit_logits`.

    Attributes:
        temperature: logits have the norm 1 / temperature.
    """

    temperature: float

    def __call__(self, logits: Tensor) -> Tensor:
        """Return logits of that norm."""
        norms: Tensor = torch.linalg.vector_norm(logits, dim=1, keepdim=True).clamp_min(1e-12)
        return logits / (self.temperature * norms)


def unit_logits(temperature: float = 1.0) -> UnitLogits:
    """Return the normalization of logits: each row divided by its norm times the temperature.

    Andriushchenko et al. 2023, arXiv:2302.07011, section 2: it takes the scale of the logits, which training drives up
    without end, out of a measure of sharpness.

    Args:
        temperature: above 0; logits then have the norm 1 / temperature.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature is {temperature!r}; give a finite number above 0")
    return UnitLogits(temperature)


def examples(batch: Any) -> int:
    """Return the length of the first tensor in a batch.

    Raises:
        ValueError: it has none.
    """
    tensor = next(tensors_in(batch), None)
    if tensor is None or tensor.ndim == 0:
        raise ValueError(f"a batch of type {type(batch).__name__} has no size; give count=, the number of its examples")
    return len(tensor)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in a batch, or in what a model returns."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from tensors_in(one)
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from tensors_in(one)
    elif hasattr(value, "__dict__"):
        yield from tensors_in(vars(value))
