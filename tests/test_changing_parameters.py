"""Parameters that come and go, freeze and thaw, and change their type in mid-run; complex ones."""

import copy

import pytest
import torch
from torch import nn

import descend
from descend import Slot, rule
from optimizers import ROWS, parameters, relative_difference, train

all_rows = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
with_twin = pytest.mark.parametrize("row", [row for row in ROWS if row.twin], ids=lambda row: row.name)


def network(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).to(dtype)


def step_on(model, optimizer, step):
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    optimizer.zero_grad()
    model(x.to(next(model.parameters()).dtype)).square().mean().backward()
    optimizer.step()


def both(row, train_with):
    """What a way of training makes of the weights with our class and with torch's."""
    results = []
    for cls in (row.ours, row.twin):
        model = network()
        train_with(cls, model)
        results.append([p.detach() for p in model.parameters()])
    return results


@with_twin
def test_frozen_and_thawed_as_in_torch(row, float64):
    def trained(cls, model):
        optimizer = cls(model.parameters(), lr=0.05)
        for step in range(12):
            model[0].requires_grad_(not 3 <= step < 8)
            step_on(model, optimizer, step)

    assert relative_difference(*both(row, trained)) < 1e-12


@with_twin
def test_groups_added_in_mid_run_as_in_torch(row, float64):
    def trained(cls, model):
        optimizer = cls(model[2].parameters(), lr=0.05)
        for step in range(12):
            if step == 4:
                optimizer.add_param_group({"params": model[0].parameters(), "lr": 0.01})
            step_on(model, optimizer, step)

    assert relative_difference(*both(row, trained)) < 1e-12


@with_twin
def test_gradients_that_are_absent_on_some_steps_as_in_torch(row, float64):
    def trained(cls, model):
        optimizer = cls(model.parameters(), lr=0.05)
        for step in range(12):
            x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
            optimizer.zero_grad()
            model(x).square().mean().backward()
            for i, p in enumerate(model.parameters()):
                if (step + i) % 3 == 0:
                    p.grad = None
            optimizer.step()

    assert relative_difference(*both(row, trained)) < 1e-12


@all_rows
@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize("other", [torch.float32, torch.bfloat16], ids=str)
def test_parameters_change_their_type_and_state_keeps_its_own(row, backend, other):
    model, wide = network(), network()
    optimizer, reference = (row.ours(m.parameters(), lr=0.01, backend=backend) for m in (model, wide))
    for step in range(6):
        if step == 3:
            model.to(other)
        step_on(model, optimizer, step)
        step_on(wide, reference, step)
    slots = [x for entry in optimizer.state.values() for k, x in entry.items() if x.ndim and k != "step"]
    assert all(x.dtype is torch.float64 for x in slots)
    params, exact = ([p.detach().double() for p in m.parameters()] for m in (model, wide))
    assert relative_difference(params, exact) < (0.3 if other is torch.bfloat16 else 1e-3)
    assert all(p.dtype is other for p in model.parameters())


def test_a_parameter_that_moved_takes_its_state_along_or_says_why_not():
    p = torch.ones(3, requires_grad=True)
    optimizer = descend.AdamW([p])
    train(optimizer, [p], range(2))
    for key in ("exp_avg", "exp_avg_sq"):
        optimizer.state[p][key] = optimizer.state[p][key].to("meta")
    p.grad = torch.ones(3)
    before = p.detach().clone()
    with pytest.raises(RuntimeError, match=r"'exp_avg'.*on meta.*load the state dict after"):
        optimizer.step()
    assert torch.equal(p, before)
    assert optimizer.applied_steps == 2


# --- complex ---------------------------------------------------------------------------------------------------------


@rule
def reduces(p, g, m=Slot("m"), *, lr=0.1):
    m = m + g / (1 + descend.norm(g)) + descend.mean(abs(g)) * g
    return dict(p=p - lr * m / p.numel, m=m)


def test_reductions_of_complex_tensors_count_complex_numbers(float64):
    p = torch.tensor([1 + 2j, -3 + 0.5j, 0.25j], dtype=torch.complex128, requires_grad=True)
    g = torch.tensor([0.5 - 1j, 2j, 3 + 0j], dtype=torch.complex128)
    p.grad = g
    before = p.detach().clone()
    descend.Optimizer([p], reduces).step()
    mean = (g.real.abs() + g.imag.abs()).sum() / 3  # of 3 numbers, not of 6
    m = g / (1 + torch.linalg.vector_norm(g)) + mean * g
    torch.testing.assert_close(p.detach(), before - 0.1 * m / 3, rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", ["Adagrad", "Rprop"])
def test_first_values_have_both_parts_as_in_torch(name):
    options = {"initial_accumulator_value": 0.3} if name == "Adagrad" else {"lr": 0.3}
    key = "sum" if name == "Adagrad" else "step_size"
    p = torch.ones(2, dtype=torch.complex128, requires_grad=True)
    q = p.detach().clone().requires_grad_()
    p.grad, q.grad = torch.full_like(p, 0.5 + 1j), torch.full_like(q, 0.5 + 1j)
    ours, theirs = getattr(descend, name)([p], **options), getattr(torch.optim, name)([q], **options)
    ours.step()
    theirs.step()
    assert torch.equal(ours.state[p][key], theirs.state[q][key])
    assert ours.state[p][key].dtype is torch.complex128


@all_rows
def test_complex_state_resumes(row, float64):
    def trained(optimizer, p, steps):
        for step in steps:
            p.grad = torch.complex(torch.sin(torch.arange(4.0) + step), torch.cos(torch.arange(4.0) * step))
            optimizer.step()

    whole = torch.ones(4, dtype=torch.complex128, requires_grad=True)
    trained(row.ours([whole]), whole, range(8))
    p = torch.ones(4, dtype=torch.complex128, requires_grad=True)
    first = row.ours([p])
    trained(first, p, range(4))
    q = p.detach().clone().requires_grad_()
    second = row.ours([q])
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    trained(second, q, range(4, 8))
    assert torch.equal(q, whole)


def test_frozen_parameters_may_be_given_at_once():
    params = parameters()
    params[0].requires_grad_(False)
    optimizer = descend.AdamW(params, fused=None)
    for p in params[1:]:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert params[0] not in optimizer.state
