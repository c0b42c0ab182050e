"""Scores of predicted class probabilities: accuracy, proper scores and calibration errors.

All take log-probabilities (natural logs, normalised, shape (examples, classes), with -inf for a probability of 0) and
targets (the right classes, int64, shape (examples,)). All compute in float64, whatever the type of the logs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["width", "adaptive", "classwise"]

_NORMALISED = 0.05
"""How far from 0 the log of a row's sum may be: bfloat16 rounds the logs of 1000 classes by up to 0.02."""


def checked(log_probabilities: Tensor, targets: Tensor) -> Tensor:
    """Return the log-probabilities in float64 and without gradient; ValueError where these or the targets are wrong."""
    logs = checked_log_probabilities(log_probabilities)
    if targets.dtype != torch.int64:
        raise ValueError(f"targets: need class indices of type int64, got {targets.dtype}; convert by targets.long()")
    if targets.shape != logs.shape[:1]:
        raise ValueError(
            f"targets: need one class for each of {len(logs)} rows of log_probabilities, shape ({len(logs)},), "
            f"got shape {tuple(targets.shape)}"
        )
    least, most = int(targets.min()), int(targets.max())
    if least < 0 or most >= logs.shape[1]:
        raise ValueError(
            f"targets: need classes from 0 to {logs.shape[1] - 1}, got {least} to {most}; "
            "leave out examples without a class"
        )
    return logs


def checked_log_probabilities(log_probabilities: Tensor) -> Tensor:
    """Return the log-probabilities in float64 and without gradient; ValueError where they are none."""
    if not log_probabilities.is_floating_point():
        raise ValueError(
            f"log_probabilities: need a floating-point type, got {log_probabilities.dtype}; "
            "pass torch.log_softmax(logits, dim=1)"
        )
    if log_probabilities.ndim != 2 or 0 in log_probabilities.shape:
        raise ValueError(
            "log_probabilities: need shape (examples, classes), at least one of each, "
            f"got {tuple(log_probabilities.shape)}; flatten further dimensions to examples"
        )
    logs = log_probabilities.detach().double()
    if not bool((logs.logsumexp(1).abs() <= _NORMALISED).all()):  # not so for NaN either
        raise ValueError(
            "log_probabilities: the probabilities of a row do not sum to 1, or it holds NaN; "
            "pass torch.log_softmax(logits, dim=1)"
        )
    return logs


def nll(log_probabilities: Tensor, targets: Tensor) -> Tensor:
    """Return the negative log-likelihood of each example's right class in nats; inf where its probability is 0.

    Args:
        log_probabilities: shape (examples, classes).
        targets: the right classes, shape (examples,).

    Raises:
        ValueError: for a wrong shape, type or value.
    """
    logs = checked(log_probabilities, targets)
    return -logs.gather(1, targets.unsqueeze(1)).squeeze(1)


def brier(log_probabilities: Tensor, targets: Tensor) -> Tensor:
    """Return the Brier score of each example: the sum over classes of (p - [class is right])^2, from 0 to 2.

    Source: G. W. Brier, Monthly Weather Review 78, 1950, equation 2, before its mean over the examples.

    Args:
        log_probabilities: shape (examples, classes).
        targets: the right classes, shape (examples,).

    Raises:
        ValueError: for a wrong shape, type or value.
    """
    errors = checked(log_probabilities, targets).exp()
    errors[torch.arange(len(targets), device=targets.device), targets] -= 1
    return errors.square().sum(1)


def correct(log_probabilities: Tensor, targets: Tensor) -> Tensor:
    """Return for each example whether its most probable class is right; of tied classes the lowest is taken.

    Args:
        log_probabilities: shape (examples, classes).
        targets: the right classes, shape (examples,).

    Raises:
        ValueError: for a wrong shape, type or value.
    """
    return checked(log_probabilities, targets).argmax(1) == targets


def calibration_error(log_probabilities: Tensor, targets: Tensor, *, bins: int = 15, kind: Kind = "width") -> float:
    """Return an expected calibration error: |mean probability - share of hits| per bin, weighted by the bin's examples.

    Args:
        log_probabilities: shape (examples, classes).
        targets: the right classes, shape (examples,).
        bins: how many, B.
        kind: "width" bins the probability p of the most probable class (of tied ones the lowest), a hit where that is
            right, into the B bins (b / B, (b + 1) / B]; p = 0 falls into the first and p = 1 into the last. Guo et al.
            2017, https://arxiv.org/abs/1706.04599, equation 3.
            "adaptive" takes the same p and hits to bins of equal mass: of n examples in ascending order of p, bin b
            holds those from floor(b n / B) to before floor((b + 1) n / B). Examples with equal p each count as their
            mean hit, so their order does not matter. The bins are Nguyen & O'Connor's (2015,
            https://arxiv.org/abs/1508.05154) and the absolute gaps those of Nixon et al. 2019
            (https://arxiv.org/abs/1904.01685), whose adaptive error runs over every class, not the top one alone.
            "classwise" is the mean over all classes of the "width" error of that class's own probability, a hit where
            that class is right: Kull et al. 2019, https://arxiv.org/abs/1910.12656, the static error of Nixon et al.

    Raises:
        ValueError: for a wrong shape, type or value, fewer bins than one, or another kind.
    """
    errors = [mean_gap(one) for one in binned(log_probabilities, targets, bins=bins, kind=kind)]
    return sum(errors) / len(errors)


