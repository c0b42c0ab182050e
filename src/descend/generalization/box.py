"""Keskar's sharpness: how far the loss rises in a small box around the weights.

Keskar, Mudigere, Nocedal, Smelyanskiy & Tang 2017, arXiv:1609.04836, metric 2.1. With A a matrix of n rows and p
columns and A+ its pseudo-inverse,

    C = { z : |z_i| <= eps (|(A+ x)_i| + 1) },      phi = 100 (max over z in C of f(x + A z) - f(x)) / (1 + f(x)).

A is the identity, or drawn: then the search is on a random manifold through x. The maximum is searched by L-BFGS-B, so
phi is a lower bound; a poor one where gradients are small, as after a long training: first steps are then small too,
however large the box is, and the iterations end before its edge. A second search by `ascent_steps` finds more. No
rescaling of layers leaves phi alone: the box grows with the weights by its |x_i|, but not by its 1.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from descend.generalization.ascent import ascent, direction
from descend.generalization.estimates import interval, mean_and_error
from descend.generalization.krylov import generator, whole
from descend.generalization.linear import Conditions
from descend.generalization.objective import Objective

Columns = Literal["normal", "unit"]
_ROUNDING = 1 - 1e-6
"""A loss that is linear in the box rises by what its gradient foretells, but for rounding."""


@dataclass(frozen=True)
class BoxSharpness:
    """Keskar's phi.

    Attributes:
        values: of each trial, in per cent.
        ascended: the same of each trial with a second search, the larger of both; empty without one.
        first_order: the same of each trial by the gradient alone, which is followed to the corner of the box.
        loss: f(x).
        eps: size of the box.
        dimensions: of the space that was searched: n, or the p of a manifold.
        columns: how those of the manifold were drawn; None in full space.
        nudge: size of the random start, as a share of the box.
        evaluations: of the loss with its gradient, in all.
        stalled: trials whose search ended where it began: at a stationary point, where a nudge helps.
        short: trials that found less than `first_order`; unless the loss bends down, the search ended too early. That
            there are none proves nothing: where the loss bends up, its maximum may be far above `first_order`.
        invariances: what leaves the measure unchanged; nothing does.
        conditions: what was measured.
    """

    values: list[float]
    ascended: list[float]
    first_order: list[float]
    loss: float
    eps: float
    dimensions: int
    columns: Columns | None
    nudge: float
    evaluations: int
    stalled: int
    short: int
    invariances: tuple[str, ...]
    conditions: Conditions

    @property
    def mean(self) -> float:
        """Over the trials."""
        return math.fsum(self.values) / len(self.values)

    @property
    def deviation(self) -> float | None:
        """Of the trials, as the paper's tables have it; None where there is no interval."""
        if self.interval is None:
            return None
        return mean_and_error(self.values)[1] * math.sqrt(len(self.values))

    @property
    def interval(self) -> tuple[float, float] | None:
        """The mean's 95 % interval by Student's t over the trials; None for one trial, or where a value is infinite."""
        if len(self.values) < 2 or not all(map(math.isfinite, self.values)):
            return None
        return interval(*mean_and_error(self.values), len(self.values))


def box_sharpness(
    objective: Objective,
    eps: float = 1e-3,
    *,
    manifold: int | None = None,
    columns: Columns = "normal",
    trials: int | None = None,
    iterations: int = 10,
    nudge: float = 0.0,
    ascent_steps: int = 0,
    seed: int = 0,
) -> BoxSharpness:
    """Return how far the loss rises in Keskar's box.

    Args:
        objective: the loss over the whole training data, as in the paper.
        eps: size of the box; the paper has 1e-3 and 5e-4.
        manifold: dimension p of a random manifold (the paper's 100); None for the full space.
        columns: of the manifold: "normal" draws each entry from N(0, 1), "unit" divides columns by their norms. The
            paper does not say; the box of normal columns reaches farther, by the square root of the weights' number.
        trials: manifolds, or random starts (manifold: 5, as the paper; full space: 1, or 5 with a nudge).
        iterations: of L-BFGS-B; the authors' code has 10.
        nudge: start at a random point, at most so much of the box away from x; 0, as in the paper, starts at x.
        ascent_steps: of a second search, by the signs of gradients (`ascent`), which does not slow down where gradients
            are small; 20 find about what more do. 0, as in the paper, for none.
        seed: of what is drawn.

    Raises:
        ModuleNotFoundError: without SciPy.
        ValueError: an argument makes no sense, or the loss at the weights is not finite, or -1 or less.
    """
    if importlib.util.find_spec("scipy") is None:
        raise ModuleNotFoundError(
            "box_sharpness needs scipy, of the lab extra: pip install 'descend[lab]'", name="scipy"
        )
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not 0 < eps < math.inf:
        raise ValueError(f"eps is {eps!r}; give a finite number above 0, such as 1e-3")
    if isinstance(nudge, bool) or not isinstance(nudge, (int, float)) or not 0 <= nudge <= 1:
        raise ValueError(f"nudge is {nudge!r}; give a share of the box, from 0 to 1")
    if columns not in ("normal", "unit"):
        raise ValueError(f'columns is {columns!r}; give "normal" or "unit"')
    if manifold is not None and whole("manifold", manifold, 1) > objective.size:
        raise ValueError(f"manifold is {manifold}, but there are {objective.size} weights; give no more")
    whole("iterations", iterations, 1)
    whole("ascent_steps", ascent_steps, 0)
    usual = 1 if manifold is None and not nudge else 5
    count = whole("trials", trials, 1) if trials is not None else usual
    source = generator(seed)
    center = objective.weights()
    with objective.repeating():
        loss, gradient = objective.value_and_gradient(center)  # as the search sees it: forward passes alone may round
        if not math.isfinite(loss):
            raise ValueError(f"the loss at the weights is {loss}; there is nothing to measure a rise from")
        if loss <= -1:
            raise ValueError(f"the loss at the weights is {loss}; phi divides by 1 + loss, which must be above 0")
        found = []
        for _ in range(count):
            box = _Box.of(objective, center, _frame(center, manifold, columns, source), eps)
            best = box.by_lbfgs(loss, iterations, nudge, source)
            higher = max(best, *box.by_ascent(gradient, ascent_steps)) if ascent_steps else None
            found.append((best, higher, box.foretold(gradient), box.evaluations))

    def phi(rise: float) -> float:
        return 100 * rise / (1 + loss)

    values, foretold = [phi(best - loss) for best, *_ in found], [phi(rise) for _, _, rise, _ in found]
    return BoxSharpness(
        values=values,
        ascended=[phi(higher - loss) for _, higher, *_ in found if higher is not None],
        first_order=foretold,
        loss=loss,
        eps=eps,
        dimensions=objective.size if manifold is None else manifold,
        columns=None if manifold is None else columns,
        nudge=nudge,
        evaluations=1 + sum(evaluations for *_, evaluations in found),
        stalled=sum(best <= loss for best, *_ in found),
        short=sum(value < _ROUNDING * rise for value, rise in zip(values, foretold, strict=True)),
        invariances=(),
        conditions=objective.conditions,
    )


