"""What a unit knows of the classes: its selectivity, and its mutual information with them.

Morcos et al. 2018, arXiv:1803.06959, sections 2.4 and A.5. Both look at the mean activity over the positions of a unit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from descend.generalization.krylov import generator, whole
from descend.generalization.units import Activations, Layer


def class_selectivity(found: Activations) -> dict[str, Tensor]:
    """Return (mu_max - mu_rest) / (mu_max + mu_rest) of each unit, by layer.

    mu_max is the highest mean activity of a class, mu_rest the mean over the examples of all others; 0 for a unit that
    does the same for all classes, 1 for one that is silent for all but one. NaN where it is not defined: of dead units,
    and of those with a negative mean, as after tanh. (The paper does not say whether mu_rest weighs classes by their
    examples; so it does here.)

    Args:
        found: activations.

    Raises:
        ValueError: there is one class only.
    """
    classes = _classes(found)
    return {name: _selectivity(layer, classes) for name, layer in found.layers.items()}


def _selectivity(layer: Layer, classes: Tensor) -> Tensor:
    counts = classes.sum(0)
    totals = layer.activity.T @ classes  # (units, classes)
    means = totals / counts
    highest, place = means.max(1)
    others = (totals.sum(1) - totals.gather(1, place[:, None])[:, 0]) / (counts.sum() - counts[place])
    ratio = (highest - others) / (highest + others)
    return torch.where((means < 0).any(1) | layer.dead | (highest <= 0), torch.nan, ratio)


def mutual_information(found: Activations, *, bins: int = 100, shuffled: int | None = None) -> dict[str, Tensor]:
    """Return the mutual information of each unit's activity with the class, in nats, by layer.

    Activity is binned in equal widths between its least and its most, and probabilities are frequencies. With few
    examples per bin that finds information where there is none: compare with that of `shuffled` labels.

    Args:
        found: activations.
        bins: of the activity, 2 or more.
        shuffled: a seed, to give each example the label of another one first: what is found by chance.

    Raises:
        ValueError: an argument makes no sense, or there is one class only.
    """
    whole("bins", bins, 2)
    classes = _classes(found)
    if shuffled is not None:
        classes = classes[torch.randperm(len(classes), generator=generator(shuffled))]
    return {name: _information(layer.activity, classes, bins) for name, layer in found.layers.items()}


def _information(activity: Tensor, classes: Tensor, bins: int) -> Tensor:
    low, high = activity.amin(0), activity.amax(0)
    width = torch.where(high > low, high - low, 1.0)
    place = ((activity - low) / width * bins).long().clamp_max(bins - 1)  # (examples, units)
    units, count = activity.shape[1], classes.shape[1]
    joint = torch.zeros(bins, units, count, dtype=torch.float64)
    joint.scatter_add_(0, place[:, :, None].expand(-1, -1, count), classes[:, None, :].expand(-1, units, -1))
    joint /= len(activity)
    of_classes = _entropy(classes.mean(0)[:, None])
    return of_classes + _entropy(joint.sum(2)) - _entropy(joint.movedim(2, 1).reshape(-1, units))


def _entropy(shares: Tensor) -> Tensor:
    """Return the entropy of each column, in nats."""
    logarithms: Tensor = torch.special.xlogy(shares, shares)
    return -logarithms.sum(0)


def _classes(found: Activations) -> Tensor:
    """Return which class each example is of, as (examples, classes) of 0 and 1."""
    known, place = torch.unique(found.labels, return_inverse=True)
    if len(known) < 2:
        raise ValueError("all examples are of one class; give batches with several")
    return torch.nn.functional.one_hot(place, len(known)).double()
