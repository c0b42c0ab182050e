"""What charts share: axes, colours, crosses, and the labels at the ends of lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from descend.report.results import Results
from descend.report.span import Span, spread
from descend.report.svg import FONT_SIZE, PAPER, RULE, Frame

WIDTH = 420
"""Of a chart that takes half of the page, at its own scale."""
_CROSS = "M-0.7,-0.7L0.7,0.7M0.7,-0.7L-0.7,0.7"
# No axis, no title: what the libraries' type hints do not foresee.
NOTHING: Any = None
# How axes write numbers: plainly; and rates as `formats.rate` does.
_PLAIN, _COUNT = ".6~g", ",.6~g"


def link(trial: int) -> str:
    """Where a point leads: to its trial's row in the table of trials."""
    return f"#trial-{trial}"


def end_labels(ends: list[dict[str, Any]], span: Span, frame: Frame, axis: alt.Axis | None = None) -> list[alt.Chart]:
    """Titles beside the ends of lines, moved apart until none covers another, each tied to its end.

    Layers share an axis: where the lines' own is not `y`'s, it must be given here as well.
    """
    places = spread([span.fraction(end["end"]) for end in ends], (FONT_SIZE + 3) / frame.plot_height)
    labelled = [{**end, "label": span.value(place)} for end, place in zip(ends, places, strict=True)]
    base, own = alt.Chart(alt.InlineData(labelled)), hue()
    foot, knee, tip, text = (alt.value(frame.plot_width + offset) for offset in (2, 12, 17, 21))
    return [
        base.mark_rule(strokeWidth=1).encode(x=foot, x2=knee, y=y(span, "end", axis=axis), y2="label:Q", color=own),
        base.mark_rule(strokeWidth=3).encode(x=knee, x2=tip, y=y(span, "label", axis=axis), color=own),
        base.mark_text(align="left", limit=72).encode(x=text, y=y(span, "label", axis=axis), text="title:N"),
    ]


def clock_frame(lines: int) -> Frame:
    """The frame of a chart of so many lines against step or time, their titles at the right."""
    return Frame(WIDTH, max(270, 15 * lines + 50), left=38, right=96, top=10, bottom=34)


def rows_frame(rows: int) -> Frame:
    """The frame of a chart with a row for each of so many optimizers, titles at the left and numbers at the right."""
    return Frame(WIDTH, 28 * rows + 34, left=84, right=64, top=4, bottom=30)


def rows_scale(rows: int) -> alt.Scale:
    """The scale of places of rows, from the top."""
    return alt.Scale(domain=[-0.5, rows - 0.5], reverse=True, nice=False)


def rows_marks(base: alt.Chart, span: Span, frame: Frame) -> tuple[list[alt.Chart], list[alt.Chart]]:
    """What stands behind and before the single results of rows: guides and intervals; means, titles and numbers."""
    value = x(span, "value", count=5)
    behind = [
        base.mark_rule(color=RULE, strokeDash=[1, 3]).encode(x=alt.value(0), x2=alt.value(frame.plot_width)),
        base.mark_rule(strokeWidth=7, opacity=0.35, strokeCap="round").encode(
            x=x(span, "low", count=5), x2="high:Q", color=hue()
        ),
    ]
    before = [
        base.mark_point(size=80, filled=True, opacity=1, stroke=PAPER, strokeWidth=1.5)
        .encode(x=value, fill=hue(), shape=alt.Shape("shape:N", scale=None))
        .transform_filter("datum.shape != 'none'"),
        base.mark_text(align="right", limit=frame.left - 6).encode(x=alt.value(-8), text="title:N"),
        base.mark_text(align="left", limit=60).encode(x=alt.value(frame.plot_width + 8), text="text:N"),
    ]
    return behind, before


def placed(mean: float, reach: Sequence[float], span: Span) -> dict[str, Any]:
    """A mean and the ends of its interval, cut to the span: an arrow for a mean beyond it."""
    aside = "triangle-left" if mean < span.low else "triangle-right"
    shape = "circle" if span.low <= mean <= span.high else aside
    return {"value": span.cut(mean), "low": span.cut(min(reach)), "high": span.cut(max(reach)), "shape": shape}


def order(results: Results) -> dict[str, int]:
    """Place of each optimizer in the comparison, which fixes its colour in every chart."""
    return {optimizer.name: index for index, optimizer in enumerate(results.optimizers)}


def scale(span: Span) -> alt.Scale:
    """A scale with just the ends of a range."""
    return alt.Scale(domain=[span.low, span.high], type="log" if span.log else "linear", nice=False, zero=False)


def hue() -> alt.Color:
    """The colour that stands in the data."""
    return alt.Color("color:N", scale=NOTHING)


def crosses(base: alt.Chart) -> alt.Chart:
    """Divergences, and what lies beyond an axis."""
    drawn: alt.Chart = base.mark_point(shape=_CROSS, size=60, strokeWidth=2, opacity=1)
    return drawn


def steps(steps: int) -> alt.X:
    """The axis of steps."""
    axis = alt.Axis(grid=False, tickCount=5, title="step", titlePadding=4, format=_COUNT, labelFlush=False)
    return alt.X("step:Q", scale=alt.Scale(domain=[0, steps], nice=False), axis=axis)


def x(span: Span, field: str, *, count: int) -> alt.X:
    """A horizontal axis."""
    axis = alt.Axis(tickCount=count, title=NOTHING, format=_PLAIN, labelFlush=False)
    return alt.X(f"{field}:Q", scale=scale(span), axis=axis)


def y(span: Span, field: str, *, count: int = 5, axis: alt.Axis | None = None) -> alt.Y:
    """A vertical axis, its ticks at round values where it is logarithmic."""
    ticks: dict[str, Any] = {"values": span.ticks(count)} if span.log else {"tickCount": count}
    plain = alt.Axis(**ticks, title=NOTHING, format=_PLAIN)
    return alt.Y(f"{field}:Q", scale=scale(span), axis=axis or plain)


def percent() -> alt.Axis:
    """An axis of shares, in per cent."""
    return alt.Axis(tickCount=5, title=NOTHING, format=".0%")


def seconds(end: float) -> alt.X:
    """The axis of time spent in steps."""
    axis = alt.Axis(grid=False, tickCount=5, title="seconds in steps", titlePadding=4, format=_COUNT, labelFlush=False)
    return alt.X("step:Q", scale=alt.Scale(domain=[0, end], nice=False), axis=axis)
