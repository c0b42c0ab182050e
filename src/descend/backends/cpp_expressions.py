"""Expressions in C++: what a node of a formula looks like in a kernel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from descend.expr import WINDOWS, Expr, hyper_of, slot_of
from descend.formula import draw_number

FUNCTIONS: Final[Mapping[str, str]] = {
    "pow": "power",
    "abs": "absolute",
    "sign": "sign",
    "sqrt": "square_root",
    "exp": "exponential",
    "log": "logarithm",
    "tanh": "hyperbolic_tangent",
    "minimum": "minimum",
    "maximum": "maximum",
    "clip": "clip",
}
"""The functions of prelude.hpp, by operation."""

OPERATORS: Final[Mapping[str, tuple[str, int]]] = {
    "add": ("+", 3),
    "sub": ("-", 3),
    "mul": ("*", 4),
    "div": ("/", 4),
    "lt": ("<", 2),
    "le": ("<=", 2),
    "gt": (">", 2),
    "ge": (">=", 2),
    "eq": ("==", 1),
    "ne": ("!=", 1),
}
"""Operators and how tightly they bind. `neg`, `where` and leaves are written by `Writer` itself."""

CHOICE: Final = 0
_COMPARED: Final = 2
_FACTOR: Final = 4
_PREFIX: Final = 5
_CALL: Final = 6

_WORDS: Final = (
    "alignas auto bool break case char class const continue default delete do double else enum explicit export extern "
    "false float for friend goto if inline int long namespace new operator private protected public register return "
    "short signed sizeof static struct switch template this throw true try typedef typename union unsigned using void "
    "volatile while and or not xor alignof asm co_await co_return co_yield compl concept consteval constexpr constinit "
    "const_cast decltype dynamic_cast mutable noexcept nullptr reinterpret_cast requires static_assert static_cast "
    "thread_local typeid wchar_t char8_t char16_t char32_t bitand bitor and_eq or_eq xor_eq not_eq linux unix"
)
WORDS: Final = frozenset(_WORDS.split())
"""Words of C++ that an author may have given to a value."""


def literal(value: float, real: str) -> str:
    """A number as C++ writes it, in the type `real`."""
    if math.isnan(value):
        return f'{real}(__builtin_nan(""))'
    if math.isinf(value):
        return f"{real}({'-' if value < 0 else ''}__builtin_inf())"
    whole = value == int(value) and abs(value) < 1e6 and not math.copysign(1, value) < 0
    return f"{real}({int(value) if whole else repr(value)})"


@dataclass
class Writer:
    """Writes expressions.

    Attributes:
        names: what nodes are called that are known already.
        real: the type of literals.
    """

    names: dict[Expr, str]
    real: str

    def write(self, node: Expr, least: int = CHOICE) -> str:
        """The node as C++, in parentheses if it binds less tightly than `least`."""
        if node in self.names:
            return self.names[node]
        if node.op == "constant":
            return self.constant(float(node.value))  # type: ignore[arg-type]
        text, tightness = self._operation(node)
        return text if tightness >= least else f"({text})"

    def constant(self, value: float) -> str:
        """A number."""
        return literal(value, self.real)

    def uniform(self, node: Expr) -> str:
        """The uniform number of a random operation, from the random bits of its tile."""
        name = f"draw{draw_number(node)}"
        return f"uniform<{self.real}>({name}_high[j], {name}_low[j])"

    def _operation(self, node: Expr) -> tuple[str, int]:
        if node.op in FUNCTIONS:
            return f"{FUNCTIONS[node.op]}({', '.join(self.write(a) for a in node.args)})", _CALL
        if node.op == "normal":
            return f"{self.write(node.args[0], _FACTOR)} * normal_quantile({self.uniform(node)})", _FACTOR
        if node.op == "keep":
            x, q = (self.write(arg, _COMPARED + 1) for arg in node.args[:2])
            return f"{self.uniform(node)} < {q} ? {x} : {self.constant(0)}", CHOICE
        if node.op == "neg":
            return f"-{self.write(node.args[0], _CALL)}", _PREFIX
        if node.op == "where":
            condition, a, b = (self.write(arg, CHOICE + 1) for arg in node.args)
            return f"{condition} ? {a} : {b}", CHOICE
        sign, tightness = OPERATORS[node.op]
        left, right = node.args
        return f"{self.write(left, tightness)} {sign} {self.write(right, tightness + 1)}", tightness


class HostWords(Writer):
    """Writes what a scalar of the host is, for the reader of a kernel."""

    def __init__(self) -> None:
        super().__init__({}, "double")

    def write(self, node: Expr, least: int = CHOICE) -> str:
        """The node in terms of hyper-parameters, the step and scalar slots."""
        if node.op in ("hyper", "common"):
            name, index = hyper_of(node)
            return name if index is None else f"{name}[{index}]"
        if node.op in WINDOWS:
            return f"{node.op}({', '.join(map(self.write, node.args))})"
        if not node.args and node.op != "constant":
            return slot_of(node)[0] if node.op in ("slot", "kept") else node.op
        return super().write(node, least)

    def constant(self, value: float) -> str:
        """A number."""
        return f"{value:g}"
