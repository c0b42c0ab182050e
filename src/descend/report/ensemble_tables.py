"""The tables of a study of snapshots, in the words of the page; what a task does not have is left out of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from descend.report.ensemble_results import Barriers, Difference, Diversity, EnsembleResults, Estimate, Optimizer, Row
from descend.report.formats import Metric, plain, signed
from descend.report.heat import LEVELS

_SPACE = "\u00a0"
_INTERVAL = f"95{_SPACE}% interval"
_Item = TypeVar("_Item")
SOURCES = {"snapshots": "snapshots", "nocycle": "NoCycle", "singlecycle": "SingleCycle"}
"""Names of what members come from."""


@dataclass(frozen=True)
class Table:
    """A table: its columns, and a head and cells for each row."""

    columns: list[str]
    rows: list[tuple[str, list[str]]]


@dataclass(frozen=True)
class HeatCell:
    """A number of a pair, and its place in the ramp of colours; None where there is nothing to colour."""

    text: str
    level: int | None


@dataclass(frozen=True)
class HeatTable:
    """Numbers of all pairs, with the values that the two ends of the ramp stand for: the darkest, the brightest."""

    title: str
    corner: str
    labels: list[str]
    rows: list[tuple[str, list[HeatCell]]]
    darkest: str
    brightest: str


def metric_of(results: EnsembleResults) -> Metric:
    """The metric of a study, with as many decimals for all values as give the best mean four digits."""
    task = results.task
    means = [row.metric.mean for one in results.optimizers for row in one.rows if row.metric.mean]
    best = (max if task.direction == "maximize" else min)(means, default=1.0)
    decimals = 1 if task.metric == "accuracy" else 3 - math.floor(math.log10(abs(best)))
    return Metric(task.metric.replace("_", " "), task.direction == "maximize", min(max(decimals, 0), 6))


def kind(row: Row) -> str:
    """What a method is: a `control`, an average of `weights`, or of `predictions`, of which one is the least."""
    if row.source != "snapshots":
        return "control"
    return "weights" if row.method == "soup" or row.method.startswith("average-") else "predictions"


def methods(optimizer: Optimizer, metric: Metric) -> Table:
    """Every method, with the columns that any of them has."""
    has_classes = any(row.nll is not None for row in optimizer.rows)
    columns: list[tuple[str, Callable[[Row], str]]] = [
        ("Passes", lambda row: str(row.models)),
        (f"Test {metric.name}", lambda row: metric.text(row.metric.mean)),
        (_INTERVAL, lambda row: _between(row.metric, metric.plain)),
        ("Loss", lambda row: "–" if has_classes else _mean(row.loss)),
        *_estimated("NLL", "nll"),
        *_estimated("Brier", "brier"),
    ]
    return _filled(columns, [(row.title, row) for row in optimizer.rows])


def calibration(optimizer: Optimizer) -> Table:
    """How well each method knows how sure it may be, before and after its temperature; empty without classes."""
    columns: list[tuple[str, Callable[[Row], str]]] = [
        *_estimated("ECE", "ece"),
        *_estimated("Adaptive ECE", "adaptive_ece"),
        *_estimated("Classwise ECE", "classwise_ece"),
        ("Temper\u00adature", lambda row: "–" if row.temperature is None else f"{row.temperature:.2f}"),
        *_estimated("NLL at it", "tempered_nll"),
        *_estimated("ECE at it", "tempered_ece"),
    ]
    return _filled(columns, [(row.title, row) for row in optimizer.rows])


def _estimated(
    title: str, name: str, written: Callable[[float | None], str] | None = None
) -> list[tuple[str, Callable[[Any], str]]]:
    """The columns of a number of this name: its mean, and its interval."""
    write = written or _three

    def mean(item: Any) -> str:
        found: Estimate | None = getattr(item, name)
        return "–" if found is None else write(found.mean)

    def between(item: Any) -> str:
        found: Estimate | None = getattr(item, name)
        return "–" if found is None else _between(found, write)

    return [(title, mean), (_INTERVAL, between)]


def comparisons(optimizer: Optimizer, metric: Metric) -> Table:
    """The ensemble of all snapshots less each rival."""
    unit = f"{metric.name}{', points' if metric.percent else ''}"
    heads = [f"Difference in {unit}", _INTERVAL, "By it", "p", "Seeds: better / worse"]
    sign = 1 if metric.higher_is_better else -1
    rows = [
        (
            row.title if (row := optimizer.row(one.against)) else one.against,
            [*_compared(one.metric, metric.signed, sign), *_compared(one.nll, _signed, -1)],
        )
        for one in optimizer.comparisons
    ]
    has_nll = any(one.nll is not None for one in optimizer.comparisons)
    columns = [*heads, "Difference in NLL", *heads[1:]] if has_nll else heads
    return Table(columns, [(title, cells[: len(columns)]) for title, cells in rows])


def _compared(found: Difference | None, written: Callable[[float | None], str], sign: int) -> list[str]:
    if found is None:
        return ["–"] * 5
    better, worse = (found.above, found.below)[::sign]
    p = "–" if found.p is None else plain(float(f"{found.p:.2g}"))
    interval = _between(Estimate(found.mean, found.low, found.high), written)
    return [written(found.mean), interval, _verdict(found, sign), p, f"{better} / {worse}"]


def _verdict(found: Difference, sign: int) -> str:
    """What the interval alone says of the ensemble."""
    if found.low is None or found.high is None:
        return "–"
    if min(sign * found.low, sign * found.high) > 0:
        return "better"
    return "worse" if max(sign * found.low, sign * found.high) < 0 else "not decided"


def diversity(optimizer: Optimizer) -> Table:
    """How much the members of each set differ."""
    columns: list[tuple[str, Callable[[Diversity], str]]] = [
        ("Members", lambda one: str(one.members)),
        *_estimated("Disagreement", "disagreement", _share),
        *_estimated("Error correlation", "error_correlation"),
        *_estimated("Mutual information, nats", "mutual_information"),
        *_estimated("Ambiguity, nats", "ambiguity"),
        *_estimated("Mean accuracy of members", "mean_accuracy", _share),
        *_estimated("Accuracy of their ensemble", "ensemble_accuracy", _share),
    ]
    return _filled(columns, [(SOURCES[one.source], one) for one in optimizer.diversity])


def disagreements(optimizer: Optimizer) -> list[HeatTable]:
    """The disagreement of every pair, a table for each set of members; all have the same colours."""
    known = [
        value for one in optimizer.diversity for row in one.pairwise for value in row if value is not None and value > 0
    ]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    steps = optimizer.barriers.steps if optimizer.barriers else []
    return [
        HeatTable(
            SOURCES[one.source],
            "run" if one.source == "singlecycle" else "step" if len(steps) == one.members else "snapshot",
            labels := _labels(one, steps),
            _cells(one.pairwise, labels, lambda value: f"{100 * value:.1f}", (low, high)),
            _share(low),
            _share(high),
        )
        for one in optimizer.diversity
        if one.members > 1
    ]


def _labels(one: Diversity, steps: Sequence[int]) -> list[str]:
    numbered = one.source == "singlecycle" or len(steps) != one.members
    return [str(value) for value in (range(1, one.members + 1) if numbered else steps)]


def barriers(found: Barriers) -> HeatTable:
    """The loss barrier of every pair, none brightest; as dark as can be is the highest, or one of the last loss."""
    known = [value for row in found.matrix for value in row if value is not None]
    ends = [line.losses[-1] for line in found.lines if line.losses and line.losses[-1] is not None]
    high = max([*known, *ends[-1:]], default=0.0) or 1.0
    labels = [str(step) for step in found.steps]
    rows = _cells(found.matrix, labels, _short, (high, 0.0))
    return HeatTable("Loss barriers", "step", labels, rows, _short(high), "0")


def _cells(
    matrix: list[list[float | None]],
    labels: list[str],
    written: Callable[[float], str],
    ramp: tuple[float, float],
) -> list[tuple[str, list[HeatCell]]]:
    def cell(place: int, other: int) -> HeatCell:
        value = matrix[place][other]
        if place == other:
            return HeatCell("", None)
        return HeatCell("×" if value is None else written(value), None if value is None else _level(value, ramp))

    numbers = range(len(labels))
    return [(labels[place], [cell(place, other) for other in numbers]) for place in numbers]


def _level(value: float, ramp: tuple[float, float]) -> int:
    darkest, brightest = ramp
    share = (value - darkest) / (brightest - darkest) if brightest != darkest else 1.0
    return min(LEVELS - 1, max(0, int(share * LEVELS)))


def _filled(columns: list[tuple[str, Callable[[_Item], str]]], items: list[tuple[str, _Item]]) -> Table:
    """A table of the columns in which any item has something."""
    cells = [[write(item) for _, write in columns] for _, item in items]
    kept = [place for place in range(len(columns)) if any(row[place] != "–" for row in cells)]
    rows = [(title, [row[place] for place in kept]) for (title, _), row in zip(items, cells, strict=True)]
    return Table([columns[place][0] for place in kept], rows)


def _between(found: Estimate, written: Callable[[float], str]) -> str:
    if found.low is None or found.high is None:
        return "–"
    return f"[{written(found.low)},{_SPACE}{written(found.high)}]"


def _mean(found: Estimate | None) -> str:
    return _three(None if found is None else found.mean)


def _three(value: float | None) -> str:
    return "–" if value is None else f"{value:,.3f}"


def _signed(value: float | None) -> str:
    return "–" if value is None else signed(value, 3)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}{_SPACE}%"


def _short(value: float) -> str:
    return "0" if value == 0 else f"{value:.3f}" if value >= 0.0005 else "<0.001"
