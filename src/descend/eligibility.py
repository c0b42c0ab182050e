"""Why a parameter steps eagerly: each function answers with a sentence, or None where a kernel can step it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from descend.backends import addresses, compiler
from descend.backends.cpp import STORAGE
from descend.rule import Formula

_forked = False


def _note_fork() -> None:
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_note_fork)


def is_forked() -> bool:
    """Whether this process is a fork: the threads of its parent are not in it."""
    return _forked


def of_process() -> str | None:
    """Why no kernel runs in this process."""
    return "this process was forked, without the threads of its parent" if _forked else compiler.unavailable()


def check_demands(
    groups: Sequence[Mapping[str, Any]], backend: str, reasons: Mapping[int, str] | None = None, *, first: int = 0
) -> None:
    """Refuse a kernel that was asked for, by `fused=True` or `backend="cpp"`, and cannot be.

    Args:
        groups: param groups.
        backend: the optimizer's.
        reasons: why parameters step eagerly, by their ids; None looks at what is known before the first step (of a
            meta tensor, which is given its memory later, nothing is, and a frozen one may never be stepped).
        first: the place of the first group among the optimizer's.

    Raises:
        RuntimeError: with the first parameter that no kernel can step, and why.
    """
    for index, group in enumerate(groups, first):
        if backend != "cpp" and not group["fused"]:
            continue
        asked = "backend='cpp'" if backend == "cpp" else "`fused=True`"
        for number, param in enumerate(group["params"]):
            if reasons is not None:
                reason = reasons.get(id(param))
            elif not param.requires_grad and param.grad is None:
                continue
            else:
                reason = of_process() or of_group(group, backend) or (None if param.is_meta else of_memory(param))
            if reason is not None:
                option = asked.strip("`").partition("=")[0]
                named = f" ({group['param_names'][number]})" if "param_names" in group else ""
                raise RuntimeError(  # begins as torch's
                    f"{asked} requires all the params to be floating point Tensors that a kernel can step, and "
                    f"parameter {number} of group {index}{named} cannot be stepped by one: {reason}; leave {option} "
                    "unset to step it eagerly"
                )


def of_group(group: Mapping[str, Any], backend: str) -> str | None:
    """Why no parameter of a group steps in a kernel, by its flags and the optimizer's backend."""
    if backend == "eager":
        return "backend='eager' asks for it"
    if group["differentiable"]:
        return "differentiable=True lets gradients flow through the step"
    if group["foreach"]:
        return "foreach=True asks for torch's multi-tensor functions"
    if group["fused"] is False:
        return "fused=False forbids the kernel"
    return None


def of_memory(param: Tensor) -> str | None:
    """Why a kernel cannot step a parameter, by its own memory."""
    if not addresses.is_plain(param):
        kind = "an inference tensor" if param.is_inference() else f"a {type(param).__name__}"
        return f"it is {kind} and no plain tensor"
    if param.device.type != "cpu":
        return f"it is on {param.device}, and the kernels run on the CPU"
    if not _is_stored(param):
        return f"it is of {param.dtype}, and the kernels take float32, float64, bfloat16 and float16"
    if param.layout is not torch.strided or not is_dense(param):
        return "its elements do not lie in memory without gaps"
    return None


def of_param(param: Tensor, formula: Formula, entries: Mapping[str, Any]) -> str | None:
    """Why a kernel cannot step a parameter, by its memory, its gradient's and its state's."""
    reason = of_memory(param)
    if reason is not None:
        return reason
    if param.grad is not None and param.grad.is_sparse:
        return "its gradient is sparse"
    for slot in formula.slots.values():
        entry = entries.get(slot.key)
        if slot.shape == "scalar" and entry is not None and entry.dtype not in (torch.float32, torch.float64):
            return f"its state {slot.key!r} is of {entry.dtype}, and kernels take single numbers in float32 and float64"
    state = [entries[slot.key] for slot in formula.slots.values() if slot.shape == "like" and slot.key in entries]
    for what, x in [("gradient", param.grad), *(("state", x) for x in state)]:
        if x is not None and not (_is_stored(x) and addresses.is_dense_as(x, param, x.dtype)):
            return f"its {what} lies in memory in another order or as another type of tensor"
    return None


def _is_stored(x: Tensor) -> bool:
    return str(x.dtype).removeprefix("torch.") in STORAGE


def is_dense(x: Tensor) -> bool:
    """Whether the elements fill their memory without gaps, in some order."""
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(x.stride(), x.shape, strict=True) if size > 1):
        if stride != expected:
            return False
        expected *= size
    return True
