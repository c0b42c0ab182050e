"""Two charts of the final runs: paired differences, and when the target was reached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
from markupsafe import Markup

from descend.report import axes
from descend.report.curves import Reached
from descend.report.formats import Metric, plain
from descend.report.results import Difference, Results
from descend.report.span import Span
from descend.report.svg import MUTED, color, dash, inline


@dataclass(frozen=True)
class Paired:
    """An optimizer less the reference, in the words of the page."""

    optimizer: str
    mean: str
    interval: str
    p: str


def known(results: Results) -> list[Difference]:
    """The differences that are numbers, best first."""
    sign = -1.0 if Metric.of(results).higher_is_better else 1.0
    numbers = [found for found in results.differences if found.mean is not None]
    return sorted(numbers, key=lambda found: sign * (found.mean or 0.0))


def table(results: Results) -> list[Paired]:
    """The differences in words, best first."""
    metric = Metric.of(results)
    return [
        Paired(
            found.optimizer,
            metric.signed(found.mean),
            metric.signed_interval(found.low, found.high),
            "–" if found.p_holm is None else plain(float(f"{found.p_holm:.2g}")),
        )
        for found in known(results)
    ]


def differences(results: Results) -> Markup | None:
    """The test metric of each optimizer less that of the reference under the same seeds; None where none is known."""
    metric, places, titles = Metric.of(results), axes.order(results), results.titles()
    found = known(results)
    if not found:
        return None
    frame = axes.rows_frame(len(found))
    reach = [_reach(metric, one) for one in found]
    span = Span.near(reach, always=[0.0])
    rows = [
        {
            "place": place,
            "color": color(places[one.optimizer]),
            "title": titles[one.optimizer],
            **axes.placed(ends[0], ends, span),
            "text": metric.signed(one.mean),
        }
        for place, (one, ends) in enumerate(zip(found, reach, strict=True))
    ]
    y = alt.Y("place:Q", scale=axes.rows_scale(len(rows)), axis=axes.NOTHING)
    behind, before = axes.rows_marks(alt.Chart(alt.InlineData(rows)).encode(y=y), span, frame)
    zero = alt.Chart(alt.InlineData([{"value": 0.0}])).mark_rule(color=MUTED, strokeWidth=1)
    said = "; ".join(f"{titles[row.optimizer]} {row.mean} {row.interval}" for row in table(results))
    subject = f"Test {metric.name} less that of {titles.get(results.reference or '', 'the reference')}, paired by seed"
    layers = [*behind, zero.encode(x=axes.x(span, "value", count=5)), *before]
    return inline(layers, frame, f"{subject}, mean and 95 % interval: {said}.")


def _reach(metric: Metric, found: Difference) -> list[float]:
    """Mean and ends of the interval in the unit of the page, as far as there are any."""
    return [metric.shown(value) for value in (found.mean, found.low, found.high) if value is not None]


def reached(results: Results, found: Sequence[Reached], end: float, *, by_time: bool) -> Markup:
    """The share of final runs that reached the target, against step or time; a run that missed it never counts."""
    frame = axes.clock_frame(len(found))
    places, titles, span = axes.order(results), results.titles(), Span(0.0, 1.0)
    lines: list[dict[str, Any]] = []
    ends = []
    for one in found:
        index = places[one.optimizer]
        look = {"name": one.optimizer, "color": color(index), "dash": dash(index)}
        points = [(0.0, 0.0), *zip(one.at, one.shares(), strict=True)]
        lines += [{**look, "step": at, "share": share} for at, share in [*points, (end, points[-1][1])]]
        ends.append({**look, "end": points[-1][1], "title": titles[one.optimizer]})
    x = axes.seconds(end) if by_time else axes.steps(int(end))
    share = alt.Y("share:Q", scale=alt.Scale(domain=[0, 1], nice=False), axis=axes.percent())
    drawn = alt.Chart(alt.InlineData(lines)).mark_line(interpolate="step-after", strokeWidth=1.7)
    layers = [
        drawn.encode(
            x=x,
            y=share,
            color=axes.hue(),
            detail="name:N",
            strokeDash=alt.StrokeDash("dash:N", scale=None),
        ),
        *axes.end_labels(ends, span, frame, axes.percent()),
    ]
    said = "; ".join(f"{titles[one.optimizer]} {len(one.at)} of {one.runs}" for one in found)
    return inline(
        layers, frame, f"Share of final runs that reached the target, by {'time' if by_time else 'step'}: {said}."
    )
