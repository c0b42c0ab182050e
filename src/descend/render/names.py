"""Which Python name each value of a formula has: the author's own, unless a value is still needed after its name is."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Final

from descend.expr import Expr
from descend.render.program import Program

RESERVED: Final = frozenset(["Slot", "abs", "constant", "dict", "math", "rule"])
"""What the file itself needs beside the vocabulary, so that no value may have the name."""

_RETURN: Final = 1 << 30  # the place of the return statement: after every line


class Names:
    """The names of a program's values.

    Attributes:
        of: the name of each leaf and each defined node, good from its line until its last use.
        kept: leaves whose name in the signature is given to something else while they are needed, and their new names.
        unpacked: tuples of hyper-parameters whose elements the author named, and these names.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.of: dict[Expr, str] = {}
        self.kept: dict[Expr, str] = {}
        self.unpacked: dict[str, list[str]] = {}
        self._reserved = RESERVED.union(n.split("[")[0] for n in program.signature.values() if "[" in n)
        self._last_use = self._last_uses()
        self._holders: dict[str, Expr] = {}
        self._taken = {name for names in program.author_names.values() for name in names}
        self._taken |= program.signature_names | RESERVED
        self._name_signature()
        self._name_elements()
        for place, (node, name) in enumerate(program.defined.items()):
            self.of[node] = self._allot(node, [name, *program.author_names.get(node, [])], place)

    def _last_uses(self) -> dict[Expr, int]:
        uses: dict[Expr, int] = {}
        for place, node in enumerate(self.program.defined):
            uses |= dict.fromkeys(self.program.references(node), place)
        for root in self.program.formula.outputs.values():
            uses |= dict.fromkeys(self.program.mentions(root), _RETURN)
        return uses

    def _name_signature(self) -> None:
        leaves = {leaf: name for leaf, name in self.program.signature.items() if leaf in self._last_use}
        for leaf, name in leaves.items():
            if "[" not in name and self._outlives(leaf, name, -1):
                self.of[leaf] = name
                self._holders[name] = leaf
        for leaf, name in leaves.items():
            if "[" not in name and leaf not in self.of:
                self.of[leaf] = self.kept[leaf] = self._allot(leaf, self._aliases(leaf, [name]), -1)

    def _name_elements(self) -> None:
        tuples: dict[str, list[Expr]] = {}
        for leaf, name in self.program.signature.items():
            if "[" in name:
                tuples.setdefault(name.split("[")[0], []).append(leaf)
        for name, leaves in tuples.items():
            if all(self._aliases(leaf) for leaf in leaves) and any(leaf in self._last_use for leaf in leaves):
                for leaf in leaves:
                    if leaf in self._last_use:
                        self.of[leaf] = self._allot(leaf, self._aliases(leaf), -1)
                self.unpacked[name] = [self.of.get(leaf, "_") for leaf in leaves]
            else:
                self.of |= {leaf: self.program.signature[leaf] for leaf in leaves}

    def _aliases(self, leaf: Expr, otherwise: Iterable[str] = ()) -> list[str]:
        names = [n for n in self.program.author_names.get(leaf, []) if n not in self.program.signature_names]
        return names or list(otherwise)

    def _allot(self, node: Expr, candidates: list[str], place: int) -> str:
        made_up = (f"{candidates[0]}_{i}" for i in itertools.count(1))
        for name in itertools.chain(candidates, (name for name in made_up if name not in self._taken)):
            if self._is_free(name, place) and self._outlives(node, name, place):
                break
        self._taken.add(name)
        self._holders[name] = node
        return name

    def _is_free(self, name: str, place: int) -> bool:
        held_by = self._holders.get(name)
        return name not in self._reserved and (held_by is None or self._last_use.get(held_by, -1) <= place)

    def _outlives(self, node: Expr, name: str, place: int) -> bool:
        """Whether no other line that the author named so comes between the node's line and its last use."""
        lines = enumerate(self.program.defined.values())
        return not any(place < line < self._last_use.get(node, -1) and named == name for line, named in lines)
