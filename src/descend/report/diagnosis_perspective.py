"""Surfaces: the loss over a plane in perspective, shaded, in a box with the axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias

import altair as alt
from markupsafe import Markup

from descend.report import axes, heights
from descend.report.diagnosis_results import Surface
from descend.report.formats import number
from descend.report.span import Span
from descend.report.svg import MUTED, RULE, Frame, inline

Point: TypeAlias = tuple[float, float, float]

_FRAME = Frame(420, 340, left=52, right=52, top=8, bottom=8)
_TURN, _TILT = math.radians(-37.0), math.radians(33.0)
_HEIGHT = 0.62
"""Of the box, in widths of it."""
_LIGHT = (-0.45, -0.55, 0.70)
"""Where the light comes from: from the left of who looks, and above."""
_DARKEST = 0.62
"""Of its colour, what a cell that turns away from the light keeps."""
_CELLS = 40
"""Along each side, at most: finer grids are drawn coarser."""
_LEAST, _TICKS = 2, 5


def draw(found: Surface, shades: heights.Shades) -> Markup | None:
    """The surface seen from a corner, its cells from back to front, cut off at the last colour's bound.

    Cells with a corner that is not finite are left out.
    """
    known = [loss for row in found.losses for loss in row if loss is not None]
    cells = _cells(found, shades)
    if not cells:
        return None
    x, y = _scales()
    data = [
        {**_seen(corner), "cell": place, "place": turn, "color": hue}
        for place, (corners, hue) in enumerate(cells)
        for turn, corner in enumerate([*corners, corners[0]])
    ]
    # Each cell has an edge of its own colour, or the page would shine through between them.
    surface = alt.Chart(alt.InlineData(data)).mark_line(strokeWidth=0.6, strokeJoin="round")
    hue = {"fill": alt.Fill("color:N", scale=axes.NOTHING), "stroke": alt.Stroke("color:N", scale=axes.NOTHING)}
    layers = [
        *_box(shades, x, y),
        surface.encode(x=x, y=y, detail="cell:O", order="place:Q", **hue),
        *_edges(found, x, y),
    ]
    return inline(layers, _FRAME, f"Loss, {found.title}, in perspective: {number(min(known))} to {number(max(known))}.")


def _cells(found: Surface, shades: heights.Shades) -> list[tuple[list[Point], str]]:
    """The corners and the colour of each cell, from back to front."""
    cells = []
    for down, up in pairwise(_thinned(len(found.ys))):
        for left, right in pairwise(_thinned(len(found.xs))):
            places = [(left, down), (right, down), (right, up), (left, up)]
            losses = [found.losses[row][column] for column, row in places]
            levels = [_level(loss, shades) for loss in losses if loss is not None]
            if len(levels) == len(places):
                corners = [
                    (_share(found.xs, column), _share(found.ys, row), level)
                    for (column, row), level in zip(places, levels, strict=True)
                ]
                cells.append((corners, _lit(_color(sum(levels) / len(levels)), corners)))
    # Cells of a grid that are seen along a straight line cover each other in the order of their distance.
    return sorted(cells, key=lambda cell: -sum(_away(corner) for corner in cell[0]))


def _thinned(count: int) -> list[int]:
    stride = max(1, math.ceil((count - 1) / _CELLS))
    return [*range(0, count - 1, stride), count - 1]


def _share(values: Sequence[float], place: int) -> float:
    return (values[place] - values[0]) / (values[-1] - values[0]) - 0.5


def _level(loss: float, shades: heights.Shades) -> float:
    """The height of a loss, as a share, on the scale of the colours."""
    return Span(shades.bounds[0], shades.bounds[-1], shades.log).fraction(loss)


def _color(level: float) -> str:
    return heights.shade(heights.SHADES - 1 - min(int(level * heights.SHADES), heights.SHADES - 1))


def _lit(color: str, corners: Sequence[Point]) -> str:
    """A colour, the darker the more the cell turns away from the light."""
    first, second, third, fourth = ((x, y, level * _HEIGHT) for x, y, level in corners)
    across = [b - a for a, b in zip(first, third, strict=True)]
    up = [b - a for a, b in zip(second, fourth, strict=True)]
    normal = [
        across[1] * up[2] - across[2] * up[1],
        across[2] * up[0] - across[0] * up[2],
        across[0] * up[1] - across[1] * up[0],
    ]
    facing = sum(a * b for a, b in zip(normal, _LIGHT, strict=True)) / (math.hypot(*normal) * math.hypot(*_LIGHT))
    kept = _DARKEST + (1 - _DARKEST) * max(0.0, facing)
    return "#" + "".join(f"{round(kept * int(color[digit : digit + 2], 16)):02x}" for digit in (1, 3, 5))


def _away(point: Point) -> float:
    return point[0] * math.sin(_TURN) + point[1] * math.cos(_TURN)


def _seen(point: Point) -> dict[str, float]:
    """Where a point of the box is drawn; its sides reach from -0.5 to 0.5, its height from 0 to 1."""
    across = point[0] * math.cos(_TURN) - point[1] * math.sin(_TURN)
    up = _away(point) * math.sin(_TILT) + point[2] * _HEIGHT * math.cos(_TILT)
    return {"x": round(across, 5), "y": round(up, 5)}


def _scales() -> tuple[alt.X, alt.Y]:
    """One unit as long across as up, with the box and its titles inside."""
    low, high = _seen((0.75, -0.75, 0.0))["y"], _seen((-0.5, 0.5, 1.0))["y"]
    left, right = _seen((-0.5, -0.5, 0.0))["x"], _seen((0.5, 0.5, 0.0))["x"]
    unit = min(_FRAME.plot_width / (right - left), _FRAME.plot_height / (high - low))
    middle, half = (left + right) / 2, _FRAME.plot_width / unit / 2
    x = alt.X("x:Q", scale=axes.scale(Span(middle - half, middle + half)), axis=axes.NOTHING)
    y = alt.Y("y:Q", scale=axes.scale(Span(high - _FRAME.plot_height / unit, high)), axis=axes.NOTHING)
    return x, y


def _box(shades: heights.Shades, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """The floor, and a line around the two walls at the back for each tick of the loss."""
    left, back, right, front = (-0.5, -0.5), (-0.5, 0.5), (0.5, 0.5), (0.5, -0.5)
    span = Span(shades.bounds[0], shades.bounds[-1], shades.log)
    ticks = span.ticks(_TICKS) if span.log else _ticks(span.low, span.high)
    if len(ticks) < _LEAST:
        ticks = [span.low, span.high]
    levels = [(tick, span.fraction(tick)) for tick in ticks]
    walls = [[(*corner, level) for corner in (left, back, right)] for _, level in levels]
    uprights = [[(*corner, 0.0), (*corner, 1.0)] for corner in (left, back, right)]
    floor = [(*corner, 0.0) for corner in (left, back, right, front, left)]
    numbers = [{**_seen((*left, level)), "text": f"{tick:.3g}"} for tick, level in levels]
    text = alt.Chart(alt.InlineData(numbers)).mark_text(align="right", dx=-6, color=MUTED, fontSize=10)
    return [_strokes([*walls, *uprights, floor], x, y), text.encode(x=x, y=y, text="text:N")]


def _strokes(lines: Sequence[Sequence[Point]], x: alt.X, y: alt.Y) -> alt.Chart:
    data = [
        {**_seen(point), "line": line, "place": place}
        for line, points in enumerate(lines)
        for place, point in enumerate(points)
    ]
    drawn: alt.Chart = alt.Chart(alt.InlineData(data)).mark_line(color=RULE, strokeWidth=1)
    return drawn.encode(x=x, y=y, detail="line:O", order="place:Q")


def _edges(found: Surface, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """Ticks and titles of the two directions, before the front edges."""
    front = [{**_seen((share, -0.57, 0.0)), "text": text} for share, text in _shares(found.xs)] + [
        {**_seen((0.57, share, 0.0)), "text": text} for share, text in _shares(found.ys)
    ]
    across = [{**_seen((0.1, -0.72, 0.0)), "text": found.x_title}]
    up = [{**_seen((0.72, -0.25, 0.0)), "text": found.y_title or found.x_title}]
    front_text, across_text, up_text = (alt.Chart(alt.InlineData(data)) for data in (front, across, up))
    texts = [
        front_text.mark_text(align="center", color=MUTED, fontSize=10),
        across_text.mark_text(align="right", color=MUTED, fontSize=10),
        up_text.mark_text(align="left", color=MUTED, fontSize=10),
    ]
    return [text.encode(x=x, y=y, text="text:N") for text in texts]


def _shares(values: Sequence[float]) -> list[tuple[float, str]]:
    """Where ticks stand along a side of the box, and their numbers."""
    low, wide = values[0], values[-1] - values[0]
    return [((tick - low) / wide - 0.5, f"{tick:.4g}") for tick in _ticks(low, values[-1])]


def _ticks(low: float, high: float) -> list[float]:
    """Round values in a range, at most five."""
    power: float = 10.0 ** math.floor(math.log10((high - low) / _TICKS))
    step = next(
        step for step in (power, 2 * power, 5 * power, 10 * power, 20 * power) if (high - low) / step <= _TICKS - 1
    )
    first = math.ceil(low / step - 1e-9)
    return [place * step for place in range(first, math.floor(high / step + 1e-9) + 1)]
