"""The conformance table: a row per optimizer, and every test that goes over all optimizers reads it.

A row names the options whose combinations are tried and, where torch has no class of the name, the published rule in
straight-line torch code: `reference(p, g, state, t, **hyper_parameters)` returns the new parameter and updates `state`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import descend
from yellowfin import yellowfin

Reference = Callable[..., Tensor]


@dataclass(frozen=True)
class Row:
    name: str
    options: dict[str, list[Any]] = field(default_factory=dict)
    reference: Reference | None = None  # None: torch's class of the name
    keeps_float32_scalars: bool = False  # torch keeps scalars in float32 under a float32 default
    allowed: Callable[[dict[str, Any]], bool] = lambda options: True
    looks_at_all: bool = False  # the reference steps lists of parameters, with one state for all

    @property
    def ours(self) -> type[descend.Optimizer]:
        return getattr(descend, self.name)

    @property
    def twin(self) -> type[torch.optim.Optimizer] | None:
        return None if self.reference else getattr(torch.optim, self.name)

    def combinations(self) -> Iterator[dict[str, Any]]:
        names = [*self.options, "maximize"]
        for values in itertools.product(*self.options.values(), [False, True]):
            chosen = dict(zip(names, values, strict=True))
            if self.allowed(chosen):
                yield chosen


def _l2(g, p, weight_decay):
    return g + weight_decay * p


def _average(state, key, x, beta):
    state[key] = beta * state.get(key, torch.zeros_like(x)) + (1 - beta) * x
    return state[key]


def sgdw(p, g, s, t, lr=1e-3, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False):
    step = g
    if momentum:
        s["b"] = g.clone() if t == 1 else momentum * s["b"] + (1 - dampening) * g
        step = g + momentum * s["b"] if nesterov else s["b"]
    return (1 - lr * weight_decay) * p - lr * step


def sgdwpaper(p, g, s, t, lr=1e-3, momentum=0.9, weight_decay=0.0, eta=1.0):
    s["m"] = momentum * s.get("m", 0) + eta * lr * g
    return p - s["m"] - eta * weight_decay * p


def adamwpaper(p, g, s, t, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, eta=1.0):
    m_hat = _average(s, "m", g, betas[0]) / (1 - betas[0] ** t)
    v_hat = _average(s, "v", g**2, betas[1]) / (1 - betas[1] ** t)
    return p - eta * (lr * m_hat / (v_hat.sqrt() + eps) + weight_decay * p)


def amsgrad(p, g, s, t, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
    g = _l2(g, p, weight_decay)
    m, v = _average(s, "m", g, betas[0]), _average(s, "v", g**2, betas[1])
    s["v_max"] = torch.maximum(s.get("v_max", torch.zeros_like(v)), v)
    return p - lr * m / (s["v_max"].sqrt() + eps)


def powersign(p, g, s, t, lr=0.01, beta=0.9, base=math.e, f=1.0, weight_decay=0.0):
    g = _l2(g, p, weight_decay)
    agree = g.sign() * _average(s, "m", g, beta).sign()
    return p - lr * torch.exp(math.log(base) * f * agree) * g


def addsign(p, g, s, t, lr=0.01, beta=0.9, alpha=1.0, f=1.0, weight_decay=0.0):
    g = _l2(g, p, weight_decay)
    return p - lr * (alpha + f * g.sign() * _average(s, "m", g, beta).sign()) * g


def lion(p, g, s, t, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
    m = s.get("m", torch.zeros_like(p))
    s["m"] = betas[1] * m + (1 - betas[1]) * g
    return p * (1 - lr * weight_decay) - lr * (betas[0] * m + (1 - betas[0]) * g).sign()


def signum(p, g, s, t, lr=1e-4, beta=0.9, weight_decay=0.0):
    return p - lr * _average(s, "m", _l2(g, p, weight_decay), beta).sign()


def lamb(
    p,
    g,
    s,
    t,
    lr=1e-3,
    betas=(0.9, 0.999),
    eps=1e-6,
    weight_decay=0.0,
    bias_correction=True,
    always_adapt=True,
    trust_clip=False,
    trust_eps=0.0,
    norm_limit=0.0,
    decoupled_weight_decay=False,
):
    m, v = _average(s, "m", g, betas[0]), _average(s, "v", g**2, betas[1])
    if bias_correction:
        m, v = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
    u = m / (v.sqrt() + eps)
    if decoupled_weight_decay:
        p = p - lr * weight_decay * p
    else:
        u = u + weight_decay * p
    size, length = p.norm().item(), u.norm().item()
    if norm_limit:
        size = min(size, norm_limit)
    ratio = 1.0
    if (weight_decay or always_adapt) and size > 0 and length > 0:
        ratio = size / (length + trust_eps)
        ratio = min(ratio, 1.0) if trust_clip else ratio
    return p - lr * ratio * u


def lars(
    p,
    g,
    s,
    t,
    lr=1.0,
    momentum=0.9,
    dampening=0.0,
    weight_decay=0.0,
    nesterov=False,
    trust_coefficient=1e-3,
    trust_eps=0.0,
    always_adapt=True,
    trust_clip=False,
    skip_vectors=True,
):
    if (p.ndim > 1 or not skip_vectors) and (weight_decay or always_adapt):
        size, slope = p.norm().item(), g.norm().item()
        ratio = 1.0
        if size > 0 and slope > 0:
            ratio = trust_coefficient * size / (slope + weight_decay * size + trust_eps)
        ratio = min(ratio / lr, 1.0) if trust_clip else ratio
        g = ratio * (g + weight_decay * p)
    if not momentum:
        return p - lr * g
    s["b"] = g.clone() if t == 1 else momentum * s["b"] + (1 - dampening) * g
    return p - lr * (g + momentum * s["b"] if nesterov else s["b"])


def larspaper(p, g, s, t, lr=1.0, momentum=0.9, weight_decay=0.0, trust_coefficient=1e-3):
    size, slope = p.norm().item(), g.norm().item()
    local = trust_coefficient * size / (slope + weight_decay * size) if size > 0 and slope > 0 else 1.0
    s["v"] = momentum * s.get("v", 0) + lr * local * (g + weight_decay * p)
    return p - s["v"]


DECAY = {"weight_decay": [0.0, 0.1]}
SGD_OPTIONS = {**DECAY, "momentum": [0.0, 0.9], "dampening": [0.0, 0.3], "nesterov": [False, True]}
DECOUPLED = {**DECAY, "decoupled_weight_decay": [False, True]}


def _nesterov_allowed(options: dict[str, Any]) -> bool:
    return not options["nesterov"] or (options["momentum"] > 0 and options["dampening"] == 0)


LAMB_USUAL = {
    "bias_correction": True,
    "always_adapt": True,
    "trust_clip": False,
    "norm_limit": 0.0,
    "trust_eps": 0.0,
    "decoupled_weight_decay": False,
}
LARS_USUAL = {"trust_clip": False, "skip_vectors": True, "always_adapt": True}


def _lamb_allowed(options: dict[str, Any]) -> bool:
    """One that is unusual at a time, or all of pytorch_optimizer's."""
    unusual = {name for name, value in LAMB_USUAL.items() if options[name] != value}
    return len(unusual) < 2 or unusual == {"bias_correction", "norm_limit", "trust_eps", "decoupled_weight_decay"}


