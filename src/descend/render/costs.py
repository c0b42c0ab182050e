"""What a step of a formula costs: memory traffic, arithmetic, state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from descend.expr import OPERATIONS, Expr, Rank, slot_of
from descend.formula import Formula
from descend.render.program import number
from descend.staging import elements_below, is_opaque, is_reduction, stages, stores_by_pass

BYTES: Final = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
"""The bytes of a value, by the name of its type."""

_TRANSCENDENTAL: Final = {"exp", "log", "tanh", "normal"}


@dataclass(frozen=True)
class Cost:
    """What one step costs, per element of the parameters where nothing else is said, beside what opaque calls cost.

    A random operation counts as about what its random bits take, and `normal` as the logarithm that it takes beside.

    Attributes:
        reads: bytes read, pass by pass. A value that follows a reduction needs another pass over what it reads.
        bytes_written: bytes written, all in the last pass.
        bytes_state: bytes of optimizer state.
        operations: arithmetic operations, common subexpressions once; what exists once per tensor is not counted.
        transcendental: those of them that are exp, log, tanh or a power with an exponent that is no whole number.
        scalars: numbers of state per parameter tensor, the count of steps among them.
    """

    reads: tuple[int, ...]
    bytes_written: int
    bytes_state: int
    operations: int
    transcendental: int
    scalars: int

    @property
    def bytes_read(self) -> int:
        """Bytes read in all passes."""
        return sum(self.reads)

    @property
    def passes(self) -> int:
        """The number of passes over the parameters: one, and one more for each reduction that waits for another."""
        return len(self.reads)

    def __str__(self) -> str:
        passes = f" in {self.passes} passes ({' + '.join(map(str, self.reads))})" if self.passes > 1 else ""
        slow = f" ({self.transcendental} transcendental)" if self.transcendental else ""
        scalars = f", {self.scalars} {'number' if self.scalars == 1 else 'numbers'} per tensor" if self.scalars else ""
        return (
            f"per parameter reads {self.bytes_read} bytes{passes}, writes {self.bytes_written}, "
            f"{self.operations} operations{slow}; state {self.bytes_state} bytes{scalars}"
        )


def cost(formula: Formula, dtype: str = "float32") -> Cost:
    """What a step costs for parameters of `dtype`, once every slot has a value.

    Each pass reads what it calculates with anew, and stores what no later one reads.

    Raises:
        ValueError: for a `dtype` (of the parameters or of a slot) whose size is not known.
    """
    steady = formula.settle(frozenset())
    slots = {name: slot for name, slot in formula.slots.items() if slot.shape == "like"}
    sizes = {"p": _size(dtype), **{name: _size(slot.dtype or dtype) for name, slot in slots.items()}}
    calculated = [node for node in steady.nodes if _is_per_element(node)]
    written = sum(sizes[name] for name, root in steady.outputs.items() if name in sizes and _leaf_name(root) != name)
    return Cost(
        reads=_reads(steady, {**sizes, "g": sizes["p"]}),
        bytes_written=written,
        bytes_state=sum(sizes[name] for name in slots),
        operations=sum(OPERATIONS[node.op].costs for node in calculated),
        transcendental=sum(map(_is_transcendental, calculated)),
        scalars=formula.rule.counts_steps + sum(slot.shape == "scalar" for slot in formula.slots.values()),
    )


def _size(dtype: str) -> int:
    if dtype not in BYTES:
        raise ValueError(f"the size of dtype {dtype!r} is not known; choose one of {', '.join(BYTES)}")
    return BYTES[dtype]


def _leaf_name(node: Expr) -> str | None:
    if node.op == "slot":
        return slot_of(node)[0]
    return node.op if node.op in ("p", "g") else None


def _is_per_element(node: Expr) -> bool:
    """Whether the node is calculated for every element: it is one value per element, or a reduction of such."""
    return bool(node.args) and max(a.rank for a in (node, *node.args)) is Rank.ELEMENT


def _is_transcendental(node: Expr) -> bool:
    if node.op == "pow":
        exponent = node.args[1]
        return exponent.op != "constant" or not number(exponent).is_integer()
    return node.op in _TRANSCENDENTAL


def _reads(formula: Formula, sizes: dict[str, int]) -> tuple[int, ...]:
    stage = stages(formula.nodes)
    reduced = [node.args[0] for node in formula.nodes if is_reduction(node) or is_opaque(node)]
    stored = {n: root for n, root in formula.outputs.items() if n in sizes and _leaf_name(root) != n}
    passes = []
    for place, names in enumerate(stores_by_pass(stored, reduced, stage)):
        roots = [*(root for root in reduced if stage[root] == place), *(stored[name] for name in names)]
        passes.append(sum(sizes.get(str(_leaf_name(node)), 0) for node in elements_below(roots)))
    return tuple(passes)
