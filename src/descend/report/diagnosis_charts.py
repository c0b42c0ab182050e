"""The charts of a diagnosis that are lines and rows: spectra, traces, sharpness, rescalings, slices, training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
from markupsafe import Markup

from descend.report import axes
from descend.report.diagnosis_results import Density, InTraining, Line, Rescaling, Watched
from descend.report.formats import number
from descend.report.span import Span
from descend.report.svg import FAINT, MUTED, PAPER, Frame, color, dash, inline

_WIDE = Frame(640, 300, left=52, right=18, top=12, bottom=36)
_SMALL = Frame(420, 250, left=52, right=18, top=12, bottom=36)
_ROW = 24
_Z = 1.96
_FLOOR = 1e-4
"""Of a density's highest value: what is lower is not drawn."""


@dataclass(frozen=True)
class Row:
    """A number with what it may be off by."""

    title: str
    value: float
    low: float
    high: float
    hue: int = 0


def rows(found: Sequence[Row], label: str) -> Markup | None:
    """A point with its interval for each number."""
    if not found:
        return None
    span = Span.around([end for row in found for end in (row.low, row.high)])
    frame = Frame(700, _ROW * len(found) + 34, left=290, right=80, top=4, bottom=30)
    lines = [
        {
            "place": place,
            "color": color(row.hue),
            "title": row.title,
            "text": number(row.value),
            **axes.placed(row.value, [row.low, row.high], span),
        }
        for place, row in enumerate(found)
    ]
    base = alt.Chart(alt.InlineData(lines)).encode(
        y=alt.Y("place:Q", scale=axes.rows_scale(len(lines)), axis=axes.NOTHING)
    )
    behind, before = axes.rows_marks(base, span, frame)
    said = "; ".join(f"{row.title} {number(row.value)} [{number(row.low)}, {number(row.high)}]" for row in found)
    return inline([*behind, *before], frame, f"{label}: {said}.")


def density(found: Density) -> Markup | None:
    """The density on a logarithmic scale: the mean of the draws, and the band of its 95 % interval."""
    known = [
        (at, value, error or 0.0)
        for at, value, error in zip(found.grid, found.values, found.errors, strict=True)
        if value is not None
    ]
    top = max((value for _, value, _ in known), default=0.0)
    if top <= 0:
        return None
    floor = _FLOOR * top
    span = Span(floor, 2 * top, log=True)
    data = [
        {
            "at": at,
            "value": max(value, floor),
            "low": max(value - _Z * error, floor),
            "high": max(value + _Z * error, floor),
        }
        for at, value, error in known
    ]
    across = Span(found.grid[0], found.grid[-1])
    x = _x(across, "eigenvalue")
    base = alt.Chart(alt.InlineData(data)).encode(x=x)
    layers = [
        base.mark_area(color=color(0), opacity=0.25).encode(y=axes.y(span, "low"), y2="high:Q"),
        base.mark_line(color=color(0), strokeWidth=1.6).encode(y=axes.y(span, "value")),
    ]
    label = f"Spectral density of the {found.matrix}, from {number(found.grid[0])} to {number(found.grid[-1])}."
    return inline(layers, _WIDE, label)


def rescaling(found: Rescaling) -> tuple[Markup, list[tuple[str, int]]] | None:
    """Each measure relative to that of the solution itself, against alpha; and which line is which."""
    original = next((row.measures for row in found.rows if row.alpha == 1), None)
    if original is None:
        return None
    own = {name: value for name, value in original.items() if value}
    names = list(own)
    ratios = [
        (row.alpha, name, value / own[name])
        for name in names
        for row in found.rows
        if (value := row.measures.get(name)) is not None and value / own[name] > 0
    ]
    if not ratios:
        return None
    data = [
        {"alpha": alpha, "value": ratio, "name": name, "color": color(names.index(name))}
        for alpha, name, ratio in ratios
    ]
    span = Span.around([*(ratio for _, _, ratio in ratios), 0.5, 2.0], log=True)
    across = Span.around([row.alpha for row in found.rows], log=True)
    axis = alt.Axis(grid=False, values=[row.alpha for row in found.rows], title="alpha", titlePadding=4, format="~g")
    x = alt.X("alpha:Q", scale=axes.scale(across), axis=axis)
    base = alt.Chart(alt.InlineData(data)).encode(x=x, y=axes.y(span, "value"), color=axes.hue(), detail="name:N")
    dashed = [
        base.mark_line(strokeWidth=1.8, strokeDash=[5, 3] if name in found.invariant else [1, 0]).transform_filter(
            alt.datum.name == name
        )
        for name in names
    ]
    said = "; ".join(f"{name} at alpha {alpha:g}: {ratio:.3g} times" for alpha, name, ratio in ratios)
    chart = inline(
        [*dashed, base.mark_point(filled=True, size=26, opacity=1)], _WIDE, f"Measures against alpha: {said}."
    )
    return chart, [(name, hue) for hue, name in enumerate(names)]


