"""Contours: the loss over a plane from above, with lines of equal loss and what stands on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import altair as alt
import numpy as np
from contourpy import contour_generator
from markupsafe import Markup

from descend.report import heights
from descend.report.diagnosis_results import Surface
from descend.report.formats import number
from descend.report.svg import MUTED, inline

CAP = 1e4
"""Losses above so many times the lowest are drawn as if they were that high."""
_APART = (36.0, 15.0)
"""Pixels between labels, across and up."""


def draw(found: Surface, shades: heights.Shades) -> Markup | None:
    """Cells in the colours of their losses, labelled lines of equal loss, the way of training, and the solutions."""
    known = [loss for row in found.losses for loss in row if loss is not None]
    if not known:
        return None
    area = heights.Area.of(found)
    spots = [(point.name, point.x, point.y) for point in found.points]
    if found.way and not any(_is_at(point, found.way[0]) for point in spots):
        step, x, y, _ = found.way[0]
        if _is_inside(x, y, area):
            spots.append((f"step {step:.0f}", x, y))
    lines = _lines(found, shades)
    layers = heights.from_above(
        found, shades, area, spots, found.way, found.x_title, _marks(lines, _labels(lines, area, spots))
    )
    title = alt.Chart(alt.InlineData([{"text": found.y_title or found.x_title}])).mark_text(
        angle=270, align="center", baseline="top", color=MUTED
    )
    layers.append(
        title.encode(x=alt.value(4 - area.frame.left), y=alt.value(area.frame.plot_height / 2), text="text:N")
    )
    return inline(layers, area.frame, f"Loss, {found.title}, from above: {number(min(known))} to {number(max(known))}.")


def _is_at(spot: tuple[str, float, float], point: Sequence[float]) -> bool:
    return math.dist(spot[1:], point[1:3]) == 0


def _is_inside(x: float, y: float, area: heights.Area) -> bool:
    return area.inner_xs.low <= x <= area.inner_xs.high and area.inner_ys.low <= y <= area.inner_ys.high


def _lines(found: Surface, shades: heights.Shades) -> list[tuple[float, list[list[float]]]]:
    """The lines of equal loss at every second bound of the colours: level and points."""
    grid = np.array([[math.nan if loss is None else loss for loss in row] for row in found.losses])
    generator = contour_generator(found.xs, found.ys, np.ma.masked_invalid(grid))
    lines = []
    for level in shades.bounds[2:-1:2]:
        pieces: Any = generator.lines(level)
        lines += [(level, piece.tolist()) for piece in pieces]
    return lines


def _labels(
    lines: Sequence[tuple[float, list[list[float]]]], area: heights.Area, spots: Sequence[tuple[str, float, float]]
) -> list[dict[str, Any]]:
    """A label for each level on its longest line, far from the others; none where there is no room for it."""
    # The name of a spot is above or below it.
    taken = [_pixels((x, y), area, up) for _, x, y in spots for up in (-14.0, 0.0, 14.0)]
    labels = []
    for level in dict.fromkeys(level for level, _ in lines):
        points = max((own for each, own in lines if each == level), key=_length)
        room, point = max((_room(_pixels(point, area), area, taken), point) for point in points)
        if room >= 1:
            taken.append(_pixels(point, area))
            labels.append({"x": point[0], "y": point[1], "text": f"{level:.3g}"})
    return labels


def _length(points: Sequence[Sequence[float]]) -> float:
    return sum(math.dist(a, b) for a, b in pairwise(points))


def _pixels(point: Sequence[float], area: heights.Area, up: float = 0.0) -> tuple[float, float]:
    """Where a point is drawn."""
    x, y = area.xs.fraction(point[0]), area.ys.fraction(point[1])
    return x * area.frame.plot_width, y * area.frame.plot_height + up


def _room(place: tuple[float, float], area: heights.Area, taken: Sequence[tuple[float, float]]) -> float:
    """How far a label is from others and from the edge, in units of what it takes up; below 1 it does not fit."""
    low = _pixels((area.inner_xs.low, area.inner_ys.low), area)
    high = _pixels((area.inner_xs.high, area.inner_ys.high), area)
    edges = [
        min(at - start, end - at) / (wanted / 2)
        for start, at, end, wanted in zip(low, place, high, _APART, strict=True)
    ]
    others = [max(abs(a - b) / wanted for a, b, wanted in zip(place, other, _APART, strict=True)) for other in taken]
    return min([*edges, *others])


def _marks(lines: Sequence[tuple[float, list[list[float]]]], labels: list[dict[str, Any]]) -> list[alt.Chart]:
    data = [
        {"x": x, "y": y, "line": line, "place": place}
        for line, (_, points) in enumerate(lines)
        for place, (x, y) in enumerate(points)
    ]
    equal = alt.Chart(alt.InlineData(data)).mark_line(color=heights.ON_RAMP, strokeWidth=0.9, opacity=0.75)
    named = alt.Chart(alt.InlineData(labels))
    texts = [
        named.mark_text(fontSize=9, color=ink, stroke=ink, strokeWidth=width, strokeJoin="round").encode(text="text:N")
        for ink, width in ((heights.CASING, 2.0), (heights.ON_RAMP, 0))
    ]
    return [equal.encode(detail="line:N", order="place:Q"), *texts]
