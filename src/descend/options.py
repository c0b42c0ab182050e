"""An optimizer's own options: what they may be, and the formula that they make of a rule's.

The options are no code around a step but a rewrite of its formula, so that every backend has them:

    g  becomes  clip(g / gradient_scale, -clip_value, clip_value) * clip_coefficient, and clip_units of that
    and the average of the weights is one more slot: ema(average, new p, ema_decay)

with only those parts that are in force. The names stand for hyper-parameters whose values `Options.numbers` gives.
`maximize` negates what comes out. Slots shaped like the parameter take the type `state_dtype`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from numbers import Real
from typing import Any, Final

import torch
from torch import Tensor

from descend.expr import Expr, g, leaf, p, rebuild
from descend.rule import Formula, Rule, Slot
from descend.vocabulary import clip, clip_units, ema

BACKENDS: Final = ("auto", "eager", "cpp")
AVERAGE: Final = "weights_average"
"""The name of the slot that holds the average of the weights."""
AVERAGE_SLOT: Final = Slot("ema", init="p")
_STATE_DTYPES: Final = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Options:
    """Our own keyword-only options of every class, which hold for all of an optimizer's param groups.

    Args:
        backend: "auto" steps in a fused kernel what can be and the rest eagerly, "cpp" demands kernels and raises where
            there can be none, "eager" takes none.
        state_dtype: the storage type of state shaped like the parameter where the rule names none; None is the
            parameter's. Arithmetic stays in the type that the parameter asks for.
        stochastic_rounding: round at random what is stored in bfloat16, up or down with the probability that leaves
            its mean unchanged.
        clip_norm: scale the gradients of all parameters down to this Euclidean norm where theirs is larger, as
            torch.nn.utils.clip_grad_norm_ does, without writing to them.
        clip_value: hold each element of the gradients between -clip_value and clip_value, before clip_norm.
        clip_agc: adaptive gradient clipping, after clip_norm: scale the gradient of each unit (a row of a matrix, a
            filter, a whole vector) down to this share of the norm of the unit's weights, that taken as 1e-3 at least
            (Brock et al. 2021, arXiv:2102.06171, equation 3; 0.01 there). A param group with `clip_agc=None` is left
            out, as the paper does with the last layer. Rows are those of the first dimension, as torch's layers have
            their outputs there.
        ema_decay: keep an exponential moving average of the weights with this decay per step.
        seed: chooses the random numbers of stochastic rounding, and of rules that draw some.

    Raises:
        TypeError: for what is no number, bool, int or dtype where one is expected.
        ValueError: for a value outside its limits.
    """

    backend: str = "auto"
    state_dtype: torch.dtype | None = None
    stochastic_rounding: bool = False
    clip_norm: float | None = None
    clip_value: float | None = None
    clip_agc: float | None = None
    ema_decay: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, not {self.backend!r}")
        if self.state_dtype is not None and self.state_dtype not in _STATE_DTYPES:
            names = ", ".join(map(str, _STATE_DTYPES))
            raise ValueError(
                f"state_dtype must be one of {names}, or None for the parameter's, not {self.state_dtype!r}"
            )
        if not isinstance(self.stochastic_rounding, bool):
            raise TypeError(f"stochastic_rounding takes True or False, not {self.stochastic_rounding!r}")
        for name in ("clip_norm", "clip_value", "clip_agc"):
            self._check_number(name)
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(
                    f"{name} must be above 0, not {getattr(self, name)!r}; None leaves gradients as they are"
                )
        self._check_number("ema_decay")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), not {self.ema_decay!r}; None keeps no average")
        seed: object = self.seed
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise TypeError(f"seed takes an int, not {seed!r}")
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed must lie in [0, 2**64), not {seed!r}")

    def _check_number(self, name: str) -> None:
        value = getattr(self, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, Real)):
            raise TypeError(f"{name} takes a plain number or None, no schedule or tensor, not {value!r}")

    def __str__(self) -> str:
        """The options in force beside the backend, as they are written in the constructor."""
        given = [(field.name, getattr(self, field.name), field.default) for field in fields(self)[1:]]
        return ", ".join(f"{name}={value!r}" for name, value, default in given if value != default)

    def check_rule(self, rule: Rule, *, differentiable: bool, capturable: bool) -> None:
        """Refuse a rule, or a group of it, that the options cannot go with.

        Raises:
            ValueError: for a slot under the name or the key of the average of the weights.
            RuntimeError: for random rounding where gradients shall flow through the step, and for a slot that exists
                once per optimizer where they shall, or where nothing may be read from a device.
        """
        shared = [slot.key for slot in rule.slots.values() if slot.is_shared]
        if shared and (differentiable or capturable):
            flag = "differentiable" if differentiable else "capturable"
            remedy = "; gradients flow through rule.update" if differentiable else ""
            raise RuntimeError(
                f"rule {rule.name!r} keeps {shared[0]!r} as a plain number in the param groups, which {flag}=True "
                f"does not go with; leave {flag} unset{remedy}"
            )
        if self.stochastic_rounding and differentiable:
            raise RuntimeError(
                "stochastic_rounding has no gradient, and differentiable=True asks for one; leave one of them unset"
            )
        if self.ema_decay is None:
            return
        for name, slot in rule.slots.items():
            if name == AVERAGE or slot.key == AVERAGE_SLOT.key:
                raise ValueError(
                    f"rule {rule.name!r} has a slot {name!r} with key {slot.key!r}, which ema_decay keeps its average "
                    f"of the weights under (slot {AVERAGE!r}, key {AVERAGE_SLOT.key!r}); rename the slot and its key, "
                    "or leave ema_decay unset"
                )

    def numbers(self, gradient_scale: Tensor | float | None, *, keeps_tensors: bool) -> dict[str, Any]:
        """The values of what these options add to a formula, by name.

        Args:
            gradient_scale: the factor that the gradients hold, as torch.amp.GradScaler sets it; None for 1.
            keeps_tensors: leave a scale that is a tensor one, for gradients to flow through or where it is not to be
                read.

        `clip_coefficient` is NaN until it is computed from the gradients.
        """
        if isinstance(gradient_scale, Tensor) and not keeps_tensors:
            gradient_scale = gradient_scale.item()
        given = {
            "gradient_scale": gradient_scale,
            "clip_value": self.clip_value,
            "clip_coefficient": None if self.clip_norm is None else math.nan,
            "clip_agc": self.clip_agc,
            "ema_decay": self.ema_decay,
        }
        return {name: value for name, value in given.items() if value is not None}


def taken_by(group: Mapping[str, Any], names: Collection[str]) -> Collection[str]:
    """What holds for a param group of the names that `Options.numbers` has values for."""
    is_left_out = "clip_agc" in names and group.get("clip_agc", names) is None
    return [name for name in names if name != "clip_agc"] if is_left_out else names


def incoming_gradient(names: Collection[str]) -> Expr:
    """The gradient without its scale and clipped by value, where `names` holds these: what `clip_norm` measures."""
    gradient = g
    if "gradient_scale" in names:
        gradient = gradient * (1 / leaf("hyper", ("gradient_scale", None)))
    if "clip_value" in names:
        limit = leaf("hyper", ("clip_value", None))
        gradient = clip(gradient, -limit, limit)
    return gradient


def extended(formula: Formula, names: Collection[str], state_dtype: torch.dtype | None = None) -> Formula:
    """A rule's formula with the options in it, the same object for the same arguments.

    Args:
        formula: one variant of a rule, not yet settled.
        names: what `Options.numbers` has values for.
        state_dtype: the storage type of slots shaped like the parameter that have none of their own.
    """
    if not names and state_dtype is None:
        return formula
    known = formula.derived
    key = (frozenset(names), state_dtype)
    if key not in known:
        known[key] = _extend(formula, names, state_dtype)
    made: Formula = known[key]
    return made


def _extend(formula: Formula, names: Collection[str], state_dtype: torch.dtype | None) -> Formula:
    gradient = incoming_gradient(names)
    if "clip_coefficient" in names:
        gradient = gradient * leaf("hyper", ("clip_coefficient", None))
    if "clip_agc" in names:
        gradient = clip_units(gradient, p, leaf("hyper", ("clip_agc", None)))
    made = formula.rewritten(lambda node, args: gradient if node is g else rebuild(node, args))
    slots = dict(made.slots)
    outputs = dict(made.outputs)
    if "ema_decay" in names:
        slots[AVERAGE] = AVERAGE_SLOT
        average = leaf("slot", (AVERAGE, AVERAGE_SLOT.shape))
        outputs[AVERAGE] = ema(average, outputs["p"], leaf("hyper", ("ema_decay", None)))
    if state_dtype is not None:
        dtype = str(state_dtype).removeprefix("torch.")
        slots = {name: replace(s, dtype=dtype) if s.shape == "like" and not s.dtype else s for name, s in slots.items()}
    return replace(made, outputs=outputs, own_slots=slots)


def clip_coefficient(
    clip_norm: float, squared_norms: Iterable[Mapping[int, Tensor]], *, reads: bool = True
) -> float | Tensor:
    """The factor that brings gradients down to a norm: min(1, clip_norm / (norm + 1e-6)), as in torch.

    Args:
        clip_norm: the largest norm.
        squared_norms: the float64 sums of squares of tensors by ordinal, of each bucket; they are added up in the order
            of the ordinals, whatever the buckets.
        reads: whether the number may be read from its device.

    Returns:
        A number, or a tensor where gradients flow through the norms and where it is not to be read.
    """
    by_ordinal = {ordinal: square for squares in squared_norms for ordinal, square in squares.items()}
    if not by_ordinal:
        return 1.0
    squares = [by_ordinal[ordinal] for ordinal in sorted(by_ordinal)]
    total = torch.stack([square.to(squares[0].device) for square in squares]).sum()
    if not reads or (total.requires_grad and total.item() > 0):  # the root of 0 has no gradient
        return (clip_norm / (total.sqrt() + 1e-6)).clamp(max=1.0)
    return float((clip_norm / (total.detach().sqrt() + 1e-6)).clamp(max=1.0))


@contextmanager
def averaged(
    params: Collection[Tensor], state: MutableMapping[Tensor, Any], key: str = AVERAGE_SLOT.key
) -> Iterator[None]:
    """Put the averages of parameters in their place and, at the end, back what was there, bit for bit."""
    averages = {param: state[param][key] for param in params if param in state and key in state[param]}
    with torch.no_grad():
        weights = {param: param.clone() for param in averages}
    try:
        with torch.no_grad():
            for param, average in averages.items():
                param.copy_(average)
        yield
    finally:
        with torch.no_grad():
            for param, before in weights.items():
                param.copy_(before)
