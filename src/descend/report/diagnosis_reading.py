"""Reading the file `diagnosis.json` of a diagnosis; what does not fit the format is named with its place."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from descend.report.decoding import decode
from descend.report.diagnosis_measures import Density
from descend.report.diagnosis_results import FORMAT, Diagnosis, Line, Surface
from descend.report.diagnosis_understanding import Aligned, Disturbed, Memorized, Symmetry, UnitLayer
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
    """Raise ValueError where numbers that belong together do not, or where nothing could be drawn."""
    if not results.solutions:
        raise ValueError("solutions is empty")
    for index, one in enumerate(results.spectra):
        if len(one.values) != len(one.residuals):
            raise ValueError(f"spectra[{index}] has {len(one.values)} values and {len(one.residuals)} residuals")
    for index, density in enumerate(results.densities):
        _check_density(density, f"densities[{index}]")
    if results.rescaling is not None:
        alphas = [row.alpha for row in results.rescaling.rows]
        if alphas and (min(alphas) <= 0 or not _rises(alphas)):
            raise ValueError("rescaling.rows has values of alpha that are not positive and rising")
    for index, line in enumerate(results.lines):
        _check_line(line, f"lines[{index}]")
    for index, surface in enumerate(results.surfaces):
        _check_surface(surface, f"surfaces[{index}]")
    for index, training in enumerate(results.training):
        if training.steps < 1:
            raise ValueError(f"training[{index}].steps is {training.steps}, not a number of steps")
        for name, points in (("losses", training.losses), ("threshold", training.threshold)):
            if any(len(point) != 2 for point in points):
                raise ValueError(f"training[{index}].{name} has a point that is not step and value")
    _check_understanding(results)


def _check_understanding(results: Diagnosis) -> None:
    """The same of memorization, single directions, symmetry and rankings."""
    for index, memorized in enumerate(results.memorization):
        _check_memorized(memorized, f"memorization[{index}]")
    for index, disturbed in enumerate(results.directions):
        _check_disturbed(disturbed, f"directions[{index}]")
    for index, layer in enumerate(results.units):
        _check_units(layer, f"units[{index}]")
    if results.symmetry is not None:
        _check_symmetry(results.symmetry)
    for index, aligned in enumerate(results.alignments):
        _check_aligned(aligned, f"alignments[{index}]")
    for index, ranked in enumerate(results.rankings):
        if len({end is None for end in (ranked.psi, ranked.low, ranked.high)}) > 1:
            raise ValueError(f"rankings[{index}] has a psi without an interval, or an interval without a psi")


def _check_memorized(found: Memorized, place: str) -> None:
    if found.epochs < 1:
        raise ValueError(f"{place}.epochs is {found.epochs}, not a number of epochs")
    if any(len(point) != 3 for point in found.way):
        raise ValueError(f"{place}.way has a point that is not epoch, loss and accuracy")
    if not _rises([point[0] for point in found.way]):
        raise ValueError(f"{place}.way has epochs that do not rise")


def _check_disturbed(found: Disturbed, place: str) -> None:
    if not len(found.amounts) == len(found.means) == len(found.lows) == len(found.highs) or len(found.amounts) < 2:
        raise ValueError(f"{place} has amounts, means and intervals of different lengths, or of fewer than two points")
    if not _rises(found.amounts):
        raise ValueError(f"{place}.amounts do not rise")


def _check_units(found: UnitLayer, place: str) -> None:
    if not len(found.selectivity) == len(found.information) == len(found.importance):
        raise ValueError(f"{place} has selectivity, information and importance of different lengths")


def _check_symmetry(found: Symmetry) -> None:
    if any(len(point) != 2 for point in found.widths):
        raise ValueError("symmetry.widths has a point that is not width and logarithm")
    if not _rises([point[0] for point in found.widths]):
        raise ValueError("symmetry.widths do not rise")


def _check_aligned(found: Aligned, place: str) -> None:
    if not len(found.amounts) == len(found.losses_before) == len(found.losses_after) or len(found.amounts) < 2:
        raise ValueError(f"{place} has amounts and losses of different lengths, or of fewer than two points")
    if not _rises(found.amounts):
        raise ValueError(f"{place}.amounts do not rise")
    if len(found.ends) != 2:
        raise ValueError(f"{place}.ends has {len(found.ends)} names, not two")


def _check_density(density: Density, place: str) -> None:
    if not len(density.grid) == len(density.values) == len(density.errors) or len(density.grid) < 2:
        raise ValueError(f"{place} has a grid, values and errors of different lengths, or of fewer than two points")
    if len(density.moments) != len(density.moment_errors):
        raise ValueError(f"{place} has {len(density.moments)} moments and {len(density.moment_errors)} errors of them")
    if not _rises(density.grid):
        raise ValueError(f"{place}.grid does not rise")
    if density.width <= 0 or density.setting.parameters < 1:
        raise ValueError(f"{place} has a width or a number of parameters that is not positive")


def _check_line(line: Line, place: str) -> None:
    errors = len(line.errors) or len(line.amounts)
    if not len(line.amounts) == len(line.losses) == errors or len(line.amounts) < 2:
        raise ValueError(f"{place} has amounts, losses and errors of different lengths, or of fewer than two points")
    if not _rises(line.amounts):
        raise ValueError(f"{place}.amounts do not rise")
    if len(line.ends) not in (0, 2):
        raise ValueError(f"{place}.ends has {len(line.ends)} names, not none or two")


def _check_surface(surface: Surface, place: str) -> None:
    is_grid = len(surface.losses) == len(surface.ys) and all(len(row) == len(surface.xs) for row in surface.losses)
    if not is_grid or min(len(surface.xs), len(surface.ys)) < 2:
        raise ValueError(f"{place}.losses is no grid of xs and ys")
    if not _rises(surface.xs) or not _rises(surface.ys):
        raise ValueError(f"{place} has xs or ys that do not rise")
    if any(len(point) != 4 for point in surface.way):
        raise ValueError(f"{place}.way has a point that is not step, x, y and distance")


def _rises(values: Sequence[float]) -> bool:
    return all(before < after for before, after in pairwise(values))
