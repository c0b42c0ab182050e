"""Opaque calls: what a formula asks of torch as a whole, since no formula per element can say it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor


def orthogonalize(x: Tensor, a: float, b: float, c: float, eps: float, steps: float) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly, by Newton-Schulz iterations of degree five in bfloat16.

    Every step takes X to a X + (b (X X') + c (X X')^2) X: singular values go to about 1. Any tensor is taken
    for a matrix of its first dimension by the rest. In the order of operations of torch.optim.Muon, and in
    bfloat16 as there.

    Args:
        x: the tensor.
        a, b, c: of the quintic.
        eps: what the norm is at least, by which x is divided first.
        steps: the number of iterations, of which a fraction is cut off.
    """
    rows = x.shape[0] if x.ndim else 1
    matrix = x.reshape(rows, x.numel() // max(rows, 1)).bfloat16()
    is_tall = matrix.shape[0] > matrix.shape[1]
    if is_tall:
        matrix = matrix.T
    matrix = matrix / matrix.norm().clamp(min=eps)
    for _ in range(int(steps)):
        gram = matrix @ matrix.T
        quintic = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        matrix = torch.addmm(matrix, quintic, matrix, beta=a)
    return (matrix.T if is_tall else matrix).reshape(x.shape)


def clip_units(x: Tensor, weights: Tensor, limit: float, least: float) -> Tensor:
    """Each unit of x, scaled down to `limit` times the norm of its weights, that being `least` at least.

    A unit is what the first dimension counts. Where all dimensions but one are 1, the whole is one, as in the authors'
    code.

    Args:
        x: such as the gradient.
        weights: of the same shape.
        limit: the largest ratio of norms.
        least: what the norm of weights is taken for where it is less.
    """
    longest = limit * _norms_of_units(weights.to(x.dtype)).clamp(min=least)
    return x * (longest / _norms_of_units(x).clamp(min=1e-6)).clamp(max=1.0)


def _norms_of_units(x: Tensor) -> Tensor:
    is_one = x.squeeze().ndim <= 1
    norms: Tensor = torch.linalg.vector_norm(x, dim=None if is_one else tuple(range(1, x.ndim)), keepdim=True)
    return norms


OPAQUE: Final[dict[str, Callable[..., Tensor]]] = {"orthogonalize": orthogonalize, "clip_units": clip_units}
"""The calls, by operation: functions of tensors and of numbers. The type of what they return is their own."""

HELD_AS: Final[dict[str, str]] = {"orthogonalize": "bfloat16"}
"""The types that lose nothing of the first argument and of the result, where that is not the type of the arithmetic."""
