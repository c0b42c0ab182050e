"""A run of the benchmarks: the subjects by name, and the page that is made of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Final

from descend import optim
from descend.benchmarks import bandwidth, cases, contestants, curvature, footprint, page, searching
from descend.benchmarks.page import Page, Table
from descend.benchmarks.settings import Settings
from descend.benchmarks.targets import Sizes

Subject = Callable[[str, Settings], Table]
SUBJECTS: Final[dict[str, Subject]] = {
    "large": cases.against_torch,
    "model": cases.against_torch,
    "tensors": cases.against_torch,
    "groups": cases.against_torch,
    "bfloat16": cases.low_precision,
    "clip-ema": cases.clip_and_average,
    "norms": cases.whole_tensors,
    "matrices": cases.opaque_calls,
    "bandwidth": bandwidth.bandwidth,
    "memory": footprint.memory,
    "first-step": footprint.first_steps,
    "search": searching.search,
    "curvature": curvature.curvature,
}
"""What can be measured, by name, in the order of the page."""
THREADS: Final = (1, 2)
ROUNDS: Final = 15
QUICK_ROUNDS: Final = 5
QUICK_RULES: Final = ("AdamW", "RMSprop", "NAdam")


def default_rules() -> tuple[str, ...]:
    """AdamW, and every rule that torch has without fusing it."""
    return ("AdamW", *(name for name in contestants.comparable() if not contestants.is_fused_in_torch(name)))


def settle(
    *,
    quick: bool = False,
    threads: Sequence[int] | None = None,
    rounds: int | None = None,
    rules: Sequence[str] | None = None,
    heavyball: bool = False,
    sizes: Sizes | None = None,
    progress: Callable[[str], None] | None = None,
) -> Settings:
    """The settings of a run, with defaults for what is not given.

    Raises:
        ValueError: for a rule that torch does not have, and for no thread, more threads than cores, or no round.
    """
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    numbers = tuple(n for n in THREADS if n <= cores) if threads is None else tuple(threads)
    times = (QUICK_ROUNDS if quick else ROUNDS) if rounds is None else rounds
    if not numbers or min(numbers) < 1:
        raise ValueError(f"threads is {', '.join(map(str, numbers)) or 'empty'}; give numbers from 1, such as 1,2")
    if max(numbers) > cores:
        raise ValueError(f"threads is {', '.join(map(str, numbers))}; this machine has {cores} cores for this process")
    if times < 1:
        raise ValueError(f"rounds is {times}; give 1 or more")
    if rules is None:
        chosen = QUICK_RULES if quick else default_rules()
    else:
        chosen = tuple(dict.fromkeys(optim.by_name(name).__name__ for name in rules))
    unknown = [name for name in chosen if name not in contestants.comparable()]
    if unknown or not chosen:
        known = ", ".join(contestants.comparable())
        what = f"torch has no {unknown[0]} to compare with" if unknown else "no rule named"
        raise ValueError(f"{what}; give some of {known}")
    return Settings(
        rules=chosen,
        threads=numbers,
        rounds=times,
        heavyball=heavyball,
        all_rules=rules is None and not quick,
        sizes=sizes or Sizes(),
        progress=progress or (lambda message: None),
    )


def run(settings: Settings, subjects: Sequence[str] | None = None, *, quick: bool = False) -> Page:
    """Measure subjects, all by default.

    Args:
        settings: what is measured and how often.
        subjects: keys of `SUBJECTS`.
        quick: label the page as a screening.

    Raises:
        ValueError: for an unknown subject.
    """
    chosen = list(SUBJECTS) if subjects is None else list(dict.fromkeys(subjects))
    unknown = [name for name in chosen if name not in SUBJECTS]
    if unknown or not chosen:
        raise ValueError(f"there is no case {unknown[0] if unknown else ''!r}; give some of {', '.join(SUBJECTS)}")
    machine = page.machine()
    tables = [SUBJECTS[name](name, settings) for name in chosen]
    return Page(machine, tables, settings.notes, quick)
