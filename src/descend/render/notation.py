"""A formula as mathematics, before it is set: equations made of symbols, sums, fractions, cases and the like.

The walker below is the only one; LaTeX, MathML and plain text print what it makes. Products and sums are flat, since
mathematics does not say in which order they are taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from descend.expr import Expr, is_random, walk
from descend.formula import Formula
from descend.render.program import LARGE, Program, as_ema, draws_twice, is_global, number
from descend.render.symbols import Symbol, symbols


@dataclass(frozen=True)
class Number:
    """A number that is not negative and has no exponent."""

    digits: str


@dataclass(frozen=True)
class Sum:
    """Terms, each added or subtracted; a single subtracted term is a negation."""

    terms: tuple[tuple[str, Node], ...]


@dataclass(frozen=True)
class Product:
    """Two or more factors."""

    factors: tuple[Node, ...]


@dataclass(frozen=True)
class Fraction:
    """A quotient."""

    numerator: Node
    denominator: Node


@dataclass(frozen=True)
class Power:
    """A base with an exponent."""

    base: Node
    exponent: Node


@dataclass(frozen=True)
class Root:
    """A square root."""

    inside: Node


@dataclass(frozen=True)
class Call:
    """A function of arguments in parentheses; `over` says over what a reduction goes."""

    name: str
    arguments: tuple[Node, ...]
    over: str = ""


@dataclass(frozen=True)
class Bars:
    """An absolute value (single bars) or a norm (double bars)."""

    inside: Node
    double: bool = False
    over: str = ""


@dataclass(frozen=True)
class Relation:
    """A comparison."""

    sign: str
    left: Node
    right: Node


@dataclass(frozen=True)
class Unset:
    """The condition that a slot has no value yet."""

    slot: Node


@dataclass(frozen=True)
class Truth:
    """A condition that has a name of its own, in brackets."""

    condition: Node


@dataclass(frozen=True)
class Cases:
    """Values with their conditions, the first that holds, and what is taken otherwise."""

    rows: tuple[tuple[Node, Node], ...]
    otherwise: Node


Node: TypeAlias = (
    Symbol | Number | Sum | Product | Fraction | Power | Root | Call | Bars | Relation | Unset | Truth | Cases
)

RELATIONS: Final = {"lt": "<", "le": "≤", "gt": ">", "ge": "≥", "eq": "=", "ne": "≠"}
CALLS: Final = {"minimum": "min", "maximum": "max", "lowest": "min", "highest": "max"}
NORMAL: Final = "normal"
"""The normal distribution, of its mean and its variance."""
ONE: Final = Number("1")
TWO: Final = Number("2")


@dataclass(frozen=True)
class Equation:
    """A symbol and what it stands for."""

    symbol: Symbol
    value: Node


def equations(formula: Formula) -> list[Equation]:
    """The formula's mathematics: a line per named intermediate, then the new slots and the new parameter.

    Old values carry t-1 and new ones t. A name that is rebound gets a tilde or primes.
    """
    program = Program(formula, draws_twice(formula))
    lines = assigned_lines(program)
    known, plain = assigned_symbols(program, lines)
    walker = _Walker(program, known)
    made = [Equation(known[node], walker.written_out(node)) for node in lines]
    for name in sorted(formula.outputs, key=lambda name: name == "p"):
        symbol, root = plain[name].at("t"), formula.outputs[name]
        if known.get(root) != symbol:
            made.append(Equation(symbol, walker.read(root)))
    return made


def assigned_lines(program: Program) -> dict[Expr, str]:
    """The defined nodes, without those that are only a step to the next value of the same name."""
    users: dict[Expr, list[str]] = {}
    for node, name in program.defined.items():
        for reference in program.references(node):
            users.setdefault(reference, []).append(name)
    for root in program.formula.outputs.values():
        for reference in program.mentions(root):
            users.setdefault(reference, []).append("")
    lines = dict(program.defined)
    for node, name in program.defined.items():
        if users[node] == [name] and _size(node, lines) <= LARGE:
            del lines[node]
    return lines


def _size(node: Expr, lines: Mapping[Expr, str]) -> int:
    """The number of operations on the node's line."""
    return bool(node.args) + sum(0 if a in lines else _size(a, lines) for a in node.args)


