"""From a formula to a plan: what a fused kernel loads, computes and stores, pass by pass.

What depends on no element is hoisted to the host and becomes a column of scalars: one row per bucket, or one per tensor
where it reads a `scalar` slot, `p.numel` or `p.rows`. What is left is cut at the reductions: a value that follows
`norm(g)` can be computed only after a pass over all of g. Every pass loads what it reads, computes each common
subexpression once, adds up the reductions that it can, and stores what no later one reads. Between two passes stands
scalar code, once per tensor; or torch, which computes an opaque call: its argument goes through a stream of scratch
memory, where the next pass finds the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from descend.expr import Expr, Rank, Shape, apply, leaf, rebuild, slot_of, walk
from descend.formula import Formula, Slot
from descend.staging import elements_below, is_opaque, is_read, is_reduction, stages, stores_by_pass


@dataclass(frozen=True)
class Pass:
    """One sweep over the elements.

    Attributes:
        scalars: what is computed before it, once per tensor or per optimizer, from reductions of earlier passes.
        loads: the leaves that it reads per element.
        body: the element-ranked operations, arguments before what uses them.
        reductions: what it adds up.
        stores: what it writes, by output name or that of a stream of scratch memory.
        calls: what torch computes after it, of whole tensors.
    """

    scalars: tuple[Expr, ...]
    loads: tuple[Expr, ...]
    body: tuple[Expr, ...]
    reductions: tuple[Expr, ...]
    stores: tuple[tuple[str, Expr], ...]
    calls: tuple[Expr, ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """How a kernel computes a formula.

    Attributes:
        formula: the settled variant, as the kernel computes it.
        names: the author's name of each node that has one.
        passes: the sweeps, in order.
        after: scalars that follow the last pass.
        scratch: the streams through which opaque calls get and give, with the calls.
        bucket_scalars, tensor_scalars: what the host computes for every bucket, and for every tensor.
    """

    formula: Formula
    names: Mapping[Expr, str]
    passes: tuple[Pass, ...]
    after: tuple[Expr, ...]
    scratch: Mapping[str, Expr]
    bucket_scalars: tuple[Expr, ...]
    tensor_scalars: tuple[Expr, ...]

    @cached_property
    def streams(self) -> tuple[str, ...]:
        """The tensors that are read or written element by element: "p", "g", a slot's name or one of scratch memory."""
        read = [self.stream_of(leaf) for sweep in self.passes for leaf in sweep.loads]
        written = [name for sweep in self.passes for name, _ in sweep.stores]
        found = {*read, *written}
        return tuple(name for name in ("p", "g", *self.formula.slots, *self.scratch) if name in found)

    def stream_of(self, node: Expr) -> str:
        """The stream that a pass finds a node's elements in."""
        if node.op == "slot":
            return slot_of(node)[0]
        return next((name for name, call in self.scratch.items() if call is node), node.op)

    @cached_property
    def phases(self) -> tuple[tuple[Expr, ...], ...]:
        """The opaque calls that follow each phase: the passes up to a call, or to the end."""
        return (*(sweep.calls for sweep in self.passes if sweep.calls), ())

    @cached_property
    def stored(self) -> frozenset[str]:
        """The streams that are written."""
        return frozenset(name for sweep in self.passes for name, _ in sweep.stores)

    @cached_property
    def host_results(self) -> dict[str, Expr]:
        """New values of scalar slots, and of what exists once per optimizer, that the host knows."""
        return {name: root for name, root in self._scalar_outputs.items() if not follows_reduction(root)}

    @cached_property
    def kernel_results(self) -> dict[str, Expr]:
        """Those that follow a reduction."""
        return {name: root for name, root in self._scalar_outputs.items() if follows_reduction(root)}

    @cached_property
    def _scalar_outputs(self) -> dict[str, Expr]:
        outputs, slots = self.formula.outputs, self.formula.slots
        return {name: root for name, root in outputs.items() if shape(slots, name) != "like"}

    @cached_property
    def tensor_values(self) -> tuple[Expr, ...]:
        """What the kernel keeps once per tensor: reductions over it, and scalars that follow reductions."""
        return tuple(node for node in self._kernel_scalars if node.rank > Rank.OPTIMIZER)

    @cached_property
    def shared_values(self) -> tuple[Expr, ...]:
        """What the kernel keeps once for all tensors."""
        return tuple(node for node in self._kernel_scalars if node.rank <= Rank.OPTIMIZER)

    @cached_property
    def _kernel_scalars(self) -> tuple[Expr, ...]:
        kept: dict[Expr, None] = {}
        for sweep in self.passes:
            kept.update(dict.fromkeys([*sweep.scalars, *sweep.reductions]))
        kept.update(dict.fromkeys(self.after))
        return tuple(kept)

    def traffic(self, sizes: Mapping[str, int]) -> int:
        """Bytes that a step moves per element, given the bytes of an element of each stream; scratch memory apart."""
        moved = [self.stream_of(leaf) for sweep in self.passes for leaf in sweep.loads]
        moved += [name for sweep in self.passes for name, _ in sweep.stores]
        return sum(sizes[name] for name in moved if name not in self.scratch)


