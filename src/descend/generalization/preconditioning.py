"""What adaptive optimizers divide their steps by, read from their state, and up to which curvature steps are stable.

Cohen et al. 2022, arXiv:2207.14484: Adam trains at the edge of the stability of P^-1 H, with P the diagonal
sqrt(v_hat) + eps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

State: TypeAlias = Mapping[str, Any]
Group: TypeAlias = Mapping[str, Any]


def preconditioner(optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor]) -> Tensor:
    """Return the diagonal P by which an optimizer divides: its step is the rate times its momentum over P.

    Of Adam, AdamW, AMSGrad, NAdam, RAdam, Adamax, RMSprop and Adagrad, torch's or this package's, as each formula has
    it, with its bias corrections; a weight whose gradient has always been 0 has P = eps.

    Args:
        optimizer: after one step or more.
        parameters: in the order of the flat vector: `objective.parameters.values()`.

    Returns:
        a flat vector of float64.

    Raises:
        ValueError: the optimizer has no such P, has not stepped a parameter, or does not hold it.
    """
    groups = {
        id(one): (name, group)
        for name, group in zip(rule_names(optimizer), optimizer.param_groups, strict=True)
        for one in group["params"]
    }
    parts = []
    for place, parameter in enumerate(parameters):
        if id(parameter) not in groups:
            raise ValueError(f"parameter {place} is not the optimizer's; build it from the same model's parameters")
        name, group = groups[id(parameter)]
        if name not in DENOMINATORS:
            raise ValueError(
                f"{name} divides its steps by nothing that is known here; there is a preconditioner for "
                f"{', '.join(DENOMINATORS)}"
            )
        state = optimizer.state.get(parameter)
        if not state or float(state.get("step", 1)) == 0:  # torch's Adagrad has a state before its first step
            raise ValueError(
                f"the optimizer has not stepped parameter {place} yet; take a step first, or leave out parameters "
                "without a gradient"
            )
        parts.append(DENOMINATORS[name](_Wide(state), group).flatten().cpu())
    if not parts:
        raise ValueError("parameters has none; give the model's, in the order of the flat vector")
    return torch.cat(parts)


def stability_threshold(optimizer: torch.optim.Optimizer) -> float:
    """Return the largest eigenvalue at which steps on a quadratic do not grow: of H, or of P^-1 H where there is a P.

    (2 + 2 beta) / rate with heavy-ball momentum beta, 1 / (1 - beta) times that where momentum is a moving average, and
    (2 + 2 beta) / (1 + 2 beta) / rate with Nesterov's: Cohen et al. 2021, arXiv:2103.00065, appendix B; 2022.

    Raises:
        ValueError: the rule is none of these, or groups have different rates or momenta.
    """
    found = set(map(_threshold, rule_names(optimizer), optimizer.param_groups))
    if len(found) != 1:
        raise ValueError(
            "the groups have different rates or momenta, and no one threshold; measure each group's weights"
        )
    return found.pop()


def rule_names(optimizer: torch.optim.Optimizer) -> list[str]:
    """Return the name of the rule that steps each group."""
    rules = getattr(optimizer, "rules", None)  # of this package's optimizers
    if rules is not None:
        return [str(rule.name) for rule in rules]
    return [type(optimizer).__name__.lower()] * len(optimizer.param_groups)


class _Wide:
    """The state of a parameter, its tensors in float64."""

    def __init__(self, state: State) -> None:
        self._state = state

    def __getitem__(self, key: str) -> Tensor:
        if key not in self._state:
            raise ValueError(f"the optimizer's state has no {key!r} yet; take a step first")
        value = self._state[key]
        return value.detach().double() if isinstance(value, Tensor) else torch.tensor(float(value)).double()


def _root(second: Tensor, group: Group) -> Tensor:
    return second.sqrt() + float(group["eps"])


def _adam(state: _Wide, group: Group) -> Tensor:
    second = state["max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq"]
    return _root(second / (1 - group["betas"][1] ** state["step"]), group)


def _amsgrad(state: _Wide, group: Group) -> Tensor:
    return _root(state["max_exp_avg_sq"], group)


def _radam(state: _Wide, group: Group) -> Tensor:
    """Divided by the rectifier; ones before that is taken."""
    beta2, step = group["betas"][1], float(state["step"])
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * step * beta2**step / (1 - beta2**step)
    second = state["exp_avg_sq"]
    if length <= 5:
        return torch.ones_like(second)
    shares = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    return _root(second, group) / math.sqrt((1 - beta2**step) * shares)


def _adamax(state: _Wide, group: Group) -> Tensor:
    return state["exp_inf"]


def _rmsprop(state: _Wide, group: Group) -> Tensor:
    variance = state["square_avg"]
    if group.get("centered"):
        variance = variance - state["grad_avg"] ** 2
    return _root(variance, group)


def _adagrad(state: _Wide, group: Group) -> Tensor:
    return _root(state["sum"], group)


DENOMINATORS: dict[str, Callable[[_Wide, Group], Tensor]] = {
    "adam": _adam,
    "adamw": _adam,
    "adamwpaper": _adam,
    "amsgrad": _amsgrad,
    "nadam": _adam,
    "radam": _radam,
    "adamax": _adamax,
    "rmsprop": _rmsprop,
    "adagrad": _adagrad,
}


def _threshold(name: str, group: Group) -> float:
    rate = float(group["lr"])
    if not rate:
        return math.inf
    if name in ("sgd", "sgdw", "rmsprop"):
        beta = float(group.get("momentum", 0.0))
        if group.get("nesterov"):
            return (2 + 2 * beta) / (1 + 2 * beta) / rate
        return (2 + 2 * beta) / (1 - float(group.get("dampening", 0.0))) / rate
    if name in ("adam", "adamw", "amsgrad", "radam", "adamax"):
        beta = float(group["betas"][0])
        return (2 + 2 * beta) / (1 - beta) / rate
    raise ValueError(f"no threshold of stability is known for {name}; there is one for SGD, RMSprop and Adam's kin")
