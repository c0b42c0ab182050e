"""What the tests of fused steps share: tolerances, rules that reduce, and runs that are compared bit for bit."""

import pytest
import torch
from torch import Tensor

import descend
from descend.backends import compiler
from descend.rule import Slot, rule
from descend.vocabulary import global_norm, maximum, norm, sqrt

needs_kernels = pytest.mark.skipif(compiler.unavailable() is not None, reason="no kernel can be compiled here")

TOLERANCE = {
    torch.float64: (0.0, 1e-12),
    torch.float32: (0.0, 2e-6),
    torch.bfloat16: (2**-8 * 1.01, 2e-6),
    torch.float16: (2**-11 * 1.01, 2e-6),
}
"""How far one step of a kernel may lie from one computed in float64 on the same stored values, per type.

First the part of the element's own size (for a low precision the half unit in the last place that storing it costs),
then the part of its tensor's largest element, for what cancels.
"""


@rule
def trust(p, g, m=Slot("momentum"), *, lr=0.1, beta=0.9):
    """A rule that reduces over each tensor: steps as long as the weights."""
    m = beta * m + g
    return dict(p=p - lr * norm(p) / maximum(norm(m), 1e-6) * m, m=m)


@rule
def normed(p, g, v=Slot("scale", shape="scalar"), *, lr=0.1):
    """A rule that reduces over all tensors, and keeps one number per tensor."""
    v = 0.9 * v + 0.1 * norm(g) ** 2
    return dict(p=p - lr * g / (global_norm(g) + sqrt(v)), v=v)


def clones(tensors):
    """Copies in the same types and memory orders."""
    return [x.detach().clone().requires_grad_(x.requires_grad) for x in tensors]


def random(shape, seed, dtype=torch.float64):
    """The same numbers for the same seed, in every type."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def give_gradients(params, step, scale=1.0):
    """New gradients in the memory order of the parameters, the same for the same step and parameter."""
    for i, p in enumerate(params):
        p.grad = torch.empty_like(p).copy_(random(p.shape, 1000 * step + i) * scale)


def stored(optimizer) -> list[Tensor]:
    """Every tensor that an optimizer writes, in order."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    entries = [x for p in params for _, x in sorted(optimizer.state[p].items()) if isinstance(x, Tensor)]
    return [x.detach() for x in (*params, *entries)]


def assert_same_bits(ours, theirs):
    """Fail unless tensors hold the same bits, NaN and signs of zeros included."""
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert (
            a.numpy(force=True).tobytes() == b.numpy(force=True).tobytes()
            if a.dtype != torch.bfloat16
            else bool(torch.equal(a.contiguous().view(torch.int16), b.contiguous().view(torch.int16)))
        )


def assert_fused(optimizer, eager=()):
    """Fail unless kernels step every parameter but those in `eager`, for which reasons are given."""
    assert optimizer._fused.tables
    assert set(optimizer._fused.reasons) == {id(p) for p in eager}


def optimizer_of(groups, make, **options) -> descend.Optimizer:
    """An optimizer over param groups by a class of descend or a rule."""
    if isinstance(make, type):
        return make(groups, **options)
    return descend.Optimizer(groups, make, **options)
