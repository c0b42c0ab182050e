"""Reading the file `ensemble.json` of a study of snapshots; what does not fit the format is named with its place."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from descend.report.decoding import decode
from descend.report.ensemble_results import FORMAT, EnsembleResults, Optimizer, Plane
from descend.report.files import document


def read(path: Path) -> EnsembleResults:
    """Read an `ensemble.json` and check it against the format.

    Raises FileNotFoundError where there is none, ValueError where it is damaged or of a newer format; both name the
    file and the remedy.
    """
    missing = f"make it with: descend ensemble {path.parent}, or give the directory of another run"
    data = document(path, FORMAT, "study", missing=missing, damaged=_damaged)
    if data.get("kind") == "compare":
        raise ValueError(f"{path} is not of a study of snapshots; give the ensemble.json of one")
    try:
        results: EnsembleResults = decode(EnsembleResults, data)
        for place, optimizer in enumerate(results.optimizers):
            _check(optimizer, f"optimizers[{place}]")
    except ValueError as error:
        raise ValueError(_damaged(path, str(error))) from None
    return results


def _damaged(path: Path, why: str) -> str:
    return f"{path} is damaged: {why}; repeat descend ensemble {path.parent}, which makes it again from what it kept"


def _check(optimizer: Optimizer, place: str) -> None:
    """Raise ValueError where lists that belong together are not of one length."""
    for index, row in enumerate(optimizer.rows):
        if len(row.by_seed) != len(optimizer.seeds):
            raise ValueError(f"{place}.rows[{index}].by_seed has not one value for each of seeds")
    for index, one in enumerate(optimizer.diversity):
        _check_grid(one.pairwise, one.members, one.members, f"{place}.diversity[{index}].pairwise")
    if (found := optimizer.barriers) is not None:
        _check_grid(found.matrix, len(found.steps), len(found.steps), f"{place}.barriers.matrix")
        for index, line in enumerate(found.lines):
            if len(line.losses) != len(line.amounts) or len(line.errors) not in (0, len(line.amounts)):
                raise ValueError(f"{place}.barriers.lines[{index}] has not one value for each of amounts")
    if (plane := optimizer.plane) is not None:
        _check_plane(plane, f"{place}.plane")


def _check_plane(plane: Plane, place: str) -> None:
    if min(len(plane.xs), len(plane.ys)) < 2 or not _ascends(plane.xs) or not _ascends(plane.ys):
        raise ValueError(f"{place} has no grid")
    _check_grid(plane.losses, len(plane.ys), len(plane.xs), f"{place}.losses")
    if len(plane.steps) != 3:
        raise ValueError(f"{place}.steps does not hold three steps")
    _check_grid(plane.coordinates, 3, 2, f"{place}.coordinates")
    _check_grid(plane.way, len(plane.way), 4, f"{place}.way")


def _ascends(values: list[float]) -> bool:
    return all(before < after for before, after in pairwise(values))


def _check_grid(grid: list[Any], rows: int, columns: int, place: str) -> None:
    if len(grid) != rows or any(len(row) != columns for row in grid):
        raise ValueError(f"{place} is not {rows} lists of {columns}")
