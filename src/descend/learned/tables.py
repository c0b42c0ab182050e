"""What a meta-training shows in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from descend.experiments.console import Column, fitted


def tables(results: Mapping[str, Any], width: int) -> Iterator[Table]:
    """Yield a table for each comparison.

    Args:
        results: the content of its `meta-train.json`.
        width: columns of the terminal.
    """
    seed = results["network"]["seed"]
    for one in results["comparisons"]:
        rows = one["rows"]
        own = [next((d for d in row["differences"] if d["seed"] == seed), None) for row in rows]
        columns = {
            "name": Column("optimizer", [row["name"] for row in rows], is_number=False),
            "score": Column(one["metric"], [_number(row["score"]) for row in rows]),
            "median": Column("median of log10", [_number(row["median"]) for row in rows]),
            "difference": Column("learned less this", ["" if d is None else _number(d["mean"]) for d in own]),
            "interval": Column(
                "95 % interval", ["" if d is None else f"{_number(d['low'])} to {_number(d['high'])}" for d in own]
            ),
        }
        title = f"{one['target']}, {one['steps']:,} steps ({results['label']})"
        yield fitted(title, columns, width, ("median", "interval"))


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3f}"
