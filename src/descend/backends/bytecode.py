"""From a plan to instructions on registers: a formula as data, for a kernel that steps many formulas at once.

A formula fits that updates every element from its own values and scalars alone: no reduction, no opaque call, state
shaped like the parameter. Registers are numbered: the parameter, its gradient and the slots stand where memory does,
then come constants, the scalars of the host, and temporaries, which are taken again as soon as nobody reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from descend.backends.draws import DRAWS
from descend.backends.operations import HOST
from descend.backends.plan import Pass, Plan, plan
from descend.expr import Expr, FormulaError, Rank, hyper_of, is_random, walk
from descend.formula import Formula, draw_number

CODES: Final[tuple[str, ...]] = ("copy", *HOST, *DRAWS)
"""The operations of instructions; their numbers are their places."""
REGISTERS: Final = 128
"""Constants, scalars and temporaries that a kernel has room for."""
_MOST_SLOTS: Final = 14


class Instruction(NamedTuple):
    """An operation on registers.

    Attributes:
        op: one of `CODES`.
        to: the register that takes the result.
        args: the registers that it reads.
        draw: the number of a random operation among those of the rule.
    """

    op: str
    to: int
    args: tuple[int, ...]
    draw: int = 0


@dataclass(frozen=True, eq=False)
class Bytecode:
    """A settled formula as instructions.

    Attributes:
        formula: it itself.
        slots: its slots; the registers are p, g, these, then constants, scalars and temporaries.
        constants: numbers that stand in the formula.
        scalars: what the host computes of hyper-parameters and the step.
        instructions: in their order.
        temporaries: how many registers are left for values in between.
    """

    formula: Formula
    slots: tuple[str, ...]
    constants: tuple[float, ...]
    scalars: tuple[Expr, ...]
    instructions: tuple[Instruction, ...]
    temporaries: int

    @cached_property
    def array(self) -> npt.NDArray[np.int32]:
        """The instructions as the kernel reads them, six numbers each; an operand too few is the last one again."""
        padded = [(*step.args, *step.args[-1:] * 2)[:3] if step.args else (0, 0, 0) for step in self.instructions]
        rows = [
            (CODES.index(step.op), step.to, *args, step.draw)
            for step, args in zip(self.instructions, padded, strict=True)
        ]
        return np.array(rows, dtype=np.int32).reshape(-1, 6)

    def host_table(self, values: Sequence[Mapping[str, Any]], steps: int) -> npt.NDArray[np.float32]:
        """The scalars of the host, computed in float64 for all steps at once: rows x steps x scalars.

        Args:
            values: the hyper-parameters of each row: numbers, or arrays with a number for each step.
            steps: the number of steps, of which the first is t = 1.
        """
        known: dict[Expr, Any] = {}
        with np.errstate(all="ignore"):  # both sides of a `where` are evaluated
            for node in walk(self.scalars):
                known[node] = _host_value(node, [known[a] for a in node.args], values, steps)
        table = np.empty((len(values), steps, len(self.scalars)), dtype=np.float32)
        with np.errstate(over="ignore"):
            for place, node in enumerate(self.scalars):
                table[:, :, place] = known[node]
        return table


def _host_value(node: Expr, args: Sequence[Any], values: Sequence[Mapping[str, Any]], steps: int) -> Any:
    """A scalar's value: one for each row (down) and each step (across), where it depends on them."""
    if node.op == "constant":
        return np.float64(node.value)  # type: ignore[arg-type]
    if node.op == "t":
        return np.arange(1, steps + 1, dtype=np.float64)
    if node.op == "hyper":
        name, index = hyper_of(node)
        found = [row[name] if index is None else row[name][index] for row in values]
        if any(isinstance(value, np.ndarray) for value in found):  # one for each step
            return np.stack([np.broadcast_to(np.ravel(value)[:steps], steps) for value in found]).astype(np.float64)
        return np.array(found, dtype=np.float64)[:, None]
    return HOST[node.op](*args)


def bytecode(formula: Formula) -> Bytecode:
    """The instructions of a settled formula, made once and kept with it.

    Raises:
        FormulaError: the formula is more than a function of each element and of scalars; the message says how.
    """
    known = formula.derived
    if "bytecode" not in known:
        known["bytecode"] = _translated(formula)
    made: Bytecode = known["bytecode"]
    return made


