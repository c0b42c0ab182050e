"""`bench`: steps timed beside torch's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from descend.commands.needs import check_writable

if TYPE_CHECKING:
    from descend.benchmarks.targets import Sizes


def bench(
    *,
    quick: bool = False,
    threads: Sequence[int] | None = None,
    rounds: int | None = None,
    cases: Sequence[str] | None = None,
    rules: Sequence[str] | None = None,
    heavyball: bool = False,
    sizes: Sizes | None = None,
    out: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> str:
    """Measure steps beside torch's and beside the memory's bandwidth, and what a first step takes.

    Args:
        quick: fewer rounds and rules, labelled as a screening.
        threads: the numbers of threads, none above the number of cores (1 and 2).
        rounds: how often each contestant is timed (15; quick: 5); short steps take twice as many.
        cases: some of "large", "model", "tensors", "groups", "bfloat16", "clip-ema", "norms", "bandwidth", "memory",
            "first-step", which measures SGD too, to open with, "search" and "curvature"; by default all.
        rules: names of rules that torch has too; by default AdamW and all that torch has not fused (quick: two).
        heavyball: measure HeavyBall too, whose compilation takes minutes.
        sizes: how much is stepped; the targets are for the default.
        out: a file for the page.
        progress: is told what is measured next.

    Returns:
        The tables in Markdown.

    Raises:
        UsageError: a rule or a case is unknown, or a number too small.
        RunError: the file cannot be written, or a process that measures failed.
    """
    from descend.benchmarks import run
    from descend.experiments.errors import RunError, UsageError

    check_writable(out)
    try:
        settings = run.settle(
            quick=quick,
            threads=threads,
            rounds=rounds,
            rules=rules,
            heavyball=heavyball,
            sizes=sizes,
            progress=progress,
        )
        page = run.run(settings, cases, quick=quick).markdown()
    except ValueError as error:
        raise UsageError(str(error)) from error
    except ChildProcessError as error:
        raise RunError(str(error)) from error
    if out is not None:
        Path(out).write_text(page)
    return page
