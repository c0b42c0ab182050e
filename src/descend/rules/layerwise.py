"""Rates that follow the weights: a trust ratio per parameter tensor, for large batches."""

from descend.rule import Slot, active, rule
from descend.vocabulary import ema, fresh, minimum, norm, sqrt, where

__all__ = ["lamb", "lars", "larspaper"]


@rule
def lamb(p, g, t, m=Slot("exp_avg"), v=Slot("exp_avg_sq"),
         *, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0, bias_correction=True, always_adapt=True,
         trust_clip=False, trust_eps=0.0, norm_limit=0.0, decoupled_weight_decay=False):
    """LAMB. Adam with a trust ratio per tensor: You et al. 2020, arXiv:1904.00962, Algorithm 2.

    A tensor's step is lr * phi(|p|) / |u| * u, u = m_hat / (sqrt(v_hat) + eps) + weight_decay * p; where |p| or |u| is
    0 the ratio is 1. phi is the identity, or with `norm_limit` min(|p|, norm_limit). Others of the name differ: timm's
    and apex's decay by 0.01, clip the gradients of all parameters to a norm of 1 first (`clip_norm=1`) and have no
    ratio where the decay is 0 (`always_adapt=False`); `trust_clip=True` is LAMBC. pytorch_optimizer's is
    `bias_correction=False, norm_limit=10, trust_eps=eps, decoupled_weight_decay=True`: weights decay by
    lr * weight_decay before their norm is taken; it divides the rate by 1 - beta1^t besides.
    """
    beta1, beta2 = betas
    m = ema(m, g, beta1)
    v = ema(v, g * g, beta2)
    m_hat = m / (1 - beta1**t) if bias_correction else m
    v_hat = v / (1 - beta2**t) if bias_correction else v
    u = m_hat / (sqrt(v_hat) + eps)
    if active(weight_decay):
        if decoupled_weight_decay:
            p = p * (1 - lr * weight_decay)
        else:
            u = u + weight_decay * p
    if active(weight_decay) or always_adapt:
        size = minimum(norm(p), norm_limit) if active(norm_limit) else norm(p)
        ratio = where(size > 0, where(norm(u) > 0, size / (norm(u) + trust_eps), 1), 1)
        u = (minimum(ratio, 1) if trust_clip else ratio) * u
    return dict(p=p - lr * u, m=m, v=v)


@rule
def lars(p, g, buf=Slot("momentum_buffer"),
         *, lr=1.0, momentum=0.9, dampening=0.0, weight_decay=0.0, nesterov=False, trust_coefficient=1e-3,
         trust_eps=0.0, always_adapt=True, trust_clip=False, skip_vectors=True):
    """LARS. SGD with a rate per tensor, as PyTorch's libraries have it: You, Gitman & Ginsburg 2017, arXiv:1708.03888.

    Gradient and decay together are multiplied by trust_coefficient * |p| / (|g| + weight_decay * |p| + trust_eps), by 1
    where |p| or |g| is 0, and SGD's momentum follows: the rate stands outside the buffer. The published algorithm has
    it inside: that is `larspaper`. With `skip_vectors` biases and gains, all of less than two dimensions, take plain
    steps without decay, as pytorch_optimizer's do. timm's Lars is `skip_vectors=False, always_adapt=False,
    trust_eps=1e-8`: no ratio where the decay is 0. `trust_clip=True` is LARC: no tensor's rate is above `lr`.
    """
    if (p.ndim > 1 or not skip_vectors) and (active(weight_decay) or always_adapt):
        whole = norm(g) + weight_decay * norm(p) + trust_eps
        ratio = where(norm(p) > 0, where(norm(g) > 0, trust_coefficient * norm(p) / whole, 1), 1)
        g = (minimum(ratio / lr, 1) if trust_clip else ratio) * (g + weight_decay * p)
    d = g
    if active(momentum):
        buf = where(fresh(buf), g, momentum * buf + (1 - dampening) * g)
        d = g + momentum * buf if nesterov else buf
    return dict(p=p - lr * d, buf=buf)


@rule
def larspaper(p, g, v=Slot("momentum_buffer"),
              *, lr=1.0, momentum=0.9, weight_decay=0.0, trust_coefficient=1e-3):
    """LARSPaper. LARS as published: You, Gitman & Ginsburg 2017, arXiv:1708.03888, Algorithm 1.

    The rate stands inside the buffer, so that a new one does not rescale the velocity. Every tensor is adapted, biases
    too; where the weights or the gradient are 0, which the paper leaves open, the ratio is 1.
    """
    whole = norm(g) + weight_decay * norm(p)
    local = where(norm(p) > 0, where(norm(g) > 0, trust_coefficient * norm(p) / whole, 1), 1)
    v = momentum * v + lr * local * (g + weight_decay * p)
    return dict(p=p - v, v=v)
