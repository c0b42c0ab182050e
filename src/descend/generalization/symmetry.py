"""Other weights, the same function: permutations of hidden units, and flips of their signs.

The units of a hidden layer have no order: those of a layer of n units can be permuted in n! ways. Where what lies
between two layers is odd, as tanh is, the sign of each unit is free too, 2^n ways. Hecht-Nielsen 1990, On the Algebraic
Structure of Feedforward Network Weight Spaces; Chen, Lu & Hecht-Nielsen 1993, On the Geometry of Feedforward Neural
Network Error Surfaces.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from descend.generalization.chains import Axis, HiddenLayer, hidden_layers, tensors
from descend.generalization.krylov import generator, whole
from descend.generalization.rescaling import function_change
from descend.model_states import is_floating, unwrapped

WHAT_IS_COUNTED = (
    "The weights that permuting hidden units, and flipping their signs where that leaves the function alone, make of "
    "one set of weights. All compute the same function: if one is a minimum of a loss, all are, and of the same "
    "curvature, so that the count is a lower bound on the number of minima. It says nothing of minima with other "
    "functions, nor of how good any is. Layers of which nothing is known are left out. Where units are ReLU or the "
    "like, or normalized by their batch, their scale is free as well: minima are then no points, but surfaces, and "
    "what is counted are copies of one piece of them."
)


@dataclass(frozen=True)
class Equivalents:
    """How many sets of weights the symmetries of a model make of one; see WHAT_IS_COUNTED.

    Attributes:
        layers: whose symmetries are counted.
        distinct: whether no two units of a layer are computed by the same weights, nor by weights of opposite sign, or
            all 0, where flips are counted. Where it is False, some of the counted ones are the same weights.
        signs: whether flips of signs are counted, where they are symmetries.
    """

    layers: tuple[HiddenLayer, ...]
    distinct: bool
    signs: bool

    @property
    def count(self) -> int:
        """The number: the product over layers of n!, times 2^n for those whose signs are free."""
        flips = sum(layer.units for layer in self.layers if self.signs and layer.signs)
        orders = math.prod(math.factorial(layer.units) for layer in self.layers)
        return orders << flips

    @property
    def log10(self) -> float:
        """Its decimal logarithm."""
        return math.fsum(log10_equivalents([layer.units], signs=self.signs and layer.signs) for layer in self.layers)


def permuted(
    model: nn.Module,
    permutations: Mapping[str, Sequence[int]] | None = None,
    *,
    seed: int = 0,
    inputs: Any = None,
) -> nn.Module:
    """Return a copy of a model that is the same function with its hidden units in another order.

    Args:
        model: left as it is.
        permutations: by name of a hidden layer, for each of its places the former place of the unit that comes there;
            by default random ones of all hidden layers.
        seed: of the random ones.
        inputs: a batch on which both are compared, in evaluation mode.

    Raises:
        ValueError: an argument makes no sense, no hidden layer is known, or the function changed: by more than the root
            of the weights' machine precision, relative to the largest output.
    """
    source = generator(seed)
    layers = known_layers(model)
    if permutations is None:
        orders = {name: torch.randperm(layer.units, generator=source) for name, layer in layers.items()}
    else:
        orders = _chosen("permutations", permutations, layers, _order)
    return rearranged(model, layers, {name: (order, torch.ones_like(order)) for name, order in orders.items()}, inputs)


def sign_flipped(
    model: nn.Module, signs: Mapping[str, Sequence[int]] | None = None, *, seed: int = 0, inputs: Any = None
) -> nn.Module:
    """Return a copy of a model that is the same function with signs of hidden units flipped.

    Args:
        model: left as it is.
        signs: by name of a hidden layer with free signs, 1 or -1 for each unit; by default random ones of all such.
        seed: of the random ones.
        inputs: a batch on which both are compared, in evaluation mode.

    Raises:
        ValueError: an argument makes no sense, no hidden layer has free signs, or the function changed: by more than
            the root of the weights' machine precision, relative to the largest output.
    """
    source = generator(seed)
    layers = {name: layer for name, layer in known_layers(model).items() if layer.signs}
    if not layers:
        raise ValueError(
            "no hidden layer has free signs: what follows it must be odd, as Tanh and Softsign are; use permuted, "
            "which any elementwise nonlinearity allows"
        )
    if signs is None:
        drawn = {name: 2 * torch.randint(2, (one.units,), generator=source) - 1 for name, one in layers.items()}
    else:
        drawn = _chosen("signs", signs, layers, _signs)
    return rearranged(model, layers, {name: (torch.arange(len(one)), one) for name, one in drawn.items()}, inputs)


def equivalent_minima(model: nn.Module, *, signs: bool = True) -> Equivalents:
    """Return how many sets of weights are this model's function by the symmetries of its hidden layers.

    Args:
        model: any with hidden layers that `hidden_layers` knows.
        signs: whether to count flips of signs, where they are symmetries.

    Raises:
        ValueError: no hidden layer is known.
    """
    layers, values = known_layers(model), tensors(unwrapped(model))
    are_distinct = all(_is_distinct(layer, values, signs and layer.signs) for layer in layers.values())
    return Equivalents(tuple(layers.values()), are_distinct, signs)


def log10_equivalents(widths: Iterable[int], *, signs: bool = False) -> float:
    """Return the decimal logarithm of the number of equivalent weights, for hidden layers of these widths.

    Args:
        widths: units of each hidden layer, 1 or more.
        signs: whether their signs are free too, as with tanh.

    Raises:
        ValueError: a width makes no sense.
    """
    counts = [whole("a width", one, 1) for one in widths]
    return math.fsum(math.lgamma(one + 1) / math.log(10) + signs * one * math.log10(2) for one in counts)


# ---- what `align` builds on ------------------------------------------------------------------------------------------


def known_layers(model: nn.Module) -> dict[str, HiddenLayer]:
    """Return the hidden layers by name.

    Raises:
        ValueError: there is none.
    """
    found = {layer.name: layer for layer in hidden_layers(model)}
    if not found:
        raise ValueError(
            "no hidden layer of the model is known to have units without an order; known are linear and convolutional "
            "layers in nn.Sequential, with weights that are neither tied nor parametrized and without groups or hooks, "
            "and with elementwise nonlinearities, dropout, pooling, batch normalization or Flatten between them"
        )
    return found


def moved(value: Tensor, axis: Axis, order: Tensor, signs: Tensor) -> Tensor:
    """Return a tensor with the units along an axis in another order, the new ones times their signs."""
    order, signs = order.to(value.device), signs.to(value)
    places = (order[:, None] * axis.block + torch.arange(axis.block, device=value.device)).flatten()
    found = value.index_select(axis.dim, places)
    if not axis.flips:
        return found
    shape = [1] * value.ndim
    shape[axis.dim] = -1
    return found * signs.repeat_interleave(axis.block).view(shape)


def by_unit(value: Tensor, dim: int, units: int) -> Tensor:
    """Return a tensor as a matrix with a row for each unit."""
    return value.movedim(dim, 0).reshape(units, -1)


def rearranged(
    model: nn.Module, layers: Mapping[str, HiddenLayer], match: Mapping[str, tuple[Tensor, Tensor]], inputs: Any
) -> nn.Module:
    """Return a copy of a model with the units of layers in another order, with signs; checked on inputs, if given."""
    model = unwrapped(model)
    changed = copy.deepcopy(model)
    values = tensors(changed)
    with torch.no_grad():
        for name, (order, signs) in match.items():
            for axis in layers[name].axes:
                values[axis.tensor].copy_(moved(values[axis.tensor], axis, order, signs))
    if inputs is not None:
        precision = max(torch.finfo(one.dtype).eps for one in model.parameters() if is_floating(one))
        if not (change := function_change(model, changed, inputs)) <= precision**0.5:
            raise ValueError(
                f"the outputs changed by {change:.2g} of the largest; the model does not use its layers one after the "
                "other as they stand in nn.Sequential, or linear layers do not read (examples, features)"
            )
    return changed


def _chosen(
    what: str,
    given: object,
    layers: Mapping[str, HiddenLayer],
    check: Callable[[str, Any, int], Tensor],
) -> dict[str, Tensor]:
    """Return what was given for hidden layers as tensors, checked."""
    if not isinstance(given, Mapping):
        raise ValueError(f"{what} is {type(given).__name__}; give a mapping from names of hidden layers")
    for name in given:
        if name not in layers:
            raise ValueError(f"{what} has {name!r}; choose among the hidden layers {', '.join(map(repr, layers))}")
    return {name: check(f"{what}[{name!r}]", each, layers[name].units) for name, each in given.items()}


def _order(what: str, given: Any, units: int) -> Tensor:
    found = _listed(what, given)
    if any(isinstance(one, bool) or not isinstance(one, int) for one in found) or sorted(found) != list(range(units)):
        raise ValueError(f"{what} is no permutation; give each whole number from 0 to {units - 1} once")
    return torch.tensor(found)


def _listed(what: str, given: Any) -> list[Any]:
    if isinstance(given, str) or not isinstance(given, (Sequence, Tensor)):
        raise ValueError(f"{what} is {given!r}; give a list with a number for each unit")
    return list(given.tolist()) if isinstance(given, Tensor) else list(given)


def _signs(what: str, given: Any, units: int) -> Tensor:
    found = _listed(what, given)
    if len(found) != units or any(one not in (1, -1) for one in found):
        raise ValueError(f"{what} is no list of signs; give 1 or -1 for each of {units} units")
    return torch.tensor(found, dtype=torch.int64)


def _is_distinct(layer: HiddenLayer, values: Mapping[str, Tensor], signs: bool) -> bool:
    """Tell whether units are computed by different weights, up to signs: no permutation then leaves all as it was."""
    before = [axis for axis in layer.axes if not axis.tensor.startswith(f"{layer.reader}.")]
    flipped, kept = (
        [by_unit(values[axis.tensor].detach(), axis.dim, layer.units) for axis in before if axis.flips == flips]
        for flips in (True, False)
    )
    rows = torch.cat(flipped, 1)
    if signs:  # each unit by the sign of its first number that is not 0
        leading = rows.gather(1, (rows != 0).long().argmax(1, keepdim=True))
        if (leading == 0).any():
            return False
        rows = rows * leading.sign()
    rows = torch.cat([rows, *kept], 1)
    return len(torch.unique(rows, dim=0)) == layer.units
