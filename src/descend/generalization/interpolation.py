"""Straight lines between solutions, and how high the loss rises on them.

Goodfellow, Vinyals & Saxe 2015, arXiv:1412.6544, look at the loss on a line from one set of weights to another. Frankle
et al. 2020, arXiv:1912.05671, compare its highest point with the ends, which says whether two runs reached one basin.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from descend.model_states import State, copied, is_floating, wide


@dataclass(frozen=True)
class Measured:
    """What an evaluation of a state gives.

    Attributes:
        loss: a mean over examples, say; NaN and infinite ones are allowed, as of weights that diverge.
        error: a share of examples, where there is such a thing.
    """

    loss: float
    error: float | None = None


Evaluate = Callable[[State], Measured | Mapping[str, float]]


def interpolate(first: State, second: State, amount: float) -> dict[str, Tensor]:
    """Return (1 - amount) * first + amount * second, computed in float64 and rounded once to first's types.

    Whole numbers and bools, such as counts of batches, are those of the nearer end, in the middle of the first.

    Args:
        first: state of a model; the result for 0, bit for bit.
        second: of the same architecture; the result for 1, bit for bit.
        amount: finite; below 0 and above 1 the line goes on.

    Raises:
        TypeError: a state is no mapping.
        ValueError: the amount is not finite, or names or shapes differ.
    """
    check_alike(first, second)
    if not math.isfinite(amount):
        raise ValueError(f"amount is {amount}; give a finite number, 0 for the first state and 1 for the second")
    nearer = first if amount <= 0.5 else second
    if amount in (0, 1):
        return {name: copied(nearer[name]) for name in first}
    return {
        name: _between(value, second[name], amount) if is_floating(value) else copied(nearer[name])
        for name, value in first.items()
    }


def _between(first: Tensor, second: Tensor, amount: float) -> Tensor:
    start = wide(first)
    return ((1 - amount) * start + amount * wide(second).to(start.device)).to(first)


@dataclass(frozen=True)
class Path:
    """What was measured on a line from one state to another.

    Attributes:
        amounts: rising from 0, the first state, to 1, the second.
        losses: one per amount.
        errors: one per amount; None unless each was measured.
    """

    amounts: list[float]
    losses: list[float]
    errors: list[float] | None = None

    @property
    def barrier(self) -> float | None:
        """How far the loss rises above the straight line between the losses of the ends, at least 0.

        B = max over a of L(a) - ((1 - a) L(0) + a L(1)), as in Entezari et al. 2022, arXiv:2110.06296;
        Frankle et al. 2020 subtract the mean of the ends instead, of errors. Infinite where a loss on the way is NaN or
        infinite; None where one of an end is, since there is nothing to compare with.
        """
        return _barrier(self.amounts, self.losses)

    @property
    def error_barrier(self) -> float | None:
        """The same of the errors; None where they were not measured."""
        return None if self.errors is None else _barrier(self.amounts, self.errors)


def _barrier(amounts: Sequence[float], heights: Sequence[float]) -> float | None:
    start, end = heights[0], heights[-1]
    if not (math.isfinite(start) and math.isfinite(end)):
        return None
    rises = [
        height - ((1 - amount) * start + amount * end)
        for amount, height in zip(amounts[1:-1], heights[1:-1], strict=True)
    ]
    return max([0.0, *(math.inf if math.isnan(rise) else rise for rise in rises)])


def path(
    first: State,
    second: State,
    evaluate: Evaluate,
    *,
    points: int = 11,
    ends: tuple[Measured, Measured] | None = None,
) -> Path:
    """Measure evenly spaced points of the line from one state to another.

    Args:
        first: state of a model; amount 0.
        second: of the same architecture; amount 1.
        evaluate: takes a state, returns its loss and perhaps its error. It loads the state into a model, and calls
            `descend.averaging.recompute_batch_norm` if that has batch normalization: statistics between those of the
            ends are not those of the weights between. The same data each time, or the barrier is noise.
        points: with both ends, 3 or more.
        ends: what was measured of both states before; by default they are evaluated too.

    Raises:
        TypeError: an evaluation returns neither Measured nor a mapping, or a state is no mapping.
        ValueError: points are too few, an evaluation has no loss, or names or shapes differ.
    """
    check_points(points, least=3)
    check_alike(first, second)
    amounts = [place / (points - 1) for place in range(points)]
    start = measured(evaluate(first)) if ends is None else measured(ends[0])
    inner = [measured(evaluate(interpolate(first, second, amount))) for amount in amounts[1:-1]]
    end = measured(evaluate(second)) if ends is None else measured(ends[1])
    found = [start, *inner, end]
    return Path(amounts, [one.loss for one in found], all_or_none(one.error for one in found))


@dataclass(frozen=True)
class Barriers:
    """What was measured between each two of several states.

    Attributes:
        count: of the states.
        paths: from state i to state j, for i below j.
    """

    count: int
    paths: dict[tuple[int, int], Path]

    @property
    def matrix(self) -> list[list[float | None]]:
        """The loss barrier between states i and j, at [i][j] and [j][i]; see `Path.barrier` for what is None."""
        rows: list[list[float | None]] = [[0.0] * self.count for _ in range(self.count)]
        for (i, j), line in self.paths.items():
            rows[i][j] = rows[j][i] = line.barrier
        return rows

    @property
    def largest(self) -> float | None:
        """The highest barrier, of those that are not None; None without one."""
        return max((line.barrier for line in self.paths.values() if line.barrier is not None), default=None)


def barriers(
    states: Sequence[State],
    evaluate: Evaluate,
    *,
    points: int = 11,
    progress: Callable[[int, int], None] | None = None,
) -> Barriers:
    """Measure the lines between each two of several states: which of them lie in one basin.

    Args:
        states: of one architecture, 2 or more. `__getitem__` may load one from a disk; at most two are in memory,
            beside the point between them.
        evaluate: as in `path`; called once per state, and points - 2 times per pair.
        points: of each line, with both ends.
        progress: called after each evaluation with how many there were, and will have been.

    Raises:
        TypeError: an evaluation returns neither Measured nor a mapping, or a state is no mapping.
        ValueError: there are fewer than 2 states, points are too few, or names or shapes differ.
    """
    check_points(points, least=3)
    if (count := len(states)) < 2:
        raise ValueError(f"states has {count}; give 2 or more, to have something between them")
    pairs = list(itertools.combinations(range(count), 2))
    counted = counting(evaluate, count + len(pairs) * (points - 2), progress)
    shapes = _shapes(states[0])
    for place in range(1, count):  # before anything is evaluated, which takes long
        check_shapes(shapes, _shapes(states[place]))
    ends = [counted(states[place]) for place in range(count)]
    paths = {}
    for i in range(count - 1):
        first = states[i]
        for j in range(i + 1, count):
            paths[i, j] = path(first, states[j], counted, points=points, ends=(ends[i], ends[j]))
        del first  # before the next one is read
    return Barriers(count, paths)


def counting(
    evaluate: Evaluate, total: int, progress: Callable[[int, int], None] | None
) -> Callable[[State], Measured]:
    """Return an evaluation that reports how many there were, of so many."""
    done = itertools.count(1)

    def counted(state: State) -> Measured:
        found = measured(evaluate(state))
        if progress is not None:
            progress(next(done), total)
        return found

    return counted


def measured(value: Any) -> Measured:
    """Return what an evaluation gave as numbers.

    Raises:
        TypeError: it is neither Measured nor a mapping.
        ValueError: it has no loss.
    """
    found = vars(value) if isinstance(value, Measured) else value
    if not isinstance(found, Mapping):
        raise TypeError(
            f"evaluate returned {type(value).__name__}; return Measured(loss, error), or a dict with 'loss'"
        )
    if found.get("loss") is None:
        raise ValueError(f"evaluate returned {', '.join(map(repr, found)) or 'nothing'}; return a 'loss' among them")
    error = found.get("error")
    return Measured(float(found["loss"]), None if error is None else float(error))


def all_or_none(values: Iterable[float | None]) -> list[float] | None:
    """Return the values, or None if one is None."""
    found = list(values)
    known = [value for value in found if value is not None]
    return known if len(known) == len(found) else None


def check_points(points: object, least: int) -> None:
    """Refuse what is no whole number of points, or too few."""
    if isinstance(points, bool) or not isinstance(points, int) or points < least:
        raise ValueError(f"points is {points!r}; give a whole number, {least} or more")


def check_alike(first: State, second: State) -> None:
    """Refuse two states with other names or shapes, naming the tensor."""
    check_shapes(_shapes(first), _shapes(second))


def check_shapes(first: Mapping[str, tuple[int, ...]], second: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse the names and shapes of two architectures, naming the tensor."""
    for name in [*first, *second]:
        if name not in first or name not in second:
            raise ValueError(f"one state has {name!r} and another has not; give states of one architecture")
        if first[name] != second[name]:
            raise ValueError(
                f"{name!r} has the shape {first[name]} in one state and {second[name]} in another; "
                "give states of one architecture"
            )


def _shapes(state: State) -> dict[str, tuple[int, ...]]:
    if not isinstance(state, Mapping):
        raise TypeError(f"a state is {type(state).__name__}; give what model.state_dict() returns")
    return {name: tuple(value.shape) for name, value in state.items() if isinstance(value, Tensor)}
