"""The charts of a search for rules: how its best reward rose, and the leaderboard."""

from __future__ import annotations

from typing import Any

import altair as alt
from markupsafe import Markup

from descend.report import axes
from descend.report.formats import Metric, number
from descend.report.search_results import Row, SearchResults
from descend.report.search_tables import selection
from descend.report.span import Span
from descend.report.svg import FAINT, INK, MUTED, PAPER, Frame, color, inline

HUES = {"found": color(0), "known": color(1)}
"""The colour of rules that were found, and of known ones."""
_ROW = 21
_TICK = "M0,-0.9L0,0.9"
_SHAPES = {"found": "circle", "known": "diamond"}
# Numbers of improvements stand apart by this fraction of the chart's width or height at least; others are left out.
_APART = (0.045, 0.06)


def curve(results: SearchResults) -> Markup | None:
    """The best reward against the number of distinct evaluations, each improvement numbered."""
    best, found = results.best_rewards, results.improvements
    if not best:
        return None
    span = Span.near([[one.reward] for one in reversed(found)] or [[best[-1]]])
    across = Span(1.0, max(2.0, float(len(best))), log=True)
    points = [
        {"at": one.evaluation, "value": span.cut(one.reward), "link": f"#improvement-{place}"}
        | {"said": f"Improvement {place} at evaluation {one.evaluation}: {number(one.reward)}, {one.formula}"}
        for place, one in enumerate(found, 1)
    ]
    frame = Frame(axes.WIDTH, 280, left=44, right=16, top=18, bottom=34)
    axis = alt.Axis(
        grid=False,
        values=across.ticks(7),
        title="distinct evaluations",
        titlePadding=4,
        format=",~g",
        labelFlush=False,
    )
    x, y = alt.X("at:Q", scale=axes.scale(across), axis=axis), axes.y(span, "value")
    marks = alt.Chart(alt.InlineData(points)).encode(x=x, y=y)
    layers = [
        alt.Chart(alt.InlineData(_steps(results, span)))
        .mark_line(strokeWidth=1.7, interpolate="step-after")
        .encode(x=x, y=y, color=alt.value(HUES["found"])),
        marks.mark_point(size=44, filled=True, opacity=1, stroke=PAPER, strokeWidth=1)
        .encode(href="link:N", description="said:N")
        .encode(fill=alt.value(HUES["found"])),
        alt.Chart(alt.InlineData(_numbered(points, across, span)))
        .mark_text(align="right", dx=-4, dy=-7, color=INK)
        .encode(x=x, y=y, text="number:N"),
    ]
    said = "; ".join(f"evaluation {one.evaluation} {number(one.reward)}, {one.formula}" for one in found)
    label = f"Best reward against {len(best):,} distinct evaluations: {said or number(best[-1])}."
    return inline(layers, frame, label)


def _steps(results: SearchResults, span: Span) -> list[dict[str, Any]]:
    """The ends of the curve's steps, cut to the span."""
    best = results.best_rewards
    rises = [place for place in range(len(best)) if place == 0 or best[place] != best[place - 1]]
    return [{"at": place + 1, "value": span.cut(best[place])} for place in sorted({*rises, len(best) - 1})]


def _numbered(points: list[dict[str, Any]], across: Span, up: Span) -> list[dict[str, Any]]:
    """The improvements whose number has room before that of the next."""
    kept: list[dict[str, Any]] = []
    for place, point in reversed(list(enumerate(points, 1))):
        aside = across.fraction(kept[-1]["at"]) - across.fraction(point["at"]) if kept else 1.0
        below = up.fraction(kept[-1]["value"]) - up.fraction(point["value"]) if kept else 1.0
        if aside >= _APART[0] or below >= _APART[1]:
            kept.append({**point, "number": str(place)})
    return kept


