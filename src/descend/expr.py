"""Expressions: what the formula of an update rule is made of.

An expression is a graph of nodes. Writing `0.9 * m + 0.1 * g` inside a rule makes nodes rather than numbers, and every
backend, renderer and cost model reads the same graph. Nodes are interned: the same expression is the same object, so
common subexpressions are shared and two formulas are equal exactly when their roots are identical.

Each node has a rank, which says how many values it stands for:

    constant < optimizer < bucket < parameter tensor < element

An operation lifts its lower arguments to the highest rank among them; `sum`, `mean` and `norm` bring an element-ranked
value down to one per parameter tensor, their `global_` twins to one per optimizer.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import NoReturn, Union

from descend.language import LEAVES as LEAVES
from descend.language import OPERATIONS as OPERATIONS
from descend.language import SLOT_RANKS as SLOT_RANKS
from descend.language import WINDOWS as WINDOWS
from descend.language import Operation as Operation
from descend.language import Rank as Rank
from descend.language import Shape as Shape

Number = int | float
Operand = Union["Expr", int, float]


class FormulaError(TypeError):
    """A formula says something that the language does not hold; the message names the remedy."""


on_new_node: ContextVar[Callable[[], None] | None] = ContextVar("on_new_node", default=None)
"""Called after every operation that is written while a rule is traced: tracing watches the author's names with it."""

ask_ndim: ContextVar[Callable[[], int] | None] = ContextVar("ask_ndim", default=None)
"""Answers `p.ndim` while a rule is traced."""

call_site: ContextVar[Callable[[], int] | None] = ContextVar("call_site", default=None)
"""Numbers the global reductions of the rule being traced, in the order in which they are written."""

draw_site: ContextVar[Callable[[], int] | None] = ContextVar("draw_site", default=None)
"""Numbers the random operations of the rule being traced, in the same way and apart from the reductions."""

_nodes: weakref.WeakValueDictionary[tuple[object, ...], Expr] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def _left(op: str) -> Callable[[Expr, Operand], Expr]:
    return lambda self, other: apply(op, self, other)


def _right(op: str) -> Callable[[Expr, Operand], Expr]:
    return lambda self, other: apply(op, other, self)


