"""What an optimizer says of itself: what steps each parameter and why, the numbers in force, state and cost.

For a parameter that has not been stepped yet, the backend is the one expected from what is known of it; afterwards
it is the one that has run. Named parameters are listed, those of numbered modules together: blocks.{0-11}.norm.weight.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from descend import eligibility, render
from descend.arguments import FLAGS
from descend.backends import openmp
from descend.backends.plan import plan
from descend.backends.storage import stored_dtype
from descend.options import AVERAGE, AVERAGE_SLOT
from descend.rule import Formula

if TYPE_CHECKING:
    from descend.optimizer import Optimizer

_OWN_KEYS: Final = frozenset({"params", "param_names", "rule", "applied_steps", "state_format", "clip_agc"})
"""What the optimizer itself reads of a group, beside flags, hyper-parameters and slots."""


def explain(optimizer: Optimizer) -> str:
    """See `Optimizer.explain`."""
    optimizer._follow_groups()
    groups = [_Group(optimizer, index) for index in range(len(optimizer.param_groups))]
    backend = optimizer.options.backend
    chosen = [f"backend={backend!r}" if backend != "auto" else "", str(optimizer.options)]
    if optimizer.options.stochastic_rounding and not any(group.stores_bfloat16 for group in groups):
        chosen.append("of which stochastic_rounding has no effect, as nothing is stored in bfloat16")
    lines = [f"options: {', '.join(filter(None, chosen))}"] if any(chosen) else []
    lines.append(f"threads: {_threads(any(group.has_kernel for group in groups))}")
    return "\n".join([*lines, *(line for group in groups for line in group.lines())])


def _threads(has_kernel: bool) -> str:
    """How many threads kernels may take; steps of little work take one."""
    allowed = torch.get_num_threads()
    if has_kernel and allowed > 1 and not isinstance(openmp.find(), openmp.Runtime):
        return f"1 (of {allowed}: the process has no single OpenMP runtime)"
    return str(allowed)


class _Group:
    """One param group: what steps its parameters, how many of them and of their elements."""

    def __init__(self, optimizer: Optimizer, index: int) -> None:
        self.optimizer, self.index = optimizer, index
        self.rule, self.group = optimizer._rules[index], optimizer.param_groups[index]
        self.params: list[Tensor] = self.group["params"]
        self.names = optimizer.options.numbers(None, keeps_tensors=False)
        self.traffic: dict[object, int] = {}
        self.stores_bfloat16 = False
        self.of_all = eligibility.of_process() or eligibility.of_group(self.group, optimizer.options.backend)
        self.stepped: dict[str, list[int]] = {}
        for place, param in enumerate(self.params):
            self.stepped.setdefault(self._how(param), []).append(place)

    @property
    def has_kernel(self) -> bool:
        """Whether kernels step some of the parameters."""
        return any(how.startswith("kernel") for how in self.stepped)

    def lines(self) -> Iterator[str]:
        """The group's part of the explanation."""
        yield f"group {self.index}: {self.rule.name} on {self._size(range(len(self.params)))}"
        yield f"  in force: {self._numbers()}"
        if unread := self._unread():
            yield f"  not read by {self.rule.name}: {unread}"
        for how, places in self.stepped.items():
            yield f"  {how} ({self._size(places)})"
            yield from self._named(places)
        yield f"  state {self._bytes_of_state():,} bytes"
        for formula, dtype in dict.fromkeys((self._formula(param), _name(param.dtype)) for param in self.params):
            if dtype in render.BYTES:
                yield f"  cost in {dtype}: {self._cost(formula, dtype)}"

    def _numbers(self) -> str:
        """The hyper-parameters in force, with the schedules that they follow."""
        schedules = self.optimizer._schedules[self.index]
        values = (f"{name}={self.group[name]!r}" for name in self.rule.hyper_parameters)
        follows = (f" by {schedules[name]}" if name in schedules else "" for name in self.rule.hyper_parameters)
        flags = [f"{name}=True" for name in ("maximize", "capturable", "differentiable", "fused") if self.group[name]]
        left_out = ["clip_agc=None"] if self.group.get("clip_agc", 0) is None else []
        return ", ".join([*map("".join, zip(values, follows, strict=True)), *flags, *left_out])

    def _size(self, places: Collection[int]) -> str:
        elements = sum(self.params[place].numel() for place in places)
        return f"{_counted(len(places), 'tensor')}, {_counted(elements, 'parameter')}"

    def _unread(self) -> str:
        """What stands in the group under a name that is none of the rule's, such as one that was misspelled."""
        slots = (slot.key for slot in self.rule.slots.values())
        read = {*_OWN_KEYS, *FLAGS, *self.optimizer._constants, *self.rule.hyper_parameters, *slots}
        return ", ".join(f"{name}={value!r}" for name, value in self.group.items() if name not in read)

    def _named(self, places: Collection[int]) -> list[str]:
        """The names of parameters where they have names, in lines."""
        names = self.group.get("param_names")
        if names is None:
            return []
        marked = (names[place] + ("" if self.params[place].requires_grad else " (frozen)") for place in places)
        text = ", ".join(compacted(marked))
        return wrap(
            text, 116, initial_indent=" " * 4, subsequent_indent=" " * 4, break_long_words=False, break_on_hyphens=False
        )

    def _cost(self, formula: Formula, dtype: str) -> render.Cost:
        """What a step costs, the pass that measures the gradients for `clip_norm` included."""
        cost = render.cost(formula, dtype)
        return replace(cost, reads=(render.BYTES[dtype], *cost.reads)) if self._measures else cost

    @property
    def _measures(self) -> bool:
        return "clip_coefficient" in self.names

    def _bytes_of_state(self) -> int:
        entries = (entry for param in self.params for entry in self.optimizer.state.get(param, {}).values())
        return sum(entry.numel() * entry.element_size() for entry in entries if isinstance(entry, Tensor))

    def _formula(self, param: Tensor) -> Formula:
        return self.optimizer._formula(self.index, param.ndim, self.names)

    def _how(self, param: Tensor) -> str:
        """The backend of a parameter and why, as the beginning of a line."""
        fused, formula = self.optimizer._fused, self._formula(param).settle(frozenset())
        entries: dict[str, Any] = self.optimizer.state.get(param, {})
        types = _types(formula, param, entries)
        self.stores_bfloat16 |= any(types[name] is torch.bfloat16 for name in types if name != "g")
        if id(param) in fused.taken:
            return f"kernel: {self._work(formula, types)}"
        if id(param) in fused.reasons:
            return f"eager: {fused.reasons[id(param)]}"
        reason = self.of_all or eligibility.of_param(param, formula, entries)
        return f"eager, expected: {reason}" if reason else f"kernel, expected: {self._work(formula, types)}"

    def _work(self, formula: Formula, types: dict[str, torch.dtype]) -> str:
        """The types that a kernel works with, and the bytes that it moves."""
        key = (formula, *types.items())
        if key not in self.traffic:
            measured = types["g"].itemsize if self._measures else 0  # a pass of its own
            moved = plan(formula).traffic({name: dtype.itemsize for name, dtype in types.items()})
            self.traffic[key] = moved + measured
        calls = f", beside {' and '.join(formula.opaque_calls)} by torch" if formula.opaque_calls else ""
        return f"{_words(types)}, {self.traffic[key]} bytes moved per parameter and step{calls}"


