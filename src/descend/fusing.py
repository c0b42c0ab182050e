"""From the buckets of a step to tables: what kernels can step is sorted out of them, and the kernels are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from descend import eligibility
from descend import state as states
from descend.backends import compiler, kernels
from descend.backends.cpp import Storage
from descend.backends.storage import first_value, stored_dtype
from descend.backends.tables import Member, Table, overlapping
from descend.buckets import Step, StepBucket
from descend.caution import warn
from descend.expr import apply, leaf
from descend.fused import FormulaOf, FusedStep, Groups, State, group_terms
from descend.options import incoming_gradient
from descend.rule import Formula, Rule, Slot

Buckets = dict[Rule, list[StepBucket]]
_SPLIT = "its rule reduces over all tensors, and some of them step in another kernel or eagerly"
_SHARES = "its rule keeps a slot that exists once per optimizer, and some parameters step in another kernel or eagerly"
_OVERLAPS = "its memory overlaps with another tensor's"
_warned: set[str] = set()


def build(
    buckets: Buckets, rules: Sequence[Rule], groups: Groups, state: State, step: Step, variant: FormulaOf
) -> tuple[FusedStep, Buckets]:
    """Sort what kernels can step from what steps eagerly.

    Args:
        buckets: everything that has a gradient.
        rules, groups, state: the optimizer's.
        step: what all buckets share.
        variant: the formula for a group's index and a number of dimensions.

    Returns:
        The tables, whose new state is not yet entered into the optimizer's, and the buckets that are left.

    Raises:
        RuntimeError: where a kernel was asked for and cannot be.
    """
    general = eligibility.of_process()
    sorting = _Sorting(rules, groups, state, step, variant, general)
    sorting.sort(buckets)
    fused: FusedStep | None = None
    while fused is None:
        refused = sorting.split() or sorting.uncompiled()
        if not refused:
            fused = sorting.fused_step()
            refused = dict.fromkeys(overlapping(fused.tables), _OVERLAPS)
        if refused:
            fused = None
            sorting = replace(sorting, refused={**sorting.refused, **refused})
            sorting.sort(buckets)
    eligibility.check_demands(groups, step.options.backend, fused.reasons)
    missing = compiler.unavailable()
    if missing is not None and any(eligibility.of_group(group, step.options.backend) is None for group in groups):
        _warn_once(f"no fused kernels: {missing}; steps are taken eagerly, which is slower")
    return fused, sorting.left


def _warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        warn(message)


@dataclass
class _Draft:
    """A table in the making: its members, and the formula before it was settled."""

    variant: Formula
    members: list[Member] = field(default_factory=list)


@dataclass
class _Sorting:
    """Sorts parameters into drafts of tables, by formula and storage, and into buckets that step eagerly."""

    rules: Sequence[Rule]
    groups: Groups
    state: State
    step: Step
    variant: FormulaOf
    general: str | None
    refused: Mapping[int, str] = field(default_factory=dict)
    left: Buckets = field(init=False)
    drafts: dict[tuple[Formula, Storage], _Draft] = field(init=False)
    reasons: dict[int, str] = field(init=False)
    idle: list[Tensor] = field(init=False)

    def sort(self, buckets: Buckets) -> None:
        """Sort everything that has a gradient, and what has had one before."""
        self.left, self.drafts, self.reasons, self.idle = {}, {}, {}, []
        of_groups = [self.general or eligibility.of_group(group, self.step.options.backend) for group in self.groups]
        for rule, together in buckets.items():
            for bucket in together:
                rest = self._take(bucket, of_groups[bucket.index])
                if rest.params:
                    self.left.setdefault(rule, []).append(rest)
        ordinal = 0
        for index, group in enumerate(self.groups):
            for param in group["params"]:
                if param.grad is None and (of_groups[index] is not None or not self._is_resting(param, index, ordinal)):
                    self.idle.append(param)
                ordinal += 1

    def _take(self, bucket: StepBucket, of_all: str | None) -> StepBucket:
        """Draft what kernels can step; the rest of the bucket is returned."""
        rest = replace(bucket, params=[], states=[], ordinals=[], missing={})
        for param, entries, ordinal in zip(bucket.params, bucket.states, bucket.ordinals, strict=True):
            reason = of_all or self._why_not(param, bucket.formula, entries)
            if reason is None:
                assert bucket.t is not None  # counts that stay on a device belong to groups that step eagerly
                self._draft(bucket.variant, bucket.formula, Member(param, entries, bucket.index, ordinal, bucket.t - 1))
            else:
                self.reasons[id(param)] = reason
                rest.add(param, entries, bucket.missing.get(param, {}), ordinal)
        return rest

    def _why_not(self, param: Tensor, formula: Formula, entries: Mapping[str, Any]) -> str | None:
        return self.refused.get(id(param)) or eligibility.of_param(param, formula, entries)

    def _is_resting(self, param: Tensor, index: int, ordinal: int) -> bool:
        """Draft a parameter that has no gradient now, if it has all its state: it may have one at the next step."""
        group, held = self.groups[index], self.state.get(param, {})
        variant = self.variant(index, param.ndim)
        formula = variant.settle(frozenset())
        if any(slot.key not in held for slot in formula.slots.values() if not slot.is_shared):
            return False
        if states.missing_entries(group_rule := self.rules[index], variant, param, held, group):
            return False
        states.check_entries(formula, param, held)
        if self._why_not(param, formula, held) is not None:
            return False
        steps = int(held["step"]) if group_rule.counts_steps else 0
        self._draft(variant, formula, Member(param, dict(held), index, ordinal, steps))
        return True

    def _draft(self, variant: Formula, formula: Formula, member: Member) -> None:
        storage = self._storage(formula, member)
        self.drafts.setdefault((formula, storage), _Draft(variant)).members.append(member)

    def _storage(self, formula: Formula, member: Member) -> Storage:
        param, gradient = member.param, member.param.grad
        dtypes = {"p": param.dtype, "g": param.dtype if gradient is None else gradient.dtype}
        for name, slot in formula.slots.items():
            entry = member.state.get(slot.key)
            dtypes[name] = stored_dtype(slot, param) if entry is None else entry.dtype
        names = tuple((name, str(dtype).removeprefix("torch.")) for name, dtype in dtypes.items())
        return Storage(names, self.step.options.stochastic_rounding)

    def split(self) -> dict[int, str]:
        """The parameters whose rule looks at all tensors at once, where one table does not hold them all."""
        found: dict[int, str] = {}
        for (formula, _), draft in self.drafts.items():
            tables = sum(other.rule is formula.rule for other, _ in self.drafts)
            if tables > 1 or formula.rule in self.left:
                reason = _SPLIT if formula.global_reductions else _SHARES if formula.shared_outputs else None
                found.update({id(member.param): reason for member in draft.members if reason is not None})
        return found

    def uncompiled(self) -> dict[int, str]:
        """The parameters whose kernels the compiler refuses, with a warning and the reason."""
        try:
            self._kernels(self.drafts)
        except compiler.CompilationError:
            pass
        else:
            return {}
        found: dict[int, str] = {}
        for key, draft in self.drafts.items():
            try:
                self._kernels({key: draft})  # alone, since those that are compiled together fail together
            except compiler.CompilationError as error:
                _warn_once(str(error))
                reason = f"the compiler failed: {error.summary}"
                found.update({id(member.param): reason for member in draft.members})
        return found

    def fused_step(self) -> FusedStep:
        """The tables of what was sorted."""
        made = self._kernels(self.drafts)
        tables = []
        for (formula, _), draft, (kernel, norms) in zip(self.drafts, self.drafts.values(), made, strict=True):
            for member in draft.members:
                for slot in formula.slots.values():
                    if slot.key not in member.state and not slot.is_shared:
                        member.state[slot.key] = first_value(slot, member.param, self.groups[member.group])
            tables.append(Table(kernel, sorted(draft.members, key=lambda member: member.ordinal), norms))
        taken = {id(member.param) for table in tables for member in table.members}
        known = taken | {id(param) for param in self.idle}
        eager = {i for i, group in enumerate(self.groups) if any(id(param) not in known for param in group["params"])}
        places = {
            (member.group, member.param.ndim): draft.variant
            for draft in self.drafts.values()
            for member in draft.members
        }
        lasts = all(formula is draft.variant.settle(frozenset()) for (formula, _), draft in self.drafts.items())
        terms = [group_terms(group, self.step.options.backend) for group in self.groups]
        return FusedStep(tables, self.reasons, taken, eager, self.idle, places, terms, lasts)

    def _kernels(
        self, drafts: Mapping[tuple[Formula, Storage], _Draft]
    ) -> list[tuple[kernels.Kernel, kernels.Kernel | None]]:
        """For each draft its kernel and, where gradients are clipped by their norm, the one that measures them.

        A formula that gives a slot its first value is compiled together with the one that all further steps take.

        Raises:
            CompilationError: if the compiler fails.
        """
        requests: list[tuple[Formula, Storage]] = []
        for (formula, storage), draft in drafts.items():
            names = frozenset(self.step.numbers)
            measured = (formula, storage)
            if "clip_coefficient" in names:
                with_norm = replace(storage, dtypes=(*storage.dtypes, ("norm", "float64")))
                measured = (_norm_of_gradient(draft.variant, names), with_norm)
            requests += [(formula, storage), measured, (draft.variant.settle(frozenset()), storage)]
        made = kernels.prepare(requests)
        return [
            (kernel, None if norms is kernel else norms) for kernel, norms in zip(made[::3], made[1::3], strict=True)
        ]


def _norm_of_gradient(variant: Formula, names: frozenset[str]) -> Formula:
    """A formula that changes nothing and yields the norm of what `clip_norm` measures, once per parameter."""
    known = variant.derived
    key = ("norm of gradient", names)
    if key not in known:
        outputs = {"p": leaf("p"), "norm": apply("norm", incoming_gradient(names))}
        slots = {"norm": Slot("norm", shape="scalar", dtype="float64")}
        known[key] = replace(variant, outputs=outputs, bindings=(), own_slots=slots)
    formula: Formula = known[key]
    return formula
