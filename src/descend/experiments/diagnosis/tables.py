"""What a diagnosis shows in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from descend.experiments.console import Column, fitted


def table(results: Mapping[str, Any], width: int) -> Table:
    """Return a row for each number that a diagnosis measured, of the first solution where no other is named.

    Args:
        results: the content of its `diagnosis.json`.
        width: columns of the terminal.
    """
    rows = list(_rows(results))
    columns = {
        "what": Column("measure", [what for what, _, _ in rows], is_number=False),
        "value": Column("value", [value for _, value, _ in rows]),
        "error": Column("within", [error for _, _, error in rows]),
    }
    name = results["solutions"][0]["name"]
    return fitted(f"{results['subject']['title']}, {name} ({results['label']})", columns, width, ("error",))


def _rows(results: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    metric = results["subject"]["metric"]
    for one in results["solutions"]:
        yield f"training loss, {one['name']}", _number(one["train_loss"]), ""
        yield f"validation {metric}, {one['name']}", _number(one["validation_metric"]), ""
    for one in results["spectra"]:
        mode = "" if one["setting"]["mode"] == "eval" else ", batch statistics"
        for place, (value, residual) in enumerate(zip(one["values"], one["residuals"], strict=True)):
            which = one["which"] if place == 0 else f"{one['which']} {place + 1}"
            yield f"{which} eigenvalue, {one['matrix']}{mode}", _number(value), f"± {_number(residual)}"
    for one in results["traces"]:
        yield f"trace, {one['matrix']}, {one['method']}", _number(one["value"]), _interval(one)
    for one in results["sharpness"]:
        eta = "" if one["eta"] is None else f", eta {one['eta']:g}"
        logits = "" if one["logits"] == "as they are" else ", logits normalized"
        unit = " %" if one["unit"] == "%" else ""
        yield f"{one['measure']} {one['size']:g}{eta}{logits}", f"{_number(one['value'])}{unit}", _interval(one)
    for one in results["lines"]:
        if one["ends"]:
            yield f"barrier from {one['ends'][0]} to {one['ends'][1]}, validation loss", _number(one["barrier"]), ""


def _interval(one: Mapping[str, Any]) -> str:
    return "" if one["low"] is None or one["high"] is None else f"{_number(one['low'])} to {_number(one['high'])}"


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"