def _types(formula: Formula, param: Tensor, entries: Mapping[str, Any]) -> dict[str, torch.dtype]:
    """The types of a parameter, its gradient and its slots, which need not exist yet."""
    types = {"p": param.dtype, "g": param.dtype if param.grad is None else param.grad.dtype}
    for name, slot in formula.slots.items():
        if slot.shape == "like":
            held = entries.get(slot.key)
            types[name] = stored_dtype(slot, param) if held is None else held.dtype
    return types


def _words(types: dict[str, torch.dtype]) -> str:
    """The types of parameter, gradient and slots, each type once."""
    by_type: dict[str, list[str]] = {}
    for name, dtype in types.items():
        shown = AVERAGE_SLOT.key if name == AVERAGE else name  # the user knows it by its key
        by_type.setdefault(_name(dtype), []).append(shown)
    if len(by_type) == 1:
        return next(iter(by_type))
    return "; ".join(f"{' '.join(names)} {dtype}" for dtype, names in by_type.items())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def compacted(names: Iterable[str]) -> list[str]:
    """Names that differ in a number as one: blocks.{0-3,7}.weight; every name can be read from it."""
    rows = [tuple(name.split(".")) for name in names]
    for place in reversed(range(max(map(len, rows), default=0))):
        merged: dict[tuple[str, ...], list[int]] = {}
        for row in rows:
            if place < len(row) and row[place].isdecimal() and str(int(row[place])) == row[place]:
                merged.setdefault((*row[:place], "", *row[place + 1 :]), []).append(int(row[place]))
            else:
                merged[row] = []
        rows = [
            (*row[:place], _ranges(numbers), *row[place + 1 :]) if numbers else row for row, numbers in merged.items()
        ]
    return list(map(".".join, rows))


def _ranges(numbers: list[int]) -> str:
    """Whole numbers as text: 3, {0,2} or {0-3,7}."""
    runs = [
        [number for _, number in run] for _, run in groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0])
    ]
    shown = [f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs]
    return shown[0] if len(numbers) == 1 else f"{{{','.join(shown)}}}"