def assigned_symbols(program: Program, lines: Mapping[Expr, str]) -> tuple[dict[Expr, Symbol], dict[str, Symbol]]:
    """The symbols of leaves and lines, and those of names."""
    formula = program.formula
    used = {leaf for node in formula.nodes for leaf in (node, *program.arguments(node))}
    leaves = {leaf: name for leaf, name in program.signature.items() if leaf in used}
    for leaf, name in leaves.items():
        if "[" in name:
            given = program.signature_names.union(leaves.values())
            leaves[leaf] = next((n for n in program.author_names.get(leaf, []) if n not in given), name)
    plain = symbols([*leaves.values(), *lines.values(), *formula.outputs])
    known = {leaf: plain[name].at(_LEAF_TIMES.get(leaf.op, "")) for leaf, name in leaves.items()}
    elements = (leaf for leaf, name in program.signature.items() if "[" in name)
    bound = program.signature_names.union(leaves.values(), *(program.author_names.get(e, []) for e in elements))
    taken = set(plain.values())
    for node, name in lines.items():
        symbol = plain[name]
        if name in bound and formula.outputs.get(name) is not node:
            symbol = symbol.rebound(taken)
            taken.add(symbol)
        bound.add(name)
        known[node] = symbol.at("t" if any(n.op in _CHANGING for n in walk([node])) else "")
    return known, plain


_LEAF_TIMES: Final = {"p": "t-1", "slot": "t-1", "g": "t"}
_CHANGING: Final = {"p", "g", "t", "slot", "fresh"}


class _Walker:
    """Reads expressions as mathematics; what is in `known` is a symbol."""

    def __init__(self, program: Program, known: Mapping[Expr, Symbol]) -> None:
        self.program, self.known = program, known

    def read(self, node: Expr) -> Node:
        """The node where it stands among others."""
        return self.known.get(node) or self._expression(node)

    def written_out(self, node: Expr) -> Node:
        """What the node stands for, on a line of its own."""
        return Truth(self._expression(node)) if node.condition else self._expression(node)

    def _expression(self, node: Expr) -> Node:
        arguments = [self.read(a) for a in self.program.arguments(node)]
        match node.op, arguments:
            case "constant", _:
                return _number(number(node))
            case ("numel" | "rows") as size, [Symbol() as parameter]:
                return Call(size, (parameter.at(""),))
            case "fresh", [slot]:
                return Unset(slot)
            case "add", [left, right]:
                return self._ema(node) or Sum((*_terms(left), *_terms(right)))
            case "sub", [left, right]:
                return Sum((*_terms(left), ("−", right)))
            case "neg", [inside]:
                return Sum((("−", inside),))
            case "mul", [left, right]:
                is_square = _is_square(node, left == right)
                return Power(left, TWO) if is_square else Product((*_factors(left), *_factors(right)))
            case "div", [left, right]:
                return Fraction(left, right)
            case "normal", [std]:
                return Call(NORMAL, (Number("0"), std if std == ONE else Power(std, TWO)))
            case "pow", [left, right]:
                return Power(left, right)
            case "sqrt", [inside]:
                return Root(inside)
            case "abs", [inside]:
                return Bars(inside)
            case (("norm" | "global_norm"), [inside]):
                return Bars(inside, double=True, over=_over(node))
            case "where", [condition, value, otherwise]:
                return _cases(condition, value, otherwise)
            case op, [left, right] if op in RELATIONS:
                return Relation(RELATIONS[op], left, right)
            case op, _:
                return Call(CALLS.get(op, op.removeprefix("global_")), tuple(arguments), over=_over(node))

    def _ema(self, node: Expr) -> Node | None:
        """An average by a number, where the graph holds the difference 1 - beta as a number already."""
        average = as_ema(node)
        if average is None or average[2].op != "constant":
            return None
        old, new, beta = (self.read(a) for a in average)
        weight = Sum((("+", ONE), ("−", beta)))
        return Sum((("+", Product((beta, *_factors(old)))), ("+", Product((weight, *_factors(new))))))


def _is_square(product: Expr, alike: bool) -> bool:
    """Whether both factors are the same value; what is written alike is not where each draws random numbers."""
    left, right = product.args
    return left is right or (alike and not any(map(is_random, walk(product.args))))


def _over(node: Expr) -> str:
    return "all" if is_global(node) else ""


def _terms(node: Node) -> tuple[tuple[str, Node], ...]:
    return node.terms if isinstance(node, Sum) else (("+", node),)


def _factors(node: Node) -> tuple[Node, ...]:
    return node.factors if isinstance(node, Product) else (node,)


def _cases(condition: Node, value: Node, otherwise: Node) -> Cases:
    if isinstance(otherwise, Cases):
        return Cases(((value, condition), *otherwise.rows), otherwise.otherwise)
    return Cases(((value, condition),), otherwise)


def _number(value: float) -> Node:
    if math.copysign(1, value) < 0:
        return Sum((("−", _number(-value)),))
    if not math.isfinite(value):
        return Number("NaN" if math.isnan(value) else "∞")
    mantissa, _, exponent = repr(value).removesuffix(".0").partition("e")
    if not exponent:
        return Number(mantissa)
    power = Power(Number("10"), _number(int(exponent)))
    return power if mantissa == "1" else Product((Number(mantissa), power))