def plan(formula: Formula) -> Plan:
    """Plan a settled formula, once."""
    known = formula.derived
    if "plan" not in known:
        known["plan"] = _planned(formula)
    made: Plan = known["plan"]
    return made


def _planned(formula: Formula) -> Plan:
    formula = _by_the_clock(formula).rewritten(_by_reciprocal)
    outputs = formula.outputs
    nodes = tuple(walk(outputs.values()))
    stage = stages(nodes)
    elements = {name: root for name, root in outputs.items() if shape(formula.slots, name) == "like"}
    elements = {name: root for name, root in elements.items() if root.op != "p" or name != "p"}
    calls = list(filter(is_opaque, nodes))
    scratch = {f"{call.op}{number}": call for number, call in enumerate(calls, 1)}
    reductions = [node for node in nodes if is_reduction(node)]
    scalars = [node for node in nodes if node.rank < Rank.ELEMENT and follows_reduction(node)]
    scalars = [node for node in scalars if not is_reduction(node)]
    passes = []
    by_pass = stores_by_pass(elements, [node.args[0] for node in (*reductions, *calls)], stage)
    last = len(by_pass) - 1
    for number, names_stored in enumerate(by_pass):
        adds_up = tuple(node for node in reductions if stage[node.args[0]] == number)
        stores = tuple((name, elements[name]) for name in names_stored)
        stores += tuple((name, call.args[0]) for name, call in scratch.items() if stage[call.args[0]] == number)
        body = elements_below([*(node.args[0] for node in adds_up), *(root for _, root in stores)])
        loads = tuple(filter(is_read, body))
        before = tuple(node for node in scalars if stage[node] == number)
        follow = tuple(call for call in calls if stage[call] == number + 1)
        passes.append(Pass(before, loads, tuple(node for node in body if not is_read(node)), adds_up, stores, follow))
    after = tuple(node for node in scalars if stage[node] > last)
    wanted = _read_from_host(nodes, outputs, elements)
    names: dict[Expr, str] = {}
    for name, node in formula.bindings:
        names.setdefault(node, name)
    return Plan(
        formula,
        names,
        tuple(passes),
        after,
        scratch,
        tuple(node for node in wanted if node.rank < Rank.TENSOR),
        tuple(node for node in wanted if node.rank is Rank.TENSOR),
    )


def follows_reduction(node: Expr) -> bool:
    """Whether the node's value depends on a reduction."""
    return any(is_reduction(below) for below in walk([node]))


def shape(slots: Mapping[str, Slot], name: str) -> Shape:
    """The shape of an output: the parameter's, or that of the slot."""
    return "like" if name == "p" else slots[name].shape


def _by_the_clock(formula: Formula) -> Formula:
    """The formula with what is assigned to slots of the optimizer in terms of the optimizer, also for its readers.

    There t is the optimizer's clock + 1, and a hyper-parameter one that all groups agree on. What is assigned to a
    window is the value that is pushed, since a kernel knows numbers only: the host does the pushing.
    """
    if not formula.shared_outputs:
        return formula
    roots = {root for root in formula.shared_outputs.values() if root.args}
    own: dict[Expr, Expr] = {}

    def changed(node: Expr, args: tuple[Expr, ...]) -> Expr:
        if node.op in ("t", "hyper"):
            own[node] = leaf("clock") if node.op == "t" else leaf("common", node.value)
        elif is_reduction(node) or node.rank > Rank.BUCKET:
            own[node] = rebuild(node, args)
        else:
            own[node] = _of_numbers(rebuild(node, tuple(own[a] for a in node.args)))
        return own[node] if node in roots else _of_numbers(rebuild(node, args))

    made = formula.rewritten(changed)
    outputs = dict(made.outputs)
    for name, root in formula.shared_outputs.items():
        outputs[name] = own[root].args[1] if root.op == "push" else own[root]
    return replace(made, outputs=outputs)


def _of_numbers(node: Expr) -> Expr:
    """The lowest or highest value of a window that has just been pushed into, from what stays and the new value."""
    if node.op not in ("lowest", "highest") or node.args[0].op != "push":
        return node
    window, x = node.args[0].args
    kept = apply(node.op, leaf("kept", window.value))
    return apply("minimum" if node.op == "lowest" else "maximum", kept, x)


def _by_reciprocal(node: Expr, args: tuple[Expr, ...]) -> Expr:
    """The node, with elements divided by a scalar of the host multiplied by its reciprocal instead."""
    if node.op == "div" and args[0].rank is Rank.ELEMENT and _is_host(args[1]):
        return apply("mul", args[0], apply("div", 1, args[1]))
    return rebuild(node, args)


def _is_host(node: Expr) -> bool:
    return node.rank < Rank.ELEMENT and not follows_reduction(node)


def _read_from_host(nodes: Iterable[Expr], outputs: Mapping[str, Expr], elements: Mapping[str, Expr]) -> list[Expr]:
    """The scalars of the host that the kernel reads; literal constants stand in its code."""
    wanted: dict[Expr, None] = {}
    for node in nodes:
        if not _is_host(node):
            wanted.update(dict.fromkeys(node.args))
    wanted.update(dict.fromkeys(elements.values()))
    wanted.update(dict.fromkeys(root for root in outputs.values() if follows_reduction(root)))
    return [node for node in wanted if _is_host(node) and node.op != "constant"]
