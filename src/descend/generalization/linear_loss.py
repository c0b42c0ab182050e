"""The loss of a linear network on data: its global minimum in closed form, and searches on it.

The network y = W_H+1 ... W_1 x, with H hidden layers, has the loss L = |Y - prediction|^2 / (2 examples). Its global
minimum is reduced-rank regression: the least-squares fit, projected on the first p principal directions of its
predictions, with p the smallest width. Kawaguchi 2016, arXiv:1605.07110, does not divide by the examples.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from descend.generalization.krylov import generator, whole

Kind = Literal["global", "strict saddle", "saddle", "poor", "unfinished"]

_MOST = 1000
_NEGATIVE = 1e-6


@dataclass(frozen=True)
class Assumptions:
    """What the theorem assumes, measured on data: 0 means that it fails.

    Attributes:
        inputs: smallest over largest singular value of X.
        correlation: the same of X'Y.
        gap: smallest difference of two eigenvalues of Y'X (X'X)^-1 X'Y, over the largest one; infinite for one.
        fewer_targets: whether targets have no more dimensions than inputs.
        rtol: what counts as 0.
    """

    inputs: float
    correlation: float
    gap: float
    fewer_targets: bool
    rtol: float

    @property
    def hold(self) -> bool:
        """Whether all do, by more than rtol."""
        return self.fewer_targets and min(self.inputs, self.correlation, self.gap) > self.rtol


@dataclass(frozen=True)
class GlobalMinimum:
    """The least loss of a linear network.

    Attributes:
        loss: |Y - prediction|^2 / (2 examples).
        product: of all weights, (targets, inputs): reduced-rank regression.
        rank: p, the smallest width.
        at_origin: the loss where all weights are 0, with which others are compared.
        strengths: what each principal direction of the least-squares fit takes from the loss, the largest first; those
            beyond the rank are lost.
        assumptions: of the theorem. The loss is the least one whether they hold or not.
    """

    loss: float
    product: Tensor
    rank: int
    at_origin: float
    strengths: list[float]
    assumptions: Assumptions


@dataclass(frozen=True)
class Stationary:
    """Weights at which a search ended, or that were looked at.

    Attributes:
        weights: a matrix for each layer, (outputs, inputs).
        loss: there.
        excess: above the global minimum.
        gradient: its norm over that of X'Y / examples, a number without units.
        smallest: eigenvalue of the whole Hessian.
        largest: the same.
        lower: the loss that searches found near by, at most a tenth of the usual weights away: the first that is lower,
            else the least of five; None where the kind is known without.
        kind: "global" where excess is 0 but for rounding; "strict saddle" where an eigenvalue is negative; "saddle"
            where none is, but a lower loss was found from near by; "poor" where none was; "unfinished" where the
            gradient is not 0.
    """

    weights: tuple[Tensor, ...]
    loss: float
    excess: float
    gradient: float
    smallest: float
    largest: float
    lower: float | None
    kind: Kind


def global_minimum(inputs: Tensor, targets: Tensor, widths: Sequence[int]) -> GlobalMinimum:
    """Return the least loss of a linear network in closed form.

    Args:
        inputs: X, (examples, inputs); rows are examples, columns in the papers.
        targets: Y, (examples, targets).
        widths: of the hidden layers, one or more.

    Raises:
        ValueError: an argument makes no sense.
    """
    x, y = checked_data(inputs, targets)
    rank = min(checked_widths(widths))
    fit = torch.linalg.lstsq(x, y, driver="gelsd").solution
    _, strengths, directions = torch.linalg.svd(x @ fit, full_matrices=False)
    kept = directions[:rank]
    lost = (y - x @ fit).square().sum() + strengths[rank:].square().sum()
    return GlobalMinimum(
        loss=float(lost) / (2 * len(x)),
        product=kept.T @ (kept @ fit.T),
        rank=rank,
        at_origin=float(y.square().sum()) / (2 * len(x)),
        strengths=(strengths.square() / (2 * len(x))).tolist(),
        assumptions=_assumptions(x, y, strengths),
    )


class LinearLoss:
    """The loss of a linear network on data, a function of flat vectors: the layers' weights one after the other.

    Args:
        inputs: X, (examples, inputs).
        targets: Y, (examples, targets).
        widths: of the hidden layers.
        rtol: what counts as 0; see `poor_minima`.
        seed: of the searches near a point.

    Raises:
        ValueError: an argument makes no sense, there are too many weights, or X'Y is 0.
    """

    def __init__(self, inputs: Tensor, targets: Tensor, widths: Sequence[int], *, rtol: float, seed: int) -> None:
        self.data = x, y = checked_data(inputs, targets)
        sizes = [x.shape[1], *checked_widths(widths), y.shape[1]]
        self.shapes = [(outer, inner) for inner, outer in itertools.pairwise(sizes)]
        self.size = sum(map(math.prod, self.shapes))
        if self.size > _MOST:
            raise ValueError(f"the network has {self.size} weights; give smaller widths or data, for {_MOST} at most")
        self.minimum, self.rtol = global_minimum(x, y, widths), rtol
        self._slope = float(torch.linalg.matrix_norm(x.T @ y)) / len(x)
        if not self._slope:
            raise ValueError(
                "inputs and targets do not correlate: the least loss is that of weights 0; give other data"
            )
        frame, self._inputs = torch.linalg.qr(x)  # the loss is that on as many examples as inputs, and a constant
        self._targets = frame.T @ y
        self._constant = (y - frame @ self._targets).square().sum()
        self._source = generator(seed)

    def value(self, point: Tensor) -> Tensor:
        """Return the loss."""
        outputs = self._inputs
        for weight in self.split(point):
            outputs = outputs @ weight.T
        squares: Tensor = (outputs - self._targets).square().sum() + self._constant
        return squares / (2 * len(self.data[0]))

    def split(self, point: Tensor) -> list[Tensor]:
        """Return the weights of each layer, (outputs, inputs)."""
        parts = torch.split(point, [math.prod(shape) for shape in self.shapes])
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def start(self, source: torch.Generator, scale: float) -> Tensor:
        """Draw weights from N(0, scale^2 / inputs of the layer)."""
        drawn = torch.randn(self.size, generator=source, dtype=torch.float64)
        for weight in self.split(drawn):
            weight *= scale / math.sqrt(weight.shape[1])
        return drawn

    def searched(self, start: Tensor, iterations: int) -> Tensor:
        """Return where L-BFGS ends, and where it stalls before the gradient is 0, Newton's method in a trust region."""
        goal = self.rtol * self._slope
        point = _by_lbfgs(self.value, start, iterations, goal)
        return point if self._gradient(point) <= self.rtol else _by_newton(self.value, point, iterations, goal)

    def looked_at(self, point: Tensor) -> Stationary:
        """Tell what kind of point this is."""
        loss = float(self.value(point))
        eigenvalues = torch.linalg.eigvalsh(_hessian(self.value, point))
        gradient = self._gradient(point)
        excess, smallest, largest = loss - self.minimum.loss, float(eigenvalues[0]), float(eigenvalues[-1])
        lower = None
        if gradient > self.rtol:
            kind: Kind = "unfinished"
        elif excess <= self.rtol * self.minimum.at_origin:
            kind = "global"
        elif smallest < -_NEGATIVE * max(-smallest, largest):
            kind = "strict saddle"
        else:
            least = loss - self.rtol * self.minimum.at_origin
            lower = self._lower_near(point, least)
            kind = "saddle" if lower < least else "poor"
        weights = tuple(weight.clone() for weight in self.split(point))
        return Stationary(weights, loss, excess, gradient, smallest, largest, lower, kind)

    def _gradient(self, point: Tensor) -> float:
        return float(torch.linalg.vector_norm(torch.func.grad(self.value)(point))) / self._slope

    def _lower_near(self, point: Tensor, least: float, tries: int = 5) -> float:
        """Return the loss that searches find in balls around a point, a tenth of the usual weights in radius.

        They end with the first that is below the least that counts as lower.
        """
        found: list[float] = []
        for _ in range(tries):
            drawn = self.start(self._source, 0.1)
            radius = torch.linalg.vector_norm(drawn)

            def fenced(other: Tensor, radius: Tensor = radius) -> Tensor:
                beyond = ((other - point).square().sum() / radius**2 - 1).clamp_min(0)
                return self.value(other) + 100 * self.minimum.at_origin * beyond**2

            away = _by_lbfgs(fenced, point + drawn / 2, 50, self.rtol * self._slope) - point
            inside = away * (radius / torch.linalg.vector_norm(away)).clamp_max(1)
            found.append(float(self.value(point + inside)))
            if found[-1] < least:
                break
        return min(found)


