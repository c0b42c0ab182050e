"""The way of training on a plane: its principal directions, and where it was on them.

Li et al. 2018, arXiv:1712.09913, section 7.2: the differences of the weights on the way from those at its end, and
their two largest principal components, without centering, so that the end is the origin and shares are of squared
distances from it. The authors' code centers (scikit-learn's PCA): its directions and shares are of the variance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from descend.generalization.krylov import whole

CAVEAT = (
    "Principal components of a random walk in many dimensions are cosines too, and hold most of its variance "
    "(Antognini & Sohl-Dickstein 2018, arXiv:1806.08805): smooth curves and high shares alone say little of the loss."
)


@dataclass(frozen=True)
class Trajectory:
    """The way of training, projected.

    Attributes:
        origin: weights at its end, a flat vector.
        directions: orthonormal, (count, size); the first has the largest share.
        coordinates: of each point of the way, (points, count); zeros at the end.
        distances: of each point from what the directions span.
        explained: share of the sum of squared distances from the end that lies along each direction.
    """

    origin: Tensor
    directions: Tensor
    coordinates: Tensor
    distances: Tensor
    explained: list[float]

    def project(self, weights: Tensor) -> tuple[list[float], float]:
        """Return the coordinates of other weights, and their distance from the span."""
        left = weights.to(self.origin) - self.origin
        along = self.directions @ left
        return along.tolist(), float(torch.linalg.vector_norm(left - self.directions.T @ along))

    def grid(self, points: int = 25, margin: float = 0.2) -> tuple[list[float], list[float]]:
        """Return amounts of the first two directions that cover the way and have its end, 0, among them.

        Args:
            points: of each axis, 3 or more; evenly spaced on each side of the end.
            margin: added at each side, as a share of the way's extent, or somewhat more for 0 to be among the amounts.

        Raises:
            ValueError: points or margin make no sense, or there is only one direction.
        """
        if len(self.directions) < 2:
            raise ValueError("the way was projected on one direction; give count=2 to project_trajectory")
        whole("points", points, 3)
        if not 0 <= margin < 100:
            raise ValueError(f"margin is {margin!r}; give a number from 0 up, such as 0.2")
        xs, ys = (_axis(self.coordinates[:, place], points, margin) for place in (0, 1))
        return xs, ys


def project_trajectory(way: Sequence[Tensor], count: int = 2) -> Trajectory:
    """Return the principal directions of a way of training, and its coordinates on them.

    Args:
        way: flat vectors of weights, the last one its end; count + 1 or more.
        count: of directions.

    Raises:
        ValueError: the way is too short, stands still, or has vectors of other lengths or that are not finite.
    """
    whole("count", count, 1)
    if len(way) < count + 1:
        raise ValueError(f"way has {len(way)} points; give {count + 1} or more for {count} directions")
    if len({one.shape for one in way}) != 1 or way[0].ndim != 1:
        raise ValueError("way has vectors of different shapes; give flat ones of one model")
    origin = way[-1].double()
    steps = torch.stack([one.to(origin) - origin for one in way])
    if not steps.isfinite().all():
        raise ValueError("way has weights that are not finite; leave out what diverged")
    _, lengths, directions = torch.linalg.svd(steps, full_matrices=False)
    if count > len(lengths) or lengths[count - 1] <= 1e-12 * max(float(lengths[0]), 1e-300):
        raise ValueError(f"way has less than {count} directions: its points are the same, or lie on a line")
    directions = directions[:count]
    signs = torch.where((steps @ directions.T)[0] < 0, -1.0, 1.0).to(origin)  # so that it begins on the positive side
    directions = directions * signs[:, None]
    coordinates = steps @ directions.T
    distances = torch.linalg.vector_norm(steps - coordinates @ directions, dim=1)
    shares = (lengths[:count] ** 2 / (lengths**2).sum()).tolist()
    return Trajectory(origin, directions, coordinates, distances, shares)


def _axis(along: Tensor, points: int, margin: float) -> list[float]:
    """Return the closest spacing that has 0 among so many points and covers a way on both sides of it."""
    low, high = float(along.min()), float(along.max())
    beyond = margin * (high - low)
    left, right = beyond - low, beyond + high
    steps = [max(left / max(below, 1e-300), right / max(points - 1 - below, 1e-300)) for below in range(points)]
    below = min(range(points), key=steps.__getitem__)
    return [steps[below] * (place - below) for place in range(points)]
