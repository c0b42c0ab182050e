"""How far weights can be moved before the training accuracy, or the loss, gives way: at random, and at worst.

Jiang et al. 2020, arXiv:1912.02178, appendix on PAC-Bayes and sharpness: 1 / sigma^2 is what remains of a PAC-Bayes
bound when all but the width of the noise is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from descend.generalization.estimates import interval, mean_and_error
from descend.generalization.krylov import accuracy, generator, whole
from descend.generalization.linear import Conditions
from descend.generalization.margins import accuracy_of
from descend.generalization.objective import Objective
from descend.generalization.sharpness import WorstCase, worst_case


@dataclass(frozen=True)
class Flatness:
    """The largest standard deviation of noise that the training accuracy bears, as far as a bisection finds.

    Attributes:
        sigma: the largest that was tried and borne; 0 where none was.
        bracket: sigma, and the smallest that was tried and not borne; twice the highest where that was borne.
        accuracy: without noise.
        fall: mean fall of the accuracy at sigma; NaN for sigma 0.
        standard_error: of that, over the draws.
        interval: 95 % of the fall, by Student's t.
        allowed: fall that is borne.
        samples: draws of the noise, the same for every sigma.
        steps: of the bisection.
        magnitude_eps: None for noise of one size; otherwise it is as large as the weight, and so much more.
        conditions: what was measured.
    """

    sigma: float
    bracket: tuple[float, float]
    accuracy: float
    fall: float
    standard_error: float
    interval: tuple[float, float]
    allowed: float
    samples: int
    steps: int
    magnitude_eps: float | None
    conditions: Conditions


@dataclass(frozen=True)
class Reach:
    """The largest box of weights in which the loss rises by no more than allowed, as far as two searches find.

    Attributes:
        alpha: half its width; 0 where none was found.
        bracket: alpha, and the smallest that was too large; twice the highest where that was borne.
        rise: of the loss at alpha; NaN for alpha 0.
        allowed: rise that is borne, of the loss.
        is_relative: whether the box is in units of each weight's magnitude.
        steps: of the bisection.
        ascent_steps: of the search for the highest loss.
        invariances: what leaves it unchanged.
        conditions: what was measured.
    """

    alpha: float
    bracket: tuple[float, float]
    rise: float
    allowed: float
    is_relative: bool
    steps: int
    ascent_steps: int
    invariances: tuple[str, ...]
    conditions: Conditions


def flatness(
    objective: Objective,
    *,
    magnitude_eps: float | None = None,
    allowed: float = 0.1,
    samples: int = 10,
    steps: int = 15,
    highest: float = 2.0,
    seed: int = 0,
) -> Flatness:
    """Return the largest sigma whose noise lowers the training accuracy by no more than allowed, on average.

    Jiang et al. 2020, equation 53 (1 / sigma^2) and, with magnitude_eps, 61 (1 / sigma'^2), and the search over (0, 2)
    in 15 steps with 10 draws that they describe. Sigma is the standard deviation of the noise on every weight that
    varies; with magnitude_eps that is sqrt(sigma^2 w^2 + eps^2) for the weight w. The draws are the same for every
    sigma, so that the answer has no noise from step to step; where the accuracy nevertheless rises again with sigma,
    it is one of the places where it crosses what is allowed. Batch normalization keeps its own weights and statistics
    here, where the authors fold it into the layers.

    Args:
        objective: has the model and the batches, pairs of inputs and classes; its loss is not asked.
        magnitude_eps: 1e-3 in the paper; None for noise of one size.
        allowed: fall of the accuracy, between 0 and 1.
        samples: draws of the noise.
        steps: of the bisection; each costs a pass over the batches for each draw.
        highest: sigma to search up to, above 0.
        seed: of the noise.

    Raises:
        ValueError: an argument makes no sense, or batches are no classification.
    """
    if magnitude_eps is not None:
        positive("magnitude_eps", magnitude_eps, least=0.0)
    accuracy("allowed", allowed)
    whole("samples", samples, 1)
    asked, center = accuracy_of(objective), objective.weights()
    generator(seed)
    falls: dict[float, list[float]] = {}

    def is_borne(sigma: float) -> bool:
        source = generator(seed)
        size = sigma if magnitude_eps is None else (sigma**2 * center.square() + magnitude_eps**2).sqrt()
        falls[sigma] = []
        for _ in range(samples):
            drawn = torch.randn(len(center), generator=source, dtype=torch.float64).to(center.device)
            falls[sigma].append(start - asked.value(center + size * drawn))
        return math.fsum(falls[sigma]) / samples <= allowed + 1e-12

    with asked.repeating():
        start = asked.value()
        low, high = _largest(is_borne, highest, steps)
    fall, error = mean_and_error(falls[low]) if low else (math.nan, math.nan)
    return Flatness(
        sigma=low,
        bracket=(low, high),
        accuracy=start,
        fall=fall,
        standard_error=error,
        interval=interval(fall, error, samples),
        allowed=allowed,
        samples=samples,
        steps=steps,
        magnitude_eps=magnitude_eps,
        conditions=asked.conditions,
    )


def reach(
    objective: Objective,
    *,
    is_relative: bool = False,
    allowed: float = 0.1,
    steps: int = 15,
    ascent_steps: int = 20,
    highest: float = 2.0,
    seed: int = 0,
) -> Reach:
    """Return the largest alpha such that the loss rises by no more than allowed where no weight moves by more.

    The sharpness of Jiang et al. 2020, 1 / alpha^2 and 1 / alpha'^2, the worst case in the place of the average of
    `flatness`. They ask for the training accuracy; here it is the objective's loss, which has a gradient to ascend.
    The highest loss is that which `worst_case` finds, so that alpha is at least as large as it should be. Relative, a
    weight moves by no more than alpha |w|, without an eps, and a rescaling of layers changes nothing.

    Args:
        objective: the loss.
        is_relative: to each weight's magnitude.
        allowed: rise of the loss, above 0.
        steps: of the bisection; each costs `ascent_steps` gradients.
        ascent_steps: of `worst_case`.
        highest: alpha to search up to, above 0.
        seed: of the start where the gradient is 0.

    Raises:
        ValueError: an argument makes no sense, or the loss at the weights is not finite.
    """
    positive("allowed", allowed)
    whole("ascent_steps", ascent_steps, 1)
    generator(seed)
    found: dict[float, WorstCase] = {}

    def is_borne(alpha: float) -> bool:
        eta = 0.0 if is_relative else None
        found[alpha] = worst_case(objective, alpha, eta=eta, norm="linf", steps=ascent_steps, seed=seed)
        return found[alpha].rise <= allowed

    with objective.held():
        low, high = _largest(is_borne, highest, steps)
    return Reach(
        alpha=low,
        bracket=(low, high),
        rise=found[low].rise if low else math.nan,
        allowed=allowed,
        is_relative=is_relative,
        steps=steps,
        ascent_steps=ascent_steps,
        invariances=found[highest].invariances,
        conditions=objective.conditions,
    )


def _largest(is_borne: Callable[[float], bool], highest: float, steps: int) -> tuple[float, float]:
    """Return the largest number that is borne and the smallest that is not, of those that a bisection tries."""
    positive("highest", highest)
    whole("steps", steps, 1)
    if is_borne(highest):
        return highest, 2 * highest
    low, high = 0.0, highest
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if is_borne(middle) else (low, middle)
    return low, high


def positive(name: str, value: object, least: float | None = None) -> None:
    """Refuse what is no finite number above 0, or from a least one up."""
    is_number = not isinstance(value, bool) and isinstance(value, (int, float)) and math.isfinite(value)
    if not is_number or (value <= 0 if least is None else value < least):  # type: ignore[operator]
        raise ValueError(f"{name} is {value!r}; give a finite number {'above 0' if least is None else 'from 0 up'}")
