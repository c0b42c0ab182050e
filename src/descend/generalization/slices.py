"""Slices of the loss around a model, along directions whose filters are as long as the model's own.

Li, Xu, Taylor, Studer & Goldstein 2018, arXiv:1712.09913, section 4: rescaling a filter rescales its direction, so that
slices of different networks can be compared. The centre of every slice is the model itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from descend.generalization.krylov import generator, whole
from descend.generalization.linear import Conditions
from descend.generalization.objective import Objective

Normalization = Literal["filter", "layer"]
Statistics = Literal["none", "fixed", "recomputed", "batch"]


@dataclass(frozen=True)
class Slice:
    """The loss on a line or a plane through a model.

    Attributes:
        xs: rising, 0 among them.
        ys: rising, 0 among them; only 0 for a line.
        losses: losses[i][j] at weights + xs[j] first + ys[i] second; NaN and infinite ones are allowed.
        statistics: of batch normalization: the model's own at every point, or recomputed at every point.
        cosine: of the angle between the two directions, which random ones have nearly 0; None for a line.
        conditions: what was measured.
    """

    xs: list[float]
    ys: list[float]
    losses: list[list[float]]
    statistics: Statistics
    cosine: float | None
    conditions: Conditions

    @property
    def center(self) -> float:
        """The loss at the model's weights: the model's own, bit for bit, unless statistics are recomputed there too."""
        return self.losses[self.ys.index(0)][self.xs.index(0)]


def random_directions(
    objective: Objective, count: int = 2, *, normalize: Normalization | None = "filter", seed: int = 0
) -> Tensor:
    """Return random directions, (count, size): normal numbers, those of vectors being 0.

    Biases and the weights of normalization layers are vectors, along which the loss shows their scale and not its shape
    (the authors' `biasbn`).

    Args:
        objective: has the weights.
        count: of directions.
        normalize: "filter", which gives each output's filter (a row, of a linear layer) the norm of the model's;
            "layer", each tensor; None for none.
        seed: of the numbers.
    """
    whole("count", count, 1)
    if normalize not in ("filter", "layer", None):
        raise ValueError(f'normalize is {normalize!r}; give "filter", "layer" or None')
    source = generator(seed)
    weights = objective.split(objective.weights())
    return torch.stack(
        [objective.flat({n: _drawn(w, normalize, source) for n, w in weights.items()}) for _ in range(count)]
    )


def _drawn(weight: Tensor, normalize: Normalization | None, source: torch.Generator) -> Tensor:
    if weight.ndim <= 1:
        return torch.zeros_like(weight)
    drawn = torch.randn(weight.shape, generator=source, dtype=torch.float64).to(weight.device)
    if normalize is None:
        return drawn
    shape = (len(weight), -1) if normalize == "filter" else (1, -1)
    long, short = (torch.linalg.vector_norm(one.reshape(shape), dim=1, keepdim=True) for one in (weight, drawn))
    scaled: Tensor = drawn.reshape(shape) * (long / short.clamp_min(1e-300))
    return scaled.reshape(weight.shape)


def amounts(points: int = 41, reach: float = 1.0) -> list[float]:
    """Return evenly spaced amounts from -reach to reach, with 0 in the middle.

    Args:
        points: an odd number, 3 or more.
        reach: above 0; at 1 each filter has moved by its own length.
    """
    if whole("points", points, 3) % 2 == 0:
        raise ValueError(f"points is {points}; give an odd number, so that the model itself is among them")
    if isinstance(reach, bool) or not 0 < reach < math.inf:
        raise ValueError(f"reach is {reach!r}; give a finite number above 0, such as 1")
    middle = points // 2
    return [reach * (place - middle) / middle for place in range(points)]


def slice_line(
    objective: Objective,
    direction: Tensor,
    xs: Sequence[float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Slice:
    """Measure the loss on a line through the model.

    Args:
        objective: the loss; see its `recompute` for models with batch normalization.
        direction: any flat vector: one of `random_directions`, an eigenvector.
        xs: rising, 0 among them; by default `amounts()`.
        progress: called after each evaluation with how many there were, and will have been.

    Raises:
        ValueError: an argument makes no sense.
    """
    grid = _checked("xs", xs)
    with objective.repeating():
        losses = slice_row(objective, [direction], grid, 0.0, progress)
    return Slice(grid, [0.0], [losses], objective.statistics, None, objective.conditions)


def slice_plane(
    objective: Objective,
    directions: Sequence[Tensor] | Tensor,
    xs: Sequence[float] | None = None,
    ys: Sequence[float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Slice:
    """Measure the loss on a plane through the model.

    Args:
        objective: the loss; see its `recompute` for models with batch normalization.
        directions: two flat vectors.
        xs: amounts of the first, rising, 0 among them; by default `amounts()`.
        ys: of the second.
        progress: called after each evaluation with how many there were, and will have been.

    Raises:
        ValueError: an argument makes no sense.
    """
    across, up = _checked("xs", xs), _checked("ys", ys)
    if len(directions) != 2:
        raise ValueError(f"directions has {len(directions)}; give two")
    first, second = _as_vectors(objective, directions)
    told = None if progress is None else _Rows(progress, len(across) * len(up), len(across))
    with objective.repeating():
        losses = []
        for row, y in enumerate(up):
            losses.append(slice_row(objective, [first, second], across, y, None if told is None else told.of(row)))
    lengths = [float(torch.linalg.vector_norm(one)) for one in (first, second)]
    cosine = float(first @ second) / max(math.prod(lengths), 1e-300)
    return Slice(across, up, losses, objective.statistics, cosine, objective.conditions)


def slice_row(
    objective: Objective,
    directions: Sequence[Tensor] | Tensor,
    xs: Sequence[float],
    y: float,
    progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """Measure one row of a plane: work that can be kept, and need not be done again.

    Args:
        objective: the loss.
        directions: one or two flat vectors.
        xs: amounts of the first.
        y: amount of the second, of two.
        progress: called after each evaluation with how many there were, and will have been.

    Raises:
        ValueError: a direction is no finite vector of the objective's size, or y has none.
    """
    across, *up = _as_vectors(objective, directions)
    start = objective.weights()
    losses = []
    if y:
        if not up:
            raise ValueError(f"y is {y}, and directions has no second one; give two, or y = 0")
        start = torch.add(start, up[0], alpha=y)
    with objective.held():
        for done, x in enumerate(xs, 1):
            losses.append(objective.value(torch.add(start, across, alpha=x)))
            if progress is not None:
                progress(done, len(xs))
    return losses


@dataclass(frozen=True)
class _Rows:
    """Progress of rows as progress of the whole."""

    progress: Callable[[int, int], None]
    total: int
    width: int

    def of(self, row: int) -> Callable[[int, int], None]:
        return lambda done, _: self.progress(row * self.width + done, self.total)


def _as_vectors(objective: Objective, directions: Sequence[Tensor] | Tensor) -> list[Tensor]:
    """Return directions in float64 on the objective's device, before anything is measured along them."""
    for direction in directions:
        if direction.shape != (objective.size,) or not direction.isfinite().all():
            raise ValueError(f"a direction is no finite vector of ({objective.size},)")
    return [direction.to(objective.device, torch.float64) for direction in directions]


def _checked(name: str, given: Sequence[float] | None) -> list[float]:
    if given is None:
        return amounts()
    grid = [float(value) for value in given]
    if not grid or not all(map(math.isfinite, grid)) or grid != sorted(set(grid)) or 0 not in grid:
        raise ValueError(f"{name} must rise and have 0, the model itself, among them; amounts(41) gives such")
    return grid
