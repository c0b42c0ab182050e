"""Mathematics as LaTeX, in the part of it that KaTeX and MathJax know."""

from __future__ import annotations

from typing import Final

from descend.render.notation import NORMAL, Equation, Node
from descend.render.printing import ATOM, Printer
from descend.render.symbols import GREEK, SIGNS, Symbol

_LETTERS: Final = {character: f"\\{name}" for name, character in GREEK.items()} | {"ε": "\\varepsilon"}
_SIGNS: Final = {"−": "-", "≤": "\\le", "≥": "\\ge", "≠": "\\ne"}
_KNOWN_FUNCTIONS: Final = {"exp", "log", "max", "min", "tanh"}


def latex(equations: list[Equation]) -> str:
    """The equations as an aligned environment."""
    printer = _LaTeX()
    lines = (f"  {printer.symbol(e.symbol)} &= {printer.write(e.value)}" for e in equations)
    return "\\begin{aligned}\n" + " \\\\\n".join(lines) + "\n\\end{aligned}"


def _upright(word: str) -> str:
    return "\\mathrm{" + word.replace("_", "\\_") + "}"


class _LaTeX(Printer):
    marks = ("\\lvert", "\\lVert")

    def symbol(self, symbol: Symbol) -> str:
        letter = _upright(symbol.letter) if symbol.is_word else _LETTERS.get(symbol.letter, symbol.letter)
        if symbol.accent:
            letter = f"\\{symbol.accent}{{{letter}}}"
        label = "\\max" if symbol.label == "max" else self._label(symbol.label)
        above = "\\prime" * symbol.primes + label
        below = ", ".join(part for part in (symbol.index, symbol.time) if part)
        return letter + _attached("_", below) + _attached("^", above)

    def _label(self, label: str) -> str:
        return _SIGNS.get(label, label) if label in SIGNS.values() else label and _upright(label)

    def number(self, digits: str) -> str:
        return {"∞": "\\infty", "NaN": "\\mathrm{NaN}"}.get(digits, digits)

    def operator(self, sign: str) -> str:
        return f" {_SIGNS.get(sign, sign)} "

    def prefix(self, sign: str) -> str:
        return _SIGNS.get(sign, sign)

    def times(self, dotted: bool) -> str:
        return " \\cdot " if dotted else " "

    def words(self, words: str) -> str:
        return f"\\text{{{words}}}"

    def row(self, *parts: str) -> str:
        return "".join(parts)

    def fenced(self, opening: str, inside: str, closing: str) -> str:
        if "\\frac" in inside or "\\begin" in inside:
            return f"\\left{opening.strip()} {inside} \\right{closing.strip()}"
        return f"{opening}{inside}{closing}"

    def fraction(self, numerator: Node, denominator: Node) -> str:
        return f"\\frac{{{self.write(numerator)}}}{{{self.write(denominator)}}}"

    def power(self, base: Node, exponent: Node) -> str:
        return self.tight(base, ATOM) + _attached("^", self.exponent(exponent))

    def root(self, inside: Node) -> str:
        return f"\\sqrt{{{self.write(inside)}}}"

    def call(self, name: str, arguments: list[str], over: str) -> str:
        function = f"\\{name}" if name in _KNOWN_FUNCTIONS else f"\\operatorname{{{name}}}"
        function = "\\mathcal{N}" if name == NORMAL else function
        return function + self._over(over) + self.fenced("(", ", ".join(arguments), ")")

    def bars(self, inside: str, bar: str, over: str) -> str:
        return self.fenced(f"{bar} ", inside, f" {bar.replace('l', 'r', 1)}") + self._over(over)

    def _over(self, over: str) -> str:
        return over and f"_{{\\text{{{over}}}}}"

    def cases(self, rows: list[tuple[str, str]], otherwise: str) -> str:
        lines = [f"{value} & \\text{{if }} {condition}" for value, condition in rows]
        lines.append(f"{otherwise} & \\text{{otherwise}}")
        return "\\begin{cases} " + " \\\\ ".join(lines) + " \\end{cases}"


def _attached(mark: str, what: str) -> str:
    return mark + (what if len(what) == 1 else f"{{{what}}}") if what else ""
