"""`export_rule`: what a search found, as a Python file."""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from descend.commands.needs import check_writable


@dataclass(frozen=True)
class Exported:
    """A rule that was written as a Python file.

    Attributes:
        path: the file.
        usage: lines of Python that make its optimizer.
    """

    path: Path
    usage: str


def export_rule(run: str | Path, rank: int, *, out: str | Path | None = None, name: str | None = None) -> Exported:
    """Write a rule of a finished search as a Python file that is ready to import, its rate being the default one.

    Args:
        run: directory of the search.
        rank: its place on the leaderboard, from 1.
        out: the file, which must not be there; by default the rule's name with .py.
        name: of the function; by default "found" with the rank.

    Raises:
        UsageError: the rank is out of range or that of a rule that the library has, or the name is none.
        RunError: there is no finished search, or the file is there or cannot be written.
    """
    from descend.experiments import run_directory
    from descend.experiments.errors import RunError, UsageError
    from descend.search import document as documents
    from descend.search.run import SEARCH, space

    results = run_directory.read_results(Path(run), SEARCH)
    rows, options = results["leaderboard"], results["manifest"]["options"]
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= len(rows):
        raise UsageError(f"rank is {rank}; the leaderboard has the ranks 1 to {len(rows)}")
    row = rows[rank - 1]
    if row["is_known"]:
        arguments = "".join(f", {key}={value!r}" for key, value in row["hyper_parameters"].items())
        call = f"descend.{row['title']}(model.parameters(), lr={row['rate']:.3g}{arguments})"
        raise UsageError(f"rank {rank} is {row['title']}, which the library has: {call}")
    called = _checked_name(row["name"] if name is None else name)
    path = Path(f"{called}.py" if out is None else out)
    if path.exists():
        raise RunError(f"{path} exists; give another file with --out")
    check_writable(path)
    chosen = space(options["space"], options["depth"], options["decays"])
    member = chosen.decode(row["member"])
    source = documents.source(chosen, member, called, documents.said(row, options), row["rate"])
    run_directory.write_text(path, source)
    return Exported(path, _usage(path, called, row))


def _checked_name(name: str) -> str:
    from descend.experiments.errors import UsageError
    from descend.rules import catalog
    from descend.search.source import WORDS

    if not name.isidentifier() or keyword.iskeyword(name) or name in WORDS or name == "rule":
        raise UsageError(f"name is {name!r}; give a name that Python takes and the language of rules does not have")
    if name in catalog():
        raise UsageError(f"name is {name!r}, which is one of ours; give another")
    return name


def _usage(path: Path, name: str, row: Mapping[str, Any]) -> str:
    """Python lines that make an optimizer of an exported rule."""
    driven = "".join(f", {key}=schedules.{text}" for key, text in row["schedules"].items())
    lines = [
        "import descend",
        *(["from descend import schedules"] if driven else []),
        f"from {path.stem} import {name}",
    ]
    if driven:
        lines += ["", "steps = ...  # of the whole training"]
    return "\n".join([*lines, "", f"opt = descend.Optimizer(model.parameters(), {name}, lr={row['rate']:.3g}{driven})"])
