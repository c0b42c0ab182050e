"""The page: results and charts put into the template."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Any

from markupsafe import Markup

from descend.report import charts, curves, differences, embedded, heat, mathml, svg
from descend.report.finding import finding
from descend.report.formats import Metric
from descend.report.results import Point, Results
from descend.report.template import HERE, template


def render(results: Results) -> str:
    """The whole page as text. It parses as HTML and as XML."""
    metric = Metric.of(results)
    script = _script()
    return template("page.html").render(
        results=results,
        task=results.task,
        manifest=results.manifest,
        titles=results.titles(),
        metric=metric,
        finding=finding(results),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=embedded.data(results),
        sparks=embedded.sparks(results),
        said=[embedded.said(trial, metric) for trial in results.trials],
        charts=_charts(results, metric),
        differences=differences.table(results),
        heat_maps=heat.heat_maps(results),
        scores=sorted({name for row in results.summary for name in row.test_scores}),
        snapshots=results.manifest.options.get("snapshots"),
        is_timed=any(row.seconds_to_target is not None for row in results.summary),
        grid=sorted({name for optimizer in results.optimizers for name in optimizer.grid}),
        has_cut_intervals=any(metric.cuts(row) for row in results.summary),
        formulas={optimizer.name: mathml.trusted(optimizer.mathml) for optimizer in results.optimizers},
        swatches={optimizer.name: index % svg.COLORS for index, optimizer in enumerate(results.optimizers)},
        seeds=sorted({trial.seed for trial in results.trials if trial.phase == "final"}),
    )


def _script() -> str:
    """The script as it stands in the page: in a section that neither HTML nor XML reads as markup."""
    return f"//<![CDATA[\n{(HERE / 'page.js').read_text(encoding='utf-8')}//]]>"


def _charts(results: Results, metric: Metric) -> dict[str, Any]:
    def shown(point: Point) -> float | None:
        return None if point.validation_metric is None else metric.shown(point.validation_metric)

    return {
        "finals": charts.finals(results),
        "differences": differences.differences(results),
        "clocks": _by_clock(results, metric, shown),
        "sensitivity": charts.sensitivity(results, curves.answers(results)),
        "schedule": charts.schedule(results.schedule, results.task.steps),
    }


def _by_clock(
    results: Results, metric: Metric, shown: Callable[[Point], float | None]
) -> dict[str, dict[str, Markup | None]]:
    """The charts that have an axis of steps or of time; by time only where it was measured."""
    measured = curves.curves(results, shown)
    losses = {
        "training loss": curves.curves(results, lambda point: point.train_loss),
        "validation loss": curves.curves(results, lambda point: point.validation_loss),
    }
    found: dict[str, dict[str, Markup | None]] = {}
    for clock in ("step", "time"):
        by_time = clock == "time"
        if by_time and not any(curve.seconds for curve in measured):
            continue
        found[clock] = {
            "validation": charts.learning(
                results,
                measured,
                f"Validation {metric.name}",
                higher_is_better=metric.higher_is_better,
                by_time=by_time,
            ),
            "target": _target(results, measured, by_time),
        }
        for name, drawn in losses.items():
            if any(curve.mean for curve in drawn):
                found[clock][name] = charts.learning(
                    results, drawn, name.capitalize(), higher_is_better=False, by_time=by_time
                )
    return found


def _target(results: Results, measured: list[curves.Curve], by_time: bool) -> Markup | None:
    """When the target was reached; None where there is no target, or no time of it."""
    if results.task.target is None:
        return None
    clock = (lambda trial: trial.seconds_to_target) if by_time else (lambda trial: trial.steps_to_target)
    found = curves.reached(results, clock)
    end = max((curve.seconds[-1] for curve in measured if curve.seconds), default=1.0)
    if by_time and not any(one.at for one in found):
        return None
    return differences.reached(results, found, end if by_time else float(results.task.steps), by_time=by_time)