class Expr:
    """A node of a formula: an operation on other nodes, or a leaf with a value.

    `op` is a key of `OPERATIONS` or of `LEAVES`, or "slot"; `args` are the nodes it is applied to; `value` tells leaves
    (and the call sites of global reductions and random operations) apart. Make nodes with operators and the functions
    of this module.
    """

    __slots__ = ("__weakref__", "args", "op", "rank", "value")
    __array_ufunc__ = None  # numpy leaves mixed arithmetic to the operators below
    op: str
    args: tuple[Expr, ...]
    value: object
    rank: Rank

    @property
    def condition(self) -> bool:
        """Whether the node is true or false rather than a number."""
        return self.op == "fresh" or (self.op in OPERATIONS and OPERATIONS[self.op].condition)

    @property
    def window(self) -> bool:
        """Whether the node is a window of values rather than a number."""
        return self.op in ("push", "kept") or (self.op == "slot" and isinstance(slot_of(self)[1], tuple))

    @property
    def ndim(self) -> int:
        """The number of dimensions of the parameter, an ordinary Python int while a rule is traced."""
        answer = ask_ndim.get()
        if self.op not in ("p", "g") or answer is None:
            raise FormulaError("only p.ndim and g.ndim are known while a rule is traced")
        return answer()

    @property
    def numel(self) -> Expr:
        """The number of elements of the parameter tensor, a scalar of the formula."""
        if self.op not in ("p", "g"):
            raise FormulaError("only the parameter and its gradient have numel: write p.numel")
        return leaf("numel")

    @property
    def rows(self) -> Expr:
        """The size of the parameter tensor's first dimension (1 for a single number), a scalar of the formula."""
        if self.op not in ("p", "g"):
            raise FormulaError("only the parameter and its gradient have rows: write p.rows")
        return leaf("rows")

    __add__, __radd__ = _left("add"), _right("add")
    __sub__, __rsub__ = _left("sub"), _right("sub")
    __mul__, __rmul__ = _left("mul"), _right("mul")
    __truediv__, __rtruediv__ = _left("div"), _right("div")
    __pow__, __rpow__ = _left("pow"), _right("pow")
    __lt__, __le__, __gt__, __ge__ = _left("lt"), _left("le"), _left("gt"), _left("ge")
    __eq__, __ne__ = _left("eq"), _left("ne")  # type: ignore[assignment]
    __hash__ = object.__hash__

    def __neg__(self) -> Expr:
        return apply("neg", self)

    def __pos__(self) -> Expr:
        return self

    def __abs__(self) -> Expr:
        return apply("abs", self)

    def __bool__(self) -> NoReturn:
        raise FormulaError(
            "a formula has no truth value while it is traced, so `if`, `and`, `or`, `not`, `min` and `max` cannot read "
            "it; choose per element with where(condition, a, b), minimum(a, b), maximum(a, b) or clip(x, low, high)"
        )

    def __float__(self) -> NoReturn:
        raise FormulaError(
            "a formula has no number while it is traced; use the functions of descend (sqrt, exp, log, tanh, ...) "
            "instead of those of math or numpy"
        )

    __int__ = __index__ = __complex__ = __float__

    def __iter__(self) -> NoReturn:
        raise FormulaError(
            "a formula cannot be iterated over; reduce it with descend.sum, mean or norm, and unpack only "
            "hyper-parameters whose default is a tuple, such as betas=(0.9, 0.999)"
        )

    __len__ = __iter__

    def __getitem__(self, index: object) -> NoReturn:
        raise FormulaError("the elements of a formula have no index: it is written for all of them at once")

    def __contains__(self, item: object) -> NoReturn:
        raise FormulaError("`in` asks for a truth value, which a formula does not have; compare with == inside where")

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise FormulaError(
            f"a formula has no attribute {name!r}; write {name}(x) if the vocabulary holds it: {words()}"
        )

    def __reduce__(self) -> tuple[Callable[..., Expr], tuple[object, ...]]:
        return _intern, (self.op, self.args, self.value)

    def __copy__(self) -> Expr:
        return self

    def __deepcopy__(self, memo: object) -> Expr:
        return self

    def __repr__(self) -> str:
        inside = [repr(a) for a in self.args] + ([] if self.value is None else [repr(self.value)])
        return f"{self.op}({', '.join(inside)})" if inside else self.op


def words() -> str:
    """The functions of the vocabulary, for messages."""
    return ", ".join(sorted({*OPERATIONS, "ema", "fresh"} - {"add", "sub", "mul", "div", "pow", "neg"}))


def _intern(op: str, args: tuple[Expr, ...], value: object) -> Expr:
    key = (op, *map(id, args), repr(value))
    with _lock:
        node = _nodes.get(key)
        if node is None:
            node = object.__new__(Expr)
            node.op, node.args, node.value = op, args, value
            node.rank = _rank(node)
            _nodes[key] = node
    return node


def _rank(node: Expr) -> Rank:
    if node.op == "slot":
        return slot_rank(slot_of(node)[1])
    if node.op in LEAVES:
        return LEAVES[node.op]
    row = OPERATIONS[node.op]
    return Rank.ELEMENT if row.random else row.reduces or max(a.rank for a in node.args)


def leaf(op: str, value: object = None) -> Expr:
    """A leaf, such as "p", "constant" (value: the number), "hyper" (name and index), "slot" (name and shape)."""
    return _intern(op, (), value)


def slot_rank(shape: Shape) -> Rank:
    """The rank of what a slot of the shape holds."""
    return SLOT_RANKS[shape if isinstance(shape, str) else shape[0]]


def slot_of(node: Expr) -> tuple[str, Shape]:
    """The name and the shape of a slot's node."""
    return node.value  # type: ignore[return-value]


def hyper_of(node: Expr) -> tuple[str, int | None]:
    """The name of a hyper-parameter's node, and its place where the hyper-parameter is a tuple."""
    return node.value  # type: ignore[return-value]


