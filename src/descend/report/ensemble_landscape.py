"""The charts of what lies between snapshots: the lines between them, and the plane through the last three."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
from markupsafe import Markup

from descend.report import axes, heights
from descend.report.ensemble_results import Barriers, Line, Plane
from descend.report.formats import Metric, number
from descend.report.span import Span
from descend.report.svg import FAINT, MUTED, PAPER, Frame, color, inline

_PANEL = Frame(240, 160, left=34, right=24, top=10, bottom=26)


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


def plane(found: Plane) -> Markup:
    """The loss on the plane, a cell for each measured point; the way of training over it; and the three snapshots."""
    area, shades = heights.Area.of(found), heights.Shades.of(found.losses)
    spots = [(f"step {step}", x, y) for (x, y), step in zip(found.coordinates, found.steps, strict=True)]
    layers = heights.from_above(found, shades, area, spots, found.way, "distance between weights")
    steps = ", ".join(map(str, found.steps))
    known = [value for row in found.losses for value in row if value is not None]
    extent = f", from {number(min(known))} to {number(max(known))}" if known else ""
    label = f"Validation loss on the plane through the snapshots of steps {steps}{extent}; the way of training on it."
    return inline(layers, area.frame, label)
