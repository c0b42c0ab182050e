"""Loading a state dict: by name where both sides have names, each slot in its own type, nothing mismatched silently.

torch matches parameters by their places alone, so that a model whose layers were declared in another order takes the
state of other parameters; and it casts state to the parameter's type, so that float32 averages beside bfloat16 weights
lose their digits. Both are mended here; a dict without names is matched by places, as torch does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from descend.backends.eager import EXACT_IN_FLOAT32
from descend.backends.storage import scalar_dtype
from descend.caution import warn
from descend.matching import Groups, Matching, match
from descend.options import AVERAGE_SLOT
from descend.rule import Formula, Rule
from descend.rules import catalog
from descend.state import FORMAT


class Mismatch(NamedTuple):
    """What did not match when a state dict was loaded.

    Attributes:
        missing: names of the optimizer's parameters that the state dict does not know.
        unexpected: names in the state dict that the optimizer does not have, and state that another rule keeps.
        reshaped: names of parameters whose state has another shape.
    """

    missing: list[str]
    unexpected: list[str]
    reshaped: list[str]


@dataclass
class Loaded:
    """A state dict mapped onto the parameters of an optimizer, and owned by it.

    Attributes:
        state: by parameter, and whatever else stood in the dict under keys of its own.
        groups: the param groups, in the optimizer's order.
        mismatch: what was left out.
        widened: names of entries that were saved in a narrower type than they are kept in.
    """

    state: dict[Any, Any]
    groups: Groups
    mismatch: Mismatch
    widened: list[str] = field(default_factory=list)


def load(
    state_dict: Mapping[str, Any],
    groups: Groups,
    rules: Sequence[Rule],
    usual: Rule,
    state_dtype: torch.dtype | None = None,
    strict: bool = True,
) -> Loaded:
    """Map a state dict onto the parameters of `groups`; nothing is changed.

    Entries keep the type that they were saved in where it is at least as wide as the slot's own (`state_dtype`, else
    the parameter's), and are widened to that otherwise. An explicit `state_dtype` is taken in any case.

    Args:
        state_dict: of `torch.optim.Optimizer.state_dict`'s form.
        groups, rules: the optimizer's.
        usual: the rule of groups without one of their own.
        state_dtype: the optimizer's option.
        strict: raise where anything does not match; else leave it out. Then groups that were saved with other
            parameters keep the optimizer's numbers.

    Raises:
        TypeError: for what is no state dict.
        ValueError: for a later format; without names, for groups of another number or size (torch's messages); and, if
            strict, for whatever else does not match; for groups that were stepped by other rules.
    """
    _check_form(state_dict)
    saved_groups = deepcopy(state_dict["param_groups"])
    _check_format(saved_groups)
    matching = match(groups, saved_groups)
    loaded = Loaded({}, matching.groups, Mismatch(matching.missing, matching.unexpected, []))
    rule_of = {param: rule for rule, group in zip(rules, groups, strict=True) for param in group["params"]}
    state: defaultdict[Any, Any] = defaultdict(dict)
    for key, entry in state_dict["state"].items():
        if key not in matching.params:
            if isinstance(entry, Mapping) and key not in matching.left_out:
                loaded.mismatch.unexpected.append(f"the state under {key!r}, which no group lists")
            elif key not in matching.left_out:
                state[key] = entry
            continue
        param, name = matching.params[key]
        damaged = _damaged(entry, param, rule_of[param])
        if damaged is not None:
            loaded.mismatch.reshaped.append(f"{name} ({damaged})")
            continue
        strangers = _of_another_rule(entry, rule_of[param])
        if strangers:
            entry = {k: value for k, value in entry.items() if k not in strangers}
            loaded.mismatch.unexpected.append(f"{', '.join(sorted(strangers))} of {name}")
        state[param] = _owned(entry, param, rule_of[param], state_dtype, loaded.widened, name)
    loaded.state = state
    if strict:
        _refuse(matching, loaded.mismatch)
    _check_rules(matching.groups, rules, usual)
    _settle_numbers(matching.groups, rules, strict)
    steps = clock(saved_groups, state)
    for own, group in zip(groups, loaded.groups, strict=True):
        if steps is not None:
            group["applied_steps"] = steps
        group.pop("clip_agc", None)  # an option, as the constructor has it
        group.update({key: value for key, value in own.items() if key == "clip_agc"})
    return loaded


def note_widening(widened: Sequence[str]) -> None:
    """Warn that state was saved with fewer digits than it goes on with."""
    if widened:
        warn(
            f"the loaded state was saved in a narrower type than the parameters', and is widened: {_listed(widened)}; "
            "what was lost in saving stays lost. state_dtype says in which type state is kept"
        )


def note_lacking(groups: Groups, state: Mapping[Any, Any], formula_of: Callable[[int, int], Formula]) -> None:
    """Warn that a rule keeps more than was loaded, which begins anew: another rule's state, or a new option."""
    lacking: dict[str, int] = {}
    for index, group in enumerate(groups):
        formulas: dict[int, Formula] = {}
        for param in group["params"]:
            if param in state:
                formula = formulas.setdefault(param.ndim, formula_of(index, param.ndim))
                for name, slot in formula.slots.items():
                    if not slot.is_shared and name not in formula.asks_fresh and slot.key not in state[param]:
                        lacking[slot.key] = lacking.get(slot.key, 0) + 1
    if lacking:
        each = ", ".join(f"{key!r} of {count} parameters" for key, count in lacking.items())
        warn(f"the loaded state lacks {each}; the next step makes them anew")


def clock(groups: Groups, state: Mapping[Any, Any]) -> int | None:
    """How many steps a loaded state has behind it: the saved clock, or the largest step count if that is larger.

    It is larger where torch has stepped on from a state of ours. None where the state tells neither.
    """
    counts = [int(entry["step"]) for entry in state.values() if isinstance(entry, Mapping) and "step" in entry]
    saved = [int(group["applied_steps"]) for group in groups if "applied_steps" in group]
    return max(saved + counts, default=None)


def complete(
    groups: Groups,
    previous: Groups,
    rules: Sequence[Rule],
    defaults: Mapping[str, Any],
    constants: Mapping[str, Any],
    state: Mapping[Any, Any],
) -> None:
    """Fill in what an older or foreign state dict lacks, and put scalars where the group keeps them.

    Args:
        groups: the param groups that were loaded.
        previous: those before, in the same order, whose values stand in for what is lacking.
        rules: what steps the groups.
        defaults: the flags of a group that says nothing.
        constants: what torch's class of the name keeps in its groups.
        state: the state that was loaded.
    """
    for i, (rule, group) in enumerate(zip(rules, groups, strict=True)):
        own = {*defaults, *rule.hyper_parameters, *(s.key for s in rule.slots.values() if s.is_shared)}
        for name, value in {**defaults, **(previous[i] if previous else {})}.items():
            if name in own:  # what a scheduler of torch left there goes, as in torch
                group.setdefault(name, value)
        group.update(constants, state_format=FORMAT)
        for param in group["params"]:
            device = param.device if group["capturable"] else torch.device("cpu")
            _keep_scalars_in_tensors(rule, state.get(param, {}), device)


def _keep_scalars_in_tensors(rule: Rule, entry: dict[str, Any], device: torch.device) -> None:
    """Put step counts and scalar slots into tensors on a device; old versions of torch saved them as numbers."""
    for key in ["step", *(slot.key for slot in rule.slots.values() if slot.shape == "scalar")]:
        if key in entry and not isinstance(entry[key], Tensor):
            exact = key == "step" and entry[key] >= EXACT_IN_FLOAT32
            entry[key] = torch.tensor(float(entry[key]), dtype=torch.float64 if exact else scalar_dtype())
        if key in entry:
            entry[key] = entry[key].to(device)


def _check_form(state_dict: Any) -> None:
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            f"an optimizer's state dict is a dict, and this is a {type(state_dict).__name__}; pass what "
            "optimizer.state_dict() returned, as torch.load reads it from a file"
        )
    parts = {"state": (Mapping, "a dict"), "param_groups": ((list, tuple), "a list")}
    for part, (kind, described) in parts.items():
        if not isinstance(state_dict.get(part), kind):  # type: ignore[arg-type]
            within = [key for key, x in state_dict.items() if isinstance(x, Mapping) and parts.keys() <= x.keys()]
            hint = f"; state_dict[{within[0]!r}] looks like one" if within else ""
            found = f"{part!r} is a {type(state_dict[part]).__name__}" if part in state_dict else "this has none"
            raise TypeError(f"an optimizer's state dict has {described} under {part!r}, and {found}{hint}")
    for index, group in enumerate(state_dict["param_groups"]):
        if not isinstance(group, Mapping) or not isinstance(group.get("params"), (list, tuple)):
            raise TypeError(f"param group {index} of the state dict is to be a dict with a list under 'params'")
        clock = group.get("applied_steps", 0)
        if type(clock) is not int or clock < 0:
            raise ValueError(f"param group {index} has applied_steps={clock!r}, which is to be a number of steps")


