"""Temperature scaling: one number, fitted on validation data, by which all logits are divided."""

import math

from torch import Tensor

from descend.ensembles.scores import checked, checked_log_probabilities

_LEAST, _MOST = 1 / 100, 100.0
"""The bounds of the temperature, and so of its inverse."""
_ITERATIONS = 200
_PRECISION = 1e-10


def fit_temperature(log_probabilities: Tensor, targets: Tensor) -> float:
    """Return the temperature T, from 1/100 to 100, that minimises the mean NLL of softmax(logits / T).

    Log-probabilities serve as logits, from which they differ by a constant per row. The NLL is convex in 1 / T. Where
    it has no minimum between the bounds, the better bound is returned: 1/100 when the right class is always the most
    probable. Examples whose right class has probability 0 have an infinite NLL at every T and are left out. Where the
    NLL is the same at every T, as it is for uniform predictions or when no example is left, T is 1.

    Source: Guo et al. 2017, https://arxiv.org/abs/1706.04599, section 4.2.

    Args:
        log_probabilities: of validation data, normalised natural logs, shape (examples, classes).
        targets: the right classes, int64, shape (examples,).

    Raises:
        ValueError: for a wrong shape, type or value.
    """
    logs = checked(log_probabilities, targets)
    right = logs.gather(1, targets.unsqueeze(1))
    possible = right.squeeze(1).isfinite()
    margins = logs[possible] - right[possible]
    if not bool(margins.nan_to_num(neginf=0.0).any()):
        return 1.0
    return 1 / _minimum(margins)


def tempered(log_probabilities: Tensor, temperature: float) -> Tensor:
    """Return log-probabilities at a temperature: normalised anew after a division by it, in the type they came in.

    Args:
        log_probabilities: normalised natural logs, shape (examples, classes).
        temperature: above 0; more than 1 makes predictions less certain.

    Raises:
        ValueError: for a temperature that is not finite and above 0, or log-probabilities that are none.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature: need a finite number above 0, got {temperature}; 1 changes nothing")
    logs = checked_log_probabilities(log_probabilities)
    return (logs / temperature).log_softmax(1).to(log_probabilities.dtype)


def _minimum(margins: Tensor) -> float:
    """Return the inverse temperature of the least NLL: Newton's method, with bisection where its steps do not halve."""
    low, high = 1 / _MOST, 1 / _LEAST
    if _derivatives(margins, high)[0] <= 0:
        return high
    if _derivatives(margins, low)[0] >= 0:
        return low
    inverse, step = 1.0, math.inf
    for _ in range(_ITERATIONS):
        slope, curvature = _derivatives(margins, inverse)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        following = inverse - slope / curvature if curvature > 0 else math.nan
        if not (low <= following <= high and abs(following - inverse) <= step / 2):  # not so for NaN either
            following = math.sqrt(low * high)
        step = abs(following - inverse)
        inverse = following
        if step <= _PRECISION * inverse:
            break
    return inverse


def _derivatives(margins: Tensor, inverse: float) -> tuple[float, float]:
    """Return the NLL's first two derivatives in the inverse temperature: mean and variance of the margins under it.

    The margins are each class's logit less the right one's, so that the right class adds exactly 0.
    """
    probabilities = (margins * inverse).softmax(1)
    finite = margins.nan_to_num(neginf=0.0)  # of probability 0, which times -inf is NaN
    means = (probabilities * finite).sum(1, keepdim=True)
    variances = (probabilities * (finite - means).square()).sum(1)
    return means.mean().item(), variances.mean().item()
