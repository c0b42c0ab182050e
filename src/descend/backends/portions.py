"""Elementwise formulas, portion by portion: temporaries stay in the cache, and small however large the model is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import torch
from torch import Tensor

from descend.backends.eager import Bucket, advance, pick
from descend.backends.operations import Value
from descend.backends.random_bits import stochastically

PORTION: Final = 2**18
"""Elements that are evaluated at a time; one list of them in float32 takes a megabyte."""


@dataclass(frozen=True)
class Rounding:
    """Stochastic rounding of what is stored in bfloat16: what its random bits are a function of.

    Attributes:
        seed: the optimizer's seed.
        step: how many steps the optimizer has applied before this one.
        sites: the number of each name that the formula assigns to.
    """

    seed: int
    step: int
    sites: Mapping[str, int]


@dataclass
class _Portion:
    """Pieces of tensors that are evaluated together, and where their results go."""

    size: int = 0
    indices: list[int] = field(default_factory=list)
    firsts: list[int] = field(default_factory=list)  # where each piece begins in its tensor
    params: list[Tensor] = field(default_factory=list)
    grads: list[Tensor] = field(default_factory=list)
    slots: dict[str, list[Tensor]] = field(default_factory=dict)
    targets: dict[str, list[Tensor]] = field(default_factory=dict)


def sweep(
    bucket: Bucket, targets: Mapping[str, list[Tensor]], rounding: Rounding | None = None
) -> dict[str, list[Value]]:
    """Evaluate an elementwise formula and write it into tensors as it goes.

    Args:
        bucket: what is read.
        targets: by name, the tensors that new values are written into, one per parameter; they may be what is read.
        rounding: how bfloat16 targets are rounded; None rounds to the nearest.

    Returns:
        The new values of what has no target (slots with one value per parameter), one per parameter.
    """
    scalars: dict[str, dict[int, Value]] = {}
    for portion in _portions(bucket, targets):
        counts = [bucket.counts[i] for i in portion.indices]
        piece = replace(
            bucket,
            params=portion.params,
            grads=portion.grads,
            slots=portion.slots,
            ordinals=[bucket.ordinals[i] for i in portion.indices],
            counts=counts,
            rows=[bucket.rows[i] for i in portion.indices],
            firsts=portion.firsts,
            t=[bucket.t[i] for i in portion.indices] if isinstance(bucket.t, list) else bucket.t,
        )
        (result,) = advance([piece], {}, 0)
        written = {name: detached_from_inputs(piece, result[name]) for name in targets}
        for name, value in written.items():
            store(name, portion.targets[name], value, piece.ordinals, portion.firsts, rounding)
        for name in result.keys() - targets.keys():
            values = scalars.setdefault(name, {})
            values.update({index: pick(result[name], i) for i, index in enumerate(portion.indices)})
    return {name: [values[i] for i in range(len(bucket.params))] for name, values in scalars.items()}


def _portions(bucket: Bucket, targets: Mapping[str, list[Tensor]]) -> Iterator[_Portion]:
    size = sum(x.numel() for x in bucket.params)
    if size <= PORTION:
        whole = list(range(len(bucket.params)))
        yield _Portion(size, whole, [0] * len(whole), bucket.params, bucket.grads, bucket.slots, dict(targets))
        return
    portion = _Portion()
    for i, param in enumerate(bucket.params):
        columns = [param, bucket.grads[i], *(x[i] for x in bucket.slots.values()), *(x[i] for x in targets.values())]
        first = 0
        for pieces in zip(*_pieces(columns), strict=True):
            rest = iter(pieces)
            portion.indices.append(i)
            portion.firsts.append(first)
            first += pieces[0].numel()
            portion.params.append(next(rest))
            portion.grads.append(next(rest))
            for name in bucket.slots:
                portion.slots.setdefault(name, []).append(next(rest))
            for name in targets:
                portion.targets.setdefault(name, []).append(next(rest))
            portion.size += pieces[0].numel()
            if portion.size >= PORTION:
                yield portion
                portion = _Portion()
    if portion.indices:
        yield portion


def _pieces(columns: list[Tensor]) -> list[list[Tensor]]:
    """The same pieces of every column, flat where a tensor is cut; what is one number stands in each piece."""
    size, shape = columns[0].numel(), columns[0].shape
    whole = [x for x in columns if x.shape == shape]
    if size <= PORTION or not all(x.is_contiguous() for x in whole):
        return [[x] for x in columns]
    count = -(-size // PORTION)
    return [list(torch.split(x.view(-1), PORTION)) if x.shape == shape else [x] * count for x in columns]


def detached_from_inputs(bucket: Bucket, value: Value) -> Value:
    """A value that shares no memory with what was read, so that one assignment does not change another's value."""
    if any(value is read for read in (bucket.params, bucket.grads, *bucket.slots.values())):
        return [x.clone() for x in value]
    return value


def store(
    name: str,
    targets: list[Tensor],
    value: Value,
    ordinals: Sequence[int],
    firsts: Sequence[int],
    rounding: Rounding | None,
) -> None:
    """Write an element-ranked value into tensors or pieces of them, bfloat16 ones stochastically rounded if asked.

    Args:
        name: what is assigned: "p" or a slot.
        targets: the tensors, or pieces, of one type.
        value: what they become.
        ordinals: the places of their parameters in the optimizer.
        firsts: the indices of their first elements in the whole tensors.
        rounding: what the random bits depend on; None rounds to the nearest.
    """
    if rounding is None or targets[0].dtype is not torch.bfloat16:
        assign(targets, value)
        return
    seed, step, site = rounding.seed, rounding.step, rounding.sites[name]
    exact = [torch.empty_like(target, dtype=torch.float32) for target in targets]  # elements are numbered in its order
    assign(exact, value)
    for x, target, ordinal, first in zip(exact, targets, ordinals, firsts, strict=True):
        target.copy_(stochastically(x, seed=seed, step=step, ordinal=ordinal, site=site, first=first))


def assign(targets: list[Tensor], value: Value) -> None:
    """Write a value into tensors, in their types."""
    if isinstance(value, list) and isinstance(value[0], Tensor) and not torch.is_grad_enabled():
        torch._foreach_copy_(targets, value)
        return
    for i, target in enumerate(targets):
        part = pick(value, i)
        target.copy_(part) if isinstance(part, Tensor) else target.fill_(part)
