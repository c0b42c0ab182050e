"""`report`: pages of finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from descend.commands.needs import FOR_REPORTS, require


def report(runs: Sequence[str | Path], *, out: str | Path | None = None) -> Path:
    """Write the report of a finished run anew; or of several runs one that shows what changed between them.

    Args:
        runs: directories of finished runs, or the `results.json` in them. Each is compared with the first of its task.
        out: an HTML file; by default `report.html` in the one run, or `joined.html` here, which replaces nothing but an
            earlier one. The data of joined runs go into a JSON file beside it.

    Returns:
        The page.

    Raises:
        ModuleNotFoundError: a package of the lab extra is missing.
        UsageError: no run is given.
        RunError: a run is missing, not finished, damaged, of a newer format or given twice, or `out` cannot be written.
    """
    require(FOR_REPORTS)
    from descend import report as pages
    from descend.experiments.errors import RunError, UsageError

    if isinstance(runs, (str, Path)) or not runs:
        raise UsageError("runs: give a list of one run or more, such as runs/demo")
    try:
        if len(runs) == 1:
            return pages.write(runs[0], out)
        return pages.join(runs, "joined.html" if out is None else out)
    except ValueError as error:
        raise RunError(str(error)) from error
    except OSError as error:  # one of ours speaks for itself, one of the system names the file
        remedy = f"{error.filename}: {error.strerror}; --out names another file for the page"
        raise RunError(remedy if error.filename else str(error)) from error
