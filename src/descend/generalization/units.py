"""Units of a network, and what they do: the single directions of Morcos et al. 2018, arXiv:1803.06959.

A unit is one output of a module, in a convolution a whole feature map, taken after the nonlinearity and before the next
layer. Hooks read and replace what modules give; they are gone afterwards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from descend.generalization.linear import Conditions
from descend.generalization.objective import Objective

Change: TypeAlias = Callable[[str, Tensor], Tensor | None]
"""Given a layer's name and what it gives: what it shall give, or None to leave it."""

NONLINEARITIES = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,  # nn.ReLU6 is one
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.Mish,
    nn.PReLU,
    nn.ReLU,
    nn.RReLU,
    nn.SELU,
    nn.Sigmoid,
    nn.SiLU,
    nn.Softplus,
    nn.Softsign,
    nn.Tanh,
)


@dataclass(frozen=True)
class Layer:
    """The units of one module.

    Attributes:
        activity: mean over the positions of a feature map, (examples, units).
        mean: over examples and positions, (units,).
        deviation: the same.
        dead: which units give 0 for every example, at every position.
    """

    activity: Tensor
    mean: Tensor
    deviation: Tensor
    dead: Tensor

    @property
    def size(self) -> int:
        """Number of units, dead ones included."""
        return len(self.dead)


@dataclass(frozen=True)
class Activations:
    """What the units of a network do on some examples.

    Attributes:
        layers: by the name of the module; a module that runs several times in a pass has one for each, "relu:2" say.
        labels: classes of the examples, (examples,).
        dim: which dimension of what modules give the units are in; None for the usual one.
        conditions: what was measured.
    """

    layers: dict[str, Layer]
    labels: Tensor
    dim: int | None
    conditions: Conditions

    @property
    def live(self) -> list[tuple[str, int]]:
        """The units that are not dead, by layer and place."""
        return [(name, place) for name, layer in self.layers.items() for place in torch.where(~layer.dead)[0].tolist()]

    @property
    def dead(self) -> int:
        """Number of dead units."""
        return sum(int(layer.dead.sum()) for layer in self.layers.values())


def activations(objective: Objective, modules: Iterable[str] | None = None, *, dim: int | None = None) -> Activations:
    """Return what units do on the examples of an objective.

    Args:
        objective: its model, and batches of inputs and classes; of what its loss is nothing depends.
        modules: names of those whose outputs are the units, nonlinearities mostly; by default all modules that are one.
        dim: in which dimension of the outputs the units are; by default the second, where there are 2, 4 or 5.

    Raises:
        ValueError: a module is unknown or never runs, its outputs are no tensor or not finite, or targets are no
            classes.
    """
    names = chosen(objective.model, modules)
    gathered: dict[str, list[tuple[Tensor, ...]]] = {}

    def read(name: str, output: Tensor) -> None:
        values = by_unit(name, output.detach(), dim).double()
        if not values.isfinite().all():
            raise ValueError(f"outputs of {name!r} are not finite; there is nothing to measure")
        positions = torch.tensor(values.shape[2])
        parts = values.mean(2), values.sum((0, 2)), values.square().sum((0, 2)), values.abs().amax((0, 2)), positions
        gathered.setdefault(name, []).append(tuple(part.cpu() for part in parts))

    def build(place: int, batch: Any) -> Tensor:
        objective.loss_on(place, batch)
        return _labels(batch).cpu()

    with objective.held(), torch.no_grad(), changed(objective.model, names, read):
        labels = torch.cat([found for _, found in objective.visits(build)])
    missing = [name for name in names if name not in gathered]
    if missing:
        raise ValueError(f"module {missing[0]!r} does not run in a forward pass; name others")
    layers = {name: _layer(name, parts, len(labels)) for name, parts in sorted(gathered.items(), key=_order(names))}
    return Activations(layers, labels, dim, objective.conditions)


