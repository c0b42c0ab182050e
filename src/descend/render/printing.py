"""What the three printers of mathematics share: what stands in parentheses, and where a product needs a dot."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from typing import ClassVar, Final

from descend.render.notation import (
    Bars,
    Call,
    Cases,
    Fraction,
    Node,
    Number,
    Power,
    Product,
    Relation,
    Root,
    Sum,
    Truth,
    Unset,
)
from descend.render.symbols import Symbol

LOOSE, SUM, PRODUCT, FACTOR, ATOM = range(5)
"""How tightly a part holds together; one that is too loose for its place stands in parentheses."""

TIGHTNESS: Final[dict[type[Node], int]] = {
    Relation: LOOSE,
    Unset: LOOSE,
    Cases: LOOSE,
    Sum: SUM,
    Product: PRODUCT,
    Fraction: FACTOR,
    Power: FACTOR,
    Root: FACTOR,
    Call: FACTOR,
    Symbol: ATOM,
    Number: ATOM,
    Bars: ATOM,
    Truth: ATOM,
}


class Printer(ABC):
    """Prints notation. A subclass says how each part looks; how tightly the parts bind is decided here."""

    marks: ClassVar[tuple[str, str]] = ("|", "‖")
    """A single bar and a double bar, as they open."""

    def write(self, node: Node) -> str:
        """The node in print."""
        match node:
            case Symbol():
                return self.symbol(node)
            case Number(digits):
                return self.number(digits)
            case Sum(terms):
                return self._sum(terms)
            case Product(factors):
                return self._product(factors)
            case Fraction(numerator, denominator):
                return self.fraction(numerator, denominator)
            case Power(base, exponent):
                return self.power(base, exponent)
            case Root(inside):
                return self.root(inside)
            case Call(name, arguments, over):
                return self.call(name, [self.write(a) for a in arguments], over)
            case Bars(inside, double, over):
                return self._bars(self.write(inside), double, over)
            case Relation(sign, left, right):
                return self.row(self.tight(left, SUM), self.operator(sign), self.tight(right, SUM))
            case Unset(slot):
                return self.row(self.write(slot), self.words(" is unset"))
            case Truth(condition):
                return self.fenced("[", self.write(condition), "]")
            case Cases(rows, otherwise):
                return self.cases([(self.write(v), self.write(c)) for v, c in rows], self.write(otherwise))

    def _bars(self, inside: str, double: bool, over: str) -> str:
        """Bars within bars cannot be told apart, so the outer ones are a function there."""
        bar = self.marks[double]
        return self.call("norm" if double else "abs", [inside], over) if bar in inside else self.bars(inside, bar, over)

    def tightness(self, node: Node) -> int:
        """How tightly the node's print holds together."""
        if isinstance(node, Symbol) and node.is_raised:
            return FACTOR
        if isinstance(node, Product) and self.tightness(node.factors[-1]) == LOOSE:
            return LOOSE
        return TIGHTNESS[type(node)]

    def tight(self, node: Node, least: int) -> str:
        """The node in print, in parentheses if it does not hold together as tightly as `least`."""
        printed = self.write(node)
        return printed if self.tightness(node) >= least else self.fenced("(", printed, ")")

    def _sum(self, terms: tuple[tuple[str, Node], ...]) -> str:
        (sign, first), *rest = terms
        parts = [self.prefix(sign)] * (sign == "−") + [self.tight(first, PRODUCT)]
        for sign, term in rest:
            parts += [self.operator(sign), self.tight(term, PRODUCT)]
        return self.row(*parts)

    def _product(self, factors: tuple[Node, ...]) -> str:
        parts = [self.tight(factors[0], FACTOR)]
        for left, right in itertools.pairwise(factors):
            is_open = right is factors[-1] and self.tightness(right) == LOOSE  # cases, with nothing after them
            parts += [self.times(self._needs_dot(left, right)), self.tight(right, LOOSE if is_open else FACTOR)]
        return self.row(*parts)

    def exponent(self, node: Node) -> str:
        """The node as an exponent; a bare word there would read as a label, like the max of v^max."""
        return self.fenced("(", self.write(node), ")") if self.is_word(node) else self.write(node)

    def _needs_dot(self, left: Node, right: Node) -> bool:
        """Words, numbers and cases run into their neighbors, and a letter before a parenthesis reads as a function."""
        start = right
        while isinstance(start, Power):
            start = start.base
        if self.is_word(left) or self.is_word(start) or isinstance(start, (Number, Cases)):
            return True
        return self.tightness(right) < FACTOR and isinstance(left, Symbol) and left.letter.isascii()

    def is_word(self, node: Node) -> bool:
        """Whether the node is printed as a word."""
        return (isinstance(node, Symbol) and node.is_word) or node == Number("NaN")

    @abstractmethod
    def symbol(self, symbol: Symbol) -> str:
        """A symbol with all that is attached to it."""

    @abstractmethod
    def number(self, digits: str) -> str:
        """A number."""

    @abstractmethod
    def operator(self, sign: str) -> str:
        """A sign between two parts."""

    @abstractmethod
    def prefix(self, sign: str) -> str:
        """A sign before a part."""

    @abstractmethod
    def times(self, dotted: bool) -> str:
        """What stands between two factors."""

    @abstractmethod
    def words(self, words: str) -> str:
        """Words in a formula."""

    @abstractmethod
    def row(self, *parts: str) -> str:
        """Parts side by side."""

    @abstractmethod
    def fenced(self, opening: str, inside: str, closing: str) -> str:
        """A part in parentheses or brackets."""

    @abstractmethod
    def fraction(self, numerator: Node, denominator: Node) -> str:
        """A quotient."""

    @abstractmethod
    def power(self, base: Node, exponent: Node) -> str:
        """A power."""

    @abstractmethod
    def root(self, inside: Node) -> str:
        """A square root."""

    @abstractmethod
    def call(self, name: str, arguments: list[str], over: str) -> str:
        """A function of arguments."""

    @abstractmethod
    def bars(self, inside: str, bar: str, over: str) -> str:
        """A part between bars."""

    @abstractmethod
    def cases(self, rows: list[tuple[str, str]], otherwise: str) -> str:
        """Values with their conditions."""
