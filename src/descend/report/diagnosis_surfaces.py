"""Contours and surfaces: the loss over a plane from above, and in perspective."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import altair as alt
import numpy as np
from contourpy import contour_generator
from markupsafe import Markup

from descend.report import axes, heights
from descend.report.diagnosis_results import Surface
from descend.report.formats import number
from descend.report.span import Span
from descend.report.svg import MUTED, Frame, inline

_VIEW = Frame(420, 330, left=8, right=8, top=8, bottom=24)
_TURN, _TILT = math.radians(-37.0), math.radians(28.0)
_HEIGHT = 0.85
"""Of the drawn surface, in widths of the plane."""
_CAP = 1e4
"""Losses above so many times the lowest all have the last colour."""
_CELLS = 40
"""Along each side, at most: finer grids are drawn coarser."""


def contours(found: Surface) -> Markup | None:
    """Cells in the colours of their losses, lines of equal loss, the way of training, and the solutions."""
    if not _known(found):
        return None
    area, shades = heights.Area.of(found), heights.Shades.of(found.losses, _CAP)
    spots = [(point.name, point.x, point.y) for point in found.points]
    lines = alt.Chart(alt.InlineData(_lines(found, shades))).mark_line(
        color=heights.ON_RAMP, strokeWidth=0.9, opacity=0.75
    )
    between = [lines.encode(detail="line:N", order="place:Q")]
    layers = heights.from_above(found, shades, area, spots, found.way, found.x_title, between)
    low, high = min(_known(found)), max(_known(found))
    return inline(layers, area.frame, f"Loss over the {found.title}, from above: {number(low)} to {number(high)}.")


def _lines(found: Surface, shades: heights.Shades) -> list[dict[str, Any]]:
    """The lines of equal loss at every second bound of the colours."""
    grid = np.array([[math.nan if loss is None else loss for loss in row] for row in found.losses])
    generator = contour_generator(found.xs, found.ys, np.ma.masked_invalid(grid))
    data = []
    for level in shades.bounds[2:-1:2]:
        lines: Any = generator.lines(level)
        for line, points in enumerate(lines):
            data += [
                {"x": float(at[0]), "y": float(at[1]), "line": f"{level}-{line}", "place": place}
                for place, at in enumerate(points)
            ]
    return data


def perspective(found: Surface) -> Markup | None:
    """The surface seen from a corner, its cells from back to front, cut off at the last colour's bound."""
    if not _known(found):
        return None
    shades = heights.Shades.of(found.losses, _CAP)
    columns, rows = _thinned(len(found.xs)), _thinned(len(found.ys))
    quads = []
    for down, up in pairwise(rows):
        for left, right in pairwise(columns):
            corners = [(left, down), (right, down), (right, up), (left, up)]
            losses = [found.losses[j][i] for i, j in corners]
            known = [loss for loss in losses if loss is not None]
            if len(known) == 4:
                places = [_seen(found, shades, i, j, loss) for (i, j), loss in zip(corners, known, strict=True)]
                depth = sum(place[2] for place in places)
                quads.append((depth, places, shades.color(sum(known) / 4)))
    quads.sort(key=lambda quad: quad[0])
    data = [
        {"x": place[0], "y": place[1], "quad": number_, "place": corner, "color": hue}
        for number_, (_, places, hue) in enumerate(quads)
        for corner, place in enumerate([*places, places[0]])
    ]
    if not data:
        return None
    x, y = _view_scales(data)
    base = alt.Chart(alt.InlineData(data)).encode(x=x, y=y, detail="quad:O", order="place:Q")
    surface = base.mark_line(strokeWidth=0.5, strokeJoin="round", strokeOpacity=0.35, stroke=heights.CASING).encode(
        fill=alt.Fill("color:N", scale=axes.NOTHING)
    )
    label = (
        f"Loss over the {found.title}, in perspective: {number(min(_known(found)))} to {number(max(_known(found)))}."
    )
    return inline([surface, *_corner_titles(found, x, y)], _VIEW, label)


def _thinned(count: int) -> list[int]:
    stride = max(1, math.ceil((count - 1) / _CELLS))
    return [*range(0, count - 1, stride), count - 1]


def _seen(found: Surface, shades: heights.Shades, column: int, row: int, loss: float) -> tuple[float, float, float]:
    """Where a point of the surface is seen, and how near it is."""
    return _projected(_share(found.xs, column), _share(found.ys, row), _level(loss, shades))


def _share(values: Sequence[float], place: int) -> float:
    return (values[place] - values[0]) / (values[-1] - values[0]) - 0.5


def _level(loss: float, shades: heights.Shades) -> float:
    """The height of a loss, as a share; on the scale of the colours."""
    low, high = shades.bounds[0], shades.bounds[-1]
    cut = min(max(loss, low), high)
    if shades.log:
        return math.log(cut / low) / math.log(high / low)
    return (cut - low) / (high - low)


def _projected(x: float, y: float, height: float) -> tuple[float, float, float]:
    across = x * math.cos(_TURN) - y * math.sin(_TURN)
    away = x * math.sin(_TURN) + y * math.cos(_TURN)
    return across, away * math.sin(_TILT) + (height - 0.5) * _HEIGHT * math.cos(_TILT), -away


def _view_scales(data: list[dict[str, Any]]) -> tuple[alt.X, alt.Y]:
    """One unit as long across as up."""
    xs, ys = [one["x"] for one in data], [one["y"] for one in data]
    low, high = min([*ys, -0.75]), max(ys)
    unit = min(_VIEW.plot_width / (max(xs) - min(xs)), _VIEW.plot_height / (high - low))
    middle, wide = (max(xs) + min(xs)) / 2, _VIEW.plot_width / unit / 2
    tall = _VIEW.plot_height / unit
    x = alt.X("x:Q", scale=axes.scale(Span(middle - wide, middle + wide)), axis=axes.NOTHING)
    y = alt.Y("y:Q", scale=axes.scale(Span(low, low + tall)), axis=axes.NOTHING)
    return x, y


def _corner_titles(found: Surface, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """The two directions at the front edges, and how high the surface is."""
    low = -0.02
    edges = [(0.0, -0.62, found.x_title), (0.62, 0.0, found.y_title)]
    data = []
    for across, up, title in edges:
        at = _projected(across, up, low)
        data.append({"x": at[0], "y": at[1], "title": title})
    return [alt.Chart(alt.InlineData(data)).mark_text(color=MUTED).encode(x=x, y=y, text="title:N")]


def _known(found: Surface) -> list[float]:
    return [loss for row in found.losses for loss in row if loss is not None]
