"""Slots and formulas: what a rule has become once it was traced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from descend.expr import (
    OPERATIONS,
    SLOT_RANKS,
    Expr,
    Rank,
    Shape,
    hyper_of,
    is_random,
    rebuild,
    walk,
)

if TYPE_CHECKING:
    from descend.rule import Rule

CallPlace = tuple[int, int]
STORAGE_TYPES: Final = ("float64", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Slot:
    """Optimizer state: a value that a rule keeps from step to step.

    Args:
        key: the name under which it stands in `optimizer.state[p]` (torch's own where torch has the slot).
        init: its first value: a number, the name of a hyper-parameter, or "p" (a copy of the parameter).
        shape: "like" the parameter, "scalar" (one value per parameter tensor), "optimizer" (one per optimizer), or
            ("optimizer", n): a window of the last n values of one number, empty at first, for push, lowest and highest.
        dtype: the name of a storage type such as "float32"; None keeps the parameter's (float32 for scalars).

    Raises:
        ValueError: for another shape or an init that is neither a number nor a name.
    """

    key: str
    init: float | str = 0
    shape: Shape = "like"
    dtype: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.key, str) or not self.key or self.key == "step":
            raise ValueError(f"Slot key must be a name other than 'step', which is the count t: {self.key!r}")
        if not (self.is_window or (isinstance(self.shape, str) and self.shape in SLOT_RANKS)):
            raise ValueError(
                f"Slot({self.key!r}) has shape {self.shape!r}; choose one of {', '.join(SLOT_RANKS)}, or "
                '("optimizer", n) for a window of n values'
            )
        if self.is_window and self.init != 0:
            raise ValueError(f"Slot({self.key!r}) is a window, which begins empty; leave init={self.init!r} away")
        if isinstance(self.init, bool) or not isinstance(self.init, (int, float, str)):
            raise ValueError(f"Slot({self.key!r}) starts from a number, a hyper-parameter's name or 'p': {self.init!r}")
        if self.dtype is not None and self.dtype not in STORAGE_TYPES:
            raise ValueError(
                f"Slot({self.key!r}) has dtype {self.dtype!r}; choose one of {', '.join(map(repr, STORAGE_TYPES))}"
            )
        if self.init == "p" and self.shape != "like":
            raise ValueError(f"Slot({self.key!r}) starts from the parameter, so its shape must be 'like'")

    @property
    def is_window(self) -> bool:
        """Whether it holds the last values of one number."""
        match self.shape:
            case ("optimizer", int() as length):
                return not isinstance(length, bool) and length >= 1
        return False

    @property
    def is_shared(self) -> bool:
        """Whether it exists once per optimizer."""
        return self.shape == "optimizer" or self.is_window


def draw_number(node: Expr) -> int:
    """The site of a random operation."""
    return int(node.value)  # type: ignore[call-overload, no-any-return]


@dataclass(frozen=True, eq=False)
class Formula:
    """One variant of a rule, traced.

    Attributes:
        rule: where it comes from.
        outputs: the expression that is assigned to "p" and to each slot that this variant keeps.
        bindings: the author's intermediate names in the order in which they were assigned.
        hyper_parameters: the values that chose the variant.
        call_places: where the function calls each global reduction, by the call's number in this variant: the place in
            the code and how often it was reached before. The same place in two variants is the same reduction.
        own_slots: slots that an optimizer's options add to the rule's or store in another type, by name.
    """

    rule: Rule
    outputs: Mapping[str, Expr]
    bindings: tuple[tuple[str, Expr], ...]
    hyper_parameters: Mapping[str, object]
    call_places: tuple[CallPlace, ...]
    own_slots: Mapping[str, Slot] = field(default_factory=dict)

    @cached_property
    def slots(self) -> dict[str, Slot]:
        """The slots that this variant keeps, by their names in the signature."""
        declared = {**self.rule.slots, **self.own_slots}
        return {name: declared[name] for name in self.outputs if name != "p"}

    @cached_property
    def nodes(self) -> tuple[Expr, ...]:
        """Every node of the formula, arguments before what uses them."""
        return tuple(walk(self.outputs.values()))

    @cached_property
    def uses(self) -> Counter[Expr]:
        """How often each node is read, by other nodes and by what is assigned."""
        counted = Counter(arg for node in self.nodes for arg in node.args)
        counted.update(self.outputs.values())
        return counted

    @cached_property
    def global_reductions(self) -> dict[int, Expr]:
        """The calls of global reductions that the outputs need, by their numbers."""
        return {
            int(node.value): node  # type: ignore[call-overload]
            for node in self.nodes
            if node.op in OPERATIONS and OPERATIONS[node.op].reduces is Rank.OPTIMIZER
        }

    @cached_property
    def draws(self) -> tuple[Expr, ...]:
        """The random operations that the outputs need, in the order of their sites."""
        return tuple(sorted(filter(is_random, self.nodes), key=draw_number))

    @cached_property
    def is_elementwise(self) -> bool:
        """Whether each element is updated from its own values and scalars alone, without a reduction."""
        reduces = any(node.op in OPERATIONS and OPERATIONS[node.op].reduces is not None for node in self.nodes)
        return not reduces and not self.shared_outputs and not self.opaque_calls

    @cached_property
    def opaque_calls(self) -> tuple[str, ...]:
        """The operations that torch computes of whole tensors."""
        return tuple(dict.fromkeys(n.op for n in self.nodes if n.op in OPERATIONS and OPERATIONS[n.op].whole))

    @cached_property
    def shared_outputs(self) -> dict[str, Expr]:
        """What is assigned to the slots that exist once per optimizer, by their names."""
        return {name: self.outputs[name] for name, slot in self.slots.items() if slot.is_shared}

    @cached_property
    def common_hyper_parameters(self) -> tuple[str, ...]:
        """The hyper-parameters that reach a slot which exists once per optimizer: all groups must agree on them.

        What stands below a global reduction reaches it as a sum over all groups, and may differ.
        """
        found: dict[str, None] = {}
        seen: set[Expr] = set()
        waiting = list(self.shared_outputs.values())
        while waiting:
            node = waiting.pop()
            if node in seen or (node.op in OPERATIONS and OPERATIONS[node.op].reduces is not None):
                continue
            seen.add(node)
            waiting += node.args
            if node.op == "hyper":
                found[hyper_of(node)[0]] = None
        return tuple(found)

    def is_same_as(self, other: Formula) -> bool:
        """Whether both assign identical expressions to the same names."""
        mine, theirs = self.outputs, other.outputs
        return mine.keys() == theirs.keys() and all(mine[name] is theirs[name] for name in mine)

    def settle(self, fresh: frozenset[str]) -> Formula:
        """The formula for parameters whose slots named in `fresh` have no value yet, and all others have one."""
        relevant = fresh & self.asks_fresh
        if not self.asks_fresh:
            return self
        if relevant not in self._settled:
            self._settled[relevant] = self._choose(relevant)
        return self._settled[relevant]

    def _choose(self, fresh: frozenset[str]) -> Formula:
        def chosen(node: Expr, args: tuple[Expr, ...]) -> Expr:
            if node.op == "where" and node.args[0].op == "fresh":
                return args[1 if node.args[0].value in fresh else 2]
            return rebuild(node, args)

        return self.rewritten(chosen)

    def rewritten(self, change: Callable[[Expr, tuple[Expr, ...]], Expr]) -> Formula:
        """The formula with every node, in its outputs and its named intermediates, changed.

        Args:
            change: gives a node anew from the node and its arguments, which are changed already.
        """
        changed: dict[Expr, Expr] = {}
        for node in walk([*self.outputs.values(), *(node for _, node in self.bindings)]):
            changed[node] = change(node, tuple(changed[a] for a in node.args))
        outputs = {name: changed[root] for name, root in self.outputs.items()}
        return replace(self, outputs=outputs, bindings=tuple((name, changed[node]) for name, node in self.bindings))

    @cached_property
    def _settled(self) -> dict[frozenset[str], Formula]:
        return {}

    @cached_property
    def derived(self) -> dict[object, Any]:
        """What others have made of this formula, kept as long as it lives: extended formulas, kernels."""
        return {}

    @cached_property
    def asks_fresh(self) -> frozenset[str]:
        """The slots whose first value the formula itself gives, by `fresh`."""
        return frozenset(str(node.value) for node in self.nodes if node.op == "fresh")
