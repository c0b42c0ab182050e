"""Mathematics as plain text for a terminal: an assignment per line, in order, so that a name means its latest value."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from descend.render.notation import Cases, Equation, Fraction, Node
from descend.render.printing import ATOM, FACTOR, PRODUCT, Printer
from descend.render.symbols import SIGNS, Symbol

_ACCENTS: Final = {"": "", "hat": "\u0302", "bar": "\u0304", "tilde": "\u0303"}  # they combine with the letter before
_RAISED: Final = str.maketrans("0123456789−+t", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ᵗ")
_LOWERED: Final = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def text(equations: list[Equation]) -> str:
    """The equations as assignments, a line each. An old value that is read after its assignment carries ₜ₋₁."""
    printer = _Text()
    return "\n".join(printer.assignment(equation) for equation in equations)


def letter(symbol: Symbol) -> str:
    """The letter even where plain text has a better known name for it."""
    return _Text().symbol(replace(symbol, spoken=""))


class _Text(Printer):
    def __init__(self) -> None:
        self.assigned: set[Symbol] = set()

    def assignment(self, equation: Equation) -> str:
        value = self.write(equation.value)
        self.assigned.add(equation.symbol.at(""))
        return f"{self.symbol(equation.symbol)} ← {value}"

    def tightness(self, node: Node) -> int:
        if isinstance(node, Symbol):
            return FACTOR if node.label in SIGNS.values() else ATOM
        if isinstance(node, Fraction):
            return PRODUCT
        return ATOM if isinstance(node, Cases) else super().tightness(node)

    def is_word(self, node: Node) -> bool:
        return super().is_word(node) or (isinstance(node, Symbol) and bool(node.spoken))

    def symbol(self, symbol: Symbol) -> str:
        letter = (symbol.spoken or symbol.letter) + _ACCENTS[symbol.accent]
        is_sign = symbol.label in SIGNS.values()
        label = symbol.label.translate(_RAISED) if is_sign else symbol.label and f"_{symbol.label}"
        is_old = symbol.time == "t-1" and symbol.at("") in self.assigned
        return letter + symbol.index.translate(_LOWERED) + "′" * symbol.primes + label + "ₜ₋₁" * is_old

    def number(self, digits: str) -> str:
        return digits

    def operator(self, sign: str) -> str:
        return f" {sign} "

    def prefix(self, sign: str) -> str:
        return sign

    def times(self, dotted: bool) -> str:
        return " · " if dotted else " "

    def words(self, words: str) -> str:
        return words

    def row(self, *parts: str) -> str:
        return "".join(parts)

    def fenced(self, opening: str, inside: str, closing: str) -> str:
        return f"{opening}{inside}{closing}"

    def fraction(self, numerator: Node, denominator: Node) -> str:
        least = FACTOR if isinstance(numerator, Fraction) else PRODUCT
        return f"{self.tight(numerator, least)} / {self.tight(denominator, FACTOR)}"

    def power(self, base: Node, exponent: Node) -> str:
        raised = self.write(exponent)
        if re.fullmatch(r"−?\d+|t", raised):
            return self.tight(base, ATOM) + raised.translate(_RAISED)
        return f"{self.tight(base, ATOM)}^{self.tight(exponent, ATOM)}"

    def root(self, inside: Node) -> str:
        return f"√{self.tight(inside, ATOM)}"

    def call(self, name: str, arguments: list[str], over: str) -> str:
        return f"{name}{over and f'_{over}'}({', '.join(arguments)})"

    def bars(self, inside: str, bar: str, over: str) -> str:
        return f"{bar}{inside}{bar}{over and f'_{over}'}"

    def cases(self, rows: list[tuple[str, str]], otherwise: str) -> str:
        parts = [*(f"{value} if {condition}" for value, condition in rows), f"otherwise {otherwise}"]
        return f"{{{'; '.join(parts)}}}"
