"""One step: parameters are sorted onto backends, what must be known first is computed, then all is written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from descend import state as states
from descend.backends import eager
from descend.backends.operations import Value
from descend.buckets import State, Step, StepBucket, gather
from descend.fused import FusedStep
from descend.fusing import Buckets, build
from descend.options import clip_coefficient
from descend.rule import Formula, Rule


@dataclass(frozen=True)
class Work:
    """What a step is taken with.

    Attributes:
        rules, groups: the optimizer's, in the same order.
        state: the optimizer's.
        step: what all parameters share.
        variant: the formula for a group's index and a number of dimensions.
    """

    rules: Sequence[Rule]
    groups: Sequence[dict[str, Any]]
    state: State
    step: Step
    variant: Callable[[int, int], Formula]

    def groups_of(self, rule: Rule) -> list[dict[str, Any]]:
        """The groups that a rule steps."""
        return [group for its, group in zip(self.rules, self.groups, strict=True) if its is rule]


def prepare(
    work: Work, fused: FusedStep, changed: Collection[int], restructured: Collection[int]
) -> tuple[FusedStep, Buckets]:
    """Sort everything that has a gradient onto the backends; nothing is written yet.

    Args:
        work: what the step is taken with.
        fused: the tables of the last step, which are kept where they still fit.
        changed: the groups whose values may be others than at the last step.
        restructured: those of them that may choose another formula.

    Returns:
        The tables for kernels, and the buckets that step eagerly, by rule.

    Raises:
        ValueError: where groups disagree on what all must share.
        RuntimeError: for sparse gradients, for state that a step could not be written into, and where a kernel was
            asked for and cannot be.
    """
    if changed:
        check_agreement(work, changed)
        fused.forget_numbers()
    if fused.is_current(work.groups, work.state, work.step, restructured, work.variant):
        return fused, _buckets(work, fused.eager_groups, fused.taken)
    return build(_buckets(work, range(len(work.groups))), work.rules, work.groups, work.state, work.step, work.variant)


def _buckets(work: Work, indices: Collection[int], taken: Collection[int] = ()) -> Buckets:
    by_rule: Buckets = {}
    if not indices:
        return by_rule
    ordinal = 0
    for index, (rule, group) in enumerate(zip(work.rules, work.groups, strict=True)):
        if index in indices:
            buckets = gather(rule, group, index, work.variant, work.state, ordinal, work.step, taken)
            if buckets:
                by_rule.setdefault(rule, []).extend(buckets)
        ordinal += len(group["params"])
    return by_rule


def clip_norm(work: Work, fused: FusedStep, buckets: Buckets, limit: float) -> None:
    """Compute the factor that brings the gradients of all parameters down to a norm, for every backend to read."""
    numbers = fused.numbers(work.groups, work.step)
    parts = [table.squared_norms(numbers) for table in fused.tables]
    parts += [bucket.squared_norms() for together in buckets.values() for bucket in together]
    reads = not any(group["capturable"] for group in work.groups)
    work.step.numbers["clip_coefficient"] = clip_coefficient(limit, parts, reads=reads)


def compute_first(work: Work, fused: FusedStep, buckets: Buckets) -> dict[Rule, list[dict[str, Value]]]:
    """Compute what must be known, or may raise, before anything is written; returns new values of eager buckets."""
    numbers = fused.numbers(work.groups, work.step)
    for table in fused.tables:
        table.prepare(numbers, states.read_shared(table.rule, work.groups_of(table.rule)[0]))
    results = {}
    for rule, together in buckets.items():
        if any(bucket.is_computed_first for bucket in together):
            shared = states.read_shared(rule, together[0].group)
            results[rule] = eager.advance([bucket.inputs for bucket in together], shared, np.float64(work.step.clock))
    return results


def write(work: Work, fused: FusedStep, buckets: Buckets, results: dict[Rule, list[dict[str, Value]]]) -> None:
    """Take the step."""
    fused.attach(work.state)
    for table in fused.tables:
        states.write_shared(table.rule, work.groups_of(table.rule), table.step())
    for rule, together in buckets.items():
        if rule in results:
            _write_computed(work, rule, together, results[rule])
        else:
            for bucket in together:
                bucket.sweep(work.state)
    fused.remember(work.groups, work.state, work.step.numbers)


def _write_computed(work: Work, rule: Rule, buckets: list[StepBucket], results: list[dict[str, Value]]) -> None:
    for bucket, result in zip(buckets, results, strict=True):
        bucket.write(result, work.state)
    shared = {name: results[0][name] for name in buckets[0].formula.shared_outputs}
    states.write_shared(rule, work.groups_of(rule), shared)


def check_agreement(work: Work, changed: Collection[int]) -> None:
    """Refuse groups that disagree on a number which reaches a slot that exists once per optimizer.

    Args:
        work: what the step is taken with.
        changed: the groups whose values may be others than at the last step.

    Raises:
        ValueError: with the hyper-parameter.
    """
    for index in changed:
        rule, group = work.rules[index], work.groups[index]
        if not group["params"] or not any(slot.is_shared for slot in rule.slots.values()):
            continue
        for name in work.variant(index, group["params"][0].ndim).common_hyper_parameters:
            if any(other[name] != group[name] for other in work.groups_of(rule)):
                raise ValueError(
                    f"{name} reaches a slot that exists once per optimizer, so it must be equal in all groups of the "
                    "rule"
                )
