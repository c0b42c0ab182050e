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
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from descend.backends.eager import EXACT_IN_FLOAT32, scalar_dtype
from descend.caution import warn
from descend.options import AVERAGE_SLOT
from descend.rule import Formula, Rule
from descend.state import FORMAT

Groups = list[dict[str, Any]]


class Mismatch(NamedTuple):
    """What did not match when a state dict was loaded.

    Attributes:
        missing: names of the optimizer's parameters that the state dict does not know.
        unexpected: names in the state dict that the optimizer does not have.
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
    state_dtype: torch.dtype | None = None,
    strict: bool = True,
) -> Loaded:
    """Map a state dict onto the parameters of `groups`; nothing is changed.

    Entries keep the type that they were saved in where it is at least as wide as the slot's own (`state_dtype`, else
    the parameter's), and are widened to that otherwise. An explicit `state_dtype` is taken in any case.

    Args:
        state_dict: of `torch.optim.Optimizer.state_dict`'s form.
        groups, rules: the optimizer's.
        state_dtype: the optimizer's option.
        strict: raise where anything does not match; else leave it out. Then groups that were saved with other
            parameters keep the optimizer's numbers.

    Raises:
        TypeError: for what is no state dict.
        ValueError: for a later format; without names, for groups of another number or size (torch's messages); and, if
            strict, for whatever else does not match.
    """
    _check_form(state_dict)
    saved_groups = deepcopy(state_dict["param_groups"])
    _check_format(saved_groups)
    if _are_named(groups) and _are_named(saved_groups):
        matching = _by_name(groups, saved_groups)
    else:
        matching = _by_place(groups, saved_groups)
    loaded = Loaded({}, matching.groups, Mismatch(matching.missing, matching.unexpected, []))
    rule_of = {param: rule for rule, group in zip(rules, groups, strict=True) for param in group["params"]}
    state: defaultdict[Any, Any] = defaultdict(dict)
    foreign: dict[str, list[str]] = {}
    for key, entry in state_dict["state"].items():
        if key not in matching.params:
            if key not in matching.left_out:
                state[key] = entry
            continue
        param, name = matching.params[key]
        reshaped = _reshaped(entry, param, rule_of[param])
        if reshaped is not None:
            loaded.mismatch.reshaped.append(f"{name} ({reshaped})")
            continue
        for unknown in _of_another_rule(entry, param, rule_of[param]):
            foreign.setdefault(unknown, []).append(name)
        state[param] = _owned(entry, param, rule_of[param], state_dtype, loaded.widened, name)
    loaded.state = state
    if strict:
        _refuse(matching, loaded.mismatch, foreign)
    steps = clock(saved_groups, state)
    for group in loaded.groups:
        if steps is not None:
            group["applied_steps"] = steps
    return loaded


def check_rules(groups: Groups, rules: Sequence[Rule], usual: Rule) -> None:
    """Refuse loaded param groups that were stepped by other rules.

    Raises:
        ValueError: naming the group and both rules; a group without a rule of its own has the `usual` one.
    """
    for i, (rule, group) in enumerate(zip(rules, groups, strict=True)):
        expected = rule.name if rule is not usual else None
        if group.get("rule") != expected:
            raise ValueError(
                f"loaded state dict steps param group {i} by rule {group.get('rule') or 'of the class'!r}, and the "
                f"optimizer by {expected or usual.name!r}; build it with the rules it was saved with"
            )


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
                    if slot.shape != "optimizer" and name not in formula.asks_fresh and slot.key not in state[param]:
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
        own = {*defaults, *rule.hyper_parameters, *(s.key for s in rule.slots.values() if s.shape == "optimizer")}
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


@dataclass
class _Matching:
    """Which saved parameter is which of the optimizer's.

    Attributes:
        groups: the optimizer's param groups as they will be.
        params: by the saved key, the parameter and its name in messages.
        left_out: the saved keys that no parameter takes.
        regrouped: indices of groups that were saved with other parameters.
    """

    groups: Groups
    params: dict[Any, tuple[Tensor, str]]
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    left_out: set[Any] = field(default_factory=set)
    regrouped: list[int] = field(default_factory=list)


def _check_form(state_dict: Any) -> None:
    is_mapping = isinstance(state_dict, Mapping)
    if not is_mapping or not (
        isinstance(state_dict.get("state"), Mapping) and isinstance(state_dict.get("param_groups"), (list, tuple))
    ):
        found = sorted(map(str, state_dict)) if is_mapping else type(state_dict).__name__
        raise TypeError(
            "an optimizer's state dict has a dict under 'state' and a list under 'param_groups'; this is "
            f"{found}: pass what optimizer.state_dict() returned, as torch.load reads it back"
        )


def _check_format(saved_groups: Groups) -> None:
    found = max((int(group.get("state_format", 0)) for group in saved_groups), default=0)
    if found > FORMAT:
        raise ValueError(
            f"loaded state dict has format {found}, and this version of descend reads formats up to {FORMAT}; "
            "load it with the version that saved it, or a later one"
        )


def _are_named(groups: Groups) -> bool:
    """Whether every parameter has a name, and no two the same."""
    if not all(len(group.get("param_names") or ()) == len(group["params"]) for group in groups):
        return False
    names = [_plain(name) for group in groups for name in group["param_names"]]
    return len(names) == len(set(names))


def _plain(name: str) -> str:
    """A parameter's name without what wrappers put before it: DistributedDataParallel's, and torch.compile's."""
    return ".".join(part for part in name.removeprefix("module.").split(".") if part != "_orig_mod")


def _by_place(groups: Groups, saved_groups: Groups) -> _Matching:
    if len(groups) != len(saved_groups):
        raise ValueError(
            "loaded state dict has a different number of parameter groups: "
            f"{len(saved_groups)}, and the optimizer has {len(groups)}; build it with the groups it was saved with"
        )
    for index, (group, saved) in enumerate(zip(groups, saved_groups, strict=True)):
        if len(group["params"]) != len(saved["params"]):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of optimizer's group: "
                f"group {index} was saved with {len(saved['params'])} parameters and has {len(group['params'])}"
            )
    keys = chain.from_iterable(saved["params"] for saved in saved_groups)
    params = chain.from_iterable(group["params"] for group in groups)
    matching = _Matching(saved_groups, {key: (param, str(key)) for key, param in zip(keys, params, strict=True)})
    for group, saved in zip(groups, saved_groups, strict=True):
        saved["params"] = group["params"]
        if "param_names" in group:
            saved.setdefault("param_names", group["param_names"])
    return matching


