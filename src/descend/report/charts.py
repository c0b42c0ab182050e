"""The charts of a comparison. Each is drawn for a width that stays readable on a phone, and scales from there."""

from __future__ import annotations

import math
from typing import Any

import altair as alt
from markupsafe import Markup

from descend.report import axes
from descend.report.curves import Answers, Curve
from descend.report.formats import Metric, count, rate
from descend.report.results import Optimizer, Results, Row, Schedule
from descend.report.span import Span
from descend.report.svg import FAINT, INK, PAPER, Frame, color, dash, inline

_PANEL = Frame(240, 160, left=34, right=12, top=10, bottom=26)
# So many times as bad as the worst at a chosen rate is beyond the axis, and beyond one that can be logarithmic.
_FAR, _FAR_LOG = 10, 100
# The seeds of a row spread over this part of its height.
_STAGGER = 0.5
_RATE = "format(datum.value, datum.value < 1e-4 ? '.0e' : '.6~g')"


def finals(results: Results) -> Markup:
    """Final test results: one row per optimizer, best first, with the mean, its interval and each seed."""
    metric, titles, places = Metric.of(results), results.titles(), axes.order(results)
    frame = axes.rows_frame(len(results.summary))
    final = [trial.test_metric for trial in results.trials if trial.phase == "final"]
    span = Span.near(
        [metric.reach(row) for row in results.summary if not row.failed],
        also=[metric.shown(value) for value in final if value is not None],
    )
    rows, seeds = [], []
    for place, row in enumerate(results.summary):
        look = {"place": place, "color": color(places[row.optimizer])}
        rows.append({**look, "title": titles[row.optimizer], **_final_marks(row, metric, span)})
        seeds += [{**look, **seed, "place": place + seed["place"]} for seed in _final_seeds(results, row, span)]
    y = alt.Y("place:Q", scale=axes.rows_scale(len(rows)), axis=axes.NOTHING)
    x, hue, base = axes.x(span, "value", count=5), axes.hue(), alt.Chart(alt.InlineData(rows)).encode(y=y)
    behind, before = axes.rows_marks(base, span, frame)
    each = alt.Chart(alt.InlineData(seeds)).mark_point(size=30, strokeWidth=1.2, fill="transparent", opacity=0.9)
    layers = [
        *behind,
        each.encode(x=x, y=y, color=hue, href="link:N", description="said:N"),
        *before,
        axes.crosses(base).encode(x=x, color=hue).transform_filter("datum.shape == 'none'"),
    ]
    said = "; ".join(
        f"{titles[row.optimizer]} {'diverged' if row.failed else metric.mean(row)}" for row in results.summary
    )
    return inline(layers, frame, f"Test {metric.name}, mean and 95 % interval, best first: {said}.")


def _final_marks(row: Row, metric: Metric, span: Span) -> dict[str, Any]:
    """What to draw of one row, cut to the span; a cross at the worst end where there is no result."""
    if row.failed:
        worst = span.low if metric.higher_is_better else span.high
        return {"value": worst, "low": worst, "high": worst, "shape": "none", "text": "diverged"}
    reach = metric.reach(row)
    return {**axes.placed(reach[0], reach, span), "text": metric.text(row.test_mean)}


def _final_seeds(results: Results, row: Row, span: Span) -> list[dict[str, Any]]:
    """The seeds of one row inside the span, each a little lower than the one before: equal ones stay apart."""
    metric, title = Metric.of(results), results.titles()[row.optimizer]
    final = [
        (index, trial)
        for index, trial in enumerate(results.trials)
        if trial.phase == "final" and trial.optimizer == row.optimizer
    ]
    seeds = []
    for turn, (index, trial) in enumerate(final):
        if trial.test_metric is None or not span.low <= metric.shown(trial.test_metric) <= span.high:
            continue
        seeds.append(
            {
                "place": _STAGGER * (turn / max(1, len(final) - 1) - 0.5) if len(final) > 1 else 0.0,
                "value": metric.shown(trial.test_metric),
                "link": axes.link(index),
                "said": f"{title}, seed {trial.seed}: {metric.text(trial.test_metric)}",
            }
        )
    return seeds


