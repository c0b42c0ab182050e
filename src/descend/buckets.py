"""Buckets of parameters that step together: their inputs gathered, their results written."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from descend import state as states
from descend.backends import eager
from descend.backends.operations import Value
from descend.rule import Formula


@dataclass
class StepBucket:
    """Parameters of one group with the same step, type, device, variant and freshness.

    Attributes:
        formula: the settled variant.
        group: the param group, whose numbers are in force.
        t: the step about to be taken, from 1.
        missing: by parameter, the state entries that the step creates.
        params, states, ordinals: the parameters, their state (with what is missing) and places in the optimizer.
    """

    formula: Formula
    group: dict[str, Any]
    t: int
    missing: dict[Tensor, dict[str, Tensor]]
    params: list[Tensor]
    grads: list[Tensor]
    states: list[dict[str, Any]]
    ordinals: list[int]

    def add(self, param: Tensor, state: dict[str, Any], missing: dict[str, Tensor], ordinal: int) -> None:
        """Take in a parameter that has a gradient."""
        assert param.grad is not None
        self.params.append(param)
        self.grads.append(_real(param.grad))
        self.states.append(state)
        self.ordinals.append(ordinal)
        if missing:
            self.missing[param] = missing

    def inputs(self) -> eager.Bucket:
        """What the eager backend reads."""
        slots = {
            name: [_real(state[slot.key]) for state in self.states]
            for name, slot in self.formula.slots.items()
            if slot.shape != "optimizer" and slot.key in self.states[0]
        }
        values = {name: self.group[name] for name in self.formula.rule.hyper_parameters}
        differentiable = self.group["differentiable"]
        params = [_real(param) for param in self.params]
        if differentiable:
            params = [param.clone() for param in params]  # autograd keeps the old values
        foreach = self.group["foreach"] is not False and not differentiable
        t = np.float64(self.t)
        counts = [param.numel() for param in self.params]
        return eager.Bucket(self.formula, params, self.grads, slots, values, t, self.ordinals, counts, foreach)

    def write(self, result: dict[str, Value], state: MutableMapping[Tensor, dict[str, Any]]) -> None:
        """Assign everything at once: a value that is itself an input is copied before anything is overwritten."""
        for param, entries in self.missing.items():
            state[param].update(entries)
        values = {name: _detached_from_inputs(self.formula, name, value) for name, value in result.items()}
        for name, value in values.items():
            if name == "p":
                _assign([_real(param) for param in self.params], value)
            elif self.formula.slots[name].shape != "optimizer":
                self._write_slot(name, value, state)
        if self.formula.rule.counts_steps:
            steps = states.advance_steps([entry["step"] for entry in self.states], self.t)
            for param, step in zip(self.params, steps, strict=True):
                state[param]["step"] = step

    def _write_slot(self, name: str, value: Value, state: MutableMapping[Tensor, dict[str, Any]]) -> None:
        slot = self.formula.slots[name]
        differentiable = self.group["differentiable"]
        if slot.key in self.states[0] and not differentiable:
            _assign([_real(entry[slot.key]) for entry in self.states], value)
            return
        for i, (param, entry) in enumerate(zip(self.params, self.states, strict=True)):
            held = entry.get(slot.key)
            new = eager.first_value(slot, param, self.group) if held is None else held
            if differentiable:
                tensor = eager.as_tensor(value, i, _real(new))
                state[param][slot.key] = torch.view_as_complex(tensor) if new.is_complex() else tensor
            else:
                _assign([_real(new)], [value[i]] if isinstance(value, list) else value)
                state[param][slot.key] = new


def _real(x: Tensor) -> Tensor:
    """A complex tensor as its real and imaginary parts, which every rule takes as separate elements."""
    return torch.view_as_real(x) if x.is_complex() else x


def _detached_from_inputs(formula: Formula, name: str, value: Value) -> Value:
    if formula.outputs[name].args or not isinstance(value, list):
        return value
    return [x.clone() for x in value]


def _assign(targets: list[Tensor], value: Value) -> None:
    """Write a value into tensors, in their types."""
    if isinstance(value, list):
        if torch.is_grad_enabled():
            for target, x in zip(targets, value, strict=True):
                target.copy_(x)
        else:
            torch._foreach_copy_(targets, value)
        return
    for i, target in enumerate(targets):
        part = eager.pick(value, i)
        target.copy_(part) if isinstance(part, Tensor) else target.fill_(part)
