"""A step that is taken for the state alone, as torch.distributed.checkpoint takes it, creates state and does no more.

`get_optimizer_state_dict` and `set_optimizer_state_dict` make the state of an optimizer that has none by a step with
rate 0 and gradients of 0. Taken as a step it would move averages and decays that do not read the rate, count in `t` and
in the clock, and look like a foreign number in a scheduled key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

from torch import Tensor

from descend import state as states
from descend.rule import Formula, Rule

Groups = Sequence[dict[str, Any]]


def create_if_asked(
    groups: Groups,
    rules: Sequence[Rule],
    state: MutableMapping[Tensor, dict[str, Any]],
    placed: Sequence[Any],
    formula_of: Callable[[int, int], Formula],
) -> bool:
    """Create the state of every parameter with a gradient, at step 0, if a step would be for the state alone.

    It is if there is no state, somebody else has written 0 over every rate, and all gradients are 0 or absent.

    Args:
        groups, rules, state: the optimizer's.
        placed: the rates that the optimizer itself put into the groups last; the state begins with them.
        formula_of: the variant for a group's index and a number of dimensions.

    Returns:
        Whether that was done, and no step is to be taken.
    """
    if not _is_asked_for(groups, state, placed):
        return False
    made: dict[Tensor, dict[str, Any]] = {}
    for index, (rule, group, rate) in enumerate(zip(rules, groups, placed, strict=True)):
        values = {**group, "lr": rate}
        for param in group["params"]:
            if param.grad is not None:
                entries = states.missing_entries(rule, formula_of(index, param.ndim), param, {}, values)
                if entries:
                    made[param] = dict(entries)
    state.update(made)
    return True


def _is_asked_for(groups: Groups, state: Mapping[Tensor, Any], placed: Sequence[Any]) -> bool:
    if state or len(placed) != len(groups):
        return False
    rates = [(group["lr"], ours) for group, ours in zip(groups, placed, strict=True) if "lr" in group]
    if not rates or not all(rate is not ours and _is_zero(rate) for rate, ours in rates):
        return False
    return not any(_has_entries(param.grad) for group in groups for param in group["params"] if param.grad is not None)


def _is_zero(rate: Any) -> bool:
    return bool(rate == 0) if isinstance(rate, (int, float, Tensor)) else False


def _has_entries(gradient: Tensor) -> bool:
    """Whether anything in a gradient is not 0."""
    return bool((gradient.coalesce().values() if gradient.is_sparse else gradient).any())
