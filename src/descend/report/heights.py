"""Heights over a plane as colours: their bounds, the part of the plane that is drawn, cells, and the legend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import altair as alt

from descend.report import axes
from descend.report.span import Span
from descend.report.svg import MUTED, RULE, Frame

SHADES = 18
"""Colours of the plane: between those of the style sheet's ramp, the same in light and dark; the last is the lowest."""
ON_RAMP, CASING = "#ffffff", "#000000"
"""Inks on the colours."""
_RAMP = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725")
_LEGEND = 72
# From this ratio of the highest loss on the plane to the lowest on, colours are of its logarithm.
_LOG_RATIO = 4.0
# Losses above so many times the lowest all have the last colour.
_CAP = 100.0
# Of the plot's width: the least and the most height of the plane, which keeps its proportions in between.
_LEAST, _MOST = 0.45, 1.05


class Heights(Protocol):
    """Losses on a grid."""

    @property
    def xs(self) -> list[float]:
        """Rising."""

    @property
    def ys(self) -> list[float]:
        """Rising."""

    @property
    def losses(self) -> list[list[float | None]]:
        """losses[i][j] at (xs[j], ys[i])."""


def shade(place: int) -> str:
    """One of the plane's colours, from the darkest, 0."""
    at = place / (SHADES - 1) * (len(_RAMP) - 1)
    low = min(int(at), len(_RAMP) - 2)
    ends = [[int(stop[digit : digit + 2], 16) for digit in (1, 3, 5)] for stop in _RAMP[low : low + 2]]
    return "#" + "".join(f"{round(a + (at - low) * (b - a)):02x}" for a, b in zip(*ends, strict=True))


@dataclass(frozen=True)
class Shades:
    """The colours of losses: the bounds between them, ascending, and whether losses lie above the last."""

    bounds: list[float]
    log: bool
    capped: bool

    @classmethod
    def of(cls, losses: Sequence[Sequence[float | None]], cap: float = _CAP) -> Shades:
        """Bounds that cover all losses, or all up to a cap, so many times the lowest."""
        known = [value for row in losses for value in row if value is not None] or [0.0, 1.0]
        low, highest = min(known), max(known)
        log = low > 0 and highest > _LOG_RATIO * low
        high = min(highest, cap * low) if log else highest
        span = Span(low, high if high > low else low + 1.0, log)
        return cls([span.value(place / SHADES) for place in range(SHADES + 1)], log, highest > high)

    def color(self, loss: float) -> str:
        """The colour of a loss, the brightest for the lowest."""
        return shade(SHADES - 1 - min(sum(bound <= loss for bound in self.bounds[1:]), SHADES - 1))


@dataclass(frozen=True)
class Area:
    """The part of the plane that is drawn: of the grid with half a cell around it, and the paper beyond."""

    xs: Span
    ys: Span
    inner_xs: Span
    inner_ys: Span
    frame: Frame

    @classmethod
    def of(cls, plane: Heights) -> Area:
        """The grid as large as the frame allows, with one unit as long across as up."""
        across, up = edges(plane.xs), edges(plane.ys)
        inner_xs, inner_ys = Span(across[0], across[-1]), Span(up[0], up[-1])
        wide, tall = inner_xs.high - inner_xs.low, inner_ys.high - inner_ys.low
        left, top, bottom = 38, 10, 34
        width = axes.WIDTH - left - _LEGEND
        unit = min(width / wide, _MOST * width / tall)
        height = round(min(max(tall * unit, _LEAST * width), _MOST * width))
        frame = Frame(axes.WIDTH, height + top + bottom, left=left, right=_LEGEND, top=top, bottom=bottom)
        return cls(_around(inner_xs, width / unit), _around(inner_ys, height / unit), inner_xs, inner_ys, frame)


def _around(inner: Span, length: float) -> Span:
    middle = (inner.low + inner.high) / 2
    return Span(middle - length / 2, middle + length / 2)


def edges(values: Sequence[float]) -> list[float]:
    """The bounds of cells around evenly spaced values."""
    half = (values[-1] - values[0]) / (len(values) - 1) / 2
    return [values[0] - half, *(value + half for value in values)]


def axis(title: Any = axes.NOTHING) -> alt.Axis:
    """An axis of places on the plane."""
    return alt.Axis(grid=False, tickCount=5, title=title, titlePadding=4, format=".6~g", labelFlush=False)


def cells(found: Heights, shades: Shades) -> list[dict[str, Any]]:
    """A coloured cell for each known loss."""
    across, up = edges(found.xs), edges(found.ys)
    return [
        {
            "x": across[column],
            "x2": across[column + 1],
            "y": up[row],
            "y2": up[row + 1],
            "color": shades.color(loss),
        }
        for row, losses in enumerate(found.losses)
        for column, loss in enumerate(losses)
        if loss is not None
    ]


