"""The language of update rules as tables: ranks, operations and leaves. `expr` makes nodes of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class Rank(IntEnum):
    """How many values a node stands for."""

    CONSTANT = 0
    OPTIMIZER = 1
    BUCKET = 2
    TENSOR = 3
    ELEMENT = 4


@dataclass(frozen=True)
class Operation:
    """A row of the vocabulary: an operation's name, its number of arguments and what it yields.

    `condition` marks what yields true or false; `costs` is the number of arithmetic operations that the cost model
    counts per element; `reduces` is the rank that the result is brought down to. What takes `whole` tensors, so many
    arguments from the first, is no formula per element: torch computes it. What is `random` draws a number of its own
    for every element; its last argument is the step.
    """

    name: str
    arity: int
    condition: bool = False
    costs: int = 1
    reduces: Rank | None = None
    whole: int = 0
    random: bool = False


_ROWS = (
    Operation("add", 2),
    Operation("sub", 2),
    Operation("mul", 2),
    Operation("div", 2),
    Operation("pow", 2),
    Operation("neg", 1),
    Operation("abs", 1),
    Operation("sign", 1),
    Operation("sqrt", 1),
    Operation("exp", 1),
    Operation("log", 1),
    Operation("tanh", 1),
    Operation("minimum", 2),
    Operation("maximum", 2),
    Operation("clip", 3, costs=2),
    Operation("where", 3),
    Operation("lt", 2, condition=True),
    Operation("le", 2, condition=True),
    Operation("gt", 2, condition=True),
    Operation("ge", 2, condition=True),
    Operation("eq", 2, condition=True),
    Operation("ne", 2, condition=True),
    Operation("sum", 1, reduces=Rank.TENSOR),
    Operation("mean", 1, reduces=Rank.TENSOR),
    Operation("norm", 1, costs=2, reduces=Rank.TENSOR),
    Operation("global_sum", 1, reduces=Rank.OPTIMIZER),
    Operation("global_mean", 1, reduces=Rank.OPTIMIZER),
    Operation("global_norm", 1, costs=2, reduces=Rank.OPTIMIZER),
    Operation("orthogonalize", 6, costs=0, whole=1),
    Operation("clip_units", 4, costs=0, whole=2),
    Operation("normal", 2, costs=50, random=True),
    Operation("keep", 3, costs=25, random=True),
    Operation("push", 2),
    Operation("lowest", 1),
    Operation("highest", 1),
)
OPERATIONS: Final[dict[str, Operation]] = {row.name: row for row in _ROWS}
"""The operations, by name. A new one is a row here and a row in each backend's table."""

WINDOWS: Final = frozenset(["push", "lowest", "highest"])
"""The operations on windows: slots that hold the last few values of one number."""

LEAVES: Final[dict[str, Rank]] = {
    "constant": Rank.CONSTANT,
    "common": Rank.OPTIMIZER,
    "clock": Rank.OPTIMIZER,
    "kept": Rank.OPTIMIZER,
    "hyper": Rank.BUCKET,
    "t": Rank.BUCKET,
    "fresh": Rank.BUCKET,
    "numel": Rank.TENSOR,
    "rows": Rank.TENSOR,
    "p": Rank.ELEMENT,
    "g": Rank.ELEMENT,
}
"""What stands at the ends of the graph (and slots, whose rank is that of their shape).

No rule is written with "common", "clock" and "kept": they are how kernels read a hyper-parameter that all groups agree
on, the optimizer's steps in place of t, and what of a window stays when a value is pushed.
"""

Shape = str | tuple[str, int]
SLOT_RANKS: Final[dict[str, Rank]] = {"like": Rank.ELEMENT, "scalar": Rank.TENSOR, "optimizer": Rank.OPTIMIZER}
