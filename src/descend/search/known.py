"""The known rules as members of the spaces."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from descend.expr import Expr, hyper_of, leaf, slot_of, walk
from descend.expr import p as parameter
from descend.rule import Rule
from descend.search.programs import UPDATE, Argument, Program, Statement
from descend.search.space import SearchError

SENTENCES: Final[Mapping[str, str]] = {
    "sgd": "g g x x left",
    "momentum": "m m x x left",
    "signsgd": "sign(g) g x x left",
    "signum": "sign(m) g x x left",
    "adam": "ADAM g x x left",
    "rmsprop": "RMSProp g x x left",
    "powersign": "sign(g) sign(m) x x * | x1 g exp x *",
    "addsign": "g^2 sign(m) sqrt x * | x1 g x x +",
}
"""Sentences of Bello et al.'s space; the last two have two groups.

Momentum is there as a bias-corrected average. AddSign is (1 + sign(g) sign(m)) g = g + |g| sign(m), with |g| written as
the root of g^2.
"""

_SAME: Final = frozenset(
    ["neg", "abs", "sign", "sqrt", "exp", "log", "tanh", "add", "sub", "mul", "div", "pow", "minimum", "maximum"]
)


def program_of(rule: Rule, **hyper_parameters: Any) -> tuple[Program, tuple[str, ...]]:
    """Write a rule as a program, statement by statement.

    Args:
        rule: any whose formula is p minus the rate times what the program space can compute.
        hyper_parameters: values in place of its defaults; a program has numbers in their place.

    Returns:
        The program, and the memory that its space must have.

    Raises:
        SearchError: the rule computes what no program can, or is not p minus the rate times something.
    """
    formula = rule.formula(**hyper_parameters)
    if not formula.is_elementwise or any(slot.shape != "like" or slot.init for slot in formula.slots.values()):
        raise SearchError(f"{rule.name} is no program: it reduces, or keeps more than elements that start at 0")
    writer = _Writer(rule, rule.merged(hyper_parameters))
    statements = writer.statements
    update = writer.write(_per_rate(formula.outputs["p"]))
    new = {name: writer.write(root) for name, root in formula.outputs.items() if name != "p"}
    # memory is overwritten last, when nothing reads what it held
    held = {name: f"new_{name}" for name in new}
    statements += [Statement(held[name], "add", (value, 0.0)) for name, value in new.items()]
    statements.append(Statement(UPDATE, "add", (update, 0.0)))
    statements += [Statement(name, "add", (held[name], 0.0)) for name in new]
    return tuple(statements), tuple(new)


def _per_rate(new: Expr) -> Expr:
    """X of p - lr * X."""
    if new.op == "sub" and new.args[0] is parameter:
        return _over_rate(new.args[1])
    if new.op == "sub" and new.args[0].op == "mul" and new.args[0].args[0] is parameter:
        # p * (1 - lr * c) - lr * X is p - lr * (c * p + X)
        kept = new.args[0].args[1]
        if kept.op == "sub" and kept.args[0].value == 1.0:
            return _over_rate(kept.args[1]) * parameter + _over_rate(new.args[1])
    raise SearchError("the rule is not p minus the rate times something")


def _over_rate(node: Expr) -> Expr:
    """The node divided by the rate that is a factor of it."""
    if node is leaf("hyper", ("lr", None)):
        return _ONE
    if node.op == "mul":
        for this, other in (node.args, node.args[::-1]):
            if _has_rate(this) and not _has_rate(other):
                factor = _over_rate(this)
                return other if factor is _ONE else factor * other
    if node.op == "div" and not _has_rate(node.args[1]):
        return _over_rate(node.args[0]) / node.args[1]
    raise SearchError("the rate is no factor of the rule's step")


_ONE: Final = leaf("constant", 1.0)


def _has_rate(node: Expr) -> bool:
    return any(below.op == "hyper" and hyper_of(below)[0] == "lr" for below in walk([node]))


class _Writer:
    """Writes expressions as statements, each once."""

    def __init__(self, rule: Rule, hyper_parameters: Mapping[str, object]) -> None:
        self.rule, self.hyper_parameters = rule, hyper_parameters
        self.statements: list[Statement] = []
        self.names: dict[Expr, Argument] = {}

    def write(self, root: Expr) -> Argument:
        """Return the name or the number of an expression's value."""
        for node in walk([root]):
            if node not in self.names:
                self.names[node] = self._argument(node)
        return self.names[root]

    def _argument(self, node: Expr) -> Argument:
        if node.op in ("p", "g", "t"):
            return node.op
        if node.op == "slot":
            return slot_of(node)[0]
        if node.op == "constant":
            return float(node.value)  # type: ignore[arg-type]
        if node.op == "hyper":
            name, index = hyper_of(node)
            value = self.hyper_parameters[name]
            return float(value if index is None else value[index])  # type: ignore[arg-type, index]
        args = [self.names[arg] for arg in node.args]
        word = node.op
        if node.op == "clip" and isinstance(args[1], float) and isinstance(args[2], float):
            if not math.isclose(args[1], -args[2]):
                raise SearchError(f"{self.rule.name} is no program: it clips between {args[1]} and {args[2]}")
            args = [args[0], args[2]]
        elif node.op in ("keep", "normal"):
            args = args[:-1]  # all but the step, which the word adds
        elif node.op not in _SAME:
            raise SearchError(f"{self.rule.name} is no program: it has no word for {node.op}")
        name = f"x{len(self.statements) + 1}"
        self.statements.append(Statement(name, word, tuple(args)))
        return name
