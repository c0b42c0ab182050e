"""The page: results and charts put into the template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from descend.report import charts, curves, formats, mathml, svg
from descend.report.finding import divergence, finding, followers
from descend.report.formats import Metric
from descend.report.results import Point, Results

_HERE = Path(__file__).parent


def render(results: Results) -> str:
    """The whole page as text. It parses as HTML and as XML."""
    metric = Metric.of(results)
    page = _environment().get_template("page.html")
    return page.render(
        results=results,
        task=results.task,
        manifest=results.manifest,
        titles=results.titles(),
        metric=metric,
        finding=finding(results),
        css=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        charts=_charts(results, metric),
        has_cut_intervals=any(metric.cuts(row) for row in results.summary),
        formulas={optimizer.name: mathml.trusted(optimizer.mathml) for optimizer in results.optimizers},
        swatches={optimizer.name: index % svg.COLORS for index, optimizer in enumerate(results.optimizers)},
        seeds=sorted({trial.seed for trial in results.trials if trial.phase == "final"}),
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update(
        count=formats.count,
        divergence=divergence,
        edge=formats.edge,
        filled=formats.filled,
        followers=followers,
        label=formats.label,
        milliseconds=formats.milliseconds,
        number=formats.number,
        plain=formats.plain,
        rate=formats.rate,
        state=formats.state,
        steps=formats.steps,
    )
    return environment


def _charts(results: Results, metric: Metric) -> dict[str, Any]:
    def shown(point: Point) -> float | None:
        return None if point.validation_metric is None else metric.shown(point.validation_metric)

    return {
        "finals": charts.finals(results),
        "validation": charts.learning(
            results,
            curves.curves(results, shown),
            f"Validation {metric.name}",
            higher_is_better=metric.higher_is_better,
        ),
        "training": charts.learning(
            results,
            curves.curves(results, lambda point: point.train_loss),
            "Training loss",
            higher_is_better=False,
        ),
        "sensitivity": charts.sensitivity(results, curves.answers(results)),
        "schedule": charts.schedule(results.schedule, results.task.steps),
    }
