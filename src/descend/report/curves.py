"""What the charts draw, computed from the trials: curves over seeds, and answers to each rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from descend.report.results import Point, Results, Trial

# More points than this per curve cannot be told apart at the width of a chart.
_POINTS = 150

Answers: TypeAlias = list[tuple[float, float | None]]
"""Rates and the validation metric that each gave, None for a divergence."""


@dataclass(frozen=True)
class Curve:
    """Mean, lowest and highest value over seeds at each step, as far as every seed has one.

    `broken`: a seed diverged (or there is none), so that the mean of all of them ends early. Going on with the others
    would flatter the optimizer.
    """

    optimizer: str
    steps: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]
    broken: bool


def curves(results: Results, quantity: Callable[[Point], float | None]) -> list[Curve]:
    """One curve per optimizer over its final trials, in the order of the comparison."""
    return [_curve(optimizer.name, results.of("final", optimizer.name), quantity) for optimizer in results.optimizers]


def _curve(name: str, trials: list[Trial], quantity: Callable[[Point], float | None]) -> Curve:
    at: dict[int, list[float]] = {}
    for trial in trials:
        for point in trial.curve:
            value = quantity(point)
            if value is not None:
                at.setdefault(point.step, []).append(value)
    steps = _thin([step for step in sorted(at) if len(at[step]) == len(trials)])
    return Curve(
        optimizer=name,
        steps=steps,
        mean=[sum(at[step]) / len(at[step]) for step in steps],
        low=[min(at[step]) for step in steps],
        high=[max(at[step]) for step in steps],
        broken=not trials or any(trial.diverged for trial in trials),
    )


def _thin(steps: Sequence[int]) -> list[int]:
    """At most `_POINTS` of the steps, evenly spaced, the first and the last among them."""
    if len(steps) <= _POINTS:
        return list(steps)
    return [steps[round(place * (len(steps) - 1) / (_POINTS - 1))] for place in range(_POINTS)]


def answers(results: Results) -> dict[str, Answers]:
    """Per optimizer the rates tried and the validation metric each gave, its mean over the tuning seeds.

    A rate at which a seed diverged has None: the worst result, not a missing one.
    """
    return {optimizer.name: _answers(results.of("tuning", optimizer.name)) for optimizer in results.optimizers}


def _answers(trials: list[Trial]) -> Answers:
    by_rate: dict[float, list[float | None]] = {}
    for trial in trials:
        by_rate.setdefault(trial.rate, []).append(None if trial.diverged else trial.validation_metric)
    return [(rate, _mean(by_rate[rate])) for rate in sorted(by_rate)]


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