def _lars_allowed(options: dict[str, Any]) -> bool:
    unusual = sum(options[name] != value for name, value in LARS_USUAL.items())
    return _nesterov_allowed(options) and unusual < (1 if options["nesterov"] or options["dampening"] else 2)


ROWS = [
    Row("SGD", SGD_OPTIONS, allowed=_nesterov_allowed),
    Row("SGDW", SGD_OPTIONS, sgdw, allowed=_nesterov_allowed),
    Row("SGDWPaper", {**DECAY, "momentum": [0.0, 0.9], "eta": [1.0, 0.3]}, sgdwpaper),
    Row("Adagrad", {**DECAY, "lr_decay": [0.0, 0.1], "initial_accumulator_value": [0.0, 0.5], "eps": [1e-10, 1e-3]}),
    Row("Adadelta", {**DECAY, "rho": [0.9, 0.5], "eps": [1e-6, 1e-3]}),
    Row("RMSprop", {**DECAY, "momentum": [0.0, 0.9], "centered": [False, True], "alpha": [0.99, 0.5]}),
    Row("Adam", {**DECOUPLED, "amsgrad": [False, True], "betas": [(0.9, 0.999), (0.5, 0.7)]}),
    Row("AdamW", {**DECAY, "amsgrad": [False, True], "eps": [1e-8, 1e-2]}),
    Row("AdamWPaper", {**DECAY, "eta": [1.0, 0.3]}, adamwpaper),
    Row("Adamax", {**DECAY, "betas": [(0.9, 0.999), (0.5, 0.7)]}),
    Row("NAdam", {**DECOUPLED, "momentum_decay": [4e-3, 0.5]}, keeps_float32_scalars=True),
    Row("RAdam", {**DECOUPLED, "betas": [(0.9, 0.999), (0.5, 0.7)]}),
    Row(
        "ASGD",
        {**DECAY, "lambd": [1e-4, 0.1], "t0": [10, 1e6], "alpha": [0.75, 0.5]},
        keeps_float32_scalars=True,
    ),
    Row("Rprop", {"etas": [(0.5, 1.2), (0.3, 2.0)], "step_sizes": [(1e-6, 50), (1e-3, 0.02)]}),
    Row("AMSGrad", {**DECAY, "betas": [(0.9, 0.999), (0.5, 0.7)]}, amsgrad),
    Row("PowerSign", {**DECAY, "base": [math.e, 2.0], "f": [1.0, 0.3, 0.0]}, powersign),
    Row("AddSign", {**DECAY, "alpha": [1.0, 2.0], "f": [1.0, 0.3]}, addsign),
    Row("Lion", {**DECAY, "betas": [(0.9, 0.99), (0.5, 0.7)]}, lion),
    Row("Signum", {**DECAY, "beta": [0.9, 0.0]}, signum),
    Row(
        "LAMB",
        {
            **DECAY,
            "bias_correction": [False, True],
            "always_adapt": [False, True],
            "trust_clip": [False, True],
            "norm_limit": [0.0, 0.5],
            "trust_eps": [0.0, 1e-2],
            "decoupled_weight_decay": [False, True],
        },
        lamb,
        allowed=_lamb_allowed,
    ),
    Row(
        "LARS",
        {
            **SGD_OPTIONS,
            "trust_clip": [False, True],
            "skip_vectors": [False, True],
            "always_adapt": [False, True],
        },
        lars,
        allowed=_lars_allowed,
    ),
    Row("LARSPaper", {**DECAY, "momentum": [0.0, 0.9], "trust_coefficient": [1e-3, 0.1]}, larspaper),
    Row(
        "YellowFin",
        {"weight_decay": [0.0, 0.1], "smoothed": [False, True], "lr": [1.0, 0.5]},
        yellowfin,
        looks_at_all=True,
    ),
]
BY_NAME = {row.name: row for row in ROWS}
SHAPES = [(4, 3), (7,), (), (2, 1, 3)]


