"""An optimizer's state: made at the first step, gathered into buckets, loaded from a dict."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from copy import deepcopy
from itertools import chain
from typing import Any, Final

import torch
from torch import Tensor

from descend.backends.eager import first_value, scalar_dtype
from descend.rule import Formula, Rule

EXACT_IN_FLOAT32: Final = 2**24
"""Step counts up to here are exact in float32; from here on they are kept in float64."""


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


def advance_steps(steps: list[Tensor], t: int) -> list[Tensor]:
    """Step counts after step `t`, in place while float32 holds them exactly."""
    if t >= EXACT_IN_FLOAT32 and steps[0].dtype is torch.float32:
        return [torch.full_like(step, t, dtype=torch.float64) for step in steps]
    for step in steps:
        step.fill_(t)
    return steps


def matched(state_dict: Mapping[str, Any], groups: list[dict[str, Any]]) -> tuple[dict[Any, Any], list[dict[str, Any]]]:
    """The state and param groups of a state dict, mapped onto the parameters of `groups` and owned by the caller.

    Values keep the type that they were saved in where they are counts or one number per parameter; what is shaped like
    the parameter takes the parameter's type, as in torch.

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
    state: defaultdict[Any, Any] = defaultdict(dict)
    for key, entry in state_dict["state"].items():
        param = by_id.get(key)
        state[key if param is None else param] = entry if param is None else _owned(entry, param, str(key))
    for group, saved in zip(groups, saved_groups, strict=True):
        saved["params"] = group["params"]
        if "param_names" in group:
            saved.setdefault("param_names", group["param_names"])
    return state, saved_groups


def _owned(entry: Any, param: Tensor, where: str) -> Any:
    if not isinstance(entry, Mapping):
        return entry
    owned: dict[str, Any] = {}
    for key, value in entry.items():
        if not isinstance(value, Tensor):
            owned[key] = deepcopy(value)
        elif value.ndim == 0 and (param.ndim > 0 or key == "step"):
            owned[key] = value.detach().clone()
        elif value.shape != param.shape:
            raise ValueError(
                f"loaded state dict has {key!r} of shape {tuple(value.shape)} for parameter {where}, whose shape is "
                f"{tuple(param.shape)}; the parameters stand in another order, or the model is another one"
            )
        else:
            dtype = param.dtype if param.is_floating_point() else value.dtype
            owned[key] = value.detach().to(device=param.device, dtype=dtype, copy=True)
    return owned


def largest_step(state: Mapping[Any, Any]) -> int | None:
    """The largest step count found in a state, or None where there is none."""
    counts = [int(entry["step"]) for entry in state.values() if isinstance(entry, Mapping) and "step" in entry]
    return max(counts, default=None)


def keep_counts_in_tensors(rule: Rule, entry: dict[str, Any]) -> None:
    """Turn step counts and scalar slots into tensors where an old version of torch saved them as numbers."""
    for key in ["step", *(slot.key for slot in rule.slots.values() if slot.shape == "scalar")]:
        if key in entry and not isinstance(entry[key], Tensor):
            entry[key] = torch.tensor(float(entry[key]), dtype=scalar_dtype())
