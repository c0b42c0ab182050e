"""The truth of a formula, and how far an evaluation in a given type may lie from it: a running error bound.

`evaluate` interprets a formula on numpy arrays in extended precision and carries beside every value a bound on the
error of an evaluation that computes elements in `Format` (float32 or float64). The model of that evaluation:

- Scalars (one value per tensor, bucket or optimizer) are computed in float64, and rounded into the elements' type
  where they meet elements. Dividing elements by a scalar may be multiplying by its rounded reciprocal.
- add, sub, mul and div round once; a product that is added may stay unrounded (contraction). So does sqrt, or it is
  off by `Format.sqrt_ulps`.
- exp, log, pow and tanh are off by at most 4 units in the last place in float32 and 2 in float64.
- Reductions add up in float64 in any order.
- A new value of a scalar slot is rounded to storage before anything reads it; what is stored is rounded to storage.

Where arguments have no error and the result is representable, there is none. An element is `unknown` where the model
cannot tell its value: its interval holds a switch (of sign, of a comparison whose two branches differ), a zero of a
divisor, the edge of a domain (log, sqrt, pow), or it may overflow. Everything else is known, NaN and infinities too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from descend.expr import OPERATIONS, Expr, Rank, hyper_of, slot_of
from descend.formula import Formula

Extended = np.longdouble
TRUTH: float = float(np.finfo(Extended).eps)
"""What the operations of the truth itself may be off by, relative to the result, twice over."""


@dataclass(frozen=True)
class Format:
    """A binary floating-point type, and what its arithmetic may be off by.

    Attributes:
        name: torch's.
        bits: of the significand.
        smallest: subnormal number.
        largest: finite number.
        function_ulps: the error of exp, log, pow and tanh, in units in the last place.
        sqrt_ulps: that of the square root; 0.5 is the correct rounding.
    """

    name: str
    bits: int
    smallest: float
    largest: float
    function_ulps: float = 4
    sqrt_ulps: float = 0.5

    @property
    def unit(self) -> float:
        """Half a unit in the last place, relative: what one correct rounding costs at most."""
        return 2.0**-self.bits

    def quantum(self, x: np.ndarray) -> np.ndarray:
        """The distance between neighbours of `x` in this type."""
        exponent = np.frexp(np.where(np.isfinite(x), x, 0))[1]
        return np.maximum(np.ldexp(Extended(1), exponent - self.bits), Extended(self.smallest))

    def round(self, x: np.ndarray) -> np.ndarray:
        """The nearest number of this type, ties to even; no upper limit."""
        quantum = self.quantum(x)
        return np.where(np.isfinite(x), np.rint(x / quantum) * quantum, x)

    def holds(self, x: np.ndarray) -> np.ndarray:
        """Whether this type has exactly the number `x`."""
        return self.round(x) == x


FORMATS = {
    row.name: row
    for row in (
        Format("float64", 53, 2.0**-1074, float(np.finfo(np.float64).max), function_ulps=2),
        Format("float32", 24, 2.0**-149, float(np.finfo(np.float32).max)),
        Format("bfloat16", 8, 2.0**-133, (2 - 2.0**-7) * 2.0**127),
        Format("float16", 11, 2.0**-24, 65504.0),
    )
}
HOST = replace(FORMATS["float64"], sqrt_ulps=1)
"""What scalars are computed in."""


@dataclass(frozen=True)
class Carried:
    """Values with their bounds.

    Attributes:
        value: the truth, in extended precision (booleans for a condition).
        bound: how far an evaluation may lie from it; 0 where it must be exact, and where the value is not finite.
        unknown: where nothing can be said; for a condition, where it may come out either way.
    """

    value: np.ndarray
    bound: np.ndarray
    unknown: np.ndarray

    @property
    def size(self) -> np.ndarray:
        """The largest magnitude in the interval."""
        return np.abs(self.value) + self.bound

    @property
    def may_be_zero(self) -> np.ndarray:
        """Where zero lies in the interval and the value is not exactly known."""
        return (self.bound > 0) & (np.abs(self.value) <= self.bound)

    @property
    def exact(self) -> np.ndarray:
        return self.bound == 0


def exactly(value: Any) -> Carried:
    """Values that every evaluation begins with."""
    array = np.asarray(value, dtype=Extended)
    return Carried(array, np.zeros(array.shape, Extended), np.zeros(array.shape, bool))


def rounded(exact: Carried, to: Format, ulps: float = 0.5, pole: Any = False) -> Carried:
    """The result of an operation, rounded to a type.

    Args:
        exact: the result with the error that it has from its arguments.
        to: the type.
        ulps: what the operation is off by, in units in the last place; 0.5 is the correct rounding.
        pole: where an infinity of finite arguments is meant, as in 1 / 0.
    """
    finite = np.isfinite(exact.value)
    error = exact.bound + 2 * (ulps * to.unit + TRUTH) * exact.size + 2 * ulps * to.smallest
    if ulps == 0.5:
        error = np.where((exact.bound == 0) & to.holds(exact.value), 0, error)
    overflow = np.where(finite, exact.size + error > to.largest / 2, np.isinf(exact.value) & ~np.asarray(pole))
    return Carried(exact.value, np.where(finite, error, 0), exact.unknown | overflow)


# the operations, on results not yet rounded


def _carry(value: np.ndarray, bound: np.ndarray, unknown: np.ndarray) -> Carried:
    shape = np.broadcast_shapes(np.shape(value), np.shape(bound), np.shape(unknown))
    value, unknown = np.broadcast_to(value, shape), np.broadcast_to(unknown, shape)
    bound = np.where(np.isfinite(value), np.broadcast_to(bound, shape), 0)
    return Carried(value, np.where(np.isnan(bound), np.inf, bound), unknown)


def _infinite_arguments(*args: Carried) -> np.ndarray:
    return np.logical_or.reduce(np.broadcast_arrays(*(~np.isfinite(a.value) for a in args)))


def _add(a: Carried, b: Carried) -> Carried:
    return _carry(a.value + b.value, a.bound + b.bound, a.unknown | b.unknown)


def _sub(a: Carried, b: Carried) -> Carried:
    return _carry(a.value - b.value, a.bound + b.bound, a.unknown | b.unknown)


def _mul(a: Carried, b: Carried) -> Carried:
    unknown = np.isinf(a.value) & b.may_be_zero | np.isinf(b.value) & a.may_be_zero
    bound = np.abs(a.value) * b.bound + np.abs(b.value) * a.bound + a.bound * b.bound
    return _carry(a.value * b.value, bound, a.unknown | b.unknown | unknown)


def _div(a: Carried, b: Carried) -> Carried:
    quotient = a.value / b.value
    unknown = b.may_be_zero | a.may_be_zero & (b.value == 0)
    bound = (a.bound + np.abs(quotient) * b.bound) / (np.abs(b.value) - b.bound)
    return _carry(quotient, bound, a.unknown | b.unknown | unknown)


def _spread(center: np.ndarray, *corners: np.ndarray) -> np.ndarray:
    """How far a function that is monotone in each argument strays from its value, given it at the corners."""
    apart = [np.abs(corner - center) for corner in corners]
    return np.maximum.reduce(np.broadcast_arrays(*apart)) * (1 + 4 * TRUTH)


def _monotone(function: Any, a: Carried, start: float = -np.inf) -> Carried:
    """A growing function of one argument, defined from `start` on."""
    low = np.where(a.value >= start, np.maximum(a.value - a.bound, start), a.value - a.bound)
    value = function(a.value)
    bound = np.where(a.exact, 0, _spread(value, function(low), function(a.value + a.bound)))
    edge = a.may_be_zero if start == 0 else False
    return _carry(value, bound, a.unknown | edge)


def _pow(a: Carried, b: Carried) -> Carried:
    x, y = a.value, b.value
    low, high = np.maximum(np.abs(x) - a.bound, 0), np.abs(x) + a.bound
    value = np.power(x, y)
    corners = [np.power(base, exponent) for base in (low, high) for exponent in (y - b.bound, y + b.bound)]
    exact = a.exact & b.exact
    bound = np.where(exact, 0, _spread(np.abs(value), *corners))
    special = ~np.isfinite(x) | ~np.isfinite(y) | (x == 0)
    # NaN passes through, unless the other side may be the 0 or the 1 whose power is 1
    passes = np.isnan(x) & ~((np.abs(y) <= b.bound) & (b.bound > 0)) | np.isnan(y) & (np.abs(x - 1) > a.bound)
    unknown = special & ~exact & ~passes | a.may_be_zero | (x < 0) & (b.bound > 0)
    # a square root and the power 1/2 differ in the sign of zero and at -inf; either is a fair reading
    unknown = unknown | (np.abs(y) == 0.5) & (np.isneginf(x) | (x == 0) & np.signbit(x))
    return _carry(value, bound, a.unknown | b.unknown | unknown)


def _sign(a: Carried) -> Carried:
    value = np.where(np.isnan(a.value), 0, np.sign(a.value))  # of NaN: 0, as in torch
    loose = np.where(value == 0, HOST.smallest, 0)  # the sign of zero is nobody's promise
    return _carry(value.astype(Extended), loose, a.unknown | a.may_be_zero)


def _smaller(a: Carried, b: Carried, sign: int = 1) -> Carried:
    """The minimum, or with `sign` -1 the maximum: as continuous as its arguments, so nothing is a switch."""
    x, y = sign * a.value, sign * b.value
    value = np.minimum(x, y)
    apart = np.abs(x - y) > a.bound + b.bound
    bound = np.where(apart, np.where(x < y, a.bound, b.bound), np.maximum(a.bound, b.bound))
    either_zero = (x == 0) & (y == 0) & (np.signbit(x) != np.signbit(y))
    bound = np.where(either_zero, np.maximum(bound, HOST.smallest), bound)
    return _carry(sign * value, bound, a.unknown | b.unknown)


def _greater(a: Carried, b: Carried) -> Carried:
    return _smaller(a, b, sign=-1)


def _clip(x: Carried, low: Carried, high: Carried) -> Carried:
    return _smaller(_greater(x, low), high)


def _where(condition: Carried, a: Carried, b: Carried) -> Carried:
    condition, a, b = _together(condition, a, b)
    same = (a.value == b.value) | np.isnan(a.value) & np.isnan(b.value)
    alike = same | (np.abs(a.value - b.value) <= a.bound + b.bound)
    alike = alike & ~a.unknown & ~b.unknown
    chosen = np.where(condition.value, a.bound, b.bound)
    reach = np.where(same, HOST.smallest, np.abs(a.value - b.value)) + np.maximum(a.bound, b.bound)
    bound = np.where(condition.unknown, np.where(alike, reach, 0), chosen)
    unknown = np.where(condition.unknown, ~alike, np.where(condition.value, a.unknown, b.unknown))
    return _carry(np.where(condition.value, a.value, b.value), bound, unknown)


def _together(*args: Carried) -> list[Carried]:
    shape = np.broadcast_shapes(*(np.shape(a.value) for a in args))
    return [Carried(*(np.broadcast_to(x, shape) for x in (a.value, a.bound, a.unknown))) for a in args]


def _compare(op: str, a: Carried, b: Carried) -> Carried:
    holds = _COMPARISONS[op](a.value, b.value)
    slack = a.bound + b.bound
    unsure = (slack > 0) & (np.abs(a.value - b.value) <= slack)
    return Carried(holds, np.zeros(np.shape(holds), Extended), a.unknown | b.unknown | unsure)


_COMPARISONS: dict[str, Any] = {
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
}
_EXACT: dict[str, Any] = {
    "neg": lambda a: Carried(-a.value, a.bound, a.unknown),
    "abs": lambda a: Carried(np.abs(a.value), a.bound, a.unknown),
    "sign": _sign,
    "minimum": _smaller,
    "maximum": _greater,
    "clip": _clip,
    "where": _where,
}
"""What rounds nothing."""
_ROUNDED: dict[str, Any] = {"add": _add, "sub": _sub, "mul": _mul, "div": _div}
_FUNCTIONS: dict[str, Any] = {
    "exp": lambda a: _monotone(np.exp, a),
    "tanh": lambda a: _monotone(np.tanh, a),
    "log": lambda a: _monotone(np.log, a, start=0),
    "pow": _pow,
}


def operate(op: str, args: Sequence[Carried], to: Format) -> Carried:
    """An operation on values with bounds, in the arithmetic of a type."""
    if op in _COMPARISONS:
        return _compare(op, *args)
    if op in _EXACT:
        return _EXACT[op](*args)
    if op == "sqrt":
        return rounded(_monotone(np.sqrt, args[0], start=0), to, to.sqrt_ulps, pole=_infinite_arguments(*args))
    poles = _infinite_arguments(*args)
    if op in _ROUNDED:
        poles = poles | ((args[1].value == 0) if op == "div" else False)
        return rounded(_ROUNDED[op](*args), to, pole=poles)
    poles = poles | ((args[0].value == 0) if op in ("log", "pow") else False)
    return rounded(_FUNCTIONS[op](*args), to, to.function_ulps, pole=poles)


def divide_by_scalar(a: Carried, b: Carried, to: Format) -> Carried:
    """Elements over a scalar: the quotient, or the product with the reciprocal, whichever an evaluation takes."""
    one = exactly(1)
    reciprocal = rounded(operate("div", [one, b], HOST), to, pole=b.value == 0)
    ordinary = np.isfinite(b.value) & (b.value != 0)
    outside = ordinary & (np.abs(reciprocal.value) < to.smallest * 2.0 ** (to.bits - 1))
    quotient, product = operate("div", [a, b], to), operate("mul", [a, reciprocal], to)
    bound = np.maximum(quotient.bound, product.bound)
    return _carry(quotient.value, bound, quotient.unknown | product.unknown | outside)


def total(op: str, parts: Sequence[Carried], count: int) -> Carried:
    """A reduction over the elements of several tensors, added up in float64."""
    x = Carried(
        *(np.concatenate([np.ravel(getattr(part, f)) for part in parts]) for f in ("value", "bound", "unknown"))
    )
    if op.endswith("norm"):
        x = rounded(_mul(x, x), HOST, pole=np.isinf(x.value))
    size = np.sum(np.where(np.isfinite(x.value), x.size, 0))
    value = np.sum(x.value, dtype=Extended)
    bound = np.sum(x.bound) + (x.value.size + 2) * (HOST.unit + TRUTH) * size
    if not op.endswith("norm"):
        bound = bound + HOST.smallest  # the sign of a sum that is zero
    overflow = np.isfinite(value) & (size > HOST.largest / 2)
    result = _carry(np.asarray(value), np.asarray(bound), np.any(x.unknown) | overflow)
    if op.endswith("norm"):
        # the sum of squares is not negative, so the edge of the square root's domain is out of reach
        low, high = np.sqrt(np.maximum(result.value - result.bound, 0)), np.sqrt(result.value + result.bound)
        root = np.sqrt(result.value)
        result = _carry(root, _spread(root, low, high), result.unknown)
        return rounded(result, HOST, HOST.sqrt_ulps, pole=np.isinf(value))
    if op.endswith("mean"):
        return operate("div", [result, exactly(count)], HOST)
    return result


# the interpreter


@dataclass(frozen=True)
class Member:
    """A parameter that takes a step.

    Attributes:
        formula: its variant, not settled.
        p, g: the parameter and its gradient, every number exact.
        slots: the values that it has, by slot name; one that is missing is fresh.
        hyper_parameters: the numbers in force.
        t: the step about to be taken, from 1.
        arithmetic: the type of its elements' arithmetic.
        scalar_storage: the storage types of its scalar slots, by name.
    """

    formula: Formula
    p: np.ndarray
    g: np.ndarray
    slots: Mapping[str, np.ndarray]
    hyper_parameters: Mapping[str, Any]
    t: int
    arithmetic: Format
    scalar_storage: Mapping[str, Format] = field(default_factory=dict)


def evaluate(members: Sequence[Member]) -> list[dict[str, Carried]]:
    """What one step assigns, by output name, for each of the parameters that step together under one rule."""
    step = _Step(members)
    with np.errstate(all="ignore"):
        return [
            {name: step.assigned(name, root, index) for name, root in member.formula.outputs.items()}
            for index, member in enumerate(members)
        ]


@dataclass
class _Step:
    """The interpreter's memory: values per node and parameter, global reductions per node."""

    members: Sequence[Member]
    known: dict[tuple[Expr, int], Carried] = field(default_factory=dict)
    reduced: dict[Expr, Carried] = field(default_factory=dict)

    def assigned(self, name: str, root: Expr, index: int) -> Carried:
        member = self.members[index]
        value = self.value(root, index)
        if name != "p" and member.formula.slots[name].shape != "like":
            return value
        if root.rank < Rank.ELEMENT:
            value = rounded(value, member.arithmetic, pole=True)
        return Carried(*(np.broadcast_to(x, member.p.shape) for x in (value.value, value.bound, value.unknown)))

    def value(self, node: Expr, index: int) -> Carried:
        key = node, index
        if key not in self.known:
            value = self._compute(node, index)
            for name, root in self.members[index].formula.outputs.items():
                if root is node and name in self.members[index].scalar_storage:
                    value = self._as_stored(node, value, self.members[index].scalar_storage[name])
            self.known[key] = value
        return self.known[key]

    def _compute(self, node: Expr, index: int) -> Carried:
        if node.op not in OPERATIONS:
            member = self.members[index]
            value = exactly(self._leaf(node, member))
            return rounded(value, member.arithmetic, pole=True) if node.rank is Rank.ELEMENT else value
        if node.op == "where" and node.args[0].op == "fresh":
            return self.value(self._settled(node, self.members[index]), index)
        reduces = OPERATIONS[node.op].reduces
        if reduces is Rank.OPTIMIZER:
            if node not in self.reduced:
                self.reduced[node] = self._reduce_globally(node)
            return self.reduced[node]
        if reduces is Rank.TENSOR:
            return total(node.op, [self._elements(node.args[0], index)], self.members[index].p.size)
        return self._operate(node, index)

    def _operate(self, node: Expr, index: int) -> Carried:
        args = [self.value(arg, index) for arg in node.args]
        if node.rank < Rank.ELEMENT:
            return operate(node.op, args, HOST)
        arithmetic = self.members[index].arithmetic
        if node.op == "div" and node.args[1].rank < Rank.ELEMENT:
            divisor = args[1]
            met = rounded(divisor, arithmetic, pole=True)
            result = divide_by_scalar(args[0], divisor, arithmetic)
            quotient = operate("div", [args[0], met], arithmetic)
            return _carry(result.value, np.maximum(result.bound, quotient.bound), result.unknown | quotient.unknown)
        args = [
            value if arg.rank is Rank.ELEMENT or arg.condition else rounded(value, arithmetic, pole=True)
            for value, arg in zip(args, node.args, strict=True)
        ]
        return operate(node.op, args, arithmetic)

    def _elements(self, node: Expr, index: int) -> Carried:
        value, shape = self.value(node, index), self.members[index].p.shape
        return Carried(*(np.broadcast_to(x, shape) for x in (value.value, value.bound, value.unknown)))

    def _reduce_globally(self, node: Expr) -> Carried:
        """Over all parameters whose variant, given what is fresh, takes part in this reduction."""
        indices = [i for i, member in enumerate(self.members) if node in self._reached(member)]
        count = sum(self.members[i].p.size for i in indices)
        return total(node.op, [self._elements(node.args[0], i) for i in indices], count)

    def _reached(self, member: Member) -> set[Expr]:
        seen: set[Expr] = set()
        stack = list(member.formula.outputs.values())
        while stack:
            node = stack.pop()
            if node not in seen:
                seen.add(node)
                fresh_choice = node.op == "where" and node.args[0].op == "fresh"
                stack.extend([self._settled(node, member)] if fresh_choice else node.args)
        return seen

    def _settled(self, node: Expr, member: Member) -> Expr:
        return node.args[1 if node.args[0].value not in member.slots else 2]

    def _leaf(self, node: Expr, member: Member) -> Any:
        if node.op in ("p", "g", "t"):
            return {"p": member.p, "g": member.g, "t": member.t}[node.op]
        if node.op == "slot":
            return member.slots[slot_of(node)[0]]
        if node.op == "numel":
            return member.p.size
        if node.op == "constant":
            return node.value
        name, place = hyper_of(node)
        value = member.hyper_parameters[name]
        return value if place is None else value[place]

    def _as_stored(self, root: Expr, value: Carried, storage: Format) -> Carried:
        """The new value of a scalar slot, as whatever reads it sees it."""
        if not root.args or storage.bits == HOST.bits:
            return value
        if _follows_reduction(root):  # whether its readers see it rounded is left open
            return rounded(value, storage, pole=True)
        nearest = storage.round(value.value)
        sure = storage.round(value.value - value.bound) == storage.round(value.value + value.bound)
        loose = rounded(value, storage, pole=True)
        bound = np.where(sure, 0, loose.bound + np.abs(nearest - value.value))
        return _carry(np.where(np.isfinite(value.value), nearest, value.value), bound, loose.unknown)


