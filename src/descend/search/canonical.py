"""One form for formulas that mean the same by algebra, so that each is examined once.

Sums, products, minima and maxima are put in a fixed order; a difference becomes a sum; signs, magnitudes and clips of
themselves are merged; what is known as a number is calculated; calls of random operations are numbered as they come.
What algebra does not see (that an average of squares is not negative, say) is left to fingerprints.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Final

import numpy as np

from descend.backends.operations import HOST
from descend.expr import Expr, apply, constant, leaf, rebuild, slot_of, walk
from descend.search.source import RANDOM

_COMMUTING: Final = frozenset(["add", "mul", "minimum", "maximum"])
_IDEMPOTENT: Final = frozenset(["sign", "abs"])

_digests: dict[Expr, bytes] = {}
_KEPT: Final = 100_000


def canonical(update: Expr, slots: Mapping[str, Expr]) -> tuple[Expr, dict[str, Expr]]:
    """The update and the assignments of the slots that it reads, in canonical form.

    Slots are named by what is assigned to them, and those that always hold the same are one.

    Args:
        update: the step at rate 1.
        slots: what is assigned to each slot, which starts at zero; those that do not reach the update are left away.
    """
    names = _slots_reached(update, slots)
    labels = _labels(tuple((name, slots[name]) for name in names))
    named = {labels[name]: slots[name] for name in sorted(names, key=labels.__getitem__)}
    update, *roots = _renumbered(_simplified(_renamed([update, *named.values()], labels)))
    return update, dict(zip(named, roots, strict=True))


@lru_cache(4096)
def _labels(slots: tuple[tuple[str, Expr], ...]) -> dict[str, str]:
    """A name for each slot that tells what it holds, whatever it was called.

    Slots whose assignments differ are told apart; then those whose assignments read slots that were told apart; and so
    on, once for each slot (partition refinement).
    """
    labels = {name: "" for name, _ in slots}
    for _ in slots:
        roots = _simplified(_renamed([root for _, root in slots], labels))
        labels = {name: digest(root).hex() for (name, _), root in zip(slots, roots, strict=True)}
    return {name: label + _draws_apart(slots, labels, name) for name, label in labels.items()}


def _draws_apart(slots: tuple[tuple[str, Expr], ...], labels: Mapping[str, str], name: str) -> str:
    """What tells a slot from others of the same label that draw numbers of their own; "" for the first of them."""
    sites = {other: _sites([root]) for other, root in slots if labels[other] == labels[name]}
    place = list(dict.fromkeys(sites.values())).index(sites[name])
    return f".{place}" if place else ""


def _sites(roots: Iterable[Expr]) -> tuple[object, ...]:
    return tuple(node.value for node in walk(roots) if node.op in RANDOM)


def digest(node: Expr) -> bytes:
    """What tells an expression from others, in every process; calls of random operations are all alike to it."""
    if node in _digests:
        return _digests[node]
    if len(_digests) > _KEPT:
        _digests.clear()
    for below in walk([node]):
        if below not in _digests:
            value = None if below.op in RANDOM else below.value
            words = [below.op.encode(), repr(value).encode(), *(_digests[arg] for arg in below.args)]
            _digests[below] = blake2b(b"|".join(words), digest_size=12).digest()
    return _digests[node]


def text_key(update: Expr, slots: Mapping[str, Expr]) -> str:
    """The identity of a canonical form, as text."""
    whole = [update, *slots.values()]
    words = [*(digest(node) for node in whole), repr(_sites(whole)).encode()]
    return blake2b(b"|".join(words), digest_size=12).hexdigest()


def _simplified(roots: list[Expr]) -> list[Expr]:
    known: dict[Expr, Expr] = {}
    for node in walk(roots):
        known[node] = _normal(node, tuple(known[arg] for arg in node.args))
    return [known[root] for root in roots]


def _slots_reached(update: Expr, slots: Mapping[str, Expr]) -> list[str]:
    """The slots that the update depends on, in this step or through others in a later one."""
    found: dict[str, None] = {}
    waiting = [update]
    while waiting:
        for node in walk([waiting.pop()]):
            if node.op == "slot" and slot_of(node)[0] not in found:
                name = slot_of(node)[0]
                found[name] = None
                waiting.append(slots[name])
    return list(found)


def _renamed(roots: list[Expr], names: Mapping[str, str]) -> list[Expr]:
    known: dict[Expr, Expr] = {}
    for node in walk(roots):
        if node.op == "slot":
            name, shape = slot_of(node)
            known[node] = leaf("slot", (names[name], shape))
        else:
            known[node] = rebuild(node, tuple(known[arg] for arg in node.args))
    return [known[root] for root in roots]


def _renumbered(roots: list[Expr]) -> list[Expr]:
    known: dict[Expr, Expr] = {}
    count = 0
    for node in walk(roots):
        args = tuple(known[arg] for arg in node.args)
        if node.op in RANDOM:
            known[node] = apply(node.op, *args, site=count)
            count += 1
        else:
            known[node] = rebuild(node, args)
    return [known[root] for root in roots]


def _normal(node: Expr, args: tuple[Expr, ...]) -> Expr:
    """The node in canonical form, given its arguments in theirs."""
    op = node.op
    if op == "sub":
        return _normal_sum(args[0], _negated(args[1]))
    if args and op in HOST and not node.condition and all(arg.op == "constant" for arg in args):
        return _calculated(op, args)
    if op == "add":
        return _normal_sum(*args)
    if op == "mul":
        return _normal_product(*args)
    if op == "neg":
        return _negated(args[0])
    if op in _IDEMPOTENT:
        return _of_magnitude(op, args[0])
    if op == "sqrt" and args[0].op == "mul" and args[0].args[0] is args[0].args[1]:
        return _of_magnitude("abs", args[0].args[0])
    if op == "clip" and args[0].op == "clip":
        return _clipped_twice(args)
    if op in _COMMUTING:
        return apply(op, *_sorted(args))
    return rebuild(node, args)


def _calculated(op: str, args: Iterable[Expr]) -> Expr:
    with np.errstate(all="ignore"):
        return constant(float(HOST[op](*(np.float64(arg.value) for arg in args))))  # type: ignore[arg-type]


def _sorted(args: Iterable[Expr]) -> list[Expr]:
    return sorted(args, key=digest)


def _is_number(node: Expr, value: float) -> bool:
    return node.op == "constant" and node.value == value


def _normal_sum(a: Expr, b: Expr) -> Expr:
    if _is_number(a, 0):
        return b
    if _is_number(b, 0):
        return a
    if a.op == b.op == "constant":
        return _calculated("add", (a, b))
    if a.op == "neg" and b.op == "neg":
        return apply("neg", apply("add", *_sorted((a.args[0], b.args[0]))))
    return apply("add", *_sorted((a, b)))


def _normal_product(a: Expr, b: Expr) -> Expr:
    negative = False
    if a.op == "neg":
        a, negative = a.args[0], not negative
    if b.op == "neg":
        b, negative = b.args[0], not negative
    if _is_number(a, 1):
        made = b
    elif _is_number(b, 1):
        made = a
    else:
        made = apply("mul", *_sorted((a, b)))
    return _negated(made) if negative else made


def _negated(node: Expr) -> Expr:
    if node.op == "neg":
        return node.args[0]
    if node.op == "constant":
        return constant(-float(node.value))  # type: ignore[arg-type]
    return apply("neg", node)


def _of_magnitude(op: str, x: Expr) -> Expr:
    if x.op == op:
        return x
    if x.op == "neg":
        inner = _of_magnitude(op, x.args[0])
        return inner if op == "abs" else _negated(inner)
    if op == "abs" and x.op == "mul" and x.args[0] is x.args[1]:
        return x
    return apply(op, x)


def _clipped_twice(args: tuple[Expr, ...]) -> Expr:
    """A clip of a clip, as one where both are symmetric numbers, the higher one not below the lower."""
    x, inner, outer = args[0].args[0], args[0].args[2], args[2]
    numbers = (*args[0].args[1:], *args[1:])
    symmetric = (
        all(arg.op == "constant" for arg in numbers)
        and all(
            math.isclose(-float(low.value), float(high.value)) and float(high.value) >= 0  # type: ignore[arg-type]
            for low, high in (args[0].args[1:], args[1:])
        )
    )
    if not symmetric:
        return apply("clip", *args)
    least = min(inner, outer, key=lambda bound: float(bound.value))  # type: ignore[arg-type]
    return apply("clip", x, constant(-float(least.value)), least)  # type: ignore[arg-type]
