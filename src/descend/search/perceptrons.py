"""Many perceptrons with one hidden layer, one row of a matrix each, on one batch: native gradients and validation.

What torch's batched matrix products do in many calls is one here, and several times faster for small layers. A row is
computed alone, so that its bits depend neither on the rows beside it nor on the number of threads.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from descend.backends import compiler

LANES: Final = 16
"""The number of inputs, and that of examples where gradients are wanted, is a multiple of this."""

_NUMBERS: Final = ("inputs", "hidden", "classes", "examples", "valid")
_POINTERS: Final = ("params", "grads", "across", "down", "targets", "scratch", "losses", "accuracies")
_PRELUDE: Final = Path(compiler.__file__).with_name("prelude.hpp")
_KERNEL: Final = Path(__file__).with_name("perceptrons.cpp")


class _Call(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in _NUMBERS),
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in ("count", "stride", "grad_stride")),
    ]


@dataclass(frozen=True)
class Examples:
    """A batch, laid out for the kernel and padded with zeros.

    Attributes:
        across: inputs x examples.
        down: examples x inputs.
        targets: the classes, int32.
        count: the number of examples without the padding.
    """

    across: Tensor
    down: Tensor
    targets: Tensor
    count: int


def examples(inputs: Tensor, targets: Tensor) -> Examples:
    """Lay out a batch, examples x inputs and classes."""
    down = functional.pad(inputs, (0, 0, 0, -len(inputs) % LANES)).contiguous()
    return Examples(down.T.contiguous(), down, functional.pad(targets, (0, len(down) - len(inputs))).int(), len(inputs))


def is_available(inputs: int, batch_size: int) -> bool:
    """Whether gradients on such batches can be computed here."""
    return inputs % LANES == 0 and batch_size % LANES == 0 and _native() is not None


def gradients(params: Tensor, grads: Tensor, batch: Examples, sizes: tuple[int, int, int]) -> Tensor:
    """Write each row's gradient of the mean cross entropy into `grads`.

    Args:
        params: rows of weights, of layers outputs x (inputs + 1) with the bias as last column.
        grads: takes the gradients.
        batch: the same for all rows.
        sizes: inputs, hidden units, classes.

    Returns:
        The mean cross entropy of each row, in float64.
    """
    return _run(params, grads, batch, sizes)[0]


def evaluate(params: Tensor, batch: Examples, sizes: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """The mean cross entropy and the share of right classes of each row, in float64."""
    return _run(params, None, batch, sizes)


def _run(params: Tensor, grads: Tensor | None, batch: Examples, sizes: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    inputs, hidden, classes = sizes
    width = hidden * (inputs + 1) + classes * (hidden + 1)
    padded = len(batch.down)
    for x in (params, grads):
        assert x is None or (x.shape == (len(params), width) and x.stride(1) == 1 and x.dtype == torch.float32)
    assert grads is None or batch.count == padded
    losses, accuracies = torch.zeros(2, len(params), dtype=torch.float64)
    scratch = torch.empty((2 * hidden + classes + 2) * padded)
    call = _Call(
        inputs,
        hidden,
        classes,
        padded,
        batch.count,
        params.data_ptr(),
        None if grads is None else grads.data_ptr(),
        batch.across.data_ptr(),
        batch.down.data_ptr(),
        batch.targets.data_ptr(),
        scratch.data_ptr(),
        losses.data_ptr(),
        accuracies.data_ptr(),
        len(params),
        params.stride(0),
        0 if grads is None else grads.stride(0),
    )
    _native()(ctypes.byref(call))
    return losses, accuracies


@functools.cache
def _native() -> Any:
    """The kernel; None where nothing can be compiled."""
    if compiler.unavailable() is not None:
        return None
    try:
        library = compiler.load("\n".join(["// many perceptrons", _PRELUDE.read_text(), _KERNEL.read_text()]))
    except compiler.CompilationError:
        return None
    function = library.perceptrons
    function.argtypes, function.restype = [ctypes.c_void_p], None
    return function
