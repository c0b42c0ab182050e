"""The templates of pages, and what each of them may call."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from descend.report import formats
from descend.report.finding import divergence, followers

HERE = Path(__file__).parent


def template(name: str) -> Template:
    """A template by its file; `shared.html` has the macros that several of them use."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update(
        css=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        count=formats.count,
        divergence=divergence,
        edge=formats.edge,
        filled=formats.filled,
        followers=followers,
        label=formats.label,
        listing=formats.listing,
        milliseconds=formats.milliseconds,
        number=formats.number,
        plain=formats.plain,
        rate=formats.rate,
        state=formats.state,
        steps=formats.steps,
    )
    return environment.get_template(name)
