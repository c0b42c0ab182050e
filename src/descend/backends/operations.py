"""The vocabulary on the host: every operation on IEEE float64 scalars (NumPy) and on torch tensors.

Host scalars are Python-speed numbers that exist once per bucket (or once per tensor, as a NumPy vector). Both sides of
a `where` are evaluated, so errors are ignored: a NaN that is not chosen is harmless.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from descend.expr import Expr, slot_of

Value = (
    Any  # a host scalar (np.float64, np.bool_), a vector of them, a 0-dim tensor, or a list with a tensor per parameter
)

HOST: Final[dict[str, Callable[..., Value]]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "pow": np.power,
    "neg": np.negative,
    "abs": np.abs,
    "sign": lambda x: np.nan_to_num(np.sign(x), nan=0.0),  # of NaN 0, as torch's
    "sqrt": np.sqrt,
    "exp": np.exp,
    "log": np.log,
    "tanh": np.tanh,
    "minimum": np.minimum,
    "maximum": np.maximum,
    "clip": lambda x, low, high: np.minimum(np.maximum(x, low), high),
    "where": np.where,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
}


def _like(x: Value, other: Value) -> Tensor:
    """`x` as a tensor that keeps the type of the tensor beside it."""
    return x if isinstance(x, Tensor) else torch.as_tensor(x, dtype=other.dtype, device=other.device)


def _divide(a: Value, b: Value) -> Tensor:
    """The quotient, rounded once: torch takes a number over a tensor as a product with the reciprocal."""
    quotient: Tensor = operator.truediv(a if isinstance(a, Tensor) else _like(a, b), b)
    return quotient


def _extreme(op: str, a: Value, b: Value) -> Value:
    """The larger or smaller of two, one of which may be a number; of two numbers, as the host has it."""
    if not isinstance(a, Tensor) and not isinstance(b, Tensor):
        return HOST[op](a, b)  # inside of a clip, whose other bound is a tensor
    tensor = a if isinstance(a, Tensor) else b
    chosen: Tensor = getattr(torch, op)(_like(a, tensor), _like(b, tensor))
    return chosen


_maximum, _minimum = partial(_extreme, "maximum"), partial(_extreme, "minimum")


def _where(condition: Value, a: Value, b: Value) -> Value:
    if not isinstance(condition, Tensor):
        return a if condition else b
    if not isinstance(a, Tensor) and not isinstance(b, Tensor):
        a = torch.as_tensor(a, dtype=torch.float64, device=condition.device)
    return torch.where(condition, a, b)


TORCH: Final[dict[str, Callable[..., Value]]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": _divide,
    "pow": torch.pow,
    "neg": torch.neg,
    "abs": torch.abs,
    "sign": torch.sign,
    "sqrt": torch.sqrt,
    "exp": torch.exp,
    "log": torch.log,
    "tanh": torch.tanh,
    "minimum": _minimum,
    "maximum": _maximum,
    "clip": lambda x, low, high: _minimum(_maximum(x, low), high),
    "where": _where,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "eq": operator.eq,
    "ne": operator.ne,
}


def window_operation(node: Expr, args: Sequence[Value]) -> Value:
    """An operation on a window, a tuple of host scalars or of 0-dim tensors where gradients pass."""
    window, *rest = args
    if node.op == "push":
        return (*window, *rest)[-window_length(node) :]
    chosen, value = ("minimum", math.inf) if node.op == "lowest" else ("maximum", -math.inf)
    found: Value = np.float64(value)
    for x in window:
        is_host = not isinstance(found, Tensor) and not isinstance(x, Tensor)
        found = HOST[chosen](found, x) if is_host else TORCH[chosen](found, x)
    return found


def window_length(node: Expr) -> int:
    """How many values the window of the node's slot holds at most."""
    shape = slot_of(node.args[0] if node.args else node)[1]
    return int(shape[1])


_CHUNK: Final = 4096


def chunked_sum(x: Tensor) -> Tensor:
    """The sum in float64, over fixed chunks in their order, so that its bits do not depend on the number of threads."""
    flat = x.reshape(-1).double()
    while flat.numel() > _CHUNK:
        whole = flat.numel() // _CHUNK * _CHUNK
        flat = torch.cat([flat[:whole].reshape(-1, _CHUNK).sum(1), flat[whole:].sum().reshape(1)])
    return flat.sum()


def partial_reduction(op: str, x: Tensor) -> Tensor:
    """What one tensor adds to a reduction: the sum of its squares for a norm, else the sum of its elements."""
    return chunked_sum(x.double().square() if op.endswith("norm") else x)


def finish_reduction(op: str, total: Tensor, count: int) -> Tensor:
    """The value of a reduction from the total of its partial ones."""
    if op.endswith("norm"):
        return total.sqrt()
    return total / count if op.endswith("mean") else total


_COMMUTATIVE: Final = frozenset(["add", "mul", "minimum", "maximum"])
_FOREACH_NAMES: Final = ("add", "sub", "mul", "div", "pow", "minimum", "maximum")
_FOREACH_UNARY: Final = ("neg", "abs", "sign", "sqrt", "exp", "log", "tanh")
_FOREACH: Final[dict[str, tuple[Callable[..., Any], Callable[..., Any]]]] = {
    op: (getattr(torch, f"_foreach_{op}"), getattr(torch, f"_foreach_{op}_"))
    for op in (*_FOREACH_NAMES, *_FOREACH_UNARY)
}


def foreach(op: str, args: Sequence[Value], reusable: Sequence[bool]) -> list[Tensor] | None:
    """An operation on lists of tensors in one call, or None where torch has none for these arguments.

    `reusable` says which arguments are temporaries that nobody reads again: the memory of one takes the result.
    """
    if op not in _FOREACH:
        return None
    target = 0
    if len(args) == 2 and op in _COMMUTATIVE and not (isinstance(args[0], list) and reusable[0]):
        target = 1 if isinstance(args[1], list) and (reusable[1] or not isinstance(args[0], list)) else 0
    first, rest = args[target], [arg for i, arg in enumerate(args) if i != target]
    if not isinstance(first, list):
        return None
    if rest and isinstance(rest[0], list):
        if rest[0][0].dtype != first[0].dtype:
            return None
    elif rest:
        if isinstance(rest[0], Tensor):
            return None
        rest = [rest[0].tolist()]  # a float, or a list of floats, one per tensor
    new_memory, in_place = _FOREACH[op]
    if not reusable[target]:
        return list(new_memory(first, *rest))
    in_place(first, *rest)
    return first
