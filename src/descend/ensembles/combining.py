"""What averaging predictions means: softmax outputs for classes, the outputs themselves for values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

Average = Literal["softmax", "mean"]
"""How outputs are averaged: "softmax" the probabilities of scores, "mean" the outputs as they are."""


def check_average(average: str) -> None:
    """Refuse another word than those of `Average`.

    Raises:
        ValueError: says which there are.
    """
    if average not in get_args(Average):
        raise ValueError(f"average is {average!r}; give 'softmax' for scores of classes, or 'mean' for values")


def check_members(members: object) -> None:
    """Refuse one state in place of several, and none.

    Raises:
        ValueError: says what to give.
    """
    if isinstance(members, Mapping):
        raise ValueError("members is one state dict; give a list of them, one for each member")
    if not hasattr(members, "__len__") or len(members) == 0:
        raise ValueError(f"members is {members!r}; give a list of the state dicts of one model or more")


def check_state(state: object) -> None:
    """Refuse a member that is no state dict.

    Raises:
        ValueError: says what to give.
    """
    if not isinstance(state, Mapping):
        raise ValueError(f"a member is a {type(state).__name__}; give state dicts, such as model.state_dict()")


def member_output(output: object, average: Average, dim: int) -> Tensor:
    """Return what one member adds to the average, in float32 at least: probabilities, or its output.

    Raises:
        TypeError: the model gave something other than one tensor.
    """
    if not isinstance(output, Tensor):
        raise TypeError(
            f"the model gave a {type(output).__name__}; an ensemble averages one tensor: give forward, a function of "
            "model and batch that returns it"
        )
    wide = output.to(torch.promote_types(output.dtype, torch.float32))
    return torch.softmax(wide, dim) if average == "softmax" else wide


def log_mean(log_probabilities: Iterable[Tensor]) -> Tensor:
    """Return the log of the mean of probabilities that are given by their logs, one tensor held beside the sum.

    Args:
        log_probabilities: of the members, all of one shape; at least one.

    Raises:
        ValueError: there is none.
    """
    total, count = None, 0
    for one in log_probabilities:
        total = one if total is None else torch.logaddexp(total, one)
        count += 1
    if total is None:
        raise ValueError("no member to average; give one or more")
    return total - math.log(count)