def _check_format(saved_groups: Groups) -> None:
    found = max((int(group.get("state_format", 0)) for group in saved_groups), default=0)
    if found > FORMAT:
        raise ValueError(
            f"loaded state dict has format {found}, and this version of descend reads formats up to {FORMAT}; "
            "load it with the version that saved it, or a later one"
        )


def _damaged(entry: Any, param: Tensor, rule: Rule) -> str | None:
    """What a step could not be written into, or read from: the first such value of a parameter's state."""
    if not isinstance(entry, Mapping):
        return f"{entry!r} and no dict"
    for key in [AVERAGE_SLOT.key, *(slot.key for slot in rule.slots.values() if slot.shape == "like")]:
        value = entry.get(key)
        if isinstance(value, Tensor) and value.shape != param.shape:
            return f"{key!r} of shape {tuple(value.shape)} for a parameter of shape {tuple(param.shape)}"
        if isinstance(value, Tensor) and not (value.is_floating_point() or value.is_complex()):
            return f"{key!r} of type {value.dtype}"
    for key in _single_values(rule) & entry.keys():
        if not (isinstance(entry[key], (int, float)) or (isinstance(entry[key], Tensor) and entry[key].numel() == 1)):
            return f"{key!r}, which is no single number"
    return None


def _single_values(rule: Rule) -> set[str]:
    """The state keys that hold one number per parameter."""
    return {"step", *(slot.key for slot in rule.slots.values() if slot.shape != "like")}