def _by_name(groups: Groups, saved_groups: Groups) -> _Matching:
    keys = {
        _plain(name): key
        for saved in saved_groups
        for name, key in zip(saved["param_names"], saved["params"], strict=True)
    }
    ours = {
        _plain(name): param
        for group in groups
        for name, param in zip(group["param_names"], group["params"], strict=True)
    }
    matching = _Matching(
        [],
        {key: (ours[name], name) for name, key in keys.items() if name in ours},
        [name for name in ours if name not in keys],
        [name for name in keys if name not in ours],
        {key for name, key in keys.items() if name not in ours},
    )
    known = {frozenset(map(_plain, saved["param_names"])): saved for saved in saved_groups}
    for index, group in enumerate(groups):
        counterpart = known.get(frozenset(map(_plain, group["param_names"])))
        if counterpart is None:
            matching.regrouped.append(index)
        own = {"params": group["params"], "param_names": group["param_names"]}
        matching.groups.append({**(group if counterpart is None else counterpart), **own})
    return matching


def _reshaped(entry: Any, param: Tensor, rule: Rule) -> str | None:
    """The first value that should have the parameter's shape and has another."""
    if not isinstance(entry, Mapping):
        return None
    for key in [AVERAGE_SLOT.key, *(slot.key for slot in rule.slots.values() if slot.shape == "like")]:
        value = entry.get(key)
        if isinstance(value, Tensor) and value.shape != param.shape:
            return f"{key!r} of shape {tuple(value.shape)} for a parameter of shape {tuple(param.shape)}"
    return None


def _single_values(rule: Rule) -> set[str]:
    """The state keys that hold one number per parameter."""
    return {"step", *(slot.key for slot in rule.slots.values() if slot.shape != "like")}


def _of_another_rule(entry: Any, param: Tensor, rule: Rule) -> Iterable[str]:
    """The keys of tensors of the parameter's shape that its rule does not keep."""
    if not isinstance(entry, Mapping):
        return []
    known = {"step", AVERAGE_SLOT.key, *(slot.key for slot in rule.slots.values())}
    return [
        key
        for key, value in entry.items()
        if isinstance(value, Tensor) and key not in known and value.shape == param.shape
    ]


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
            owned[key] = value.detach().to(device=param.device, dtype=dtype, copy=True)
    return owned


def _kept_type(value: Tensor, usual: torch.dtype, asked: torch.dtype | None) -> torch.dtype:
    """The type that a saved value is kept in: the one asked for, else the wider of its own and the usual one."""
    if not (value.is_floating_point() or value.is_complex()) or not (usual.is_floating_point or usual.is_complex):
        return value.dtype
    if asked is not None:
        return asked.to_complex() if value.is_complex() else asked
    usual = usual.to_complex() if value.is_complex() else usual.to_real()
    return usual if usual.itemsize > value.dtype.itemsize else value.dtype


def _refuse(matching: _Matching, mismatch: Mismatch, foreign: Mapping[str, list[str]]) -> None:
    """Raise for everything at once that does not match."""
    said = [
        f"{what}: {_listed(names)}"
        for what, names in [
            ("missing, as the optimizer has them and the state does not", mismatch.missing),
            ("unexpected, as the state has them and the optimizer does not", mismatch.unexpected),
            ("of another shape, perhaps since the parameters stand in another order", mismatch.reshaped),
            *((f"with {key!r}, which their rule does not keep", names) for key, names in foreign.items()),
        ]
        if names
    ]
    if matching.regrouped and not (mismatch.missing or mismatch.unexpected):
        said.append(f"groups saved with other parameters: {_listed(map(str, matching.regrouped))}")
    if said:
        raise ValueError(
            "loaded state dict does not fit the optimizer. Parameters "
            + "; ".join(said)
            + ". Build the optimizer as it "
            "was saved, or call load_state_dict(state_dict, strict=False), which loads what fits and returns the rest"
        )


def _listed(names: Iterable[str], most: int = 8) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
