"""Tables: every tensor that one kernel steps, with the scalars that the host computes for it.

A table lives from step to step. At each step it reads all addresses anew; then one call steps everything in it.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from descend.backends import openmp
from descend.backends.addresses import OTHER_GRADIENTS, STALE, Addresses
from descend.backends.eager import EXACT_IN_FLOAT32
from descend.backends.kernels import Kernel
from descend.backends.launches import CHUNK, PER_TENSOR, Ints, Launch, Numbers
from descend.backends.operations import window_length
from descend.backends.storage import rows_of
from descend.expr import Expr, leaf
from descend.rule import Rule

_FIELDS: Final = 5
"""The numbers that stand before the addresses in a row: see `Tensor` in driver.hpp."""


@dataclass
class Member:
    """A parameter in a table.

    Attributes:
        param, state: the parameter and its state, which holds every entry of the formula.
        group: the index of its param group.
        ordinal: its place in the optimizer.
        steps: how often it was stepped before.
    """

    param: Tensor
    state: dict[str, Any]
    group: int
    ordinal: int
    steps: int


class Table:
    """Every tensor that one kernel steps.

    Step counts and slots of one number per parameter become views into one tensor for the whole table.

    Args:
        kernel: what steps them.
        members: the parameters, in the order of their ordinals.
        norms: the kernel that measures their gradients, where that is needed.
    """

    def __init__(self, kernel: Kernel, members: Sequence[Member], norms: Kernel | None = None) -> None:
        openmp.find()  # before a package with a runtime of its own is imported
        self.kernel, self.members = kernel, list(members)
        slots = kernel.plan.formula.slots
        self.counts_steps = kernel.plan.formula.rule.counts_steps
        self.steps: Ints = np.array([member.steps for member in members], dtype=np.int64)
        self.groups: Ints = np.array([member.group for member in members], dtype=np.int64)
        scalars = {name: slot.key for name, slot in slots.items() if slot.shape == "scalar"}
        single = {**scalars, **({"t": "step"} if self.counts_steps else {})}
        self.columns = {name: self._gather(key) for name, key in single.items()}
        streams = [name for name in kernel.plan.streams if name in slots]
        self.streams = ["p", "g", *streams]
        self.addresses = Addresses(
            [member.param for member in members],
            [member.state for member in members],
            [*(slots[name].key for name in streams), *single.values()],
            len(streams),
            [getattr(torch, kernel.storage[name]) for name in self.streams],
        )
        self._is_attached = False
        self._shared: Mapping[str, Any] = {}
        self._singles = [member.param for member in members if member.param.numel() == 1]
        self._step, self._norms = Launch(kernel), Launch(norms) if norms else None
        launches = [launch for launch in (self._step, self._norms) if launch is not None]
        self._scratch = {name: self._scratch_memory(name) for name in kernel.plan.scratch}
        places = {name: place for place, name in enumerate([*self.streams, *self._scratch])}
        self._launches = [(launch, [places[name] for name in launch.kernel.plan.streams]) for launch in launches]
        self._lay_out()

    def _gather(self, key: str) -> npt.NDArray[Any]:
        """Make the entries under a key views into one tensor, and return that as an array."""
        held = [member.state[key] for member in self.members]
        is_large = key == "step" and self.steps.max() + 1 >= EXACT_IN_FLOAT32
        dtype = torch.float64 if is_large or any(x.dtype == torch.float64 for x in held) else held[0].dtype
        together = torch.stack([x.detach().to(dtype).reshape(()) for x in held])
        for member, view in zip(self.members, together.unbind(), strict=True):
            member.state[key] = view
        return together.numpy()

    def _scratch_memory(self, name: str) -> list[Tensor]:
        """A tensor for each parameter, through which an opaque call gets and gives."""
        dtype = getattr(torch, self.kernel.storage.of(self.kernel.plan, name))
        return [torch.empty_like(member.param, dtype=dtype, requires_grad=False) for member in self.members]

    def attach(self, state: MutableMapping[Tensor, dict[str, Any]]) -> None:
        """Enter into the optimizer's state what the members' own dicts hold, and follow that from then on."""
        if self._is_attached:
            return
        self._is_attached = True
        for member in self.members:
            if member.state:
                entry = state[member.param]
                entry.update(member.state)
                member.state = entry
        self.addresses.follow([member.state for member in self.members])

    @property
    def rule(self) -> Rule:
        """What steps them."""
        return self.kernel.plan.formula.rule

    @property
    def reads(self) -> set[Expr]:
        """The hyper-parameters that the host's scalars are computed from."""
        read = (node for launch, _ in self._launches for node in launch.order)
        return {leaf("hyper", node.value) for node in read if node.op in ("hyper", "common")}

    def _gradients_are_plain(self) -> bool:
        """Whether no gradient is negated when it is read; dense ones can be so only where they are single numbers."""
        gradients = (param.grad for param in self._singles)
        return not any(gradient is not None and gradient.is_neg() for gradient in gradients)

    def refresh(self) -> int:
        """Read all addresses anew.

        Returns:
            STALE if the table no longer fits what the optimizer holds, SAME, or another number if addresses changed.
        """
        change = self.addresses.refresh()
        if change == STALE or (self.counts_steps and not self._counts_fit()) or not self._gradients_are_plain():
            return STALE
        if change & OTHER_GRADIENTS:
            self._lay_out()
        elif change:
            self._point()
        return change

    def _counts_fit(self) -> bool:
        """Whether the stored step counts are those of this table, and the next ones can be stored."""
        stored = self.columns["t"]
        has_room = stored.dtype == np.float64 or self.bucket_steps.max(initial=0) + 1 < EXACT_IN_FLOAT32
        return bool(has_room and (stored == self.steps).all())

    def spans(self) -> tuple[Ints, Ints, npt.NDArray[np.bool_]]:
        """Where the tensors of every parameter begin and end, and which of them are written."""
        sizes = np.array([getattr(torch, self.kernel.storage[name]).itemsize for name in self.streams])
        lengths = np.array([member.param.numel() for member in self.members])[:, None] * sizes
        lengths[self.addresses.active == 0, 1] = 0
        starts = self.addresses.table[:, : len(self.streams)]
        written = np.array([name in self.kernel.plan.stored for name in self.streams])
        return starts, starts + lengths, np.broadcast_to(written, starts.shape)

    def _lay_out(self) -> None:
        """Choose the parameters that have a gradient, and share their scalars out."""
        active: Ints = np.flatnonzero(self.addresses.active)
        self.active = active
        self.chosen = slice(None) if len(active) == len(self.members) else active
        numel: Ints = np.array([self.members[i].param.numel() for i in active], dtype=np.int64)
        fields: Ints = np.zeros((len(active), _FIELDS), dtype=np.int64)
        fields[:, 0] = numel
        pairs = np.stack([self.groups[active], self.steps[active]])
        buckets, belongs = np.unique(pairs, axis=1, return_inverse=True)
        self.bucket_groups, self.bucket_steps = buckets[0], buckets[1]
        fields[:, 1] = self.belongs = belongs.reshape(-1)
        fields[:, 2] = [self.members[i].ordinal for i in active]
        fields[1:, 3] = np.cumsum(numel + PER_TENSOR)[:-1]
        fields[1:, 4] = np.cumsum(-(-numel // CHUNK))[:-1]
        self.fields, self.numel = fields, numel
        self.params = [self.members[i].param for i in active]
        self.rows_of_tensors: Ints = np.array([rows_of(param) for param in self.params], dtype=np.int64)
        for launch, at in self._launches:
            launch.lay_out(self, fields, self._placed()[:, at])

    def _point(self) -> None:
        for launch, at in self._launches:
            launch.point(self._placed()[:, at])

    def _placed(self) -> Ints:
        """The addresses of every stream, of those that have a gradient."""
        streams = self.addresses.table[:, : len(self.streams)]
        scratch = [[x.data_ptr() for x in tensors] for tensors in self._scratch.values()]
        together = np.hstack([streams, np.array(scratch, dtype=np.int64).T]) if scratch else streams
        placed: Ints = together[self.chosen]
        return placed

    def tensors(self, stream: str) -> list[Tensor]:
        """The tensors of a stream of parameters, state or scratch memory, of those that have a gradient."""
        if stream in self._scratch:
            return [self._scratch[stream][i] for i in self.active]
        slots = self.kernel.plan.formula.slots
        members = [self.members[i] for i in self.active]
        return [member.param if stream == "p" else member.state[slots[stream].key] for member in members]

    def scalar_slot(self, name: str) -> npt.NDArray[Any]:
        """The values of a slot of one number per parameter, of those that have a gradient."""
        return self.columns[name][self.chosen]

    def shared_slot(self, name: str) -> Any:
        """The value of a slot that exists once per optimizer, before the step that is being taken."""
        return self._shared[name]

    def squared_norms(self, numbers: Numbers) -> dict[int, Tensor]:
        """The sums of the squares of the gradients that the options let in, in float64, by ordinal."""
        assert self._norms is not None
        self._norms(numbers)
        norms = torch.from_numpy(self._norms.values[:, 0].copy())
        return dict(zip(self.fields[:, 2].tolist(), norms.square().unbind(), strict=True))

    def prepare(self, numbers: Numbers, shared: Mapping[str, Any]) -> None:
        """Compute what a step needs and what may raise; nothing of the optimizer's changes.

        Args:
            numbers: what the host's scalars are computed from.
            shared: the values of the slots that exist once per optimizer.
        """
        self._shared = shared
        if len(self.active):
            self._step.prepare(numbers)

    def step(self) -> dict[str, Any]:
        """Take the prepared step with everything that has a gradient.

        Returns:
            The new values of the slots that exist once per optimizer.
        """
        new = self._step_active() if len(self.active) else {}
        self.addresses.release()
        return new

    def _step_active(self) -> dict[str, Any]:
        new = self._step.finish()
        slots, shared = self.kernel.plan.formula.slots, {}
        for name, value in new.items():
            if name in self.columns:
                self.columns[name][self.chosen] = value
            else:
                shared[name] = self._pushed(name, value) if slots[name].is_window else value
        self.steps[self.chosen] += 1
        self.bucket_steps = self.bucket_steps + 1
        if self.counts_steps:
            self.columns["t"][self.chosen] = self.steps[self.chosen]
        torch.autograd.graph.increment_version(self.params)  # autograd notices what was changed behind its back
        return shared

    def _pushed(self, name: str, value: Any) -> tuple[Any, ...]:
        """The window of a slot with one more value."""
        slot = leaf("slot", (name, self.kernel.plan.formula.slots[name].shape))
        pushed: tuple[Any, ...] = (*self._shared[name], value)[-window_length(slot) :]
        return pushed


def overlapping(tables: Sequence[Table]) -> set[int]:
    """The ids of parameters with a tensor whose memory is also that of another, one of the two being written."""
    spans = [[x.reshape(-1) for x in table.spans()] for table in tables]
    if not spans:
        return set()
    starts, ends, written = (np.concatenate(parts) for parts in zip(*spans, strict=True))
    owners = np.concatenate(
        [np.repeat([id(member.param) for member in table.members], len(table.streams)) for table in tables]
    )
    order = np.flatnonzero(starts < ends)
    order = order[np.argsort(starts[order], kind="stable")]
    reach = np.maximum.accumulate(ends[order])
    apart = starts[order[1:]] >= reach[:-1]
    if apart.all():
        return set()
    clusters = np.concatenate([[0], np.cumsum(apart)])  # of spans that touch one another
    shared = (np.bincount(clusters) > 1) & (np.bincount(clusters, weights=written[order]) > 0)
    return set(owners[order[shared[clusters]]].tolist())
