"""The page of a learned optimizer: how its training went, and how it stands beside tuned rules."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from descend.report import diagnosis_charts as charts
from descend.report.curve_charts import Curve, curves
from descend.report.diagnosis_parts import Part, Table, drawn
from descend.report.formats import number, plain
from descend.report.meta_results import Comparison, Difference, MetaResults, Training
from descend.report.template import template


def render(results: MetaResults) -> str:
    """The whole page as text. It parses as HTML and as XML."""
    return template("meta_train.html").render(
        results=results,
        manifest=results.manifest,
        parts=[_trainings(results.curves), *(_comparison(one, results.network.seed) for one in results.comparisons)],
    )


def _trainings(found: Sequence[Training]) -> Part:
    lines = [
        Curve(
            f"seed {one.seed}", [float(point[0] or 0) for point in one.points], [point[1] for point in one.points], hue
        )
        for hue, one in enumerate(found)
    ]
    tables = [
        Table(
            f"Validations of seed {one.seed}",
            ["after episode", "mean log10 of the final loss"],
            [[f"{point[0]:,.0f}", _score(point[1])] for point in one.points],
        )
        for one in found
    ]
    return Part(
        "Training",
        "",
        drawn(("Mean over validation problems of log10 of the final loss", curves(lines, "episode", "Validation"))),
        tables,
        ["The weights with the lowest value are kept, of all seeds."],
        [(line.title, line.hue, False) for line in lines] if len(lines) > 1 else [],
    )


def _comparison(found: Comparison, seed: int) -> Part:
    has_accuracy = any(row.accuracy is not None for row in found.rows)
    heads = ["optimizer", found.metric, "median of log10", *(["test accuracy"] if has_accuracy else [])]
    heads += ["learned less this", "95 % interval", "won by the learned", "what tuning chose"]
    rows = []
    for row in found.rows:
        own = next((one for one in row.differences if one.seed == seed), None)
        rows.append(
            [
                row.name,
                _score(row.score),
                _score(row.median),
                *([_score(row.accuracy)] if has_accuracy else []),
                *_cells(own),
                ", ".join(f"{name} {plain(value)}" for name, value in row.values.items()) or "–",
            ]
        )
    return Part(
        f"{found.target}, {found.steps:,} steps: {found.metric}",
        "",
        drawn((f"{found.metric.capitalize()} of the final losses, learned less rule", _differences(found, seed))),
        [Table("", heads, rows, frozenset({0, len(heads) - 1})), *_others(found, seed)],
        [
            f"{found.problems:,} problems, the same for all; rules were tuned for this on {found.tuned_on:,} others.",
            "Left of 0 the learned optimizer is better.",
            f"Differences are of seed {seed}, which validated best.",
        ],
    )


def _differences(found: Comparison, seed: int) -> Markup | None:
    points = [
        charts.Row(row.name, one.mean, one.low, one.high)
        for row in found.rows
        for one in row.differences
        if one.seed == seed
    ]
    return charts.rows(points, "Differences with their 95 % intervals", always=(0.0,))


def _others(found: Comparison, seed: int) -> list[Table]:
    """Differences of the other seeds' networks."""
    rows = [
        [f"seed {one.seed}", row.name, *_cells(one)]
        for row in found.rows
        for one in row.differences
        if one.seed != seed
    ]
    heads = ["learned", "rule", "learned less rule", "95 % interval", "won by the learned"]
    return [Table("Other seeds of training", heads, rows, frozenset({0, 1}))] if rows else []


def _cells(one: Difference | None) -> list[str]:
    if one is None:
        return ["–"] * 3
    return [number(one.mean), f"{number(one.low)} to {number(one.high)}", "–" if one.won is None else number(one.won)]


def _score(value: float | None) -> str:
    return "not finite" if value is None else number(value)
