"""The per-parameter perceptron of Metz et al. 2022 (small_fc_lopt): 39 features of an element, and out comes its step.

    theta_{t+1} = theta_t - step_scale * d * exp(exponent_scale * s),    (d, s) = MLP(features_t)

28 features are the gradient, the parameter, averages of gradients and of their squares, some of these factored as in
Adafactor, each over its root mean square in the whole tensor; 11 say how many steps have been taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from descend.learned.accumulators import (
    Averages,
    Axes,
    Decays,
    advance,
    advanced,
    factored_axes,
    factors,
    first_averages,
    narrowed,
)
from descend.learned.network import Network
from descend.learned.pairs import Params, State
from descend.restoring import seeded

FEATURES: Final = 28
"""Of an element, beside those of time."""
TIMES: Final = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)
"""Steps, at which one feature of time each turns."""
_DECAYS: Final = {"momentum": (0.9, 0.99, 0.999), "squares": (0.999,), "factored": (0.9, 0.99, 0.999)}
"""Where the decays of averages begin; what is learned is an offset."""


class PerParameterMLP(Network):
    """A perceptron that steps each element by features of it and of its tensor.

    Args:
        hidden: units of a layer. The authors' default is 4, published weights have 4 and 32.
        layers: hidden ones.
        exponent_scale: of the output that is the logarithm of a size.
        step_scale: of the step; published PyTorch weights have 0.01.
        seed: of the initial weights.

    Raises:
        ValueError: a size is below 1, or a scale not above 0.

    Source: Metz et al. 2022, arXiv:2203.11860; google/learned_optimization, adafac_mlp_lopt.py, whose features,
    accumulators and constants these are. Nothing is corrected for bias, and the first step has time 0.
    """

    kind = "mlp"
    is_elementwise = False

    def __init__(
        self,
        hidden: int = 32,
        layers: int = 2,
        *,
        exponent_scale: float = 0.001,
        step_scale: float = 0.001,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("hidden", hidden), ("layers", layers)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; give a whole number from 1")
        for name, number in (("exponent_scale", exponent_scale), ("step_scale", step_scale)):
            if not 0 < number < math.inf:
                raise ValueError(f"{name} is {number!r}; give a number above 0")
        self.hidden, self.layers = hidden, layers
        self.exponent_scale, self.step_scale = float(exponent_scale), float(step_scale)
        sizes = [FEATURES + len(TIMES), *[hidden] * layers, 2]
        self.linears = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(sizes))
        self.offsets = nn.ParameterDict({name: nn.Parameter(torch.zeros(len(at))) for name, at in _DECAYS.items()})
        with seeded(seed), torch.no_grad():
            for linear in self._linears():
                deviation = 1 / math.sqrt(linear.in_features)
                nn.init.trunc_normal_(linear.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
                linear.bias.zero_()

    def _linears(self) -> list[nn.Linear]:
        return cast(list[nn.Linear], list(self.linears))

    @property
    def settings(self) -> dict[str, Any]:
        """See `Network.settings`."""
        return {
            "hidden": self.hidden,
            "layers": self.layers,
            "exponent_scale": self.exponent_scale,
            "step_scale": self.step_scale,
        }

    @property
    def bytes_per_element(self) -> int:
        """See `Network.bytes_per_element`: the features, twice, and two hidden layers."""
        return 4 * (2 * FEATURES + 2 * self.hidden)

    def decays(self) -> Decays:
        """Return the decays of averages in force."""
        found = []
        for name, usual in _DECAYS.items():
            offset = self.offsets[name]
            start = (torch.log(1 - torch.tensor(usual, dtype=torch.float64)) / 10).to(offset)
            found.append((1 - torch.exp((start + offset) * 10)).clamp(0, 1))
        return Decays(*found)

    def first(self, param: Tensor) -> dict[str, Tensor]:
        """See `Network.first`: averages of 0, and a count of steps."""
        return {
            "step": torch.zeros((), device=param.device),
            **first_averages(_with_axis(param), len(_DECAYS["factored"])),
        }

    def init(self, params: Params) -> dict[str, dict[str, Tensor]]:
        """See `Pair.init`."""
        return {name: self.first(param) for name, param in params.items()}

    def update(
        self, params: Params, grads: Params, state: State
    ) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
        """See `Pair.update`."""
        new_params, new_state = dict(params), {name: dict(entry) for name, entry in state.items()}
        decays = self.decays()
        for name, param in params.items():
            if name not in grads:
                continue
            entry = state[name]
            whole, grad = _with_axis(param), _with_axis(grads[name])
            averages = advanced(grad, entry, decays)
            found = features(whole, grad, averages, factored_axes(whole.shape)).flatten(1)
            change = self.steps(found, found.square().mean(1), entry["step"])
            new_params[name] = param + change.view(param.shape)
            new_state[name] = {"step": entry["step"] + 1, **averages}
        return new_params, new_state

    def steps(self, found: Tensor, squares: Tensor, step: Tensor) -> Tensor:
        """Return the change of elements.

        Args:
            found: their features, (28, elements).
            squares: mean square of each feature over the tensor.
            step: steps taken before.
        """
        first, *others = self._linears()
        times = torch.tanh(step.to(found) / torch.tensor(TIMES, dtype=found.dtype, device=found.device) - 1)
        weight, bias = first.weight.to(found), first.bias.to(found)
        # A feature over its root mean square, times a weight: the division is of the weights, not of each element.
        scaled = weight[:, :FEATURES] * torch.rsqrt(squares.to(found) + 1e-5)
        value = scaled @ found + (weight[:, FEATURES:] @ times + bias).unsqueeze(1)
        for linear in others:
            value = linear.weight.to(found) @ value.relu() + linear.bias.to(found).unsqueeze(1)
        return -self.step_scale * value[0] * torch.exp(self.exponent_scale * value[1])

    def step(self, param: Tensor, grad: Tensor, state: Mapping[str, Tensor], rate: float, elements: int) -> None:
        """See `Network.step`: no piece is less than one place of the longest axis."""
        if not param.numel():
            return
        whole, grads = _with_axis(param), _with_axis(grad)
        axes = factored_axes(whole.shape)
        axis = 0 if axes is None else axes.longest
        length = max(1, elements * whole.shape[axis] // whole.numel())
        advance(grads, state, self.decays(), length)
        squares = torch.zeros(FEATURES, dtype=torch.float64, device=param.device)
        for start in range(0, whole.shape[axis], length):
            found = self._features(whole, grads, state, axes, start, length)
            squares += found.square().sum(1, dtype=torch.float64)
        for start in range(0, whole.shape[axis], length):
            found = self._features(whole, grads, state, axes, start, length)
            piece, _ = narrowed(whole, state, axes, start, length)
            piece.add_(self.steps(found, squares / whole.numel(), state["step"]).view(piece.shape), alpha=rate)
        state["step"].add_(1)

    def _features(
        self, param: Tensor, grad: Tensor, state: Mapping[str, Tensor], axes: Axes | None, start: int, length: int
    ) -> Tensor:
        piece, averages = narrowed(param, state, axes, start, length)
        return features(piece, narrowed(grad, state, axes, start, length)[0], averages, axes).flatten(1)


def features(param: Tensor, grad: Tensor, averages: Averages, axes: Axes | None) -> Tensor:
    """Return the features of elements before they are normalised, (28, ...).

    Args:
        param: the elements, (...).
        grad: their gradients.
        averages: after this step.
        axes: of the whole tensor that are factored.
    """
    shape, scales = param.shape, factors(averages, axes)
    momentum, squares = averages["momentum"], averages["squares"]
    inverse = torch.rsqrt(squares + 1e-6)
    row, column = (one.expand(-1, *shape) for one in (scales.row, scales.column))
    single = [torch.stack([grad, param]), momentum, squares.unsqueeze(0), momentum * inverse, inverse.unsqueeze(0)]
    factored = [grad * scales.of_gradient, row, column, torch.rsqrt(row + 1e-8), torch.rsqrt(column + 1e-8)]
    return torch.cat([*single, *factored, momentum * scales.of_momentum])


def _with_axis(tensor: Tensor) -> Tensor:
    return tensor.unsqueeze(0) if tensor.ndim == 0 else tensor
