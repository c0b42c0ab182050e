"""What commands print, and that it was printed."""

import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from descend import commands

if TYPE_CHECKING:
    from rich.console import Console

_PLAIN_WIDTH = 110


@contextmanager
def output() -> Iterator[None]:
    """Print, and let it fail here where it cannot be written, not when Python ends."""
    from descend.experiments.errors import RunError

    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # takes what is still in the buffer
        if isinstance(error, BrokenPipeError):  # its reader has seen enough
            sys.exit(1)
        raise RunError(f"the output cannot be written ({error.strerror})") from error


def console() -> "Console":
    """Return where tables and progress go: the terminal, or lines of a fixed width."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=_PLAIN_WIDTH)


def print_comparison(console: "Console", comparison: commands.Comparison) -> None:
    """Print a comparison's table, its caveats, and where its page is."""
    from descend.experiments.console import table

    console.print(table(comparison.results, console.width))
    _print_lines(console, [*_listed(comparison.results["caveats"]), f"\nreport: {comparison.report}", comparison.note])


def print_study(console: "Console", study: commands.Study) -> None:
    """Print a study's tables, what it found, its caveats, and where its page is."""
    from descend.experiments.ensemble_study.tables import tables

    for table in tables(study.results, console.width):
        console.print(table)
    found = [*study.results["findings"], "", *_listed(study.results["caveats"]), f"\nreport: {study.report}"]
    _print_lines(console, found)


def print_diagnosis(console: "Console", found: commands.Diagnosed) -> None:
    """Print a diagnosis's table, what it found, its caveats, and where its page is."""
    from descend.experiments.diagnosis.tables import table

    console.print(table(found.results, console.width))
    caveats = [f"{name}: {line}" for name, lines in found.results["caveats"].items() for line in lines]
    _print_lines(console, ["", *found.results["findings"], "", *_listed(caveats), f"\nreport: {found.report}"])


def print_meta_training(console: "Console", found: commands.MetaTrained) -> None:
    """Print how a learned optimizer stands beside rules, what was found, its caveats, and where its files are."""
    from descend.learned.tables import tables

    for table in tables(found.results, console.width):
        console.print(table)
    files = [f"\nweights: {found.weights}", f"report: {found.report}"]
    _print_lines(console, ["", *found.results["findings"], "", *_listed(found.results["caveats"]), *files])


def print_search(console: "Console", found: commands.Search) -> None:
    """Print a search's tables, what it found, its caveats, where its files are, and how to have a rule of it."""
    from descend.search.showing import tables

    for table in tables(found.results, console.width):
        console.print(table)
    rank = next((row["rank"] for row in found.results["leaderboard"] if not row["is_known"]), None)
    how = f"descend search export {shlex.quote(str(found.directory))} {rank}"
    told = ["", *found.results["findings"], "", *_listed(found.results["caveats"]), f"\nreport: {found.report}"]
    _print_lines(console, [*told, "" if rank is None else f"a rule as a Python file: {how}"])


def _listed(lines: Sequence[str]) -> list[str]:
    return [f"- {line}" for line in lines]


def _print_lines(console: "Console", lines: Sequence[str]) -> None:
    for line in lines[:-1] if not lines[-1] else lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def print_cache(kept: commands.Cache, clear: bool) -> None:
    """Print the kernels in the cache, and how many were removed."""
    width = max((len(kernel.title) for kernel in kept.kernels), default=0)
    now = time.time()
    for kernel in kept.kernels:
        ages = f"compiled {_ago(now - kernel.created)}, used {_ago(now - kernel.used)}"
        print(f"  {kernel.title:<{width}}  {kernel.bytes / 1024:6.1f} KiB  {ages}")
    if clear:
        print(f"{_kernels(kept.removed)} removed from {kept.directory}")
    if kept.kernels or not clear:
        size = sum(kernel.bytes for kernel in kept.kernels) / 1024
        print(f"{_kernels(len(kept.kernels))}, {size:.1f} KiB, in {kept.directory}")


def _kernels(count: int) -> str:
    return f"{count} kernel" + ("" if count == 1 else "s")


def _ago(seconds: float) -> str:
    """Write an age in the largest unit that it fills."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"