def _frame(center: Tensor, manifold: int | None, columns: Columns, source: torch.Generator) -> Tensor | None:
    """Return the matrix A; None for the identity."""
    if manifold is None:
        return None
    drawn = torch.randn(manifold, len(center), generator=source, dtype=torch.float64).T.to(center.device)
    return drawn / torch.linalg.vector_norm(drawn, dim=0) if columns == "unit" else drawn


@dataclass
class _Box:
    """The box around the weights, in the space that is searched.

    Attributes:
        objective: the loss.
        center: the weights.
        frame: the matrix A; None for the identity.
        bounds: how far it reaches along each axis.
        evaluations: of the loss with its gradient, so far.
    """

    objective: Objective
    center: Tensor
    frame: Tensor | None
    bounds: Tensor
    evaluations: int = 0

    @classmethod
    def of(cls, objective: Objective, center: Tensor, frame: Tensor | None, eps: float) -> _Box:
        inner = center if frame is None else torch.linalg.lstsq(frame, center[:, None]).solution[:, 0]
        return cls(objective, center, frame, eps * (inner.abs() + 1))

    def look(self, step: Tensor) -> tuple[float, Tensor]:
        """Return the loss at a place in the box, infinite where it is not finite, and its gradient along the axes."""
        self.evaluations += 1
        moved = self.center + (step if self.frame is None else self.frame @ step)
        value, gradient = self.objective.value_and_gradient(moved)
        return (value if math.isfinite(value) else math.inf), self._along(gradient).nan_to_num(0, 0, 0)

    def foretold(self, gradient: Tensor) -> float:
        """The rise to the corner that the gradient at the weights points to, by that gradient alone."""
        return float(self.bounds @ self._along(gradient).abs())

    def by_lbfgs(self, loss: float, iterations: int, nudge: float, source: torch.Generator) -> float:
        """Return the largest loss that L-BFGS-B sees, from the weights on or from near them."""
        from scipy.optimize import minimize

        seen = [loss]

        def negative(place: Any) -> tuple[float, Any]:
            value, slope = self.look(torch.from_numpy(place).to(self.center.device))
            seen.append(value)
            if math.isinf(value):  # nothing is higher; SciPy cannot go on from it
                return -1e300, 0 * place
            return -value, -slope.cpu().numpy()

        bounds = self.bounds.cpu()
        start = nudge * bounds * (2 * torch.rand(len(bounds), generator=source, dtype=torch.float64) - 1)
        box = torch.stack([-bounds, bounds], 1).numpy()
        minimize(negative, start.numpy(), jac=True, method="L-BFGS-B", bounds=box, options={"maxiter": iterations})
        return max(seen)

    def by_ascent(self, gradient: Tensor, steps: int) -> Iterator[float]:
        """Yield the losses of a search by the gradient's signs, from the corner that the first one points to on."""

        def at(place: Tensor) -> tuple[float, Tensor]:
            value, slope = self.look(self.bounds * place)
            return value, self.bounds * slope

        return ascent(at, direction(self._along(gradient), "linf"), 1.0, "linf", steps)

    def _along(self, gradient: Tensor) -> Tensor:
        return gradient if self.frame is None else self.frame.T @ gradient
