"""Sharpness in a ball: how far the loss rises at worst, and on average, plain and adaptive.

With T = 1 a ball of weights; with T = diag(|w| + eta) the adaptive measures of Kwon et al. 2021, arXiv:2102.11600, and
Andriushchenko et al. 2023, arXiv:2302.07011. Only eta = 0 is unchanged by a rescaling of layers,
and that without weight decay in the loss, which such a rescaling changes.

    worst case   max { L(w + T u) - L(w) : ||u|| <= rho }
    average      E L(w + T u) - L(w),  u ~ N(0, rho^2)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from descend.generalization.ascent import Norm, ascent, direction
from descend.generalization.estimates import interval, mean_and_error
from descend.generalization.krylov import accuracy, generator, whole
from descend.generalization.linear import Conditions, NotConverged
from descend.generalization.losses import UnitLogits
from descend.generalization.objective import Objective

RESCALING = "rescaling of layers against each other (Dinh et al. 2017)"
LAST_LAYER = "scale of the last layer"
_LEAST = 30


@dataclass(frozen=True)
class WorstCase:
    """The highest rise that a search found, a lower bound of the maximum.

    Attributes:
        rise: of the loss.
        first_order: rho times the dual norm of T g: what the gradient alone foretells.
        one_step: rise at the end of the gradient's step, as SAM and ASAM take it.
        rho: radius.
        eta: of T; None for T = 1.
        norm: of u.
        evaluations: of the loss with its gradient.
        stalled: whether the gradient was 0, so that the search began at a random point.
        invariances: what leaves the measure unchanged.
        conditions: what was measured.
    """

    rise: float
    first_order: float
    one_step: float
    rho: float
    eta: float | None
    norm: Norm
    evaluations: int
    stalled: bool
    invariances: tuple[str, ...]
    conditions: Conditions


@dataclass(frozen=True)
class Average:
    """The mean rise under normal noise.

    Attributes:
        rise: of the loss.
        standard_error: of it.
        interval: 95 %, by Student's t.
        samples: pairs of opposite draws.
        rho: deviation of u.
        eta: of T; None for T = 1.
        rtol: accuracy that was asked for; None where a number of samples was.
        converged: whether the standard error is that small.
        invariances: what leaves the measure unchanged.
        conditions: what was measured.
    """

    rise: float
    standard_error: float
    interval: tuple[float, float]
    samples: int
    rho: float
    eta: float | None
    rtol: float | None
    converged: bool
    invariances: tuple[str, ...]
    conditions: Conditions


def scale(objective: Objective, eta: float | None) -> Tensor:
    """Return the diagonal of T, a flat vector.

    Args:
        objective: has the weights.
        eta: None for ones; 0 for |w| of all weights; above 0, as the code of ASAM has it, |w| + eta for parameters with
            "weight" in their name and 1 for others, such as biases.
    """
    weights = objective.weights()
    if eta is None:
        return torch.ones_like(weights)
    if isinstance(eta, bool) or not isinstance(eta, (int, float)) or not 0 <= eta < math.inf:
        raise ValueError(f"eta is {eta!r}; give None, or a finite number from 0 up, such as 0.01")
    if eta == 0:
        return weights.abs()
    parts = objective.split(weights)
    return torch.cat(
        [(part.abs() + eta if "weight" in name else torch.ones_like(part)).flatten() for name, part in parts.items()]
    )


def worst_case(
    objective: Objective, rho: float, *, eta: float | None = None, norm: Norm = "l2", steps: int = 20, seed: int = 0
) -> WorstCase:
    """Return how far the loss rises at worst, as far as a search finds.

    The search is Auto-PGD of Croce & Hein 2020, arXiv:2003.01690, algorithm 1: momentum 0.75, steps from 2 rho that
    halve where they no longer help. It starts with the gradient's own step.

    Args:
        objective: the loss. Andriushchenko et al. measure it on 1,024 training examples.
        rho: radius, above 0.
        eta: of T = diag(|w| + eta); None for T = 1; see `scale`.
        norm: of u: "l2" or "linf".
        steps: of the search, each an evaluation of the loss with its gradient.
        seed: of the start where the gradient is 0.

    Raises:
        ValueError: an argument makes no sense, or the loss at the weights is not finite.
    """
    _check_radius(rho)
    if norm not in ("l2", "linf"):
        raise ValueError(f'norm is {norm!r}; give "l2" or "linf"')
    whole("steps", steps, 1)
    stretch, center = scale(objective, eta), objective.weights()

    def at(place: Tensor) -> tuple[float, Tensor]:
        value, gradient = objective.value_and_gradient(center + stretch * place)
        return (value if not math.isnan(value) else math.inf), (stretch * gradient).nan_to_num()

    with objective.repeating():
        loss, slope = at(torch.zeros_like(center))
        _check_finite(loss)
        is_stalled = not slope.any()
        if is_stalled:
            slope = torch.randn(len(center), generator=generator(seed), dtype=torch.float64).to(center.device)
        first = rho * direction(slope, norm)
        values = list(ascent(at, first, rho, norm, steps))
    dual = torch.linalg.vector_norm(slope, 2 if norm == "l2" else 1)
    return WorstCase(
        rise=max(0.0, *(value - loss for value in values)),
        first_order=0.0 if is_stalled else rho * float(dual),
        one_step=values[0] - loss,
        rho=rho,
        eta=eta,
        norm=norm,
        evaluations=1 + len(values),
        stalled=is_stalled,
        invariances=_invariances(objective, eta),
        conditions=objective.conditions,
    )


def average(
    objective: Objective,
    rho: float,
    *,
    eta: float | None = None,
    samples: int | None = None,
    rtol: float = 0.05,
    max_samples: int = 1000,
    seed: int = 0,
) -> Average:
    """Return how far the loss rises on average under normal noise.

    Draws come in pairs of opposite ones, which takes out what is odd in them.

    Args:
        objective: the loss.
        rho: deviation of the noise, above 0.
        eta: of T = diag(|w| + eta); None for T = 1; see `scale`.
        samples: pairs, 2 or more, and no accuracy is asked. By default as many as it takes, from 30 on.
        rtol: the standard error is at most so much of the rise.
        max_samples: pairs.
        seed: of the noise.

    Raises:
        ValueError: an argument makes no sense, or the loss at the weights is not finite.
        NotConverged: the standard error is larger after max_samples; its `result` is what was reached.
    """
    _check_radius(rho)
    accuracy("rtol", rtol)
    limit = whole("max_samples", max_samples, 2) if samples is None else whole("samples", samples, 2)
    stretch, center = scale(objective, eta), objective.weights()
    source = generator(seed)
    found: list[float] = []
    with objective.repeating():
        loss = objective.value(center)  # as of weights that moved: statistics may be recomputed for those
        _check_finite(loss)
        while len(found) < limit:
            drawn = torch.randn(len(center), generator=source, dtype=torch.float64).to(center.device)
            move = rho * stretch * drawn
            found.append((objective.value(center + move) + objective.value(center - move)) / 2 - loss)
            if samples is None and len(found) >= _LEAST and _is_accurate(found, rtol):
                break
    mean, error = mean_and_error(found)
    is_done = samples is not None or _is_accurate(found, rtol)
    result = Average(
        mean,
        error,
        interval(mean, error, len(found)),
        len(found),
        rho,
        eta,
        None if samples is not None else rtol,
        is_done,
        _invariances(objective, eta),
        objective.conditions,
    )
    if not is_done:
        raise NotConverged(
            f"after {len(found)} samples the mean rise is {mean:.4g} with a standard error of {error:.2g}, more than "
            f"{rtol:g} of it; give more max_samples or a larger rtol, or take error.result as it is",
            result,
        )
    return result


def _invariances(objective: Objective, eta: float | None) -> tuple[str, ...]:
    if eta != 0 or objective.weight_decay:
        return ()
    return (RESCALING, LAST_LAYER) if isinstance(objective.outputs, UnitLogits) else (RESCALING,)


def _check_radius(rho: object) -> None:
    if isinstance(rho, bool) or not isinstance(rho, (int, float)) or not 0 < rho < math.inf:
        raise ValueError(f"rho is {rho!r}; give a finite number above 0, such as 0.05")


def _check_finite(loss: float) -> None:
    if not math.isfinite(loss):
        raise ValueError("the loss at the weights is not finite; there is nothing to measure a rise from")


def _is_accurate(values: list[float], rtol: float) -> bool:
    mean, error = mean_and_error(values)
    return error <= rtol * abs(mean)
