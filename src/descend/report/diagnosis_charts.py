"""The charts of a diagnosis that are lines and rows: spectra, traces, sharpness, rescalings, slices, training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
from markupsafe import Markup

from descend.report import axes
from descend.report.diagnosis_measures import Density
from descend.report.diagnosis_results import InTraining, Line, Rescaling, Watched
from descend.report.formats import number
from descend.report.span import Span
from descend.report.svg import FAINT, MUTED, PAPER, Frame, color, inline

WIDE = Frame(640, 300, left=52, right=18, top=12, bottom=36)
"""Of a chart alone."""
SMALL = Frame(420, 250, left=52, right=18, top=12, bottom=36)
"""Of charts side by side."""
_ROW = 24
_Z = 1.96
_FLOOR, _LEAST = 1e-3, 1e-9
"""Of a density's highest value: from where on it is drawn at least, and at most."""
_CHORD = 60
_SHORT = (
    "datum.value == 0 || (abs(datum.value) >= 1e-3 && abs(datum.value) < 1e6) ? format(datum.value, '.4~g') "
    ": replace(format(datum.value, '.3~e'), 'e+', 'e')"
)
"""How an axis writes numbers: with an exponent where they would be long."""


@dataclass(frozen=True)
class Row:
    """A number with what it may be off by."""

    title: str
    value: float
    low: float
    high: float
    hue: int = 0


def rows(found: Sequence[Row], label: str, always: Sequence[float] = ()) -> Markup | None:
    """A point with its interval for each number; the axis holds what is always to be seen."""
    if not found:
        return None
    span = Span.around([*always, *(end for row in found for end in (row.low, row.high))])
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
    (guides, bars), (points, *texts) = axes.rows_marks(base, span, frame)
    layers = [guides, bars.encode(x=_reading(span, "low")), points.encode(x=_reading(span, "value")), *texts]
    said = "; ".join(f"{row.title} {number(row.value)} [{number(row.low)}, {number(row.high)}]" for row in found)
    return inline(layers, frame, f"{label}: {said}.")


def density(found: Density) -> Markup | None:
    """The density on a logarithmic scale: the mean of the draws, and the band of its 95 % interval.

    What is much lower than a single eigenvalue, and than the highest value, is left out.
    """
    known = [
        (at, value, error or 0.0) if value is not None else None
        for at, value, error in zip(found.grid, found.values, found.errors, strict=True)
    ]
    top = max((each[1] for each in known if each is not None), default=0.0)
    if top <= 0:
        return None
    single = 1 / (found.setting.parameters * found.width * math.sqrt(2 * math.pi))
    floor = max(min(_FLOOR * top, single / 4), _LEAST * top)
    span = Span(floor, 2 * top, log=True)
    band = [
        {"at": at, "low": max(value - _Z * error, floor), "high": max(value + _Z * error, floor)}
        for at, value, error in (each for each in known if each is not None)
    ]
    line = [
        {"at": at, "value": None if each is None or each[1] < floor else each[1]}
        for at, each in zip(found.grid, known, strict=True)
    ]
    x = x_axis(Span(found.grid[0], found.grid[-1]), "eigenvalue")
    layers = [
        alt.Chart(alt.InlineData(band))
        .mark_area(color=color(0), opacity=0.25)
        .encode(x=x, y=y_axis(span, "low"), y2="high:Q"),
        alt.Chart(alt.InlineData(pieces(line)))
        .mark_line(color=color(0), strokeWidth=1.6)
        .encode(x=x, y=y_axis(span, "value"), detail="piece:N"),
    ]
    if floor < single < top:
        alone = alt.Chart(alt.InlineData([{"value": single, "text": "one eigenvalue"}])).encode(y=y_axis(span, "value"))
        layers += [
            alone.mark_rule(color=MUTED, strokeDash=[2, 3]).encode(x=alt.value(0), x2=alt.value(WIDE.plot_width)),
            alone.mark_text(color=MUTED, align="right", dy=-6).encode(
                x=alt.value(WIDE.plot_width * 0.7), text="text:N"
            ),
        ]
    label = f"Spectral density of the {found.matrix}, from {number(found.grid[0])} to {number(found.grid[-1])}."
    return inline(layers, WIDE, label)


