"""A formula as mathematics, as source code and as a cost.

`latex`, `mathml` and `text` print the same notation; `source` gives Python that reads back to the identical formula, or
the kernel in C++; `key` says which symbol stands for which hyper-parameter; `cost` counts bytes and operations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from descend.formula import Formula
from descend.render import as_latex, as_mathml, as_text
from descend.render.as_cpp import cpp
from descend.render.as_python import python
from descend.render.costs import BYTES, Cost, cost
from descend.render.keys import key
from descend.render.notation import equations

__all__ = ["BYTES", "Cost", "cost", "key", "latex", "mathml", "source", "text"]

LANGUAGES: Final[dict[str, Callable[[Formula], str]]] = {"python": python, "cpp": cpp}
"""The languages of `source`, and what writes each."""


def latex(formula: Formula) -> str:
    """The formula as LaTeX: an aligned environment with a line per named intermediate, new slot and new parameter."""
    return as_latex.latex(equations(formula))


def mathml(formula: Formula) -> str:
    """The formula as MathML: a <math> element that needs no script, with the plain text as its alternative."""
    return as_mathml.mathml(equations(formula), text(formula))


def text(formula: Formula) -> str:
    """The formula as plain text: an assignment per line, in order, so that a name means its latest value."""
    return as_text.text(equations(formula))


def source(formula: Formula, language: str = "python") -> str:
    """The formula as source code.

    Args:
        formula: one variant of a rule.
        language: "python" gives a file that reads back to the identical formula, "cpp" the fused kernel.

    Raises:
        ValueError: for a language that there is no writer for, or a formula that no kernel can be made of.
    """
    if language not in LANGUAGES:
        raise ValueError(f"a formula cannot be written in {language!r}; choose one of {', '.join(LANGUAGES)}")
    return LANGUAGES[language](formula)