def inside(start: list[float], end: list[float], box: tuple[Span, Span]) -> tuple[list[float], list[float]] | None:
    """The part of a stretch inside a box; None where there is none. Liang and Barsky 1984."""
    first, last = 0.0, 1.0
    for a, b, side in zip(start, end, box, strict=True):
        if a == b:
            if not side.low <= a <= side.high:
                return None
            continue
        near, far = sorted(((side.low - a) / (b - a), (side.high - a) / (b - a)))
        first, last = max(first, near), min(last, far)
    if first > last:
        return None

    def at(share: float) -> list[float]:
        return [a + share * (b - a) for a, b in zip(start, end, strict=True)]

    return at(first), at(last)


def from_above(
    found: Heights,
    shades: Shades,
    area: Area,
    spots: Sequence[tuple[str, float, float]],
    way: Sequence[Sequence[float]],
    title: str,
    between: Sequence[alt.Chart] = (),
) -> list[alt.Chart]:
    """The layers of a plane seen from above: cells, the way of training, named spots, and the legend.

    Args:
        found: the losses.
        shades: their colours.
        area: what is drawn.
        spots: name, x and y.
        way: step, x, y and distance from the plane of each point.
        title: of the horizontal axis.
        between: layers on top of the cells.
    """
    x = alt.X("x:Q", scale=axes.scale(area.xs), axis=axis(title=title))
    y = alt.Y("y:Q", scale=axes.scale(area.ys), axis=axis())
    ground = alt.Chart(alt.InlineData(cells(found, shades))).mark_rect(strokeWidth=0.7)
    ways = alt.Chart(alt.InlineData(_stretches(way, area)))
    here, hue = alt.Chart(alt.InlineData(_labelled(spots))).encode(x=x, y=y), axes.hue()
    return [
        ground.encode(x=x, x2="x2:Q", y=y, y2="y2:Q", fill=hue, stroke=hue),
        *(layer.encode(x=x, y=y) for layer in between),
        *(
            ways.mark_rule(color=ink, strokeWidth=width, strokeCap="round").encode(x=x, x2="x2:Q", y=y, y2="y2:Q")
            for ink, width in ((CASING, 3.6), (ON_RAMP, 1.6))
        ),
        here.mark_point(size=70, filled=True, fill=ON_RAMP, stroke=CASING, strokeWidth=1.5, opacity=1),
        *(
            here.mark_text(dy=side * 14, fontWeight=600, color=ink, stroke=ink, strokeWidth=width, strokeJoin="round")
            .encode(text="title:N")
            .transform_filter(f"datum.side == {side}")
            for side in (-1, 1)
            for ink, width in ((CASING, 3.4), (ON_RAMP, 0))
        ),
        *legend(shades, area),
    ]


def _labelled(spots: Sequence[tuple[str, float, float]]) -> list[dict[str, Any]]:
    """Spots, each with the side of its label: away from the others."""
    middle = sum(y for _, _, y in spots) / max(len(spots), 1)
    return [{"x": x, "y": y, "title": name, "side": -1 if y > middle else 1} for name, x, y in spots]


def _stretches(way: Sequence[Sequence[float]], area: Area) -> list[dict[str, float]]:
    """The stretches of a way that lie inside the grid, those at its edge cut there."""
    stretches = []
    for (_, *start, _), (_, *end, _) in pairwise(way):
        kept = inside(start, end, (area.inner_xs, area.inner_ys))
        if kept is not None:
            (x, y), (x2, y2) = kept
            stretches.append({"x": x, "y": y, "x2": x2, "y2": y2})
    return stretches


def legend(shades: Shades, area: Area) -> list[alt.Chart]:
    """The colours with the losses at their bounds, the highest at the top, beside the plot."""
    bounds, left = shades.bounds, area.frame.plot_width + 12
    boxes = [
        {
            "y": area.ys.value(place / SHADES),
            "y2": area.ys.value((place + 1) / SHADES),
            "color": shade(SHADES - 1 - place),
        }
        for place in range(SHADES)
    ]
    marks = [
        {"y": area.ys.value(place / SHADES), "said": f"{'≥ ' if shades.capped and place == SHADES else ''}{bound:.3g}"}
        for place, bound in enumerate(bounds)
        if place % 2 == 0
    ]
    y = alt.Y("y:Q", scale=axes.scale(area.ys), axis=axis())
    box = alt.Chart(alt.InlineData(boxes)).mark_rect(stroke=RULE, strokeWidth=0.5)
    text = alt.Chart(alt.InlineData(marks)).mark_text(align="left", color=MUTED)
    return [
        box.encode(x=alt.value(left), x2=alt.value(left + 13), y=y, y2="y2:Q", fill=axes.hue()),
        text.encode(x=alt.value(left + 19), y=y, text="said:N"),
    ]
