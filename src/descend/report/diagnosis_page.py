"""The pages of a diagnosis: an overview, and one for each instrument."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from descend.report.diagnosis_parts import PARTS, Part
from descend.report.diagnosis_results import Diagnosis
from descend.report.template import template

OVERVIEW = "diagnosis.html"


@dataclass(frozen=True)
class Page:
    """The page of an instrument.

    Attributes:
        name: of the instrument.
        title: of the page.
        lead: what it measures, and how to read it.
        source: where it is from.
        parts: its charts and tables.
        caveats: its own, then those of all.
    """

    name: str
    title: str
    lead: str
    source: str
    parts: list[Part]
    caveats: list[str] = field(default_factory=list)

    @property
    def file(self) -> str:
        """Its file, beside the overview."""
        return f"diagnosis-{self.name}.html"

    @property
    def line(self) -> str:
        """What it came to, in a few words."""
        return self.parts[0].line


def pages(results: Diagnosis) -> dict[str, str]:
    """The text of each page by its file, the overview last."""
    found = list(_pages(results))
    rendered = {
        page.file: template("diagnosis_instrument.html").render(results=results, page=page, pages=found)
        for page in found
    }
    without = {
        title: results.caveats.get(name, ["It was not asked for."])
        for name, (title, *_) in PARTS.items()
        if name not in [page.name for page in found]
    }
    overview = template("diagnosis.html").render(
        results=results,
        manifest=results.manifest,
        pages=found,
        without=without,
        caveats=results.caveats.get("all", []),
        options=_options(results),
    )
    return {**rendered, OVERVIEW: overview}


def _pages(results: Diagnosis) -> Iterator[Page]:
    for name, (title, lead, source, make) in PARTS.items():
        parts = make(results)
        if parts:
            caveats = [*results.caveats.get(name, []), *results.caveats.get("all", [])]
            yield Page(name, title, lead, source, parts, caveats)


def _options(results: Diagnosis) -> dict[str, Any]:
    """The options as words: a training or a checkpoint in a line."""
    return {name: value for name, value in results.manifest.options.items() if not isinstance(value, (list, dict))}


__all__ = ["OVERVIEW", "Markup", "Page", "pages"]
