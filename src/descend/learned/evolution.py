"""Persistent evolution strategies: the gradient of an objective over long unrolls, without bias and without a graph.

Truncated backpropagation sees no further than its unroll. Here each particle goes on with weights perturbed anew at
every truncation, and what a loss says is of the sum of all its perturbations since the beginning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from descend.learned.pairs import Pair
from descend.learned.unrolling import Objective, Problem, gradients, initial

Weights = dict[str, Tensor]


@dataclass
class _Side:
    """Where particles are that are perturbed in one direction."""

    params: dict[str, Tensor]
    state: dict[str, dict[str, Tensor]]


class PersistentEvolution:
    """Particles in antithetic pairs, each pair on a problem of its own.

    Args:
        pair: what is learned, which the gradients are of.
        problem: whose count is the number of antithetic pairs.
        sigma: deviation of a perturbation.
        seed: of the perturbations.

    Source: Vicol et al. 2021, arXiv:2112.13835, algorithm 1 (PES); the estimate as in google/learned_optimization:
    the mean over pairs of (L+ - L-) xi / (2 sigma^2).
    """

    def __init__(self, pair: Pair, problem: Problem, sigma: float = 0.01, seed: int = 0) -> None:
        if not 0 < sigma < float("inf"):
            raise ValueError(f"sigma is {sigma!r}; give a number above 0")
        self.pair, self.problem, self.sigma = pair, problem, sigma
        params = problem.first()
        self._sides = tuple(_Side(dict(params), initial(pair, params)) for _ in range(2))
        count = problem.count
        self._sums: Weights = {name: one.new_zeros((count, *one.shape)) for name, one in pair.named_parameters()}
        self._source = torch.Generator().manual_seed(seed)
        self.steps = 0

    def gradients(self, steps: int, objective: Objective = "log") -> tuple[Weights, Tensor]:
        """Go on for some steps; return the estimate of the objective's gradient, and its mean over particles.

        Args:
            steps: to take.
            objective: "log" or "sum", as in `unroll`.
        """
        with torch.no_grad():
            weights = {name: one.detach() for name, one in self.pair.named_parameters()}
            noise = {
                name: self.sigma * torch.randn(total.shape, generator=self._source, dtype=total.dtype)
                for name, total in self._sums.items()
            }
            means = []
            for side, sign in zip(self._sides, (1, -1), strict=True):
                moved = {name: weights[name] + sign * one for name, one in noise.items()}
                means.append(self._go_on(side, moved, steps, objective))
            self.steps += steps
            for name, one in noise.items():
                self._sums[name] += one
            difference = (means[0] - means[1]) / (2 * self.sigma**2 * self.problem.count)
            found = {name: torch.tensordot(difference, total, 1) for name, total in self._sums.items()}
        return found, torch.stack(means).mean()

    def _go_on(self, side: _Side, weights: Weights, steps: int, objective: Objective) -> Tensor:
        """Take steps, each particle with its own weights; return the objective of each."""
        step = torch.vmap(self._stepped)
        end, terms = self.steps + steps, []
        for place in range(self.steps, end + 1):
            values, grads = gradients(self.problem, side.params, place)
            if place > self.steps:
                terms.append(values.log() if objective == "log" else values)
            if place < end:
                side.params, side.state = step(weights, side.params, grads, side.state)
        return torch.stack(terms).mean(0)

    def _stepped(self, weights: Weights, *arguments: Any) -> Any:
        return torch.func.functional_call(self.pair, weights, arguments)
