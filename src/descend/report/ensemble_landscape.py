"""The charts of what lies between snapshots: the lines between them, and the plane through the last three."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import altair as alt
from markupsafe import Markup

from descend.report import axes
from descend.report.ensemble_results import Barriers, Line, Plane
from descend.report.formats import Metric, number
from descend.report.span import Span
from descend.report.svg import FAINT, MUTED, PAPER, RULE, Frame, color, inline

SHADES = 18
"""Colours of the plane: between those of the style sheet's ramp, the same in light and dark; the last is the lowest."""
_RAMP = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725")
_PANEL = Frame(240, 160, left=34, right=24, top=10, bottom=26)
_LEGEND = 72
# From this ratio of the highest loss on the plane to the lowest on, colours are of its logarithm.
_LOG_RATIO = 4.0
# Losses above so many times the lowest all have the last colour.
_CAP = 100.0
# Of the plot's width: the least and the most height of the plane, which keeps its proportions in between.
_LEAST, _MOST = 0.45, 1.05
_ON_RAMP, _CASING = "#ffffff", "#000000"


@dataclass(frozen=True)
class Panel:
    """The line from an earlier snapshot to the last: its steps, its barrier and its pictures."""

    first: int
    second: int
    barrier: str
    errors: Markup | None
    losses: Markup


def interpolations(found: Barriers, metric: Metric) -> list[Panel]:
    """Error and loss on the line from each earlier snapshot to the last; all panels of a kind have the same axes."""
    lines = [line for line in found.lines if line.second == found.steps[-1]]
    errors = _panels(lines, [[_shown(value, metric) for value in line.errors] for line in lines], "error")
    losses = _panels(lines, [line.losses for line in lines], "loss")
    return [
        Panel(line.first, line.second, "–" if line.barrier is None else f"{line.barrier:.3g}", error, loss)
        for line, error, loss in zip(lines, errors, losses, strict=True)
        if loss is not None
    ]


def _shown(error: float | None, metric: Metric) -> float | None:
    return None if error is None else metric.shown(error)


def _panels(lines: Sequence[Line], values: Sequence[Sequence[float | None]], name: str) -> list[Markup | None]:
    known = [value for own in values for value in own if value is not None]
    if not known:
        return [None] * len(lines)
    span = Span.around(known)
    rows = [
        {"first": line.first, "at": at, "value": value}
        for line, own in zip(lines, values, strict=True)
        for at, value in zip(line.amounts, own, strict=False)
    ]
    return [_panel(line, own, rows, span, name) for line, own in zip(lines, values, strict=True)]


def _panel(
    line: Line, values: Sequence[float | None], rows: list[dict[str, Any]], span: Span, name: str
) -> Markup | None:
    """One line, the others behind it in grey; dotted what it would be without a barrier."""
    if not values:
        return None
    own = [row for row in rows if row["first"] == line.first]
    others = [row for row in rows if row["first"] != line.first]
    start, end = values[0], values[-1]
    straight = [] if start is None or end is None else [start + (end - start) * at for at in line.amounts]
    chord = [{"at": at, "value": span.cut(value)} for at, value in zip(line.amounts, straight, strict=False)]
    labels = f"datum.value == 0 ? 'step {line.first}' : datum.value == 1 ? 'step {line.second}' : 'λ = 0.5'"
    ticks = alt.Axis(values=[0, 0.5, 1], title=axes.NOTHING, labelExpr=labels, grid=False, labelPadding=8)
    x = alt.X("at:Q", scale=alt.Scale(domain=[0, 1], nice=False), axis=ticks)
    y, hue = axes.y(span, "value", count=4), color(0)
    base = alt.Chart(alt.InlineData(own)).encode(x=x, y=y)
    layers = [
        alt.Chart(alt.InlineData(others)).mark_line(color=FAINT, strokeWidth=1).encode(x=x, y=y, detail="first:Q"),
        alt.Chart(alt.InlineData(chord)).mark_line(color=MUTED, strokeWidth=1, strokeDash=[2, 3]).encode(x=x, y=y),
        base.mark_line(color=hue, strokeWidth=1.7),
        base.mark_point(fill=PAPER, stroke=hue, size=22, strokeWidth=1.3, opacity=1),
    ]
    said = ", ".join("not finite" if value is None else f"{value:.3g}" for value in values)
    return inline(layers, _PANEL, f"Validation {name} from step {line.first} to step {line.second}: {said}.")


