"""The reference: an interpreter of formulas in torch. Any device, any dtype, differentiable.

`advance` steps buckets of parameters; the optimizer and the pure pair of `pure` call it. A bucket holds parameters for
which every host scalar of the formula is the same: one group, one step count, one dtype and device, one variant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from descend.backends.draws import DRAWS, Draw
from descend.backends.opaque import OPAQUE
from descend.backends.operations import (
    HOST,
    TORCH,
    Value,
    finish_reduction,
    foreach,
    partial_reduction,
    window_operation,
)
from descend.backends.storage import real, scalar_dtype
from descend.expr import OPERATIONS, WINDOWS, Expr, Rank, hyper_of, slot_of, walk
from descend.formula import CallPlace, draw_number
from descend.rule import Formula

EXACT_IN_FLOAT32: Final = 2**24
"""Step counts up to here are exact in float32; from here on they are kept in float64."""


@dataclass
class Bucket:
    """Parameters that take one step together.

    Attributes:
        formula: the settled variant.
        params, grads: tensors of one dtype and device.
        slots: the values of each slot that is read, by name in the signature: a list with a tensor per parameter.
        hyper_parameters: the numbers in force; a tensor is differentiated through.
        t: the step about to be taken, from 1: a number, or a tensor per parameter.
        ordinals: the parameters' places in the optimizer, in whose order global reductions are added up.
        counts: the parameters' numbers of elements (a complex number is one).
        rows: the sizes of their first dimensions.
        seed: what random operations draw with.
        firsts: the indices of the first elements in the parameters, where those are cut into pieces.
        foreach: whether torch's multi-tensor functions may be used (they are not differentiable).
        reads_scalars: whether a tensor's one number may be read, which waits for its device; if not, scalars stay
            tensors there, as a captured graph needs it.
    """

    formula: Formula
    params: list[Tensor]
    grads: list[Tensor]
    slots: dict[str, list[Tensor]]
    hyper_parameters: Mapping[str, Any]
    t: Value
    ordinals: list[int]
    counts: list[int]
    rows: list[int]
    seed: int = 0
    firsts: Sequence[int] = ()
    foreach: bool = False
    reads_scalars: bool = True


def advance(buckets: Sequence[Bucket], optimizer_slots: Mapping[str, Value], clock: Value) -> list[dict[str, Value]]:
    """New values of everything that the formula assigns, per bucket; nothing is written.

    All buckets belong to one rule: `global_` reductions run over all of them. The value of "p" and of a slot shaped
    like the parameter is a list of tensors, of a scalar slot a list of 0-dim float64 tensors or a vector, of an
    optimizer's slot one number, or a tuple of them.

    Args:
        buckets: what to step.
        optimizer_slots: the values of the slots that exist once per optimizer, by name.
        clock: the optimizer's applied steps, which stand for t - 1 in what is assigned to those slots.
    """
    works = [_Work(bucket, optimizer_slots) for bucket in buckets]
    shared = _OptimizerWork(buckets, optimizer_slots, clock)
    for site in _in_program_order([list(work.sites) for work in works]):
        taking_part = [work for work in works if site in work.sites]
        partials: dict[int, Tensor] = {}
        for work in taking_part:
            partials.update(zip(work.bucket.ordinals, work.partial_reductions(site, shared), strict=True))
        ordered = [partials[ordinal] for ordinal in sorted(partials)]
        total = torch.stack([part.to(ordered[0].device) for part in ordered]).sum()
        count = sum(sum(work.bucket.counts) for work in taking_part)
        for work in taking_part:
            node = work.sites[site]
            value = finish_reduction(node.op, total, count)
            work.values[node] = value.to(work.bucket.params[0].device)
            shared.values[node] = value
    return [work.outputs(shared) for work in works]


def _in_program_order(lists: list[list[CallPlace]]) -> list[CallPlace]:
    """The places where buckets call global reductions, each after those that any bucket calls before it."""
    order: list[CallPlace] = []
    while any(lists):
        heads = [places[0] for places in lists if places]
        chosen = next((h for h in heads if all(h not in places[1:] for places in lists)), None)
        if chosen is None:
            raise ValueError(
                "two variants of the rule call its global_ reductions in different orders; write them alike"
            )
        order.append(chosen)
        lists = [places[1:] if places and places[0] == chosen else places for places in lists]
    return order


def _is_host(value: Value) -> bool:
    return isinstance(value, (np.generic, np.ndarray))


def pick(value: Value, index: int) -> Value:
    """The part of a value that belongs to one parameter, as torch takes it."""
    if isinstance(value, list):
        return value[index]
    if isinstance(value, np.ndarray) and value.ndim:
        return value[index].item()
    return value.item() if _is_host(value) else value


@dataclass
class _Work:
    """The interpreter's memory for one bucket: the values of the nodes known so far."""

    bucket: Bucket
    optimizer_slots: Mapping[str, Value]
    values: dict[Expr, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        formula = self.bucket.formula
        self.sites = {formula.call_places[number]: node for number, node in sorted(formula.global_reductions.items())}
        self.dtype = compute_dtype(self.bucket.params[0].dtype)
        self.uses = formula.uses.copy()
        self.temporaries: set[Expr] = set()
        self.scalar_slots = {
            root: name
            for name, root in formula.outputs.items()
            if name != "p" and formula.slots[name].shape == "scalar"
        }

    def partial_reductions(self, site: CallPlace, shared: _OptimizerWork) -> list[Tensor]:
        node = self.sites[site]
        self.evaluate(walk(node.args), shared)
        return [partial_reduction(node.op, x) for x in self.values[node.args[0]]]

    def outputs(self, shared: _OptimizerWork) -> dict[str, Value]:
        formula = self.bucket.formula
        self.evaluate(formula.nodes, shared)
        return {
            name: shared.value(root) if name in formula.shared_outputs else self.values[root]
            for name, root in formula.outputs.items()
        }

    def evaluate(self, nodes: Iterable[Expr], shared: _OptimizerWork) -> None:
        with np.errstate(all="ignore"):
            for node in nodes:
                if node in self.values:
                    continue
                if node in shared.roots and node.args:
                    self.values[node] = shared.value(node)
                elif node.op in OPERATIONS:
                    self.values[node] = self._operate(node)
                else:
                    self.values[node] = self._leaf(node)
                if node in self.scalar_slots:
                    self._round_to_storage(node)

    def _round_to_storage(self, root: Expr) -> None:
        """The stored value of a scalar slot is the truth: what reads the new value reads it as it will be stored."""
        value = self.values[root]
        if not root.args or not (_is_host(value) or isinstance(value, (list, Tensor))):
            return
        name = self.scalar_slots[root]
        stored, slot = self.bucket.slots.get(name), self.bucket.formula.slots[name]
        dtype = stored[0].dtype if stored else getattr(torch, slot.dtype) if slot.dtype else scalar_dtype()
        if dtype is torch.float32:
            values = value if isinstance(value, list) else [value]
            rounded = [
                x.float().double() if isinstance(x, Tensor) else x.astype(np.float32).astype(np.float64) for x in values
            ]
            self.values[root] = rounded if isinstance(value, list) else rounded[0]

    def _leaf(self, node: Expr) -> Value:
        bucket = self.bucket
        if node.op == "p":
            return self._cast(bucket.params)
        if node.op == "g":
            return self._cast(bucket.grads)
        if node.op == "slot":
            name, shape = slot_of(node)
            if shape == "like":
                return self._cast(bucket.slots[name])
            if node.rank is Rank.OPTIMIZER:
                return shared_value(self.optimizer_slots[name])
            return scalar_values(bucket.slots[name], read=bucket.reads_scalars)
        if node.op == "numel":
            return np.array(bucket.counts, dtype=np.float64)
        if node.op == "rows":
            return np.array(bucket.rows, dtype=np.float64)
        return scalar_leaf(node, bucket.hyper_parameters, bucket.t)

    def _cast(self, tensors: list[Tensor]) -> list[Tensor]:
        alike = all(x.dtype == self.dtype for x in tensors)
        return tensors if alike else [x.to(self.dtype) for x in tensors]

    def _operate(self, node: Expr) -> Value:
        args = [self.values[a] for a in node.args]
        if node.op in WINDOWS:
            return window_operation(node, args)
        if OPERATIONS[node.op].random:
            return self._computed(node, self._drawn(node, args))
        if all(_is_host(a) for a in args):
            return HOST[node.op](*args)
        if node.op == "where" and isinstance(args[0], Tensor) and self.bucket.reads_scalars and _is_one_number(args[0]):
            args[0] = np.bool_(args[0].item())  # the other side's gradient, perhaps NaN, is then left out
        if node.op == "where" and _is_host(args[0]):
            return self._chosen(node, args[0], args[1:])  # now two nodes read a side: its memory is not reused
        if OPERATIONS[node.op].reduces is Rank.TENSOR:
            pairs = zip(args[0], self.bucket.counts, strict=True)
            return [finish_reduction(node.op, partial_reduction(node.op, x), count) for x, count in pairs]
        if not any(isinstance(a, list) or (_is_host(a) and a.ndim) for a in args):
            return TORCH[node.op](*(pick(a, 0) for a in args))  # tensors that are scalars: rates, global reductions
        result = None
        whole = OPERATIONS[node.op].whole
        if whole:
            numbers = [float(pick(a, 0)) for a in args[whole:]]
            result = [OPAQUE[node.op](*of, *numbers).to(of[0].dtype) for of in zip(*args[:whole], strict=True)]
        elif self.bucket.foreach:
            result = foreach(node.op, args, [self._is_last_use(arg) for arg in node.args])
        if result is None:
            like = self.bucket.params[0]
            result = [
                torch.as_tensor(TORCH[node.op](*(pick(a, i) for a in args)), device=like.device)
                for i in range(len(self.bucket.params))
            ]
        return self._computed(node, result)

    def _drawn(self, node: Expr, args: Sequence[Value]) -> list[Tensor]:
        """The values of a random operation."""
        bucket, (*rest, t), number = self.bucket, args, draw_number(node)
        firsts = bucket.firsts or [0] * len(bucket.params)
        drawn = []
        for i, (param, ordinal, first) in enumerate(zip(bucket.params, bucket.ordinals, firsts, strict=True)):
            draw = Draw(bucket.seed, pick(t, i), ordinal, number, first)
            drawn.append(DRAWS[node.op](draw.uniform(param, self.dtype), *(pick(a, i) for a in rest)))
        return drawn

    def _computed(self, node: Expr, result: list[Tensor]) -> list[Tensor]:
        """Note that a value was computed, and give back the memory of what nothing reads any more."""
        self.temporaries.add(node)
        for arg in node.args:
            self.uses[arg] -= 1
            if self.uses[arg] == 0 and arg in self.temporaries and self.values[arg] is not result:
                self.values[arg] = None  # its memory goes back at once
        return result

    def _chosen(self, node: Expr, condition: Value, sides: Sequence[Value]) -> Value:
        """What a `where` takes by the host's condition: the side itself, or one for each parameter."""
        if not condition.ndim:
            side = 0 if condition else 1
            if node.rank is not Rank.ELEMENT or node.args[1 + side].rank is Rank.ELEMENT:
                return sides[side]
        params = self.bucket.params
        conditions = np.broadcast_to(condition, len(params))
        picked = [pick(sides[0 if holds else 1], i) for i, holds in enumerate(conditions)]
        dtype = self.dtype if node.rank is Rank.ELEMENT else torch.float64
        tensors = [
            torch.as_tensor(x, dtype=dtype, device=param.device) for x, param in zip(picked, params, strict=True)
        ]
        if node.rank is not Rank.ELEMENT:
            return tensors
        return [x.expand(param.shape) for x, param in zip(tensors, params, strict=True)]

    def _is_last_use(self, arg: Expr) -> bool:
        return self.uses[arg] == 1 and arg in self.temporaries and arg.rank is Rank.ELEMENT


@dataclass
class _OptimizerWork:
    """What is assigned to the slots that exist once per optimizer, evaluated once for all buckets."""

    buckets: Sequence[Bucket]
    slots: Mapping[str, Value]
    clock: Value
    values: dict[Expr, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.roots = set(self.buckets[0].formula.shared_outputs.values())

    def value(self, node: Expr) -> Value:
        if node not in self.values:
            with np.errstate(all="ignore"):
                self.values[node] = self._evaluate(node)
        return self.values[node]

    def _evaluate(self, node: Expr) -> Value:
        if node.op == "slot":
            return shared_value(self.slots[slot_of(node)[0]])
        if node.op not in OPERATIONS:
            return scalar_leaf(node, self.buckets[0].hyper_parameters, self.clock + 1)
        args = [self.value(a) for a in node.args]
        if node.op in WINDOWS:
            return window_operation(node, args)
        if all(_is_host(a) for a in args):
            return HOST[node.op](*args)
        if node.op == "where" and _is_host(args[0]):
            return args[1] if args[0] else args[2]
        return TORCH[node.op](*(pick(a, 0) for a in args))


def compute_dtype(stored: torch.dtype) -> torch.dtype:
    """The type that arithmetic is done in: float32 for float32 and below, float64 for float64."""
    return torch.float32 if stored in (torch.bfloat16, torch.float16) else stored


def scalar_leaf(node: Expr, hyper_parameters: Mapping[str, Any], t: Value) -> Value:
    """The value of a leaf that is one number per bucket: a constant, a hyper-parameter or the step."""
    if node.op == "constant":
        return np.float64(node.value)  # type: ignore[arg-type]
    if node.op == "t":
        return t
    name, index = hyper_of(node)
    value = hyper_parameters[name]
    if index is not None:
        value = value[index]
    return value.double().reshape(()) if isinstance(value, Tensor) else np.float64(value)


def scalar_value(stored: Value) -> Value:
    """One stored number: a host scalar, or the tensor itself where gradients pass or it stands for many."""
    if not isinstance(stored, Tensor):
        return np.float64(stored)
    return np.float64(stored.item()) if not stored.requires_grad and _is_one_number(stored) else stored.double()


def shared_value(stored: Value) -> Value:
    """What a slot holds once per optimizer: one number, or a tuple of them for a window."""
    return tuple(map(scalar_value, stored)) if isinstance(stored, tuple) else scalar_value(stored)


def scalar_values(stored: list[Tensor], read: bool = True) -> Value:
    """The values of a scalar slot: a vector of host scalars, or the tensors themselves where gradients pass.

    `read=False` leaves them where they are, too.
    """
    if not read or any(x.requires_grad for x in stored) or not _is_one_number(stored[0]):
        return [x.double() for x in stored]
    return np.array([x.item() for x in stored], dtype=np.float64)


def _is_one_number(x: Tensor) -> bool:
    """Whether a number can be read from `x`; under vmap it stands for many at once."""
    try:
        x.item()
    except RuntimeError:
        return False
    return True


def squared_norms(bucket: Bucket, node: Expr) -> list[Tensor]:
    """The sum of the squares of an element-ranked value, in float64, one per parameter."""
    work = _Work(bucket, {})
    work.evaluate(walk([node]), _OptimizerWork([bucket], {}, 0))
    return [partial_reduction("norm", x) for x in work.values[node]]


def stored_as(value: Value, like: Tensor, inputs: Sequence[Tensor], index: int = 0) -> Tensor:
    """One parameter's part of a value as a tensor of its own, in the type and shape of `like`."""
    part = pick(value, index)
    tensor = part if isinstance(part, Tensor) else torch.as_tensor(part, device=like.device)
    tensor = tensor.to(device=like.device, dtype=real(like).dtype)
    if tensor.shape != real(like).shape:
        tensor = tensor.expand(real(like).shape).clone(memory_format=torch.contiguous_format)
    elif any(tensor is real(x) or tensor is x for x in inputs):
        tensor = tensor.clone()
    return torch.view_as_complex(tensor) if like.is_complex() else tensor
