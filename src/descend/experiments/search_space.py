"""What a comparison tunes, declared as data: for each optimizer the peak rate that centres its grid, and what is fixed.

An optimizer without an entry, and a rule of the user's, is taken at its own defaults, its default rate at the centre.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from descend import groups, optim, rules
from descend.experiments.errors import UsageError
from descend.rule import Rule
from descend.schedules import Schedule, cosine, warmup

HALF_DECADE = 0.5
WARM_UP_SHARE = 10
"""The warm-up takes one step in ten."""
WIDEST_GRID = 3.0
"""Decades that a grid spans at most; more rates than fit at half-decade spacing lie closer together."""


@dataclass(frozen=True)
class Space:
    """Where an optimizer's peak rate is searched, and the hyper-parameters at which it is.

    Attributes:
        rate: the known default peak rate, the middle of the grid.
        fixed: hyper-parameters that differ from the rule's own defaults.
        scheduled: the hyper-parameter that follows the schedule; None where the rate is only the first step size, or
            where the rule sets it.
        tunes_itself: whether the rule sets its rate, so that there is none to search.
        of_matrices: whether the rule steps matrices only, so that AdamW steps the rest, at the same rate.
    """

    rate: float
    fixed: Mapping[str, Any] = field(default_factory=dict)
    scheduled: str | None = "lr"
    tunes_itself: bool = False
    of_matrices: bool = False


DECLARED = {
    "sgd": Space(0.1, {"momentum": 0.9}),  # with momentum: the usual baseline of image classification
    "sgdw": Space(0.1, {"momentum": 0.9}),
    "sgdwpaper": Space(0.1, {"momentum": 0.9}, scheduled="eta"),
    "adamwpaper": Space(1e-3, scheduled="eta"),
    "rprop": Space(1e-2, scheduled=None),
    "asgd": Space(0.1),
    "powersign": Space(0.1),  # TensorFlow's; ours is one at which nothing diverges
    "addsign": Space(0.1),
    "yellowfin": Space(1.0, scheduled=None, tunes_itself=True),
    # with steps as long as AdamW's, which has the rest
    "muon": Space(1e-3, {"adjust_lr_fn": "match_rms_adamw", "weight_decay": 0.01}, of_matrices=True),
    "rmsprop": Space(1e-3),  # Hinton's lecture and most practice; torch's 1e-2 is seldom kept
}


def schedule(steps: int) -> Schedule:
    """Return the shape that every optimizer's rate follows: warm-up, then cosine to 0 at the end of the budget."""
    rising = max(1, steps // WARM_UP_SHARE)
    return warmup(rising) >> cosine(steps - rising)


def space(optimizer: str | Rule) -> Space:
    """Return an optimizer's search space: the declared one, else its own defaults.

    Raises:
        UsageError: the rule is one of the user's, and has no rate.
    """
    if (declared := _declared(optimizer)) is not None:
        return declared
    rule = _rule(optimizer)
    rate = rule.hyper_parameters.get("lr")
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < math.inf:
        raise UsageError(
            f"rule {rule.name!r} has no rate to tune; declare a hyper-parameter lr=... behind `*` whose default, above "
            "0, is the middle of its grid"
        )
    return Space(rate)


def tunes_itself(optimizer: str | Rule) -> bool:
    """Return whether a rule sets its rate, so that there is none to search."""
    declared = _declared(optimizer)
    return declared is not None and declared.tunes_itself


def is_of_matrices(optimizer: str | Rule) -> bool:
    """Return whether a rule steps matrices only, so that AdamW steps the rest."""
    declared = _declared(optimizer)
    return declared is not None and declared.of_matrices


def params(optimizer: str | Rule, model: nn.Module) -> Iterable[Any]:
    """Return a model's parameters as an optimizer takes them."""
    return groups.matrices(model) if is_of_matrices(optimizer) else model.parameters()


def hyper_parameters(optimizer: str | Rule) -> dict[str, Any]:
    """Return all hyper-parameters at which an optimizer is compared, those excepted that are tuned or scheduled."""
    defaults = _rule(optimizer).hyper_parameters
    varied = ("lr", space(optimizer).scheduled)
    return {name: value for name, value in {**defaults, **space(optimizer).fixed}.items() if name not in varied}


def arguments(
    optimizer: str | Rule, rate: float, shape: Schedule, values: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Return the arguments that make an optimizer.

    Args:
        optimizer: the rule, or its name.
        rate: its peak rate.
        shape: of the schedule that the rate follows.
        values: of hyper-parameters that are tuned beside the rate; they replace what is fixed.
    """
    chosen = space(optimizer)
    fixed = {**chosen.fixed, **(values or {})}
    if chosen.scheduled == "lr":
        return {**fixed, "lr": rate * shape}
    return {**fixed, "lr": rate} | ({chosen.scheduled: shape} if chosen.scheduled else {})


def tunable(optimizer: str | Rule) -> list[str]:
    """Return the hyper-parameters that can be tuned beside the rate: those that are one number."""
    listed = hyper_parameters(optimizer).items()
    return [name for name, value in listed if isinstance(value, (int, float)) and not isinstance(value, bool)]


def rates(optimizer: str | Rule, count: int) -> list[float]:
    """Return `count` log-spaced peak rates around the known default, rising, rounded to three digits.

    Half a decade apart up to seven of them; beyond that they share `WIDEST_GRID` decades. A rule that tunes itself has
    one.
    """
    if tunes_itself(optimizer):
        return [space(optimizer).rate]
    width = min(HALF_DECADE * (count - 1), WIDEST_GRID)
    decades = np.linspace(-width / 2, width / 2, count)
    return [float(f"{space(optimizer).rate * 10.0**decade:.3g}") for decade in decades]


def _rule(optimizer: str | Rule) -> Rule:
    return optimizer if isinstance(optimizer, Rule) else optim.by_name(optimizer).rule


def _declared(optimizer: str | Rule) -> Space | None:
    """What is declared of one of ours, and never of a rule of the user's that has its name."""
    if isinstance(optimizer, Rule):
        return DECLARED.get(optimizer.name) if rules.catalog().get(optimizer.name) is optimizer else None
    return DECLARED.get(optimizer)
