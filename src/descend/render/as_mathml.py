"""Mathematics as MathML Core, which browsers show without a script."""

from __future__ import annotations

import re
from html import escape
from typing import Final

from descend.render.notation import NORMAL, Equation, Node
from descend.render.printing import ATOM, Printer
from descend.render.symbols import SIGNS, Symbol

_BRACE_FONTS: Final = "STIX Two Math, Cambria Math, Latin Modern Math, Libertinus Math, DejaVu Serif, math"
"""Fonts whose braces stretch; a browser without fonts for mathematics takes a text font, whose braces do not."""

_TIMES: Final = "<mo>&#x2062;</mo>"  # invisible
_TIMES_APART: Final = '<mo rspace="0.17em">&#x2062;</mo>'
_CALL: Final = re.compile("<mrow>(<msub>)?<mi>")
"""How a factor begins that is a function of something, and no other factor does."""

_ACCENTS: Final = {"hat": "^", "bar": "‾", "tilde": "~"}


def mathml(equations: list[Equation], alternative: str) -> str:
    """The equations as a <math> element with a row each; `alternative` is what a screen reader says."""
    printer = _MathML()
    rows = (
        _row(_cell(printer.symbol(e.symbol), "right"), _cell("<mo>=</mo>" + printer.write(e.value), "left"))
        for e in equations
    )
    spoken = escape(alternative).replace("\n", "&#10;")
    start = f'<math xmlns="http://www.w3.org/1998/Math/MathML" display="block" alttext="{spoken}">'
    return start + '<mtable displaystyle="true">' + "".join(rows) + "</mtable></math>"


def _row(*cells: str) -> str:
    return f"<mtr>{''.join(cells)}</mtr>"


def _cell(inside: str, side: str) -> str:
    return f'<mtd style="text-align: {side}; text-align: -webkit-{side}">{inside}</mtd>'  # Chromium moves blocks so


class _MathML(Printer):
    def symbol(self, symbol: Symbol, exponent: str = "") -> str:
        letter = _identifier(symbol.letter)
        if symbol.accent:
            letter = f'<mover>{letter}<mo stretchy="false">{_ACCENTS[symbol.accent]}</mo></mover>'
        below = filter(None, (symbol.index and f"<mn>{symbol.index}</mn>", _MOMENTS[symbol.time]))
        above = [exponent, *["<mo>′</mo>"] * symbol.primes]
        if symbol.label:
            above.append(f"<mo>{symbol.label}</mo>" if symbol.label in SIGNS.values() else _identifier(symbol.label))
        return _attached(letter, "<mo>,</mo>".join(below), "".join(above))

    def number(self, digits: str) -> str:
        return f"<mn>{digits}</mn>"

    def operator(self, sign: str) -> str:
        return f"<mo>{escape(sign)}</mo>"

    def prefix(self, sign: str) -> str:
        return f'<mo form="prefix">{sign}</mo>'

    def times(self, dotted: bool) -> str:
        return "<mo>⋅</mo>" if dotted else _TIMES

    def words(self, words: str) -> str:
        return f"<mtext>{words.replace(' ', '&#xA0;')}</mtext>"

    def row(self, *parts: str) -> str:
        """A row, in which functions stand a little apart from the factors beside them."""
        inside = list(parts)
        for place, (before, sign, after) in enumerate(zip(parts, parts[1:], parts[2:], strict=False), start=1):
            if sign == _TIMES and (_CALL.match(before) or _CALL.match(after)):
                inside[place] = _TIMES_APART
        return f"<mrow>{''.join(inside)}</mrow>"

    def fenced(self, opening: str, inside: str, closing: str) -> str:
        size = "" if "<mfrac" in inside or "<mtable" in inside else ' stretchy="false"'
        return f'<mrow><mo form="prefix"{size}>{opening}</mo>{inside}<mo form="postfix"{size}>{closing}</mo></mrow>'

    def fraction(self, numerator: Node, denominator: Node) -> str:
        return f"<mfrac>{self.row(self.write(numerator))}{self.row(self.write(denominator))}</mfrac>"

    def power(self, base: Node, exponent: Node) -> str:
        raised = self.exponent(exponent)
        if isinstance(base, Symbol) and not base.is_raised:
            return self.symbol(base, raised)
        return _attached(self.tight(base, ATOM), "", raised)

    def root(self, inside: Node) -> str:
        return f"<msqrt>{self.write(inside)}</msqrt>"

    def call(self, name: str, arguments: list[str], over: str) -> str:
        letters = "𝒩" if name == NORMAL else name
        function = _attached(f"<mi>{letters}</mi>", over and f"<mtext>{over}</mtext>", "")
        return self.row(function, "<mo>&#x2061;</mo>", self.fenced("(", "<mo>,</mo>".join(arguments), ")"))

    def bars(self, inside: str, bar: str, over: str) -> str:
        return _attached(self.fenced(bar, inside, bar), over and f"<mtext>{over}</mtext>", "")

    def cases(self, rows: list[tuple[str, str]], otherwise: str) -> str:
        lines = [_row(_cell(v, "left"), _cell(self.row(self.words("if "), c), "left")) for v, c in rows]
        lines.append(_row(_cell(otherwise, "left"), _cell(self.words("otherwise"), "left")))
        brace = f'<mo form="prefix" style="font-family: {_BRACE_FONTS}">{{</mo>'
        return self.row(brace, f"<mtable>{''.join(lines)}</mtable>")


_MOMENTS: Final = {"": "", "t": "<mi>t</mi>", "t-1": "<mrow><mi>t</mi><mo>−</mo><mn>1</mn></mrow>"}


def _identifier(letter: str) -> str:
    return f"<mi>{escape(letter)}</mi>"


def _attached(base: str, below: str, above: str) -> str:
    below, above = (part and f"<mrow>{part}</mrow>" for part in (below, above))
    if below and above:
        return f"<msubsup>{base}{below}{above}</msubsup>"
    if below:
        return f"<msub>{base}{below}</msub>"
    return f"<msup>{base}{above}</msup>" if above else base
