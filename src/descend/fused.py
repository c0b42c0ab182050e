"""The fused part of a step: the tables that kernels step, kept from one step to the next.

A parameter steps in a kernel where its memory, its group and its formula allow it, else eagerly, for a reason that
`explain` gives. `FusedStep.is_current` finds out at every step whether anything but numbers has changed since the
tables were made; if so, `fusing.build` makes them anew.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from descend import eligibility
from descend.backends import addresses
from descend.backends.launches import Floats, Numbers
from descend.backends.tables import Table, overlapping
from descend.buckets import Step
from descend.expr import Expr, hyper_of, leaf
from descend.rule import Formula

State = MutableMapping[Tensor, dict[str, Any]]
Groups = Sequence[dict[str, Any]]
FormulaOf = Callable[[int, int], Formula]


@dataclass
class FusedStep:
    """What kernels step.

    Attributes:
        tables: one for each kernel.
        reasons: why a parameter steps eagerly, by its id.
        taken: the ids of the parameters in tables.
        eager_groups: the indices of the groups with parameters that step eagerly.
        idle: parameters that a kernel might step, and that have no gradient and no state yet.
        variants: the formula of each group's index and number of dimensions.
        terms: what the flags of each group ask for.
        lasts: whether the tables are good for more than one step (those that give slots their first value are not).
    """

    tables: list[Table] = field(default_factory=list)
    reasons: dict[int, str] = field(default_factory=dict)
    taken: set[int] = field(default_factory=set)
    eager_groups: set[int] = field(default_factory=set)
    idle: list[Tensor] = field(default_factory=list)
    variants: dict[tuple[int, int], Formula] = field(default_factory=dict)
    terms: list[tuple[str | None, bool]] = field(default_factory=list)
    lasts: bool = True
    _names: frozenset[str] = frozenset()
    _contents: addresses.Contents | None = None
    _by_group: dict[Expr, Floats] = field(default_factory=dict)

    def is_current(
        self, groups: Groups, state: State, step: Step, restructured: Collection[int], variant: FormulaOf
    ) -> bool:
        """Whether the tables hold all that the kernels step, as it is now.

        Args:
            groups, state: the optimizer's.
            step: what all parameters share.
            restructured: the groups that may choose another formula than they did.
            variant: the formula for a group's index and a number of dimensions.
        """
        if self._contents is None or self._names != step.numbers.keys():
            return False
        if self.tables and eligibility.is_forked():
            return False
        if not self._contents.is_unchanged(groups, state) or any(param.grad is not None for param in self.idle):
            return False
        backend = step.options.backend
        if any(group_terms(groups[i], backend) != self.terms[i] for i in restructured):
            return False
        asked = [place for place in self.variants if place[0] in restructured] if restructured else []
        if any(variant(*place) is not self.variants[place] for place in asked):
            return False
        moves = [table.refresh() for table in self.tables]
        return addresses.STALE not in moves and not (any(moves) and overlapping(self.tables))

    def forget_numbers(self) -> None:
        """Read the hyper-parameters anew at the next step."""
        self._by_group = {}

    def attach(self, state: State) -> None:
        """Enter new state of the tables' parameters into the optimizer's."""
        for table in self.tables:
            table.attach(state)

    def remember(self, groups: Groups, state: State, names: Collection[str]) -> None:
        """Take what groups and state hold now as what the tables were made for."""
        if self.lasts and self._contents is None:
            self._contents, self._names = addresses.Contents(groups, state), frozenset(names)

    def numbers(self, groups: Groups, step: Step) -> Numbers:
        """What the scalars of this step are computed from."""
        given = step.numbers.items() if self.tables else ()  # without a kernel nothing is read from a device
        varying = {leaf("hyper", (name, None)): _number(value) for name, value in given}
        if not self._by_group:
            read = {node for table in self.tables for node in table.reads}
            self._by_group = {node: _values(node, groups) for node in read - varying.keys()}
        return Numbers(self._by_group, varying, step.options.seed, step.clock, torch.get_num_threads())


def group_terms(group: Mapping[str, Any], backend: str) -> tuple[str | None, bool]:
    """Why no parameter of a group steps in a kernel, by its flags, and whether one is demanded."""
    return eligibility.of_group(group, backend), bool(group["fused"])


def _values(node: Expr, groups: Groups) -> Floats:
    """A hyper-parameter's value in every group; what stands for groups of other rules, which lack it, is never read."""
    name, index = hyper_of(node)
    values = [group.get(name, 0.0) for group in groups]
    if index is not None:
        values = [value[index] if isinstance(value, (tuple, list)) else value for value in values]
    return np.array([_number(value) for value in values])


def _number(value: Any) -> float:
    return float(value.detach() if isinstance(value, Tensor) else value)
