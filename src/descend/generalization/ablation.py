"""How much a network leans on single directions: clamping units, and adding noise to them.

Morcos et al. 2018, arXiv:1803.06959, sections 2.2 and 2.3. A score, the accuracy on the training data mostly, is looked
at while more and more units, in random order over all layers, are held at a constant. Labels are those that the network
was fitted to, corrupted ones included; compare networks of the same training accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from descend.generalization.estimates import interval, mean_and_error
from descend.generalization.krylov import generator, whole
from descend.generalization.linear import Conditions
from descend.generalization.objective import Objective
from descend.generalization.units import Activations, activations, changed, spread

Clamp = Literal["zero", "mean"]


@dataclass(frozen=True)
class Robustness:
    """A score of a network whose units are disturbed more and more.

    Attributes:
        amounts: of the disturbance, rising from 0: the share of live units that are clamped, or the noise's deviation
            over that of the unit.
        scores: of each random order or draw, by amount.
        units: that are not dead; only these are disturbed.
        dead: number of units that are 0 for every example.
        conditions: what was measured.
    """

    amounts: list[float]
    scores: list[list[float]]
    units: int
    dead: int
    conditions: Conditions

    @property
    def means(self) -> list[float]:
        """Over the orders or draws, by amount."""
        return [mean_and_error(column)[0] for column in zip(*self.scores, strict=True)]

    @property
    def bands(self) -> list[tuple[float, float]]:
        """The 95 % interval of each mean."""
        return [_interval(column) for column in zip(*self.scores, strict=True)]

    @property
    def areas(self) -> list[float]:
        """The area under each curve, over the range of the amounts: a mean score."""
        steps = [after - before for before, after in zip(self.amounts, self.amounts[1:], strict=False)]
        return [
            math.fsum(step * (a + b) / 2 for step, a, b in zip(steps, row, row[1:], strict=False)) / self.amounts[-1]
            for row in self.scores
        ]

    @property
    def area(self) -> float:
        """Mean of the areas; 1 where nothing ever goes wrong, if the score is an accuracy."""
        return mean_and_error(self.areas)[0]

    @property
    def area_interval(self) -> tuple[float, float]:
        """The 95 % interval of the area, over the orders or draws."""
        return _interval(self.areas)


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the share of right classes, a scalar: with `supervised` a score in place of a loss."""
    return (outputs.argmax(1) == targets).double().mean()


def cumulative_ablation(
    score: Objective,
    modules: Iterable[str] | None = None,
    *,
    to: Clamp = "zero",
    orders: int = 10,
    points: int = 21,
    dim: int | None = None,
    seed: int = 0,
) -> Robustness:
    """Clamp more and more units, in random orders over all layers, and look at a score.

    Args:
        score: `Objective(model, supervised(accuracy), batches)`, with training data and the labels that were fitted.
        modules: names of those whose outputs are the units; by default all nonlinearities.
        to: 0, which the paper found to harm less, or each unit's mean over examples and positions.
        orders: random ones, 1 or more.
        points: shares of units, from none to all, 2 or more.
        dim: in which dimension of the outputs the units are, as in `activations`.
        seed: of the orders.

    Raises:
        ValueError: an argument makes no sense, all units are dead, or as `activations`.
    """
    if to not in ("zero", "mean"):
        raise ValueError(f'to is {to!r}; give "zero" or "mean"')
    whole("orders", orders, 1)
    whole("points", points, 2)
    source = generator(seed)
    with score.repeating():
        found = activations(score, modules, dim=dim)
        live = _live(found)
        counts = sorted({round(place * len(live) / (points - 1)) for place in range(points)})
        before = _score(score)
        rows = []
        for _ in range(orders):
            order = torch.randperm(len(live), generator=source).tolist()
            rows.append([before, *(_clamped(score, found, [live[i] for i in order[:n]], to) for n in counts[1:])])
    return Robustness([count / len(live) for count in counts], rows, len(live), found.dead, found.conditions)


