"""The page of a study of snapshots: tables and charts put into the template."""

from __future__ import annotations

from typing import Any

from descend.report import ensemble_charts, ensemble_landscape, ensemble_tables, heights
from descend.report.ensemble_results import EnsembleResults, Optimizer, Plane
from descend.report.formats import Metric, count
from descend.report.template import template


def render(results: EnsembleResults) -> str:
    """The whole page as text. It parses as HTML and as XML."""
    metric = ensemble_tables.metric_of(results)
    return template("ensemble.html").render(
        results=results,
        task=results.task,
        manifest=results.manifest,
        metric=metric,
        error=_error(results, metric),
        parts=[_part(one, results, metric) for one in results.optimizers],
    )


def _error(results: EnsembleResults, metric: Metric) -> str:
    """What lines measure beside the loss, in words."""
    if results.error == results.task.metric:
        return metric.label
    return "error, %" if metric.percent else f"error ({results.error})"


def _part(optimizer: Optimizer, results: EnsembleResults, metric: Metric) -> dict[str, Any]:
    """What the template needs of one optimizer."""
    barriers, plane = optimizer.barriers, optimizer.plane
    return {
        "optimizer": optimizer,
        "chart": ensemble_charts.methods(optimizer, metric),
        "methods": ensemble_tables.methods(optimizer, metric),
        "kinds": [ensemble_tables.kind(row) for row in optimizer.rows],
        "calibration": ensemble_tables.calibration(optimizer),
        "comparisons": ensemble_tables.comparisons(optimizer, metric),
        "by_count": ensemble_charts.by_count(optimizer, metric, results.snapshots),
        "soups": [", ".join(map(str, taken)) for taken in optimizer.soup_taken],
        "diversity": ensemble_tables.diversity(optimizer),
        "disagreements": ensemble_tables.disagreements(optimizer),
        "barriers": ensemble_tables.barriers(barriers) if barriers else None,
        "panels": ensemble_landscape.interpolations(barriers, metric) if barriers else [],
        "plane": ensemble_landscape.plane(plane) if plane else None,
        "plane_said": _plane_said(plane) if plane else [],
    }


def _plane_said(plane: Plane) -> list[str]:
    """What must be known to read the picture of the plane."""
    shades = heights.Shades.of(plane.losses)
    gone = sum(loss is None for row in plane.losses for loss in row)
    said = [
        f"Each cell is one of {len(plane.ys)} × {len(plane.xs)} measured points, its colour the validation loss"
        f"{' on a logarithmic scale' if shades.log else ''}; the brighter the lower."
    ]
    if shades.capped:
        said.append(f"Losses from {shades.bounds[-1]:.3g} up, of which there are some, all have the darkest colour.")
    if gone:
        said.append(f"{count(gone, 'cell').capitalize()} without a colour had a loss that is not finite.")
    said.append(
        "Both directions have the same scale, the distance between weights: the first of the three is the origin."
    )
    return [" ".join(said), *_way_said(plane)]


def _way_said(plane: Plane) -> list[str]:
    """How far from the plane the way of training is, of which the picture shows the projection."""
    if not plane.way:
        return []
    between = [far for step, _, _, far in plane.way if plane.steps[0] <= step <= plane.steps[-1]]
    start = plane.way[0][-1]
    near = f", and between the three it leaves it by up to {max(between):.3g}" if between else ""
    return [
        "The line is the way of training as its projection on the plane, as far as it lies on the grid. It begins "
        f"{start:.3g} away from the plane{near}: where it is far away, its own loss is not the one of the colour "
        "beneath it."
    ]
