"""Buckets of parameters that step together: their inputs gathered, their results written."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Collection, MutableMapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from descend import arguments, eligibility, sparsity
from descend import state as states
from descend.backends import eager, portions, storage
from descend.backends.operations import Value
from descend.expr import Shape
from descend.options import Options, incoming_gradient
from descend.rule import Formula, Rule

State = MutableMapping[Tensor, dict[str, Any]]


@dataclass(frozen=True)
class Step:
    """What all buckets of one step share.

    Attributes:
        options: the optimizer's own.
        numbers: the values of what the options add to formulas, by name.
        clock: how many steps the optimizer has applied before.
    """

    options: Options
    numbers: dict[str, Any]
    clock: int


@dataclass
class StepBucket:
    """Parameters of one group with the same step, type, device, variant and freshness.

    Attributes:
        formula: the settled variant.
        group: the param group, whose numbers are in force.
        t: the step about to be taken, from 1; None where the counts stay on the parameters' device.
        step: what it shares with the other buckets.
        index: the place of the group among the optimizer's.
        variant: the formula before it was settled.
        missing: by parameter, the state entries that the step creates, or moves to its device.
        params, states, ordinals: the parameters, their state (with what is missing) and places in the optimizer.
    """

    formula: Formula
    group: dict[str, Any]
    t: int | None
    step: Step
    index: int
    variant: Formula
    missing: dict[Tensor, dict[str, Tensor]] = field(default_factory=dict)
    params: list[Tensor] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    ordinals: list[int] = field(default_factory=list)

    def add(self, param: Tensor, state: dict[str, Any], missing: dict[str, Tensor], ordinal: int) -> None:
        """Take in a parameter that has a gradient."""
        self.params.append(param)
        self.states.append(state)
        self.ordinals.append(ordinal)
        if missing:
            self.missing[param] = missing

    @cached_property
    def grads(self) -> list[Tensor]:
        """The gradients as they are stepped by; a sparse one is made dense."""
        return [storage.real(grad.to_dense() if grad.is_sparse else grad) for grad in self._held_gradients]

    @property
    def _held_gradients(self) -> list[Tensor]:
        return [param.grad for param in self.params if param.grad is not None]  # all have one, which mypy cannot know

    @cached_property
    def inputs(self) -> eager.Bucket:
        """What the eager backend reads, gathered once when the bucket is full."""
        slots = {
            name: [storage.real(state[slot.key]) for state in self.states]
            for name, slot in self.formula.slots.items()
            if not slot.is_shared and slot.key in self.states[0]
        }
        values = ChainMap({name: self.group[name] for name in self.formula.rule.hyper_parameters}, self.step.numbers)
        differentiable = self.group["differentiable"]
        params = [storage.real(param) for param in self.params]
        if differentiable:
            params = [param.clone() for param in params]  # autograd keeps the old values
        foreach = self.group["foreach"] is not False and not differentiable
        counts = [param.numel() for param in self.params]
        rows = [storage.rows_of(param) for param in self.params]
        return eager.Bucket(
            self.formula,
            params,
            self.grads,
            slots,
            values,
            self._count(),
            self.ordinals,
            counts,
            rows,
            self.step.options.seed,
            foreach=foreach,
            reads_scalars=self.t is not None,
        )

    def _count(self) -> Value:
        """The step about to be taken, as formulas read it."""
        if self.t is not None or not self.formula.rule.counts_steps:
            return np.float64(self.t or 0)
        return [entry["step"].double() + 1 for entry in self.states]

    def squared_norms(self) -> dict[int, Tensor]:
        """The sums of the squares of what `clip_norm` scales, in float64, by the parameters' ordinals."""
        squares = eager.squared_norms(self.inputs, incoming_gradient(self.step.numbers))
        return dict(zip(self.ordinals, squares, strict=True))

    @cached_property
    def rounding(self) -> portions.Rounding | None:
        """How bfloat16 values are stored; None rounds to the nearest."""
        if not self.step.options.stochastic_rounding:
            return None
        sites = {name: site for site, name in enumerate(self.formula.outputs)}
        return portions.Rounding(self.step.options.seed, self.step.clock, sites)

    @property
    def is_computed_first(self) -> bool:
        """Whether the step must be computed whole before anything is written (else `sweep` does both at once)."""
        return bool(self.group["differentiable"]) or not self.formula.is_elementwise

    def sweep(self, state: State) -> None:
        """Take the step of an elementwise formula."""
        targets = {name: self._storage(name) for name in self.formula.outputs if self._shape(name) == "like"}
        scalars = self._sweep_into({name: [storage.real(x) for x in held] for name, held in targets.items()})
        for name, values in scalars.items():
            targets[name] = self._storage(name)
            portions.assign(targets[name], values)
        self._attach(targets, state)

    def _sweep_into(self, written: dict[str, list[Tensor]]) -> dict[str, list[Value]]:
        return portions.sweep(self.inputs, written, self.rounding)

    def write(self, result: dict[str, Value], state: State) -> None:
        """Assign computed values; one that is itself an input is copied before anything is overwritten."""
        values = {
            name: portions.detached_from_inputs(self.inputs, value)
            for name, value in result.items()
            if name == "p" or not self.formula.slots[name].is_shared
        }
        targets = {name: self._storage(name) for name in values}
        for name, value in values.items():
            if self.group["differentiable"] and name != "p":  # new tensors, through which gradients pass
                targets[name] = [eager.stored_as(value, like, [], i) for i, like in enumerate(targets[name])]
            elif self._shape(name) == "like":
                written, firsts = [storage.real(x) for x in targets[name]], [0] * len(self.params)
                portions.store(name, written, value, self.ordinals, firsts, self.rounding)
            else:
                portions.assign(targets[name], value)
        self._attach(targets, state)

    def _shape(self, name: str) -> Shape:
        return "like" if name == "p" else self.formula.slots[name].shape

    def _storage(self, name: str) -> list[Tensor]:
        """The tensors that values of "p" or a slot are stored in, new ones where a slot has none yet."""
        if name == "p":
            return self.params
        slot = self.formula.slots[name]
        return [
            entry[slot.key] if slot.key in entry else storage.first_value(slot, param, self.group)
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


@dataclass
class RowsBucket(StepBucket):
    """Parameters with sparse gradients, of which the rows with a gradient are stepped alone."""

    @cached_property
    def _coalesced(self) -> list[Tensor]:
        return [gradient.coalesce() for gradient in self._held_gradients]

    @cached_property
    def grads(self) -> list[Tensor]:
        """The rows of the gradients."""
        return [storage.real(gradient.values()) for gradient in self._coalesced]

    @cached_property
    def _places(self) -> list[tuple[Tensor, ...]]:
        return [gradient.indices().unbind() for gradient in self._coalesced]

    @cached_property
    def inputs(self) -> eager.Bucket:
        """The rows of what a step reads, copied."""
        whole = super().inputs
        slots = {name: self._rows(x) if self._shape(name) == "like" else x for name, x in whole.slots.items()}
        return replace(whole, params=self._rows(whole.params), slots=slots)

    def _rows(self, tensors: list[Tensor]) -> list[Tensor]:
        return [x[place] for x, place in zip(tensors, self._places, strict=True)]

    def _sweep_into(self, written: dict[str, list[Tensor]]) -> dict[str, list[Value]]:
        rows = {name: self._rows(tensors) for name, tensors in written.items()}
        scalars = portions.sweep(self.inputs, rows, self.rounding)
        for name, tensors in written.items():
            for tensor, place, new in zip(tensors, self._places, rows[name], strict=True):
                tensor[place] = new
        return scalars


def gather(
    rule: Rule,
    group: dict[str, Any],
    index: int,
    formula_of: Callable[[int, int], Formula],
    state: MutableMapping[Tensor, dict[str, Any]],
    first_ordinal: int,
    step: Step,
    taken: Collection[int] = (),
) -> list[StepBucket]:
    """The buckets of one param group; nothing is written.

    Args:
        rule: what steps the group.
        group: the param group.
        index: its place among the optimizer's.
        formula_of: the variant for a group's index and a number of dimensions.
        state: the optimizer's.
        first_ordinal: the place of the group's first parameter in the optimizer.
        step: what all buckets share.
        taken: ids of parameters that are left out.

    Raises:
        RuntimeError: for sparse gradients, and for state that a step could not be written into.
    """
    buckets: dict[Any, StepBucket] = {}
    formulas: dict[int, Formula] = {}
    memory = _Memory()
    for ordinal, param in enumerate(group["params"], first_ordinal):
        if param.grad is None or id(param) in taken:
            continue
        if param.ndim not in formulas:
            formulas[param.ndim] = formula_of(index, param.ndim)
        formula = formulas[param.ndim]
        held = state.get(param, {})
        states.check_entries(formula, param, held)
        missing = states.missing_entries(rule, formula, param, held, group)
        missing |= states.moved_entries(formula, param, held)
        entries = {**held, **missing}
        fresh = frozenset(name for name in formula.asks_fresh if rule.slots[name].key not in entries)
        steps = None if _keeps_counts_on_device(group, param, step) else int(entries.get("step", 0))
        turn = memory.turn(param)
        settled = formula.settle(fresh)
        kind = _kind_of_bucket(settled, param.grad, step, group)
        key = (formula, fresh, steps, param.dtype, param.device, states.stored_types(formula, entries), turn, kind)
        if key not in buckets:
            buckets[key] = kind(settled, group, None if steps is None else steps + 1, step, index, formula)
        buckets[key].add(param, entries, missing, ordinal)
    return list(buckets.values())


def _keeps_counts_on_device(group: dict[str, Any], param: Tensor, step: Step) -> bool:
    """Whether nothing of a parameter's state is read on the host, so that its step can be captured in a graph.

    Where gradients flow, it is read: the unused side of a `where` is then left out, whose gradient may be NaN.
    """
    if not group["capturable"] or group["differentiable"]:
        return False
    return param.device.type != "cpu" or eligibility.of_group(group, step.options.backend) is not None


def _kind_of_bucket(formula: Formula, gradient: Tensor, step: Step, group: dict[str, Any]) -> type[StepBucket]:
    """What steps a parameter with this gradient.

    Raises:
        RuntimeError: for a sparse gradient that the rule does not take.
    """
    if gradient.layout is torch.strided:
        return StepBucket
    taken_as = sparsity.taken_as(formula) if gradient.is_sparse else None
    if taken_as is None:
        raise RuntimeError(arguments.sparse_message(formula.rule.title, sparsity.obstacle(formula)))
    has_rows = gradient.sparse_dim() > 0  # that of a single number has none
    by_rows = taken_as is sparsity.ROWS and has_rows and not group["differentiable"]
    draws = step.options.stochastic_rounding or formula.draws  # by the index of the element, which rows do not know
    return RowsBucket if by_rows and not draws else StepBucket


class _Memory:
    """Tells parameters apart that may share memory: they step one bucket after the other, as torch steps them."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, int]] = {}  # by storage: where its parameters end, and the last turn given

    def turn(self, param: Tensor) -> int:
        """0 if the parameter lies behind all others in its storage, else a number that no other has there."""
        if type(param) not in (Tensor, torch.nn.Parameter) or param.layout is not torch.strided or param.is_meta:
            return 0
        reach = sum((size - 1) * stride for size, stride in zip(param.shape, param.stride(), strict=True))
        start = param.data_ptr()
        end = start + (reach + 1) * param.element_size() if param.numel() else start
        storage = param.untyped_storage().data_ptr()
        furthest, turns = self._known.get(storage, (start, 0))
        apart = start >= furthest
        self._known[storage] = max(end, furthest), turns if apart else turns + 1
        return 0 if apart else turns + 1
