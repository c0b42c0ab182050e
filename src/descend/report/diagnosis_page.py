"""The pages of a diagnosis: an overview, and one for each instrument."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from descend.report.diagnosis_instruments import INSTRUMENTS, Instrument
from descend.report.diagnosis_parts import Part
from descend.report.diagnosis_results import Diagnosis
from descend.report.template import template


@dataclass(frozen=True)
class Page:
    """The page of an instrument.

    Attributes:
        file: its name, beside the overview.
        instrument: what it is of.
        parts: its charts and tables.
        caveats: its own, then those of all.
    """

    file: str
    instrument: Instrument
    parts: list[Part]
    caveats: list[str]

    @property
    def line(self) -> str:
        """What it came to, in a few words."""
        return self.parts[0].line


def pages(results: Diagnosis, stem: str = "diagnosis") -> dict[str, str]:
    """The text of each page by its file, the overview last.

    Args:
        results: of the diagnosis.
        stem: of the overview's file, with which the others begin.
    """
    found = dict(_pages(results, stem))
    overview = f"{stem}.html"
    rendered = {
        page.file: template("diagnosis_instrument.html").render(
            results=results, page=page, pages=list(found.values()), overview=overview
        )
        for page in found.values()
    }
    without = {
        instrument.title: results.caveats.get(name) or ["It was not asked for."]
        for name, instrument in INSTRUMENTS.items()
        if name not in found
    }
    rendered[overview] = template("diagnosis.html").render(
        results=results,
        manifest=results.manifest,
        pages=list(found.values()),
        without=without,
        caveats=results.caveats.get("all", []),
    )
    return rendered


def _pages(results: Diagnosis, stem: str) -> Iterator[tuple[str, Page]]:
    common = results.caveats.get("all", [])
    for name, instrument in INSTRUMENTS.items():
        parts = instrument.parts(results)
        if parts:
            yield name, Page(f"{stem}-{name}.html", instrument, parts, [*results.caveats.get(name, []), *common])
