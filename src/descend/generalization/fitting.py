"""Fits of anything: the small network of Zhang et al.'s theorem, and minimum-norm solutions of kernels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from descend.generalization.krylov import generator

_DRAWS = 10
"""Directions that are tried, for one in which no two examples are nearly the same."""
_THRESHOLD = 0.25
"""Where a threshold lies between two examples: near the lower one, or errors would grow from each to the next."""


class FittingNetwork(nn.Module):
    """Two layers of 2n + d weights that fit n numbers in d dimensions: c(x) = sum_j w_j max(<a, x> - b_j, 0).

    Zhang et al. 2017, arXiv:1611.03530, theorem 1 and its proof; made by `fitting_network`.

    Args:
        direction: a, (d,).
        thresholds: b, (n,).
        weights: w, (n,).
    """

    def __init__(self, direction: Tensor, thresholds: Tensor, weights: Tensor) -> None:
        super().__init__()
        self.direction = nn.Parameter(direction)
        self.thresholds = nn.Parameter(thresholds)
        self.weights = nn.Parameter(weights)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return a number for each of (examples, d) inputs, or of such as flatten to it."""
        projected = inputs.flatten(1).to(self.direction) @ self.direction
        return (projected[:, None] - self.thresholds).relu() @ self.weights


def fitting_network(inputs: Tensor, targets: Tensor, *, seed: int = 0) -> FittingNetwork:
    """Return the network of 2n + d weights that gives n targets for n inputs.

    Args:
        inputs: (n, d), or what flattens to it, no two the same.
        targets: numbers, (n,); classes are numbers too.
        seed: of its direction.

    Raises:
        ValueError: shapes do not fit, values are not finite, two inputs are the same, or so near to each other that
            numbers of 64 bits do not reach.
    """
    rows = inputs.detach().flatten(1).double().cpu() if inputs.ndim > 1 else inputs.detach().double().cpu()[:, None]
    wanted = targets.detach().double().cpu()
    if wanted.ndim != 1 or len(rows) != len(wanted) or not len(wanted):
        raise ValueError(
            f"inputs has {len(rows)} rows and targets the shape {tuple(wanted.shape)}; give a number a row"
        )
    if not (rows.isfinite().all() and wanted.isfinite().all()):
        raise ValueError("inputs or targets have values that are not finite; leave those examples out")
    if len(torch.unique(rows, dim=0)) < len(rows):
        raise ValueError("two inputs are the same, which no function gives two targets for; leave one of them out")
    direction, order, places = _apart(rows, seed)
    before = torch.cat([places[:1] - 1, places[:-1]])
    thresholds = before + _THRESHOLD * (places - before)  # b_1 < z_1 < b_2 < z_2 ..., so that the matrix is triangular
    hidden = (places[:, None] - thresholds).relu()
    weights = torch.linalg.solve_triangular(hidden, wanted[order][:, None], upper=False)[:, 0]
    network = FittingNetwork(direction, thresholds, weights)
    with torch.no_grad():
        off = (network(rows) - wanted).abs().max()
    if not off <= 1e-6 * max(1.0, float(wanted.abs().max())):
        raise ValueError(
            f"two inputs are too near to each other for 64 bits: a target is missed by {float(off):.2g}; leave one "
            "out, or give fewer"
        )
    return network


