"""Which symbol stands for which hyper-parameter: what a reader needs who has the values by their names in code."""

from __future__ import annotations

from descend.expr import Expr, leaf
from descend.formula import Formula
from descend.render.as_text import letter
from descend.render.notation import assigned_lines, assigned_symbols
from descend.render.program import Program
from descend.render.symbols import Symbol


def key(formula: Formula) -> dict[str, str]:
    """The symbols that `latex` and `mathml` print for the hyper-parameters: {"lr": "γ", "betas": "β₁, β₂"}.

    A tuple has the symbols of its elements, with a dash for one that the formula does not read. Left out is what the
    formula does not read at all, and what it calls by its own name.
    """
    program = Program(formula)
    known, _ = assigned_symbols(program, assigned_lines(program))
    written = {name: _of(name, value, known) for name, value in formula.hyper_parameters.items()}
    return {name: symbol for name, symbol in written.items() if symbol.strip("–, ") and symbol != name}


def _of(name: str, value: object, known: dict[Expr, Symbol]) -> str:
    places = range(len(value)) if isinstance(value, (tuple, list)) else [None]
    leaves = (leaf("hyper", (name, place)) for place in places)
    return ", ".join(letter(known[node]) if node in known else "–" for node in leaves)
