"""Kernels against the eager backend in float64: every optimizer, storage type, shape and memory order."""

import copy
import ctypes
import itertools
import mmap
import random as lottery

import pytest
import torch

import descend
from descend.backends import openmp
from descend.backends.random_bits import stochastically
from fused_optimizers import TOLERANCE, assert_fused, give_gradients, needs_kernels, random
from optimizers import ROWS

pytestmark = needs_kernels

DTYPES = list(TOLERANCE)
SIZES = [(0,), (), (1,), (63,), (64,), (65,), (16385,), (40000,)]
TRIED = 3  # combinations of options per optimizer
RATES = {"Adadelta": 1.0, "Lion": 0.01, "Signum": 0.01}
LR = 0.05


def tensors(dtype, seed):
    """Parameters of edge sizes, random shapes and every dense memory order, leaves of autograd."""
    draw = lottery.Random(seed)
    shapes = SIZES + [tuple(draw.randint(1, 9) for _ in range(draw.randint(1, 4))) for _ in range(3)]
    made = [random(shape, seed + i, dtype) for i, shape in enumerate(shapes)]
    made.append(random((2, 3, 5, 7), seed, dtype).to(memory_format=torch.channels_last))
    made.append(random((9, 13), seed, dtype).t())
    made.append(random((3, 4, 5), seed, dtype).permute(2, 0, 1))
    return [x.requires_grad_() for x in made]


def combinations(row):
    """A few combinations of the row's options, the same at every run, with every value of each option among them."""
    every = list(row.combinations())
    draw = lottery.Random(row.name)
    chosen = draw.sample(every, min(TRIED, len(every)))
    return chosen


CASES = [(row, options) for row in ROWS for options in combinations(row)]


def names(case):
    return "-".join([case[0].name, *(f"{name}={value}" for name, value in case[1].items() if value)])


def groups_of(params, lr):
    """Two param groups with rates of their own, every type in both."""
    return [{"params": params[::2], "lr": lr}, {"params": params[1::2], "lr": lr / 3}]


def assert_within_tolerance(ours, exact, before, what):
    """Fail if an element of a stored tensor is further from the exact one than its type's tolerance allows."""
    own, largest = TOLERANCE[ours.dtype]
    exact, found = exact.double(), ours.double()
    if not exact.numel():
        return
    scale = torch.maximum(exact.abs().max(), before.double().abs().max())
    smallest = torch.finfo(ours.dtype).smallest_normal * torch.finfo(ours.dtype).eps
    if ours.dtype in (torch.float32, torch.float64):
        bound = own * torch.maximum(exact.abs(), scale)
    else:
        bound = own * exact.abs() + largest * scale
    excess = (found - exact).abs() - (bound + smallest)
    assert not (excess > 0).any(), f"{what}: off by {(found - exact).abs().max()} of {scale}"
    assert torch.equal(found.isnan(), exact.isnan()), what


def steps_like_float64(make, params, steps=5, **options):
    """Step with kernels, and every time compare with one eager step in float64 from the same stored values."""
    lr = options.pop("lr")
    exact = [p.detach().double().requires_grad_() for p in params]
    optimizer = make(groups_of(params, lr), backend="cpp", **options)
    oracle = make(groups_of(exact, lr), backend="eager", **options)
    for step in range(steps):
        give_gradients(params, step)
        for p, q in zip(params, exact, strict=True):
            q.data.copy_(p.data)
            q.grad = p.grad.double()
        oracle.load_state_dict(optimizer.state_dict())
        before = [p.detach().clone() for p in params]
        optimizer.step()
        oracle.step()
        for p, q, old in zip(params, exact, before, strict=True):
            what = f"step {step}, {p.dtype}, {tuple(p.shape)}"
            assert_within_tolerance(p.detach(), q.detach(), old, what)
            assert optimizer.state[p].keys() == oracle.state[q].keys()
            for key, x in optimizer.state[p].items():
                assert_within_tolerance(x, oracle.state[q][key], x, f"{key}, {what}")
    return optimizer


@pytest.mark.parametrize("case", CASES, ids=names)
def test_kernels_agree_with_the_eager_backend_in_float64(case):
    row, options = case
    params = list(itertools.chain.from_iterable(tensors(dtype, 10 * i) for i, dtype in enumerate(DTYPES)))
    optimizer = steps_like_float64(row.ours, params, **{"lr": RATES.get(row.name, LR), **options})
    assert_fused(optimizer)
