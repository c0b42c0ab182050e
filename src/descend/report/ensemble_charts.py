"""The charts of a study of snapshots: all methods, and what the number of models is worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
from markupsafe import Markup

from descend.report import axes
from descend.report.ensemble_results import Estimate, Optimizer, Row
from descend.report.ensemble_tables import kind
from descend.report.formats import Metric
from descend.report.span import Span
from descend.report.svg import INK, MUTED, PAPER, RULE, Frame, color, inline

HUES = {"control": MUTED, "predictions": color(0), "weights": color(1)}
"""The colour of each kind of method."""
_ROW = 31
# Of a row's height: where its title stands and where its bar, and over how much of it the seeds spread.
_HEAD, _BAR, _STAGGER = -0.27, 0.19, 0.22
_REFERENCES = (("cosine", "one cosine", (6, 3)), ("nocycle-last", "step decay", (2, 2)))


def methods(optimizer: Optimizer, metric: Metric) -> Markup | None:
    """A row for each method in the order of the table: its title, and below it mean, interval and each seed."""
    if not optimizer.rows:
        return None
    span = _span(optimizer.rows, metric)
    lines, seeds, said = [], [], []
    for place, row in enumerate(optimizer.rows):
        look = {"head": place + _HEAD, "place": place + _BAR, "color": HUES[kind(row)]}
        lines.append({**look, "title": row.title, **_marks(row, metric, span)})
        for turn, value in enumerate(row.by_seed):
            if value is not None and span.low <= metric.shown(value) <= span.high:
                aside = _STAGGER * (turn / max(1, len(row.by_seed) - 1) - 0.5) if len(row.by_seed) > 1 else 0.0
                seeds.append({**look, "place": place + _BAR + aside, "value": metric.shown(value)})
        said.append(f"{row.title} {metric.text(row.metric.mean)}{_interval(row.metric, metric)}")
    frame = Frame(axes.WIDTH, _ROW * len(lines) + 30, left=8, right=58, top=2, bottom=28)
    layers = _rows(lines, seeds, span, frame)
    return inline(layers, frame, f"Test {metric.name} of each method, mean and 95 % interval: {'; '.join(said)}.")


def _rows(lines: list[dict[str, Any]], seeds: list[dict[str, Any]], span: Span, frame: Frame) -> list[alt.Chart]:
    scale, hue, x = axes.rows_scale(len(lines)), axes.hue(), axes.x(span, "value", count=5)
    y, head = (alt.Y(f"{field}:Q", scale=scale, axis=axes.NOTHING) for field in ("place", "head"))
    base = alt.Chart(alt.InlineData(lines)).encode(y=y)
    return [
        base.mark_rule(color=RULE, strokeDash=[1, 3]).encode(x=alt.value(0), x2=alt.value(frame.plot_width)),
        base.mark_rule(strokeWidth=6, opacity=0.35, strokeCap="round").encode(
            x=axes.x(span, "low", count=5), x2="high:Q", color=hue
        ),
        alt.Chart(alt.InlineData(seeds)).mark_point(size=18, strokeWidth=1).encode(x=x, y=y, color=hue),
        base.mark_point(size=64, filled=True, opacity=1, stroke=PAPER, strokeWidth=1.5)
        .encode(x=x, fill=hue, shape=alt.Shape("shape:N", scale=None))
        .transform_filter("datum.shape != 'none'"),
        axes.crosses(base).encode(x=x, color=hue).transform_filter("datum.shape == 'none'"),
        base.mark_text(align="left", limit=frame.plot_width, color=INK).encode(x=alt.value(0), y=head, text="title:N"),
        base.mark_text(align="left", limit=54).encode(x=alt.value(frame.plot_width + 9), text="text:N"),
    ]


def _span(rows: Sequence[Row], metric: Metric) -> Span:
    """The range that shows the better half in full; the single seeds where they are not far off."""
    sign = -1.0 if metric.higher_is_better else 1.0
    reach = [_reach(row.metric, metric) for row in rows if row.metric.mean is not None]
    seeds = [metric.shown(value) for row in rows for value in row.by_seed if value is not None]
    return Span.near(sorted(reach, key=lambda values: sign * values[0]), also=seeds)


def _reach(found: Estimate, metric: Metric) -> list[float]:
    """The mean and the ends of its interval, as far as there are any, in the unit of the page."""
    return [metric.shown(value) for value in (found.mean, found.low, found.high) if value is not None]


def _marks(row: Row, metric: Metric, span: Span) -> dict[str, Any]:
    """What to draw of one row, cut to the span; a cross at the worst end where its mean is not finite."""
    reach = _reach(row.metric, metric)
    if row.metric.mean is None:
        worst = span.low if metric.higher_is_better else span.high
        return {"value": worst, "low": worst, "high": worst, "shape": "none", "text": "–"}
    return {**axes.placed(reach[0], reach, span), "text": metric.text(row.metric.mean)}


def _interval(found: Estimate, metric: Metric) -> str:
    if found.low is None or found.high is None:
        return ""
    return f" [{metric.plain(found.low)}, {metric.plain(found.high)}]"


def by_count(optimizer: Optimizer, metric: Metric, count: int) -> Markup | None:
    """The metric against the number of models, for averages of predictions and of weights, beside single models."""
    series = {
        "predictions": _series(optimizer, ["last", *(f"last-{m}" for m in range(2, count + 1))]),
        "weights": _series(optimizer, ["last", *(f"average-{m}" for m in range(2, count + 1))]),
    }
    if not any(len(found) > 1 for found in series.values()):
        return None
    references = [
        (title, row.metric.mean, dash)
        for method, title, dash in _REFERENCES
        if (row := optimizer.row(method)) is not None and row.metric.mean is not None
    ]
    drawn = [row for found in series.values() for _, row in found]
    span = Span.near(
        sorted((_reach(row.metric, metric) for row in drawn), reverse=metric.higher_is_better),
        always=[metric.shown(mean) for _, mean, _ in references],
    )
    points = [
        {"kind": name, "color": HUES[name], "m": m, **axes.placed(reach[0], reach, span)}
        for name, found in series.items()
        for m, row in found
        for reach in [_reach(row.metric, metric)]
    ]
    rules = [
        {"title": title, "end": metric.shown(mean), "color": MUTED, "dash": list(dash)}
        for title, mean, dash in references
    ]
    ends = [
        {"title": name, "end": [point["value"] for point in points if point["kind"] == name][-1], "color": HUES[name]}
        for name, found in series.items()
        if len(found) > 1
    ]
    frame = Frame(axes.WIDTH, 280, left=38, right=96, top=10, bottom=34)
    layers = [*_counted(points, rules, span, count), *axes.end_labels([*ends, *rules], span, frame)]
    return inline(layers, frame, _said(series, references, metric))


def _series(optimizer: Optimizer, names: list[str]) -> list[tuple[int, Row]]:
    """The number of models and the row of each method that has a mean."""
    rows = [(m, optimizer.row(name)) for m, name in enumerate(names, 1)]
    return [(m, row) for m, row in rows if row is not None and row.metric.mean is not None]


def _counted(points: list[dict[str, Any]], rules: list[dict[str, Any]], span: Span, count: int) -> list[alt.Chart]:
    every = list(range(1, count + 1, -(-count // 12)))
    axis = alt.Axis(
        grid=False, values=every, format="d", title="number of snapshots m", titlePadding=4, labelFlush=False
    )
    x = alt.X("m:Q", scale=alt.Scale(domain=[1, max(count, 2)], nice=False), axis=axis)
    base, hue, split = alt.Chart(alt.InlineData(points)), axes.hue(), alt.Detail("kind:N")
    return [
        alt.Chart(alt.InlineData(rules))
        .mark_rule(strokeWidth=1.4)
        .encode(y=axes.y(span, "end"), color=hue, strokeDash=alt.StrokeDash("dash:N", scale=None)),
        base.mark_area(opacity=0.14).encode(x=x, y=axes.y(span, "low"), y2="high:Q", fill=hue, detail=split),
        base.mark_line(strokeWidth=1.7, strokeJoin="round").encode(
            x=x, y=axes.y(span, "value"), color=hue, detail=split
        ),
        base.mark_point(size=34, filled=True, opacity=1).encode(
            x=x, y=axes.y(span, "value"), color=hue, shape=alt.Shape("shape:N", scale=None)
        ),
    ]


def _said(
    series: dict[str, list[tuple[int, Row]]], references: list[tuple[str, float, tuple[int, int]]], metric: Metric
) -> str:
    parts = [
        f"averages of {name}: " + ", ".join(f"{m} {metric.text(row.metric.mean)}" for m, row in found)
        for name, found in series.items()
    ]
    parts += [f"{title} {metric.text(mean)}" for title, mean, _ in references]
    return f"Test {metric.name} against the number of snapshots; {'; '.join(parts)}."
