"""The same function at other weights: Dinh's rescaling of layers against each other.

Dinh, Pascanu, Bengio & Bengio 2017, arXiv:1703.04933: where everything between two layers is positively homogeneous, as
ReLU and pooling are, multiplying the first by alpha and dividing the second by it changes no output. Yet with
D = diag(alpha 1, 1/alpha 1) gradients become D^-1 g and the Hessian D^-1 H D^-1, whose largest eigenvalue and trace can
be made as large as one likes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from descend.generalization.losses import tensors_in
from descend.model_states import run_on, unwrapped
from descend.restoring import evaluating

_HOMOGENEOUS = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.PReLU,
    nn.Identity,
    nn.Flatten,
    nn.Unflatten,
    nn.modules.dropout._DropoutNd,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)
_AFFINE = (nn.Linear, _ConvNd)
_CHANGE = 1e-4


def rescalable(model: nn.Module) -> list[tuple[str, str]]:
    """Return the pairs of layers, by name, that can be rescaled against each other.

    Looked for in chains of `nn.Sequential`, nested ones included: a linear or convolutional layer, or the weights of a
    batch normalization, and the next linear or convolutional layer behind what is positively homogeneous; and a layer
    with the batch normalization right behind it, which undoes any scale by itself.
    """
    pairs = []
    for chain in _chains(unwrapped(model), ""):
        for place, (name, layer) in enumerate(chain):
            partner = _partner(chain[place + 1 :])
            if partner is not None and isinstance(layer, (*_AFFINE, _BatchNorm)) and _is_free(model, layer, partner[1]):
                pairs.append((name, partner[0]))
    return pairs


def reparameterize(
    model: nn.Module, alpha: float, layers: tuple[str, str] | None = None, *, inputs: Any = None
) -> nn.Module:
    """Return a copy of a model that is the same function at other weights.

    The first layer's weight and bias are multiplied by alpha, the second layer's weight is divided by it. Where the
    second is a batch normalization, its running statistics and its eps follow the first layer's scale instead: in a
    state dict, which has no eps, the change is exact only as far as eps does not matter.

    Args:
        model: with ReLU or the like; left as it is.
        alpha: above 0.
        layers: names of the two; by default the first pair of `rescalable`.
        inputs: a batch on which both are compared, in evaluation mode; a must for layers of which `rescalable` does not
            know, since code of your own lies between them.

    Raises:
        ValueError: an argument makes no sense, the layers cannot be rescaled, or the function changed.
    """
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 < alpha < math.inf:
        raise ValueError(f"alpha is {alpha!r}; give a finite number above 0")
    model = unwrapped(model)
    known = rescalable(model)
    if layers is None:
        if not known:
            raise ValueError("no two layers of the model can be rescaled by themselves; name them, and give inputs=")
        layers = known[0]
    first, second = _layers(model, layers)
    if tuple(layers) not in known and inputs is None:
        raise ValueError(
            f"{layers[0]!r} and {layers[1]!r} are no pair that is known to be rescalable; give inputs=, a batch on "
            f"which the function is checked. Known: {', '.join(map(str, known)) or 'none'}"
        )
    if not _is_free(model, first, second):
        raise ValueError(f"a weight of {layers[0]!r} or {layers[1]!r} is tied or parametrized; choose other layers")
    changed = copy.deepcopy(model)
    _rescale(*_layers(changed, layers), alpha)
    if inputs is not None and not (change := function_change(model, changed, inputs)) <= _CHANGE:
        raise ValueError(
            f"rescaling {layers[0]!r} against {layers[1]!r} changed the outputs by {change:.2g} of the largest; what "
            "lies between is not positively homogeneous, or they do not follow each other"
        )
    return changed


def function_change(model: nn.Module, other: nn.Module, inputs: Any) -> float:
    """Return the largest difference of outputs on a batch, in evaluation mode, relative to the largest output."""
    with evaluating(model), evaluating(other):
        pairs = zip(tensors_in(run_on(model, inputs)), tensors_in(run_on(other, inputs)), strict=True)
        found = [(float((a - b).abs().max()), float(a.abs().max())) for a, b in pairs]
    return max(apart for apart, _ in found) / max(max(size for _, size in found), 1e-300)


@torch.no_grad()
def _rescale(first: nn.Module, second: nn.Module, alpha: float) -> None:
    for value in (first.weight, first.bias):
        if isinstance(value, Tensor):
            value.mul_(alpha)
    if not isinstance(second, _BatchNorm):
        assert isinstance(second.weight, Tensor)
        second.weight.div_(alpha)
        return
    second.eps *= alpha**2
    if second.running_mean is not None and second.running_var is not None:
        second.running_mean.mul_(alpha)
        second.running_var.mul_(alpha**2)


def _chains(module: nn.Module, prefix: str) -> Iterator[list[tuple[str, nn.Module]]]:
    """Yield the modules, with names, of each Sequential, those of nested ones in their places."""
    if isinstance(module, nn.Sequential):
        chain = list(_flattened(module, prefix))
        yield chain
        inner = chain
    else:
        inner = [(f"{prefix}{name}", child) for name, child in module.named_children()]
    for name, child in inner:
        yield from _chains(child, f"{name}.")


def _flattened(chain: nn.Sequential, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in chain.named_children():
        if isinstance(child, nn.Sequential):
            yield from _flattened(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def _partner(behind: list[tuple[str, nn.Module]]) -> tuple[str, nn.Module] | None:
    for place, (name, layer) in enumerate(behind):
        if isinstance(layer, _AFFINE) or (isinstance(layer, _BatchNorm) and place == 0):
            return name, layer
        if not isinstance(layer, _HOMOGENEOUS):
            return None
    return None


def _layers(model: nn.Module, names: tuple[str, str]) -> tuple[nn.Module, nn.Module]:
    there = dict(model.named_modules())
    if isinstance(names, str) or len(names) != 2:
        raise ValueError(f"layers is {names!r}; give the names of two")
    for name, kinds in zip(names, ((*_AFFINE, _BatchNorm), (*_AFFINE, _BatchNorm)), strict=True):
        if name not in there:
            raise ValueError(f"layers has {name!r}, which the model has not; it has {', '.join(filter(None, there))}")
        if not isinstance(there[name], kinds):
            raise ValueError(
                f"{name!r} is a {type(there[name]).__name__}; rescaled are linear and convolutional layers, and batch "
                "normalization"
            )
    return there[names[0]], there[names[1]]


def _is_free(model: nn.Module, first: nn.Module, second: nn.Module) -> bool:
    """Tell whether the weights are these layers' alone, and are there."""
    if parametrize.is_parametrized(first) or parametrize.is_parametrized(second) or first is second:
        return False
    if not isinstance(first.weight, Tensor):  # a normalization without weights
        return False
    counts: dict[int, int] = {}
    for _, value in model.named_parameters(remove_duplicate=False):
        counts[id(value)] = counts.get(id(value), 0) + 1
    own = [first.weight, first.bias, *([] if isinstance(second, _BatchNorm) else [second.weight])]
    return all(counts[id(value)] == 1 for value in own if isinstance(value, Tensor))
