"""The charts of memorization, single directions, symmetry and alignment: curves with bands, and points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import altair as alt
from markupsafe import Markup

from descend.report import axes
from descend.report.diagnosis_charts import SMALL, WIDE, pieces, x_axis, y_axis
from descend.report.diagnosis_understanding import Aligned, Disturbed, Memorized, Symmetry, UnitLayer
from descend.report.formats import number, rate
from descend.report.span import Span
from descend.report.svg import FAINT, PAPER, Frame, color, inline

_FEW = 40
"""Values of a curve, up to which each is marked; points, up to which none shines through."""
_SHARES = (0.0, 1.0)
"""What an axis of accuracies always holds."""


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


def memorization(found: Sequence[Memorized]) -> Markup | None:
    """The training accuracy by epoch, a line for each share of new labels."""
    lines = [
        Curve(renewed(one), _column(one.way, 0), _column(one.way, 2), hue) for hue, one in enumerate(found) if one.way
    ]
    return _curves(lines, "epoch", "Training accuracy", always=_SHARES, frame=SMALL)


def renewed(found: Memorized) -> str:
    """How many labels were drawn anew, in words."""
    return f"{100 * found.share:.3g} % of the labels new"


def epochs_to_fit(found: Sequence[Memorized]) -> Markup | None:
    """How many epochs it took to fit every label, against the share of wrong ones; hollow where they were too few."""
    taken = [one.epochs if one.epochs_to_fit is None else one.epochs_to_fit for one in found]
    unfitted = frozenset(place for place, one in enumerate(found) if one.epochs_to_fit is None)
    said = "; ".join(
        f"wrong share {number(one.wrong_share)} {f'not in {one.epochs:,}' if place in unfitted else f'{epochs:,}'}"
        for place, (one, epochs) in enumerate(zip(found, taken, strict=True))
    )
    dots = Dots([one.wrong_share for one in found], [float(one) for one in taken], range(len(found)), unfitted)
    return _dots(dots, "share of wrong labels", f"Epochs to fit: {said}.", always=(0.0,), joined=True)


def disturbed(found: Sequence[Disturbed], across: str) -> Markup | None:
    """Accuracy against how much units are disturbed, with the bands of the 95 % intervals."""
    lines = [Curve(one.how, one.amounts, one.means, hue, one.lows, one.highs) for hue, one in enumerate(found)]
    return _curves(lines, across, "Training accuracy", always=_SHARES)


def selectivity(found: UnitLayer, hue: int) -> Markup | None:
    """By how much the training loss rises without each unit, against its class selectivity."""
    known = known_units(found)
    dots = Dots([one for one, _ in known], [rise for _, rise in known], (hue,))
    tau = "no Kendall's tau" if found.tau is None else f"Kendall's tau {number(found.tau)}"
    label = f"Layer {found.layer}: importance against selectivity of {len(known)} units, {tau}."
    return _dots(dots, "class selectivity", label, across_always=_SHARES)


def known_units(found: UnitLayer) -> list[tuple[float, float]]:
    """Selectivity and importance of the units that have both."""
    pairs = zip(found.selectivity, found.importance, strict=True)
    return [(one, rise) for one, rise in pairs if one is not None and rise is not None]


def widths(found: Symmetry) -> Markup | None:
    """The logarithm of the number of equivalent weights, against how much wider all layers are."""
    line = Curve("log10 of the number", _column(found.widths, 0), _column(found.widths, 1))
    return _curves([line], "times as wide", "Equivalent weights", log=False)


def alignment(found: Sequence[Aligned]) -> tuple[Markup | None, list[tuple[str, int, bool]]]:
    """The loss on straight lines between two solutions, before and after alignment; and which line is which.

    What it is before does not depend on the method, and is drawn once where it is the same for all.
    """
    first, second = found[0].ends
    is_same = len({(tuple(one.amounts), tuple(one.losses_before)) for one in found}) == 1
    lines = [
        Curve("before" if is_same else f"before, for {one.method}", one.amounts, one.losses_before, hue)
        for hue, one in enumerate(found[:1] if is_same else found)
    ]
    lines += [
        Curve(
            f"after, by {one.method}{'' if one.converged else ' (not converged)'}",
            one.amounts,
            one.losses_after,
            len(lines) + place,
        )
        for place, one in enumerate(found)
    ]
    chart = _curves(lines, f"0: {first}; 1: {second}", "Loss between the solutions", log=None)
    return chart, [] if chart is None else [(line.title, line.hue, False) for line in lines]


def _column(rows: Sequence[Sequence[float]], place: int) -> list[float]:
    return [row[place] for row in rows]


def _curves(
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


def _dots(
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
