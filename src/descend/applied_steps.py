"""Counting the updates that an optimizer applied, whatever optimizer it is."""

from __future__ import annotations

from typing import Any

import torch

from descend.optimizer import Optimizer


class AppliedSteps:
    """How many updates an optimizer has applied; one that a gradient scaler skips is none.

    Args:
        optimizer: descend's know it themselves; the steps of others are counted from now on.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._counted = 0
        self._hook = None if isinstance(optimizer, Optimizer) else optimizer.register_step_post_hook(self._note)

    @property
    def count(self) -> int:
        """The number of updates."""
        return self._optimizer.applied_steps if isinstance(self._optimizer, Optimizer) else self._counted

    def go_on_from(self, count: int) -> None:
        """Count from a number that was reached before; descend's optimizers load theirs with their state."""
        self._counted = count

    def close(self) -> None:
        """Stop counting."""
        if self._hook is not None:
            self._hook.remove()

    def _note(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        found_inf = getattr(optimizer, "found_inf", None)  # of a scaler that leaves the skipping to a fused step
        if found_inf is None or not found_inf.item():
            self._counted += 1