@dataclass(frozen=True, eq=False)
class Binned:
    """What falls into which bin of a calibration error.

    Attributes:
        places: the bin of each example, shape (examples,).
        gaps: the probability less the hit of each example, shape (examples,), float64.
        bins: how many there are.
    """

    places: Tensor
    gaps: Tensor
    bins: int


def binned(log_probabilities: Tensor, targets: Tensor, *, bins: int = 15, kind: Kind = "width") -> Iterator[Binned]:
    """Yield what `calibration_error` averages: one binning, or of kind "classwise" one for each class.

    Arguments and errors are those of `calibration_error`.
    """
    logs = checked(log_probabilities, targets)
    check_bins(bins)
    if kind == "classwise":
        probabilities = logs.exp()
        for k in range(probabilities.shape[1]):
            yield _width(probabilities[:, k].contiguous(), (targets == k).double(), bins)
        return
    top, classes = logs.max(1)
    confidences, hits = top.exp(), (classes == targets).double()
    if kind == "width":
        yield _width(confidences, hits, bins)
    elif kind == "adaptive":
        yield _adaptive(confidences, hits, bins)
    else:
        raise ValueError(f'kind: need "width", "adaptive" or "classwise", got {kind!r}')


def check_bins(bins: int) -> None:
    """Raise ValueError for fewer bins than one."""
    if bins < 1:
        raise ValueError(f"bins: need 1 or more, got {bins}")


def width_bins(probabilities: Tensor, bins: int) -> Tensor:
    """Return for each float64 probability its bin b of (b / bins, (b + 1) / bins]; 0 falls into the first."""
    edges = torch.arange(1, bins, dtype=torch.float64, device=probabilities.device) / bins
    return torch.bucketize(probabilities, edges)


def _width(probabilities: Tensor, hits: Tensor, bins: int) -> Binned:
    return Binned(width_bins(probabilities, bins), probabilities - hits, bins)


def _adaptive(probabilities: Tensor, hits: Tensor, bins: int) -> Binned:
    """Of equal mass; each of the examples that share a probability has their mean hit."""
    values, places, sizes = torch.unique(probabilities, return_inverse=True, return_counts=True)  # ascending
    mean_hits = torch.bincount(places, hits, len(values)) / sizes
    starts = torch.arange(1, bins, device=places.device) * len(places) // bins
    ranks = torch.empty_like(places)
    ranks[places.argsort(stable=True)] = torch.arange(len(places), device=places.device)
    return Binned(torch.bucketize(ranks, starts, right=True), (values - mean_hits)[places], bins)


def mean_gap(binned: Binned) -> float:
    """Return the sum over bins of |the sum of its examples' gaps|, per example."""
    sums = torch.bincount(binned.places, binned.gaps, binned.bins)
    return (sums.abs().sum() / len(binned.gaps)).item()


@dataclass(frozen=True)
class Scores:
    """The scores of predictions, each a mean over the examples; `nll` in nats, calibration errors from 0 to 1."""

    accuracy: float
    nll: float
    brier: float
    ece: float
    adaptive_ece: float
    classwise_ece: float


def score(log_probabilities: Tensor, targets: Tensor, bins: int = 15) -> Scores:
    """Return all scores of predictions.

    Args:
        log_probabilities: shape (examples, classes).
        targets: the right classes, shape (examples,).
        bins: of the calibration errors.

    Raises:
        ValueError: for a wrong shape, type or value, or fewer bins than one.
    """
    logs = checked(log_probabilities, targets)
    return Scores(
        accuracy=correct(logs, targets).double().mean().item(),
        nll=nll(logs, targets).mean().item(),
        brier=brier(logs, targets).mean().item(),
        ece=calibration_error(logs, targets, bins=bins),
        adaptive_ece=calibration_error(logs, targets, bins=bins, kind="adaptive"),
        classwise_ece=calibration_error(logs, targets, bins=bins, kind="classwise"),
    )
