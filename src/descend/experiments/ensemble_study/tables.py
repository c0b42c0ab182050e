"""What a study of snapshots shows in the terminal: a table for each optimizer."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from descend.experiments.caveats import counted
from descend.experiments.console import Column, fitted

_NUMBERS = {
    "nll": "NLL",
    "brier": "Brier",
    "ece": "ECE",
    "tempered_nll": "NLL at T",
    "tempered_ece": "ECE at T",
}
_LEAST = ("tempered_ece", "tempered_nll", "brier", "ece", "nll", "interval")


def tables(results: Mapping[str, Any], width: int) -> Iterator[Table]:
    """Yield a table of all methods for each optimizer.

    Args:
        results: the content of `ensemble.json`.
        width: columns of the terminal; what does not fit into them is left out, the least important first.
    """
    task = results["task"]
    for optimizer in results["optimizers"]:
        rows = optimizer["rows"]
        size = f"{counted(task['steps'], 'step')}, {counted(len(optimizer['seeds']), 'seed')}"
        columns = {
            "method": Column("method", [row["title"] for row in rows], is_number=False),
            "passes": Column("passes", [str(row["models"]) for row in rows]),
            "test": Column(f"test {task['metric']}", [_number(row["metric"]["mean"]) for row in rows]),
            "interval": Column("95 % interval", [_interval(row["metric"]) for row in rows]),
        }
        for key, title in _NUMBERS.items():
            if any(row[key] is not None for row in rows):
                columns[key] = Column(title, [_number(row[key] and row[key]["mean"]) for row in rows])
        yield fitted(f"{task['title']}, {optimizer['title']}, {size} ({results['label']})", columns, width, _LEAST)


def _interval(found: Mapping[str, float | None]) -> str:
    return "–" if found["low"] is None else f"{_number(found['low'])} to {_number(found['high'])}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
