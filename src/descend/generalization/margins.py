"""Margins of a classifier on its training examples: the output of the true class minus the largest other one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from descend.generalization.linear import Conditions
from descend.generalization.objective import Objective
from descend.model_states import run_on


@dataclass(frozen=True)
class Margin:
    """A low percentile of the margins.

    Attributes:
        value: of the outputs' unit; 0 or below where so many examples are misclassified.
        share: of the examples that have this margin or a smaller one.
        accuracy: share of the examples whose margin is above 0; a tie of two classes is an error.
        examples: number of margins, all that there are.
        conditions: what was measured.
    """

    value: float
    share: float
    accuracy: float
    examples: int
    conditions: Conditions


def margin(objective: Objective, share: float = 0.1) -> Margin:
    """Return a percentile of the margins, by default the 10th.

    Jiang et al. 2020, arXiv:1912.02178, equation 22 and the text before it. It is the smallest margin that at least
    this share of the examples does not exceed, so always one of an example's; the authors take the same where a tenth
    of the examples is a whole number.

    Args:
        objective: has the model and the batches, pairs of inputs and classes; its loss is not asked.
        share: above 0, at most 1.

    Raises:
        ValueError: an argument makes no sense, batches are no classification, or a margin is NaN.
    """
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
        raise ValueError(f"share is {share!r}; give a number above 0, up to 1, such as 0.1")
    found, conditions = margins(objective)
    if found.isnan().any():
        raise ValueError(f"{int(found.isnan().sum())} of {len(found)} margins are NaN; the model's outputs diverged")
    rank = math.ceil(share * len(found) - 1e-9)  # 0.1 * 30 is a little above 3
    value = float(found.kthvalue(max(1, rank)).values)
    return Margin(value, share, float((found > 0).double().mean()), len(found), conditions)


def margins(objective: Objective) -> tuple[Tensor, Conditions]:
    """Return the margin of each example, in float64, at the model's weights, and what was measured.

    Args:
        objective: has the model and the batches, pairs of inputs and classes; its loss is not asked.

    Raises:
        ValueError: batches are no classification.
        TypeError: they are no pairs, or outputs or classes are of the wrong kind.
    """
    found: list[Tensor] = []

    def mean(of_batch: Tensor) -> Tensor:
        found.append(of_batch.detach().to(objective.device, torch.float64))
        return of_batch.nan_to_num().mean() if len(of_batch) else of_batch.sum()

    asked = classifying(objective, mean)
    asked.value()
    return torch.cat(found), asked.conditions


def accuracy_of(objective: Objective) -> Objective:
    """Return the share of examples whose margin is above 0, as a function of the weights; NaN counts as an error."""
    return classifying(objective, lambda of_batch: (of_batch > 0).double().mean() if len(of_batch) else of_batch.sum())


def classifying(objective: Objective, summary: Callable[[Tensor], Tensor]) -> Objective:
    """Return an objective of the same model and batches whose loss is a summary of the margins of a batch.

    It weighs batches by their number of classes given, and has no weight decay.
    """

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return summary(_margins(run_on(model, batch), batch[1]))

    return objective.with_loss(loss, _classes_given)


def _classes_given(batch: Any) -> int:
    """Return the number of examples of a pair of inputs and classes, and refuse what is none."""
    if not isinstance(batch, Sequence) or len(batch) != 2 or not isinstance(batch[1], Tensor):
        raise TypeError(f"batches has a {type(batch).__name__} that is no pair of inputs and classes, two tensors")
    targets = batch[1]
    if targets.ndim != 1 or targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise ValueError(
            f"targets are {targets.dtype} of the shape {tuple(targets.shape)}; margins need one class, a whole number, "
            "for each example"
        )
    return len(targets)


def _margins(outputs: Any, targets: Tensor) -> Tensor:
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or outputs.shape[1] < 2 or len(outputs) != len(targets):
        shown = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ValueError(
            f"the model returns {shown} for {len(targets)} examples; margins need one output for each of 2 classes or "
            "more, (examples, classes)"
        )
    if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < outputs.shape[1]:
        raise ValueError(
            f"targets go from {int(targets.min())} to {int(targets.max())}, but the model has outputs for the classes "
            f"0 to {outputs.shape[1] - 1}"
        )
    places = targets.long().unsqueeze(1)
    others: Tensor = outputs.scatter(1, places, -math.inf).amax(1)
    return outputs.gather(1, places).squeeze(1) - others