def _follows_reduction(node: Expr) -> bool:
    below = [node]
    while below:
        node = below.pop()
        if node.op in OPERATIONS and OPERATIONS[node.op].reduces is not None:
            return True
        below.extend(node.args)
    return False


# the comparison


@dataclass(frozen=True)
class Comparison:
    """How a result compares with the truth.

    Attributes:
        compared, excluded: numbers of elements.
        wrong: the flat indices of those that lie outside their bounds.
        tightness: the largest error over its bound.
    """

    compared: int
    excluded: int
    wrong: np.ndarray
    tightness: float


def compare(got: np.ndarray, truth: Carried, storage: Format, arithmetic: Format) -> Comparison:
    """Compare a stored result, taken to extended precision, with the truth.

    In float64 an element is left out too where its bound exceeds a millionth of its value.
    """
    with np.errstate(all="ignore"):
        stored = truth if storage.bits >= arithmetic.bits else rounded(truth, storage, pole=True)
        value, bound, unknown = (np.ravel(x) for x in (stored.value, stored.bound, stored.unknown))
        got = np.ravel(got)
        if arithmetic.bits == HOST.bits:
            before = np.ravel(truth.bound)
            unknown = unknown | np.isfinite(value) & (before > 1e-6 * np.abs(value)) & (before > 0)
        finite = np.isfinite(value)
        error = np.abs(got - value)
        same = np.where(finite, error <= bound * (1 + 1e-9), (got == value) | np.isnan(got) & np.isnan(value))
        wrong = ~same & ~unknown
        within = error[finite & ~unknown & (bound > 0)] / bound[finite & ~unknown & (bound > 0)]
    tightness = float(within.max()) if within.size else 0.0
    return Comparison(got.size, int(unknown.sum()), np.flatnonzero(wrong), tightness)
