"""What learned optimizers are held to: rules whose hyper-parameters are tuned anew on every kind of problem."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor

from descend import rules
from descend.learned.pairs import LearnedRule, Pair
from descend.learned.problems import Problems
from descend.learned.training import mean_log10
from descend.learned.unrolling import detached, detached_state, initial, unroll

Metric = Literal["mean of log10", "log10 of mean"]
METRICS: Final[tuple[Metric, ...]] = ("mean of log10", "log10 of mean")
"""Of the final losses of problems: what optimizers are tuned for and compared by, each by itself."""
RATES: Final = tuple(float(f"{10 ** (place / 2):.3g}") for place in range(-8, 4))
"""Rates that are tried: half decades from 1e-4 to 30."""


@dataclass(frozen=True)
class Baseline:
    """A rule, and what is tried of it.

    Attributes:
        name: in tables.
        rule: name of the rule.
        fixed: hyper-parameters that are not tuned.
        grid: values of those that are, beside the rate.
    """

    name: str
    rule: str
    fixed: Mapping[str, Any]
    grid: Mapping[str, Sequence[Any]]

    def choices(self) -> Iterator[dict[str, Any]]:
        """Yield all hyper-parameters that are tried."""
        for values in itertools.product(RATES, *self.grid.values()):
            yield {**self.fixed, **dict(zip(("lr", *self.grid), values, strict=True))}

    def pair(self, values: Mapping[str, Any]) -> Pair:
        """Return the rule with these hyper-parameters, to be stepped by."""
        return LearnedRule(rules.catalog()[self.rule], ("lr",), **values)


_MOMENTA: Final = {"momentum": (0.5, 0.8, 0.9, 0.95, 0.99)}
BASELINES: Final = (
    Baseline("SGD", "sgd", {}, {}),
    Baseline("momentum", "sgd", {}, _MOMENTA),
    Baseline("Nesterov", "sgd", {"nesterov": True}, _MOMENTA),
    Baseline("RMSprop", "rmsprop", {}, {"alpha": (0.9, 0.99)}),
    Baseline("Adam", "adam", {}, {"betas": ((0.9, 0.999), (0.9, 0.99), (0.8, 0.99))}),
)


def losses_at(pair: Pair, problem: Problems, marks: Sequence[int]) -> Tensor:
    """Return the loss of each problem on all of its training data after so many steps, (marks, problems).

    Args:
        pair: that steps.
        problem: to solve.
        marks: numbers of steps, rising.
    """
    return torch.stack([problem.final(params) for params in params_at(pair, problem, marks)])


def params_at(pair: Pair, problem: Problems, marks: Sequence[int]) -> list[dict[str, Tensor]]:
    """Return the parameters of stacked problems after so many steps; the arguments are those of `losses_at`."""
    if list(marks) != sorted(set(marks)) or not marks or marks[0] < 1:
        raise ValueError(f"marks are {list(marks)}; give numbers of steps from 1 that rise")
    with torch.no_grad():
        params = problem.first()
        state, done, found = initial(pair, params), 0, []
        for mark in marks:
            result = unroll(pair, problem, params, state, mark - done, start=done, objective="sum")
            params, state, done = detached(result.params), detached_state(result.state), mark
            found.append(params)
    return found


def metric(losses: Tensor, name: Metric) -> float:
    """Return a metric of final losses; infinite where one of them is not finite.

    Args:
        losses: of problems.
        name: of the metric.
    """
    if not bool(losses.isfinite().all()):
        return math.inf
    return mean_log10(losses) if name == "mean of log10" else float(losses.double().mean().log10())


def tuned(baseline: Baseline, problem: Problems, marks: Sequence[int]) -> dict[tuple[int, Metric], dict[str, Any]]:
    """Return the best hyper-parameters for each number of steps and each metric, of those that are tried.

    Args:
        baseline: to tune.
        problem: that it is tuned on.
        marks: numbers of steps, rising.
    """
    best: dict[tuple[int, Metric], tuple[float, dict[str, Any]]] = {}
    for values in baseline.choices():
        found = losses_at(baseline.pair(values), problem, marks)
        for mark, losses in zip(marks, found, strict=True):
            for name in METRICS:
                score = metric(losses, name)
                if (mark, name) not in best or score < best[mark, name][0]:
                    best[mark, name] = score, values
    return {key: values for key, (_, values) in best.items()}
