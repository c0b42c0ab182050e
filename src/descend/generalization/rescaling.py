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
from torch.nn.utils import parametrize

from descend.generalization.chains import AFFINE, chains, is_alone, is_known
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
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)
_LAYERS = (*AFFINE, _BatchNorm)


def rescalable(model: nn.Module) -> list[tuple[str, str]]:
    """Return the pairs of layers, by name, that can be rescaled against each other.

    Looked for in chains of `nn.Sequential`, nested ones included: a linear or convolutional layer, or the weights of a
    batch normalization, and the next layer behind what is positively homogeneous; a batch normalization there undoes
    any scale by itself. Modules with a forward of your own or with hooks may do anything, and end the search. A model
    that takes a chain apart is not seen through: there, give `reparameterize` inputs.
    """
    model = unwrapped(model)
    return [
        (name, behind[0])
        for name, layer, behind in _followed(model)
        if is_known(behind[1], _LAYERS) and _is_free(model, layer, behind[1])
    ]


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
        ValueError: an argument makes no sense, the layers cannot be rescaled, alpha is too much for the numbers of the
            weights, or the function changed: by more than the root of their machine precision, relative to the largest
            output.
    """
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 < alpha < math.inf:
        raise ValueError(f"alpha is {alpha!r}; give a finite number above 0")
    model = unwrapped(model)
    known = rescalable(model)
    if layers is None:
        if not known:
            raise ValueError(
                f"no two layers of the model can be rescaled by themselves{_in_the_way(model)}; name two, and give "
                "inputs=, a batch on which the function is checked"
            )
        layers = known[0]
    first, second = _layers(model, layers)
    if not _is_free(model, first, second):
        raise ValueError(
            f"a weight of {layers[0]!r} or {layers[1]!r} is tied, parametrized or pruned; choose other layers, or make "
            "the weights plain parameters of their own"
        )
    if tuple(layers) not in known and inputs is None:
        raise ValueError(
            f"{layers[0]!r} and {layers[1]!r} are no pair that is known to be rescalable"
            f"{_in_the_way(model, layers[0])}; choose another, or give inputs=, a batch on which the function is "
            f"checked. Known: {', '.join(map(str, known)) or 'none'}"
        )
    changed = copy.deepcopy(model)
    _rescale(*_layers(changed, layers), alpha)
    if inputs is not None and not (change := function_change(model, changed, inputs)) <= _precision(first) ** 0.5:
        raise ValueError(
            f"rescaling {layers[0]!r} against {layers[1]!r} changed the outputs by {change:.2g} of the largest; what "
            "lies between is not positively homogeneous, or they do not follow each other"
        )
    return changed


def function_change(model: nn.Module, other: nn.Module, inputs: Any) -> float:
    """Return the largest difference of outputs on a batch, in evaluation mode, relative to the largest output."""
    with evaluating(model), evaluating(other):
        pairs = zip(tensors_in(run_on(model, inputs)), tensors_in(run_on(other, inputs)), strict=True)
        found = torch.tensor(
            [(float((a - b).abs().max()), float(a.abs().max())) for a, b in pairs], dtype=torch.float64
        )
    apart, size = found.amax(0).tolist()  # of torch, whose maximum does not pass over NaN
    return float(apart / max(size, 1e-300))


@torch.no_grad()
def _rescale(first: nn.Module, second: nn.Module, alpha: float) -> None:
    for value in (first.weight, first.bias):
        if isinstance(value, Tensor):
            _multiply(value, alpha)
    if not isinstance(second, _BatchNorm):
        assert isinstance(second.weight, Tensor)
        _multiply(second.weight, 1 / alpha)
        return
    second.eps *= alpha * alpha
    if second.running_mean is not None and second.running_var is not None:
        _multiply(second.running_mean, alpha)
        _multiply(second.running_var, alpha * alpha)


def _multiply(value: Tensor, factor: float) -> None:
    """Multiply in place, and refuse where numbers of the kind are too large or too small for it."""
    before = value.clone()
    value.mul_(factor)
    largest = float(before.nan_to_num(0, 0, 0).abs().max()) if before.numel() else 0.0
    if not torch.isclose(value / factor, before, rtol=0.02, atol=1e-6 * largest, equal_nan=True).all():
        raise ValueError(f"alpha is too much for weights in {value.dtype}, which overflow or vanish; give one nearer 1")


def _precision(layer: nn.Module) -> float:
    assert isinstance(layer.weight, Tensor)
    return torch.finfo(layer.weight.dtype).eps


def _followed(model: nn.Module) -> Iterator[tuple[str, nn.Module, tuple[str, nn.Module]]]:
    """Yield each layer of a chain, with its name, and the first module behind it that is not positively homogeneous."""
    for chain in chains(model):
        for place, (name, layer) in enumerate(chain):
            behind = next((one for one in chain[place + 1 :] if not is_known(one[1], _HOMOGENEOUS)), None)
            if behind is not None and is_known(layer, _LAYERS):
                yield name, layer, behind


def _in_the_way(model: nn.Module, name: str | None = None) -> str:
    """Say which modules end the search behind a layer, or behind any."""
    found = {
        f"{behind[0]!r} ({type(behind[1]).__name__})": None
        for layer, _, behind in _followed(model)
        if name in (None, layer) and not is_known(behind[1], _LAYERS)
    }
    return f": not known to be positively homogeneous: {', '.join(found)}" if found else ""


def _layers(model: nn.Module, names: tuple[str, str]) -> tuple[nn.Module, nn.Module]:
    there = dict(model.named_modules(remove_duplicate=False))
    if isinstance(names, str) or len(names) != 2:
        raise ValueError(f"layers is {names!r}; give the names of two")
    for name in names:
        if name not in there:
            raise ValueError(f"layers has {name!r}, which the model has not; it has {', '.join(filter(None, there))}")
        if not isinstance(there[name], _LAYERS):
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
    own = [first.weight, first.bias, *([] if isinstance(second, _BatchNorm) else [second.weight])]
    return is_alone(model, (first, second), own)
