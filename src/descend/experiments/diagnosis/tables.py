"""What a diagnosis shows in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from rich.table import Table

from descend.experiments.console import Column, fitted

_FEW = 6
"""Solutions, up to which each has rows of its own."""


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
    yield from _solutions(results["solutions"], results["subject"]["metric"])
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
    for one in results["directions"]:
        yield f"mean training accuracy, {one['how']}", _number(one["area"]), _interval(one)
    for one in results["rankings"]:
        if one["psi"] is not None:
            yield f"Psi, {one['measure'].replace('_', ' ')}", _number(one["psi"]), _interval(one)


def _solutions(found: Sequence[Mapping[str, Any]], metric: str) -> Iterator[tuple[str, str, str]]:
    """Two rows for each; for all together where they are a population."""
    numbers = (("training loss", "train_loss"), (f"validation {metric}", "validation_metric"))
    if len(found) <= _FEW:
        for one in found:
            for what, key in numbers:
                yield f"{what}, {one['name']}", _number(one[key]), ""
        return
    for what, key in numbers:
        known = [one[key] for one in found if one[key] is not None]
        if known:
            yield f"median {what}, {len(found)} solutions", _number(median(known)), _ends(known)


def _ends(values: Sequence[float]) -> str:
    return f"{_number(min(values))} to {_number(max(values))}"


def _interval(one: Mapping[str, Any]) -> str:
    return "" if one["low"] is None or one["high"] is None else f"{_number(one['low'])} to {_number(one['high'])}"


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"