def leaderboard(results: SearchResults, metric: Metric) -> Markup | None:
    """A row for each rule, best first: mean fresh loss with its interval, and a tick at its selection loss."""
    if not results.leaderboard:
        return None
    reach = [_reach(row) for row in results.leaderboard if row.loss is not None]
    chosen = [loss for row in results.leaderboard if (loss := selection(row)) is not None]
    span = Span.near(sorted(reach), also=chosen)
    lines, ticks = [], []
    for place, row in enumerate(results.leaderboard):
        kind = "known" if row.is_known else "found"
        look = {"place": place, "color": HUES[kind], "title": row.title}
        lines.append({**look, **_marks(row, kind, metric, span)})
        before = selection(row)
        if before is not None and span.low <= before <= span.high:
            ticks.append({"place": place, "value": before, "shape": _TICK})
    frame = Frame(axes.WIDTH, _ROW * len(lines) + 34, left=84, right=64, top=4, bottom=30)
    y = alt.Y("place:Q", scale=axes.rows_scale(len(lines)), axis=axes.NOTHING)
    behind, before_all = axes.rows_marks(alt.Chart(alt.InlineData(lines)).encode(y=y), span, frame)
    marks = alt.Chart(alt.InlineData(ticks)).encode(x=axes.x(span, "value", count=5), y=y)
    layers = [
        *_bands(results.leaderboard, frame),
        *behind,
        marks.mark_point(size=200, strokeWidth=2, opacity=1, color=INK).encode(shape=alt.Shape("shape:N", scale=None)),
        *before_all,
        axes.crosses(alt.Chart(alt.InlineData(lines)).encode(y=y))
        .encode(x=axes.x(span, "value", count=5), color=axes.hue())
        .transform_filter("datum.shape == 'none'"),
    ]
    said = "; ".join(_said(row, metric) for row in results.leaderboard)
    return inline(layers, frame, f"Loss with fresh seeds, mean and 95 % interval, best first: {said}.")


def _bands(rows: list[Row], frame: Frame) -> list[alt.Chart]:
    """A shade behind every second tier, over the whole width, and each tier's number at its top right."""
    tiers = sorted({row.tier for row in rows})
    bands = []
    for tier in tiers:
        places = [place for place, row in enumerate(rows) if row.tier == tier]
        bands.append({"top": places[0] - 0.5, "bottom": places[-1] + 0.5, "first": places[0], "title": f"tier {tier}"})
    scale = axes.rows_scale(len(rows))
    base = alt.Chart(alt.InlineData(bands))
    y = alt.Y("top:Q", scale=scale, axis=axes.NOTHING)
    return [
        alt.Chart(alt.InlineData(bands[1::2]))
        .mark_rect(color=FAINT, opacity=0.35)
        .encode(y=y, y2="bottom:Q", x=alt.value(-frame.left), x2=alt.value(frame.plot_width + frame.right)),
        base.mark_text(align="right", color=MUTED, fontStyle="italic").encode(
            x=alt.value(frame.plot_width - 3), y=alt.Y("first:Q", scale=scale, axis=axes.NOTHING), text="title:N"
        ),
    ]


def _reach(row: Row) -> list[float]:
    """The mean and the ends of its interval, as far as there are any."""
    return [value for value in (row.loss, row.low, row.high) if value is not None]


def _marks(row: Row, kind: str, metric: Metric, span: Span) -> dict[str, Any]:
    """What to draw of one row, cut to the span; a cross at the worst end where a seed diverged."""
    if row.loss is None:
        return {"value": span.high, "low": span.high, "high": span.high, "shape": "none", "text": "diverged"}
    marks = axes.placed(row.loss, _reach(row), span)
    shape = _SHAPES[kind] if marks["shape"] == "circle" else marks["shape"]
    return {**marks, "shape": shape, "text": metric.text(row.loss)}


def _said(row: Row, metric: Metric) -> str:
    kind = ", known" if row.is_known else ""
    if row.loss is None:
        return f"{row.title}{kind} diverged"
    ends = "" if row.low is None or row.high is None else f" [{metric.plain(row.low)}, {metric.plain(row.high)}]"
    return f"{row.title}{kind} {metric.text(row.loss)}{ends}, tier {row.tier}"
