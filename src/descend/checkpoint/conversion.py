"""`convert`: from the state dict of a source in the table to that of a class of ours or of torch's."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from descend import hyper_parameters as hyper
from descend import optim
from descend.arguments import FLAGS
from descend.backends.eager import EXACT_IN_FLOAT32
from descend.backends.storage import scalar_dtype
from descend.caution import warn
from descend.checkpoint.sources import DECOUPLED, DIFFERENT, OURS, SOURCES, TORCH, Source
from descend.options import AVERAGE_SLOT
from descend.rule import Rule

_CLOCK: Final = "applied_steps"
_ONLY_OURS: Final = frozenset({_CLOCK, "state_format", "clip_agc"})  # group keys that no class of torch's has


def convert(
    state_dict: Mapping[str, Any], *, source: str | type[torch.optim.Optimizer], to: str | type[torch.optim.Optimizer]
) -> dict[str, Any]:
    """The state dict of one optimizer class, as another class with the same rule takes it.

    Where the two may have stepped differently and the state does not show it, a warning says so.

    Args:
        state_dict: what an optimizer of `source` saved. It stays as it is; its tensors are shared with the result.
        source: the class that saved it, or its name with its library: "bitsandbytes.AdamW32bit", "timm.Lion",
            "apex.FusedAdam", "torch.AdamW", "descend.AdamW".
        to: the class that shall load it, ours or torch's, or its name: "descend.Lion", "torch.AdamW".

    Returns:
        A state dict for `load_state_dict` of `to`. Every hyper-parameter of the rule stands in its groups, so that the
        formula goes on as it was. For ours, the largest count of steps is the clock.

    Raises:
        ValueError: for a class that the table does not hold; for another rule, saying how it differs; for 8-bit state;
            for a state dict that lacks what `source` saves, or holds what it does not.
        TypeError: for an argument, or a value of a group, of the wrong type.
    """
    theirs, ours = _name(source), _name(to)
    origin = _origin(theirs)
    rule = _target_rule(ours, theirs, origin)
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"state_dict takes what an optimizer's state_dict() returns, not {type(state_dict).__name__}")
    if not {"state", "param_groups"} <= set(state_dict):
        raise ValueError(
            "state_dict takes what an optimizer's state_dict() returns, with 'state' and 'param_groups'; in a "
            f"checkpoint it stands under a key of its own: this one has {', '.join(map(repr, state_dict))}"
        )
    notes: list[str] = []
    state, groups = dict(state_dict["state"]), []
    for index, saved in enumerate(state_dict["param_groups"]):
        where = f"param group {index} of {theirs}"
        group = _translated(saved, origin, notes, where)
        steps = group.pop("step", None if origin.counts_steps else 0)  # apex counts them in the group
        group = _as_rule(group, rule, origin, where)
        for key in group["params"]:
            if state.get(key):
                where = f"the state of parameter {key!r} of {theirs}"
                state[key] = _checked(_renamed(state[key], origin, steps, where), rule, group, where)
        groups.append(group)
    if not origin.counts_steps:
        notes.append("the source keeps no count of steps; counts and the clock of schedules start at 0")
    if ours.startswith("torch."):
        groups = [_torch_group(group, rule, f"param group {i} of {theirs}") for i, group in enumerate(groups)]
        state = {key: _without_average(entry, notes) for key, entry in state.items()}
    else:
        clock = _clock(state_dict)
        groups = [{**group, **clock} for group in groups]
    for note in dict.fromkeys(notes):
        warn(f"converting {theirs} to {ours}: {note}")
    return {**state_dict, "state": state, "param_groups": groups}


def _name(optimizer: str | type[torch.optim.Optimizer]) -> str:
    """A class's name with its library's, without what stands between: torch.optim.AdamW is torch.AdamW."""
    if not isinstance(optimizer, (str, type)):
        raise TypeError(f"source and to take a class or its name such as 'torch.AdamW', not {optimizer!r}")
    full = optimizer if isinstance(optimizer, str) else f"{optimizer.__module__}.{optimizer.__name__}"
    library, _, rest = full.partition(".")
    return f"{library}.{rest.rpartition('.')[2]}" if rest else full


def _origin(theirs: str) -> Source:
    if theirs in SOURCES:
        return SOURCES[theirs]
    if theirs in DIFFERENT:
        raise ValueError(f"the state of {theirs} cannot be converted: {DIFFERENT[theirs]}")
    raise ValueError(f"source {theirs!r} is unknown; {_nearest(theirs, [*SOURCES, *DIFFERENT])}")


def _nearest(name: str, known: Sequence[str]) -> str:
    """A hint at what of `known` was meant: a class of nearly the same name, of the same library where it has one."""
    library, _, title = name.rpartition(".")
    titles = {full: full.partition(".")[2].lower() for full in known}
    close = difflib.get_close_matches(title.lower(), set(titles.values()), n=2)
    near = [full for full in known if titles[full] in close]
    near = [full for full in near if full.startswith(f"{library}.")] or near
    libraries = dict.fromkeys(full.partition(".")[0] for full in known)
    return f"did you mean {' or '.join(near[:4])}?" if near else f"write library.Class, of {', '.join(libraries)}"


def _target_rule(ours: str, theirs: str, origin: Source) -> Rule:
    """Our rule of the class that shall load.

    Raises:
        ValueError: where there is no such class of ours or torch's, or its rule is not the source's.
    """
    library, _, title = ours.partition(".")
    if ours not in OURS and ours not in TORCH:
        known = f"descend.{title}" in OURS and library == "torch"
        hint = f"torch has no {title}" if known else _nearest(ours, [*OURS, *TORCH])
        raise ValueError(f"no state can be written for {ours!r}, only for classes of ours and torch's twins; {hint}")
    rule = optim.classes[title].rule
    if title not in origin.rules:
        own = optim.classes[origin.rules[0]].rule
        raise ValueError(
            f"{theirs} and {ours} have different rules; convert to descend.{own.title}\n    {theirs}: {own.summary}\n"
            f"    {ours}: {rule.summary}"
        )
    return rule


def _translated(saved: Mapping[str, Any], origin: Source, notes: list[str], where: str) -> dict[str, Any]:
    """A group of theirs with our names and the values that its formula has in truth; `notes` takes what to say."""
    if "rule" in saved:
        raise ValueError(f"{where} has the rule {saved['rule']!r} of its own; only one rule can be converted at a time")
    for option, (value, effect) in origin.unlike.items():
        if saved.get(option, value) != value:
            raise ValueError(
                f"{where} has {option}={saved[option]!r}, which {effect}: that is not descend.{origin.rules[0]}; to go "
                f"on without it, from the same averages, set {option!r} to {value} in the state dict's groups first"
            )
    group: dict[str, Any] = {}
    for key, value in saved.items():
        if key in origin.groups:
            group.update(zip(origin.groups[key], value if isinstance(value, (tuple, list)) else [value], strict=False))
        elif key not in origin.unlike:
            group[key] = value
    notes += [note for name, note in origin.notes.items() if group.get(name, 0) != 0]
    return {**group, **origin.fixed}


def _as_rule(group: dict[str, Any], rule: Rule, origin: Source, where: str) -> dict[str, Any]:
    """A translated group with every hyper-parameter of `rule`; those off by default are off where they are missing.

    Raises:
        ValueError: where another hyper-parameter is missing or one outside its limits, or where AdamW would decouple.
    """
    decouples = rule.title != "AdamW" or group.pop(DECOUPLED, origin.rules[0] == "AdamW")
    if not decouples and group.get("weight_decay", 0) != 0:
        raise ValueError(
            f"{where} adds its weight_decay={group['weight_decay']} to the gradient, and AdamW takes it from the "
            "weights; convert to descend.Adam or torch.Adam"
        )
    off = {name: value for name, value in rule.hyper_parameters.items() if value in (0, False)}
    group = {**off, **group}
    missing = [name for name in ("params", *rule.hyper_parameters) if name not in group]
    if missing:
        raise ValueError(f"{where} has no {missing[0]!r}; was the state saved by another class?")
    hyper.check(rule, group)
    return group


def _renamed(entry: Mapping[str, Any], origin: Source, steps: Any, where: str) -> dict[str, Any]:
    """A parameter's state under our keys, with the steps of its group where it has no count of its own.

    Raises:
        ValueError: for state that is quantized to 8 bits.
    """
    flat: dict[str, Any] = {} if steps is None else {"step": steps}
    for key, value in entry.items():
        flat.update(value if isinstance(value, Mapping) else {key: value})  # bitsandbytes nests what it quantizes
    if "absmax1" in flat or any(isinstance(value, Tensor) and value.dtype is torch.uint8 for value in flat.values()):
        raise ValueError(
            f"{where} is quantized to 8 bits; put bitsandbytes.functional.dequantize_blockwise(state1, absmax=absmax1, "
            "code=qmap1, blocksize=256) in the place of state1, the same for state2, and delete absmax and qmap"
        )
    return {origin.state.get(key, key): value for key, value in flat.items() if value is not None}


def _checked(entry: dict[str, Any], rule: Rule, group: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A parameter's state with what the rule keeps: no count of steps where it has none, scalars as tensors.

    Raises:
        ValueError: if it holds what the rule does not keep, or lacks what its next step needs.
    """
    if not rule.counts_steps:
        entry = {key: value for key, value in entry.items() if key != "step"}
    unknown = entry.keys() - {"step", AVERAGE_SLOT.key} - {slot.key for slot in rule.slots.values()}
    if unknown:
        raise ValueError(
            f"{where} holds {min(unknown)!r}, which is not of {rule.title}; was it saved by another class?"
        )
    ndim = max((value.ndim for value in entry.values() if isinstance(value, Tensor)), default=0)
    formula = rule.formula(ndim=ndim, **{name: group[name] for name in rule.hyper_parameters})
    slots = {name: slot for name, slot in formula.slots.items() if not slot.is_shared}
    needed = [slot.key for name, slot in slots.items() if name not in formula.asks_fresh]
    missing = [key for key in (["step"] if rule.counts_steps else []) + needed if key not in entry]
    if missing:
        raise ValueError(f"{where} has no {missing[0]!r}; was it saved by another class, or with other options?")
    scalars = {"step", *(slot.key for slot in rule.slots.values() if slot.shape == "scalar")}
    return {key: _scalar(value) if key in scalars else value for key, value in entry.items()}


