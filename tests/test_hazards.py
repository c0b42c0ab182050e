"""What could go wrong silently: errors in the middle of a step, gradients that are not what their memory says, groups
that trade parameters. Every case is compared with the eager backend or with torch doing the same."""

import threading

import pytest
import torch

import descend
from descend import Slot, global_norm, rule, stepping
from descend.backends.launches import Launch
from fused_optimizers import needs_kernels

pytestmark = needs_kernels


def parameter(*values):
    p = torch.nn.Parameter(torch.tensor(list(values)))
    p.grad = torch.ones_like(p)
    return p


def test_a_step_that_raises_leaves_no_stale_address_behind():
    a, b = parameter(1.0, 1.0), parameter(1.0, 1.0)
    opt = descend.Signum([a, b], lr=0.1, beta=0.0)
    opt.step()
    old, good = a.data, b.grad
    before = old.clone()
    a.data = torch.full((2,), 5.0)
    b.grad = None
    b.grad = torch.ones(2).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        opt.step()
    b.grad = None
    b.grad = good
    opt.step()
    torch.testing.assert_close(a.data, torch.full((2,), 4.9))
    assert torch.equal(old, before)


def test_numbers_of_a_step_that_raised_are_not_kept(monkeypatch):
    a = parameter(1.0)
    opt = descend.SGD([a], lr=0.1, clip_norm=100.0)
    opt.step()
    opt.param_groups[0]["lr"] = 7.0
    monkeypatch.setattr(stepping, "compute_first", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        opt.step()
    monkeypatch.undo()
    opt.param_groups[0]["lr"] = 0.1
    before = a.item()
    opt.step()
    assert a.item() == pytest.approx(before - 0.1)


def test_a_kernel_that_was_demanded_is_demanded_at_every_step():
    a, b = parameter(1.0, 1.0), parameter(1.0, 1.0)
    opt = descend.SGD([a, b], lr=0.1, fused=True)
    opt.step()
    b.data = a.data
    for _ in range(3):
        with pytest.raises(RuntimeError, match="overlaps"):
            opt.step()


@pytest.mark.parametrize("steps_before", [0, 1])
def test_gradients_that_are_negated_when_read(steps_before):
    a = parameter(1.0)
    a.data = a.data[0].clone()
    a.grad = torch.tensor(1.0)
    opt = descend.SGD([a], lr=0.1)
    for _ in range(steps_before):
        opt.step()
    a.grad = None
    z = torch.complex(torch.tensor(0.0), a)
    (z.conj() * torch.tensor(1 + 2j)).imag.backward()
    assert a.grad.is_neg()
    expected = a.item() - 0.1 * a.grad.clone().item()
    opt.step()
    assert a.item() == pytest.approx(expected)


@pytest.mark.parametrize("steps_before", [0, 1])
def test_gradients_of_zeros_without_memory(steps_before):
    a = parameter(1.0, 2.0)
    opt = descend.SGD([a], lr=0.1)
    for _ in range(steps_before):
        opt.step()
    before = a.detach().clone()
    a.grad = None
    a.grad = torch._efficientzerotensor((2,))
    opt.step()
    assert torch.equal(a, before)


def moved_into_another_group(opt):
    first, second = opt.param_groups
    second["params"].insert(0, first["params"].pop())


def first_group_taken_out(opt):
    del opt.param_groups[0]


@pytest.mark.parametrize("change", [moved_into_another_group, first_group_taken_out])
def test_parameters_step_by_the_numbers_of_their_group(change):
    results = []
    for backend in ("cpp", "eager"):
        a, b = parameter(1.0), parameter(1.0)
        opt = descend.SGD([{"params": [a], "lr": 0.1}, {"params": [b], "lr": 1.0}], backend=backend)
        opt.step()
        change(opt)
        opt.step()
        results.append((a.item(), b.item()))
    assert results[0] == pytest.approx(results[1])


@rule
def upward(p, g, *, lr=0.1):
    """Ascends."""
    return dict(p=p + lr * g)


def test_groups_replaced_by_one_of_another_rule():
    a = parameter(1.0)
    opt = descend.Optimizer([a], upward, lr=0.1)
    opt.step()
    opt.param_groups.clear()
    opt.add_param_group({"params": [a], "rule": descend.rules.sgd, "lr": 0.1})
    opt.step()
    assert a.item() == pytest.approx(1.0)


def test_tensors_in_a_tuple_change_in_place():
    beta, results = torch.tensor(0.9), []
    params = [parameter(1.0, 2.0) for _ in range(2)]
    opts = [
        descend.Adam([p], betas=(beta, torch.tensor(0.999)), backend=b)
        for p, b in zip(params, ("cpp", "eager"), strict=True)
    ]
    for step in range(3):
        for p, opt in zip(params, opts, strict=True):
            p.grad = torch.tensor([0.3, -0.2]) * (step + 1)
            opt.step()
        beta.fill_(0.1)
    results = [p.detach() for p in params]
    torch.testing.assert_close(*results)


@rule
def scaled(p, g, *, lr=0.1):
    """Divides by the norm of all gradients."""
    return dict(p=p - lr * g / global_norm(g))


def test_a_global_norm_counts_parameters_whose_first_gradient_comes_late_and_elsewhere():
    results = []
    for backend in ("auto", "eager"):
        a, b = parameter(1.0), parameter(1.0)
        opt = descend.Optimizer([{"params": [a]}, {"params": [b], "fused": False}], scaled, backend=backend)
        b.grad = None
        for _ in range(3):
            opt.step()
            b.grad = torch.ones(1)
        results.append((a.item(), b.item()))
    assert results[0] == pytest.approx(results[1])


@rule
def awkward(
    p, g, m_=Slot("a"), index=Slot("b"), union=Slot("c"), random_m=Slot("d"), INT8_MAX=Slot("e"), m=Slot("f"), *, lr=0.1
):
    """Names that C++ or the kernel has for something else."""
    nullptr = g + 1
    m, m_, index = m / 2 + nullptr, m_ + m, index + 1
    return dict(p=p - lr * (m + union), m=m, m_=m_, index=index, union=g, random_m=random_m + g, INT8_MAX=INT8_MAX + g)


def test_any_name_of_python_is_one_in_a_kernel():
    results = []
    for backend in ("cpp", "eager"):
        a = parameter(1.0, 2.0)
        opt = descend.Optimizer([a], awkward, backend=backend)
        opt.step()
        opt.step()
        results.append([a.detach(), *opt.state[a].values()])
    for kernel, eager in zip(*results, strict=True):
        torch.testing.assert_close(kernel, eager)


def test_single_numbers_of_low_precision_step_eagerly():
    a = parameter(1.0, 2.0)
    opt = descend.NAdam([a])
    opt.step()
    opt.state[a]["mu_product"] = opt.state[a]["mu_product"].bfloat16()
    opt.step()
    assert "mu_product" in opt._fused.reasons[id(a)]


def test_tables_last_while_gradients_take_turns(monkeypatch):
    builds, build = [], stepping.build
    monkeypatch.setattr(stepping, "build", lambda *args: builds.append(1) or build(*args))
    params = [parameter(1.0) for _ in range(4)]
    opt = descend.SGD(params, lr=0.1)
    for step in range(12):
        for i, p in enumerate(params):
            p.grad = torch.ones(1) if i == step % 4 else None
        opt.step()
    assert len(builds) == 1
    assert [p.item() for p in params] == pytest.approx([0.7] * 4)


def test_a_copy_is_not_made_of_averaged_weights():
    import copy

    a = parameter(1.0)
    opt = descend.SGD([a], ema_decay=0.5)
    opt.step()
    with opt.averaged(), pytest.raises(RuntimeError, match="averages"):
        copy.deepcopy(opt)


def test_a_gradient_that_another_thread_drops_during_the_step_is_held(monkeypatch):
    """Once its address is read; before that torch itself crashes, where one thread reads `grad` and another sets it."""
    p = torch.nn.Parameter(torch.zeros(8_000_000))
    opt = descend.SGD([p], lr=1.0)
    launched, finish = threading.Event(), Launch.finish
    monkeypatch.setattr(Launch, "finish", lambda self: (launched.set(), finish(self))[1])

    def drop():
        launched.wait(60)
        p.grad = None

    for _ in range(5):
        launched.clear()
        p.grad = torch.ones(8_000_000)
        dropping = threading.Thread(target=drop)
        dropping.start()
        opt.step()
        dropping.join()
    assert p.min().item() == p.max().item() == -5


def test_gradients_are_let_go_after_the_step():
    import weakref

    p = parameter(1.0, 2.0)
    opt = descend.SGD([p], lr=0.1)
    for _ in range(3):
        p.grad = torch.ones(2)
        gradient = weakref.ref(p.grad)
        opt.step()
        p.grad = None
        assert gradient() is None


@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_parameters_that_share_memory_step_one_after_the_other(backend):
    base = torch.ones(10)
    params = [torch.nn.Parameter(base[:6]), torch.nn.Parameter(base[4:])]
    for p in params:
        p.grad = torch.ones(6)
    descend.SGD(params, lr=0.1, backend=backend).step()
    torch.testing.assert_close(base, torch.tensor([0.9] * 4 + [0.8] * 2 + [0.9] * 4))
