"""The charts of a comparison. Each is drawn for a width that stays readable on a phone, and scales from there."""

from __future__ import annotations

import math
from typing import Any

import altair as alt
from markupsafe import Markup

from descend.report.curves import Answers, Curve
from descend.report.formats import Metric, count, rate
from descend.report.results import Optimizer, Results, Row, Schedule
from descend.report.span import Span, spread
from descend.report.svg import FAINT, FONT_SIZE, INK, PAPER, RULE, Frame, color, dash, inline

_WIDTH = 420
_ROW = 28
_PANEL = Frame(240, 160, left=34, right=12, top=10, bottom=26)
_CROSS = "M-0.7,-0.7L0.7,0.7M0.7,-0.7L-0.7,0.7"
# So many times as bad as the worst at a chosen rate is beyond the axis, and beyond one that can be logarithmic.
_FAR, _FAR_LOG = 10, 100
# No axis, no title: what the libraries' type hints do not foresee.
_NOTHING: Any = None
# How axes write numbers: plainly; and rates as `formats.rate` does.
_PLAIN, _COUNT = ".6~g", ",.6~g"
_RATE = "format(datum.value, datum.value < 1e-4 ? '.0e' : '.6~g')"


def finals(results: Results) -> Markup:
    """Final test results: one row per optimizer, best first, with the mean, its interval and each seed."""
    metric, order = Metric.of(results), _order(results)
    frame = Frame(_WIDTH, _ROW * len(results.summary) + 34, left=84, right=64, top=4, bottom=30)
    span = _finals_span(results, metric)
    rows, seeds = [], []
    for place, row in enumerate(results.summary):
        look = {"place": place, "color": color(order[row.optimizer])}
        rows.append({**look, "title": results.titles()[row.optimizer], **_final_marks(row, metric, span)})
        measured = [trial.test_metric for trial in results.of("final", row.optimizer)]
        shown = [metric.shown(value) for value in measured if value is not None]
        seeds += [{**look, "value": value} for value in shown if span.low <= value <= span.high]
    data, x = alt.InlineData(rows), _x(span, "value", count=5)
    y = alt.Y("place:Q", scale=alt.Scale(domain=[-0.5, len(rows) - 0.5], reverse=True, nice=False), axis=_NOTHING)
    hue, base = _hue(), alt.Chart(data).encode(y=y)
    layers = [
        base.mark_rule(color=RULE, strokeDash=[1, 3]).encode(x=alt.value(0), x2=alt.value(frame.plot_width)),
        base.mark_rule(strokeWidth=7, opacity=0.35, strokeCap="round").encode(
            x=_x(span, "low", count=5), x2="high:Q", color=hue
        ),
        alt.Chart(alt.InlineData(seeds)).mark_point(size=22, strokeWidth=1.2).encode(x=x, y=y, color=hue),
        base.mark_point(size=80, filled=True, opacity=1, stroke=PAPER, strokeWidth=1.5)
        .encode(x=x, fill=hue, shape=alt.Shape("shape:N", scale=None))
        .transform_filter("datum.shape != 'none'"),
        _crosses(base).encode(x=x, color=hue).transform_filter("datum.shape == 'none'"),
        base.mark_text(align="right", limit=78).encode(x=alt.value(-8), text="title:N"),
        base.mark_text(align="left", limit=60).encode(x=alt.value(frame.plot_width + 8), text="text:N"),
    ]
    said = "; ".join(
        f"{results.titles()[row.optimizer]} {'diverged' if row.failed else metric.mean(row)}" for row in results.summary
    )
    return inline(layers, frame, f"Test {metric.name}, mean and 95 % interval, best first: {said}.")