def shade(place: int) -> str:
    """One of the plane's colours, from the darkest, 0."""
    at = place / (SHADES - 1) * (len(_RAMP) - 1)
    low = min(int(at), len(_RAMP) - 2)
    ends = [[int(stop[digit : digit + 2], 16) for digit in (1, 3, 5)] for stop in _RAMP[low : low + 2]]
    return "#" + "".join(f"{round(a + (at - low) * (b - a)):02x}" for a, b in zip(*ends, strict=True))


@dataclass(frozen=True)
class Shades:
    """The colours of losses: the bounds between them, ascending, and whether losses lie above the last."""

    bounds: list[float]
    log: bool
    capped: bool

    @classmethod
    def of(cls, losses: Sequence[Sequence[float | None]]) -> Shades:
        """Bounds that cover all losses, or all up to a cap where they spread over more than two decades."""
        known = [value for row in losses for value in row if value is not None] or [0.0, 1.0]
        low, highest = min(known), max(known)
        log = low > 0 and highest > _LOG_RATIO * low
        high = min(highest, _CAP * low) if log else highest
        span = Span(low, high if high > low else low + 1.0, log)
        return cls([span.value(place / SHADES) for place in range(SHADES + 1)], log, highest > high)

    def color(self, loss: float) -> str:
        """The colour of a loss, the brightest for the lowest."""
        return shade(SHADES - 1 - min(sum(bound <= loss for bound in self.bounds[1:]), SHADES - 1))


@dataclass(frozen=True)
class Area:
    """The part of the plane that is drawn: of the grid with half a cell around it, and the paper beyond."""

    xs: Span
    ys: Span
    inner_xs: Span
    inner_ys: Span
    frame: Frame

    @classmethod
    def of(cls, plane: Plane) -> Area:
        """The grid as large as the frame allows, with one unit as long across as up."""
        across, up = _edges(plane.xs), _edges(plane.ys)
        inner_xs, inner_ys = Span(across[0], across[-1]), Span(up[0], up[-1])
        wide, tall = inner_xs.high - inner_xs.low, inner_ys.high - inner_ys.low
        left, top, bottom = 38, 10, 34
        width = axes.WIDTH - left - _LEGEND
        unit = min(width / wide, _MOST * width / tall)
        height = round(min(max(tall * unit, _LEAST * width), _MOST * width))
        frame = Frame(axes.WIDTH, height + top + bottom, left=left, right=_LEGEND, top=top, bottom=bottom)
        return cls(_around(inner_xs, width / unit), _around(inner_ys, height / unit), inner_xs, inner_ys, frame)


def _around(inner: Span, length: float) -> Span:
    middle = (inner.low + inner.high) / 2
    return Span(middle - length / 2, middle + length / 2)


def _edges(values: Sequence[float]) -> list[float]:
    """The bounds of cells around evenly spaced values."""
    half = (values[-1] - values[0]) / (len(values) - 1) / 2
    return [values[0] - half, *(value + half for value in values)]


def plane(found: Plane) -> Markup:
    """The loss on the plane, a cell for each measured point; the way of training over it; and the three snapshots."""
    area, shades = Area.of(found), Shades.of(found.losses)
    x = alt.X("x:Q", scale=axes.scale(area.xs), axis=_axis(title="distance between weights"))
    y = alt.Y("y:Q", scale=axes.scale(area.ys), axis=_axis())
    cells = alt.Chart(alt.InlineData(_cells(found, shades))).mark_rect(strokeWidth=0.7)
    ways = alt.Chart(alt.InlineData(_way(found, area)))
    here, hue = alt.Chart(alt.InlineData(_spots(found))).encode(x=x, y=y), axes.hue()
    layers = [
        cells.encode(x=x, x2="x2:Q", y=y, y2="y2:Q", fill=hue, stroke=hue),
        *(
            ways.mark_rule(color=ink, strokeWidth=width, strokeCap="round").encode(x=x, x2="x2:Q", y=y, y2="y2:Q")
            for ink, width in ((_CASING, 3.6), (_ON_RAMP, 1.6))
        ),
        here.mark_point(size=70, filled=True, fill=_ON_RAMP, stroke=_CASING, strokeWidth=1.5, opacity=1),
        *(
            here.mark_text(dy=side * 14, fontWeight=600, color=ink, stroke=ink, strokeWidth=width, strokeJoin="round")
            .encode(text="title:N")
            .transform_filter(f"datum.side == {side}")
            for side in (-1, 1)
            for ink, width in ((_CASING, 3.4), (_ON_RAMP, 0))
        ),
        *_legend(shades, area),
    ]
    steps = ", ".join(map(str, found.steps))
    known = [value for row in found.losses for value in row if value is not None]
    extent = f", from {number(min(known))} to {number(max(known))}" if known else ""
    label = f"Validation loss on the plane through the snapshots of steps {steps}{extent}; the way of training on it."
    return inline(layers, area.frame, label)


