"""AdamWR and SGDWR: decoupled decay, warm restarts and normalised decay together, as published.

    optimizer = descend.presets.adamwr(model.parameters(), period=epochs(10, steps_per_epoch=391), mult=2)

Loshchilov & Hutter 2019, arXiv:1711.05101, algorithms 1 and 2 with appendix B. Rate and decay follow one multiplier,
eta; the decay is normalised to the length of each run; moments and momentum pass through a restart. The solutions that
the paper recommends are those at the ends of runs, where `optimizer.at_cycle_end` is true after a step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from descend import optim
from descend.schedules import Schedule, normalized_decay, warm_restarts
from descend.schedules.arguments import at_least_0, positive, whole

if TYPE_CHECKING:
    from torch.optim.optimizer import ParamsT

    from descend.optimizer import Optimizer


def adamwr(
    params: ParamsT, period: int, mult: float = 2, *, lr: float = 1e-3, weight_decay: float = 0.025, **arguments: Any
) -> Optimizer:
    """Return AdamW with warm restarts (AdamWR).

    Args:
        params: parameters, names with parameters, or param groups; a group's own decay is normalised as well.
        period: steps of the first run; the paper takes 1 to 10 % of the budget.
        mult: each run is so many times as long as the one before.
        lr: the rate at a restart.
        weight_decay: normalised; 0.025 and 0.05 served the paper on CIFAR-10 and ImageNet32x32 alike.
        arguments: others of `AdamWPaper`, such as betas.

    Raises:
        ValueError, TypeError: an argument makes no sense; the message names it.
    """
    restarts = _Restarts("adamwr", period, mult)
    return optim.by_name("adamwpaper")(**restarts.of(params, weight_decay), lr=lr, eta=restarts.eta, **arguments)


def sgdwr(
    params: ParamsT, period: int, mult: float = 2, *, lr: float = 0.05, weight_decay: float = 0.025, **arguments: Any
) -> Optimizer:
    """Return SGDW with momentum 0.9 and warm restarts (SGDWR).

    Args:
        params: parameters, names with parameters, or param groups; a group's own decay is normalised as well.
        period: steps of the first run.
        mult: each run is so many times as long as the one before.
        lr: the rate at a restart; 0.05 in the paper's runs.
        weight_decay: normalised.
        arguments: others of `SGDWPaper`, such as momentum.

    Raises:
        ValueError, TypeError: an argument makes no sense; the message names it.
    """
    restarts = _Restarts("sgdwr", period, mult)
    return optim.by_name("sgdwpaper")(**restarts.of(params, weight_decay), lr=lr, eta=restarts.eta, **arguments)


def torch_weight_decay(weight_decay: float, steps: int, lr: float) -> float:
    """Return the `weight_decay` of torch's AdamW that decays as much in each step as a normalised decay here.

    torch multiplies its decay by the rate in force, lr times the multiplier; the paper by the multiplier alone. 0.025
    over 100 epochs of CIFAR-10 in batches of 128, 39,062.5 steps, is 1.265e-4 per step at the peak, and at a rate of
    1e-3 that is torch's 0.126.

    Args:
        weight_decay: normalised.
        steps: of the run: epochs * examples / batch size.
        lr: the rate at its peak.

    Raises:
        ValueError: steps or rate are not above 0, or the decay is below it.
    """
    decay = at_least_0("torch_weight_decay: weight_decay", weight_decay)
    root = math.sqrt(positive("torch_weight_decay: steps", steps))
    return decay / root / positive("torch_weight_decay: lr", lr)


class _Restarts:
    """What both presets put in: eta, and decays normalised to the length of each run."""

    def __init__(self, name: str, period: int, mult: float) -> None:
        self._name, self.eta = name, warm_restarts(whole(f"{name}: period", period), mult=mult)
        self._per_run = normalized_decay(self.eta.period, mult=self.eta.mult)

    def of(self, params: ParamsT, weight_decay: Any) -> dict[str, Any]:
        """Parameters and decay as the optimizer takes them, each group's own decay normalised too."""
        several = isinstance(params, Iterable) and not isinstance(params, Tensor)
        groups = [self._group(given) for given in params] if several else params  # anything else is refused there
        return {"params": groups, "weight_decay": self._normalized(weight_decay)}

    def _group(self, given: Any) -> Any:
        if not isinstance(given, dict) or "weight_decay" not in given:
            return given
        return {**given, "weight_decay": self._normalized(given["weight_decay"])}

    def _normalized(self, decay: Any) -> Schedule:
        return (
            decay if isinstance(decay, Schedule) else at_least_0(f"{self._name}: weight_decay", decay)
        ) * self._per_run
