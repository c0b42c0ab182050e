"""Reading the file `meta-train.json` of a learned optimizer; what does not fit the format is named with its place."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from descend.report.decoding import decode
from descend.report.files import document
from descend.report.meta_results import FORMAT, MetaResults


def read(path: Path) -> MetaResults:
    """Read a `meta-train.json` and check it against the format.

    Raises FileNotFoundError where there is none, ValueError where it is damaged, of a newer format or of another kind;
    all name the file and the remedy.
    """
    missing = "give the directory of a finished meta-training, or finish it by repeating its command"
    data = document(path, FORMAT, "meta-training", missing=missing, damaged=_damaged)
    if data.get("kind") != "meta-train":
        raise ValueError(f"{path} is not of a meta-training; give the meta-train.json of one")
    try:
        results: MetaResults = decode(MetaResults, data)
        _check(results)
    except ValueError as error:
        raise ValueError(_damaged(path, str(error))) from None
    return results


def _damaged(path: Path, why: str) -> str:
    return f"{path} is damaged: {why}; repeat the run's command, with --fresh if it reports it as finished"


def _check(results: MetaResults) -> None:
    """Raise ValueError where numbers that belong together do not, or where nothing could be drawn."""
    for index, curve in enumerate(results.curves):
        if any(len(point) != 2 or point[0] is None for point in curve.points):
            raise ValueError(f"curves[{index}] has a point that is not episode and score")
        if any(after[0] <= before[0] for before, after in pairwise(curve.points)):  # type: ignore[operator]
            raise ValueError(f"curves[{index}] has episodes that do not rise")
    for index, one in enumerate(results.comparisons):
        if not one.rows:
            raise ValueError(f"comparisons[{index}] has no rows")