def _of_another_rule(entry: Any, rule: Rule) -> set[str]:
    """The keys under which rules of the library keep state and this one does not; what nobody keeps is the user's."""
    own = {AVERAGE_SLOT.key, *(slot.key for slot in rule.slots.values())}
    return (set(entry) & _kept_by_rules()) - own if isinstance(entry, Mapping) else set()


@cache
def _kept_by_rules() -> frozenset[str]:
    return frozenset(slot.key for rule in catalog().values() for slot in rule.slots.values())


def _owned(
    entry: Any, param: Tensor, rule: Rule, state_dtype: torch.dtype | None, widened: list[str], name: str
) -> Any:
    """A parameter's entry, copied; the names of what becomes wider are added to `widened`."""
    if not isinstance(entry, Mapping):
        return entry
    single, owned = _single_values(rule), dict[str, Any]()
    own_types = {slot.key: getattr(torch, slot.dtype) for slot in rule.slots.values() if slot.dtype}
    for key, value in entry.items():
        if value is None:  # torch's SGD once saved that it keeps no momentum
            continue
        if not isinstance(value, Tensor):
            owned[key] = deepcopy(value)
        elif key in single:
            owned[key] = value.detach().clone()
        else:
            dtype = _kept_type(value, own_types.get(key, param.dtype), None if key in own_types else state_dtype)
            if state_dtype is None and dtype.itemsize > value.dtype.itemsize:
                widened.append(f"{key} of {name}")
            dense = value.to_dense() if value.is_sparse else value  # torch's SGD keeps a sparse momentum
            owned[key] = dense.detach().to(device=param.device, dtype=dtype, copy=True)
    return owned


