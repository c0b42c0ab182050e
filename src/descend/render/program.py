"""A formula as a program: which of its nodes stand on lines of their own, under which names, in which order.

Both the mathematics and the source code are written from this. A node has a line of its own where the author named it,
where it is large and used more than once (what a helper function returned, say), and where the writer asks for it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from descend.expr import Expr, constant, is_random, leaf, walk
from descend.expr import p as parameter
from descend.formula import Formula
from descend.tracing import INPUTS

LARGE: Final = 6
"""An expression of more operations than this is large."""


@dataclass(frozen=True, eq=False)
class Program:
    """A formula and the nodes of it that `also` get a line where the author gave them none."""

    formula: Formula
    also: frozenset[Expr] = frozenset()

    @cached_property
    def signature(self) -> dict[Expr, str]:
        """The leaves that the rule's signature names, and their names; elements of a tuple are `betas[0]`."""
        rule = self.formula.rule
        leaves = {INPUTS[name]: name for name in rule.inputs}
        leaves |= {leaf("slot", (name, slot.shape)): name for name, slot in rule.slots.items()}
        for name, value in self.formula.hyper_parameters.items():
            if isinstance(value, (tuple, list)):
                leaves |= {leaf("hyper", (name, i)): f"{name}[{i}]" for i in range(len(value))}
            else:
                leaves[leaf("hyper", (name, None))] = name
        return leaves

    @property
    def signature_names(self) -> set[str]:
        """The names in the rule's signature."""
        return {*self.formula.rule.inputs, *self.formula.rule.slots, *self.formula.hyper_parameters}

    @cached_property
    def author_names(self) -> dict[Expr, list[str]]:
        """Each node's names in the author's program, in the order in which they were given."""
        names: dict[Expr, list[str]] = {}
        for name, node in self.formula.bindings:
            names.setdefault(node, []).append(name)
        return names

    @cached_property
    def defined(self) -> dict[Expr, str]:
        """The nodes with a line of their own and their names, in program order, arguments before what uses them.

        One name stands at several nodes where the author rebound it.
        """
        chosen = self._chosen()
        sites = {of: sorted((n for n in chosen if numbered(n) == of), key=call_site) for of in ("global", "random")}
        ordered: dict[Expr, str] = {}

        def add(root: Expr) -> None:
            for node in walk([root]):
                if node not in chosen or node in ordered:
                    continue
                of = numbered(node)
                if of is not None:  # calls are numbered, so those before this one come before it
                    for earlier in sites[of]:
                        if call_site(earlier) < call_site(node) and earlier not in ordered:
                            add(earlier)
                ordered[node] = chosen[node]

        for _, node in self.formula.bindings:
            if node in chosen:
                add(node)
        for root in self.formula.outputs.values():
            add(root)
        return ordered

    def _chosen(self) -> dict[Expr, str]:
        output_names: dict[Expr, str] = {}
        for name, root in self.formula.outputs.items():
            output_names.setdefault(root, name)
        uses = self.formula.uses
        made_up = self._made_up_names()
        chosen: dict[Expr, str] = {}
        sizes: dict[Expr, int] = {}
        for node in self.formula.nodes:
            if not node.args:
                continue
            sizes[node] = 1 + sum(0 if a in chosen else sizes.get(a, 0) for a in node.args)
            names = self.author_names.get(node)
            if names:
                chosen[node] = output_names[node] if output_names.get(node) in names else names[0]
            elif node in output_names and uses[node] > 1:
                chosen[node] = output_names[node]
            elif node in self.also or (uses[node] > 1 and sizes[node] > LARGE):
                chosen[node] = next(made_up)
        return chosen

    def _made_up_names(self) -> Iterator[str]:
        taken = self.signature_names.union(name for name, _ in self.formula.bindings)
        return (name for name in (f"x{i}" for i in itertools.count(1)) if name not in taken)

    def mentions(self, root: Expr) -> Iterator[Expr]:
        """The leaves and the defined nodes that are written where `root` stands."""
        return iter((root,)) if self.is_named(root) else self.references(root)

    def is_named(self, node: Expr) -> bool:
        """Whether `node` is written as a name, being a leaf or defined."""
        return node in self.defined or not self.arguments(node)

    def references(self, node: Expr) -> Iterator[Expr]:
        """The leaves and the defined nodes that are written when `node` is written out, as often as they are."""
        for argument in self.arguments(node):
            yield from self.mentions(argument)

    def arguments(self, node: Expr) -> tuple[Expr, ...]:
        """What has to be written to write `node`: its arguments, the slot of `fresh`, the parameter of `p.numel`."""
        if node.op == "fresh":
            name = str(node.value)
            return (leaf("slot", (name, self.formula.rule.slots[name].shape)),)
        if is_random(node):
            return node.args[:-1]  # the step is not written
        return (parameter,) if node.op in ("numel", "rows") else node.args


def is_global(node: Expr) -> bool:
    """Whether `node` is a reduction over all parameters."""
    return node.op.startswith("global_")


def numbered(node: Expr) -> str | None:
    """With what the calls of `node` are numbered, in the order in which they run; most are not."""
    return "global" if is_global(node) else "random" if is_random(node) else None


def draws_twice(formula: Formula) -> frozenset[Expr]:
    """What would be read as several random numbers if it stood in each place where it is used."""
    random: set[Expr] = set()
    for node in formula.nodes:
        if is_random(node) or any(arg in random for arg in node.args):
            random.add(node)
    return frozenset(node for node in random if formula.uses[node] > 1)


def call_site(node: Expr) -> int:
    """The number of such a call."""
    return node.value if isinstance(node.value, int) else 0


def as_ema(node: Expr) -> tuple[Expr, Expr, Expr] | None:
    """The arguments for which `ema(average, x, beta)` is `node`, if there are any."""
    if node.op != "add" or any(a.op != "mul" for a in node.args):
        return None
    (beta, average), (weight, x) = node.args[0].args, node.args[1].args
    if beta.op == "constant":
        matches = weight is constant(1 - number(beta))
    else:
        matches = weight.op == "sub" and weight.args[0] is constant(1) and weight.args[1] is beta
    return (average, x, beta) if matches else None


def number(node: Expr) -> float:
    """The value of a constant."""
    assert isinstance(node.value, float)
    return node.value
