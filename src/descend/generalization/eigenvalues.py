"""Eigenvalues at the ends of a spectrum, by Lanczos with full re-orthogonalisation and an honest stop.

Power iteration that stops when successive values agree is wrong where eigenvalues crowd, which they do in networks.
Here the residual |A v - theta v| is known after every product: within it of theta there is an eigenvalue. Parlett 1998,
The Symmetric Eigenvalue Problem, chapters 4, 11 and 13.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from descend.generalization.krylov import accuracy, generator, normals, orthogonalized, product, whole
from descend.generalization.linear import Conditions, NotConverged, SymmetricMap

Which = Literal["largest", "smallest", "magnitude"]

_SMALL = 1e-3
_ROUNDING = 1e-13


@dataclass(frozen=True)
class Eigenvalues:
    """Eigenvalues that were found.

    Attributes:
        values: in order, the one furthest out first.
        residuals: |A v - value v| of each unit vector; an eigenvalue lies within so much of the value.
        vectors: unit vectors, (size, k).
        which: end of the spectrum.
        rtol: accuracy that was asked for.
        converged: whether each residual is that small.
        products: of the matrix with a vector.
        conditions: what was measured.
    """

    values: list[float]
    residuals: list[float]
    vectors: Tensor
    which: Which
    rtol: float
    converged: bool
    products: int
    conditions: Conditions


def top_eigenvalues(
    matrix: SymmetricMap,
    k: int = 1,
    *,
    which: Which = "largest",
    rtol: float = 1e-2,
    max_products: int | None = None,
    seed: int = 0,
    start: Tensor | None = None,
) -> Eigenvalues:
    """Return the k eigenvalues at an end of the spectrum, with their vectors.

    The projection of the matrix on all vectors met is kept whole, so that the residuals are true also where products
    are rounded to bfloat16. A residual says that an eigenvalue is near; that it is the one at the end is likely from a
    random start, and not sure at a coarse accuracy. What one start cannot see is how often an eigenvalue repeats.

    Args:
        matrix: a `Hessian`, say.
        k: how many, from 1 to the size of the matrix.
        which: "largest", "smallest" or "magnitude".
        rtol: each residual is at most so much of its value; values below a thousandth of the largest magnitude found
            count as that.
        max_products: with vectors; by default 100 + 10 k. Memory is a vector of float64 for each.
        seed: of the start.
        start: a vector to start from in place of a random one, such as an eigenvector found before.

    Raises:
        ValueError: an argument makes no sense, or products are not finite.
        NotConverged: residuals are larger after max_products; its `result` is what was reached.
    """
    size = matrix.size
    if whole("k", k, 1) > size:
        raise ValueError(f"k is {k}, but the matrix has {size} rows; give no more")
    if which not in ("largest", "smallest", "magnitude"):
        raise ValueError(f'which is {which!r}; give "largest", "smallest" or "magnitude"')
    accuracy("rtol", rtol)
    limit = min(size, 100 + 10 * k if max_products is None else whole("max_products", max_products, k))
    krylov = _Krylov(matrix, seed, start)
    with matrix.held():
        while True:
            krylov.extend()
            found = krylov.pairs(k, which)
            values, residuals, vectors = found
            scale = krylov.norm
            asked = rtol * values.abs().clamp_min(_SMALL * scale) + _ROUNDING * scale
            is_done = len(values) == k and bool((residuals <= asked).all())
            if is_done or krylov.products == limit:
                break
    result = Eigenvalues(
        values.tolist(), residuals.tolist(), vectors(), which, rtol, is_done, krylov.products, matrix.conditions
    )
    if not is_done:
        raise NotConverged(
            f"after {krylov.products} products the residuals are {_shown(result.residuals)} of eigenvalues "
            f"{_shown(result.values)}, not {rtol:g} of them; give more max_products or a larger rtol, or take "
            "error.result as it is",
            result,
        )
    return result


class _Krylov:
    """An orthonormal basis that grows by products, and the projection of the matrix on it."""

    def __init__(self, matrix: SymmetricMap, seed: int, start: Tensor | None) -> None:
        self._matrix, self._source = matrix, generator(seed)
        first = normals(matrix, 1, self._source)[:, 0] if start is None else _checked(start, matrix)
        self._basis = torch.empty(8, matrix.size, dtype=torch.float64, device=matrix.device)
        self._projection = torch.zeros(0, 0, dtype=torch.float64)
        self._next = first / torch.linalg.vector_norm(first)
        self._beyond = 0.0  # norm of what the last product has outside of the basis
        self.products = 0

    @property
    def norm(self) -> float:
        """The largest magnitude of an eigenvalue of the projection."""
        return float(torch.linalg.eigvalsh(self._symmetric).abs().max())

    @property
    def _symmetric(self) -> Tensor:
        return (self._projection + self._projection.T) / 2

    def extend(self) -> None:
        """Add the next vector to the basis, and multiply it."""
        count = self.products
        if count == len(self._basis):
            self._basis = torch.cat([self._basis, torch.empty_like(self._basis)])
        self._basis[count] = self._next
        basis = self._basis[: count + 1]
        left, along = orthogonalized(product(self._matrix, self._next), basis)
        grown = torch.zeros(count + 1, count + 1, dtype=torch.float64)
        grown[:count, :count] = self._projection
        grown[:, count] = along.cpu()
        if count:
            grown[count, count - 1] = self._beyond
        self._projection = grown
        self.products += 1
        self._beyond = float(torch.linalg.vector_norm(left))
        if self._beyond > _ROUNDING * max(self.norm, float(along.abs().max())):
            self._next = left / self._beyond
        elif self.products < self._matrix.size:  # all that this start can reach is found: go on from another one
            self._beyond = 0.0
            fresh, _ = orthogonalized(normals(self._matrix, 1, self._source)[:, 0], basis)
            self._next = fresh / torch.linalg.vector_norm(fresh)

    def pairs(self, k: int, which: Which) -> tuple[Tensor, Tensor, _Vectors]:
        """Return values and residuals of at most k Ritz pairs, and what makes their vectors."""
        values, vectors = torch.linalg.eigh(self._symmetric)
        key = {"largest": -values, "smallest": values, "magnitude": -values.abs()}[which]
        chosen = key.argsort(stable=True)[:k]
        values, vectors = values[chosen], vectors[:, chosen]
        inside = torch.linalg.vector_norm(self._projection @ vectors - values * vectors, dim=0)
        residuals = torch.hypot(inside, self._beyond * vectors[-1].abs())
        return values, residuals, _Vectors(self._basis[: self.products], vectors)


@dataclass(frozen=True)
class _Vectors:
    """Vectors by their coordinates in a basis."""

    basis: Tensor
    coordinates: Tensor

    def __call__(self) -> Tensor:
        return self.basis.T @ self.coordinates.to(self.basis.device)


def _checked(start: Tensor, matrix: SymmetricMap) -> Tensor:
    if start.shape != (matrix.size,) or not start.isfinite().all() or not start.any():
        raise ValueError(f"start is no finite vector of ({matrix.size},) that differs from 0")
    return start.to(matrix.device, torch.float64)


def _shown(values: list[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