def _by_lbfgs(value: Callable[[Tensor], Tensor], start: Tensor, iterations: int, goal: float) -> Tensor:
    """Return where L-BFGS ends: where the gradient's norm is below a goal, or no step goes down any more."""
    point = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [point],
        max_iter=iterations,
        history_size=50,
        tolerance_grad=goal / (4 * math.sqrt(len(start))),
        tolerance_change=1e-300,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        loss = value(point)
        point.grad = torch.autograd.grad(loss, point)[0]
        return loss.detach()

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return point.detach()


def _by_newton(value: Callable[[Tensor], Tensor], start: Tensor, iterations: int, goal: float) -> Tensor:
    """Return where Newton's method in a trust region ends, which follows negative curvature away from saddles.

    Nocedal & Wright 2006, Numerical Optimization, algorithm 4.1, each step by the eigenvectors of the Hessian.
    """
    point, radius = start, 1.0
    for _ in range(iterations):
        slope, loss = torch.func.grad_and_value(value)(point)
        norm = float(torch.linalg.vector_norm(slope))
        if norm <= goal / 4 or radius < 1e-14 * (1 + float(torch.linalg.vector_norm(point))):
            break
        curvature, axes = torch.linalg.eigh(_hessian(value, point))
        along = axes.T @ slope
        step = _step(curvature, along, radius)
        other = point + axes @ step
        foretold = float(-(along @ step) - (curvature * step.square()).sum() / 2)
        gained = float(loss - value(other))
        flatter = float(torch.linalg.vector_norm(torch.func.grad(value)(other))) < norm
        is_rounding = foretold < 1e-12 * abs(float(loss))  # the gradient then knows better
        if gained > 0.1 * foretold or (is_rounding and flatter):
            point = other
            radius = 2 * radius if gained > 0.7 * foretold else radius
        else:
            radius = float(torch.linalg.vector_norm(step)) / 4
    return point


