"""One step at other rates: for a batch that weighs more or less than usual, whatever the optimizer and its schedules.

with rate_scaled(optimizer, len(sequence) / usual_length):
    optimizer.step()
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from descend.optimizer import Optimizer
from descend.schedules.arguments import positive

_OF_ASGD = {"lambd", "alpha", "t0"}


@contextmanager
def rate_scaled(optimizer: torch.optim.Optimizer, share: float) -> Iterator[None]:
    """Multiply the rates of every group for the one step that is taken inside, and put them back.

    Schedules go on as ever. ASGD keeps the rate of its next step as state, so that a rate written into a group counts
    one step late; here it is in time. Rprop reads its rate at the first step alone.

    Args:
        optimizer: torch's, ours, or any other with its rates under `lr` in the groups.
        share: what to multiply them by, such as length / usual length for sequences that vary (Merity, Keskar & Socher
            2018, arXiv:1708.02182, section 4.1).

    Raises:
        ValueError: the share is not above 0.
        TypeError: a group has no `lr`.
    """
    share = positive("share", share)
    groups = optimizer.param_groups
    if missing := [i for i, group in enumerate(groups) if "lr" not in group]:
        raise TypeError(f"optimizer's group {missing[0]} has no 'lr' to multiply; give one whose groups have a rate")
    driven = _driven(optimizer)
    before = [_kept(group["lr"]) for group in groups]
    clock = _clock(optimizer)
    for i, rate in enumerate(before):
        _put(optimizer, i, share * rate, by_schedule=i in driven)
    _scale_next_rates(groups, optimizer.state, share)
    try:
        yield
    finally:
        is_stepped = _clock(optimizer) != clock
        for i, rate in enumerate(before):
            if i not in driven or not is_stepped:  # else the step has put in force what its schedule says
                _put(optimizer, i, rate, by_schedule=i in driven)
        _restore_next_rates(groups, optimizer.state, before)


def _driven(optimizer: torch.optim.Optimizer) -> set[int]:
    """The groups whose rate a schedule of ours drives."""
    if not isinstance(optimizer, Optimizer):
        return set()
    keys = optimizer._schedules.settle(optimizer.param_groups, optimizer.applied_steps)
    return {i for i, name in keys if name == "lr"}


def _clock(optimizer: torch.optim.Optimizer) -> int:
    return optimizer.applied_steps if isinstance(optimizer, Optimizer) else 0


def _kept(rate: Any) -> Any:
    """The rate, as it stays when a tensor in the group is written into."""
    return rate.clone() if _is_written_into(rate) else rate


def _is_written_into(rate: Any) -> bool:
    """Whether a new number goes into this very tensor, which a captured graph may read; not where gradients flow."""
    return isinstance(rate, Tensor) and not rate.requires_grad


def _put(optimizer: torch.optim.Optimizer, i: int, rate: Any, *, by_schedule: bool) -> None:
    group = optimizer.param_groups[i]
    if by_schedule and isinstance(optimizer, Optimizer):  # so that it is not taken for a foreign number
        optimizer._schedules.put(optimizer.param_groups, {(i, "lr"): rate})
    elif _is_written_into(group["lr"]):
        group["lr"].copy_(rate)
    else:
        group["lr"] = rate


def _scale_next_rates(groups: list[dict[str, Any]], state: Any, share: float) -> None:
    for group in groups:
        for own in _states_of_asgd(group, state):
            own["eta"].mul_(share)


def _restore_next_rates(groups: list[dict[str, Any]], state: Any, rates: list[Any]) -> None:
    """Write what ASGD's formula gives for the next step at the rates that were not scaled."""
    for group, rate in zip(groups, rates, strict=True):
        for own in _states_of_asgd(group, state):
            decay = (1 + group["lambd"] * float(rate) * float(own["step"])) ** group["alpha"]
            own["eta"].fill_(float(rate) / decay)


def _states_of_asgd(group: dict[str, Any], state: Any) -> list[dict[str, Any]]:
    if not group.keys() >= _OF_ASGD:
        return []
    return [state[p] for p in group["params"] if "eta" in state.get(p, {})]
