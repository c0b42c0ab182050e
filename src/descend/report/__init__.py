"""The report of a run: one HTML file that needs no network and no script, and reports of several runs.

    descend.report.write("runs/demo")                        # reads results.json there, writes report.html beside it
    descend.report.join(["runs/one", "runs/two"])            # writes joined.html and joined.json
    descend.report.write_ensemble("runs/demo")               # reads ensemble.json there, writes ensemble.html
    descend.report.write_search("runs/search")               # reads search.json there, writes search.html
    descend.report.write_diagnosis("runs/mine")              # reads diagnosis.json, writes a page for each instrument
    descend.report.write_meta_training("runs/learned")       # reads meta-train.json there, writes meta-train.html
    descend.report.schema()                                  # of results.json, as a dict

Importing this module is cheap; the libraries that draw are loaded when a report is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

__all__ = ["join", "schema", "write", "write_diagnosis", "write_ensemble", "write_meta_training", "write_search"]


def write(run: Path | str, out: Path | str | None = None) -> Path:
    """Write the report of a finished run from its `results.json`, and return its path.

    The same results give the same bytes. A report that is there is replaced, in one step.

    Args:
        run: its directory, or the `results.json` in it.
        out: an HTML file; by default `report.html` beside the results.

    Raises:
        FileNotFoundError: there is no run, it is not finished, or the folder of `out` is missing.
        ValueError: the results are damaged or of a newer format, or `out` does not end in `.html`.
        OSError: the report cannot be written.
        ModuleNotFoundError: without the `lab` extra.
    """
    from descend.report import files
    from descend.report.results import read

    return _write(files.results_of(Path(run)), "report.html", out, read, "page")


def write_ensemble(run: Path | str, out: Path | str | None = None) -> Path:
    """Write the page of a finished study of snapshots from its `ensemble.json`, and return its path.

    The same results give the same bytes. A page that is there is replaced, in one step.

    Args:
        run: the directory of the run, or the `ensemble.json` in it.
        out: an HTML file; by default `ensemble.html` beside the results.

    Raises:
        FileNotFoundError: there is no run, its snapshots were not studied, or the folder of `out` is missing.
        ValueError: the results are damaged or of a newer format, or `out` does not end in `.html`.
        OSError: the page cannot be written.
        ModuleNotFoundError: without the `lab` extra.
    """
    from descend.report import files
    from descend.report.ensemble_reading import read

    path = files.document_of(Path(run), "ensemble.json", "a run with a study of its snapshots")
    return _write(path, "ensemble.html", out, read, "ensemble_page")


def write_search(run: Path | str, out: Path | str | None = None) -> Path:
    """Write the page of a finished search for rules from its `search.json`, and return its path.

    The same results give the same bytes. A page that is there is replaced, in one step. Its links to the reports of
    held-out tasks lead from the directory of the run.

    Args:
        run: the directory of the run, or the `search.json` in it.
        out: an HTML file; by default `search.html` beside the results.

    Raises:
        FileNotFoundError: there is no run, it is not finished, or the folder of `out` is missing.
        ValueError: the results are damaged or of a newer format, or `out` does not end in `.html`.
        OSError: the page cannot be written.
        ModuleNotFoundError: without the `lab` extra.
    """
    from descend.report import files
    from descend.report.search_reading import read

    path = files.document_of(Path(run), "search.json", "a finished search")
    return _write(path, "search.html", out, read, "search_page")


def write_diagnosis(run: Path | str, out: Path | str | None = None) -> Path:
    """Write the pages of a finished diagnosis from its `diagnosis.json`, and return the path of the first of them.

    The first leads to a page for each instrument, beside it: `diagnosis.html` to `diagnosis-trace.html`. The same
    results give the same bytes. Pages that are there are replaced, each in one step, the first one last.

    Args:
        run: the directory of the run, or the `diagnosis.json` in it.
        out: the HTML file of the first page; by default `diagnosis.html` in the directory of the run.

    Raises:
        FileNotFoundError: there is no run, or it is not finished, or the folder of `out` is missing.
        ValueError: the results are damaged or of a newer format; or `out` is no HTML file.
        OSError: a page cannot be written.
        ModuleNotFoundError: without the `lab` extra.
    """
    from descend.report import files
    from descend.report.diagnosis_reading import read

    path = files.document_of(Path(run), "diagnosis.json", "a finished diagnosis")
    target = path.with_name("diagnosis.html") if out is None else files.page_at(Path(out))
    results = read(path)
    try:
        from descend.report.diagnosis_page import pages
    except ModuleNotFoundError as error:
        raise _needs(error) from None
    for name, text in pages(results, target.stem).items():
        files.write(target.with_name(name), text)
    return target


def write_meta_training(run: Path | str, out: Path | str | None = None) -> Path:
    """Write the page of a finished meta-training from its `meta-train.json`, and return its path.

    The same results give the same bytes. A page that is there is replaced, in one step.

    Args:
        run: the directory of the run, or the `meta-train.json` in it.
        out: an HTML file; by default `meta-train.html` beside the results.

    Raises:
        FileNotFoundError: there is no run, it is not finished, or the folder of `out` is missing.
        ValueError: the results are damaged or of a newer format, or `out` does not end in `.html`.
        OSError: the page cannot be written.
        ModuleNotFoundError: without the `lab` extra.
    """
    from descend.report import files
    from descend.report.meta_reading import read

    path = files.document_of(Path(run), "meta-train.json", "a finished meta-training")
    return _write(path, "meta-train.html", out, read, "meta_page")


def _write(path: Path, usual: str, out: Path | str | None, read: Callable[[Path], Any], module: str) -> Path:
    """Write the page that a module renders of the results in a file, beside it by default, and return its path."""
    import importlib

    from descend.report import files

    target = path.with_name(usual) if out is None else files.page_at(Path(out))
    results = read(path)
    try:
        render = importlib.import_module(f"descend.report.{module}").render
    except ModuleNotFoundError as error:
        raise _needs(error) from None
    files.write(target, render(results))
    return target


def join(runs: Sequence[Path | str], out: Path | str = "joined.html") -> Path:
    """Write one page on several runs: what changed between them, and what that did to the results.

    Every run is compared with the first of its task. The data of the page go beside it, into a JSON file of its name.
    Neither replaces anything but the page and the data of an earlier join.

    Args:
        runs: directories of two or more finished runs, or the `results.json` in them.
        out: the HTML file.

    Returns:
        Its path.

    Raises:
        FileNotFoundError: a run is missing or not finished, or the folder of `out` is missing.
        ValueError: fewer than two runs, one given twice, one damaged or of a newer format; or `out` is something else.
        OSError: a file cannot be written.
        ModuleNotFoundError: without the `lab` extra.
    """
    import json
    from dataclasses import asdict

    from descend.report import files
    from descend.report.joined import joined
    from descend.report.results import read

    if isinstance(runs, (str, Path)) or len(runs) < 2:
        raise ValueError("runs: a join takes two runs or more; give a list of their directories")
    page = files.page_at(Path(out))
    data = files.data_beside(page)
    paths = [files.results_of(Path(run)) for run in runs]
    for place, path in enumerate(paths):
        if path.resolve() in [other.resolve() for other in paths[:place]]:
            raise ValueError(f"{runs[place]} is given twice; give each run once")
    names = files.names([files.place_of(path) for path in paths])
    found = dict(zip(names, map(read, paths), strict=True))
    try:
        from descend.report.joined_page import render

        whole = joined(found, [str(run) for run in runs])
    except ModuleNotFoundError as error:
        raise _needs(error) from None
    text = render(whole, found)
    files.write(data, json.dumps(asdict(whole), indent=1, allow_nan=False) + "\n")
    files.write(page, text)
    return page


def schema(
    of: Literal["results", "joined", "ensemble", "search", "diagnosis", "meta-train"] = "results",
) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of what commands write.

    Args:
        of: "results" for the `results.json` of a run, "joined" for the `joined.json` of a join,
            "ensemble" for the `ensemble.json` of a study of snapshots, "search" for the `search.json` of a search,
            "diagnosis" for the `diagnosis.json` of a diagnosis, "meta-train" for the `meta-train.json` of a learned
            optimizer.

    Raises:
        ValueError: `of` is none of them.
    """
    from descend.report import diagnosis_results, ensemble_results, joined, meta_results, results, search_results
    from descend.report.json_schema import schema_of

    kinds: dict[str, tuple[type, int]] = {
        "results": (results.Results, results.FORMAT),
        "joined": (joined.Joined, joined.FORMAT),
        "ensemble": (ensemble_results.EnsembleResults, ensemble_results.FORMAT),
        "search": (search_results.SearchResults, search_results.FORMAT),
        "diagnosis": (diagnosis_results.Diagnosis, diagnosis_results.FORMAT),
        "meta-train": (meta_results.MetaResults, meta_results.FORMAT),
    }
    if of not in kinds:
        raise ValueError(f"of is {of!r}; give one of {', '.join(kinds)}")
    kind, number = kinds[of]
    return schema_of(kind, of, number)


def _needs(error: ModuleNotFoundError) -> ModuleNotFoundError:
    return ModuleNotFoundError(
        f"a report needs {error.name}, which the lab extra brings: pip install 'descend[lab]'", name=error.name
    )
