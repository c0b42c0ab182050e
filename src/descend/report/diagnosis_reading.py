"""Reading the file `diagnosis.json` of a diagnosis; what does not fit the format is named with its place."""

from __future__ import annotations

from pathlib import Path

from descend.report.decoding import decode
from descend.report.diagnosis_results import FORMAT, Diagnosis
from descend.report.files import document


def read(path: Path) -> Diagnosis:
    """Read a `diagnosis.json` and check it against the format.

    Raises FileNotFoundError where there is none, ValueError where it is damaged, of a newer format or of another kind;
    all name the file and the remedy.
    """
    missing = "give the directory of a finished diagnosis, or finish the diagnosis by repeating its command"
    data = document(path, FORMAT, "diagnosis", missing=missing, damaged=_damaged)
    if data.get("kind") != "diagnosis":
        raise ValueError(f"{path} is not of a diagnosis; give the diagnosis.json of one")
    try:
        results: Diagnosis = decode(Diagnosis, data)
        _check(results)
    except ValueError as error:
        raise ValueError(_damaged(path, str(error))) from None
    return results


def _damaged(path: Path, why: str) -> str:
    return f"{path} is damaged: {why}; repeat the diagnosis's command, with --fresh if it reports it as finished"


def _check(results: Diagnosis) -> None:
    """Raise ValueError where numbers that belong together do not."""
    if not results.solutions:
        raise ValueError("solutions is empty")
    for index, one in enumerate(results.spectra):
        if len(one.values) != len(one.residuals):
            raise ValueError(f"spectra[{index}] has {len(one.values)} values and {len(one.residuals)} residuals")
    for index, density in enumerate(results.densities):
        if not len(density.grid) == len(density.values) == len(density.errors) or len(density.grid) < 2:
            raise ValueError(f"densities[{index}] has a grid, values and errors of different lengths")
    for index, line in enumerate(results.lines):
        if (
            len(line.amounts) != len(line.losses)
            or len(line.amounts) < 2
            or (line.errors and len(line.errors) != len(line.amounts))
        ):
            raise ValueError(f"lines[{index}] has amounts, losses and errors of different lengths")
        if len(line.ends) not in (0, 2):
            raise ValueError(f"lines[{index}].ends has {len(line.ends)} names, not none or two")
    for index, surface in enumerate(results.surfaces):
        is_grid = len(surface.losses) == len(surface.ys) and all(len(row) == len(surface.xs) for row in surface.losses)
        if not is_grid or min(len(surface.xs), len(surface.ys)) < 2:
            raise ValueError(f"surfaces[{index}].losses is no grid of xs and ys")
        if any(len(point) != 4 for point in surface.way):
            raise ValueError(f"surfaces[{index}].way has a point that is not step, x, y and distance")
