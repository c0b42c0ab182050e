"""Rules that look at signs: Rprop, Signum, Lion, PowerSign and AddSign."""

import math

from descend.rule import Slot, active, rule
from descend.vocabulary import clip, ema, sign, where

__all__ = ["addsign", "lion", "powersign", "rprop", "signum"]


@rule
def rprop(p, g, t, prev=Slot("prev"), step_size=Slot("step_size", init="lr"),
          *, lr=1e-2, etas=(0.5, 1.2), step_sizes=(1e-6, 50.0), weight_decay=0.0):
    """Rprop. Riedmiller & Braun 1993, in the form without backtracking (Rprop- with the gradient zeroed), as in torch.

    A weight whose gradient changes its sign does not move in that step, and the stored gradient is 0. The method reads
    only signs, so it is meant for full batches. `weight_decay` is L2; torch's Rprop has none.
    """
    eta_minus, eta_plus = etas
    smallest, largest = step_sizes
    if active(weight_decay):
        g = g + weight_decay * p
    agreement = sign(g * prev)
    factor = where(agreement > 0, eta_plus, where(agreement < 0, eta_minus, 1))
    step_size = clip(step_size * factor, smallest, largest)
    g = where(agreement < 0, 0, g)
    return dict(p=p - sign(g) * step_size, prev=g, step_size=step_size)


@rule
def signum(p, g, m=Slot("exp_avg"), *, lr=1e-4, beta=0.9, weight_decay=0.0):
    """Signum. signSGD with momentum: Bernstein et al. 2018, arXiv:1802.04434, Algorithm 2.

    With `beta=0` it is signSGD (Algorithm 1). As in every rule without a W in its name, `weight_decay` is L2.
    """
    if active(weight_decay):
        g = g + weight_decay * p
    m = ema(m, g, beta)
    return dict(p=p - lr * sign(m), m=m)


@rule
def lion(p, g, m=Slot("exp_avg"), *, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
    """Lion. Chen et al. 2023, arXiv:2302.06675, Algorithm 2.

    The sign is taken of an average with beta1 that is not kept; what is kept averages with beta2. `weight_decay` is
    decoupled and multiplied by the rate, as published: a rate 3 to 10 times smaller than AdamW's wants a decay as much
    larger.
    """
    beta1, beta2 = betas
    c = ema(m, g, beta1)
    m = ema(m, g, beta2)
    if active(weight_decay):
        p = p * (1 - lr * weight_decay)
    return dict(p=p - lr * sign(c), m=m)


@rule
def powersign(p, g, m=Slot("exp_avg"), *, lr=0.01, beta=0.9, base=math.e, f=1.0, weight_decay=0.0):
    """PowerSign. Bello et al. 2017, arXiv:1709.07417: base^(f(t) sign(g) sign(m)) g.

    m averages this step's gradient before its sign is taken; the sign of 0 is 0, so the factor is then 1. `f` is f(t):
    a number, or a schedule such as `schedules.linear(n)`, `cyclical(n, periods)` or `restart(n, periods)`. It scales
    the agreement of the signs and is no schedule of the rate. The survey's equation lacks the rate. The paper names no
    default; TensorFlow's is 0.1, with which steps of e * 0.1 diverge on losses that SGD descends at 0.1: ours is 0.01.
    `weight_decay` is L2.
    """
    if active(weight_decay):
        g = g + weight_decay * p
    m = ema(m, g, beta)
    return dict(p=p - lr * base ** (f * sign(g) * sign(m)) * g, m=m)


@rule
def addsign(p, g, m=Slot("exp_avg"), *, lr=0.01, beta=0.9, alpha=1.0, f=1.0, weight_decay=0.0):
    """AddSign. Bello et al. 2017, arXiv:1709.07417: (alpha + f(t) sign(g) sign(m)) g.

    m averages this step's gradient before its sign is taken. With alpha = f = 1 a weight whose signs disagree does not
    move. `f` is f(t) and the default rate is 0.01, as in PowerSign; the survey's equation lacks the rate.
    `weight_decay` is L2.
    """
    if active(weight_decay):
        g = g + weight_decay * p
    m = ema(m, g, beta)
    return dict(p=p - lr * (alpha + f * sign(g) * sign(m)) * g, m=m)
