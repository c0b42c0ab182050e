"""The page of a search for rules: tables and charts put into the template."""

from __future__ import annotations

from typing import Any

from descend.report import mathml, search_charts, search_tables
from descend.report.formats import Metric
from descend.report.search_results import Row, SearchResults
from descend.report.template import template

# So many rules stand open with their mathematics; the others are folded away.
_OPEN = 6


def render(results: SearchResults) -> str:
    """The whole page as text. It parses as HTML and as XML."""
    metric = search_tables.loss_metric(results)
    rules = [_rule(row, metric) for row in results.leaderboard]
    return template("search.html").render(
        results=results,
        manifest=results.manifest,
        options=results.manifest.options,
        training=results.training,
        counts=results.counts,
        seconds=_duration(results.counts.seconds),
        curve=search_charts.curve(results),
        shares=search_tables.shares(results.counts),
        chart=search_charts.leaderboard(results, metric),
        heads=search_tables.heads(results),
        tiers=search_tables.tiers(results, metric),
        rules=rules[:_OPEN],
        others=rules[_OPEN:],
        held_out=[search_tables.held_out(one) for one in results.held_out],
    )


def _rule(row: Row, metric: Metric) -> dict[str, Any]:
    """What the template needs of one rule."""
    return {
        "row": row,
        "kind": search_tables.kind(row),
        "formula": mathml.trusted(row.mathml),
        "values": search_tables.values(row, metric),
    }


def _duration(seconds: float) -> str:
    """A time in seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
