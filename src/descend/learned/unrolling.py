"""Unrolled optimization: many steps of many problems, differentiable in what the optimizer learns.

One unroll serves networks and rules, and evaluation too. Parameters of a batch of problems are stacked along a first
dimension; a pair that looks at whole tensors steps each problem by itself, under `vmap`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from descend.learned.pairs import Pair, Params, State

Objective = Literal["log", "sum"]
"""What is minimized: the mean over steps of the logarithm of the loss, or of the loss."""


class Problem(Protocol):
    """A batch of problems to be solved, each by itself."""

    @property
    def count(self) -> int:
        """The number of problems."""

    def first(self) -> dict[str, Tensor]:
        """Return the parameters before the first step, (problems, ...)."""

    def losses(self, params: Params, step: int) -> Tensor:
        """Return the loss of each problem on its batch of a step, (problems,).

        Args:
            params: (problems, ...).
            step: counted from 0; the same step has the same batch.
        """


@dataclass(frozen=True)
class Unrolled:
    """An unroll.

    Attributes:
        objective: to call backward on: its gradients are those of what the pair learns.
        losses: before the first step and after each, (steps + 1, problems), without gradients.
        params: after the last step, with gradients.
        state: likewise.
    """

    objective: Tensor
    losses: Tensor
    params: dict[str, Tensor]
    state: dict[str, dict[str, Tensor]]


def initial(pair: Pair, params: Params) -> dict[str, dict[str, Tensor]]:
    """Return the state of stacked problems before the first step."""
    return pair.init(params) if pair.is_elementwise else torch.vmap(pair.init)(dict(params))


def unroll(
    pair: Pair,
    problem: Problem,
    params: Params,
    state: State,
    steps: int,
    *,
    start: int = 0,
    objective: Objective = "log",
    second_order: bool = False,
) -> Unrolled:
    """Take steps of a batch of problems, and keep what the gradient of the objective needs.

    The objective is the mean over problems and steps of the loss after each step (or of its logarithm). The gradient
    that the pair is shown is a constant, unless `second_order` says otherwise. What then is left of the objective's
    gradient is that of sum <g_t, theta_t> with g_t held fixed: no graph leads through the problem's model.

    Args:
        pair: whose parameters are learned.
        problem: to solve.
        params: (problems, ...); a graph behind them is followed, so detach where an unroll is truncated.
        state: of `initial`, or of the unroll before.
        steps: to take, 1 or more.
        start: steps taken before.
        objective: "log" or "sum".
        second_order: let gradients flow through the problem's own gradients.

    Source: Andrychowicz et al. 2016, arXiv:1606.04474, equations 1 to 3, with weights of 1 and the dashed edges of
    figure 2 dropped in first order.
    """
    params = dict(params)
    held = {name: dict(entry) for name, entry in state.items()}
    losses, terms = [], []
    for step in range(start, start + steps + 1):
        values, grads = gradients(problem, params, step, second_order)
        losses.append(values.detach())
        if step > start:
            terms.append(_term(values, grads, params, objective, second_order))
        if step < start + steps:
            params, held = _updated(pair, params, grads, held)
    return Unrolled(torch.stack(terms).mean(), torch.stack(losses), params, held)


def gradients(
    problem: Problem, params: Params, step: int, second_order: bool = False
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of each problem and its gradient; with a graph to earlier steps only in second order.

    Args:
        problem: whose losses.
        params: (problems, ...).
        step: whose batch.
        second_order: keep what led to the parameters.
    """
    with torch.enable_grad():
        held = {
            name: one if second_order and one.requires_grad else one.detach().requires_grad_()
            for name, one in params.items()
        }
        values = problem.losses(held, step)
        grads = torch.autograd.grad(values.sum(), list(held.values()), create_graph=second_order)
    return (values if second_order else values.detach()), dict(zip(held, grads, strict=True))


def _term(values: Tensor, grads: Params, params: Params, objective: Objective, second_order: bool) -> Tensor:
    """Return a step's part of the objective: the right number, with the right gradient."""
    number = (values.log() if objective == "log" else values).mean()
    if second_order:
        return number
    weights = 1 / (len(values) * (values if objective == "log" else torch.ones_like(values)))
    products = [weights * (grads[name] * params[name]).flatten(1).sum(1) for name in params]
    surrogate = torch.stack(products).sum()
    return number + surrogate - surrogate.detach()


def _updated(
    pair: Pair, params: dict[str, Tensor], grads: dict[str, Tensor], state: dict[str, dict[str, Tensor]]
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    if pair.is_elementwise:
        return pair.update(params, grads, state)
    new_params, new_state = torch.vmap(pair.update)(params, grads, state)
    return new_params, new_state


def detached(tensors: Params) -> dict[str, Tensor]:
    """Return tensors without what led to them: where an unroll is truncated."""
    return {name: one.detach() for name, one in tensors.items()}


def detached_state(state: State) -> dict[str, dict[str, Tensor]]:
    """Return a state without what led to it."""
    return {name: detached(entry) for name, entry in state.items()}


def solved(pair: Pair, problem: Problem, steps: int) -> Unrolled:
    """Solve problems from their beginning, without gradients of what is learned.

    Args:
        pair: that steps.
        problem: to solve.
        steps: to take.
    """
    with torch.no_grad():
        params = problem.first()
        return unroll(pair, problem, params, initial(pair, params), steps, objective="sum")
