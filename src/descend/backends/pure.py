"""A rule as two pure functions on dicts of tensors: `init` and `update`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from descend.backends.eager import Bucket, advance, scalar_value, stored_as
from descend.backends.storage import first_value, real, rows_of, scalar_dtype
from descend.rule import Rule


def init(rule: Rule, params: Mapping[str, Tensor], **hyper_parameters: Any) -> dict[str, dict[str, Tensor]]:
    """See `Rule.init`."""
    values = rule.merged(hyper_parameters)
    state: dict[str, dict[str, Tensor]] = {}
    for name, param in params.items():
        formula = rule.formula(ndim=param.ndim, **hyper_parameters)
        entry = {"step": torch.zeros((), dtype=scalar_dtype())} if rule.counts_steps else {}
        for slot_name, slot in formula.slots.items():
            if slot_name not in formula.asks_fresh:
                entry[slot.key] = first_value(slot, param, values)
        state[name] = entry
    return state


def update(
    rule: Rule,
    params: Mapping[str, Tensor],
    grads: Mapping[str, Tensor],
    state: Mapping[str, Mapping[str, Tensor]],
    maximize: bool = False,
    seed: int = 0,
    **hyper_parameters: Any,
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """See `Rule.update`."""
    values = rule.merged(hyper_parameters)
    for name in grads:
        if name not in params:
            raise ValueError(f"grads has {name!r}, which params lacks; both are dicts by parameter name")
        if name not in state or (rule.counts_steps and "step" not in state[name]):
            raise ValueError(
                f"state has no entry for {name!r}, or one of another rule; begin with {rule.name}.init(params)"
            )
    new_params, new_state = dict(params), {name: dict(entry) for name, entry in state.items()}
    stepped = [name for name in params if name in grads]
    if not stepped:
        return new_params, new_state
    buckets = []
    ordinals = {name: ordinal for ordinal, name in enumerate(params)}
    for name in stepped:
        param, entry = params[name], state[name]
        formula = rule.formula(ndim=param.ndim, maximize=maximize, **hyper_parameters)
        formula = formula.settle(frozenset(s for s, slot in formula.slots.items() if slot.key not in entry))
        slots = {s: [real(entry[slot.key])] for s, slot in formula.slots.items() if slot.key in entry}
        t = scalar_value(entry["step"]) + 1 if rule.counts_steps else np.float64(0)
        buckets.append(
            Bucket(
                formula,
                [real(param)],
                [real(grads[name])],
                slots,
                values,
                t,
                [ordinals[name]],
                [param.numel()],
                [rows_of(param)],
                seed,
            )
        )
    held = {s: x[0] for bucket in buckets[::-1] for s, x in bucket.slots.items() if rule.slots[s].is_shared}
    shared = {s: tuple(x.unbind()) if rule.slots[s].is_window else x for s, x in held.items()}
    clock = max(bucket.t for bucket in buckets) - 1 if shared else 0
    for name, bucket, result in zip(stepped, buckets, advance(buckets, shared, clock), strict=True):
        if rule.counts_steps:
            new_state[name]["step"] = state[name]["step"] + 1
        inputs = [params[name], grads[name], *state[name].values()]
        for output, value in result.items():
            if output == "p":
                new_params[name] = stored_as(value, params[name], inputs)
                continue
            slot = bucket.formula.slots[output]
            like = state[name].get(slot.key)
            if slot.is_window:
                new = torch.stack([torch.as_tensor(x, dtype=torch.float64) for x in value])
            else:
                new = stored_as(value, first_value(slot, params[name], values) if like is None else like, inputs)
            for holder in new_state if slot.is_shared else [name]:
                new_state[holder][slot.key] = new
    return new_params, new_state