def learning(
    results: Results, curves: list[Curve], subject: str, *, higher_is_better: bool, by_time: bool = False
) -> Markup:
    """A quantity against step or time: its mean over seeds, with a band from the lowest to the highest seed.

    The time at a step is the mean of the seeds'. Dots stand where cycles of the schedule end, if it has several.
    """
    if by_time:  # an optimizer whose steps nobody timed has no place there
        curves = [curve for curve in curves if curve.seconds or not curve.steps]
    frame = axes.clock_frame(len(curves))
    order, titles = axes.order(results), results.titles()
    span = _learning_span(curves, higher_is_better)
    cycle_ends = results.schedule.cycle_ends if len(results.schedule.cycle_ends) > 1 else ()
    worst = span.low if higher_is_better else span.high
    lines, breaks, ends, recommended = [], [], [], []
    for curve in curves:
        index = order[curve.optimizer]
        look = {"name": curve.optimizer, "color": color(index), "dash": dash(index)}
        # Cut here and not only by the frame: a band on a logarithmic axis may reach down to zero.
        points = [
            {**look, "step": at, "mean": span.cut(mean), "low": span.cut(low), "high": span.cut(high)}
            for at, mean, low, high in zip(
                curve.seconds if by_time else curve.steps, curve.mean, curve.low, curve.high, strict=True
            )
        ]
        lines += points
        recommended += [point for step, point in zip(curve.steps, points, strict=True) if step in cycle_ends]
        if curve.broken:
            breaks += points[-1:]
        last = worst if curve.broken or not points else points[-1]["mean"]
        ends.append({**look, "end": last, "title": titles[curve.optimizer] + (" ×" if curve.broken else "")})
    x, hue, base = _clock(results, curves, by_time), axes.hue(), alt.Chart(alt.InlineData(lines))
    split = alt.Detail("name:N")
    layers = [
        base.mark_area(opacity=0.14).encode(x=x, y=axes.y(span, "low"), y2="high:Q", fill=hue, detail=split),
        base.mark_line(strokeWidth=1.7, strokeJoin="round").encode(
            x=x, y=axes.y(span, "mean"), color=hue, detail=split, strokeDash=alt.StrokeDash("dash:N", scale=None)
        ),
        alt.Chart(alt.InlineData(recommended))
        .mark_point(size=26, filled=True, opacity=1)
        .encode(x=x, y=axes.y(span, "mean"), color=hue),
        axes.crosses(alt.Chart(alt.InlineData(breaks))).encode(x=x, y=axes.y(span, "mean"), color=hue),
        *axes.end_labels(ends, span, frame),
    ]
    return inline(layers, frame, f"{subject} by {'time' if by_time else 'step'}. {_said(curves, titles)}")


def _clock(results: Results, curves: list[Curve], by_time: bool) -> alt.X:
    if not by_time:
        return axes.steps(results.task.steps)
    return axes.seconds(max((curve.seconds[-1] for curve in curves if curve.seconds), default=1.0))


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
    ticks = alt.Axis(values=rates.ticks(3), grid=False, title=axes.NOTHING, labelExpr=_RATE, labelPadding=8)
    x, y = alt.X("rate:Q", scale=axes.scale(rates), axis=ticks), axes.y(span, "value", count=4)
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
    chosen = [answer.value for name, points in answers.items() for answer in points if answer.rate == best[name]]
    known = [value for value in chosen if value is not None]
    sign, far = (-1, _FAR) if metric.higher_is_better else (1, _FAR_LOG)
    worst = max((sign * value for value in known), default=0.0)
    return sign * (worst + (far - 1) * abs(worst) or math.inf)


def _rows(optimizer: Optimizer, answers: Answers, metric: Metric, limit: float) -> list[dict[str, Any]]:
    """What to draw and to say of each rate. Divergences and what is beyond the limit are lost; each ends a stretch."""
    rows, stretch = [], 0
    for answer in answers:
        at, value = answer.rate, answer.value
        said = f"{rate(at)}: {'diverged' if value is None else metric.text(value)}"
        row = {"name": optimizer.name, "rate": at, "said": said, "link": axes.link(answer.trial)}
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
    linked = base.encode(href="link:N", description="said:N")
    tried, best, lost = (f"datum.kind == '{kind}'" for kind in ("tried", "best", "lost"))
    return [
        base.mark_rule(color=hue, strokeWidth=1, opacity=0.6)
        .encode(y=alt.value(0), y2=alt.value(_PANEL.plot_height))
        .transform_filter(best),
        base.mark_line(color=hue, strokeWidth=1.7).encode(detail="stretch:Q").transform_filter(f"!({lost})"),
        linked.mark_point(fill=PAPER, stroke=hue, size=30, strokeWidth=1.5, opacity=1).transform_filter(tried),
        linked.mark_point(fill=hue, stroke=PAPER, size=90, strokeWidth=1.5, opacity=1).transform_filter(best),
        axes.crosses(linked).encode(color=alt.value(hue)).transform_filter(lost),
    ]


def schedule(shape: Schedule, steps: int) -> Markup:
    """The schedule's multiplier against the step."""
    frame = Frame(axes.WIDTH, 160, left=38, right=16, top=10, bottom=34)
    last = max(len(shape.values) - 1, 1)
    rows = [{"step": place * (steps - 1) / last, "value": value} for place, value in enumerate(shape.values)]
    span = Span(min([0.0, *shape.values]), max([1.0, *shape.values]))
    line = alt.Chart(alt.InlineData(rows)).mark_line(color=INK, strokeWidth=1.7)
    layer = line.encode(x=axes.steps(steps), y=axes.y(span, "value", count=3))
    return inline([layer], frame, f"Multiplier over {count(steps, 'step')}: {shape.text}.")