def rescaling(found: Rescaling) -> tuple[Markup, list[tuple[str, int, bool]]] | None:
    """Each measure relative to that of the solution itself, against alpha; and which line is which."""
    original = next((row.measures for row in found.rows if row.alpha == 1), None)
    if original is None:
        return None
    own = {name: value for name, value in original.items() if value}
    names = list(own)
    ratios = [
        (row.alpha, name, ratio)
        for name in names
        for row in found.rows
        if (value := row.measures.get(name)) is not None and (ratio := value / own[name]) > 0
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
    base = alt.Chart(alt.InlineData(data)).encode(x=x, y=y_axis(span, "value"), color=axes.hue(), detail="name:N")
    lines = [
        base.mark_line(strokeWidth=1.8, strokeDash=[5, 3] if is_dashed else [1, 0]).transform_filter(
            alt.FieldOneOfPredicate("name", several)
        )
        for is_dashed in (False, True)
        if (several := [name for name in names if (name in found.invariant) == is_dashed])
    ]
    points = base.mark_point(filled=True, size=26, opacity=1)
    said = "; ".join(f"{name} at alpha {alpha:g}: {ratio:.3g} times" for alpha, name, ratio in ratios)
    chart = inline([*lines, points], WIDE, f"Measures against alpha: {said}.")
    return chart, [(name, hue, name in found.invariant) for hue, name in enumerate(names)]


def line(found: Line, values: Sequence[float | None], name: str, *, is_alone: bool = False) -> Markup | None:
    """Loss or error on a line; dotted what it would be without a barrier."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    span = Span.around(known)
    rows = [
        {"at": at, "value": None if value is None else span.cut(value)}
        for at, value in zip(found.amounts, values, strict=True)
    ]
    x, y = x_axis(Span(found.amounts[0], found.amounts[-1]), _across(found)), y_axis(span, "value")
    base = alt.Chart(alt.InlineData(pieces(rows))).encode(x=x, y=y)
    layers = [
        base.mark_line(color=color(0), strokeWidth=1.7).encode(detail="piece:N"),
        base.mark_point(fill=PAPER, stroke=color(0), size=22, strokeWidth=1.3, opacity=1),
    ]
    chord = [row for row in _chord(found, values) if span.low <= row["value"] <= span.high]
    if chord:
        straight = alt.Chart(alt.InlineData(chord)).encode(x=x, y=y)
        layers.insert(0, straight.mark_line(color=MUTED, strokeWidth=1, strokeDash=[2, 3]))
    said = ", ".join("not finite" if value is None else f"{value:.3g}" for value in values)
    return inline(layers, WIDE if is_alone else SMALL, f"{name}, {found.title}: {said}.")


def _across(found: Line) -> str:
    return f"0: {found.ends[0]}; 1: {found.ends[1]}" if found.ends else "amount of the direction"


def _chord(found: Line, values: Sequence[float | None]) -> list[dict[str, float]]:
    """The straight line between what stands at the ends; close enough that it bends rightly on a logarithmic scale."""
    at = dict(zip(found.amounts, values, strict=True))
    start, end = at.get(0.0), at.get(1.0)
    if not found.ends or start is None or end is None:
        return []
    shares = [place / _CHORD for place in range(_CHORD + 1)]
    return [{"at": share, "value": (1 - share) * start + share * end} for share in shares]


def series(found: Sequence[Watched], name: str, steps: int, threshold: Sequence[Sequence[float]] = ()) -> Markup | None:
    """A quantity in training, with its errors; hollow where it did not converge, dashed the threshold of stability."""
    values = [one.value for one in found if one.value is not None]
    if not values:
        return None
    # A residual bounds an eigenvalue's error; a standard error does not.
    factor = 1.0 if "eigenvalue" in name else _Z
    span = _series_span(found, factor, [limit for _, limit in threshold])
    data = [_placed(one, factor, span) for one in found]
    x, y = axes.steps(steps), y_axis(span, "value")
    base = alt.Chart(alt.InlineData(pieces(data))).encode(x=x)
    layers = [
        base.mark_rule(color=color(0), opacity=0.35, strokeWidth=3).encode(y=y_axis(span, "low"), y2="high:Q"),
        base.mark_line(color=color(0), strokeWidth=1, opacity=0.6).encode(y=y, detail="piece:N"),
        base.mark_point(stroke=color(0), size=24, opacity=1).encode(y=y, fill=alt.Fill("fill:N", scale=axes.NOTHING)),
    ]
    limits = [{"step": at, "value": limit} for at, limit in threshold]
    if limits:
        # One that does not change is drawn from the first step to the last.
        if len({limit["value"] for limit in limits}) == 1:
            limits = [{**limits[0], "step": 0.0}, {**limits[0], "step": float(steps)}]
        edge = alt.Chart(alt.InlineData(limits)).encode(x=x, y=y)
        layers.insert(0, edge.mark_line(color=MUTED, strokeDash=[5, 3], strokeWidth=1.2))
    known = [one for one in found if one.value is not None]
    said = ", ".join(f"step {one.step} {number(one.value)}" for one in known[:: max(1, len(known) // 20)])
    return inline(layers, SMALL, f"{QUANTITIES.get(name, name)} in training: {said}.")


def _series_span(found: Sequence[Watched], factor: float, limits: Sequence[float]) -> Span:
    """All values and the threshold; of the errors as much as is not far."""
    values = [one.value for one in found if one.value is not None]
    whole = Span.around([*values, *limits])
    if whole.log:
        return whole
    ends = [
        one.value + sign * factor * (one.error or 0.0) for one in found if one.value is not None for sign in (-1, 1)
    ]
    return Span.near([[value] for value in values], always=limits, also=ends)


def _placed(one: Watched, factor: float, span: Span) -> dict[str, Any]:
    if one.value is None:
        return {"step": one.step, "value": None}
    reach = factor * (one.error or 0.0)
    ends = {"value": one.value, "low": one.value - reach, "high": one.value + reach}
    cut = {name: span.cut(value) for name, value in ends.items()}
    return {"step": one.step, **cut, "fill": color(0) if one.converged else PAPER}


def losses(found: InTraining) -> Markup | None:
    """The training loss of single batches."""
    values = [value for _, value in found.losses]
    if not values:
        return None
    span = Span.around(values)
    data = [{"step": step, "value": span.cut(value)} for step, value in found.losses]
    base = alt.Chart(alt.InlineData(data)).encode(x=axes.steps(found.steps), y=y_axis(span, "value"))
    said = f"from {number(values[0])} to {number(values[-1])}"
    return inline([base.mark_line(color=FAINT, strokeWidth=1.2)], SMALL, f"Training loss of single batches, {said}.")


def pieces(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that have a value, each with the number of its piece: lines end where something is not finite."""
    known, piece = [], 0
    for row in rows:
        if row["value"] is None:
            piece += 1
        else:
            known.append({**row, "piece": piece})
    return known


def _reading(span: Span, field: str) -> alt.X:
    """The axis under rows, with few numbers where it is logarithmic."""
    ticks: dict[str, Any] = {"values": span.ticks(5)} if span.log else {"tickCount": 5}
    axis = alt.Axis(**ticks, title=axes.NOTHING, labelExpr=_SHORT, labelFlush=False)
    return alt.X(f"{field}:Q", scale=axes.scale(span), axis=axis)


def x_axis(span: Span, title: str) -> alt.X:
    """A horizontal axis with its title under it, its ticks at round values where it is logarithmic."""
    ticks: dict[str, Any] = {"values": span.ticks(7)} if span.log else {"tickCount": 7}
    axis = alt.Axis(**ticks, grid=False, title=title, titlePadding=4, format=".4~g", labelFlush=False)
    return alt.X("at:Q", scale=axes.scale(span), axis=axis)


def y_axis(span: Span, field: str) -> alt.Y:
    """A vertical axis whose numbers are short, however small."""
    ticks: dict[str, Any] = {"values": span.ticks(5)} if span.log else {"tickCount": 5}
    return axes.y(span, field, axis=alt.Axis(**ticks, title=axes.NOTHING, labelExpr=_SHORT))


QUANTITIES: Mapping[str, str] = {
    "update_ratio": "Update-to-weight ratio",
    "noise_scale": "Gradient noise scale, in examples",
    "top_eigenvalue": "Largest eigenvalue of the Hessian",
    "preconditioned_eigenvalue": "Largest eigenvalue, preconditioned",
}
"""What quantities in training are called."""