def _scalar(value: Any) -> Tensor:
    """A number as torch keeps it: a tensor without dimensions."""
    if isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point():
        return value
    number = float(value)
    return torch.tensor(number, dtype=torch.float64 if number >= EXACT_IN_FLOAT32 else scalar_dtype())


def _clock(state_dict: Mapping[str, Any]) -> dict[str, int]:
    """The largest count of steps in a state dict, as the entry of our groups; nothing where there is none."""
    counts = [group[key] for group in state_dict["param_groups"] for key in (_CLOCK, "step") if key in group]
    counts += [entry["step"] for entry in state_dict["state"].values() if "step" in entry]
    return {_CLOCK: max(map(int, counts))} if counts else {}


def _torch_group(group: Mapping[str, Any], rule: Rule, where: str) -> dict[str, Any]:
    """A group of ours as torch's class has it: without what is only ours, and with all of its own keys.

    Raises:
        ValueError: if the group has a hyper-parameter in force that torch's class lacks.
    """
    torch_class: Any = optim.twin(rule.title)
    defaults = torch_class([torch.zeros(1, 1)]).defaults
    only_ours = {name: off for name, off in {**rule.hyper_parameters, **FLAGS}.items() if name not in defaults}
    for name, off in only_ours.items():
        if name in rule.hyper_parameters and group[name] != off:
            raise ValueError(f"{where} has {name}={group[name]!r}, and torch's {rule.title} has no {name}")
    dropped = _ONLY_OURS | only_ours.keys()
    return {**defaults, **{key: value for key, value in group.items() if key not in dropped}}


def _without_average(entry: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    if AVERAGE_SLOT.key in entry:
        notes.append("torch's class keeps no average of the weights, so it is left out")
    return {key: value for key, value in entry.items() if key != AVERAGE_SLOT.key}
