"""Tables: every tensor that one kernel steps, with the scalars that the host computes for it.

A table lives from step to step. At each step it reads all addresses anew; then one call steps everything in it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from descend.backends import openmp
from descend.backends.addresses import OTHER_GRADIENTS, STALE, Addresses
from descend.backends.kernels import Kernel
from descend.backends.operations import HOST
from descend.expr import OPERATIONS, Expr, Rank, slot_of, walk

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Columns = Mapping[str, npt.NDArray[Any]]

_CHUNK: Final = 16384  # as in driver.hpp
_PER_TENSOR: Final = 256
"""What a tensor costs beside its elements, counted in elements: threads share the sum of it all evenly."""
_WORTH_THREADS: Final = 2**16
"""Work below this runs on one thread: starting a team takes as long."""
EXACT_IN_FLOAT32: Final = 2**24
"""Step counts up to here are exact in float32."""
_FIELDS: Final = 5
"""The numbers that stand before the addresses in a row: see `Tensor` in driver.hpp."""


class Call(ctypes.Structure):
    """What a kernel is called with: see `Call` in driver.hpp."""

    _fields_ = [
        ("rows", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("work", ctypes.c_int64),
        ("bucket", ctypes.c_void_p),
        ("tensor", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("shared", ctypes.c_void_p),
        ("seed", ctypes.c_uint64),
        ("step", ctypes.c_uint64),
        ("parallel", ctypes.c_void_p),
        ("number", ctypes.c_void_p),
        ("size", ctypes.c_void_p),
        ("threads", ctypes.c_int64),
    ]


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


@dataclass(frozen=True)
class Numbers:
    """What the host's scalars of a step are computed from.

    Attributes:
        by_group: for each hyper-parameter, its values by param group.
        seed, clock: what random numbers are a function of.
        threads: how many may work.
    """

    by_group: Mapping[Expr, Floats]
    seed: int
    clock: int
    threads: int


class Table:
    """Every tensor that one kernel steps.

    Step counts and slots of one number per parameter become views into one tensor for the whole table.

    Args:
        kernel: what steps them.
        members: the parameters, in the order of their ordinals.
        norms: the kernel that measures their gradients, where that is needed.
    """

    def __init__(self, kernel: Kernel, members: Sequence[Member], norms: Kernel | None = None) -> None:
        self.kernel, self.members = kernel, list(members)
        slots = kernel.plan.formula.slots
        self.counts_steps = kernel.plan.formula.rule.counts_steps
        self.steps: Ints = np.array([member.steps for member in members], dtype=np.int64)
        self.groups: Ints = np.array([member.group for member in members], dtype=np.int64)
        scalars = {name: slot.key for name, slot in slots.items() if slot.shape == "scalar"}
        single = {**scalars, **({"t": "step"} if self.counts_steps else {})}
        self.columns = {name: self._gather(key) for name, key in single.items()}
        streams = [name for name in kernel.plan.streams if name not in ("p", "g")]
        self.streams = ["p", "g", *streams]
        self.addresses = Addresses(
            [member.param for member in members],
            [member.state for member in members],
            [*(slots[name].key for name in streams), *single.values()],
            len(streams),
            [getattr(torch, kernel.storage[name]) for name in self.streams],
        )
        self._is_attached = False
        self._step = _Launch(kernel)
        self._norms = _Launch(norms) if norms else None
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

    def attach(self, state: MutableMapping[Tensor, dict[str, Any]]) -> None:
        """Enter into the optimizer's state what the members' own dicts hold, and follow that from then on."""
        if self._is_attached:
            return
        self._is_attached = True
        for member in self.members:
            entry = state[member.param]
            entry.update(member.state)
            member.state = entry
        self.addresses.states[:] = [member.state for member in self.members]

    @property
    def reads(self) -> set[Expr]:
        """The hyper-parameters that the host's scalars are computed from."""
        launches = [launch for launch in (self._step, self._norms) if launch is not None]
        return {node for launch in launches for node in launch.order if node.op == "hyper"}

    def refresh(self) -> int:
        """Read all addresses anew.

        Returns:
            STALE if the table no longer fits what the optimizer holds, SAME, or another number if addresses changed.
        """
        change = self.addresses.refresh()
        if change == STALE or (self.counts_steps and not self._counts_fit()):
            return STALE
        if change & OTHER_GRADIENTS:
            self._lay_out()
        elif change:
            self._point()
        return change

    def _counts_fit(self) -> bool:
        """Whether the stored step counts are those of this table, and the next ones can be stored."""
        stored = self.columns["t"]
        room = stored.dtype == np.float64 or self.steps.max() + 1 < EXACT_IN_FLOAT32
        return bool(room and np.array_equal(stored, self.steps))

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
        fields[1:, 3] = np.cumsum(numel + _PER_TENSOR)[:-1]
        fields[1:, 4] = np.cumsum(-(-numel // _CHUNK))[:-1]
        self.fields, self.numel = fields, numel
        self.params = [self.members[i].param for i in active]
        self._point()

    def _point(self) -> None:
        for launch in (self._step, self._norms):
            if launch is not None:
                at = [self.streams.index(name) for name in launch.kernel.plan.streams]
                launch.lay_out(self.fields, self.addresses.table[self.chosen][:, at])

    def squared_norms(self, numbers: Numbers) -> dict[int, Tensor]:
        """The sums of the squares of the gradients that the options let in, in float64, by ordinal."""
        assert self._norms is not None
        self._norms(self, numbers)
        norms = torch.from_numpy(self._norms.values[:, 0].copy())
        return dict(zip(self.fields[:, 2].tolist(), norms.square().unbind(), strict=True))

    def step(self, numbers: Numbers) -> None:
        """Take one step with everything that has a gradient."""
        if not len(self.active):
            return
        for name, value in self._step(self, numbers).items():
            self.columns[name][self.chosen] = value
        self.steps[self.chosen] += 1
        self.bucket_steps = self.bucket_steps + 1
        if self.counts_steps:
            self.columns["t"][self.chosen] = self.steps[self.chosen]
        torch.autograd.graph.increment_version(self.params)  # autograd notices what was changed behind its back


class _Launch:
    """A kernel with the memory that it works in."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        plan = kernel.plan
        self.order = list(walk([*plan.bucket_scalars, *plan.tensor_scalars, *plan.host_results.values()]))
        self._rounded = {
            root
            for name, root in plan.host_results.items()
            if root.args and kernel.storage[name] == "float32"  # what is stored is the truth, for its readers too
        }

    def lay_out(self, fields: Ints, addresses: Ints) -> None:
        """Take in the rows: their fields and the addresses of the kernel's streams."""
        plan = self.kernel.plan
        self.rows: Ints = np.ascontiguousarray(np.hstack([fields, addresses]))
        self.work = int(fields[-1, 3] + fields[-1, 0] + _PER_TENSOR) if len(fields) else 0
        chunks = int((-(-fields[:, 0] // _CHUNK)).sum())
        reductions = max((len(sweep.reductions) for sweep in plan.passes), default=0)
        self.sums: Floats = np.zeros(chunks * reductions)
        self.values: Floats = np.zeros((len(fields), len(plan.tensor_values)))
        self.shared: Floats = np.zeros(len(plan.shared_values))

    def __call__(self, table: Table, numbers: Numbers) -> dict[str, Any]:
        """Run the kernel, and return the new values of slots of one number per parameter."""
        plan, scalars = self.kernel.plan, self._host_scalars(table, numbers)

        def per_tensor(node: Expr) -> Any:
            return scalars[node][table.belongs] if node.rank is Rank.BUCKET else scalars[node]

        bucket: Floats = np.empty((len(table.bucket_groups), len(plan.bucket_scalars)))
        tensor: Floats = np.empty((len(self.rows), len(plan.tensor_scalars)))
        for column, node in enumerate(plan.bucket_scalars):
            bucket[:, column] = scalars[node]
        for column, node in enumerate(plan.tensor_scalars):
            tensor[:, column] = scalars[node]
        arrays = (bucket, tensor, self.sums, self.values, self.shared)
        team = openmp.team(numbers.threads if self.work >= _WORTH_THREADS else 1)
        where = [array.ctypes.data for array in arrays]
        call = Call(self.rows.ctypes.data, len(self.rows), self.work, *where, numbers.seed, numbers.clock, *team)
        self.kernel.function(ctypes.byref(call))
        results = {name: per_tensor(root) for name, root in plan.host_results.items()}
        results.update({name: self._kept(root) for name, root in plan.kernel_results.items()})
        return results

    def _kept(self, node: Expr) -> Any:
        """What the kernel has computed for a scalar: one value per tensor, or one for all."""
        plan = self.kernel.plan
        for nodes, values in ((plan.tensor_values, self.values.T), (plan.shared_values, self.shared)):
            for place, kept in enumerate(nodes):
                if kept is node:
                    return values[place]
        raise KeyError(node)

    def _host_scalars(self, table: Table, numbers: Numbers) -> dict[Expr, Any]:
        """The scalars that follow no reduction, in float64, for all buckets and tensors at a time."""
        values: dict[Expr, Any] = {}
        with np.errstate(all="ignore"):
            for node in self.order:
                if node.op in OPERATIONS:
                    args = [values[a] for a in node.args]
                    if node.rank is Rank.TENSOR:
                        lower = [a.rank is Rank.BUCKET for a in node.args]
                        args = [x[table.belongs] if low else x for x, low in zip(args, lower, strict=True)]
                    values[node] = HOST[node.op](*args)
                elif node.op == "constant":
                    values[node] = np.float64(node.value)  # type: ignore[arg-type]
                elif node.op == "t":
                    values[node] = table.bucket_steps + 1.0
                elif node.op == "numel":
                    values[node] = table.numel.astype(np.float64)
                elif node.op == "slot":
                    values[node] = table.columns[slot_of(node)[0]][table.chosen].astype(np.float64)
                else:
                    values[node] = numbers.by_group[node][table.bucket_groups]
                if node in self._rounded:
                    values[node] = np.asarray(values[node]).astype(np.float32).astype(np.float64)
        return values


def overlapping(tables: Sequence[Table]) -> set[int]:
    """The ids of parameters with a tensor whose memory is also that of another, one of the two being written."""
    spans = [[x.reshape(-1) for x in table.spans()] for table in tables]
    if not spans:
        return set()
    starts, ends, written = (np.concatenate(parts) for parts in zip(*spans, strict=True))
    owners = np.concatenate(
        [np.repeat([id(member.param) for member in table.members], len(table.streams)) for table in tables]
    )
    some = starts < ends
    own = np.flatnonzero(some & written)
    own = own[np.argsort(starts[own], kind="stable")]
    reach = np.maximum.accumulate(ends[own])
    found = owners[own[1:][starts[own[1:]] < reach[:-1]]].tolist()
    others = np.flatnonzero(some & ~written)
    before = np.searchsorted(starts[own], ends[others]) - 1
    met = (before >= 0) & (reach[np.maximum(before, 0)] > starts[others]) if len(own) else np.zeros(len(others), bool)
    return {*found, *owners[others[met]].tolist()}