def _apart(rows: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return a direction that tells the rows apart, their order along it, and their places there, rising."""
    source = generator(seed)
    scale = float((rows.amax(0) - rows.amin(0)).norm()) or 1.0
    found = []
    for _ in range(_DRAWS):
        direction = torch.randn(rows.shape[1], generator=source, dtype=torch.float64) / scale
        places, order = torch.sort(rows @ direction)
        gap = float(places.diff().min()) if len(places) > 1 else 1.0
        found.append((gap, direction, order, places))
    return max(found, key=lambda one: one[0])[1:]


Kernel = Literal["linear", "gaussian"]


@dataclass(frozen=True)
class MinimumNorm:
    """The solution of least norm among those that fit the training data, in the space of a kernel.

    Attributes:
        inputs: of the training data, (n, d).
        coefficients: alpha, (n, outputs).
        norms: of each output's solution in the space of the kernel, sqrt(alpha^T K alpha), (outputs,).
        residual: largest miss of a training target.
        kernel: which.
        gamma: of the Gaussian kernel.
    """

    inputs: Tensor
    coefficients: Tensor
    norms: Tensor
    residual: float
    kernel: Kernel
    gamma: float | None

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the outputs for other inputs, (examples, outputs)."""
        return _kernel(inputs.flatten(1).double(), self.inputs, self.kernel, self.gamma) @ self.coefficients


def minimum_norm(
    inputs: Tensor, targets: Tensor, kernel: Kernel = "gaussian", *, gamma: float | None = None
) -> MinimumNorm:
    """Solve K alpha = y without regularization.

    Zhang et al. 2017, arXiv:1611.03530, section 5: that generalizes on MNIST, without anything to hold it back. For n
    examples it takes 8 n^2 bytes and about n^3 / 3 operations.

    Args:
        inputs: (n, d), or what flattens to it.
        targets: numbers, (n,) or (n, outputs), or classes, (n,) of whole numbers, which become one output each: 1 for
            the class and 0 for the others.
        kernel: "linear", <x, x'>, or "gaussian", exp(-gamma |x - x'|^2).
        gamma: of the Gaussian kernel; by default 1 over the mean squared distance of the inputs. (The bandwidth that
            the paper's authors give for MNIST, 0.02 on pixels from 0 to 1, is read as this.)

    Raises:
        ValueError: an argument makes no sense.
    """
    if inputs.ndim < 2 or targets.ndim < 1 or len(inputs) != len(targets) or not len(inputs):
        raise ValueError(
            f"inputs has the shape {tuple(inputs.shape)}, targets {tuple(targets.shape)}; give a target a row"
        )
    rows = inputs.detach().flatten(1).double()
    if kernel not in ("linear", "gaussian"):
        raise ValueError(f'kernel is {kernel!r}; give "linear" or "gaussian"')
    if gamma is not None and (kernel == "linear" or isinstance(gamma, bool) or not 0 < gamma < math.inf):
        raise ValueError(f"gamma is {gamma!r}; give a finite number above 0, and for the Gaussian kernel only")
    wanted = targets.detach().to(rows.device)
    if not wanted.is_floating_point():
        wanted = nn.functional.one_hot(wanted.long())
    wanted = wanted.double().reshape(len(rows), -1)
    if not (rows.isfinite().all() and wanted.isfinite().all()):
        raise ValueError("inputs or targets have values that are not finite; leave those examples out")
    width = _gamma(rows) if kernel == "gaussian" and gamma is None else gamma
    matrix = _kernel(rows, rows, kernel, width)
    coefficients = _least(rows, wanted) if kernel == "linear" else _solved(matrix, wanted)
    fitted = matrix @ coefficients
    norms = (coefficients * fitted).sum(0).clamp_min(0).sqrt()
    return MinimumNorm(rows, coefficients, norms, float((fitted - wanted).abs().max()), kernel, width)


def _least(rows: Tensor, wanted: Tensor) -> Tensor:
    """Return the coefficients of the linear kernel, whose matrix X X^T is singular where n exceeds d."""
    inverse: Tensor = torch.linalg.pinv(rows)
    return inverse.T @ (inverse @ wanted)


def _solved(matrix: Tensor, wanted: Tensor) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if failed:
        inverse: Tensor = torch.linalg.pinv(matrix, hermitian=True)
        return inverse @ wanted
    return torch.cholesky_solve(wanted, factor)


def _kernel(first: Tensor, second: Tensor, kernel: Kernel, gamma: float | None) -> Tensor:
    if kernel == "linear":
        return first @ second.T
    assert gamma is not None
    similarities: Tensor = torch.exp(-gamma * _squared_distances(first, second))
    return similarities


def _squared_distances(first: Tensor, second: Tensor) -> Tensor:
    distances: Tensor = first.square().sum(1)[:, None] + second.square().sum(1) - 2 * first @ second.T
    return distances.clamp_min(0)


def _gamma(rows: Tensor) -> float:
    spread = 2 * (rows - rows.mean(0)).square().sum(1).mean()
    return 1 / float(spread) if spread > 0 else 1.0