def line(found: Line, values: Sequence[float | None], name: str) -> Markup | None:
    """Loss or error on a line; dotted what it would be without a barrier."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    span = Span.around(known)
    rows = [
        {"at": at, "value": span.cut(value)}
        for at, value in zip(found.amounts, values, strict=True)
        if value is not None
    ]
    across = Span(found.amounts[0], found.amounts[-1])
    x = _x(across, _across(found))
    base = alt.Chart(alt.InlineData(rows)).encode(x=x, y=axes.y(span, "value"))
    layers = [
        base.mark_line(color=color(0), strokeWidth=1.7),
        base.mark_point(fill=PAPER, stroke=color(0), size=22, strokeWidth=1.3, opacity=1),
    ]
    start, end = values[0], values[-1]
    if found.ends and start is not None and end is not None:
        chord = [{"at": 0.0, "value": start}, {"at": 1.0, "value": end}]
        straight = alt.Chart(alt.InlineData(chord)).encode(x=x, y=axes.y(span, "value"))
        layers.insert(0, straight.mark_line(color=MUTED, strokeWidth=1, strokeDash=[2, 3]))
    said = ", ".join("not finite" if value is None else f"{value:.3g}" for value in values)
    return inline(layers, _SMALL, f"{name} on the {found.title}: {said}.")


def _across(found: Line) -> str:
    return f"0: {found.ends[0]}; 1: {found.ends[1]}" if found.ends else "amount of the direction"


def series(
    found: Sequence[Watched], title: str, steps: int, threshold: Sequence[Sequence[float]] = ()
) -> Markup | None:
    """A quantity in training, with its errors; hollow where it did not converge, dashed the threshold of stability."""
    known = [one for one in found if one.value is not None]
    if not known:
        return None
    ends = [
        value
        for one in known
        for value in (one.value - _Z * (one.error or 0.0), one.value + _Z * (one.error or 0.0))  # type: ignore[operator]
    ]
    span = Span.near([[one.value] for one in known if one.value is not None], also=ends)
    data = [
        {
            "step": one.step,
            "value": span.cut(one.value),  # type: ignore[arg-type]
            "low": span.cut(one.value - _Z * (one.error or 0.0)),  # type: ignore[operator]
            "high": span.cut(one.value + _Z * (one.error or 0.0)),  # type: ignore[operator]
            "fill": color(0) if one.converged else PAPER,
        }
        for one in known
    ]
    base = alt.Chart(alt.InlineData(data)).encode(x=axes.steps(steps))
    layers = [
        base.mark_rule(color=color(0), opacity=0.3, strokeWidth=2).encode(y=axes.y(span, "low"), y2="high:Q"),
        base.mark_line(color=color(0), strokeWidth=1, opacity=0.6).encode(y=axes.y(span, "value")),
        base.mark_point(stroke=color(0), size=20, opacity=1).encode(
            y=axes.y(span, "value"), fill=alt.Fill("fill:N", scale=axes.NOTHING)
        ),
    ]
    inside = [{"step": at, "value": value} for at, value in threshold if span.low <= value <= span.high]
    if inside:
        edge = alt.Chart(alt.InlineData(inside)).encode(x=axes.steps(steps), y=axes.y(span, "value"))
        layers.insert(0, edge.mark_line(color=MUTED, strokeDash=dash(8), strokeWidth=1.2))
    said = ", ".join(f"step {one.step} {number(one.value)}" for one in known[:: max(1, len(known) // 20)])
    return inline(layers, _SMALL, f"{title} in training: {said}.")


def losses(found: InTraining) -> Markup | None:
    """The training loss of single batches."""
    values = [value for _, value in found.losses]
    if not values:
        return None
    span = Span.around(values)
    data = [{"step": step, "value": span.cut(value)} for step, value in found.losses]
    base = alt.Chart(alt.InlineData(data)).encode(x=axes.steps(found.steps), y=axes.y(span, "value"))
    said = f"from {number(values[0])} to {number(values[-1])}"
    return inline([base.mark_line(color=FAINT, strokeWidth=1.2)], _SMALL, f"Training loss of single batches, {said}.")


def _x(span: Span, title: str) -> alt.X:
    axis = alt.Axis(grid=False, tickCount=7, title=title, titlePadding=4, format=".4~g", labelFlush=False)
    return alt.X("at:Q", scale=axes.scale(span), axis=axis)


QUANTITIES: Mapping[str, str] = {
    "update_ratio": "Update-to-weight ratio",
    "noise_scale": "Gradient noise scale, in examples",
    "top_eigenvalue": "Largest eigenvalue of the Hessian",
    "preconditioned_eigenvalue": "Largest eigenvalue, preconditioned",
}
"""What quantities in training are called."""


def known(values: Mapping[str, Any]) -> list[str]:
    """The quantities that are drawn, in their order."""
    return [name for name in QUANTITIES if name in values]
