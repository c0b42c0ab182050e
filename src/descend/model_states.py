"""States of models, as `state_dict()` gives them, and the models that they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

State: TypeAlias = Mapping[str, Tensor]
"""What `model.state_dict()` gives: parameters and buffers by name."""


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside of DataParallel, DistributedDataParallel and torch.compile, whose names it keeps."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def is_floating(value: object) -> bool:
    """Tell whether this is a tensor that can be averaged: of real or complex numbers."""
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def wide(value: Tensor) -> Tensor:
    """Return a tensor in float64, or complex128."""
    place = "cpu" if value.device.type == "mps" else value.device  # Apple's has no float64
    return value.detach().to(place, torch.complex128 if value.is_complex() else torch.float64)


def copied(value: Any) -> Any:
    """Return a copy of a tensor, and any other value of a state as it is."""
    return value.detach().clone() if isinstance(value, Tensor) else value


def run_on(model: nn.Module, batch: Any) -> Any:
    """Run a model on a batch: a tensor as it is, of a tuple or list the first element, a mapping as keyword arguments.

    Raises:
        TypeError: the batch is nothing of the kind.
    """
    if isinstance(batch, Mapping):
        return model(**batch)
    inputs = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    if not isinstance(inputs, Tensor):
        raise TypeError(
            f"batches has a {type(batch).__name__} without a tensor in front; give forward=, say "
            "lambda model, batch: model(batch.inputs)"
        )
    return model(inputs)