def parameters(seed: int = 0, dtype: torch.dtype | None = None) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64)
        .to(dtype or torch.get_default_dtype())
        .requires_grad_()
        for shape in SHAPES
    ]


def gradients(step: int, like: list[Tensor]) -> list[Tensor]:
    """The same gradients for the same step, whoever asks."""
    generator = torch.Generator().manual_seed(1000 + step)
    return [torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype) for p in like]


def train(optimizer: torch.optim.Optimizer, params: list[Tensor], steps: range) -> list[Tensor]:
    for step in steps:
        for p, g in zip(params, gradients(step, params), strict=True):
            p.grad = g
        optimizer.step()
    return params


def straight_line(row: Row, params: list[Tensor], steps: range, maximize=False, **options) -> list[Tensor]:
    reference, state = row.reference, {}
    if row.looks_at_all:
        params = [p.detach().clone() for p in params]
        for step in steps:
            grads = [-g if maximize else g for g in gradients(step, params)]
            params = reference(params, grads, state, step + 1, **options)
        return params
    params, states = [p.detach().clone() for p in params], [{} for _ in params]
    for step in steps:
        grads = gradients(step, params)
        params = [
            reference(p, -g if maximize else g, s, step + 1, **options)
            for p, g, s in zip(params, grads, states, strict=True)
        ]
    return params


def relative_difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    pairs = zip(ours, theirs, strict=True)
    return max(((a.detach() - b.detach()).abs().max() / b.detach().abs().max()).item() for a, b in pairs)
