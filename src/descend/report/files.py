"""The files of a run that a report is made from, and where it is written to."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def results_of(run: Path) -> Path:
    """The `results.json` of a run: of its directory, or the file itself.

    Raises FileNotFoundError where there is no run, or none that is finished; ValueError for another kind of file.
    """
    path = document_of(run, "results.json", "a finished run")
    if path == run or path.exists():
        return path
    if not (run / "manifest.json").exists():
        raise FileNotFoundError(f"{path} does not exist; give the directory of a finished run")
    raise FileNotFoundError(f"{run} holds a run that is not finished; finish it with{_command(run)}")


def document_of(run: Path, name: str, what: str) -> Path:
    """A document of a run: in its directory, or the file itself.

    Args:
        run: the directory or the file.
        name: of the document in a directory.
        what: a directory is of, for messages.

    Raises FileNotFoundError where there is none of these; ValueError for another kind of file.
    """
    if not run.exists():
        raise FileNotFoundError(f"{run} does not exist; give the directory of {what}")
    if run.is_dir():
        return run / name
    if run.suffix != ".json":
        raise ValueError(f"{run} is no run; give the directory of {what}, or the {name} in it")
    return run


def _command(run: Path) -> str:
    """The command that the manifest of a run holds, as the end of a sentence."""
    try:
        return f":\n  {json.loads((run / 'manifest.json').read_text(encoding='utf-8'))['command']}"
    except (OSError, ValueError, KeyError, TypeError):
        return " the command that began it"


def place_of(results: Path) -> Path:
    """What a run is called by: its directory, or the file where it does not have the usual name."""
    return results.parent if results.name == "results.json" else results


def names(places: Sequence[Path]) -> list[str]:
    """For each path as much of its end as tells it from the others; the paths differ."""
    parts = [place.resolve().parts for place in places]
    return [_name(own, parts) for own in parts]


def _name(own: tuple[str, ...], all_parts: Sequence[tuple[str, ...]]) -> str:
    depth = 1
    while sum(parts[-depth:] == own[-depth:] for parts in all_parts) > 1:
        depth += 1
    return Path(*own[-depth:]).as_posix()


def page_at(out: Path) -> Path:
    """A path that a page may be written to.

    Raises ValueError where it does not end in `.html`, FileNotFoundError where its folder is missing.
    """
    if out.is_dir() or out.suffix != ".html":
        better = out / "page.html" if out.is_dir() else out.with_suffix(".html")
        raise ValueError(f"out is {out}, which names no HTML file; name one, such as {better}")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"out is {out}, but there is no folder {out.parent}; make it, or name another file")
    return out


def data_beside(page: Path) -> Path:
    """Where the data of a joined page go: beside it, under its name.

    Raises ValueError where that would replace something other than the page and the data of joined runs.
    """
    data = page.with_suffix(".json")
    if (page.exists() or data.exists()) and not _is_joined(data):
        there = data if data.exists() else page
        raise ValueError(
            f"{there} exists and is not of joined runs; name another file with --out, such as --out new.html"
        )
    return data


def _is_joined(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("kind") == "joined"


def document(
    path: Path, number: int, what: str, *, missing: str, damaged: Callable[[Path, str], str]
) -> dict[str, Any]:
    """The content of a JSON file that names its format.

    Args:
        path: of the file.
        number: the highest format that is read.
        what: made it, such as "run".
        missing: what to say where there is no such file, after its name.
        damaged: what to say of a damaged one, given its path and why.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or of a newer format.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist; {missing}") from None
    except UnicodeDecodeError as error:
        raise ValueError(damaged(path, f"it is not UTF-8 text ({error.reason})")) from None
    try:
        data = json.loads(text, parse_constant=lambda _: None)
    except json.JSONDecodeError as error:
        raise ValueError(damaged(path, f"it is not JSON (line {error.lineno}: {error.msg})")) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise ValueError(damaged(path, f"it cannot be read as JSON ({error})")) from None
    if not isinstance(data, dict) or type(data.get("format")) is not int or data["format"] < 1:
        raise ValueError(damaged(path, "it does not name its format"))
    if data.get("kind") == "joined":
        raise ValueError(f"{path} is of a joined report, which is not a run; give the runs that it joined")
    if data["format"] > number:
        raise ValueError(
            f"{path} has format {data['format']}, and this version of descend reads formats up to {number}; "
            f"build the report with the version of descend that made the {what}"
        )
    return data


def write(path: Path, text: str) -> None:
    """Write a file in one step: a reader sees the old one or the new one, never a part. An OSError names the file."""
    unfinished = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # not the name of what is unfinished
    finally:
        unfinished.unlink(missing_ok=True)