def obstacle(formula: Formula) -> str | None:
    """Why a formula cannot be one of many in one kernel, in words that follow its name; None if it can."""
    if formula.opaque_calls:
        return f"calls {formula.opaque_calls[0]}, which torch computes of a whole tensor"
    if not formula.is_elementwise:
        return "reduces over elements or keeps a value once per optimizer"
    for name, slot in formula.slots.items():
        if slot.shape != "like":
            return f"keeps {name} once per parameter tensor"
        if slot.dtype not in (None, "float32"):
            return f"keeps {name} in {slot.dtype}"
    for node in formula.nodes:
        if node.op in ("numel", "rows"):
            return f"reads p.{node.op}, and here all parameters are one vector"
    if len(formula.slots) > _MOST_SLOTS:
        return f"has {len(formula.slots)} slots, more than {_MOST_SLOTS}"
    return None


def _translated(formula: Formula) -> Bytecode:
    name = formula.rule.name
    found = obstacle(formula)
    if found:
        raise FormulaError(f"rule {name!r} {found}; many formulas are stepped together only if each is elementwise")
    if formula.asks_fresh:
        raise FormulaError(f"rule {name!r} asks fresh(...); settle its formula first, with formula.settle(...)")
    planned = plan(formula)
    made = _Translation(planned).bytecode()
    needed = len(made.constants) + len(made.scalars) + made.temporaries
    if needed > REGISTERS:
        raise FormulaError(
            f"rule {name!r} needs {needed} registers, and there are {REGISTERS}; split it, or step it alone"
        )
    return made


def _operands(node: Expr) -> tuple[Expr, ...]:
    """What an instruction reads; the step, which a random operation takes, is the row's."""
    return node.args[:-1] if is_random(node) else node.args


class _Translation:
    """Gives every value of a plan's one pass a register, and writes its instructions."""

    def __init__(self, planned: Plan) -> None:
        self.plan = planned
        self.sweep: Pass = planned.passes[0]
        self.slots = tuple(planned.formula.slots)
        self.streams = {name: place for place, name in enumerate(("p", "g", *self.slots))}
        self.stores = [(self.streams[name], root) for name, root in self.sweep.stores]
        read = [*(a for node in self.sweep.body for a in _operands(node)), *(root for _, root in self.stores)]
        constants = dict.fromkeys(node for node in read if node.op == "constant")
        wanted = set(read)
        self.scalars = tuple(node for node in planned.bucket_scalars if node in wanted)
        self.place = {node: self.streams[planned.stream_of(node)] for node in self.sweep.loads}
        fixed = [*constants, *self.scalars]
        self.place |= {node: len(self.streams) + place for place, node in enumerate(fixed)}
        self.constants = tuple(float(node.value) for node in constants)  # type: ignore[arg-type]
        self.first_temporary = len(self.streams) + len(fixed)
        self.used = 0
        self.free: list[int] = []

    def bytecode(self) -> Bytecode:
        instructions = [*self._body(), *self._copies()]
        return Bytecode(self.plan.formula, self.slots, self.constants, self.scalars, tuple(instructions), self.used)

    def _body(self) -> Iterable[Instruction]:
        last = {a: number for number, node in enumerate(self.sweep.body) for a in _operands(node)}
        kept = {root for _, root in self.stores}
        for number, node in enumerate(self.sweep.body):
            args = tuple(self.place[a] for a in _operands(node))
            for a in dict.fromkeys(_operands(node)):
                if last[a] == number and a not in kept and self.place[a] >= self.first_temporary:
                    self.free.append(self.place[a])
            self.place[node] = self._destination(node, number, last)
            yield Instruction(node.op, self.place[node], args, draw_number(node) if is_random(node) else 0)

    def _destination(self, node: Expr, number: int, last: Mapping[Expr, int]) -> int:
        """The memory that takes the value in the end, if nobody reads there any more; else a temporary."""
        for stream, root in self.stores:
            if root is node and not self._is_read_later(stream, number, last):
                return stream
        return self._temporary()

    def _is_read_later(self, stream: int, number: int, last: Mapping[Expr, int]) -> bool:
        leaves = [leaf for leaf in self.sweep.loads if self.place[leaf] == stream]
        return any(last.get(leaf, -1) > number or any(root is leaf for _, root in self.stores) for leaf in leaves)

    def _temporary(self) -> int:
        if self.free:
            return self.free.pop()
        self.used += 1
        return self.first_temporary + self.used - 1

    def _copies(self) -> Iterable[Instruction]:
        """What is stored from elsewhere; what is read from memory that is written, too, is saved before."""
        written = {stream for stream, _ in self.stores}
        left = [(stream, root) for stream, root in self.stores if self.place[root] != stream]
        for root in dict.fromkeys(root for _, root in left):
            if root.rank is Rank.ELEMENT and not root.args and self.place[root] in written:
                saved = self._temporary()
                yield Instruction("copy", saved, (self.place[root],))
                self.place[root] = saved
        for stream, root in left:
            yield Instruction("copy", stream, (self.place[root],))
