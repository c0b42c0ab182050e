"""Hyper-parameters in force: what may stand in a param group, checked by name, and the schedules beside it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from operator import call, is_, itemgetter
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from descend.caution import warn
from descend.rule import Formula, Rule
from descend.schedules import Schedule
from descend.tracing import is_structural


@dataclass(frozen=True)
class Limit:
    """What a hyper-parameter may be: an interval, and the sentence for a value outside it.

    The sentences begin as torch's do. `{value}` is the value, `{index}` its place in a tuple.
    """

    sentence: str
    low: float = 0.0
    high: float = math.inf
    includes_low: bool = True
    includes_high: bool = False

    def admits(self, x: float) -> bool:
        """Whether `x` lies inside; NaN never does."""
        above = self.low <= x if self.includes_low else self.low < x
        return above and (x <= self.high if self.includes_high else x < self.high)

    @property
    def interval(self) -> str:
        """The interval in mathematical notation."""
        left, right = "[(", ")]"
        return f"{left[not self.includes_low]}{self.low:g}, {self.high:g}{right[self.includes_high]}"


LIMITS: Final[dict[str, Limit]] = {
    "lr": Limit("Invalid learning rate: {value}"),
    "eps": Limit("Invalid epsilon value: {value}"),
    "betas": Limit("Invalid beta parameter at index {index}: {value}", high=1.0),
    "beta": Limit("Invalid beta value: {value}", high=1.0),
    "rho": Limit("Invalid rho value: {value}", high=1.0, includes_high=True),
    "ns_steps": Limit("Number of steps must be less than 100 for computational efficiency: {value}", high=100.0),
    "base": Limit("Invalid base value: {value}", includes_low=False),
    **{
        name: Limit(f"Invalid {name} value: {{value}}")
        for name in (
            "weight_decay",
            "momentum",
            "alpha",
            "lr_decay",
            "initial_accumulator_value",
            "momentum_decay",
            "eta",
            "first_lr",
        )
    },
}
"""Limits by name, the same in every rule; what is not listed may be any number but NaN."""

_ANY: Final = Limit("Invalid {name} value: {value}", low=-math.inf, high=math.inf, includes_high=True)


def schedules_in(value: object) -> list[Schedule]:
    """The schedules in a value: itself, or those of a tuple."""
    if isinstance(value, (tuple, list)):
        return [schedule for part in value for schedule in schedules_in(part)]
    return [value] if isinstance(value, Schedule) else []


def is_scheduled(value: object) -> bool:
    """Whether a value is a schedule, or a tuple that holds one."""
    return bool(schedules_in(value))


def at(value: Any, s: int) -> Any:
    """The value in force after `s` applied steps: a schedule's number; plain Python numbers for NumPy's."""
    if isinstance(value, Schedule):
        return float(value(s))
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, str):  # also what configuration libraries have for lists
        numbers = [at(v, s) for v in value]
        return numbers if isinstance(value, list) else tuple(numbers)
    return value


def check_names(given: Collection[str], rule: Rule, params: Any) -> None:
    """Refuse hyper-parameters that neither the rule of an optimizer nor one of its groups declares.

    Raises:
        TypeError: saying which name was meant.
    """
    groups = [] if isinstance(params, Tensor) else [group for group in params if isinstance(group, dict)]
    rules = [rule, *(group["rule"] for group in groups if isinstance(group.get("rule"), Rule))]
    for name in given:
        if not any(name in rule.hyper_parameters for rule in rules):
            rule.merged({name: None})


def note_unread(rule: Rule, group: Mapping[str, Any], kept: Collection[str]) -> None:
    """Warn of hyper-parameters in a param group that its rule does not read; other entries are the user's own.

    `kept` are those that torch's class of the name holds and does not read.
    """
    for name in group:
        if name in rule.hyper_parameters or name in kept:
            continue
        near = difflib.get_close_matches(str(name), rule.hyper_parameters, n=1, cutoff=0.8)
        if near:
            warn(f"a param group has {name!r}, which nothing reads; did you mean {near[0]!r}?")
        elif name in LIMITS:
            warn(f"a param group has {name!r}, which rule {rule.name} does not read")


def keep_rate_on_device(group: dict[str, Any]) -> None:
    """Hold the rate of a group with `capturable=True` in a tensor beside its parameters, for captured graphs."""
    rate = group.get("lr")
    if group["capturable"] and isinstance(rate, (int, float)):
        device = group["params"][0].device if group["params"] else torch.device("cpu")
        device = torch.device("cpu") if device.type == "meta" else device  # where a number would be lost
        dtype = torch.float32 if device.type == "mps" else torch.float64
        group["lr"] = torch.tensor(rate, dtype=dtype, device=device)


def check(rule: Rule, values: Mapping[str, Any]) -> None:
    """Refuse values that no step may be taken with.

    Args:
        rule: the rule that reads them.
        values: its hyper-parameters by name: numbers, tuples of numbers, 1-element tensors.

    Raises:
        ValueError: for a number outside its limits, NaN, a tensor of more than one element, or values that contradict
            each other; the message begins as torch's and ends with the remedy.
        TypeError: for what is no number, or no bool where the default is one.
    """
    for name, default in rule.hyper_parameters.items():
        value = values[name]
        if isinstance(default, bool) and not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{name} takes True or False, not {value!r}")
        if is_structural(default):
            continue
        if isinstance(default, (tuple, list)):
            if not isinstance(value, (tuple, list)) or len(value) != len(default):
                raise ValueError(f"{name} takes {len(default)} numbers, such as {default}, not {value!r}")
            for index, element in enumerate(value):
                _check_number(name, element, index)
        else:
            _check_number(name, value, None)
    _check_together(values)


_Reader = Callable[[Mapping[str, Any]], tuple[object, ...]]
_STRUCTURAL_FLAGS: Final = ("maximize", "foreach", "differentiable", "fused")


class Seen:
    """The values of param groups that were accepted last, so that only what has changed is checked again."""

    def __init__(self) -> None:
        self._seen: list[tuple[object, ...]] = []
        self._found: list[tuple[object, ...]] = []
        self._mutable: set[int] = set()  # groups with values that can change in place
        self._rules: list[Rule] = []
        self._readers: list[_Reader] = []  # of each group's values

    def changed(self, rules: Sequence[Rule], groups: Sequence[Mapping[str, Any]]) -> set[int]:
        """The indices of groups whose hyper-parameters or flags may be others than those accepted last."""
        if len(self._readers) != len(rules) or not all(map(is_, self._rules, rules)):
            self._rules, self._readers = list(rules), list(map(_reader, rules, groups))
        self._found = list(map(call, self._readers, groups))
        if len(self._found) != len(self._seen):
            return set(range(len(groups)))
        if not self._mutable and self._found == self._seen:
            return set()
        pairs = enumerate(zip(self._found, self._seen, strict=True))
        return self._mutable | {i for i, (found, seen) in pairs if not all(map(is_, found, seen))}

    def restructured(self, changed: set[int]) -> set[int]:
        """Those of the changed groups that may choose another formula now: more than the size of a number changed."""
        if len(self._found) != len(self._seen):
            return changed
        return {i for i in changed if not all(map(_chooses_as, self._found[i], self._seen[i])) or i in self._mutable}

    def accept(self, changed: set[int]) -> None:
        """Take what was found last as checked; `changed` is what was returned then."""
        if changed:
            self._mutable = {i for i, found in enumerate(self._found) if _is_mutable(found)}
        self._seen = self._found


def _reader(rule: Rule, group: Mapping[str, Any]) -> _Reader:
    read = itemgetter(*rule.hyper_parameters, *_STRUCTURAL_FLAGS)
    return (lambda group: (*read(group), group.get("clip_agc", True))) if "clip_agc" in group else read


def _chooses_as(found: object, seen: object) -> bool:
    """Whether two values choose the same formula: they are the same, or numbers of which both or none are 0."""
    if found is seen:
        return True
    if type(found) is tuple and type(seen) is tuple and len(found) == len(seen):
        return all(map(_chooses_as, found, seen))
    return type(found) in (int, float) and type(seen) in (int, float) and (found == 0) == (seen == 0)


def _is_mutable(values: tuple[object, ...]) -> bool:
    return any(
        isinstance(value, (Tensor, list)) or (isinstance(value, tuple) and _is_mutable(value)) for value in values
    )


def _check_number(name: str, value: Any, index: int | None) -> None:
    if isinstance(value, Tensor):
        if value.numel() != 1:
            where = "" if index is None else f"[{index}]"
            raise ValueError(f"Tensor {name}{where} must be 1-element, not of shape {tuple(value.shape)}")
        if value.device.type != "cpu":  # to read it would wait for the device, and cannot be captured in a graph
            return
        number = float(value.detach())
    elif _is_real(value):
        number = float(value)
    else:
        raise TypeError(f"{name} takes a number, a 1-element tensor or a schedule, not {value!r}")
    limit = LIMITS.get(name, _ANY)
    if not limit.admits(number):
        sentence = limit.sentence.format(name=name, value=value, index=index)
        raise ValueError(f"{sentence}; {name} must lie in {limit.interval}")


def _is_real(value: Any) -> bool:
    """Whether a value is a number, NumPy's included, which a scheduler may write whose function is NumPy's."""
    if isinstance(value, bool):
        return False
    return isinstance(value, Real) or (isinstance(value, np.ndarray) and not value.ndim)


def check_loaded(
    rules: Sequence[Rule],
    groups: Sequence[Mapping[str, Any]],
    loaded: Sequence[Mapping[str, Any]],
    scheduled: Mapping[tuple[int, str], Any],
) -> None:
    """Refuse param groups with values that no step may be taken with, as `check` does, before they are put in force.

    Args:
        rules, groups: the optimizer's; what a loaded group lacks stays as it is in these.
        loaded: the groups to put in force.
        scheduled: the numbers that schedules will write over theirs.
    """
    written: dict[int, dict[str, Any]] = {}
    for (i, name), number in scheduled.items():
        written.setdefault(i, {})[name] = number
    for i, (rule, group, new) in enumerate(zip(rules, groups, loaded, strict=True)):
        check(rule, {**group, **new, **written.get(i, {})})


def check_scheduled(rule: Rule, values: Mapping[str, Any]) -> None:
    """Refuse schedules for hyper-parameters that choose a variant.

    Raises:
        TypeError: for a schedule where a bool, a name or None is expected.
    """
    for name, default in rule.hyper_parameters.items():
        if is_structural(default) and is_scheduled(values[name]):
            raise TypeError(
                f"{name} chooses the variant of {rule.name}: it takes values such as {default}, no schedule"
            )


def check_shapes(rule: Rule, group: Mapping[str, Any], formula_of: Callable[[int], Formula]) -> None:
    """Refuse parameters that the rule cannot step.

    Args:
        rule: the rule.
        group: a param group of it.
        formula_of: its formula for a number of dimensions, with the optimizer's options.

    Raises:
        ValueError: what the rule itself raises for a number of dimensions.
        RuntimeError: for complex parameters, where an opaque call would take them for real ones.
    """
    for place, param in enumerate(group["params"]):
        if is_lazy(param) or not (rule.reads_ndim or param.is_complex()):
            continue
        try:
            calls = formula_of(param.ndim).opaque_calls
        except ValueError as error:
            raise ValueError(
                f"{error}; this is parameter {group.get('param_names', range(place + 1))[place]}"
            ) from None
        if calls and param.is_complex():
            if calls == ("clip_units",):
                raise RuntimeError("clip_agc does not support complex parameters; give their group clip_agc=None")
            raise RuntimeError(
                f"{rule.title} does not support complex parameters; put them into a group of another rule: "
                '{"params": ..., "rule": descend.rules.adamw}'
            )


def _check_together(values: Mapping[str, Any]) -> None:
    is_sgd = "nesterov" in values and "dampening" in values
    if is_sgd and values["nesterov"] and (values.get("momentum", 0) <= 0 or values["dampening"] != 0):
        raise ValueError("Nesterov momentum requires a momentum and zero dampening; set momentum=0.9, dampening=0")
    if "etas" in values and not 0 < values["etas"][0] < 1 < values["etas"][1]:
        lower, upper = values["etas"]
        raise ValueError(f"Invalid eta values: {lower}, {upper}; the first must lie in (0, 1), the second above 1")
    if "step_sizes" in values and not 0 <= values["step_sizes"][0] <= values["step_sizes"][1]:
        raise ValueError(
            f"Invalid step sizes: {values['step_sizes']}; the first is the smallest, the second the largest"
        )
