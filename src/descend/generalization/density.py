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

from descend.generalization.krylov import accuracy, generator, normals, product, whole
from descend.generalization.linear import Conditions, NotConverged, SymmetricMap

_MEMORY = 2**30
"""Bytes of the bases of starts that advance together."""
_ROUNDING = 1e-12
_WIDTH = 100
_FIRST, _MORE = 10, 5
"""Draws before an accuracy is looked at, and between two looks."""


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

    @property
    def error(self) -> float:
        """The largest standard error of the share of the eigenvalues below any bound."""
        bounds = self.nodes.flatten()
        below = [(self.weights * (self.nodes <= bound)).sum(1) for bound in bounds]
        return float(_mean(torch.stack(below))[1].max())

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


def spectral_density(
    matrix: SymmetricMap,
    *,
    draws: int | None = None,
    steps: int = 80,
    atol: float = 0.01,
    max_draws: int = 100,
    seed: int = 0,
) -> SpectralDensity:
    """Return the spectral density of a symmetric matrix.

    Draws advance together, one visit of the data for a step of all, as far as a gigabyte for their bases allows.

    Args:
        matrix: a `Hessian`, say.
        draws: of a random start, 2 or more, which standard errors are over; no accuracy is then asked. By default as
            many as it takes, from 10 on.
        steps: of Lanczos with full re-orthogonalisation from each; moments up to 2 steps - 1 are then exact for the
            start. At most the size of the matrix.
        atol: the share of the eigenvalues below any bound has at most this standard error over the draws.
        max_draws: of a random start, where an accuracy is asked.
        seed: of the starts.

    Raises:
        ValueError: an argument makes no sense, or products are not finite.
        NotConverged: a standard error is larger after max_draws; its `result` is what was reached.
    """
    accuracy("atol", atol)
    limit = whole("max_draws", max_draws, 2) if draws is None else whole("draws", draws, 2)
    steps = min(whole("steps", steps, 1), matrix.size)
    source = generator(seed)
    parts: list[tuple[Tensor, Tensor]] = []
    done = 0
    with matrix.held():
        while True:
            count = limit if draws is not None else min(_FIRST if not parts else _MORE, limit - done)
            parts += _drawn(matrix, count, steps, source)
            done += count
            nodes, weights = (torch.cat(each) for each in zip(*parts, strict=True))
            found = SpectralDensity(nodes, weights, done * steps, matrix.conditions)
            if draws is not None or found.error <= atol:
                return found
            if done == limit:
                raise NotConverged(
                    f"after {done} draws a share of the spectrum has a standard error of {found.error:.2g}, more than "
                    f"{atol:g}; give more max_draws or a larger atol, or take error.result as it is",
                    found,
                )


def _drawn(matrix: SymmetricMap, count: int, steps: int, source: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    starts = normals(matrix, count, source)
    together = max(1, min(count, _MEMORY // (8 * steps * matrix.size)))
    return [_quadrature(matrix, part, steps) for part in torch.split(starts, together, 1)]


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
