"""Where the tensors of an optimizer lie: read and checked at every step, so that a stale address is never written.

`Addresses.refresh` reads the address of every parameter, gradient and state entry anew, and compares type, shape and
order of each with what a kernel was made for. Native code does that several times faster than Python; where it cannot
be had (see `_native`), Python does the same.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping, Sequence
from operator import is_
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from descend.backends import compiler

SAME: Final = 0
MOVED: Final = 1
OTHER_GRADIENTS: Final = 2
STALE: Final = -1

_MANY: Final = 64
"""From so many parameters on, their objects do not stay in the nearest cache."""
_PLAIN: Final = (Tensor, torch.nn.Parameter)
_FUNCTIONS: Final = (
    "get_data_ptr",
    "get_dim",
    "get_sizes",
    "get_strides",
    "get_dtype",
    "get_device_type",
    "get_layout",
)


class _Torch(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in _FUNCTIONS] + [("offset", ctypes.c_int64)]


_POINTERS: Final = "params states keys held types dtypes shapes addresses active kept lines"


class _Table(ctypes.Structure):
    """What the native code reads of a table: see `Table` in addresses.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("count", "streams", "entries")),
        *((name, ctypes.c_void_p) for name in _POINTERS.split()),
        ("width", ctypes.c_int64),
    ]


class Addresses:
    """The addresses of the tensors that one kernel steps.

    Args:
        params: the parameters.
        states: the state of each, a dict.
        keys: the state entries: first those shaped like the parameter, then those of one number.
        streams: how many entries are shaped like the parameter.
        dtypes: of parameter, gradient, and the entries shaped like the parameter.

    Attributes:
        table: int64, per parameter the addresses of parameter, gradient and entries.
        active: whether each parameter has a gradient.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        states: Sequence[dict[str, Any]],
        keys: Sequence[str],
        streams: int,
        dtypes: Sequence[torch.dtype],
    ) -> None:
        self.params, self.states, self.keys, self.streams = list(params), list(states), list(keys), streams
        self.dtypes = list(dtypes)
        self.held = [state[key] for state in states for key in keys]
        self.table = np.zeros((len(self.params), 2 + len(self.keys)), dtype=np.int64)
        self.active = np.zeros(len(self.params), dtype=np.uint8)
        self._kept = np.zeros(len(self.params), dtype=np.int64)  # gradients that the native code holds
        self._gradients: list[Tensor | None] = []  # those that Python holds
        self._read_once()
        self._native = _native()
        self._reference: Any = None  # of what the native code reads, made when it is first called

    def _read_once(self) -> None:
        self._gradients = [param.grad for param in self.params]
        for i, (param, gradient) in enumerate(zip(self.params, self._gradients, strict=True)):
            self.active[i] = gradient is not None
            held = self.held[i * len(self.keys) : (i + 1) * len(self.keys)]
            at = [param.data_ptr(), 0 if gradient is None else gradient.data_ptr(), *(x.data_ptr() for x in held)]
            self.table[i] = at

    def _describe(self) -> None:
        """What the native code reads; the arrays live as long as this object."""
        layouts = [[x.ndim, *x.shape, *x.stride()] for x in self.params]
        self._shapes = np.array([number for layout in layouts for number in layout], dtype=np.int64)
        self._lines = self._lines_on_the_way()
        self._dtypes = np.array([_dtype_number(dtype) for dtype in self.dtypes], dtype=np.int64)
        self._pointers = [np.array([id(x) for x in held], dtype=np.int64) for held in (self.keys, self.held, _PLAIN)]
        self._description = _Table(
            len(self.params),
            self.streams,
            len(self.keys),
            id(self.params),
            id(self.states),
            *(array.ctypes.data for array in self._pointers),
            self._dtypes.ctypes.data,
            self._shapes.ctypes.data,
            self.table.ctypes.data,
            self.active.ctypes.data,
            self._kept.ctypes.data,
            self._lines.ctypes.data,
            self._lines.shape[1],
        )
        self._reference = ctypes.byref(self._description)

    def follow(self, states: Sequence[dict[str, Any]]) -> None:
        """Read the entries from these dicts from now on; they hold the same."""
        self.states[:], self._reference = states, None

    def _lines_on_the_way(self) -> npt.NDArray[np.int64]:
        """For every parameter, the addresses of what is read to find its tensors: hints to fetch them in time."""
        if len(self.params) < _MANY:
            return np.zeros((len(self.params), 0), dtype=np.int64)
        rows = []
        for i, (param, state) in enumerate(zip(self.params, self.states, strict=True)):
            held = self.held[i * len(self.keys) : (i + 1) * len(self.keys)]
            row = [id(state), *(line + offset for line in _pointers(id(state), 6) for offset in (0, 64, 128))]
            row += _pointers(param._cdata, 8)
            for x in [param, *([] if param.grad is None else [param.grad]), *held]:
                row += [id(x), x._cdata, x._cdata + 64, x._cdata + 128, x.untyped_storage()._cdata]
            rows.append(row)
        width = max(map(len, rows))
        return np.array([row + row[:1] * (width - len(row)) for row in rows], dtype=np.int64)

    def release(self) -> None:
        """Let go of the gradients, which are held from the time when their addresses are read."""
        self._gradients = []
        if self._native is not None and self._reference is not None:
            self._native.release(self._reference)

    def __del__(self) -> None:
        self.release()

    def refresh(self) -> int:
        """Read every address anew, and hold the gradients until `release`: other threads may drop them meanwhile.

        Returns:
            SAME, or MOVED and OTHER_GRADIENTS added up: other addresses; other parameters have a gradient. STALE if a
            tensor is no longer what the kernel was made for, or a state entry another one.
        """
        if self._native is None:
            return self._refresh_in_python()
        if self._reference is None:
            self._describe()
        return int(self._native.refresh(self._native.torch, self._reference, "grad"))

    def _refresh_in_python(self) -> int:
        before, active = self.table.copy(), self.active.copy()
        self._gradients = [param.grad for param in self.params]
        for i, (param, state) in enumerate(zip(self.params, self.states, strict=True)):
            gradient = self._gradients[i]
            entries = [state.get(key) for key in self.keys]
            held = self.held[i * len(self.keys) : (i + 1) * len(self.keys)]
            if any(entry is not known for entry, known in zip(entries, held, strict=True)):
                return STALE
            alike = [param, *([] if gradient is None else [gradient]), *held[: self.streams]]
            dtypes = [self.dtypes[0], *([] if gradient is None else self.dtypes[1:2]), *self.dtypes[2:]]
            if not all(is_dense_as(x, param, dtype) for x, dtype in zip(alike, dtypes, strict=True)):
                return STALE
            self.active[i] = gradient is not None
            self.table[i, 0] = param.data_ptr()
            self.table[i, 2:] = [x.data_ptr() for x in held]
            if gradient is not None:
                self.table[i, 1] = gradient.data_ptr()
        if (self.table[:, 2 + self.streams :] != before[:, 2 + self.streams :]).any():
            return STALE
        moved = MOVED if (self.table != before).any() else SAME
        return moved | (OTHER_GRADIENTS if (self.active != active).any() else SAME)


def _pointers(address: int, count: int) -> list[int]:
    """What looks like addresses among the first words of an object."""
    words = (ctypes.c_int64 * count).from_address(address)
    return [word for word in words if 2**32 < word < 2**47]


def is_plain(x: Tensor) -> bool:
    """Whether the elements of `x` are what stands in its memory: no subclass, nothing negated when it is read."""
    return type(x) in _PLAIN and not (x.is_inference() or x.is_neg() or x._is_zerotensor())


def is_dense_as(x: Tensor, param: Tensor, dtype: torch.dtype) -> bool:
    """Whether `x` is plain CPU memory of the type, in the shape and the memory order of `param`."""
    if not is_plain(x) or x.layout is not torch.strided or x.device.type != "cpu" or x.dtype != dtype:
        return False
    if x.shape != param.shape:
        return False
    return all(a == b for size, a, b in zip(x.shape, x.stride(), param.stride(), strict=True) if size > 1)


class Contents:
    """What an optimizer's groups and state hold, to notice when somebody has put something else there."""

    def __init__(self, groups: Sequence[dict[str, Any]], state: Mapping[Tensor, Any]) -> None:
        self._groups = list(groups)
        lists = [group["params"] for group in groups]
        self._lengths = list(map(len, lists))
        self._params = [param for held in lists for param in held]
        self._state, self._keys, self._entries = state, list(state), list(state.values())

    def is_unchanged(self, groups: Sequence[dict[str, Any]], state: Mapping[Tensor, Any]) -> bool:
        """Whether groups and state hold the same objects in the same order."""
        if state is not self._state or len(groups) != len(self._groups) or not all(map(is_, groups, self._groups)):
            return False
        lists = [group["params"] for group in groups]
        if list(map(len, lists)) != self._lengths:
            return False
        native = _native()
        if native is not None and isinstance(state, dict) and all(type(held) is list for held in lists):
            return bool(native.is_unchanged(lists, self._params, state, self._keys, self._entries))
        now = [[param for held in lists for param in held], list(state), list(state.values())]
        known = [self._params, self._keys, self._entries]
        return all(
            len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True)) for a, b in zip(now, known, strict=True)
        )