def _hessian(value: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    """Return the Hessian, by two backward passes: torch's forward ones warn of what they are made of."""
    found: Tensor = torch.func.jacrev(torch.func.grad(value))(point)
    return (found + found.T) / 2


def _step(curvature: Tensor, along: Tensor, radius: float) -> Tensor:
    """Minimise a quadratic function in a ball, in coordinates along its eigenvectors, by bisection of the shift."""
    scale = float(curvature.abs().max())
    flat = curvature.abs() <= 1e-10 * scale
    if float(curvature[0]) >= -1e-10 * scale:  # no curvature is negative: the whole step, if it fits
        whole_step = torch.where(flat, 0.0, -along / torch.where(flat, 1.0, curvature))
        if float(torch.linalg.vector_norm(whole_step)) <= radius:
            return whole_step
    low = max(0.0, -float(curvature[0]))
    high = low + float(torch.linalg.vector_norm(along)) / radius
    for _ in range(100):
        shift = (low + high) / 2
        if float(torch.linalg.vector_norm(along / (curvature + shift).clamp_min(1e-300))) > radius:
            low = shift
        else:
            high = shift
    return -along / (curvature + high).clamp_min(1e-300)


def checked_data(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the data in float64."""
    for name, value in (("inputs", inputs), ("targets", targets)):
        if not isinstance(value, Tensor) or value.ndim != 2 or 0 in value.shape:
            raise ValueError(f"{name} must be a matrix with a row for each example")
        if value.is_complex() or not value.isfinite().all():
            raise ValueError(f"{name} has values that are not finite real numbers; give others")
    if len(inputs) != len(targets):
        raise ValueError(f"there are {len(inputs)} inputs and {len(targets)} targets; give one of each per example")
    return inputs.detach().cpu().double(), targets.detach().cpu().double()


def checked_widths(widths: Iterable[int]) -> tuple[int, ...]:
    """Return the widths of hidden layers, of which there must be one."""
    found = tuple(whole("a width", one, 1) for one in widths)
    if not found:
        raise ValueError("widths is empty; give the width of one hidden layer or more")
    return found


def _assumptions(x: Tensor, y: Tensor, strengths: Tensor) -> Assumptions:
    """Measure what the theorem assumes; strengths are the singular values of the least-squares predictions."""
    eigenvalues = torch.zeros(y.shape[1], dtype=torch.float64)
    eigenvalues[: len(strengths)] = strengths.square()
    gaps = -eigenvalues.diff() / eigenvalues[0].clamp_min(1e-300)
    return Assumptions(
        inputs=_conditioned(x, x.shape[1]),
        correlation=_conditioned(x.T @ y, y.shape[1]),
        gap=float(gaps.min()) if len(gaps) else math.inf,
        fewer_targets=y.shape[1] <= x.shape[1],
        rtol=1e-8,
    )


def _conditioned(matrix: Tensor, rank: int) -> float:
    """Return the rank-th singular value over the largest."""
    values = torch.linalg.svdvals(matrix)
    return float(values[rank - 1] / values[0]) if len(values) >= rank and values[0] > 0 else 0.0
