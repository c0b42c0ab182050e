"""Leaving no trace: what a trial of a user's model changes is put back, bit for bit, whatever ends it."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@contextmanager
def restored(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: Any, scaler: torch.amp.GradScaler | None
) -> Iterator[None]:
    """Put model, optimizer, scaler and loader back after a block, whatever ends it."""
    with _model_restored(model), _optimizer_restored(optimizer), batches_restored(batches):
        scale = None if scaler is None else scaler.state_dict()
        try:
            yield
        finally:
            if scaler is not None and scale is not None:
                scaler.load_state_dict(scale)


@contextmanager
def _model_restored(model: nn.Module) -> Iterator[None]:
    """Put the buffers that were there, their values, extra state and modes back; the optimizer has the parameters."""
    modules = list(model.modules())
    buffers = [(module, dict(module._buffers), set(module._non_persistent_buffers_set)) for module in modules]
    modes = [(module, module.training) for module in modules]
    extra = [
        (module, copy.deepcopy(module.get_extra_state()))
        for module in modules
        if type(module).get_extra_state is not nn.Module.get_extra_state
    ]
    with _tensors_restored([b for _, held, _ in buffers for b in held.values()], list(model.parameters())):
        try:
            yield
        finally:
            for module, held, unsaved in buffers:
                for name in set(module._buffers) - set(held):  # registered on the way
                    del module._buffers[name]
                for name, buffer in held.items():
                    module._buffers[name] = buffer
                module._non_persistent_buffers_set = unsaved
            for module, mode in modes:
                module.training = mode
            for module, state in extra:
                module.set_extra_state(state)


@contextmanager
def _optimizer_restored(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Put its parameters, state and groups back: the numbers there, and the tensors, be they rates of the user's."""
    groups = [dict(group) for group in optimizer.param_groups]
    held = [value for group in groups for value in group.values() if isinstance(value, Tensor)]
    state = copy.deepcopy(optimizer.state_dict())
    with _tensors_restored(held, [parameter for group in groups for parameter in group["params"]]):
        try:
            yield
        finally:
            optimizer.load_state_dict(state)
            for group, before in zip(optimizer.param_groups, groups, strict=True):
                group.update({key: value for key, value in before.items() if key != "params"})


@contextmanager
def _tensors_restored(tensors: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> Iterator[None]:
    """Put the values of tensors and parameters back, and the parameters' gradients."""
    held = list({id(one): one for one in [*tensors, *parameters] if one is not None}.values())
    values = [(tensor, tensor.detach().clone()) for tensor in held]
    gradients = [(one, one.grad, None if one.grad is None else one.grad.detach().clone()) for one in parameters]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in values:
                tensor.copy_(value)
            for parameter, gradient, number in gradients:
                parameter.grad = gradient
                if gradient is not None and number is not None:
                    gradient.copy_(number)


@contextmanager
def batches_restored(batches: Any) -> Iterator[None]:
    """Put the generators of a loader, its place, and the workers that it keeps back."""
    drawn = [(generator, generator.get_state()) for generator in generators(batches)]
    place = batches.state_dict() if hasattr(batches, "state_dict") else None  # of a stateful loader
    workers = getattr(batches, "_iterator", None)  # of a DataLoader with persistent workers, perhaps in mid-epoch
    if workers is not None:
        batches._iterator = None
    try:
        yield
    finally:
        if hasattr(batches, "_iterator"):
            batches._iterator = workers
        for generator, position in drawn:
            generator.set_state(position)
        if place is not None:
            batches.load_state_dict(place)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block with Python's, NumPy's and torch's global generators at a seed, and put them back afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run a block with a model in evaluation mode and without gradients; then each module is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def generators(batches: Any) -> list[torch.Generator]:
    """The generators of a DataLoader's own, by which it draws the order of its data."""
    holders = [batches, getattr(batches, "sampler", None), getattr(batches, "batch_sampler", None)]
    holders.append(getattr(holders[-1], "sampler", None))
    found = [getattr(holder, "generator", None) for holder in holders]
    return list({id(one): one for one in found if isinstance(one, torch.Generator)}.values())


def check_pair(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Refuse an optimizer that is none, or that has no parameter of the model.

    Raises:
        TypeError: it is no optimizer.
        ValueError: it has none of the model's parameters.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer is {type(optimizer).__name__}; give one of torch's kind")
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not any(id(parameter) in held for parameter in model.parameters()):
        raise ValueError("optimizer has none of the model's parameters; build it from model.parameters()")
