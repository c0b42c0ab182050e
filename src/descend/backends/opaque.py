"""Opaque calls: what a formula asks of torch as a whole, since no formula per element can say it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor


def orthogonalize(x: Tensor, a: float, b: float, c: float, eps: float, steps: float) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly, by Newton-Schulz iterations of degree five in bfloat16.

    Every step takes X to a X + (b (X X') + c (X X')^2) X: singular values go to about 1. A tensor of more than two
    dimensions is a matrix of its first dimension by the rest. In the order of operations of torch.optim.Muon, and in
    bfloat16 as there.

    Args:
        x: the tensor.
        a, b, c: of the quintic.
        eps: what the norm is at least, by which x is divided first.
        steps: the number of iterations.
    """
    matrix = x.reshape(len(x), -1).bfloat16()
    is_tall = matrix.shape[0] > matrix.shape[1]
    if is_tall:
        matrix = matrix.T
    matrix = matrix / matrix.norm().clamp(min=eps)
    for _ in range(int(steps)):
        gram = matrix @ matrix.T
        quintic = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        matrix = torch.addmm(matrix, quintic, matrix, beta=a)
    return (matrix.T if is_tall else matrix).reshape(x.shape)


OPAQUE: Final[dict[str, Callable[..., Tensor]]] = {"orthogonalize": orthogonalize}
"""The calls, by operation: functions of tensors and of numbers. The type of what they return is their own."""

HELD_AS: Final[dict[str, str]] = {"orthogonalize": "bfloat16"}
"""The types that lose nothing of the first argument and of the result, where that is not the type of the arithmetic."""