class _Native:
    """The functions of addresses.cpp."""

    def __init__(self, library: ctypes.CDLL, offset: int) -> None:
        functions = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        pointers = [ctypes.cast(getattr(functions, f"aoti_torch_{name}"), ctypes.c_void_p) for name in _FUNCTIONS]
        self._torch = _Torch(*(pointer.value for pointer in pointers), offset)
        self.torch = ctypes.byref(self._torch)
        holding = ctypes.PyDLL(library._name, handle=library._handle)  # holds the interpreter's lock while it runs
        self.refresh = holding.refresh
        self.refresh.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.py_object]
        self.release = holding.release
        self.release.argtypes, self.release.restype = [ctypes.c_void_p], None
        self.is_unchanged = holding.is_unchanged
        self.is_unchanged.argtypes = [ctypes.py_object] * 5


@functools.cache
def _native() -> _Native | None:
    """The native functions; None where Python must do: no compiler, or tensors are not where they are looked for."""
    offset = _offset_of_tensors()
    if offset is None or compiler.unavailable() is not None:
        return None
    try:
        return _Native(compiler.load((Path(__file__).parent / "addresses.cpp").read_text()), offset)
    except (compiler.CompilationError, OSError, AttributeError):
        return None


def _offset_of_tensors() -> int | None:
    """Where in the Python object of a tensor its C++ tensor stands, if that is the same for every tensor looked at."""
    offsets: set[tuple[int, ...]] = set()
    base = torch.zeros(4, 3)
    for tensor in (base, base[1:], torch.nn.Parameter(torch.zeros(2)), torch.zeros((), dtype=torch.float64)):
        count = type(tensor).__basicsize__ // 8
        words = (ctypes.c_int64 * count).from_address(id(tensor))
        offsets.add(tuple(8 * i for i in range(2, count) if words[i] == tensor._cdata))
    (places, *others) = offsets
    return places[0] if not others and len(places) == 1 else None


@functools.cache
def _dtype_number(dtype: torch.dtype) -> int:
    """torch's number of a type in its C interface."""
    functions = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    return int(getattr(functions, f"aoti_torch_dtype_{str(dtype).removeprefix('torch.')}")())
