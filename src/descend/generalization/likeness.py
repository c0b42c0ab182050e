"""How alike two networks are, as a function of which units are held against which."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from descend.generalization.chains import Axis, HiddenLayer, dimensions
from descend.generalization.holding import held
from descend.generalization.symmetry import by_unit, moved
from descend.model_states import run_on, wide

Match: TypeAlias = dict[str, tuple[Tensor, Tensor]]
"""By hidden layer, for each place of the first network: the place of the second's unit, and its sign."""

_ROUNDING = 1e-12


def identity(layers: Mapping[str, HiddenLayer]) -> Match:
    """Return the match of each unit with that in its own place."""
    return {
        name: (torch.arange(layer.units), torch.ones(layer.units, dtype=torch.int64)) for name, layer in layers.items()
    }


class Likeness(ABC):
    """How alike two networks are, as a function of the match of their units."""

    @abstractmethod
    def gains(self, layer: HiddenLayer, match: Match) -> tuple[Tensor, Tensor]:
        """Return what each pair of units of a layer adds, other layers as they are: as is, and times the sign."""

    @abstractmethod
    def value(self, match: Match) -> float:
        """Return the likeness."""


class WeightLikeness(Likeness):
    """The cosine between all parameters."""

    def __init__(self, first: nn.Module, second: nn.Module, layers: Mapping[str, HiddenLayer]) -> None:
        self._ours, self._theirs = _parameters(first, "first"), _parameters(second, "second")
        self._axes: dict[str, list[tuple[str, Axis]]] = {name: [] for name in self._ours}
        for layer in layers.values():
            for axis in layer.axes:
                if axis.learned:
                    self._axes[axis.tensor].append((layer.name, axis))
        self._norms = _norm(self._ours) * _norm(self._theirs)

    def gains(self, layer: HiddenLayer, match: Match) -> tuple[Tensor, Tensor]:
        """Return inner products of all that belongs to units."""
        plain, signed = torch.zeros(2, layer.units, layer.units, dtype=torch.float64)
        for axis in layer.axes:
            if axis.learned:
                theirs = self._moved(axis.tensor, match, but=layer.name)
                product = (
                    by_unit(self._ours[axis.tensor], axis.dim, layer.units) @ by_unit(theirs, axis.dim, layer.units).T
                )
                (signed if axis.flips else plain).add_(product)
        return plain, signed

    def value(self, match: Match) -> float:
        """Return the cosine; 0 where a network is 0."""
        products = [(self._ours[name] * self._moved(name, match)).sum() for name in self._ours]
        return float(torch.stack(products).sum()) / self._norms if self._norms else 0.0

    def _moved(self, name: str, match: Match, but: str | None = None) -> Tensor:
        value = self._theirs[name]
        for layer, axis in self._axes[name]:
            if layer != but:
                value = moved(value, axis, *match[layer])
        return value


class ActivationLikeness(Likeness):
    """The mean correlation of units."""

    def __init__(self, first: nn.Module, second: nn.Module, layers: Mapping[str, HiddenLayer], inputs: Any) -> None:
        ours, theirs = (_read(model, layers, inputs, which) for model, which in ((first, "first"), (second, "second")))
        self._correlations = {name: ours[name] @ theirs[name].T for name in layers}

    def gains(self, layer: HiddenLayer, match: Match) -> tuple[Tensor, Tensor]:
        """Return correlations, on which the match of other layers has no influence."""
        signed = self._correlations[layer.name]
        return torch.zeros_like(signed), signed

    def value(self, match: Match) -> float:
        """Return the mean over all units of all hidden layers."""
        matched = [
            signs * self._correlations[name][torch.arange(len(order)), order] for name, (order, signs) in match.items()
        ]
        return float(torch.cat(matched).mean())


def _parameters(model: nn.Module, which: str) -> dict[str, Tensor]:
    """Return the parameters in float64, each once."""
    for name, value in model.named_parameters():
        if value.is_complex() or not value.isfinite().all():
            raise ValueError(f"parameter {name!r} of {which} has values that are not finite real numbers; give others")
    return {name: wide(value).cpu() for name, value in model.named_parameters()}


def _norm(values: Mapping[str, Tensor]) -> float:
    return float(torch.stack([value.square().sum() for value in values.values()]).sum().sqrt())


def _read(model: nn.Module, layers: Mapping[str, HiddenLayer], inputs: Any, which: str) -> dict[str, Tensor]:
    """Return what the readers of hidden layers read, by layer: rows of units, centered, of norm 1, constant ones 0."""
    gathered: dict[str, list[Tensor]] = {name: [] for name in layers}
    modules, handles = dict(model.named_modules()), []
    try:
        for layer in layers.values():

            def keep(_: nn.Module, given: tuple[Tensor, ...], layer: HiddenLayer = layer) -> None:
                value = wide(given[0]).cpu()
                dim = value.ndim - 1 - dimensions(modules[layer.reader])
                gathered[layer.name].append(by_unit(value, dim, layer.units))

            handles.append(modules[layer.reader].register_forward_pre_hook(keep))
        with held(model, None, training=False) as holding, torch.no_grad():
            holding.prepare(0, seed=0)
            run_on(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {name: _standardized(name, parts, which) for name, parts in gathered.items()}


def _standardized(name: str, parts: list[Tensor], which: str) -> Tensor:
    if not parts:
        raise ValueError(f"what layer {name!r} of {which} gives is not read in a forward pass; match weights instead")
    rows = torch.cat(parts, 1)
    if rows.is_complex() or not rows.isfinite().all():
        raise ValueError(f"activations of layer {name!r} of {which} are not finite real numbers; give other inputs")
    centered = rows - rows.mean(1, keepdim=True)
    norms = torch.linalg.vector_norm(centered, dim=1, keepdim=True)
    is_constant = norms <= _ROUNDING * torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return torch.where(is_constant, 0.0, centered / norms)
