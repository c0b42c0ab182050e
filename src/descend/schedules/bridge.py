"""Schedules for code that insists on a scheduler of torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from descend.schedules.base import Schedule

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LambdaLR


def to_torch(schedule: Schedule, optimizer: Optimizer) -> LambdaLR:
    """Return a scheduler of torch that multiplies each group's rate by a schedule; call its `step()` after each update.

    schedule: a multiplier; `noam`, which is a rate, wants an optimizer made with lr=1. optimizer: any of torch's kind.
    The scheduler's state is its count of steps, which `state_dict()` saves; the schedule itself is not saved.

    It multiplies what stands in the group as `initial_lr`, so that `plateau.ReduceOnPlateau` holds beside it.

    TypeError if the first argument is no schedule.
    """
    from torch.optim.lr_scheduler import LambdaLR

    if not isinstance(schedule, Schedule):
        raise TypeError(f"to_torch: schedule must be a schedule; got {schedule!r}: for a number use constant()")

    def multiplier(steps: int) -> float:  # a plain function, as a scheduler's state would take in an object
        return schedule(steps)

    class FromInitialRates(LambdaLR):
        def get_lr(self) -> list[float | Tensor]:
            return [group["initial_lr"] * multiplier(self.last_epoch) for group in self.optimizer.param_groups]

    return FromInitialRates(optimizer, multiplier)
