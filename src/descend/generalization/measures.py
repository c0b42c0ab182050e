"""Measures of one trained network that were proposed to foretell its generalization gap.

Jiang et al. 2020, arXiv:1912.02178. Each value is the paper's complexity C, of which a bound on the gap is
sqrt(C / examples): the larger it is, the larger the gap is claimed to be. Norms are therefore squared, and nothing is
divided by the number of examples. Equation numbers are those by which the code of Dziugaite et al. 2020,
arXiv:2010.11924, cites the paper. Whether a measure orders gaps is another question: see `granulated_kendall`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from descend.generalization.krylov import accuracy, generator, whole
from descend.generalization.linear import Conditions
from descend.generalization.margins import Margin, margin
from descend.generalization.norms import Layers, NotDefined, layer_norms, path_norm
from descend.generalization.objective import Objective
from descend.generalization.pac_bayes import Flatness, Reach, flatness, positive, reach
from descend.generalization.sharpness import RESCALING

_PAPER = "Jiang et al. 2020, arXiv:1912.02178"


@dataclass(frozen=True)
class Measure:
    """One number of a network, and what is claimed of it.

    Attributes:
        name: key in the result of `measures`.
        value: the complexity C; None where it is not defined.
        undefined: why not; None where it is.
        formula: of the value.
        source: paper and equation, and where this differs.
        invariances: what leaves the value unchanged.
        evidence: what the value was computed from.
        conditions: what was measured.
    """

    name: str
    value: float | None
    undefined: str | None
    formula: str
    source: str
    invariances: tuple[str, ...]
    evidence: Mapping[str, Any]
    conditions: Conditions


@dataclass(frozen=True)
class _Found:
    """What a computation gives: the value, what it is from, and what leaves it unchanged."""

    value: float
    evidence: Mapping[str, Any] = field(default_factory=dict)
    invariances: tuple[str, ...] = ()


class _Network:
    """What several measures share, each computed once."""

    def __init__(self, objective: Objective, start: Tensor | None, search: Mapping[str, Any]) -> None:
        self.objective, self.start, self.search = objective, start, search
        self.weights = objective.weights()

    @cached_property
    def margin(self) -> Margin:
        return margin(self.objective)

    @cached_property
    def layers(self) -> Layers:
        return layer_norms(self.objective)

    @cached_property
    def path_norm(self) -> float:
        return path_norm(self.objective)


def measures(
    objective: Objective,
    start: Tensor | None = None,
    *,
    only: Iterable[str] | None = None,
    drop: float = 0.1,
    rise: float = 0.1,
    samples: int = 10,
    steps: int = 15,
    ascent_steps: int = 20,
    seed: int = 0,
) -> dict[str, Measure]:
    """Return measures of a trained classifier by name, in the order of `MEASURES`.

    A measure that is not defined for a network is there, with the reason in the place of a value: those over the
    margin where the training error is a tenth or more, the path norm of what is no chain of known layers.

    What costs: the flatness measures take samples * (steps + 1) passes over the batches, the sharpness ones about
    ascent_steps * (steps + 1) gradients. Where even sigma or alpha 2 is borne, the value is that of 2, an upper bound.

    Args:
        objective: has the model, and the training examples as batches of inputs and classes; in evaluation mode.
        start: the weights before training, as `Objective.weights` gave them; None leaves the distance undefined.
        only: names of measures; by default all.
        drop: of the training accuracy that noise may cause, between 0 and 1.
        rise: of the objective's loss that a move in a box may cause.
        samples: draws of noise for each sigma.
        steps: of the bisections.
        ascent_steps: of each search for the highest loss in a box.
        seed: of noise.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: it makes no sense, weights or the loss are not finite, or batches are no classification.
    """
    names = _names(only)
    start = _checked(objective, start)
    accuracy("drop", drop)
    positive("rise", rise)
    for name, value in (("samples", samples), ("steps", steps), ("ascent_steps", ascent_steps)):
        whole(name, value, 1)
    generator(seed)
    search = dict(drop=drop, rise=rise, samples=samples, steps=steps, ascent_steps=ascent_steps, seed=seed)
    network = _Network(objective, start, search)
    with objective.held():  # conditions read the batches, perhaps for the first time
        conditions = objective.conditions
    return {name: _measured(name, network, conditions) for name in names}


def _measured(name: str, network: _Network, conditions: Conditions) -> Measure:
    formula, source, compute = MEASURES[name]
    try:
        found = compute(network)
        if not math.isfinite(found.value):
            raise NotDefined("the value is beyond the range of numbers")
    except NotDefined as reason:
        return Measure(name, None, str(reason), formula, source, (), reason.evidence, conditions)
    return Measure(name, float(found.value), None, formula, source, found.invariances, found.evidence, conditions)


# ---- the measures ----------------------------------------------------------------------------------------------------


def _parameters(network: _Network) -> _Found:
    return _Found(float(network.objective.size), invariances=(RESCALING,))


def _parameter_norm(network: _Network) -> _Found:
    return _Found(float(network.weights.square().sum()))


def _distance(network: _Network) -> _Found:
    if network.start is None:
        raise NotDefined("the weights before training are not known; give start=")
    return _Found(float((network.weights - network.start).square().sum()))


def _squared_margin(network: _Network) -> tuple[float, dict[str, Any]]:
    found = network.margin
    evidence = {"margin": found.value, "accuracy": found.accuracy, "examples": found.examples}
    if found.value <= 0:
        raise NotDefined(
            f"the margin is {found.value:.3g}, not above 0, with a training accuracy of {found.accuracy:.3g}: these "
            "measures are of networks that fit all but a tenth of their examples",
            evidence,
        )
    return found.value**2, evidence


def _inverse_margin(network: _Network) -> _Found:
    squared, evidence = _squared_margin(network)
    return _Found(1 / squared, evidence, (RESCALING,))


def _of_layers(
    log_product: Callable[[Layers], float], *, over_margin: bool = False, is_sum: bool = False
) -> Callable[[_Network], _Found]:
    """Return a computation from the logarithm of a product over layers.

    Args:
        log_product: the logarithm.
        over_margin: divide by the squared margin.
        is_sum: take the geometric mean over layers, times their number, in the place of the product.
    """

    def compute(network: _Network) -> _Found:
        layers = network.layers
        depth, evidence = len(layers.spectral), vars(layers)
        logarithm = log_product(layers)
        if over_margin:
            squared, of_margin = _squared_margin(network)
            logarithm, evidence = logarithm - math.log(squared), evidence | of_margin
        if is_sum:
            logarithm = math.log(depth) + logarithm / depth
        return _Found(math.exp(logarithm) if logarithm < 709 else math.inf, evidence, layers.invariances)

    return compute


def _frobenius_over_spectral(network: _Network) -> _Found:
    layers = network.layers
    return _Found(layers.frobenius_over_spectral, vars(layers), layers.invariances)


def _path(*, over_margin: bool) -> Callable[[_Network], _Found]:
    def compute(network: _Network) -> _Found:
        squared, evidence = _squared_margin(network) if over_margin else (1.0, {})
        return _Found(network.path_norm**2 / squared, {"path norm": network.path_norm} | evidence, (RESCALING,))

    return compute


def _of_flatness(magnitude_eps: float | None) -> Callable[[_Network], _Found]:
    def compute(network: _Network) -> _Found:
        search = network.search
        options = {name: search[name] for name in ("samples", "steps", "seed")}
        found = flatness(network.objective, magnitude_eps=magnitude_eps, allowed=search["drop"], **options)
        return _Found(_inverse_square("sigma", found.sigma, found), vars(found))

    return compute


def _of_reach(is_relative: bool) -> Callable[[_Network], _Found]:
    def compute(network: _Network) -> _Found:
        search = network.search
        options = {name: search[name] for name in ("ascent_steps", "steps", "seed")}
        found = reach(network.objective, is_relative=is_relative, allowed=search["rise"], **options)
        return _Found(_inverse_square("alpha", found.alpha, found), vars(found), found.invariances)

    return compute


def _inverse_square(name: str, value: float, found: Flatness | Reach) -> float:
    if value == 0:
        smallest = found.bracket[1]
        raise NotDefined(f"{name} is below {smallest:.2g}, the smallest that was tried; give more steps", vars(found))
    return 1 / value**2


_LAYERS = (
    "; W is each matrix, convolutions as (out, in * k * k), batch normalization folded into the layer before it; "
    "biases left out"
)
MEASURES: Mapping[str, tuple[str, str, Callable[[_Network], _Found]]] = {
    "parameters": ("number of weights", f"{_PAPER}, equation 20, with biases, of what varies", _parameters),
    "inverse_squared_margin": ("1 / margin^2", f"{_PAPER}, equation 22", _inverse_margin),
    "squared_parameter_norm": (
        "|w|^2",
        f"{_PAPER}, equation 42, with all weights that vary, biases too, as they are trained",
        _parameter_norm,
    ),
    "squared_distance": (
        "|w - start|^2",
        f"{_PAPER}, equation 40, with all weights that vary, biases too, as they are trained",
        _distance,
    ),
    "spectral_product": (
        "product of |W|_2^2",
        f"{_PAPER}, equation 32{_LAYERS}",
        _of_layers(lambda layers: layers.log_spectral),
    ),
    "spectral_product_over_margin": (
        "product of |W|_2^2 / margin^2",
        f"{_PAPER}, equation 31{_LAYERS}",
        _of_layers(lambda layers: layers.log_spectral, over_margin=True),
    ),
    "spectral_sum": (
        "d (product of |W|_2^2)^(1/d), of d layers",
        f"{_PAPER}, equation 35{_LAYERS}",
        _of_layers(lambda layers: layers.log_spectral, is_sum=True),
    ),
    "spectral_sum_over_margin": (
        "d (product of |W|_2^2 / margin^2)^(1/d), of d layers",
        f"{_PAPER}, equation 34{_LAYERS}",
        _of_layers(lambda layers: layers.log_spectral, over_margin=True, is_sum=True),
    ),
    "frobenius_over_spectral": (
        "sum of |W|_F^2 / |W|_2^2",
        f"{_PAPER}, equation 33{_LAYERS}",
        _frobenius_over_spectral,
    ),
    "frobenius_product": (
        "product of |W|_F^2",
        f"{_PAPER}, equation 37{_LAYERS}",
        _of_layers(lambda layers: layers.log_frobenius),
    ),
    "frobenius_product_over_margin": (
        "product of |W|_F^2 / margin^2",
        f"{_PAPER}, equation 36{_LAYERS}",
        _of_layers(lambda layers: layers.log_frobenius, over_margin=True),
    ),
    "squared_path_norm": ("path norm^2", f"{_PAPER}, equation 44", _path(over_margin=False)),
    "squared_path_norm_over_margin": ("path norm^2 / margin^2", f"{_PAPER}, equation 43", _path(over_margin=True)),
    "flatness": ("1 / sigma^2", f"{_PAPER}, equation 53; batch normalization is not folded", _of_flatness(None)),
    "magnitude_flatness": (
        "1 / sigma'^2, of noise sqrt(sigma'^2 w^2 + 1e-6)",
        f"{_PAPER}, equation 61; batch normalization is not folded",
        _of_flatness(1e-3),
    ),
    "sharpness": ("1 / alpha^2", f"{_PAPER}, sharpness; of the loss, not the training accuracy", _of_reach(False)),
    "magnitude_sharpness": (
        "1 / alpha'^2, of moves up to alpha' |w|",
        f"{_PAPER}, magnitude-aware sharpness; of the loss, not the training accuracy, and without an eps",
        _of_reach(True),
    ),
}
"""Formula, source and computation of each measure."""


# ---- checks ----------------------------------------------------------------------------------------------------------


def _names(only: Iterable[str] | None) -> list[str]:
    if only is None:
        return list(MEASURES)
    if isinstance(only, str):
        raise TypeError(f"only is one name; give a list, [{only!r}]")
    wanted = list(only)
    for name in wanted:
        if name not in MEASURES:
            raise ValueError(f"only has {name!r}, which is no measure; there are {', '.join(MEASURES)}")
    return [name for name in MEASURES if name in wanted]


def _checked(objective: object, start: Tensor | None) -> Tensor | None:
    """Refuse an objective or a start that nothing can be measured of; return the start in float64."""
    if not isinstance(objective, Objective):
        raise TypeError(f"objective is {type(objective).__name__}; give descend.generalization.Objective")
    if objective.mode != "eval":
        raise ValueError('objective has mode="train", where the network is another one for each batch; use mode="eval"')
    if not objective.weights().isfinite().all():
        raise ValueError("the model has weights that are not finite; there is nothing to measure")
    if start is None:
        return None
    if not isinstance(start, Tensor):
        raise TypeError(f"start is {type(start).__name__}; give what objective.weights() was before training")
    if start.shape != (objective.size,):
        raise ValueError(
            f"start has the shape {tuple(start.shape)}; give what objective.weights() was before training, "
            f"({objective.size},)"
        )
    if not start.isfinite().all():
        raise ValueError("start has numbers that are not finite; give what objective.weights() was before training")
    return start.detach().to(objective.device, torch.float64)
