"""Buckets of parameters that step together: their inputs gathered, their results written."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from descend import state as states
from descend.backends import eager, portions
from descend.backends.operations import Value
from descend.rule import Formula

State = MutableMapping[Tensor, dict[str, Any]]


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
        self.grads.append(eager.real(param.grad))
        self.states.append(state)
        self.ordinals.append(ordinal)
        if missing:
            self.missing[param] = missing

    @cached_property
    def inputs(self) -> eager.Bucket:
        """What the eager backend reads, gathered once when the bucket is full."""
        slots = {
            name: [eager.real(state[slot.key]) for state in self.states]
            for name, slot in self.formula.slots.items()
            if slot.shape != "optimizer" and slot.key in self.states[0]
        }
        values = {name: self.group[name] for name in self.formula.rule.hyper_parameters}
        differentiable = self.group["differentiable"]
        params = [eager.real(param) for param in self.params]
        if differentiable:
            params = [param.clone() for param in params]  # autograd keeps the old values
        foreach = self.group["foreach"] is not False and not differentiable
        t = np.float64(self.t)
        counts = [param.numel() for param in self.params]
        return eager.Bucket(self.formula, params, self.grads, slots, values, t, self.ordinals, counts, foreach)

    @property
    def is_computed_first(self) -> bool:
        """Whether the step must be computed whole before anything is written (else `sweep` does both at once)."""
        return bool(self.group["differentiable"]) or not self.formula.is_elementwise

    def sweep(self, state: State) -> None:
        """Take the step of an elementwise formula."""
        targets = {name: self._storage(name) for name in self.formula.outputs if self._shape(name) == "like"}
        scalars = portions.sweep(self.inputs, {name: [eager.real(x) for x in held] for name, held in targets.items()})
        for name, values in scalars.items():
            targets[name] = self._storage(name)
            portions.assign(targets[name], values)
        self._attach(targets, state)

    def write(self, result: dict[str, Value], state: State) -> None:
        """Assign computed values; one that is itself an input is copied before anything is overwritten."""
        values = {
            name: portions.detached_from_inputs(self.inputs, value)
            for name, value in result.items()
            if self._shape(name) != "optimizer"
        }
        targets = {name: self._storage(name) for name in values}
        for name, value in values.items():
            if self.group["differentiable"] and name != "p":  # new tensors, through which gradients pass
                targets[name] = [eager.stored_as(value, like, [], i) for i, like in enumerate(targets[name])]
            else:
                portions.assign([eager.real(x) for x in targets[name]], value)
        self._attach(targets, state)

    def _shape(self, name: str) -> str:
        return "like" if name == "p" else self.formula.slots[name].shape

    def _storage(self, name: str) -> list[Tensor]:
        """The tensors that values of "p" or a slot are stored in, new ones where a slot has none yet."""
        if name == "p":
            return self.params
        slot = self.formula.slots[name]
        return [
            entry[slot.key] if slot.key in entry else eager.first_value(slot, param, self.group)
            for param, entry in zip(self.params, self.states, strict=True)
        ]

    def _attach(self, targets: dict[str, list[Tensor]], state: State) -> None:
        """Enter into the optimizer's state what the step created, and count it."""
        for param, entries in self.missing.items():
            state[param].update(entries)
        for name, tensors in targets.items():
            if name != "p":
                for param, tensor in zip(self.params, tensors, strict=True):
                    state[param][self.formula.slots[name].key] = tensor
        if self.formula.rule.counts_steps:
            steps = states.advance_steps([entry["step"] for entry in self.states], self.t)
            for param, step in zip(self.params, steps, strict=True):
                state[param]["step"] = step
