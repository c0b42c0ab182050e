"""What the pages of instruments are made of: charts, tables, and the conditions under which numbers were measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from descend.report.diagnosis_measures import Setting
from descend.report.formats import number, rate

_FOLDED = 12
"""Rows, from which on a table is folded away."""
STATISTICS = {
    "none": "",
    "fixed": " The statistics of batch normalization are the solution's.",
    "recomputed": " The statistics of batch normalization are computed anew at every point.",
}
"""What is said of how losses on lines and planes treat batch normalization."""


@dataclass(frozen=True)
class Table:
    """Numbers of a part.

    Attributes:
        title: of a table that is not the only one; empty for one that is.
        heads: of the columns.
        rows: of cells in words; the first names the row.
        words: columns that hold words, which stand at the left.
    """

    title: str
    heads: list[str]
    rows: list[list[str]]
    words: frozenset[int] = frozenset({0})

    @property
    def is_folded(self) -> bool:
        """Whether it is too long to stand open."""
        return len(self.rows) > _FOLDED


@dataclass(frozen=True)
class Part:
    """Charts with tables under them.

    Attributes:
        title: of the part.
        line: what it came to, in a few words.
        charts: with their captions.
        tables: the numbers.
        said: what was measured, in sentences.
        keys: of a chart's lines: name, colour, and whether the line is dashed.
    """

    title: str
    line: str
    charts: list[tuple[str, Markup]]
    tables: list[Table]
    said: list[str]
    keys: list[tuple[str, int, bool]] = field(default_factory=list)


def drawn(*found: tuple[str, Markup | None]) -> list[tuple[str, Markup]]:
    """Charts with their captions, but for those with nothing to draw."""
    return [(caption, chart) for caption, chart in found if chart is not None]


def value(of: float | None) -> str:
    """A number that was measured."""
    return "not finite" if of is None else number(of)


def interval(low: float | None, high: float | None) -> str:
    """The ends of an interval; a dash where there is none."""
    return "–" if low is None or high is None else f"{number(low)} to {number(high)}"


def answer(yes: bool) -> str:
    """Yes or no."""
    return "yes" if yes else "no"


def capital(text: str) -> str:
    """A text that begins as a sentence does."""
    return text[:1].upper() + text[1:]


def conditions(found: Sequence[tuple[str, Setting]]) -> list[str]:
    """What rows of a table were measured on: a sentence for all, or for each name where they differ.

    Notes that only some of the rows have are left to `with_notes`.
    """
    common = _common([setting for _, setting in found])
    names: dict[str, list[str]] = {}
    for name, setting in found:
        own = names.setdefault(_said(setting), [])
        if name not in own:
            own.append(name)
    several = len(names) > 1
    sentences = [
        f"{capital('; '.join(own))}: {said}." if several else f"{capital(said)}." for said, own in names.items()
    ]
    return [*sentences, *(f"{capital(note)}." for note in common)]


def with_notes(table: Table, settings: Sequence[Setting]) -> Table:
    """The table of rows with these settings, with a column for the notes that not all of them have."""
    common = _common(settings)
    notes = ["; ".join(note for note in setting.notes if note not in common) for setting in settings]
    if not any(notes):
        return table
    rows = [[*row, note or "–"] for row, note in zip(table.rows, notes, strict=True)]
    return Table(table.title, [*table.heads, "note"], rows, table.words | {len(table.heads)})


def _common(settings: Sequence[Setting]) -> list[str]:
    """The notes that all settings have."""
    first = settings[0].notes if settings else []
    return [note for note in first if all(note in setting.notes for setting in settings)]


def _said(found: Setting) -> str:
    modes = {"eval": "evaluation mode", "train": "training mode, with the statistics of each batch"}
    words = [
        found.solution,
        modes.get(found.mode, found.mode),
        f"{found.examples:,} examples in {found.batches:,} batch{'' if found.batches == 1 else 'es'}",
        f"{found.parameters:,} weights",
        f"weight decay {rate(found.weight_decay)} included" if found.weight_decay else "without weight decay",
    ]
    return "; ".join([*words, *([] if found.seed is None else [f"drawn with seed {found.seed}"])])
