"""NT-ASGD: plain SGD until the validation loss stops falling, then averaged SGD from there on, at the same rate.

    averaging = NTASGD(descend.SGD(model.parameters(), lr=30.0, clip_norm=0.25))
    for epoch in range(epochs):
        train(model, averaging)                      # averaging.zero_grad(), averaging.step()
        with averaging.averaged():                   # the average, once there is one
            loss = validation_loss(model)
        averaging.note(loss)

Merity, Keskar & Socher 2018, arXiv:1708.02182, algorithm 1. A rule that knows when to start is no formula: it reads the
validation loss. The steps are: those of SGD, and from the trigger on those of ASGD with lambd = 0 and t0 = 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch

from descend import optim, options
from descend.optimizer import Optimizer
from descend.rate_scaling import rate_scaled
from descend.schedules.arguments import whole
from descend.sequences import sequence_lengths

__all__ = ["NTASGD", "sequence_lengths"]


class NTASGD:
    """Steps by SGD, and from the trigger on by ASGD; `optimizer` is the one in force.

    The trigger, as in the authors' code: after an evaluation, there are more than n earlier losses, and this one is
    above the least of them, the last n left out. It fires once. torch's ASGD, and ours, begin their average with the
    second iterate after the trigger.

    Args:
        optimizer: SGD without momentum, torch's or ours; its rates, schedules, decays and options are taken over.
        n: losses that are left out; 5 in the paper.

    Raises:
        TypeError: the optimizer is no SGD.
        ValueError: it has momentum or an average of its own, or n is below 1.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, n: int = 5) -> None:
        if not _is_sgd(optimizer):
            raise TypeError(f"optimizer is {type(optimizer).__name__}; give SGD, torch's or descend's")
        if isinstance(optimizer, Optimizer) and optimizer.options.ema_decay is not None:
            raise ValueError("optimizer keeps an average of its own; build SGD without ema_decay")
        if any(group["momentum"] != 0 for group in optimizer.param_groups):
            raise ValueError("optimizer has momentum, and ASGD has none; build SGD with momentum=0")
        self.optimizer = optimizer
        self.triggered = False
        """Whether the average is being taken."""
        self._n = whole("n", n)
        self._losses: list[float] = []

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As the optimizer's."""
        self.optimizer.zero_grad(set_to_none)

    def step(self) -> None:
        """Take a step with the optimizer in force."""
        self.optimizer.step()

    def note(self, loss: float) -> bool:
        """Note a validation loss, and switch if it is due; return whether it was. A loss that is NaN never triggers."""
        number = float(loss)
        earlier = [known for known in self._losses[: -self._n] if not math.isnan(known)]
        due = not self.triggered and bool(earlier) and number > min(earlier)
        self._losses.append(number)
        if due:
            self._switch()
        return due

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averages of the weights in their place while they are evaluated; before the trigger do nothing."""
        if not self.triggered:
            yield
            return
        params = [param for group in self.optimizer.param_groups for param in group["params"]]
        with options.averaged(params, self.optimizer.state, key="ax"):
            yield

    @contextmanager
    def rate_scaled(self, share: float) -> Iterator[None]:
        """Multiply the rates for the step that is taken inside: for sequences of another length, length / usual length.

        `descend.rate_scaling.rate_scaled` on the optimizer in force; what it says of ASGD holds after the trigger.

        Raises:
            ValueError: the share is not above 0.
        """
        with rate_scaled(self.optimizer, share):
            yield

    def state_dict(self) -> dict[str, Any]:
        """Return what it knows, as plain numbers; the optimizer's state is not in it."""
        return {"losses": list(self._losses), "triggered": self.triggered}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a saved state over, and switch if it had; then load `optimizer`.

        Raises:
            ValueError: an entry is missing, or the state is from before a trigger that has happened here.
        """
        if missing := sorted({"losses", "triggered"} - set(state_dict)):
            raise ValueError(f"the state lacks {', '.join(missing)}; give what state_dict() returned")
        if self.triggered and not state_dict["triggered"]:
            raise ValueError(
                "the state is from before the trigger, which has happened here; build NTASGD anew with SGD"
            )
        self._losses = [float(loss) for loss in state_dict["losses"]]
        if state_dict["triggered"] and not self.triggered:
            self._switch()

    def _switch(self) -> None:
        old = self.optimizer
        groups = []
        for i, group in enumerate(old.param_groups):
            names = group.get("param_names")
            params = list(zip(names, group["params"], strict=True)) if names else group["params"]
            kept = {name: group[name] for name in ("weight_decay", "maximize")}
            groups.append({"params": params, "lr": self._rate(i), **kept})
        ours = {**asdict(old.options), "step": old.applied_steps} if isinstance(old, Optimizer) else {}
        self.optimizer = optim.by_name("asgd")(groups, lambd=0.0, t0=0, **ours)
        self.triggered = True

    def _rate(self, group: int) -> Any:
        """The schedule, or the number, that drives a group's rate."""
        number = self.optimizer.param_groups[group]["lr"]
        return self.optimizer._schedules[group].get("lr", number) if isinstance(self.optimizer, Optimizer) else number


def _is_sgd(optimizer: object) -> bool:
    if isinstance(optimizer, Optimizer):
        return all(rule.name == "sgd" for rule in optimizer._rules)
    return isinstance(optimizer, torch.optim.SGD)
