"""What needs the metric is no function of the step: `ReduceOnPlateau`, `AnnealingRestarts`, called after evaluations.

    plateau = descend.plateau.ReduceOnPlateau(optimizer, factor=0.5, patience=5)
    for epoch in range(epochs):
        train(model, optimizer)
        plateau.step(validation_loss(model))

Both multiply the rate, whether a number or a schedule drives it, and are saved and resumed by `state_dict` and
`load_state_dict`, as torch's schedulers are.
"""

from __future__ import annotations

import copy
import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from descend.optimizer import Optimizer
from descend.restoring import check_pair
from descend.schedules import Schedule
from descend.schedules.arguments import at_least_0, below_1, share, whole

Mode = Literal["min", "max"]


class _Rate:
    """The rates of an optimizer's groups, numbers or schedules, times a factor that falls.

    A number stands in the group, so that the optimizer's state dict carries it scaled; a schedule does not, and is
    scaled anew when the factor is loaded. What drives a rate is read at each fall, as somebody may have replaced it.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"optimizer is {type(optimizer).__name__}; give one of torch's kind")
        self._optimizer, self.scale = optimizer, 1.0
        self._put: dict[int, tuple[Schedule, Schedule, float]] = {}  # by group: what is in force, unscaled, and times

    def multiply(self, factor: float) -> None:
        """Multiply every group's rate."""
        self.scale *= factor
        for i, group in enumerate(self._optimizer.param_groups):
            if self._driving(i) is not None:
                unscaled, times = self._origin(i)
                self._drive(i, unscaled, times * factor)
                continue
            if isinstance(group["lr"], Tensor):
                group["lr"].mul_(factor)
            else:
                group["lr"] *= factor
            if "initial_lr" in group:  # from which `schedules.to_torch` computes the rate anew
                group["initial_lr"] = group["initial_lr"] * factor

    def load(self, scale: float) -> None:
        """Take a saved factor over."""
        self.scale = scale
        for i in range(len(self._optimizer.param_groups)):
            if self._driving(i) is not None:
                self._drive(i, self._origin(i)[0], scale)

    def _driving(self, group: int) -> Schedule | None:
        driving = self._optimizer._schedules[group].get("lr") if isinstance(self._optimizer, Optimizer) else None
        return driving if isinstance(driving, Schedule) else None

    def _origin(self, group: int) -> tuple[Schedule, float]:
        """The schedule in force without our factor, and the factor; another's schedule has none of ours."""
        driving = self._driving(group)
        assert driving is not None
        ours, unscaled, times = self._put.get(group, (None, driving, 1.0))
        return (unscaled, times) if driving is ours else (driving, 1.0)

    def _drive(self, group: int, unscaled: Schedule, times: float) -> None:
        assert isinstance(self._optimizer, Optimizer)
        scaled = times * unscaled
        self._put[group] = scaled, unscaled, times
        self._optimizer.set_schedule("lr", scaled, group=group)


class _Best:
    """The best metric so far, and how many evaluations have not bettered it."""

    def __init__(self, mode: Mode, threshold: float) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"mode is {mode!r}; choose 'min' or 'max'")
        self._mode, self._threshold = mode, at_least_0("threshold", threshold)
        self.metric: float | None = None
        self.waited = 0

    def take(self, metric: float) -> bool:
        """Note a metric, and tell whether it is better by more than the threshold; NaN never is."""
        number = _number(metric)
        better = self._is_better(number)
        if better:
            self.metric = number
        self.waited = 0 if better else self.waited + 1
        return better

    def _is_better(self, metric: float) -> bool:
        if self.metric is None:
            return not math.isnan(metric)
        gain = self.metric - metric if self._mode == "min" else metric - self.metric
        # After an infinite one, of a run that diverged at once, any that is finite is better by more than a share.
        return gain > (self._threshold * abs(self.metric) if math.isfinite(self.metric) else 0.0)


