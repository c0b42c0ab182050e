"""Stochastic gradient descent: with momentum, with decoupled decay, with an average of the iterates."""

from descend.rule import Slot, active, rule
from descend.vocabulary import fresh, maximum, where

__all__ = ["asgd", "sgd", "sgdw", "sgdwpaper"]


@rule
def sgd(p, g, buf=Slot("momentum_buffer"),
        *, lr=1e-3, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False):
    """SGD. Robbins & Monro 1951; momentum: Polyak 1964; Nesterov's momentum in torch's form.

    torch's convention: the rate stands outside the buffer, so that a new rate rescales the whole velocity (keras, and
    `sgdwpaper`, keep it inside), and the first step takes the gradient itself, without dampening. Torch7 dampened by
    the momentum unless told otherwise, which makes its rates 1 / (1 - momentum) times larger. With `nesterov=True` the
    stored point is the look-ahead point of the classical method. `weight_decay` is L2.
    """
    if active(weight_decay):
        g = g + weight_decay * p
    d = g
    if active(momentum):
        buf = where(fresh(buf), g, momentum * buf + (1 - dampening) * g)
        d = g + momentum * buf if nesterov else buf
    return dict(p=p - lr * d, buf=buf)


@rule
def sgdw(p, g, buf=Slot("momentum_buffer"),
         *, lr=1e-3, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False):
    """SGDW. SGD with decoupled weight decay: Loshchilov & Hutter 2019, arXiv:1711.05101, Algorithm 1.

    The decay is `lr * weight_decay` as in torch's AdamW; the published one, by the schedule's multiplier, is
    `sgdwpaper`. Momentum is torch's SGD's.
    """
    d = g
    if active(momentum):
        buf = where(fresh(buf), g, momentum * buf + (1 - dampening) * g)
        d = g + momentum * buf if nesterov else buf
    if active(weight_decay):
        p = p * (1 - lr * weight_decay)
    return dict(p=p - lr * d, buf=buf)


@rule
def sgdwpaper(p, g, m=Slot("momentum_buffer"), *, lr=1e-3, momentum=0.9, weight_decay=0.0, eta=1.0):
    """SGDWPaper. SGDW as published: Loshchilov & Hutter 2019, arXiv:1711.05101, Algorithm 1.

    `eta` is the schedule's multiplier and takes the schedule. The rate stands inside the buffer (line 8), and the decay
    `eta * weight_decay` is not multiplied by the rate and never enters the buffer (line 9).
    """
    m = momentum * m + eta * lr * g
    update = m
    if active(weight_decay):
        update = m + eta * weight_decay * p
    return dict(p=p - update, m=m)


@rule
def asgd(p, g, t, eta=Slot("eta", init="lr", shape="scalar"), mu=Slot("mu", init=1.0, shape="scalar"), ax=Slot("ax"),
         *, lr=1e-2, lambd=1e-4, alpha=0.75, t0=1e6, weight_decay=0.0):
    """ASGD. Averaged SGD: Polyak & Juditsky 1992, with the decaying rate of Bottou 2010, as in torch.

    `ax` is the average of the iterates after step `t0`; eta and mu hold the values for the next step, so that the first
    step takes eta = lr, and the averages of steps 1 and 2 are the iterates themselves. `lambd` decays the rate and the
    weights; a constant rate needs `lambd=0`. `weight_decay` is L2.
    """
    if active(weight_decay):
        g = g + weight_decay * p
    p = p * (1 - lambd * eta) - eta * g
    ax = where(mu == 1, p, ax + mu * (p - ax))
    eta = lr / (1 + lambd * lr * t) ** alpha
    mu = 1 / maximum(1, t - t0)
    return dict(p=p, eta=eta, mu=mu, ax=ax)