def _kept_type(value: Tensor, usual: torch.dtype, asked: torch.dtype | None) -> torch.dtype:
    """The type that a saved value is kept in: the one asked for, else the wider of its own and the usual one."""
    if not (value.is_floating_point() or value.is_complex()) or not (usual.is_floating_point or usual.is_complex):
        return value.dtype
    if asked is not None:
        return asked.to_complex() if value.is_complex() else asked
    usual = usual.to_complex() if value.is_complex() else usual.to_real()
    return usual if usual.itemsize > value.dtype.itemsize else value.dtype


def _refuse(matching: Matching, mismatch: Mismatch) -> None:
    """Raise for everything at once that does not match."""
    said = [
        f"{what}: {_listed(names)}"
        for what, names in [
            ("missing, as the optimizer has them and the state does not", mismatch.missing),
            ("unexpected, as the state has them and the optimizer or its rule does not", mismatch.unexpected),
            ("whose state is of another shape or none, perhaps as they stand in another order", mismatch.reshaped),
        ]
        if names
    ]
    if matching.regrouped and not (mismatch.missing or mismatch.unexpected):
        raise ValueError(
            f"loaded state dict does not fit the optimizer: its groups hold other parameters than param groups "
            f"{_listed(map(str, matching.regrouped))}. Build the optimizer as it was saved, or call "
            "load_state_dict(state_dict, strict=False), which takes the state by name and keeps these groups' numbers"
        )
    if said:
        raise ValueError(
            f"loaded state dict does not fit the optimizer. Parameters {'; '.join(said)}. Build the optimizer as it "
            "was saved, or call load_state_dict(state_dict, strict=False), which loads what fits and returns the rest"
        )


def _check_rules(groups: Groups, rules: Sequence[Rule], usual: Rule) -> None:
    for i, (rule, group) in enumerate(zip(rules, groups, strict=True)):
        expected = rule.name if rule is not usual else None
        if group.get("rule") != expected:
            raise ValueError(
                f"loaded state dict steps param group {i} by rule {group.get('rule') or 'of the class'!r}, and the "
                f"optimizer by {expected or usual.name!r}; build it with the rules it was saved with"
            )


def _settle_numbers(groups: Groups, rules: Sequence[Rule], strict: bool) -> None:
    """Raise for groups whose hyper-parameters are those of another rule, which may keep state under the same keys.

    If not strict, those that the rule does not have are left out.
    """
    every = {name for rule in catalog().values() for name in rule.hyper_parameters} - {"decoupled_weight_decay"}
    for index, (group, rule) in enumerate(zip(groups, rules, strict=True)):
        own = rule.hyper_parameters.keys()
        more = sorted((every & group.keys()) - own)
        less = sorted(own - group.keys()) if "state_format" in group else []  # torch's older versions lack some
        if strict and (more or less):
            said = [f"it has {', '.join(more)}"] * bool(more) + [f"it lacks {', '.join(less)}"] * bool(less)
            raise ValueError(
                f"param group {index} of the loaded state dict was saved by another rule than {rule.name}: "
                f"{' and '.join(said)}. descend.checkpoint.convert says whether two rules are one; strict=False loads "
                "what fits"
            )
        for name in more:
            del group[name]


def _listed(names: Iterable[str], most: int = 8) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