def constant(value: Number) -> Expr:
    """A number as a node. Integers and floats of one value are one node; zero keeps its sign."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise FormulaError(_not_an_operand(value))
    number = float(value)
    return leaf("constant", number)


def _not_an_operand(value: object) -> str:
    if value is None:
        return "None is not a number; give the hyper-parameter a numeric default, or branch on it with `is None`"
    if isinstance(value, bool):
        return f"{value} is not a number; a condition is made by comparing, as in where(g > 0, a, b)"
    if isinstance(value, (tuple, list)):
        return f"{value!r} is not a number; unpack it first, as in beta1, beta2 = betas"
    return f"a formula is made of numbers and expressions, not of {type(value).__name__}; a tensor is given as a slot"


def operand(value: object) -> Expr:
    """`value` as a node. Raises FormulaError for what is no number and no expression."""
    return value if isinstance(value, Expr) else constant(value)  # type: ignore[arg-type]


def apply(op: str, *values: object, site: int | None = None) -> Expr:
    """The node of an operation on nodes and numbers.

    `site` tells one call of a global reduction, or one random operation, from another. Raises FormulaError where a
    condition stands for a number, a number for a condition, where a reduction is given what has no elements, and where
    a random operation lacks its site or the step.
    """
    row = OPERATIONS[op]
    args = tuple(operand(v) for v in values)
    for position, arg in enumerate(args):
        wants_condition = op == "where" and position == 0
        if arg.condition and not wants_condition:
            raise FormulaError(f"{op} takes numbers, not a condition; turn it into one with where(condition, 1, 0)")
        if wants_condition and not arg.condition:
            raise FormulaError("the first argument of where is a condition, as in where(g > 0, a, b)")
        _check_window(op, position, arg)
    if row.whole:
        _check_whole(row, args)
    if row.random:
        _check_random(op, args, site)
    if row.reduces is not None and args[0].rank is not Rank.ELEMENT:
        raise FormulaError(
            f"{op} reduces the elements of a tensor, and its argument is one value per "
            f"{args[0].rank.name.lower()}; leave the {op} away, or reduce p, g or a slot shaped like the parameter"
        )
    node = _intern(op, args, site)
    notify = on_new_node.get()
    if notify is not None:
        notify()
    return node


def _check_whole(row: Operation, args: tuple[Expr, ...]) -> None:
    if args[0].rank is not Rank.ELEMENT or max(arg.rank for arg in args[row.whole :]) > Rank.BUCKET:
        raise FormulaError(f"{row.name} takes a tensor, such as g or a slot like the parameter, and numbers behind it")
    if any(arg.op not in ("p", "slot") or arg.rank is not Rank.ELEMENT for arg in args[1 : row.whole]):
        raise FormulaError(f"the second argument of {row.name} is p or a slot, as it is before the step")


def _check_random(op: str, args: tuple[Expr, ...], site: int | None) -> None:
    if site is None or not 0 <= site < 2**30:
        raise FormulaError(f"{op} takes a site from 0 to 2**30 - 1, another for every draw of the rule, not {site!r}")
    if args[-1] is not t:
        raise FormulaError(f"the last argument of {op} is the step, expr.t, which random numbers are a function of")


def is_random(node: Expr) -> bool:
    """Whether the node draws a random number for every element."""
    return node.op in OPERATIONS and OPERATIONS[node.op].random


def _check_window(op: str, position: int, arg: Expr) -> None:
    wants_window = op in WINDOWS and position == 0
    if arg.window and not wants_window:
        raise FormulaError(f"{op} takes numbers, not a window; read one out of it with lowest or highest")
    if wants_window and not arg.window:
        raise FormulaError(f'{op} takes a window, a slot such as Slot("history", shape=("optimizer", 20))')
    if op == "push" and position == 0 and arg.op == "push":
        raise FormulaError("a window takes one value per step; push once")
    if op == "push" and position == 1 and arg.rank > Rank.BUCKET:
        raise FormulaError(f"push takes one value per optimizer, not per {arg.rank.name.lower()}; use global_norm")


def rebuild(node: Expr, args: tuple[Expr, ...]) -> Expr:
    """`node` with other arguments."""
    return node if all(a is b for a, b in zip(node.args, args, strict=True)) else _intern(node.op, args, node.value)


def walk(roots: Iterable[Expr]) -> Iterator[Expr]:
    """Every node below `roots`, arguments before what uses them, each once."""
    seen: set[Expr] = set()
    stack: list[tuple[Expr, bool]] = [(root, False) for root in reversed(list(roots))]
    while stack:
        node, expanded = stack.pop()
        if node in seen:
            continue
        if expanded:
            seen.add(node)
            yield node
        else:
            stack.append((node, True))
            stack.extend((a, False) for a in reversed(node.args))


p = leaf("p")
g = leaf("g")
t = leaf("t")
