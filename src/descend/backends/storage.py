"""How parameters and state lie in memory: types, first values, complex numbers as pairs of real ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from descend.formula import Slot


def scalar_dtype() -> torch.dtype:
    """The storage type of step counts and scalar slots: float32, float64 under a float64 default, as torch's."""
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32


def stored_dtype(slot: Slot, param: Tensor) -> torch.dtype:
    """The storage type of a slot shaped like the parameter; that of a complex one is complex.

    A slot that exists once per optimizer is a Python float.
    """
    if slot.is_shared:
        return torch.float64
    if slot.dtype is None:
        return param.dtype
    dtype: torch.dtype = getattr(torch, slot.dtype)
    return dtype.to_complex() if param.is_complex() else dtype


def first_value(slot: Slot, param: Tensor, hyper_parameters: Mapping[str, Any]) -> Tensor:
    """The value of a slot before the first step."""
    if slot.init == "p":
        return param.to(stored_dtype(slot, param), memory_format=torch.preserve_format, copy=True)
    initial = hyper_parameters[slot.init] if isinstance(slot.init, str) else slot.init
    if slot.is_window:
        return torch.empty(0, dtype=torch.float64)
    if slot.shape != "like":
        usual = torch.float64 if slot.is_shared else scalar_dtype()
        dtype = getattr(torch, slot.dtype) if slot.dtype else usual
        return torch.as_tensor(initial, dtype=torch.float64).to(dtype=dtype).reshape(()).clone()
    dtype = stored_dtype(slot, param)
    if param.is_complex():
        initial = complex(initial, initial)  # as in torch's Adagrad and Rprop
    return torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format).fill_(initial)


def rows_of(param: Tensor) -> int:
    """The size of the first dimension, 1 for a single number."""
    return param.shape[0] if param.ndim else 1


def real(x: Tensor) -> Tensor:
    """A complex tensor as its real and imaginary parts, which every rule takes as separate elements."""
    return torch.view_as_real(x) if x.is_complex() else x
