"""The schedules of an optimizer, beside its param groups: the groups hold numbers, this holds what drives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from descend.caution import warn
from descend.hyper_parameters import at, is_scheduled, keep_rate_on_device, schedules_in
from descend.schedules import Schedule


class Schedules:
    """What drives the hyper-parameters of each param group.

    A key that a schedule drives is noticed when somebody else writes into it (a scheduler of torch, a checkpoint
    writer): the foreign number is used until the number that it replaced is written back, while the clock runs on.
    """

    def __init__(self) -> None:
        self._driving: list[dict[str, Any]] = []
        self._written: list[dict[str, Any]] = []  # the number that was last put into a group
        self._overridden: set[tuple[int, str]] = set()

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self._driving[index]

    def __bool__(self) -> bool:
        return any(self._driving)

    def add_group(self, values: Mapping[str, Any], clock: int) -> dict[str, Any]:
        """Take in a group's values and return the numbers in force."""
        driving = {name: value for name, value in values.items() if is_scheduled(value)}
        numbers = {name: at(value, clock) for name, value in values.items()}
        self._driving.append(driving)
        self._written.append({name: numbers[name] for name in driving})
        return numbers

    def keys(self) -> list[tuple[int, str]]:
        """Every group's index and hyper-parameter that a schedule drives."""
        return [(i, name) for i, driving in enumerate(self._driving) for name in driving]

    def end_cycle(self, clock: int) -> bool:
        """Whether a cycle of one of them ends at `clock`."""
        return any(schedule.ends_cycle(clock) for schedule in self.every())

    def every(self) -> list[Schedule]:
        """The schedules of all groups."""
        values = (value for driving in self._driving for value in driving.values())
        return [schedule for value in values for schedule in schedules_in(value)]

    def keep(self, places: list[int]) -> None:
        """Keep the groups at these places, in this order, and forget the others."""
        self._driving = [self._driving[place] for place in places]
        self._written = [self._written[place] for place in places]
        self._overridden = {(places.index(i), name) for i, name in self._overridden if i in places}

    def drop_last_group(self) -> None:
        """Forget the group that was added last."""
        del self._driving[-1], self._written[-1]

    def replace(self, index: int, group: dict[str, Any], name: str, value: Any, clock: int) -> None:
        """Put a number or a schedule in place of what drove a key."""
        self._overridden.discard((index, name))
        self._driving[index].pop(name, None)
        self._written[index].pop(name, None)
        group[name] = at(value, clock)
        if is_scheduled(value):
            self._driving[index][name] = value
            self._written[index][name] = group[name]

    def restart(self, groups: list[dict[str, Any]], clock: int) -> None:
        """Put every schedule's number at `clock` in force, whatever stands in the groups."""
        self._overridden.clear()
        for (i, name), number in self.upcoming(self.keys(), clock).items():
            # Not into a tensor that was loaded: groups may share it, and its type may round the number.
            groups[i][name] = self._written[i][name] = number
            keep_rate_on_device(groups[i])

    def note_start(self, clock: int) -> None:
        """Warn that schedules start at 0 with a loaded state that does not say how many steps it has behind it."""
        if self and clock == 0:
            warn(
                "the loaded state has no step count, so the schedules start at 0; pass step=k to the constructor "
                "to start elsewhere"
            )

    def settle(self, groups: list[dict[str, Any]], clock: int) -> list[tuple[int, str]]:
        """Notice foreign numbers, and those taken back; returns the keys that schedules drive in this step."""
        driven: list[tuple[int, str]] = []
        if not self:
            return driven
        for i, driving in enumerate(self._driving):
            for name, value in driving.items():
                found, written = groups[i][name], self._written[i][name]
                if _is_same(found, written):
                    if (i, name) in self._overridden:
                        self._overridden.discard((i, name))
                        self.put(groups, {(i, name): at(value, clock)})
                    driven.append((i, name))
                elif (i, name) not in self._overridden:
                    self._overridden.add((i, name))
                    warn(
                        f"param_groups[{i}][{name!r}] was set to {found!r} while a schedule drives it; that number is "
                        f"used until {written!r} is written back. To replace the schedule, call "
                        f"opt.set_schedule({name!r}, value, group={i})"
                    )
        return driven

    def upcoming(self, driven: list[tuple[int, str]], clock: int) -> dict[tuple[int, str], Any]:
        """The numbers of the driven keys at `clock`."""
        return {(i, name): at(self._driving[i][name], clock) for i, name in driven}

    def put(self, groups: list[dict[str, Any]], numbers: Mapping[tuple[int, str], Any]) -> None:
        """Write numbers into the groups."""
        for (i, name), number in numbers.items():
            self._written[i][name] = number
            held = groups[i][name]
            if groups[i]["capturable"] and isinstance(held, Tensor):
                held.fill_(number)  # a captured graph reads this very tensor
            else:
                groups[i][name] = number


def _is_same(found: Any, written: Any) -> bool:
    """Whether what stands in a group is what was written there; a tensor on a device is not read, and taken for it."""
    if isinstance(found, Tensor) and not isinstance(written, Tensor):
        return found.device.type != "cpu" or found.item() == written
    return found is written or (not isinstance(written, Tensor) and bool(found == written))
