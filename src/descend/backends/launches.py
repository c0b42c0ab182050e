"""Launches: one call of a kernel, with the scalars that the host computes for it and the memory that it works in."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from descend.backends import openmp
from descend.backends.eager import pick
from descend.backends.kernels import Kernel
from descend.backends.opaque import OPAQUE
from descend.backends.operations import HOST, window_length, window_operation
from descend.backends.plan import follows_reduction
from descend.expr import OPERATIONS, WINDOWS, Expr, Rank, leaf, slot_of, walk

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

CHUNK: Final = 16384  # as in driver.hpp
PER_TENSOR: Final = 256
"""What a tensor costs beside its elements, counted in elements: threads share the sum of it all evenly."""
_WORTH_THREADS: Final = 2**16
"""Work below this runs on one thread: starting a team takes as long."""
_ADVANCING: Final = ("t", "clock", "slot", "kept")
"""Leaves that are others at every step."""
_NOTHING: Final[Mapping[Expr, Floats]] = {}


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
        ("phase", ctypes.c_int64),
    ]


@dataclass(frozen=True)
class Numbers:
    """What the host's scalars of a step are computed from.

    Attributes:
        by_group: for each hyper-parameter, its values by param group; the same object while none has changed.
        varying: the values of what the optimizer's options add, which may differ at every step.
        seed, clock: what random numbers are a function of.
        threads: how many may work.
    """

    by_group: Mapping[Expr, Floats]
    varying: Mapping[Expr, float]
    seed: int
    clock: int
    threads: int


class Layout(Protocol):
    """How parameters share scalars.

    Attributes:
        belongs: the bucket of each parameter.
        bucket_groups, bucket_steps: the param group of each bucket, and how often it was stepped before.
        numel, rows_of_tensors: the parameters' numbers of elements, and the sizes of their first dimensions.
    """

    belongs: Ints
    bucket_groups: Ints
    bucket_steps: Ints
    numel: Ints
    rows_of_tensors: Ints

    def scalar_slot(self, name: str) -> npt.NDArray[Any]:
        """The values of a slot of one number per parameter."""

    def shared_slot(self, name: str) -> Any:
        """The value of a slot that exists once per optimizer: a number, or a tuple of them."""

    def tensors(self, stream: str) -> list[Tensor]:
        """The tensors of a stream, one per row."""


class Launch:
    """A kernel, ready to be called on the rows of a table."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel, plan = kernel, kernel.plan
        self.order = list(walk([*plan.bucket_scalars, *plan.tensor_scalars, *plan.host_results.values()]))
        self._rounded = {
            root
            for name, root in plan.host_results.items()
            if root.args and kernel.storage[name] == "float32"  # what is stored is the truth, for its readers too
        }

    def lay_out(self, layout: Layout, fields: Ints, addresses: Ints) -> None:
        """Take in the rows.

        Args:
            layout: how the parameters share scalars.
            fields: what stands before the addresses in each row, see `Tensor` in driver.hpp.
            addresses: of the kernel's streams.
        """
        plan, count = self.kernel.plan, len(fields)
        self.layout, self._source = layout, _NOTHING
        self._known: dict[Expr, Any] = {}
        self.rows: Ints = np.ascontiguousarray(np.hstack([fields, addresses]))
        chunks = int((-(-fields[:, 0] // CHUNK)).sum())
        reductions = max((len(sweep.reductions) for sweep in plan.passes), default=0)
        self._bucket: Floats = np.empty((len(layout.bucket_groups), len(plan.bucket_scalars)))
        self._tensor: Floats = np.empty((count, len(plan.tensor_scalars)))
        self._sums: Floats = np.zeros(chunks * reductions)
        self.values: Floats = np.zeros((count, len(plan.tensor_values)))
        self._shared: Floats = np.zeros(len(plan.shared_values))
        self.work = int(fields[-1, 3] + fields[-1, 0] + PER_TENSOR) if count else 0
        arrays = (self._bucket, self._tensor, self._sums, self.values, self._shared)
        self._call = Call(self.rows.ctypes.data, count, self.work, *(array.ctypes.data for array in arrays))
        self._reference = ctypes.byref(self._call)

    def point(self, addresses: Ints) -> None:
        """Take in other addresses of the same tensors."""
        self.rows[:, -addresses.shape[1] :] = addresses

    def __call__(self, numbers: Numbers) -> dict[str, Any]:
        """Run the kernel, and return the new values of slots of one number per parameter or per optimizer."""
        self.prepare(numbers)
        return self.finish()

    def prepare(self, numbers: Numbers) -> None:
        """Compute scalars and whatever torch is asked for: all phases but the last, before anything is changed."""
        self._compute_scalars(numbers)
        call = self._call
        call.seed, call.step = numbers.seed, numbers.clock
        team = openmp.team(numbers.threads if self.work >= _WORTH_THREADS else 1)
        call.parallel, call.number, call.size, call.threads = team
        for phase, calls in enumerate(self.kernel.plan.phases[:-1]):
            call.phase = phase
            self.kernel.function(self._reference)
            for node in calls:
                self._ask_torch(node)

    def finish(self) -> dict[str, Any]:
        """Run the last phase, which stores, and return what `__call__` does."""
        plan = self.kernel.plan
        self._call.phase = len(plan.phases) - 1
        self.kernel.function(self._reference)
        results = {name: self._per_tensor(root) for name, root in plan.host_results.items()}
        results.update({name: self._kept(root) for name, root in plan.kernel_results.items()})
        return results

    def _ask_torch(self, node: Expr) -> None:
        """Compute an opaque call, of every tensor at its place in the scratch memory."""
        plan, whole = self.kernel.plan, OPERATIONS[node.op].whole
        targets = self.layout.tensors(plan.stream_of(node))
        others = [self.layout.tensors(plan.stream_of(a)) for a in node.args[1:whole]]
        numbers = [self._number(a) for a in node.args[whole:]]
        for i, (target, *of) in enumerate(zip(targets, *others, strict=True)):
            target.copy_(OPAQUE[node.op](target, *of, *(pick(number, i) for number in numbers)))

    def _number(self, node: Expr) -> Any:
        """A scalar's value, one for all tensors or one for each."""
        if follows_reduction(node):
            return self._kept(node)
        return float(node.value) if node.op == "constant" else self._per_tensor(node)  # type: ignore[arg-type]

    def _kept(self, node: Expr) -> Any:
        """What the kernel has computed for a scalar: one value per tensor, or one for all."""
        plan = self.kernel.plan
        for nodes, values in ((plan.tensor_values, self.values.T), (plan.shared_values, self._shared)):
            for place, kept in enumerate(nodes):
                if kept is node:
                    return values[place]
        raise KeyError(node)

    # the scalars that follow no reduction: on the host, in float64, for all buckets and tensors at a time

    def _compute_scalars(self, numbers: Numbers) -> None:
        """Compute what has changed since the last call, into the tables that the kernel reads."""
        with np.errstate(all="ignore"):
            if self._source is not numbers.by_group:
                self._sort(numbers)
            for node in self._varying:
                self._known[node] = self._evaluate(node, numbers)
        for target, column, node in self._columns:
            target[:, column] = self._known[node]

    def _sort(self, numbers: Numbers) -> None:
        """Tell what changes at every step from what does not, and compute the latter."""
        plan, varies = self.kernel.plan, set(numbers.varying)
        self._varying: list[Expr] = []
        for node in self.order:
            if node in varies or node.op in _ADVANCING or any(a in varies for a in node.args):
                varies.add(node)
                self._varying.append(node)
            else:
                self._known[node] = self._evaluate(node, numbers)
        columns = [(self._bucket, i, node) for i, node in enumerate(plan.bucket_scalars)]
        columns += [(self._tensor, i, node) for i, node in enumerate(plan.tensor_scalars)]
        for target, column, node in columns:
            if node not in varies:
                target[:, column] = self._known[node]
        self._columns = [place for place in columns if place[2] in varies]
        self._source = numbers.by_group

    def _evaluate(self, node: Expr, numbers: Numbers) -> Any:
        layout = self.layout
        if node.op in WINDOWS:
            return window_operation(node, [self._known[a] for a in node.args])
        if node.op in OPERATIONS:
            of = self._per_tensor if node.rank is Rank.TENSOR else self._known.__getitem__
            value: Any = HOST[node.op](*map(of, node.args))
            return value.astype(np.float32).astype(np.float64) if node in self._rounded else value
        if node.op == "constant":
            return np.float64(node.value)  # type: ignore[arg-type]
        if node.op == "t":
            return layout.bucket_steps + 1.0
        if node.op == "clock":
            return np.float64(numbers.clock + 1)
        if node.op == "numel":
            return layout.numel.astype(np.float64)
        if node.op == "kept":  # what stays of a window when a value is pushed
            window = layout.shared_slot(slot_of(node)[0])
            return window[len(window) == window_length(node) :]
        if node.op == "rows":
            return layout.rows_of_tensors.astype(np.float64)
        if node.op == "slot":
            name = slot_of(node)[0]
            is_shared = node.rank is Rank.OPTIMIZER
            return layout.shared_slot(name) if is_shared else layout.scalar_slot(name).astype(np.float64)
        if node.op == "common":
            return numbers.by_group[leaf("hyper", node.value)][layout.bucket_groups[0]]
        if node in numbers.varying:
            return np.float64(numbers.varying[node])
        return numbers.by_group[node][layout.bucket_groups]

    def _per_tensor(self, node: Expr) -> Any:
        value = self._known[node]
        return value[self.layout.belongs] if node.rank is Rank.BUCKET and np.ndim(value) else value
