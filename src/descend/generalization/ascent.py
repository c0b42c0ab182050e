"""A search for the highest loss in a ball, by steps along the gradient's direction."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Norm: TypeAlias = Literal["l2", "linf"]
_MOMENTUM = 0.75


def ascent(
    at: Callable[[Tensor], tuple[float, Tensor]], first: Tensor, rho: float, norm: Norm, steps: int
) -> Iterator[float]:
    """Yield the losses on the way up, from the first point on.

    Auto-PGD of Croce & Hein 2020, arXiv:2003.01690, algorithm 1: momentum 0.75, steps from 2 rho that halve where they
    no longer help.

    Args:
        at: gives the loss at a place, and its gradient.
        first: the place to begin at.
        rho: radius of the ball.
        norm: of places.
        steps: evaluations, the first one included.
    """
    step, before, now = 2 * rho, torch.zeros_like(first), first
    value, slope = at(now)
    yield value
    best, best_place, best_slope = value, now, slope
    checks, risen, since, halved = set(_checkpoints(steps)), 0, 0, True
    best_then = best
    for number in range(1, steps):
        ahead = _projected(now + step * direction(slope, norm), rho, norm)
        moved = _projected(now + _MOMENTUM * (ahead - now) + (1 - _MOMENTUM) * (now - before), rho, norm)
        before, now = now, moved
        last, (value, slope) = value, at(now)
        yield value
        risen, since = risen + (value > last), since + 1
        if value > best:
            best, best_place, best_slope = value, now, slope
        if number in checks:
            is_slow, is_stuck = risen < _MOMENTUM * since, not halved and best <= best_then
            halved = is_slow or is_stuck
            if halved:
                step /= 2
                value, now, before, slope = best, best_place, best_place, best_slope
            risen, since, best_then = 0, 0, best


def _checkpoints(steps: int) -> Iterator[int]:
    """Yield the steps at which the step's length is thought over (Croce & Hein, section 3.2)."""
    share, gap = 0.22, 0.22
    while share < 1:
        yield max(1, math.ceil(share * steps))
        gap = max(gap - 0.03, 0.06)
        share += gap


def direction(slope: Tensor, norm: Norm) -> Tensor:
    """Return the place in the ball of radius 1 that a gradient points to."""
    if norm == "linf":
        return slope.sign()
    return slope / max(float(torch.linalg.vector_norm(slope)), 1e-300)


def _projected(place: Tensor, rho: float, norm: Norm) -> Tensor:
    if norm == "linf":
        return place.clamp(-rho, rho)
    length = float(torch.linalg.vector_norm(place))
    return place if length <= rho else place * (rho / length)
