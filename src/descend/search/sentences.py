"""Sentences as tokens: their groups, and which of them are read."""

from __future__ import annotations

from typing import Final

Sentence = tuple[int, ...]
"""Five tokens for each group: two operands, two unary functions and a binary one, by their places in the tables."""

TOKENS: Final = 5
LEFT: Final = 5
"""The binary function that reads its left argument alone."""
_COMMUTING: Final = frozenset([0, 2])
"""The binary functions + and *."""


def groups_of(member: Sentence) -> list[Sentence]:
    """The sentence cut into its groups."""
    return [member[k : k + TOKENS] for k in range(0, len(member), TOKENS)]


def needed_groups(member: Sentence, operands: int) -> set[int]:
    """The groups that the last one reads, itself included, by number; `operands` is how many operands there are."""
    groups = groups_of(member)
    needed, waiting = set(), [len(groups) - 1]
    while waiting:
        number = waiting.pop()
        needed.add(number)
        left, right, _, _, joint = groups[number]
        read = [left] if joint == LEFT else [left, right]
        waiting += [token - operands for token in read if token >= operands]
    return needed


def essence_of(member: Sentence, operands: int) -> Sentence:
    """The sentence with zeros for what nothing reads, and the legs of sums and products in one order.

    Sentences with the same essence have the same formula up to the order of its arguments.
    """
    needed = needed_groups(member, operands)
    essence: list[int] = []
    for number, group in enumerate(groups_of(member)):
        left, right, of_left, of_right, joint = group if number in needed else (0,) * TOKENS
        if joint == LEFT:
            right = of_right = 0
        elif joint in _COMMUTING and (right, of_right) < (left, of_left):
            left, right, of_left, of_right = right, left, of_right, of_left
        essence += (left, right, of_left, of_right, joint)
    return tuple(essence)
