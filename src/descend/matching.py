"""Which parameter of a saved optimizer is which of ours: by name where both sides have names, else by place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from torch import Tensor

from descend.caution import warn

Groups = list[dict[str, Any]]


@dataclass
class Matching:
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


def match(groups: Groups, saved_groups: Groups) -> Matching:
    """Match parameters by name where every one has a name, and no two the same; else by place, as torch does.

    A warning says so where names are lost by that; torch.distributed.checkpoint, whose dicts have names for keys, has
    put them into the optimizer's order itself.

    Raises:
        ValueError: by place, for groups of another number or size (torch's messages).
    """
    if _are_named(groups) and _are_named(saved_groups):
        return _by_name(groups, saved_groups)
    by_number = all(isinstance(key, int) for saved in saved_groups for key in saved["params"])
    if by_number and any("param_names" in group for group in saved_groups):
        why = "it has two of one name" if all("param_names" in group for group in groups) else "the optimizer has none"
        warn(
            f"the loaded state has names of parameters, and {why}: they are matched by their places; build the "
            "optimizer from model.named_parameters()"
        )
    return _by_place(groups, saved_groups)


def _are_named(groups: Groups) -> bool:
    """Whether every parameter has a name, and no two the same."""
    if not all(len(group.get("param_names") or ()) == len(group["params"]) for group in groups):
        return False
    names = [name for group in groups for name in group["param_names"]]
    return len(names) == len(set(names))


def _names(group: Mapping[str, Any], every: Groups) -> list[str]:
    """A group's names without those of wrappers, unless two parameters would then have the same."""
    plain = [_plain(name) for other in every for name in other["param_names"]]
    names: list[str] = group["param_names"]
    return [_plain(name) for name in names] if len(plain) == len(set(plain)) else names


def _plain(name: str) -> str:
    """A parameter's name without what wrappers put before it: DistributedDataParallel's, and torch.compile's."""
    return ".".join(part for part in name.removeprefix("module.").split(".") if part != "_orig_mod")


def _by_place(groups: Groups, saved_groups: Groups) -> Matching:
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
    matching = Matching(saved_groups, {key: (param, str(key)) for key, param in zip(keys, params, strict=True)})
    for group, saved in zip(groups, saved_groups, strict=True):
        saved["params"] = group["params"]
        if "param_names" in group:
            saved.setdefault("param_names", group["param_names"])
    return matching


def _by_name(groups: Groups, saved_groups: Groups) -> Matching:
    keys = {
        name: key
        for saved in saved_groups
        for name, key in zip(_names(saved, saved_groups), saved["params"], strict=True)
    }
    ours = {name: param for group in groups for name, param in zip(_names(group, groups), group["params"], strict=True)}
    matching = Matching(
        [],
        {key: (ours[name], name) for name, key in keys.items() if name in ours},
        [name for name in ours if name not in keys],
        [name for name in keys if name not in ours],
        {key for name, key in keys.items() if name not in ours},
    )
    known = {frozenset(_names(saved, saved_groups)): saved for saved in saved_groups}
    for index, group in enumerate(groups):
        counterpart = known.get(frozenset(_names(group, groups)))
        if counterpart is not None and counterpart.get("rule") != group.get("rule"):
            counterpart = None
        if counterpart is None:
            matching.regrouped.append(index)
        own = {"params": group["params"], "param_names": group["param_names"]}
        matching.groups.append({**(group if counterpart is None else counterpart), **own})
    return matching
