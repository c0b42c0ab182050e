"""A step that is taken for the state alone, as torch.distributed.checkpoint takes it, creates state and does no more.

`get_optimizer_state_dict` and `set_optimizer_state_dict` make the state of an optimizer that has none by a step with
rate 0 and gradients of 0. Taken as a step it would move averages and decays that do not read the rate, count in `t` and
in the clock, and look like a foreign number in a scheduled key.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

from torch import Tensor

from descend import state as states
from descend.backends.storage import first_value
from descend.rule import Formula, Rule

Groups = Sequence[dict[str, Any]]


class Initialization:
    """Recognises a step that is for the state alone, and takes it.

    It is one if there is no state, somebody else has written 0 over every rate, and all gradients are 0 or absent.
    """

    def __init__(self) -> None:
        self._rates: list[Any] = []  # those that the optimizer itself put into the groups last
        self._placeholders: list[tuple[dict[str, Tensor], str, Tensor]] = []

    def note_rates(self, groups: Groups) -> None:
        """Remember the rates that stand in the groups, to know those that somebody else writes there."""
        self._rates = [group.get("lr") for group in groups]

    def take_if_asked(
        self,
        groups: Groups,
        rules: Sequence[Rule],
        state: MutableMapping[Tensor, dict[str, Any]],
        formula_of: Callable[[int, int], Formula],
    ) -> bool:
        """Create the state of every parameter with a gradient, at step 0, if a step would be for the state alone.

        Slots whose first value the formula gives hold zeros until the first step, since a checkpoint is read into what
        is there.

        Args:
            groups, rules, state: the optimizer's.
            formula_of: the variant for a group's index and a number of dimensions.

        Returns:
            Whether that was done, and no step is to be taken.
        """
        if state or not self._is_asked_for(groups):
            return False
        made: dict[Tensor, dict[str, Any]] = {}
        for index, (rule, group, rate) in enumerate(zip(rules, groups, self._rates, strict=True)):
            values = {**group, "lr": rate}
            for param in group["params"]:
                if param.grad is not None:
                    entries = self._entries(rule, formula_of(index, param.ndim), param, values)
                    if entries:
                        made[param] = entries
        state.update(made)
        return True

    def drop_placeholders(self) -> None:
        """Take out of the state again what nothing was loaded into: the first step makes it."""
        for entries, key, zeros in self._placeholders:
            if entries.get(key) is zeros and not zeros.any():
                del entries[key]
        self._placeholders = []

    def _entries(self, rule: Rule, formula: Formula, param: Tensor, values: dict[str, Any]) -> dict[str, Tensor]:
        entries = states.missing_entries(rule, formula, param, {}, values)
        for name in formula.asks_fresh:
            slot = formula.slots[name]
            entries[slot.key] = first_value(slot, param, values)
            self._placeholders.append((entries, slot.key, entries[slot.key]))
        return entries

    def _is_asked_for(self, groups: Groups) -> bool:
        if len(self._rates) != len(groups) or not groups or groups[0].get("lr") is self._rates[0]:
            return False
        pairs = [(group["lr"], ours) for group, ours in zip(groups, self._rates, strict=True) if "lr" in group]
        if not pairs or not all(rate is not ours and _is_zero(rate) for rate, ours in pairs):
            return False
        gradients = (param.grad for group in groups for param in group["params"])
        return not any(_has_entries(gradient) for gradient in gradients if gradient is not None)


def _is_zero(rate: Any) -> bool:
    return bool(rate == 0) if isinstance(rate, (int, float, Tensor)) else False


def _has_entries(gradient: Tensor) -> bool:
    """Whether anything in a gradient is not 0."""
    return bool((gradient.coalesce().values() if gradient.is_sparse else gradient).any())
