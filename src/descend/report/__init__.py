"""The report of a run: one HTML file that needs no network and no script.

    descend.report.write("runs/demo")    # reads results.json there, writes report.html beside it

Importing this module is cheap; the libraries that draw are loaded when a report is written.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["write"]


def write(run: Path | str) -> Path:
    """Write `report.html` at the top of a run directory from its `results.json`, and return its path.

    The same results give the same bytes. A report that is there is replaced, in one step.

    Raises FileNotFoundError where `results.json` is missing, ValueError where it is damaged or of a newer format, and
    ModuleNotFoundError without the `lab` extra.
    """
    from descend.report.results import read

    folder = Path(run)
    results = read(folder / "results.json")
    try:
        from descend.report.page import render
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"a report needs {error.name}, which the lab extra brings: pip install 'descend[lab]'", name=error.name
        ) from None
    target, unfinished = folder / "report.html", folder / f".report-{os.getpid()}.html"
    try:
        unfinished.write_text(render(results), encoding="utf-8")
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)
    return target
