"""A population of trained networks: a table of checkpoints, with the hyper-parameters of each."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from descend.experiments.errors import UsageError

COLUMN = "checkpoint"
LEAST = 8
Setting: TypeAlias = str | float | int


@dataclass(frozen=True)
class Population:
    """Checkpoints, and what they were trained with.

    Attributes:
        checkpoints: files.
        settings: of each, by name; a column "seed" numbers repetitions of the same hyper-parameters.
    """

    checkpoints: tuple[Path, ...]
    settings: tuple[Mapping[str, Setting], ...]


def read(path: Path) -> Population:
    """Read a table of comma-separated values: a column `checkpoint`, and one for each hyper-parameter.

    Paths are relative to the table.

    Raises:
        UsageError: it cannot be read, or is no such table, or too small.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names, rows = list(reader.fieldnames or []), list(reader)
    except (OSError, UnicodeError, csv.Error) as error:
        raise UsageError(
            f"population {path} cannot be read ({error}); give a table of comma-separated values"
        ) from error
    if COLUMN not in names or len(names) < 2:
        raise UsageError(
            f"population {path} has the columns {', '.join(names) or 'none'}; give one named {COLUMN!r}, and one for "
            "each hyper-parameter that its network was trained with"
        )
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise UsageError(f"population {path} has the column {twice[0]!r} twice; give each hyper-parameter one column")
    if len(rows) < LEAST:
        raise UsageError(
            f"population {path} has too few networks ({len(rows)}); give {LEAST} or more, fewer have no order"
        )
    for number, row in enumerate(rows, 2):
        if None in row or any(row[name] in (None, "") for name in names):
            raise UsageError(f"population {path} has a value too few or too many in line {number}; mend that line")
    settings = tuple({name: _value(row[name]) for name in names if name != COLUMN} for row in rows)
    _check_axis(path, settings)
    return Population(tuple(path.parent / row[COLUMN] for row in rows), settings)


def _check_axis(path: Path, settings: Iterable[Mapping[str, Setting]]) -> None:
    """Refuse a population none of whose networks differ in one hyper-parameter alone, before any is measured."""
    rows = list(settings)
    names = [name for name in rows[0] if name != "seed"]
    for varying in names:
        groups: dict[tuple[Setting, ...], set[Setting]] = {}
        for row in rows:
            alike = tuple(row[name] for name in row if name != varying)
            groups.setdefault(alike, set()).add(row[varying])
        if any(len(values) > 1 for values in groups.values()):
            return
    raise UsageError(
        f"population {path} has no two networks that differ in one hyper-parameter alone, with the same seed if there "
        "is one; leave out columns that no two of them share"
    )


def _value(text: str) -> Setting:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.strip()
