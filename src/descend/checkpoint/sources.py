"""The table of sources: the class of another library, the rule of ours that it has, and how it writes the state.

Read from torch 2.13, timm 1.0.31, bitsandbytes 0.50.2 (run on a CPU) and the CUDA kernels of bitsandbytes and apex.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from descend import optim


@dataclass(frozen=True)
class Source:
    """How a class writes the state of one of our rules.

    Args:
        rules: the class of ours with its rule, and others that can have it.
        state: its state keys that are called otherwise here, and ours.
        groups: its group keys that are called otherwise, and ours: one for each element of a tuple, none to drop it.
        fixed: hyper-parameters of ours that its formula has fixed, whatever its groups say. Those that its groups do
            not hold and that are 0 or False by default are so anyway.
        unlike: options of its own: the value under which its formula is ours, and what another value does.
        notes: what to say where a hyper-parameter of ours is not 0.
        counts_steps: whether it keeps the number of steps.
    """

    rules: tuple[str, ...]
    state: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    unlike: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    counts_steps: bool = True


_TWINS = [title for title in optim.classes if optim.twin(title)]
DECOUPLED: Final = "decoupled_weight_decay"
_ADAMW = Source(("AdamW", "Adam"), fixed={DECOUPLED: True})
_SAME_NAMES = {title: Source((title,)) for title in optim.classes} | {
    "AdamW": _ADAMW,
    "Adam": Source(("Adam", "AdamW")),
}
OURS = {f"descend.{title}": source for title, source in _SAME_NAMES.items()}
TORCH = {f"torch.{title}": _SAME_NAMES[title] for title in _TWINS}

_TIMM_OPTIONS: Mapping[str, tuple[Any, str]] = {
    "caution": (False, "leaves out the elements of the update whose sign is not the gradient's"),
    "corrected_weight_decay": (False, "decays by lr**2 / max_lr"),
    "clipping_threshold": (None, "clips the root mean square of the update"),
}
_TORCH_IN_TIMM = [title for title in _TWINS if title not in ("ASGD", "Rprop", "Muon")]
_TIMM = {
    **{f"timm.{title}": replace(_SAME_NAMES[title], unlike=_TIMM_OPTIONS) for title in _TORCH_IN_TIMM},
    "timm.AdamWLegacy": replace(_ADAMW, groups={"max_lr_snapshot": ()}, unlike=_TIMM_OPTIONS),
    "timm.Lion": Source(("Lion",), groups={"max_lr_snapshot": ()}, unlike=_TIMM_OPTIONS),
    "timm.SGDW": Source(("SGDW",), groups={"max_lr_snapshot": ()}, unlike=_TIMM_OPTIONS),
    "timm.NAdamLegacy": Source(
        ("NAdam",), state={"m_schedule": "mu_product"}, groups={"schedule_decay": ("momentum_decay",)}
    ),
    "timm.RAdamLegacy": Source(("RAdam",), fixed={DECOUPLED: True}),
    "timm.Lamb": Source(
        ("LAMB",),
        groups={"decoupled_decay": (DECOUPLED,), "max_lr_snapshot": (), "max_grad_norm": ()},
        unlike={**_TIMM_OPTIONS, "grad_averaging": (True, "adds the whole gradient to its average")},
        notes={"lr": "timm's Lamb clips the gradients to max_grad_norm before its step; here that is clip_norm"},
    ),
    "timm.Lars": Source(
        ("LARS",),
        groups={"trust_coeff": ("trust_coefficient",), "eps": ("trust_eps",)},
        fixed={"skip_vectors": False},
    ),
}

_APEX = {
    "apex.FusedAdam": Source(
        ("AdamW", "Adam"),
        unlike={"bias_correction": (True, "leaves the averages biased towards 0")},
        notes={
            "weight_decay": "apex keeps adam_w_mode, by default True, outside of its state: for AdamW it is taken to "
            "have been True, for Adam to have been False"
        },
    ),
    "apex.FusedSGD": Source(
        ("SGD",),
        notes={"weight_decay": "apex keeps wd_after_momentum outside of its state; it is taken to have been False"},
    ),
    "apex.FusedAdagrad": Source(
        ("Adagrad",),
        counts_steps=False,
        notes={"weight_decay": "apex keeps adagrad_w_mode outside of its state; it is taken to have been False (L2)"},
    ),
}

_BNB_ADAM = replace(
    _ADAMW,
    state={"state1": "exp_avg", "state2": "exp_avg_sq"},
    groups={"alpha": (), "t_alpha": (), "t_beta3": ()},  # of AdEMAMix
    notes={
        "weight_decay": "the weight decay of bitsandbytes is decoupled in Adam too; on CUDA it comes after the update "
        "and not before, which differs by lr * weight_decay of a step"
    },
)
_BNB: Mapping[str, Source] = {
    "Adam": _BNB_ADAM,
    "AdamW": _BNB_ADAM,
    "Adagrad": Source(
        ("Adagrad",),
        state={"state1": "sum"},
        groups={"betas": ()},
    ),
    "Lion": Source(
        ("Lion",),
        state={"state1": "exp_avg"},
        groups={"eps": ()},
        notes={
            "weight_decay": "bitsandbytes decouples Lion's weight decay, as we do, except in its 32-bit CUDA kernel, "
            "which adds it to the gradient"
        },
    ),
    "RMSprop": Source(
        ("RMSprop",),
        state={"state1": "square_avg"},
        groups={"betas": ("alpha", "momentum")},
        fixed={"momentum": 0.0},
        notes={"momentum": "RMSprop of bitsandbytes takes a momentum and does not read it, so it is 0 here"},
    ),
    "SGD": Source(
        ("SGD",),
        state={"state1": "momentum_buffer"},
        groups={"betas": ("momentum", "dampening"), "eps": ()},
        fixed={"dampening": 0.0},
        notes={"dampening": "SGD of bitsandbytes takes a dampening and does not read it, so it is 0 here"},
    ),
}


def _bitsandbytes(name: str) -> list[str]:
    """Its names of one rule: its 8-bit classes too, since small parameters have 32-bit state there."""
    paged = ["", "Paged"] if name in ("Adam", "AdamW", "AdEMAMix", "Lion") else [""]
    return [f"bitsandbytes.{page}{name}{bits}" for page in paged for bits in ("", "32bit", "8bit")]


SOURCES: Final[Mapping[str, Source]] = {
    **OURS,
    **TORCH,
    **_TIMM,
    **_APEX,
    **{long: source for name, source in _BNB.items() for long in _bitsandbytes(name)},
}
"""By library and class, whose state is a state of one of our rules."""

_UNWRITTEN: Final = "there is no such rule here; begin another optimizer with a fresh state"
_ABSENT: Final = {
    "torch": "Adafactor LBFGS",
    "timm": "AdaBelief Adafactor AdafactorBigVision Adahessian AdamP Adan Adopt Kron LaProp Lookahead "
    "MADGRAD Mars NvNovoGrad SGDP",
    "apex": "FusedNovoGrad",
}
DIFFERENT: Final[Mapping[str, str]] = {
    **{f"{library}.{name}": _UNWRITTEN for library, names in _ABSENT.items() for name in names.split()},
    **dict.fromkeys(_bitsandbytes("AdEMAMix"), _UNWRITTEN),
    **dict.fromkeys(
        ["apex.FusedLAMB", "apex.FusedMixedPrecisionLamb", *_bitsandbytes("LAMB"), *_bitsandbytes("LARS")],
        "whether its steps are those of descend.LAMB or LARS has not been tried; begin with a fresh state",
    ),
    "timm.Muon": "it has conventions of its own, and its AdamW's state beside; begin with a fresh state",
    "torch.SparseAdam": "it updates the averages only in rows that have a gradient, descend.Adam all of them",
    "timm.RMSpropTF": "it has eps inside the root, starts the average of squares at 1 and keeps the rate in the "
    "momentum buffer; descend.RMSprop, which comes near, is torch's",
    "timm.NAdamW": "its momentum is constant and its weight decay decoupled; descend.NAdam, which comes near, lets the "
    "momentum grow by a schedule and needs the product of all momenta so far",
}
"""By library and class, why a state cannot be converted."""
