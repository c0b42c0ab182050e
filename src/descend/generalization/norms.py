"""Norms of a network's layers, and of all its paths, with batch normalization folded into the layers.

Jiang et al. 2020, arXiv:1912.02178, appendix on norm-based measures. In evaluation mode a batch normalization is a
scale and a shift of each channel; behind a linear or convolutional layer it is taken into that layer's weights, without
which their scale would mean nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils import parametrize

from descend.generalization.chains import AFFINE, chains, flattened, is_alone, is_known
from descend.generalization.objective import Objective
from descend.generalization.sharpness import RESCALING
from descend.model_states import wide

_WITHOUT_WEIGHTS = (
    nn.ReLU,
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


class NotDefined(ValueError):
    """A measure makes no sense for this network; the message says why.

    Attributes:
        evidence: what was found nevertheless.
    """

    def __init__(self, message: str, evidence: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.evidence = evidence or {}


@dataclass(frozen=True)
class Layers:
    """The norms of the matrices of a network.

    Attributes:
        spectral: largest singular value of each, by the parameter's name.
        frobenius: root of the sum of squares of each.
        folded: names of the batch normalizations that were taken into them.
        unfolded: names of those that were not, since they stand behind no layer in a known chain: their scales are in
            no norm.
    """

    spectral: dict[str, float]
    frobenius: dict[str, float]
    folded: tuple[str, ...]
    unfolded: tuple[str, ...]

    @property
    def log_spectral(self) -> float:
        """Logarithm of the product of squared spectral norms."""
        return 2 * math.fsum(map(math.log, self.spectral.values()))

    @property
    def log_frobenius(self) -> float:
        """Logarithm of the product of squared Frobenius norms."""
        return 2 * math.fsum(map(math.log, self.frobenius.values()))

    @property
    def frobenius_over_spectral(self) -> float:
        """Sum of the ratios of squared norms, each at least 1 and at most the rank of the matrix."""
        return math.fsum((self.frobenius[name] / value) ** 2 for name, value in self.spectral.items())

    @property
    def invariances(self) -> tuple[str, ...]:
        """Each of these forgets a factor that two layers share; scales that are in no norm may have it."""
        return () if self.unfolded else (RESCALING,)


def layer_norms(objective: Objective) -> Layers:
    """Return the norms of all parameters with two axes or more, frozen ones too, as matrices.

    A convolution's weight is taken as the matrix (out, in * k * k), as the authors do; as a map of images the
    convolution has a norm of up to k times the largest singular value of that. Tied matrices count once; biases and
    scales do not.

    Args:
        objective: has the model.

    Raises:
        NotDefined: the model has no matrix, one of zeros, one that a parametrization or a hook makes, or weights that
            are not finite.
    """
    model = objective.model
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module) or (module._forward_pre_hooks and module._parameters):
            raise NotDefined(f"{name!r} is parametrized, pruned or has hooks: its parameters may not be its weights")
    scales, folded = _scales(model)
    spectral, frobenius = {}, {}
    for name, value in model.named_parameters():
        if value.ndim < 2:
            continue
        layer = model.get_submodule(name.rpartition(".")[0])
        matrix = _as_matrix(layer, wide(value), scales.get(name))
        if not matrix.isfinite().all():
            raise NotDefined(f"{name!r} has weights that are not finite")
        if not matrix.any():
            raise NotDefined(f"{name!r} is zero, so that products and ratios of norms say nothing")
        spectral[name] = float(torch.linalg.matrix_norm(matrix, 2))
        frobenius[name] = float(torch.linalg.matrix_norm(matrix))
    if not spectral:
        raise NotDefined("the model has no matrix")
    every = [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    return Layers(spectral, frobenius, folded, tuple(name for name in every if name not in folded))


def path_norm(objective: Objective) -> float:
    """Return the root of the sum, over all paths from an input or a bias to an output, of the products of w^2.

    Jiang et al. 2020, equation 44, of which this is the root; Neyshabur et al. 2015, arXiv:1503.00036. It is the root
    of the sum of the outputs of the network with squared weights and biases on inputs that are all 1, in float64, with
    batch normalization folded into the layer before it; one elsewhere is a layer of its own. Maximum pooling stays what
    it is: of the paths through a window the largest bundle counts. A rescaling of layers leaves the norm as it is.

    Args:
        objective: has the model, and a batch, of which the shape of an input is taken.

    Raises:
        NotDefined: the model is no chain of linear layers, convolutions, batch normalization, ReLU, pooling, dropout
            and flattening, or the norm is not finite.
    """
    steps = list(_squared(objective.model))

    def shape(_: int, batch: Any) -> tuple[int, ...]:
        inputs = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
        if not isinstance(inputs, Tensor) or not inputs.ndim:
            raise TypeError(f"batches has a {type(batch).__name__} without a tensor in front; give (inputs, targets)")
        return tuple(inputs.shape[1:])

    with objective.held():
        _, of_one = next(iter(objective.visits(shape)))
    found = torch.ones((1, *of_one), dtype=torch.float64, device=objective.device)
    with torch.no_grad():
        for step in steps:
            found = step(found)
    total = math.fsum(found.flatten().tolist()) if found.isfinite().all() else math.nan
    if not math.isfinite(total):
        raise NotDefined("the path norm is not finite: weights are not, or their squares overflow")
    return math.sqrt(total)


Step = Callable[[Tensor], Tensor]


def _squared(model: nn.Module) -> Iterator[Step]:
    """Yield what each layer does with squared weights, in evaluation mode, in float64."""
    chain = list(flattened(model, "")) if is_known(model, (nn.Sequential,)) else [("the model", model)]
    _check_chain(chain)
    place = 0
    while place < len(chain):
        layer = chain[place][1]
        behind = chain[place + 1][1] if place + 1 < len(chain) else None
        place += 1
        if isinstance(layer, AFFINE):
            normalization = behind if isinstance(behind, _BatchNorm) else None
            place += normalization is not None
            yield _affine(layer, normalization)
        elif isinstance(layer, _BatchNorm):
            yield _scaling(*_scale_and_shift(layer))
        elif not isinstance(layer, nn.modules.dropout._DropoutNd):
            yield layer


def _check_chain(chain: list[tuple[str, nn.Module]]) -> None:
    for name, layer in chain:
        if not is_known(layer, (*AFFINE, _BatchNorm, *_WITHOUT_WEIGHTS)):
            raise NotDefined(
                f"{name!r} is a {type(layer).__name__}, perhaps with hooks; the path norm is defined here for an "
                "nn.Sequential of linear layers, convolutions, batch normalization, ReLU, pooling, dropout and "
                "flattening"
            )
        if parametrize.is_parametrized(layer):
            raise NotDefined(f"{name!r} is parametrized; give the network with plain weights")
        if getattr(layer, "return_indices", False):
            raise NotDefined(f"{name!r} returns indices as well; give the network without them")
        if isinstance(layer, _BatchNorm) and layer.running_var is None:
            raise NotDefined(f"{name!r} keeps no statistics: it is no linear layer in evaluation mode")


def _affine(layer: nn.Module, normalization: _BatchNorm | None) -> Step:
    """Return a layer with squared weights, and a batch normalization behind it folded into it before squaring."""
    assert isinstance(layer.weight, Tensor)
    weight, bias = wide(layer.weight), wide(layer.bias) if isinstance(layer.bias, Tensor) else None
    if normalization is None:
        return lambda inputs: _called(layer, inputs, weight.square(), None if bias is None else bias.square())
    scale, shift = _scale_and_shift(normalization)

    def step(inputs: Tensor) -> Tensor:
        if isinstance(layer, nn.Linear) and inputs.ndim != 2:  # whose outputs are not the normalization's channels
            found = _called(layer, inputs, weight.square(), None if bias is None else bias.square())
            return _scaling(scale, shift)(found)
        folded = shift if bias is None else shift + scale * bias
        return _called(layer, inputs, _scaled(layer, weight, scale).square(), folded.square())

    return step


def _called(layer: nn.Module, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Run a layer with other weights, also with a bias that it does not have."""
    state = {"weight": weight}
    if isinstance(layer.bias, Tensor):
        assert bias is not None
        state["bias"] = bias
    found: Tensor = functional_call(layer, state, inputs)
    return found if bias is None or "bias" in state else found + _of_channels(bias, found)


