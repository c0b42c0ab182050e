"""In which pass over the elements a formula computes and stores what: what plans and costs agree on.

A value that follows `norm(g)` can be computed only after a pass over all of g; an opaque call, which torch computes of
a whole tensor, stands between two passes too. What is stored in an earlier pass than the last is one stream less that
the last one reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from descend.expr import OPERATIONS, Expr, Rank, slot_of, walk


def is_reduction(node: Expr) -> bool:
    """Whether the node brings elements down to one value."""
    return node.op in OPERATIONS and OPERATIONS[node.op].reduces is not None


def is_opaque(node: Expr) -> bool:
    """Whether torch computes the node, of a whole tensor."""
    return node.op in OPERATIONS and OPERATIONS[node.op].whole > 0


def is_read(node: Expr) -> bool:
    """Whether a pass finds the node's elements in memory."""
    return node.rank is Rank.ELEMENT and (not node.args or is_opaque(node))


def stages(nodes: Iterable[Expr]) -> dict[Expr, int]:
    """For each node the number of passes that must come before it; arguments come before what uses them."""
    found: dict[Expr, int] = {}
    for node in nodes:
        found[node] = max((found[a] for a in node.args), default=0) + (is_reduction(node) or is_opaque(node))
    return found


def elements_below(roots: Iterable[Expr]) -> list[Expr]:
    """The element-ranked nodes of one pass for `roots`; what is below a reduction or an opaque call is known before."""
    roots, seen = list(roots), set[Expr]()
    waiting = list(roots)
    while waiting:
        node = waiting.pop()
        if node not in seen and node.rank is Rank.ELEMENT:
            seen.add(node)
            waiting += () if is_read(node) else node.args
    return [node for node in walk(roots) if node in seen]


def stores_by_pass(stored: Mapping[str, Expr], reduced: Iterable[Expr], stage: Mapping[Expr, int]) -> list[list[str]]:
    """The names that each pass stores: an earlier one than the last where that reads less, and where no later one reads
    what stood there before; none before an opaque call, which may raise, so that nothing has changed then.

    Args:
        stored: what is stored, by the name of its stream.
        reduced: what reductions add up, and what opaque calls are made with.
        stage: of every node, from `stages`.
    """
    reduced = list(reduced)
    last = max((stage[root] for root in (*reduced, *stored.values())), default=0)
    behind_calls = max((stage[node] for node in stage if is_opaque(node)), default=0)
    place = dict.fromkeys(stored, last)
    for name, root in stored.items():
        if stage[root] < behind_calls:
            continue
        early = [x for x in reduced if stage[x] == stage[root]]
        later = [x for x in reduced if stage[x] > stage[root]]
        later += [x for other, x in stored.items() if other != name and place[other] > stage[root]]
        is_free = not any(_reads(node, name) for node in elements_below(later))
        if is_free and len(_leaves([root]) - _leaves(early)) < len(_leaves([root]) - _leaves(later)):
            place[name] = stage[root]
    return [[name for name in stored if place[name] == number] for number in range(last + 1)]


def _leaves(roots: Iterable[Expr]) -> set[Expr]:
    return set(filter(is_read, elements_below(roots)))


def _reads(node: Expr, name: str) -> bool:
    return slot_of(node)[0] == name if node.op == "slot" else node.op == name
