"""Which rules take sparse gradients, decided on the formula: what happens to the rows whose gradient is 0.

A rule whose parameter and slots stay exactly as they are where g = 0 may step the other rows alone (SGD, Adagrad). A
rule that is linear in them and leaves a row alone as long as g and its slots are 0 takes a sparse gradient made dense
(SGD with momentum: the rows once touched keep moving). Every other rule moves rows that nothing was learned about.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from descend.expr import Expr, Rank, constant, g, leaf, p, rebuild
from descend.rule import Formula

ROWS = "rows"
DENSE = "dense"
_ZERO, _ONE = constant(0.0), constant(1.0)
_ODD = frozenset(["neg", "abs", "sign", "sqrt", "tanh"])  # these give 0 for 0
_ANY_TWO_ALIKE = frozenset(["minimum", "maximum"])


def taken_as(formula: Formula) -> str | None:
    """How a settled formula takes sparse gradients: by `ROWS`, made `DENSE`, or (None) not at all."""
    if "sparse" not in formula.derived:
        formula.derived["sparse"] = _decide(formula)
    answer: str | None = formula.derived["sparse"]
    return answer


def obstacle(formula: Formula) -> str | None:
    """The option without which a rule would take sparse gradients."""
    added = [name for name in formula.own_slots if name not in formula.rule.slots]
    plain = replace(formula, outputs={name: root for name, root in formula.outputs.items() if name not in added})
    if added and _decide(plain) is not None:
        return "ema_decay"
    values: dict[str, Any] = dict(formula.hyper_parameters)
    if formula.opaque_calls and taken_as(formula.rule.formula(**values).settle(frozenset())) is not None:
        return "clip_agc"
    if values.get("weight_decay", 0) == 0:
        return None
    without = formula.rule.formula(**{**values, "weight_decay": 0.0})
    return "weight_decay" if taken_as(without.settle(frozenset())) is not None else None


def _decide(formula: Formula) -> str | None:
    if not formula.is_elementwise:
        return None
    if all(root is _kept(formula, name) for name, root in _where_zero(formula, frozenset([g])).items()):
        return ROWS
    slots = frozenset(_kept(formula, name) for name, slot in formula.slots.items() if slot.shape == "like")
    at_rest = _where_zero(formula, slots | {g})
    rests = all(root is p if name == "p" else root is _ZERO for name, root in at_rest.items())
    return DENSE if rests and _is_linear(formula) else None


def _kept(formula: Formula, name: str) -> Expr:
    """What is assigned to "p" or a slot that stays as it is."""
    return p if name == "p" else leaf("slot", (name, formula.slots[name].shape))


def _where_zero(formula: Formula, zeros: frozenset[Expr]) -> dict[str, Expr]:
    """What the formula assigns where some of its leaves are 0."""

    def change(node: Expr, args: tuple[Expr, ...]) -> Expr:
        known = _ZERO if node in zeros else _simplified(node.op, args)
        return rebuild(node, args) if known is None else known

    return dict(formula.rewritten(change).outputs)


def _simplified(op: str, args: tuple[Expr, ...]) -> Expr | None:
    """The value of an operation of which an argument is 0, as far as it is known; 0 times anything is taken for 0."""
    zero = [arg is _ZERO for arg in args]
    if (op in _ODD or op in _ANY_TWO_ALIKE) and all(zero):
        return _ZERO
    if op in ("add", "sub") and zero[-1]:
        return args[0]
    if op == "add" and zero[0]:
        return args[1]
    if op == "mul":
        return _ZERO if any(zero) else next((b for a, b in (args, args[::-1]) if a is _ONE), None)
    if op == "div" and zero[0]:
        return _ZERO
    if op == "clip" and zero[0] and args[1].op == "neg" and args[1].args[0] is args[2]:
        return _ZERO
    if op == "where" and args[1] is args[2]:
        return args[1]
    return None


def _is_linear(formula: Formula) -> bool:
    """Whether p and the slots pass through the formula as through weighted sums, with weights that are not elements."""
    dependent: set[Expr] = {p, *(_kept(formula, name) for name in formula.slots)}  # what depends on p or a slot
    for node in formula.nodes:
        if node.rank is not Rank.ELEMENT or not any(arg in dependent for arg in node.args):
            continue
        dependent.add(node)
        elements = [arg.rank is Rank.ELEMENT for arg in node.args]
        weighs = not all(elements) if node.op == "mul" else node.op == "div" and not elements[1]
        if not weighs and node.op not in ("add", "sub", "neg"):
            return False
    return True