def _of_channels(values: Tensor, inputs: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (inputs.ndim - 2))


def _scaling(scale: Tensor, shift: Tensor) -> Step:
    """Return multiplication by a channel's squared scale, and addition of its squared shift."""
    return lambda inputs: inputs * _of_channels(scale.square(), inputs) + _of_channels(shift.square(), inputs)


def _scale_and_shift(layer: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Return what a batch normalization multiplies and adds in evaluation mode, one of each channel."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    scale = (wide(layer.running_var) + layer.eps).rsqrt()
    if layer.weight is not None:
        scale = scale * wide(layer.weight)
    shift = -wide(layer.running_mean) * scale
    return scale, shift if layer.bias is None else shift + wide(layer.bias)


def _scales(model: nn.Module) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return by which scales batch normalization multiplies the outputs of which weights, and the names of those."""
    scales, folded = {}, []
    for chain in chains(model):
        for (name, layer), (behind, normalization) in itertools.pairwise(chain):
            if not (is_known(layer, AFFINE) and is_known(normalization, (_BatchNorm,))):
                continue
            assert isinstance(normalization, _BatchNorm)
            outputs = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
            is_own = is_alone(model, [layer, normalization], [layer.weight])
            if is_own and normalization.running_var is not None and normalization.num_features == outputs:
                scales[f"{name}.weight"] = _scale_and_shift(normalization)[0]
                folded.append(behind)
    return scales, tuple(folded)


def _scaled(layer: nn.Module, weight: Tensor, scale: Tensor) -> Tensor:
    """Return a weight whose outputs are multiplied by scales."""
    if not isinstance(layer, _ConvTransposeNd):
        return weight * scale.view(-1, *[1] * (weight.ndim - 1))
    groups = layer.groups  # of a transposed convolution (in, out / groups, k, k)
    grouped = weight.view(groups, -1, *weight.shape[1:]) * scale.view(groups, 1, -1, *[1] * (weight.ndim - 2))
    return grouped.view_as(weight)


def _as_matrix(layer: nn.Module, weight: Tensor, scale: Tensor | None) -> Tensor:
    if scale is not None:
        weight = _scaled(layer, weight, scale)
    if isinstance(layer, _ConvTransposeNd):
        weight = weight.transpose(0, 1)
    return weight.reshape(len(weight), -1)
