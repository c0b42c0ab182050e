"""Adaptive gradient clipping as an option of every optimizer, beside the paper's formula written out."""

import copy

import pytest
import torch
from torch import nn

import descend
from descend import FormulaError, Slot, clip_units, rule
from fused_optimizers import needs_kernels

LIMIT, LEAST = 0.02, 1e-3
SHAPES = [(5,), (4, 6), (3, 2, 3, 3), (2, 3, 4), (5, 1), (1, 5), ()]


def clipped(gradient, weights, limit=LIMIT):
    """Brock et al. 2021, equation 3, unit by unit."""
    units = zip(gradient, weights, strict=True) if gradient.squeeze().ndim > 1 else [(gradient, weights)]
    held = []
    for g, w in units:
        length, longest = g.square().sum().sqrt(), max(w.square().sum().sqrt(), LEAST)
        held.append(limit * longest / length * g if length / longest > limit else g)
    return torch.stack(held) if gradient.squeeze().ndim > 1 else held[0]


def made(shapes=SHAPES, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    params = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    with torch.no_grad():
        for p in params:
            if p.ndim > 1:
                p[0] = 0  # a unit of no length
    return [p.requires_grad_() for p in params]


def gradients(params, step):
    """Some units stay below the limit, some lie far above it."""
    generator = torch.Generator().manual_seed(100 + step)
    for p in params:
        sizes = 10.0 ** torch.randint(-4, 2, p.shape[:1] + (1,) * (p.ndim - 1), generator=generator)
        p.grad = (torch.randn(p.shape, generator=generator, dtype=torch.float64) * sizes).to(p.dtype).reshape(p.shape)


@pytest.mark.parametrize("backend", [pytest.param("cpp", marks=needs_kernels), "eager"])
@pytest.mark.parametrize("name", ["SGD", "AdamW", "Lion", "LAMB", "YellowFin", "RMSprop"])
def test_every_rule_takes_the_clipped_gradient(name, backend):
    ours, by_hand = made(), made()
    optimizer = getattr(descend, name)(ours, lr=0.1, clip_agc=LIMIT, backend=backend)
    twin = getattr(descend, name)(by_hand, lr=0.1, backend="eager")
    for step in range(4):
        gradients(ours, step)
        for p, q in zip(ours, by_hand, strict=True):
            q.grad = clipped(p.grad, q.detach())
        before = [p.grad.clone() for p in ours]
        optimizer.step()
        twin.step()
        for p, q, gradient in zip(ours, by_hand, before, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)
            assert torch.equal(p.grad, gradient)  # gradients are left as they are
    assert sum(int((q.grad != p.grad).any()) for p, q in zip(ours, by_hand, strict=True)) > 3


def test_matrices_are_clipped_before_muon_looks_at_them():
    ours, by_hand = made([(4, 6), (6, 3)]), made([(4, 6), (6, 3)])
    optimizer, twin = descend.Muon(ours, clip_agc=LIMIT), descend.Muon(by_hand)
    for step in range(3):
        gradients(ours, step)
        for p, q in zip(ours, by_hand, strict=True):
            q.grad = clipped(p.grad, q.detach())
        optimizer.step()
        twin.step()
    for p, q in zip(ours, by_hand, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=2e-4)  # a tie in bfloat16 at most


@pytest.mark.parametrize("backend", [pytest.param("cpp", marks=needs_kernels), "eager"])
def test_it_follows_the_other_clippings(backend):
    ours, by_hand = made(), made()
    optimizer = descend.SGD(ours, lr=0.1, clip_value=0.5, clip_norm=0.1, clip_agc=LIMIT, backend=backend)
    gradients(ours, 0)
    cut = [p.grad.clamp(-0.5, 0.5) for p in ours]
    coefficient = min(1.0, 0.1 / (torch.stack([g.square().sum() for g in cut]).sum().sqrt() + 1e-6))
    optimizer.step()
    for p, q, g in zip(ours, by_hand, cut, strict=True):
        torch.testing.assert_close(p, q - 0.1 * clipped(coefficient * g, q.detach()), rtol=1e-12, atol=1e-12)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_kernel_and_eager_agree_in_low_precision_and_any_order_of_memory(dtype):
    def run(backend):
        params = [p.detach() for p in made(dtype=dtype)]
        params[1], params[2] = params[1].t().contiguous().t(), params[2].to(memory_format=torch.channels_last)
        params = [p.requires_grad_() for p in params]
        optimizer = descend.AdamW(params, lr=0.1, clip_agc=LIMIT, backend=backend, state_dtype=torch.float32)
        for step in range(3):
            gradients(params, step)
            for p in params:
                p.grad = torch.empty_like(p).copy_(p.grad)
            optimizer.step()
        return params

    for p, q in zip(run("cpp"), run("eager"), strict=True):
        torch.testing.assert_close(p, q, rtol=4 * torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("backend", [pytest.param("cpp", marks=needs_kernels), "eager"])
def test_a_group_is_left_out_and_let_in_again(backend):
    params = made([(4, 6), (4, 6)])
    groups = [{"params": params[:1]}, {"params": params[1:], "clip_agc": None}]
    optimizer = descend.SGD(groups, lr=0.1, clip_agc=LIMIT, backend=backend)
    for step, left_out in enumerate([True, False, True]):
        optimizer.param_groups[1]["clip_agc"] = None if left_out else LIMIT
        gradients(params, step)
        before = [p.detach().clone() for p in params]
        optimizer.step()
        taken = [clipped(params[0].grad, before[0]), params[1].grad]
        if not left_out:
            taken[1] = clipped(params[1].grad, before[1])
        for p, start, gradient in zip(params, before, taken, strict=True):
            torch.testing.assert_close(p, start - 0.1 * gradient, rtol=1e-12, atol=1e-12)
    assert "not read" not in optimizer.explain()
    assert optimizer.explain().count("clip_agc=None") == 1
    del optimizer.param_groups[1]["clip_agc"]
    gradients(params, 3)
    expected = params[1].detach() - 0.1 * clipped(params[1].grad, params[1].detach())
    optimizer.step()
    torch.testing.assert_close(params[1].detach(), expected, rtol=1e-12, atol=1e-12)


def test_a_run_is_resumed_to_the_same_bits():
    def run(params, optimizer, steps):
        for step in steps:
            gradients(params, step)
            optimizer.step()

    whole = made()
    optimizer = descend.AdamW(whole, lr=0.1, clip_agc=LIMIT)
    run(whole, optimizer, range(2))
    half, saved = [p.detach().clone().requires_grad_() for p in whole], copy.deepcopy(optimizer.state_dict())
    run(whole, optimizer, range(2, 5))
    resumed = descend.AdamW(half, lr=0.1, clip_agc=LIMIT)
    resumed.load_state_dict(saved)
    run(half, resumed, range(2, 5))
    assert all(map(torch.equal, whole, half))


@pytest.mark.parametrize("saved", [{}, {"clip_agc": None}])
@pytest.mark.parametrize("own", [{}, {"clip_agc": None}])
def test_what_is_left_out_is_as_the_constructor_has_it(own, saved):
    def made_of(entry):
        params = made([(4, 6)])
        return params, descend.SGD([{"params": params, **entry}], lr=0.1, clip_agc=LIMIT)

    params, optimizer = made_of(own)
    optimizer.load_state_dict(made_of(saved)[1].state_dict())
    gradients(params, 0)
    expected = params[0].detach() - 0.1 * (params[0].grad if own else clipped(params[0].grad, params[0].detach()))
    optimizer.step()
    torch.testing.assert_close(params[0].detach(), expected, rtol=1e-12, atol=1e-12)


def test_without_a_limit_that_holds_nothing_changes():
    def run(**options):
        params = made()
        optimizer = descend.AdamW(params, lr=0.1, **options)
        for step in range(3):
            gradients(params, step)
            optimizer.step()
        return params

    for p, q in zip(run(), run(clip_agc=1e9), strict=True):
        assert torch.equal(p, q)


def test_gradients_that_are_no_numbers_stay_so():
    p = torch.ones(2, 3, requires_grad=True)
    p.grad = torch.tensor([[float("nan"), 1, 1], [1e-3, 0, 0]])
    descend.SGD([p], lr=1.0, clip_agc=LIMIT).step()
    assert p[0].isnan().all()
    assert torch.equal(p[1], torch.tensor([0.999, 1, 1]))


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (0, ValueError, "clip_agc must be above 0, not 0; None leaves gradients as they are"),
        (-0.01, ValueError, "clip_agc must be above 0"),
        (float("nan"), ValueError, "clip_agc must be above 0"),
        ("0.01", TypeError, "clip_agc takes a plain number or None"),
        (True, TypeError, "clip_agc takes a plain number or None"),
    ],
)
def test_wrong_limits(value, error, message):
    with pytest.raises(error, match=message):
        descend.AdamW([torch.zeros(2, requires_grad=True)], clip_agc=value)


