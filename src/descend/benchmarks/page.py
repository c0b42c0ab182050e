"""Tables of results in Markdown, with the machine that they come from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from descend.backends import compiler
from descend.experiments.manifest import hardware, versions


@dataclass(frozen=True)
class Row:
    """A line of a table.

    Attributes:
        cells: what it says, a text per column.
        held: whether the target is met; None where there is none.
        slower: whether we are slower than the best of torch's.
    """

    cells: tuple[str, ...]
    held: bool | None = None
    slower: bool = False

    @property
    def verdict(self) -> str:
        """The last cell: what is lost stands in bold."""
        words = {True: "met", False: "**missed**", None: "-"}[self.held]
        return f"{words}, **slower than torch**" if self.slower else words


@dataclass
class Table:
    """What was measured of one subject.

    Attributes:
        title: of the subject.
        about: what is measured and how it is held to what.
        columns: their headings; the one of the verdicts is added.
        rows: the lines.
    """

    title: str
    about: str
    columns: tuple[str, ...]
    rows: list[Row] = field(default_factory=list)

    def markdown(self) -> str:
        """The table under its title."""
        lines = [self._line([*self.columns, "target"]), "|" + "---|" * (len(self.columns) + 1)]
        lines += [self._line([*row.cells, row.verdict]) for row in self.rows]
        return "\n".join([f"## {self.title}", "", self.about, "", *lines])

    @staticmethod
    def _line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"


@dataclass(frozen=True)
class Page:
    """All tables of a run.

    Attributes:
        machine: what they were measured on, in a sentence.
        tables: in their order.
        notes: what was left out, and why.
        quick: whether it is a screening.
    """

    machine: str
    tables: Sequence[Table]
    notes: Sequence[str] = ()
    quick: bool = False

    def markdown(self) -> str:
        """The page, as `docs/benchmarks.md` has it."""
        head = ["# Benchmarks", "", "Written by `descend bench`, on " + self.machine, "", _METHOD]
        if self.quick:
            head += ["", "**A screening: few rounds and few rules, no claim.**"]
        held = [row.held for table in self.tables for row in table.rows if row.held is not None]
        slower = sum(row.slower for table in self.tables for row in table.rows)
        count = f"Of {len(held)} targets {held.count(True)} are met and {held.count(False)} are missed"
        head += ["", f"{count}; {slower} rows are slower than the best of torch's."]
        notes = ["", "## Left out", "", *(f"- {note}" for note in self.notes)] if self.notes else []
        return "\n".join([*head, *(f"\n{table.markdown()}" for table in self.tables), *notes]) + "\n"


_METHOD = (
    "All contestants of a row are timed in turns in one run, and who begins changes from round to round; times are "
    "medians, with quartiles in brackets; n is the number of rounds. Ratios are our time over another's, so that less "
    "is better and 1 is equal. Every contestant has its own parameters, gradients and state, in float32 unless a row "
    "says otherwise, and its own default hyper-parameters."
)


def machine() -> str:
    """Processor, cores, memory and versions, and how busy the machine was before."""
    found, software = hardware(), versions()
    parts = [f"{found['cpu']} ({found['cores']} cores, {found['memory_gib']} GiB)", f"torch {torch.__version__}"]
    parts += [f"numpy {np.__version__}", compiler.version() or "no compiler", f"Python {software['python']}"]
    return f"{', '.join(parts)}; load average {os.getloadavg()[0]:.1f} as it began."


def milliseconds(seconds: float) -> str:
    """A time with three digits."""
    number = seconds * 1e3
    return f"{number:,.0f}" if number >= 100 else f"{number:#.3g}"


def count(number: int) -> str:
    """A number of elements or tensors: 32 M, 11.7 M, 2,000."""
    return f"{number / 1e6:.3g} M" if number >= 1_000_000 else f"{number:,}"