def _finals_span(results: Results, metric: Metric) -> Span:
    """The range that shows the better half in full; results far from it are drawn as arrows at the end."""
    reach = [metric.reach(row) for row in results.summary if not row.failed]
    core = [value for values in reach[: (len(reach) + 1) // 2] for value in values]
    if not core:
        return Span.around([])
    room = 3 * max(max(core) - min(core), 0.01 * abs(max(core)))
    low, high = min(core) - room, max(core) + room
    near = [value for values in reach for value in values if low <= value <= high]
    return Span.around(near, log=False)


def _final_marks(row: Row, metric: Metric, span: Span) -> dict[str, Any]:
    """What to draw of one row, cut to the span: an arrow for a mean outside it, a cross at the worst end for none."""
    if row.failed:
        worst = span.low if metric.higher_is_better else span.high
        return {"value": worst, "low": worst, "high": worst, "shape": "none", "text": "diverged"}
    reach = metric.reach(row)
    mean, low, high = reach[0], min(reach), max(reach)
    inside = span.low <= mean <= span.high
    shape = "circle" if inside else "triangle-left" if mean < span.low else "triangle-right"
    ends = {"value": span.cut(mean), "low": span.cut(low), "high": span.cut(high)}
    return {**ends, "shape": shape, "text": metric.text(row.test_mean)}


def learning(results: Results, curves: list[Curve], subject: str, *, higher_is_better: bool) -> Markup:
    """A quantity against the step: its mean over seeds, with a band from the lowest to the highest seed."""
    frame = Frame(_WIDTH, max(270, 15 * len(curves) + 50), left=38, right=96, top=10, bottom=34)
    order, titles = _order(results), results.titles()
    span = _learning_span(curves, higher_is_better)
    worst = span.low if higher_is_better else span.high
    lines, breaks, ends = [], [], []
    for curve in curves:
        index = order[curve.optimizer]
        look = {"name": curve.optimizer, "color": color(index), "dash": dash(index)}
        # Cut here and not only by the frame: a band on a logarithmic axis may reach down to zero.
        points = [
            {**look, "step": step, "mean": span.cut(mean), "low": span.cut(low), "high": span.cut(high)}
            for step, mean, low, high in zip(curve.steps, curve.mean, curve.low, curve.high, strict=True)
        ]
        lines += points
        if curve.broken:
            breaks += points[-1:]
        last = worst if curve.broken or not points else points[-1]["mean"]
        ends.append({**look, "end": last, "title": titles[curve.optimizer] + (" ×" if curve.broken else "")})
    x, hue, base = _steps(results.task.steps), _hue(), alt.Chart(alt.InlineData(lines))
    split = alt.Detail("name:N")
    layers = [
        base.mark_area(opacity=0.14).encode(x=x, y=_y(span, "low"), y2="high:Q", fill=hue, detail=split),
        base.mark_line(strokeWidth=1.7, strokeJoin="round").encode(
            x=x, y=_y(span, "mean"), color=hue, detail=split, strokeDash=alt.StrokeDash("dash:N", scale=None)
        ),
        _crosses(alt.Chart(alt.InlineData(breaks))).encode(x=x, y=_y(span, "mean"), color=hue),
        *_end_labels(ends, span, frame),
    ]
    return inline(layers, frame, f"{subject} by step. {_said(curves, titles)}")


def _end_labels(ends: list[dict[str, Any]], span: Span, frame: Frame) -> list[alt.Chart]:
    """Titles beside the ends of lines, moved apart until none covers another, each tied to its end."""
    places = spread([span.fraction(end["end"]) for end in ends], (FONT_SIZE + 3) / frame.plot_height)
    labelled = [{**end, "label": span.value(place)} for end, place in zip(ends, places, strict=True)]
    base, hue = alt.Chart(alt.InlineData(labelled)), _hue()
    foot, knee, tip, text = (alt.value(frame.plot_width + offset) for offset in (2, 12, 17, 21))
    return [
        base.mark_rule(strokeWidth=1).encode(x=foot, x2=knee, y=_y(span, "end"), y2="label:Q", color=hue),
        base.mark_rule(strokeWidth=3).encode(x=knee, x2=tip, y=_y(span, "label"), color=hue),
        base.mark_text(align="left", limit=72).encode(x=text, y=_y(span, "label"), text="title:N"),
    ]


def _learning_span(curves: list[Curve], higher_is_better: bool) -> Span:
    """The range of the means; for what falls from a start, nothing far above that start."""
    values = [value for curve in curves for value in curve.mean]
    starts = [curve.mean[0] for curve in curves if curve.mean]
    if not higher_is_better and starts:
        values = [value for value in values if value <= max(starts)]
    return Span.around(values, log=False if higher_is_better else None)


def _said(curves: list[Curve], titles: dict[str, str]) -> str:
    whole = [f"{titles[curve.optimizer]} {curve.mean[-1]:.3g}" for curve in curves if curve.mean and not curve.broken]
    broken = [titles[curve.optimizer] for curve in curves if curve.broken]
    said = [f"At the end: {', '.join(whole)}."] if whole else []
    return " ".join(said + ([f"Diverged: {', '.join(broken)}."] if broken else []))


def sensitivity(results: Results, answers: dict[str, Answers]) -> dict[str, Markup]:
    """One panel per optimizer, all on the same axes: the validation metric against the rate, None for a divergence."""
    metric = Metric.of(results)
    limit = _limit(results, answers, metric)
    rows = [row for optimizer in results.optimizers for row in _rows(optimizer, answers[optimizer.name], metric, limit)]
    known = [row["value"] for row in rows if row["kind"] != "lost"]
    span = Span.around(known, log=False if metric.higher_is_better else None)
    rates = Span.around((row["rate"] for row in rows), log=True)
    ticks = alt.Axis(values=rates.ticks(3), grid=False, title=_NOTHING, labelExpr=_RATE, labelPadding=8)
    x, y = alt.X("rate:Q", scale=_scale(rates), axis=ticks), _y(span, "value", count=4)
    worst = span.low if metric.higher_is_better else span.high
    for row in rows:
        row["value"] = worst if row["kind"] == "lost" else row["value"]
    panels = {}
    for index, optimizer in enumerate(results.optimizers):
        own = [row for row in rows if row["name"] == optimizer.name]
        others = [row for row in rows if row["name"] != optimizer.name and row["kind"] != "lost"]
        behind = alt.Chart(alt.InlineData(others)).mark_line(color=FAINT, strokeWidth=1)
        layers = [behind.encode(x=x, y=y, detail=["name:N", "stretch:Q"]), *_panel(own, x, y, color(index))]
        said = ", ".join(row["said"] for row in own) or "no trials"
        chosen = "no rate chosen" if optimizer.best_rate is None else f"{rate(optimizer.best_rate)} chosen"
        label = f"{optimizer.title}: validation {metric.name} by rate, {chosen}. {said}."
        panels[optimizer.name] = inline(layers, _PANEL, label)
    return panels


def _limit(results: Results, answers: dict[str, Answers], metric: Metric) -> float:
    """The worst value to draw, some times as bad as the worst at a chosen rate; infinite where that is 0 or none."""
    best = {optimizer.name: optimizer.best_rate for optimizer in results.optimizers}
    chosen = [value for name, points in answers.items() for at, value in points if at == best[name]]
    known = [value for value in chosen if value is not None]
    sign, far = (-1, _FAR) if metric.higher_is_better else (1, _FAR_LOG)
    worst = max((sign * value for value in known), default=0.0)
    return sign * (worst + (far - 1) * abs(worst) or math.inf)


def _rows(optimizer: Optimizer, answers: Answers, metric: Metric, limit: float) -> list[dict[str, Any]]:
    """What to draw and to say of each rate. Divergences and what is beyond the limit are lost; each ends a stretch."""
    rows, stretch = [], 0
    for at, value in answers:
        said = f"{rate(at)}: {'diverged' if value is None else metric.text(value)}"
        row = {"name": optimizer.name, "rate": at, "said": said}
        if value is None or (value < limit if metric.higher_is_better else value > limit):
            stretch += 1
            rows.append({**row, "value": None, "kind": "lost", "stretch": stretch})
        else:
            kind = "best" if at == optimizer.best_rate else "tried"
            rows.append({**row, "value": metric.shown(value), "kind": kind, "stretch": stretch})
    return rows


def _panel(rows: list[dict[str, Any]], x: alt.X, y: alt.Y, hue: str) -> list[alt.Chart]:
    """One optimizer's answers to its rates, the chosen one marked."""
    base = alt.Chart(alt.InlineData(rows)).encode(x=x, y=y)
    tried, best, lost = (f"datum.kind == '{kind}'" for kind in ("tried", "best", "lost"))
    return [
        base.mark_rule(color=hue, strokeWidth=1, opacity=0.6)
        .encode(y=alt.value(0), y2=alt.value(_PANEL.plot_height))
        .transform_filter(best),
        base.mark_line(color=hue, strokeWidth=1.7).encode(detail="stretch:Q").transform_filter(f"!({lost})"),
        base.mark_point(fill=PAPER, stroke=hue, size=30, strokeWidth=1.5, opacity=1).transform_filter(tried),
        base.mark_point(fill=hue, stroke=PAPER, size=90, strokeWidth=1.5, opacity=1).transform_filter(best),
        _crosses(base).encode(color=alt.value(hue)).transform_filter(lost),
    ]


def schedule(shape: Schedule, steps: int) -> Markup:
    """The schedule's multiplier against the step."""
    frame = Frame(_WIDTH, 160, left=38, right=16, top=10, bottom=34)
    last = max(len(shape.values) - 1, 1)
    rows = [{"step": place * (steps - 1) / last, "value": value} for place, value in enumerate(shape.values)]
    span = Span(min([0.0, *shape.values]), max([1.0, *shape.values]))
    line = alt.Chart(alt.InlineData(rows)).mark_line(color=INK, strokeWidth=1.7)
    layer = line.encode(x=_steps(steps), y=_y(span, "value", count=3))
    return inline([layer], frame, f"Multiplier over {count(steps, 'step')}: {shape.text}.")


def _order(results: Results) -> dict[str, int]:
    """Place of each optimizer in the comparison, which fixes its colour in every chart."""
    return {optimizer.name: index for index, optimizer in enumerate(results.optimizers)}


def _scale(span: Span) -> alt.Scale:
    return alt.Scale(domain=[span.low, span.high], type="log" if span.log else "linear", nice=False, zero=False)


def _hue() -> alt.Color:
    """The colour that stands in the data."""
    return alt.Color("color:N", scale=_NOTHING)


def _crosses(base: alt.Chart) -> alt.Chart:
    """Divergences, and what lies beyond an axis."""
    crosses: alt.Chart = base.mark_point(shape=_CROSS, size=60, strokeWidth=2, opacity=1)
    return crosses


def _steps(steps: int) -> alt.X:
    axis = alt.Axis(grid=False, tickCount=5, title="step", titlePadding=4, format=_COUNT)
    return alt.X("step:Q", scale=alt.Scale(domain=[0, steps], nice=False), axis=axis)


def _x(span: Span, field: str, *, count: int) -> alt.X:
    return alt.X(f"{field}:Q", scale=_scale(span), axis=alt.Axis(tickCount=count, title=_NOTHING, format=_PLAIN))


def _y(span: Span, field: str, *, count: int = 5) -> alt.Y:
    ticks: dict[str, Any] = {"values": span.ticks(count)} if span.log else {"tickCount": count}
    axis = alt.Axis(**ticks, title=_NOTHING, format=_PLAIN)
    return alt.Y(f"{field}:Q", scale=_scale(span), axis=axis)