class _OnPlateau:
    """What both callbacks know: the rate's factor, the best metric and how long it has stood."""

    def __init__(self, optimizer: torch.optim.Optimizer, mode: Mode, threshold: float) -> None:
        self._rate, self._best = _Rate(optimizer), _Best(mode, threshold)

    @property
    def scale(self) -> float:
        """What the first rate is multiplied by."""
        return self._rate.scale

    def state_dict(self) -> dict[str, Any]:
        """Return what it knows."""
        return {"scale": self._rate.scale, "best": self._best.metric, "waited": self._best.waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a saved state over; load the model's and the optimizer's as well, in any order.

        Raises:
            ValueError: an entry is missing; nothing has changed then.
        """
        if missing := sorted(set(self.state_dict()) - set(state_dict)):
            raise ValueError(f"the state lacks {', '.join(missing)}; give what state_dict() returned")
        self._best.metric, self._best.waited = state_dict["best"], state_dict["waited"]
        self._rate.load(state_dict["scale"])


class ReduceOnPlateau(_OnPlateau):
    """Multiply the rate by a factor when the metric has stopped getting better.

    torch's ReduceLROnPlateau with a relative threshold, for rates under a schedule too: the schedule goes on, scaled.
    As there, the rate falls at the evaluation that is the (patience + 1)-th without a better one; torch's `eps`, below
    which a fall is left out, is not here.

    Args:
        optimizer: of any kind of torch's.
        factor: between 0 and 1.
        patience: evaluations without a better one that are waited through, 0 or more.
        mode: "min" for a loss, "max" for an accuracy.
        threshold: by what share of itself a metric must be bettered.
        cooldown: evaluations after a fall that do not count.
        floor: the least share of the first rate that is left; a fall below it stops there.

    Raises:
        TypeError, ValueError: an argument makes no sense.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        factor: float = 0.1,
        patience: int = 10,
        mode: Mode = "min",
        threshold: float = 1e-4,
        cooldown: int = 0,
        floor: float = 0.0,
    ) -> None:
        self._factor, self._patience = share("factor", factor), whole("patience", patience, least=0)
        self._cooldown, self._floor = whole("cooldown", cooldown, least=0), below_1("floor", floor)
        super().__init__(optimizer, mode, threshold)
        self._cooling = 0

    def step(self, metric: float) -> bool:
        """Note a metric, and reduce the rate if it is due; return whether it was."""
        self._best.take(metric)
        if self._cooling > 0:
            self._cooling -= 1
            self._best.waited = 0
        if self._best.waited <= self._patience:
            return False
        self._best.waited, self._cooling = 0, self._cooldown
        factor = max(self._factor, self._floor / self._rate.scale)
        if factor >= 1:
            return False
        self._rate.multiply(factor)
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return what it knows, as plain numbers."""
        return {**super().state_dict(), "cooling": self._cooling}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a saved state over; load the optimizer's as well, in any order.

        Raises:
            ValueError: an entry is missing; nothing has changed then.
        """
        super().load_state_dict(state_dict)
        self._cooling = state_dict["cooling"]


class AnnealingRestarts(_OnPlateau):
    """Go back to the best weights, start the optimizer's state anew and lower the rate when the metric gets no better.

    Denkowski & Neubig 2017, arXiv:1706.09733, section 2.1, as their toolkit does it: Adam annealed as SGD is, by
    restarts that the metric triggers and no cosine. When `patience` evaluations in a row bring no new best, the weights
    go back to the best ones, moments and step counts are forgotten and the rate is multiplied by `factor`; when that is
    due once more after all `restarts`, training is to end, at the best weights.

    Args:
        model: whose weights and buffers are kept and put back.
        optimizer: of its parameters.
        factor: between 0 and 1.
        patience: evaluations without a new best, 1 or more.
        restarts: how many, 0 or more; 2 in the paper.
        mode: "min" for a loss, "max" for BLEU or an accuracy.

    Raises:
        TypeError, ValueError: an argument makes no sense.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        factor: float = 0.5,
        patience: int = 5,
        restarts: int = 2,
        mode: Mode = "min",
    ) -> None:
        self._factor, self._patience = share("factor", factor), whole("patience", patience)
        self._restarts = whole("restarts", restarts, least=0)
        check_pair(model, optimizer)
        self._model, self._optimizer = model, optimizer
        super().__init__(optimizer, mode, threshold=0.0)
        self._weights: dict[str, Any] | None = None
        self._done = 0
        self.finished = False
        """Whether training is to end."""

    def step(self, metric: float) -> bool:
        """Note a metric, and restart if it is due; return whether it was. At the end the best weights are put back."""
        if self.finished:
            return False
        if self._best.take(metric):
            self._weights = copy.deepcopy(self._model.state_dict())
        if self._best.waited < self._patience:
            return False
        self._best.waited = 0
        if self._weights is not None:
            self._model.load_state_dict(self._weights)
        if self._done == self._restarts:
            self.finished = True
            return False
        self._done += 1
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": {}})
        self._rate.multiply(self._factor)
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return what it knows: plain numbers, and the best weights, which are not copied."""
        return {**super().state_dict(), "done": self._done, "finished": self.finished, "weights": self._weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a saved state over; load the model's and the optimizer's as well, in any order.

        Raises:
            ValueError: an entry is missing; nothing has changed then.
        """
        super().load_state_dict(state_dict)
        self._done, self.finished = state_dict["done"], state_dict["finished"]
        self._weights = copy.deepcopy(state_dict["weights"])


def _number(metric: Any) -> float:
    try:
        if not isinstance(metric, str):
            return float(metric)
    except (TypeError, ValueError, RuntimeError):
        pass
    raise TypeError(f"metric is {metric!r}; give a number, or a tensor that holds one")
