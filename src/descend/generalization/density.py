"""The spectral density of a matrix that is known by its products: stochastic Lanczos quadrature.

Each random start gives nodes and weights whose moments are those of the spectrum, on average; Ubaru, Chen & Saad 2017.
On networks: Ghorbani, Krishnan & Xiao 2019, arXiv:1901.10159.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from descend.generalization.krylov import generator, normals, product, whole
from descend.generalization.linear import Conditions, SymmetricMap

_MEMORY = 2**30
"""Bytes of the bases of starts that advance together."""
_ROUNDING = 1e-12
_WIDTH = 100


@dataclass(frozen=True)
class SpectralDensity:
    """The spectrum as nodes with weights, for each random start.

    Attributes:
        nodes: (draws, steps).
        weights: of the nodes; each row has the sum 1.
        products: of the matrix with a vector.
        conditions: what was measured.
    """

    nodes: Tensor
    weights: Tensor
    products: int
    conditions: Conditions

    @property
    def width(self) -> float:
        """The usual width of the Gaussians: a hundredth of the range of the nodes."""
        return float(self.nodes.max() - self.nodes.min()) / _WIDTH or 1.0 / _WIDTH

    def moments(self, count: int) -> tuple[list[float], list[float]]:
        """Return the mean of the eigenvalues' powers 1 to count, and its standard errors over the draws."""
        found = [(self.weights * self.nodes**power).sum(1) for power in range(1, whole("count", count, 1) + 1)]
        means, errors = _mean(torch.stack(found))
        return means.tolist(), errors.tolist()

    def at(self, grid: Tensor | Sequence[float], width: float | None = None) -> tuple[Tensor, Tensor]:
        """Return the density, smoothed by Gaussians, and its standard error over the draws.

        Args:
            grid: eigenvalues.
            width: standard deviation of the Gaussians, by default `width`. Another one takes no new products.
        """
        width = self.width if width is None else width
        if not 0 < width < math.inf:
            raise ValueError(f"width is {width!r}; give a finite number above 0")
        points = torch.as_tensor(grid, dtype=torch.float64)
        apart = (points[:, None, None] - self.nodes) / width
        bells = torch.exp(-(apart**2) / 2) / (width * math.sqrt(2 * math.pi))
        return _mean((bells * self.weights).sum(2))

    def share_below(self, bound: float) -> tuple[float, float]:
        """Return the share of the eigenvalues below a bound, and its standard error over the draws."""
        means, errors = _mean((self.weights * (self.nodes < bound)).sum(1)[None])
        return float(means), float(errors)


def spectral_density(matrix: SymmetricMap, *, draws: int = 10, steps: int = 80, seed: int = 0) -> SpectralDensity:
    """Return the spectral density of a symmetric matrix.

    All draws advance together, one visit of the data for a step of all, as far as a gigabyte for their bases allows.

    Args:
        matrix: a `Hessian`, say.
        draws: of a random start, 2 or more, which standard errors are over.
        steps: of Lanczos with full re-orthogonalisation from each; moments up to 2 steps - 1 are then exact for the
            start. At most the size of the matrix.
        seed: of the starts.

    Raises:
        ValueError: an argument makes no sense, or products are not finite.
    """
    whole("draws", draws, 2)
    steps = min(whole("steps", steps, 1), matrix.size)
    starts = normals(matrix, draws, generator(seed))
    together = max(1, min(draws, _MEMORY // (8 * steps * matrix.size)))
    with matrix.held():
        parts = [_quadrature(matrix, part, steps) for part in torch.split(starts, together, 1)]
    nodes, weights = (torch.cat(each) for each in zip(*parts, strict=True))
    return SpectralDensity(nodes, weights, draws * steps, matrix.conditions)


def _quadrature(matrix: SymmetricMap, starts: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Return nodes and weights of several starts, (size, draws), that advance together."""
    size, draws = starts.shape
    bases = torch.zeros(draws, steps, size, dtype=torch.float64, device=starts.device)
    diagonal, beside = torch.zeros(draws, steps, dtype=torch.float64), torch.zeros(draws, steps, dtype=torch.float64)
    now = (starts / torch.linalg.vector_norm(starts, dim=0)).T
    scale = torch.zeros(draws, dtype=torch.float64)
    for step in range(steps):
        bases[:, step] = now
        moved = product(matrix, now.T.contiguous()).T
        diagonal[:, step] = (now * moved).sum(1).cpu()
        seen = bases[:, : step + 1]
        for _ in range(2):
            moved = moved - torch.einsum("dsn,ds->dn", seen, torch.einsum("dsn,dn->ds", seen, moved))
        length = torch.linalg.vector_norm(moved, dim=1).cpu()
        scale = torch.maximum(scale, torch.maximum(diagonal[:, step].abs(), length))
        length[length <= _ROUNDING * scale] = 0  # all that this start can reach is found: zeros from here on
        beside[:, step] = length
        inverse = torch.where(length > 0, 1 / length, 0.0).to(now.device)
        now = moved * inverse[:, None]
    three = torch.diag_embed(diagonal) + torch.diag_embed(beside[:, :-1], 1) + torch.diag_embed(beside[:, :-1], -1)
    nodes, vectors = torch.linalg.eigh(three)
    return nodes, vectors[:, 0] ** 2


def _mean(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard error over the last dimension."""
    return values.mean(-1), values.std(-1) / math.sqrt(values.shape[-1])