def _spots(found: Plane) -> list[dict[str, Any]]:
    """The three snapshots, each with the side of its label: away from the other two."""
    middle = sum(y for _, y in found.coordinates) / len(found.coordinates)
    return [
        {"x": x, "y": y, "title": f"step {step}", "side": -1 if y > middle else 1}
        for (x, y), step in zip(found.coordinates, found.steps, strict=True)
    ]


def _axis(title: Any = axes.NOTHING) -> alt.Axis:
    return alt.Axis(grid=False, tickCount=5, title=title, titlePadding=4, format=".6~g", labelFlush=False)


def _cells(found: Plane, shades: Shades) -> list[dict[str, Any]]:
    across, up = _edges(found.xs), _edges(found.ys)
    return [
        {
            "x": across[column],
            "x2": across[column + 1],
            "y": up[row],
            "y2": up[row + 1],
            "color": shades.color(loss),
        }
        for row, losses in enumerate(found.losses)
        for column, loss in enumerate(losses)
        if loss is not None
    ]


def _way(found: Plane, area: Area) -> list[dict[str, float]]:
    """The stretches of the way that lie inside the grid, those at its edge cut there."""
    stretches = []
    for (_, *start, _), (_, *end, _) in pairwise(found.way):
        kept = _inside(start, end, (area.inner_xs, area.inner_ys))
        if kept is not None:
            (x, y), (x2, y2) = kept
            stretches.append({"x": x, "y": y, "x2": x2, "y2": y2})
    return stretches


def _inside(start: list[float], end: list[float], box: tuple[Span, Span]) -> tuple[list[float], list[float]] | None:
    """The part of a stretch inside a box; None where there is none. Liang and Barsky 1984."""
    first, last = 0.0, 1.0
    for a, b, side in zip(start, end, box, strict=True):
        if a == b:
            if not side.low <= a <= side.high:
                return None
            continue
        near, far = sorted(((side.low - a) / (b - a), (side.high - a) / (b - a)))
        first, last = max(first, near), min(last, far)
    if first > last:
        return None

    def at(share: float) -> list[float]:
        return [a + share * (b - a) for a, b in zip(start, end, strict=True)]

    return at(first), at(last)


def _legend(shades: Shades, area: Area) -> list[alt.Chart]:
    """The colours with the losses at their bounds, the highest at the top, beside the plot."""
    bounds, left = shades.bounds, area.frame.plot_width + 12
    boxes = [
        {
            "y": area.ys.value(place / SHADES),
            "y2": area.ys.value((place + 1) / SHADES),
            "color": shade(SHADES - 1 - place),
        }
        for place in range(SHADES)
    ]
    marks = [
        {"y": area.ys.value(place / SHADES), "said": f"{'≥ ' if shades.capped and place == SHADES else ''}{bound:.3g}"}
        for place, bound in enumerate(bounds)
        if place % 2 == 0
    ]
    y = alt.Y("y:Q", scale=axes.scale(area.ys), axis=_axis())
    box = alt.Chart(alt.InlineData(boxes)).mark_rect(stroke=RULE, strokeWidth=0.5)
    text = alt.Chart(alt.InlineData(marks)).mark_text(align="left", color=MUTED)
    return [
        box.encode(x=alt.value(left), x2=alt.value(left + 13), y=y, y2="y2:Q", fill=axes.hue()),
        text.encode(x=alt.value(left + 19), y=y, text="said:N"),
    ]
