"""What a comparison tunes, declared as data: for each optimizer the peak rate that centres its grid, and what is fixed.

An optimizer without an entry is taken at its own defaults, its default rate at the centre.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from descend import optim
from descend.schedules import Schedule

HALF_DECADE = 0.5
WIDEST_GRID = 3.0
"""Decades that a grid spans at most; more rates than fit at half-decade spacing lie closer together."""


@dataclass(frozen=True)
class Space:
    """Where an optimizer's peak rate is searched, and the hyper-parameters at which it is.

    Attributes:
        rate: the known default peak rate, the middle of the grid.
        fixed: hyper-parameters that differ from the rule's own defaults.
        scheduled: the hyper-parameter that follows the schedule; None where the rate is only the first step size.
    """

    rate: float
    fixed: Mapping[str, Any] = field(default_factory=dict)
    scheduled: str | None = "lr"


DECLARED = {
    "sgd": Space(0.1, {"momentum": 0.9}),  # with momentum: the usual baseline of image classification
    "sgdw": Space(0.1, {"momentum": 0.9}),
    "sgdwpaper": Space(0.1, {"momentum": 0.9}, scheduled="eta"),
    "adamwpaper": Space(1e-3, scheduled="eta"),
    "rprop": Space(1e-2, scheduled=None),
    "asgd": Space(0.1),
    "powersign": Space(0.1),  # TensorFlow's; ours is one at which nothing diverges
    "addsign": Space(0.1),
    "rmsprop": Space(1e-3),  # Hinton's lecture and most practice; torch's 1e-2 is seldom kept
}


def space(optimizer: str) -> Space:
    """Return an optimizer's search space: the declared one, else its own defaults."""
    if optimizer in DECLARED:
        return DECLARED[optimizer]
    return Space(optim.by_name(optimizer).rule.hyper_parameters["lr"])


def hyper_parameters(optimizer: str) -> dict[str, Any]:
    """Return all hyper-parameters at which an optimizer is compared, those excepted that are tuned or scheduled."""
    defaults = optim.by_name(optimizer).rule.hyper_parameters
    varied = ("lr", space(optimizer).scheduled)
    return {name: value for name, value in {**defaults, **space(optimizer).fixed}.items() if name not in varied}


def arguments(optimizer: str, rate: float, shape: Schedule) -> dict[str, Any]:
    """Return the arguments that make an optimizer: its peak rate, under a schedule of this shape, and what is fixed."""
    chosen = space(optimizer)
    if chosen.scheduled == "lr":
        return {**chosen.fixed, "lr": rate * shape}
    return {**chosen.fixed, "lr": rate} | ({chosen.scheduled: shape} if chosen.scheduled else {})


def rates(optimizer: str, count: int) -> list[float]:
    """Return `count` log-spaced peak rates around the known default, rising, rounded to three digits.

    Half a decade apart up to seven of them; beyond that they share `WIDEST_GRID` decades.
    """
    width = min(HALF_DECADE * (count - 1), WIDEST_GRID)
    decades = np.linspace(-width / 2, width / 2, count)
    return [float(f"{space(optimizer).rate * 10.0**decade:.3g}") for decade in decades]
