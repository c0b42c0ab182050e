"""Averages of gradients as Metz et al. 2022 keep them: momenta, squares, and squares factored as in Adafactor.

Of a matrix the factored average keeps one number for each row and one for each column; of more axes, the two longest
are factored. What has one axis is kept whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

Averages = Mapping[str, Tensor]
"""momentum (decays, *shape), squares (*shape), and row and column, or diagonal (decays, *shape)."""


class Axes(NamedTuple):
    """The axes that are factored: the longest, along which a row is averaged, and the second longest."""

    longest: int
    second: int


class Decays(NamedTuple):
    """The decays in force."""

    momentum: Tensor
    squares: Tensor
    factored: Tensor


class Factors(NamedTuple):
    """What a factored average gives for each element, (decays, *shape) or broadcast to it."""

    row: Tensor
    column: Tensor
    of_gradient: Tensor
    of_momentum: Tensor


def factored_axes(shape: torch.Size) -> Axes | None:
    """Return the axes that are factored; None for less than two axes. Of axes of one length the last is the longest."""
    if len(shape) < 2:
        return None
    *_, second, longest = sorted(range(len(shape)), key=lambda axis: shape[axis])
    return Axes(longest, second)


def first_averages(param: Tensor, decays: int) -> dict[str, Tensor]:
    """Return averages of nothing yet: 0.

    Args:
        param: of one axis or more.
        decays: number of them.
    """
    shape, axes = param.shape, factored_axes(param.shape)
    found = {"momentum": param.new_zeros((decays, *shape)), "squares": param.new_zeros(shape)}
    if axes is None:
        return {**found, "diagonal": param.new_zeros((decays, *shape))}
    row, column = (tuple(size for axis, size in enumerate(shape) if axis != left_out) for left_out in axes)
    return {**found, "row": param.new_zeros((decays, *row)), "column": param.new_zeros((decays, *column))}


def advanced(grad: Tensor, averages: Averages, decays: Decays) -> dict[str, Tensor]:
    """Return the averages after a step.

    Args:
        grad: of one axis or more.
        averages: before it.
        decays: in force.
    """
    square = grad * grad
    axes = factored_axes(grad.shape)
    means = (
        {"diagonal": square} if axes is None else {"row": square.mean(axes.longest), "column": square.mean(axes.second)}
    )
    return {
        "momentum": _moved(averages["momentum"], grad, decays.momentum),
        "squares": _moved(averages["squares"].unsqueeze(0), square, decays.squares).squeeze(0),
        **{name: _moved(averages[name], mean + 1e-30, decays.factored) for name, mean in means.items()},
    }


def _moved(average: Tensor, value: Tensor, decays: Tensor) -> Tensor:
    """Return averages of several decays, each moved to the same value."""
    kept = decays.to(average).view(-1, *[1] * value.ndim)
    return kept * average + (1 - kept) * value


def advance(grad: Tensor, averages: Averages, decays: Decays, length: int) -> None:
    """Do the same in place, so many places of the longest axis at a time."""
    axes = factored_axes(grad.shape)
    axis = 0 if axes is None else axes.longest
    row = grad.new_zeros(()) if axes is None else torch.zeros_like(averages["row"][0])
    for start in range(0, grad.shape[axis], length):
        part, own = narrowed(grad, averages, axes, start, length)
        square = part * part
        for name, value, decay in (("momentum", part, decays.momentum), ("squares", square, decays.squares)):
            held = own[name] if name == "momentum" else own[name].unsqueeze(0)
            held.copy_(_moved(held, value, decay))
        if axes is None:
            own["diagonal"].copy_(_moved(own["diagonal"], square + 1e-30, decays.factored))
        else:
            own["column"].copy_(_moved(own["column"], square.mean(axes.second) + 1e-30, decays.factored))
            row = row + square.sum(axes.longest)
    if axes is not None:
        mean = row / grad.shape[axis] + 1e-30
        averages["row"].copy_(_moved(averages["row"], mean, decays.factored))


def narrowed(
    tensor: Tensor, averages: Averages, axes: Axes | None, start: int, length: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return views of places of the longest axis, of a tensor and of its averages.

    Args:
        tensor: whole.
        averages: whole.
        axes: of the whole.
        start: the first place.
        length: number of places, less at the end.
    """
    axis = 0 if axes is None else axes.longest
    length = min(length, tensor.shape[axis] - start)
    found = dict(averages)
    for name in ("momentum", "diagonal"):
        if name in averages:
            found[name] = averages[name].narrow(axis + 1, start, length)
    found["squares"] = averages["squares"].narrow(axis, start, length)
    if axes is not None:  # a row has one number for all places
        place = axis - (axes.second < axis) + 1
        found["column"] = averages["column"].narrow(place, start, length)
    return tensor.narrow(axis, start, length), found


def factors(averages: Averages, axes: Axes | None) -> Factors:
    """Return what the factored averages give for each element.

    Args:
        averages: after a step.
        axes: of the whole tensor.
    """
    if axes is None:
        diagonal = averages["diagonal"]
        return Factors(diagonal, diagonal, _safe_rsqrt(diagonal + 1e-9), torch.rsqrt(diagonal + 1e-6))
    row, column = averages["row"], averages["column"]
    along = axes.second - (axes.longest < axes.second) + 1
    of_row = _safe_rsqrt(row / (row.mean(along, keepdim=True) + 1e-9)).unsqueeze(axes.longest + 1)
    of_column = _safe_rsqrt(column).unsqueeze(axes.second + 1)
    scale = of_row * of_column
    return Factors(row.unsqueeze(axes.longest + 1), column.unsqueeze(axes.second + 1), scale, scale)


def _safe_rsqrt(value: Tensor) -> Tensor:
    return torch.rsqrt(value.clamp(min=1e-9))
