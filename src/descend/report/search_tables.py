"""The tables of a search for rules, in the words of the page."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from markupsafe import Markup

from descend.report import mathml
from descend.report.formats import Metric, number, rate
from descend.report.search_results import Counts, Difference, HeldOut, Row, SearchResults

_SPACE = "\u00a0"
# A formula of more characters stands in a table as text, which can be broken into lines.
_LONG = 64


@dataclass(frozen=True)
class Share:
    """How many proposals came to something, and their share of all; `part` of the line above it."""

    title: str
    count: str
    share: str
    part: bool = False


@dataclass(frozen=True)
class Line:
    """A row of the leaderboard, in words."""

    rank: int
    title: str
    kind: str
    equation: Markup | str
    cells: list[str]

    @property
    def is_text(self) -> bool:
        """Whether the equation is not mathematics."""
        return not isinstance(self.equation, Markup)


@dataclass(frozen=True)
class Held:
    """The table of a held-out task: its comparison, the metric's name, where its report is, and its rows in words."""

    of: HeldOut
    metric: Metric
    link: str
    rows: list[tuple[str, list[str]]]


def loss_metric(results: SearchResults) -> Metric:
    """The loss, with as many decimals for all rows as give the best mean four digits."""
    return Metric("loss", False, _decimals(row.loss for row in results.leaderboard))


def _decimals(means: Iterable[float | None], higher_is_better: bool = False) -> int:
    known = [abs(mean) for mean in means if mean]
    best = (max if higher_is_better else min)(known, default=1.0)
    return min(max(3 - math.floor(math.log10(best)), 0), 6)


def shares(counts: Counts) -> list[Share]:
    """What became of the proposals."""

    def line(title: str, count: int, part: bool = False) -> Share:
        share = f"{100 * count / counts.proposals:.1f}{_SPACE}%" if counts.proposals else "–"
        return Share(title, f"{count:,}", share, part)

    refused = sorted(counts.invalid.items(), key=lambda entry: -entry[1])
    return [
        line("Proposals", counts.proposals),
        line("Distinct rules, trained", counts.evaluated),
        line("diverged at every rate", counts.diverged, part=True),
        line("Repeats of a class met before, not trained again", counts.repeats),
        line("Not worth training", sum(counts.invalid.values())),
        *(line(verdict, count, part=True) for verdict, count in refused),
    ]


def heads(results: SearchResults) -> list[str]:
    """The columns of numbers of the leaderboard."""
    between = f"95{_SPACE}% interval"
    return [
        "Fresh loss",
        between,
        "Accuracy",
        "Rate",
        "State, bytes per parameter",
        "Selection loss",
        *(["Reward"] if _has_rewards(results) else []),
        "Less best of tier",
        between,
    ]


def _has_rewards(results: SearchResults) -> bool:
    return any(row.reward is not None for row in results.leaderboard)


def tiers(results: SearchResults, metric: Metric) -> list[tuple[int, list[Line]]]:
    """The rows of the leaderboard by tier."""
    has_rewards = _has_rewards(results)
    return [
        (tier, [_line(row, metric, has_rewards) for row in rows])
        for tier, rows in groupby(results.leaderboard, key=lambda row: row.tier)
    ]


def _line(row: Row, metric: Metric, has_rewards: bool) -> Line:
    less = row.difference or Difference(None, None, None)
    cells = [
        "diverged" if row.loss is None else metric.text(row.loss),
        between(row.low, row.high, metric),
        f"{100 * row.accuracy:.1f}{_SPACE}%",
        rate(row.rate),
        str(row.state_bytes),
        loss_of(selection(row), metric),
        *([number(row.reward)] if has_rewards else []),
        metric.signed(less.mean),
        metric.signed_interval(less.low, less.high),
    ]
    return Line(row.rank, row.title, kind(row), equation(row), cells)


def kind(row: Row) -> str:
    """Whether a rule is known or was found, and which known one it is."""
    if row.is_known:
        return "known"
    return "found" if row.known_as is None else f"found; it is {row.known_as}"


def selection(row: Row) -> float | None:
    """The mean loss under the seeds that chose; None where there is none, or one diverged."""
    known = [loss for loss in row.selection_losses if loss is not None]
    return fmean(known) if known and len(known) == len(row.selection_losses) else None


def loss_of(loss: float | None, metric: Metric) -> str:
    """A loss in words."""
    return "diverged" if loss is None else metric.text(loss)


def losses(values: list[float | None], metric: Metric) -> str:
    """The losses of seeds, in words."""
    return ", ".join(loss_of(value, metric) for value in values) or "–"


def between(low: float | None, high: float | None, metric: Metric) -> str:
    """An interval in brackets, a dash where there is none; per cents are cut to 0..100, beyond which none is."""
    if low is None or high is None:
        return "–"
    if metric.percent:
        low, high = max(low, 0.0), min(high, 1.0)
    return f"[{metric.plain(low)},{_SPACE}{metric.plain(high)}]"


def equation(row: Row) -> Markup | str:
    """The last equation of a rule, that of its parameters; as text where it is long or not mathematics."""
    text = (row.text.splitlines() or [""])[-1]
    formula = mathml.trusted(row.mathml) if len(text) <= _LONG else None
    cells = [] if formula is None else _last_equation(ElementTree.fromstring(formula))
    if not cells:
        return text
    alone = ElementTree.Element("math", {"alttext": text})
    inner = ElementTree.SubElement(alone, "mrow")
    for cell in cells:
        inner.extend(cell)
    return Markup(ElementTree.tostring(alone, encoding="unicode"))


def _last_equation(formula: ElementTree.Element) -> list[ElementTree.Element]:
    """What the last equation's cells hold; the formula itself where it is not a table of equations."""
    table = formula.find("mtable")
    if table is None:
        return [formula]
    rows = table.findall("mtr")
    return rows[-1].findall("mtd") if rows else []


def values(row: Row, metric: Metric) -> dict[str, Any]:
    """What belongs to a rule beside its formula."""
    said = {
        "rate": rate(row.rate),
        **row.hyper_parameters,
        **row.schedules,
        "size of update": number(row.size),
        "rate times that": number(row.relative_rate),
        "selection losses": losses(row.selection_losses, metric),
        "fresh losses": losses(row.fresh_losses, metric),
    }
    return {key: value for key, value in said.items() if value is not None}


def held_out(one: HeldOut) -> Held:
    """A held-out task."""
    up = one.direction == "maximize"
    decimals = 1 if one.metric == "accuracy" else _decimals((row.test_mean for row in one.rows), up)
    metric = Metric(one.metric.replace("_", " "), up, decimals)
    rows = [
        (
            row.title,
            [
                "–" if row.rank is None else str(row.rank),
                "diverged" if row.test_mean is None else metric.text(row.test_mean),
                between(row.test_low, row.test_high, metric),
                metric.text(row.validation_mean),
                rate(row.rate),
            ],
        )
        for row in one.rows
    ]
    return Held(one, metric, f"{quote(one.directory)}/report.html", rows)