def chosen(model: nn.Module, modules: Iterable[str] | None) -> list[str]:
    """Return the names of the modules whose outputs are units.

    Raises:
        ValueError: there is none, or one is unknown.
    """
    every = dict(model.named_modules())
    if isinstance(modules, str):
        modules = [modules]
    names = (
        list(modules) if modules is not None else [name for name in every if isinstance(every[name], NONLINEARITIES)]
    )
    for name in names:
        if name not in every:
            raise ValueError(f"modules has {name!r}, which the model has not; it has {', '.join(filter(None, every))}")
    if not names:
        raise ValueError("no module of the model is a nonlinearity; give modules=, the names of those that give units")
    return list(dict.fromkeys(names))


@contextmanager
def changed(model: nn.Module, names: Iterable[str], change: Change) -> Iterator[None]:
    """Show the outputs of modules to a function, and replace them by what it returns, for a block."""
    calls: Counter[str] = Counter()
    handles = [model.register_forward_pre_hook(lambda _, __: calls.clear())]

    def hook(name: str) -> Callable[[nn.Module, Any, Any], Any]:
        def run(_: nn.Module, __: Any, output: Any) -> Any:
            calls[name] += 1
            if not isinstance(output, Tensor):
                raise ValueError(f"module {name!r} gives {type(output).__name__}; name modules that give a tensor")
            return change(name if calls[name] == 1 else f"{name}:{calls[name]}", output)

        return run

    every = dict(model.named_modules())
    try:
        handles += [every[name].register_forward_hook(hook(name)) for name in names]
        yield
    finally:
        for handle in handles:
            handle.remove()


def by_unit(name: str, output: Tensor, dim: int | None) -> Tensor:
    """Return what a module gives as (examples, units, positions)."""
    where = _dimension(name, output, dim)
    return output.movedim(where, 1).reshape(len(output), output.shape[where], -1)


def spread(values: Tensor, name: str, output: Tensor, dim: int | None) -> Tensor:
    """Return one value for each unit in a shape that broadcasts with what the module gives."""
    shape = [1] * output.ndim
    shape[_dimension(name, output, dim)] = -1
    return values.to(output.device).view(shape)


def _dimension(name: str, output: Tensor, dim: int | None) -> int:
    if dim is None and output.ndim not in (2, 4, 5):
        raise ValueError(
            f"module {name!r} gives {output.ndim} dimensions; give dim=, the one that the units are in: 1 after a "
            "convolution over sequences, -1 in a transformer"
        )
    where = 1 if dim is None else dim % output.ndim if -output.ndim <= dim < output.ndim else 0
    if where == 0:
        raise ValueError(f"dim is {dim}, and module {name!r} gives {output.ndim} dimensions, the first of examples")
    return where


def _layer(name: str, parts: list[tuple[Tensor, ...]], examples: int) -> Layer:
    activity, totals, squares, largest, positions = zip(*parts, strict=True)
    joined = torch.cat(activity)
    if len(joined) != examples:
        raise ValueError(
            f"module {name!r} gives {len(joined)} rows for {examples} examples; name one that gives as many"
        )
    count = sum(len(rows) * int(size) for rows, size in zip(activity, positions, strict=True))
    mean = torch.stack(totals).sum(0) / count
    variance = (torch.stack(squares).sum(0) / count - mean**2).clamp_min(0)
    return Layer(joined, mean, variance.sqrt(), torch.stack(largest).amax(0) == 0)


def _labels(batch: Any) -> Tensor:
    labels = batch[1] if isinstance(batch, (tuple, list)) and len(batch) == 2 else None
    if not isinstance(labels, Tensor) or labels.ndim != 1 or labels.is_floating_point():
        raise ValueError("a batch is no pair of inputs and classes, one whole number per example; give such batches")
    return labels


def _order(names: list[str]) -> Callable[[tuple[str, Any]], tuple[int, str]]:
    def key(item: tuple[str, Any]) -> tuple[int, str]:
        return names.index(item[0].split(":")[0]), item[0]

    return key
