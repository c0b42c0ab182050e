"""Charts of what several documents show: curves with bands, and points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import altair as alt
from markupsafe import Markup

from descend.report import axes
from descend.report.diagnosis_charts import SMALL, WIDE, pieces, x_axis, y_axis
from descend.report.formats import number, rate
from descend.report.span import Span
from descend.report.svg import FAINT, PAPER, Frame, color, inline

_FEW = 40
"""Values of a curve, up to which each is marked; points, up to which none shines through."""


@dataclass(frozen=True)
class Curve:
    """A line of a chart.

    Attributes:
        title: of it.
        amounts: where its values are, rising.
        values: None where one is not known: there the line is broken.
        hue: number of its colour.
        lows: lower ends of a band around the values; empty without one.
        highs: upper ends.
    """

    title: str
    amounts: Sequence[float]
    values: Sequence[float | None]
    hue: int = 0
    lows: Sequence[float] = ()
    highs: Sequence[float] = ()


@dataclass(frozen=True)
class Dots:
    """Points of a chart.

    Attributes:
        across: where they are on the horizontal axis.
        up: on the vertical one.
        hues: numbers of their colours; one for all where there is one.
        hollow: places of those that are drawn hollow.
    """

    across: Sequence[float]
    up: Sequence[float]
    hues: Sequence[int] = (0,)
    hollow: frozenset[int] = field(default_factory=frozenset)


def curves(
    found: Sequence[Curve],
    across: str,
    label: str,
    *,
    always: Sequence[float] = (),
    log: bool | None = False,
    frame: Frame = WIDE,
) -> Markup | None:
    """Lines with their bands over one another; None where no value is known."""
    values = [value for one in found for value in one.values if value is not None]
    if not values:
        return None
    places = [at for one in found for at in one.amounts]
    span, reach = Span.around([*always, *values], log=log), Span.around(places, margin=0)
    x, y = x_axis(reach, across), y_axis(span, "value")
    is_marked = all(len(one.amounts) <= _FEW for one in found)
    bands, lines = [], []
    for one in found:
        if one.lows:
            band = [
                {"at": at, "value": span.cut(low), "high": span.cut(high)}
                for at, low, high in zip(one.amounts, one.lows, one.highs, strict=True)
            ]
            area = alt.Chart(alt.InlineData(band)).mark_area(color=color(one.hue), opacity=0.2)
            bands.append(area.encode(x=x, y=y, y2="high:Q"))
        rows: list[dict[str, Any]] = [
            {"at": at, "value": None if value is None else span.cut(value)}
            for at, value in zip(one.amounts, one.values, strict=True)
        ]
        base = alt.Chart(alt.InlineData(pieces(rows))).encode(x=x, y=y)
        lines.append(base.mark_line(color=color(one.hue), strokeWidth=1.7).encode(detail="piece:N"))
        if is_marked:
            lines.append(base.mark_point(fill=PAPER, stroke=color(one.hue), size=22, strokeWidth=1.3, opacity=1))
    said = "; ".join(f"{one.title} {_ends(one)}" for one in found)
    return inline([*bands, *lines], frame, f"{label}: {said}.")


def _ends(found: Curve) -> str:
    """Where a line begins and ends."""
    known = [(at, value) for at, value in zip(found.amounts, found.values, strict=True) if value is not None]
    if not known:
        return "not finite"
    (first, start), (last, end) = known[0], known[-1]
    return f"from {number(start)} at {rate(first)} to {number(end)} at {rate(last)}"


def dots(
    found: Dots,
    across: str,
    label: str,
    *,
    always: Sequence[float] = (),
    across_always: Sequence[float] = (),
    joined: bool = False,
) -> Markup | None:
    """Points; None where there are none."""
    if not found.across:
        return None
    span, reach = Span.around([*always, *found.up], log=False), Span.around([*across_always, *found.across], log=False)
    rows = [
        {
            "at": reach.cut(at),
            "value": span.cut(value),
            "color": (hue := color(found.hues[place % len(found.hues)])),
            "fill": PAPER if place in found.hollow else hue,
        }
        for place, (at, value) in enumerate(zip(found.across, found.up, strict=True))
    ]
    base = alt.Chart(alt.InlineData(rows)).encode(x=x_axis(reach, across), y=y_axis(span, "value"))
    marks = base.mark_point(size=36, opacity=0.75 if len(rows) > _FEW else 1, strokeWidth=1.5).encode(
        stroke=alt.Stroke("color:N", scale=axes.NOTHING), fill=alt.Fill("fill:N", scale=axes.NOTHING)
    )
    line = base.mark_line(color=FAINT, strokeWidth=1.2).transform_filter("datum.fill == datum.color")
    return inline([*([line] if joined else []), marks], SMALL, label)
