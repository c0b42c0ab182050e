"""What the numerics of curvature share: random starts, checks, and orthogonal bases in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from descend.generalization.linear import NotFinite, SymmetricMap


def generator(seed: int) -> torch.Generator:
    """Return a generator of its own, so that the global one is left alone."""
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ValueError(f"seed is {seed!r}; give a whole number")
    return torch.Generator().manual_seed(seed)


def signs(matrix: SymmetricMap, count: int, source: torch.Generator) -> Tensor:
    """Return columns of random signs, (size, count): Rademacher's distribution."""
    drawn = torch.randint(2, (count, matrix.size), generator=source, dtype=torch.int8)
    return (2 * drawn.double() - 1).T.to(matrix.device)


def normals(matrix: SymmetricMap, count: int, source: torch.Generator) -> Tensor:
    """Return columns of random normal numbers, (size, count)."""
    return torch.randn(count, matrix.size, generator=source, dtype=torch.float64).T.to(matrix.device)


def product(matrix: SymmetricMap, vectors: Tensor) -> Tensor:
    """Return products that are finite.

    Raises:
        NotFinite: they are not.
    """
    found: Tensor = matrix @ vectors
    if not found.isfinite().all():
        raise NotFinite("products with the matrix are not finite; the loss overflows at these weights, or is NaN there")
    return found


def orthogonalized(vector: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Take what lies in a basis of orthonormal rows out of a vector, twice, as rounding demands; return it as well."""
    along = basis @ vector
    left = vector - basis.T @ along
    rest = basis @ left
    return left - basis.T @ rest, along + rest


def whole(name: str, value: object, least: int) -> int:
    """Return a whole number.

    Raises:
        ValueError: it is none, or below the least.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is {value!r}; give a whole number, {least} or more")
    return value


def accuracy(name: str, value: object) -> float:
    """Return an accuracy.

    Raises:
        ValueError: it is no number between 0 and 1.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1 or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}; give a number between 0 and 1, such as 0.01")
    return float(value)