def test_a_group_cannot_have_a_limit_of_its_own():
    with pytest.raises(TypeError, match=r"clip_agc is an option of the whole optimizer.*clip_agc=None leaves"):
        descend.AdamW([{"params": [torch.zeros(2, requires_grad=True)], "clip_agc": 0.1}], clip_agc=0.01)


def test_what_it_does_not_go_with_is_said():
    complex_one = torch.zeros(2, dtype=torch.complex64, requires_grad=True)
    with pytest.raises(RuntimeError, match="clip_agc does not support complex parameters"):
        descend.AdamW([complex_one], clip_agc=0.01)
    descend.AdamW([{"params": [complex_one], "clip_agc": None}], clip_agc=0.01)
    embedding = nn.Embedding(4, 3, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="clip_agc option is not compatible with sparse gradients; leave it out"):
        descend.SGD(embedding.parameters(), lr=0.1, clip_agc=0.01).step()


def test_rules_of_ones_own_can_clip_too():
    @rule
    def mine(p, g, m=Slot("m"), *, lr=0.1, beta=0.5, limit=LIMIT):
        m = beta * m + clip_units(g, p, limit)
        return dict(p=p - lr * m, m=m)

    def wrong(p, g, *, lr=0.1):
        return dict(p=p - lr * clip_units(g, 2 * p, 0.1))

    ours = made()
    optimizer, momenta = descend.Optimizer(ours, mine), [0 for _ in ours]
    for step in range(3):
        gradients(ours, step)
        momenta = [0.5 * m + clipped(p.grad, p.detach()) for m, p in zip(momenta, ours, strict=True)]
        expected = [p.detach() - 0.1 * m for p, m in zip(ours, momenta, strict=True)]
        optimizer.step()
        for p, q in zip(ours, expected, strict=True):
            torch.testing.assert_close(p.detach(), q, rtol=1e-10, atol=1e-12)
    with pytest.raises(FormulaError, match="the second argument of clip_units is p or a slot"):
        rule(wrong)