def unit_importance(
    score: Objective, modules: Iterable[str] | None = None, *, to: Clamp = "zero", dim: int | None = None
) -> dict[str, Tensor]:
    """Return how far a score falls when a unit alone is clamped, by layer; NaN for dead units.

    The accuracy hardly sees one unit; a loss sees all, by a fall below 0.

    Takes a forward pass over all batches for each unit. Arguments and errors are those of `cumulative_ablation`.
    """
    if to not in ("zero", "mean"):
        raise ValueError(f'to is {to!r}; give "zero" or "mean"')
    with score.repeating():
        found = activations(score, modules, dim=dim)
        before = _score(score)
        falls = {name: torch.full((layer.size,), torch.nan).double() for name, layer in found.layers.items()}
        for name, place in _live(found):
            falls[name][place] = before - _clamped(score, found, [(name, place)], to)
    return falls


def noise_robustness(
    score: Objective,
    modules: Iterable[str] | None = None,
    *,
    amounts: Sequence[float] = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0),
    draws: int = 10,
    dim: int | None = None,
    seed: int = 0,
) -> Robustness:
    """Add Gaussian noise to every unit, and look at a score.

    Args:
        score: as in `cumulative_ablation`.
        modules: names of those whose outputs are the units.
        amounts: deviations of the noise over the unit's own deviation, rising from 0; a draw is the same noise at each.
        draws: of noise, 1 or more.
        dim: in which dimension of the outputs the units are.
        seed: of the noise.

    Raises:
        ValueError: an argument makes no sense, or as `activations`.
    """
    scales = [float(amount) for amount in amounts]
    if len(scales) < 2 or scales[0] != 0 or sorted(set(scales)) != scales or not math.isfinite(scales[-1]):
        raise ValueError(f"amounts is {list(amounts)}; give two or more finite numbers, rising from 0")
    whole("draws", draws, 1)
    whole("seed", seed, 0)
    with score.repeating():
        found = activations(score, modules, dim=dim)
        live = _live(found)
        before = _score(score)
        rows = [
            [before, *(_noisy(score, found, scale, seed * draws + draw) for scale in scales[1:])]
            for draw in range(draws)
        ]
    return Robustness(scales, rows, len(live), found.dead, found.conditions)


def _live(found: Activations) -> list[tuple[str, int]]:
    if not found.live:
        raise ValueError("every unit is dead: none gives anything but 0; name other modules, or train the model")
    return found.live


def _clamped(score: Objective, found: Activations, units: Sequence[tuple[str, int]], to: Clamp) -> float:
    masks = {name: torch.zeros(layer.size, dtype=torch.bool) for name, layer in found.layers.items()}
    for name, place in units:
        masks[name][place] = True

    def change(name: str, output: Tensor) -> Tensor | None:
        if not masks[name].any():
            return None
        value = found.layers[name].mean if to == "mean" else torch.zeros(found.layers[name].size)
        held = spread(value.to(output.dtype), name, output, found.dim)
        return torch.where(spread(masks[name], name, output, found.dim), held, output)

    with changed(score.model, _modules(found), change):
        return _score(score)


def _noisy(score: Objective, found: Activations, scale: float, seed: int) -> float:
    source = torch.Generator().manual_seed(seed)

    def change(name: str, output: Tensor) -> Tensor:
        noise = torch.randn(output.shape, generator=source, dtype=output.dtype).to(output.device)
        return output + scale * spread(found.layers[name].deviation.to(output.dtype), name, output, found.dim) * noise

    with changed(score.model, _modules(found), change):
        return _score(score)


def _modules(found: Activations) -> list[str]:
    return list(dict.fromkeys(name.split(":")[0] for name in found.layers))


def _score(score: Objective) -> float:
    """The score of the model as it is now disturbed."""
    total, examples = 0.0, 0
    with torch.no_grad():
        for count, value in score.visits(lambda place, batch: score.loss_on(place, batch, is_moved=True).item()):
            total, examples = total + count * value, examples + count
    return total / examples


def _interval(values: Sequence[float]) -> tuple[float, float]:
    mean, error = mean_and_error(values)
    return interval(mean, error, len(values)) if len(values) > 1 else (mean, mean)
