"""An optimizer's state: made at the first step, checked before every step, counted after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from descend.backends.eager import EXACT_IN_FLOAT32
from descend.backends.storage import first_value, scalar_dtype
from descend.rule import Formula, Rule

FORMAT: Final = 1
"""The version of what param groups and state hold, saved as `state_format` in every group; torch's has none.

1: `applied_steps` in every group, `rule` in groups with a rule of their own, slots under their keys.
"""


def missing_entries(
    rule: Rule, formula: Formula, param: Tensor, state: Mapping[str, Any], group: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The entries that `state` lacks for a step of `formula`; slots whose first value the formula gives stay absent."""
    entries: dict[str, Tensor] = {}
    device = param.device if group["capturable"] else torch.device("cpu")
    if rule.counts_steps and "step" not in state:
        entries["step"] = torch.zeros((), dtype=scalar_dtype(), device=device)
    for name, slot in formula.slots.items():
        if slot.key in state or slot.is_shared or name in formula.asks_fresh:
            continue
        entries[slot.key] = first_value(slot, param, group)
        if slot.shape == "scalar":
            entries[slot.key] = entries[slot.key].to(device)
    return entries


def moved_entries(formula: Formula, param: Tensor, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """What of the state stands on another device than its parameter, which was moved, on the parameter's.

    Raises:
        RuntimeError: where the values would be lost: one of the two is on meta.
    """
    moved: dict[str, Tensor] = {}
    for slot in formula.slots.values():
        entry = state.get(slot.key)
        if slot.shape == "like" and entry is not None and entry.device != param.device:
            if entry.is_meta or param.is_meta:
                raise RuntimeError(
                    f"state[{slot.key!r}] is on {entry.device} and its parameter on {param.device}, where there are no "
                    "values; load the state dict after the parameters have been given memory"
                )
            moved[slot.key] = entry.to(param.device)
    return moved


def check_entries(formula: Formula, param: Tensor, state: Mapping[str, Any]) -> None:
    """Refuse what a step could not be written into.

    Raises:
        RuntimeError: for a parameter whose elements share memory, or an entry that is no tensor of the slot's shape.
    """
    if torch._debug_has_internal_overlap(param) == 1:
        raise RuntimeError(
            "unsupported operation: more than one element of the written-to tensor refers to a single memory location. "
            "Please clone() the parameter before it is given to the optimizer"
        )
    for slot in formula.slots.values():
        entry = state.get(slot.key)
        shape = param.shape if slot.shape == "like" else ()
        if slot.key in state and not (isinstance(entry, Tensor) and entry.shape == shape):
            found = tuple(entry.shape) if isinstance(entry, Tensor) else repr(entry)
            raise RuntimeError(
                f"state[{slot.key!r}] of a parameter of shape {tuple(param.shape)} is {found}; put a tensor of shape "
                f"{tuple(shape)} there, or delete the entry, and the step makes it anew"
            )


def stored_types(formula: Formula, state: Mapping[str, Any]) -> tuple[torch.dtype, ...]:
    """The types in which a parameter's slots are stored: what steps together has the same."""
    return tuple(state[slot.key].dtype for slot in formula.slots.values() if not slot.is_shared and slot.key in state)


def advance_steps(steps: list[Tensor], t: int | None) -> list[Tensor]:
    """Step counts after step `t`, in place while float32 holds them exactly.

    Where they stay on a device (None) they are added to there, and end at 2^24 in float32, as torch's.
    """
    if t is None:
        torch._foreach_add_(steps, 1)
        return steps
    if t >= EXACT_IN_FLOAT32:
        steps = [step.double() for step in steps]
    for step in steps:
        step.fill_(t)
    return steps


def shared_slots(rule: Rule, numbers: Mapping[str, Any], alike: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The slots that exist once per optimizer, as a new param group holds them: a number, or a list for a window.

    Args:
        rule: what steps the group.
        numbers: its hyper-parameters, for first values.
        alike: groups of the rule that are there already, which hold the values.
    """
    values: dict[str, Any] = {}
    for slot in rule.slots.values():
        if slot.is_shared:
            first = numbers[slot.init] if isinstance(slot.init, str) else slot.init
            values[slot.key] = [] if slot.is_window else float(first)
            if alike and slot.key in alike[0]:
                values[slot.key] = alike[0][slot.key]
    return values


def read_shared(rule: Rule, group: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the slots that exist once per optimizer, by name: a number, or a tuple for a window.

    Raises:
        RuntimeError: for a group that holds something else.
    """
    values: dict[str, Any] = {}
    for name, slot in rule.slots.items():
        if slot.is_shared:
            held = group[slot.key]
            try:
                values[name] = tuple(map(np.float64, held)) if slot.is_window else np.float64(held)
            except (TypeError, ValueError):
                kind = "a list of numbers" if slot.is_window else "a number"
                raise RuntimeError(
                    f"group[{slot.key!r}] is {held!r}, and rule {rule.name!r} keeps {kind} there; put it back"
                ) from None
    return values


def write_shared(rule: Rule, groups: Sequence[dict[str, Any]], values: Mapping[str, Any]) -> None:
    """Enter new values of slots that exist once per optimizer into all groups of the rule, as plain numbers."""
    for name, value in values.items():
        slot = rule.slots[name]
        for group in groups:
            group[slot.key] = [float(x) for x in value] if slot.is_window else float(value)
