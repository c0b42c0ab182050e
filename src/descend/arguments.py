"""What every optimizer's constructor takes beside hyper-parameters, and what it says when that is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from numbers import Integral
from typing import Any, Final

from torch import Tensor

from descend.hyper_parameters import is_scheduled
from descend.options import Options

FLAGS: Final[dict[str, Any]] = {
    "maximize": False,
    "foreach": None,
    "capturable": False,
    "differentiable": False,
    "fused": None,
}
"""Torch's flags, which every class takes and every param group holds."""

OPTIONS: Final[dict[str, Any]] = {**{field.name: field.default for field in fields(Options)}, "step": 0}
"""Our own keyword-only options of every class."""

REMEDIES: Final = {
    "params argument given to the optimizer": "write [tensor] for a single parameter",
    "optimizer got an empty parameter list": "the model has no parameters left, or an iterator was used up before",
    "can't optimize a non-leaf Tensor": "pass the parameter itself, not the result of an operation on it",
    "some parameters appear in more than one": "name each parameter in one group only",
    "optimizer can only optimize Tensors": "pass model.parameters(), a list of tensors, or dicts with a 'params' list",
    "optimizer parameters need to be organized": "sets have no order to save state by",
    "lr as a Tensor is not supported": "set capturable=True, or leave foreach unset",
    "betas[": "set capturable=True, or leave foreach unset",
    "Adjust learning rate function": 'adjust_lr_fn takes "original", "match_rms_adamw" or None',
    "betas must be either both": "give two numbers or two tensors",
}


def is_count(step: object) -> bool:
    """Whether `step` is a number of steps: an integer from 0."""
    return type(step) is not bool and isinstance(step, Integral) and int(step) >= 0


def listed(params: Any) -> Any:
    """Parameters as a list, since iterators are used up; a single tensor stays one, which torch refuses.

    Raises:
        TypeError: for what cannot be iterated over.
    """
    if isinstance(params, Tensor):
        return params
    if isinstance(params, Mapping):
        raise TypeError(
            "params argument given to the optimizer should be an iterable of Tensors or dicts, not one dict; "
            "write params.items() for named parameters, or [params] for one group"
        )
    if not isinstance(params, Iterable):
        got = type(params).__name__
        raise TypeError(f"params argument given to the optimizer should be an iterable of Tensors or dicts, not {got}")
    return list(params)


def chosen_groups(group: int | None, count: int) -> range:
    """The indices of one param group, or of all.

    Raises:
        IndexError: if there is no such group.
    """
    every = range(count)
    if group is None:
        return every
    if not -count <= group < count:
        raise IndexError(f"group={group!r}: there are {count} param groups, counted from 0")
    return every[group:][:1]


def check_flags(flags: Mapping[str, Any]) -> None:
    """Refuse flags that contradict each other (torch's messages) or ask for what there is not.

    Raises:
        TypeError: for what is no bool (or None, where that is the default).
        RuntimeError: for flags that contradict each other.
    """
    _check_bools(flags)
    if flags["fused"] and flags["differentiable"]:
        raise RuntimeError("`fused` does not support `differentiable`; leave one of them unset")
    if flags["fused"] and flags["foreach"]:
        raise RuntimeError("`fused` and `foreach` cannot be `True` together; leave one of them unset")


def _check_bools(flags: Mapping[str, Any]) -> None:
    for name, value in flags.items():
        if is_scheduled(value):
            raise TypeError(f"{name} is a flag and takes True or False, not a schedule")
        takes_none = FLAGS[name] is None
        if not isinstance(value, bool) and not (takes_none and value is None):
            allowed = "True, False or None" if takes_none else "True or False"
            raise TypeError(f"{name} takes {allowed}, not {value!r}")


def check_group(group: Any) -> None:
    """Refuse a param group without parameters, with an option of the whole optimizer, or with flags that are no bools.

    `clip_agc=None` is let in: it leaves the group out.

    Raises:
        TypeError: naming the option or the flag.
    """
    if not isinstance(group, dict):
        raise TypeError(f"param_group must be a dict, but got {type(group)}; write {{'params': [...]}}")
    if "params" not in group:
        raise TypeError(
            f"a param group needs 'params', a list of parameters; this one has {', '.join(map(repr, group))}"
        )
    _check_bools({name: group[name] for name in FLAGS if name in group})
    for name in OPTIONS:
        if name in group and (name != "clip_agc" or group[name] is not None):
            leave = "; clip_agc=None leaves a group out" if name == "clip_agc" else ""
            raise TypeError(
                f"{name} is an option of the whole optimizer, not of a param group; give it to the class{leave}"
            )


def with_remedy(error: Exception) -> Exception:
    """Torch's complaint, with what to do about it."""
    remedy = next((remedy for start, remedy in REMEDIES.items() if str(error).startswith(start)), None)
    return type(error)(f"{error}; {remedy}") if remedy and remedy not in str(error) else error


def sparse_message(title: str, obstacle: str | None) -> str:
    """What a step says to a sparse gradient that its rule does not take, as torch's class of the name does.

    `obstacle` is the option without which it would.
    """
    remedy = "make them dense with nn.Embedding(sparse=False)"
    if obstacle is not None:
        return f"{obstacle} option is not compatible with sparse gradients; leave it out, or {remedy}"
    if title in ("Adam", "AdamW"):
        return f"Adam does not support sparse gradients, please consider SparseAdam instead; or {remedy}"
    return f"{title} does not support sparse gradients; {remedy}"
