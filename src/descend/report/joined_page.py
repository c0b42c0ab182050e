"""The page of joined runs: their changes and results put into the template."""

from __future__ import annotations

from typing import Any

from descend.report import formats, svg
from descend.report.formats import Metric
from descend.report.joined import Difference, Joined, Result, Section
from descend.report.joined_chart import results_by_run
from descend.report.joined_finding import absent, comparison, findings
from descend.report.results import Results, Row
from descend.report.template import template

# Entries that name a file by its hash are told apart by its beginning.
_HASH, _SHOWN_OF_HASH = "_sha256", 12


def render(joined: Joined, runs: dict[str, Results]) -> str:
    """The whole page as text. It parses as HTML and as XML.

    Args:
        joined: what it says.
        runs: the results of each run by its name.
    """
    places = {run: place for place, run in enumerate(runs)}
    return template("joined.html").render(
        joined=joined,
        runs=runs,
        screenings=[run.name for run in joined.runs if run.label != "comparison"],
        swatches={run: place % svg.COLORS for run, place in places.items()},
        changed=[(change, [_written(change.entry, value) for value in change.values]) for change in joined.changes],
        sections=[_section(section, {run: runs[run] for run in section.runs}, places) for section in joined.sections],
    )


def _section(section: Section, runs: dict[str, Results], places: dict[str, int]) -> dict[str, Any]:
    """What the template needs of one task."""
    metric = Metric.of(next(iter(runs.values())))
    rows = {(run, row.optimizer): row for run, results in runs.items() for row in results.summary}
    titles = {optimizer.name: optimizer.title for optimizer in section.optimizers}
    targets = {run: results.task.target is not None for run, results in runs.items()}
    return {
        "section": section,
        "metric": metric,
        "unit": "points" if metric.percent else "",
        "findings": findings(section, metric),
        "comparisons": [comparison(section, run) for run in section.runs[1:]],
        "chart": results_by_run(runs, places, titles, metric),
        "tables": [
            (
                optimizer,
                [
                    _line(result, rows[result.run, optimizer.name], metric, targets[result.run])
                    for result in optimizer.results
                ],
            )
            for optimizer in section.optimizers
        ],
        "absent": [absent(section, run) for run in section.runs],
    }


def _line(result: Result, row: Row, metric: Metric, has_target: bool) -> dict[str, Any]:
    """One row of a table of results."""
    return {
        "result": result,
        "mean": "diverged" if row.failed else metric.text(row.test_mean),
        "interval": ("" if row.failed else metric.interval(row)) or "–",
        "diverged": f"{row.diverged} of {row.n} diverged" if row.diverged and not row.failed else "",
        "difference": _difference(result.difference, metric),
        "steps": formats.steps(result.steps_to_target) if has_target else "–",
        "ratio": "–" if result.ms_ratio is None else f"{result.ms_ratio:.2f}×",
        "beside": ", ".join(f"{name} {formats.rate(value)}" for name, value in result.values.items()),
    }


def _difference(difference: Difference | None, metric: Metric) -> str:
    """A difference and its interval, in the unit of the page."""
    if difference is None or difference.mean is None:
        return "–"
    if difference.is_none:
        return "none"
    text = metric.signed(difference.mean)
    if difference.low is None or difference.high is None:
        return text
    return f"{text} [{metric.signed(difference.low)}, {metric.signed(difference.high)}]".replace(" ", "\u00a0")


def _written(entry: str, value: Any) -> str:
    """An entry's value in words, a dash for none."""
    if value is None:
        return "–"
    return str(value)[:_SHOWN_OF_HASH] if entry.endswith(_HASH) else formats.plain(value)
