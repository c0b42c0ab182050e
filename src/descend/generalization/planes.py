"""Planes through three solutions, and the loss on them.

The construction of Garipov et al. 2018, arXiv:1802.10026, figure 1, which Izmailov et al. 2018, arXiv:1803.05407, use
for weight averages: u = w2 - w1, v = (w3 - w1) - <w3 - w1, w2 - w1> / |w2 - w1|^2 (w2 - w1), both divided by their
norms; a point is w1 + x u + y v. So distances on the plane are distances between weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from descend.generalization.interpolation import (
    Evaluate,
    all_or_none,
    check_alike,
    check_points,
    counting,
)
from descend.model_states import State, copied, is_floating, wide

_STATISTICS = ("running_mean", "running_var")  # of normalization layers, which are no weights
_NO_PLANE = "give three different solutions that do not lie on one line"

Point = tuple[float, float]
Direction = dict[str, Tensor]


@dataclass(frozen=True)
class Plane:
    """The plane through three solutions; built by `Plane.through`.

    Attributes:
        solutions: the three states. The first is the origin.
        across: the unit vector from the first to the second, in float64, by tensor.
        up: the unit vector at a right angle to it, on the side of the third.
        coordinates: of the three, (0, 0), (a, 0) and (b, c) with a and c above 0.
    """

    solutions: tuple[State, State, State]
    across: Direction
    up: Direction
    coordinates: tuple[Point, Point, Point]

    @classmethod
    def through(cls, first: State, second: State, third: State, *, names: Iterable[str] | None = None) -> Plane:
        """Return the plane through three solutions.

        Args:
            first: state of a model; the origin.
            second: of the same architecture; on the x axis.
            third: of the same architecture.
            names: of the tensors that count as weights, say of `model.named_parameters(remove_duplicate=False)`: tied
                weights need all their names. By default all floating ones but running means and variances. Others are
                no directions of the plane.

        Raises:
            TypeError: a state is no mapping.
            ValueError: names or shapes differ, a name is of no floating tensor, a weight is not finite, or the
                solutions lie on one line, which they do if what is left is no more than rounding.
        """
        check_alike(first, second)
        check_alike(first, third)
        weights = _weight_names(first, names)
        for title, state in {"first": first, "second": second, "third": third}.items():
            for name in weights:
                if not state[name].isfinite().all():
                    raise ValueError(f"{title} has values in {name!r} that are not finite; give solutions that trained")
        noise = _rounding((first, second, third), weights)
        across = _difference(second, first, weights)
        a = _norm(across)
        if a <= noise:
            raise ValueError(f"first and second are the same weights; {_NO_PLANE}")
        across = _scaled(across, 1 / a)
        up = _difference(third, first, weights)
        length = _norm(up)
        b = _remove(up, across)
        b += _remove(up, across)  # what rounding has left of it
        c = _norm(up)
        if c <= max(noise, 1e-12 * length):
            raise ValueError(f"third lies on the line through first and second; {_NO_PLANE}")
        return cls((first, second, third), across, _scaled(up, 1 / c), ((0.0, 0.0), (a, 0.0), (b, c)))

    def at(self, x: float, y: float) -> dict[str, Tensor]:
        """Return the state at a point: weights of the plane, rounded once, all else from the nearest solution.

        Raises:
            ValueError: a coordinate is not finite.
        """
        if not (math.isfinite(x) and math.isfinite(y)):
            raise ValueError(f"the point is ({x}, {y}); give finite coordinates, in the units of the weights")
        nearest = min(range(3), key=lambda place: math.dist((x, y), self.coordinates[place]))
        origin, rest = self.solutions[0], self.solutions[nearest]
        return {
            name: (wide(value) + x * self.across[name] + y * self.up[name]).to(value)
            if name in self.across
            else copied(rest[name])
            for name, value in origin.items()
        }

    def project(self, state: State) -> tuple[float, float, float]:
        """Return the coordinates of the nearest point of the plane, and the distance of the state's weights from it.

        Raises:
            TypeError: the state is no mapping.
            ValueError: it is of another architecture.
        """
        check_alike(self.solutions[0], state)
        left = _difference(state, self.solutions[0], list(self.across))
        x, y = _remove(left, self.across), _remove(left, self.up)
        return x, y, _norm(left)

    def grid(self, points: int, margin: float = 0.2) -> tuple[list[float], list[float]]:
        """Return evenly spaced xs and ys that cover the three solutions.

        Args:
            points: of each axis, 2 or more.
            margin: that is added at each side, as a share of the solutions' extent; from 0 up.

        Raises:
            ValueError: points or margin make no sense.
        """
        check_points(points, least=2)
        if not 0 <= margin < math.inf:
            raise ValueError(f"margin is {margin}; give a finite number from 0 up, such as 0.2")
        xs, ys = (_spread(axis, points, margin) for axis in zip(*self.coordinates, strict=True))
        return xs, ys


@dataclass(frozen=True)
class Surface:
    """What was measured on a grid of a plane.

    Attributes:
        xs: rising.
        ys: rising.
        losses: losses[i][j] at (xs[j], ys[i]).
        errors: in the same places; None unless each was measured.
    """

    xs: list[float]
    ys: list[float]
    losses: list[list[float]]
    errors: list[list[float]] | None = None


def surface(
    plane: Plane,
    evaluate: Evaluate,
    points: int = 15,
    margin: float = 0.2,
    progress: Callable[[int, int], None] | None = None,
) -> Surface:
    """Measure the loss on a grid of a plane.

    Args:
        plane: through three solutions.
        evaluate: takes a state, returns its loss and perhaps its error; see `path`. Called points * points times.
        points: of each axis, 2 or more.
        margin: around the solutions; see `Plane.grid`.
        progress: called after each evaluation with how many there were, and will have been.

    Raises:
        TypeError: an evaluation returns neither Measured nor a mapping.
        ValueError: an evaluation has no loss, or points or margin make no sense.
    """
    xs, ys = plane.grid(points, margin)
    counted = counting(evaluate, len(xs) * len(ys), progress)
    found = [[counted(plane.at(x, y)) for x in xs] for y in ys]
    errors = all_or_none(one.error for row in found for one in row)
    return Surface(
        xs,
        ys,
        [[one.loss for one in row] for row in found],
        None if errors is None else [errors[place : place + len(xs)] for place in range(0, len(errors), len(xs))],
    )


def _weight_names(state: State, names: Iterable[str] | None) -> list[str]:
    if isinstance(names, str):
        raise ValueError(f"names is the string {names!r}; give a list of names")
    if names is None:
        return [name for name in state if is_floating(state[name]) and name.rpartition(".")[2] not in _STATISTICS]
    found = list(dict.fromkeys(names))
    for name in found:
        if not is_floating(state.get(name)):
            raise ValueError(f"names has {name!r}, which is no floating tensor of the states; give those of parameters")
    return found


def _rounding(states: Sequence[State], names: Sequence[str]) -> float:
    """How far apart weights may be by rounding alone."""
    return math.hypot(
        *(torch.finfo(states[0][name].dtype).eps * max(_length(state[name]) for state in states) for name in names)
    )


def _difference(state: State, origin: State, names: Sequence[str]) -> Direction:
    return {name: wide(state[name]).to((start := wide(origin[name])).device) - start for name in names}


def _norm(direction: Mapping[str, Tensor]) -> float:
    return math.hypot(*map(_length, direction.values()))


def _length(value: Tensor) -> float:
    return float(torch.linalg.vector_norm(wide(value)))


def _scaled(direction: Direction, by: float) -> Direction:
    return {name: value * by for name, value in direction.items()}


def _remove(direction: Direction, unit: Direction) -> float:
    """Take the part along a unit vector out of a direction, in place; return how long it was."""
    along = math.fsum(
        float(torch.vdot(unit[name].flatten(), value.flatten()).real) for name, value in direction.items()
    )
    for name, value in direction.items():
        value.sub_(along * unit[name])
    return along


def _spread(axis: Sequence[float], points: int, margin: float) -> list[float]:
    low, high = min(axis), max(axis)
    beyond = margin * (high - low)
    low, high = low - beyond, high + beyond
    return [low + (high - low) * place / (points - 1) for place in range(points)]
