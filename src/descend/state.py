"""An optimizer's state: made at the first step, gathered into buckets, loaded from a dict."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from copy import deepcopy
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from descend.backends.eager import EXACT_IN_FLOAT32, first_value, scalar_dtype
from descend.rule import Formula, Rule


def missing_entries(
    rule: Rule, formula: Formula, param: Tensor, state: Mapping[str, Any], group: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The entries that `state` lacks for a step of `formula`; slots whose first value the formula gives stay absent."""
    entries: dict[str, Tensor] = {}
    device = param.device if group["capturable"] else torch.device("cpu")
    if rule.counts_steps and "step" not in state:
        entries["step"] = torch.zeros((), dtype=scalar_dtype(), device=device)
    for name, slot in formula.slots.items():
        if slot.key in state or slot.shape == "optimizer" or name in formula.asks_fresh:
            continue
        entries[slot.key] = first_value(slot, param, group)
        if slot.shape == "scalar":
            entries[slot.key] = entries[slot.key].to(device)
    return entries


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
    return tuple(
        state[slot.key].dtype for slot in formula.slots.values() if slot.shape != "optimizer" and slot.key in state
    )


def advance_steps(steps: list[Tensor], t: int) -> list[Tensor]:
    """Step counts after step `t`, in place while float32 holds them exactly."""
    if t >= EXACT_IN_FLOAT32:
        steps = [step.double() for step in steps]
    for step in steps:
        step.fill_(t)
    return steps


def matched(
    state_dict: Mapping[str, Any],
    groups: list[dict[str, Any]],
    rules: list[Rule],
    state_dtype: torch.dtype | None = None,
) -> tuple[dict[Any, Any], list[dict[str, Any]]]:
    """The state and param groups of a state dict, mapped onto the parameters of `groups` and owned by the caller.

    Step counts, slots with one number per parameter and slots with a type of their own keep the type that they were
    saved in; what else is shaped like the parameter takes `state_dtype`, or the parameter's type, as in torch.

    Raises:
        ValueError: if the groups differ in number or size (torch's messages), or a value has another shape than its
            parameter.
    """
    saved_groups = deepcopy(state_dict["param_groups"])
    if len(groups) != len(saved_groups):
        raise ValueError(
            "loaded state dict has a different number of parameter groups: "
            f"{len(saved_groups)}, and the optimizer has {len(groups)}; build it with the groups it was saved with"
        )
    for index, (group, saved) in enumerate(zip(groups, saved_groups, strict=True)):
        if len(group["params"]) != len(saved["params"]):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of optimizer's group: "
                f"group {index} was saved with {len(saved['params'])} parameters and has {len(group['params'])}"
            )
    by_id = dict(
        zip(
            chain.from_iterable(saved["params"] for saved in saved_groups),
            chain.from_iterable(group["params"] for group in groups),
            strict=True,
        )
    )
    keeping = {p: _kept_types(rule) for rule, group in zip(rules, groups, strict=True) for p in group["params"]}
    state: defaultdict[Any, Any] = defaultdict(dict)
    for key, entry in state_dict["state"].items():
        param = by_id.get(key)
        state[key if param is None else param] = (
            entry if param is None else _owned(entry, param, keeping[param], state_dtype, str(key))
        )
    for group, saved in zip(groups, saved_groups, strict=True):
        saved["params"] = group["params"]
        if "param_names" in group:
            saved.setdefault("param_names", group["param_names"])
    return state, saved_groups


def _kept_types(rule: Rule) -> dict[str, bool]:
    """The state keys whose values keep their type, and whether these are shaped like the parameter."""
    own = {slot.key: slot.shape == "like" for slot in rule.slots.values() if slot.shape != "like" or slot.dtype}
    return {"step": False, **own}


def _owned(entry: Any, param: Tensor, keeping: Mapping[str, bool], state_dtype: torch.dtype | None, where: str) -> Any:
    if not isinstance(entry, Mapping):
        return entry
    owned: dict[str, Any] = {}
    usual = param.dtype if state_dtype is None else state_dtype.to_complex() if param.is_complex() else state_dtype
    for key, value in entry.items():
        if value is None:  # torch's SGD once saved that it keeps no momentum
            continue
        if not isinstance(value, Tensor):
            owned[key] = deepcopy(value)
        elif key in keeping and not keeping[key]:
            owned[key] = value.detach().clone()
        elif value.shape != param.shape:
            raise ValueError(
                f"loaded state dict has {key!r} of shape {tuple(value.shape)} for parameter {where}, whose shape is "
                f"{tuple(param.shape)}; the parameters stand in another order, or the model is another one"
            )
        else:
            dtype = usual if param.is_floating_point() and key not in keeping else value.dtype
            owned[key] = value.detach().to(device=param.device, dtype=dtype, copy=True)
    return owned


def clock(groups: list[dict[str, Any]], state: Mapping[Any, Any]) -> int | None:
    """How many steps a loaded state has behind it: the saved clock, or the largest step count if that is larger.

    It is larger where torch has stepped on from a state of ours. None where the state tells neither.
    """
    counts = [int(entry["step"]) for entry in state.values() if isinstance(entry, Mapping) and "step" in entry]
    saved = [int(group["applied_steps"]) for group in groups if "applied_steps" in group]
    return max(saved + counts, default=None)


def keep_counts_in_tensors(rule: Rule, entry: dict[str, Any]) -> None:
    """Turn step counts and scalar slots into tensors where an old version of torch saved them as numbers."""
    for key in ["step", *(slot.key for slot in rule.slots.values() if slot.shape == "scalar")]:
        if key in entry and not isinstance(entry[key], Tensor):
            entry[key] = torch.tensor(float(entry[key]), dtype=scalar_dtype())
