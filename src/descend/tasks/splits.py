"""Fixed splits of one data set, and standardisation by its training part."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

Splits = Mapping[str, tuple[Tensor, Tensor]]


def stratified_split(labels: Tensor, fractions: Mapping[str, float], seed: int) -> dict[str, Tensor]:
    """Divide examples among named splits so that every class has the same share in each.

    Args:
        labels: class of every example, shape (n,).
        fractions: share of each split, in order; they add up to 1.
        seed: draws the split; numpy's RandomState, whose stream never changes, makes it the same for ever.

    Returns:
        The indices of each split, in rising order; every example is in exactly one.

    Raises:
        ValueError: the fractions do not add up to 1.
    """
    if abs(sum(fractions.values()) - 1.0) > 1e-9 or min(fractions.values()) < 0:
        raise ValueError(f"fractions must be 0 or more and add up to 1, got {dict(fractions)}")
    random = np.random.RandomState(seed)
    ends = np.cumsum(list(fractions.values()))[:-1]
    parts: dict[str, list[np.ndarray]] = {name: [] for name in fractions}
    for label in np.unique(labels.numpy()):
        members = random.permutation(np.flatnonzero(labels.numpy() == label))
        cuts = np.rint(ends * len(members)).astype(int)
        for name, part in zip(fractions, np.split(members, cuts), strict=True):
            parts[name].append(part)
    return {name: torch.from_numpy(np.sort(np.concatenate(part))) for name, part in parts.items()}


def standardize(splits: Splits) -> dict[str, tuple[Tensor, Tensor]]:
    """Shift and scale the inputs so that the training part has mean 0 and standard deviation 1 per channel.

    A channel is dimension 1 (a feature of a table, a channel of an image); one that never changes is only shifted. The
    other splits are transformed with the training part's numbers.
    """
    train = splits["train"][0]
    other_dimensions = [d for d in range(train.ndim) if d != 1]
    mean = train.mean(other_dimensions, keepdim=True)
    deviation = train.std(other_dimensions, keepdim=True)
    deviation = torch.where(deviation > 0, deviation, 1.0)
    return {name: ((inputs - mean) / deviation, targets) for name, (inputs, targets) in splits.items()}
