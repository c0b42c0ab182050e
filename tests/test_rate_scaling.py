"""One step at other rates: beside loops in straight lines, and everything else as it was."""

import itertools

import pytest
import torch
from torch import nn

import descend
from descend.rate_scaling import rate_scaled
from descend.schedules import cosine

SHARES = (1.0, 0.5, 0.25, 1.3, 1.0, 0.7)
OURS = [name for name in descend.optim.classes if name != "Rprop"]


def made():
    torch.manual_seed(0)
    return nn.Linear(4, 3).double()


def backward(model, step):
    generator = torch.Generator().manual_seed(step)
    inputs, targets = (torch.randn(8, width, generator=generator).double() for width in (4, 3))
    model.zero_grad()
    nn.functional.mse_loss(model(inputs), targets).backward()


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def scaled(model, optimizer):
    """The weights after steps at rates that are scaled."""
    for step, share in enumerate(SHARES):
        backward(model, step)
        with rate_scaled(optimizer, share):
            optimizer.step()
    return weights(model)


def by_hand(model, optimizer, rate):
    """The same with torch's optimizer, the rate written before each step."""
    for step, share in enumerate(SHARES):
        backward(model, step)
        for group in optimizer.param_groups:
            group["lr"] = share * rate(step)
        optimizer.step()
    return weights(model)


@pytest.mark.parametrize("rate", [0.1, 0.1 * cosine(9)], ids=["constant", "scheduled"])
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_steps_are_those_of_torch_with_the_rate_written_by_hand(name, rate):
    theirs, model = made(), made()
    number = rate if callable(rate) else lambda step: rate
    expected = by_hand(theirs, getattr(torch.optim, name)(theirs.parameters()), number)
    optimizer = getattr(descend, name)(model.parameters(), lr=rate)
    torch.testing.assert_close(scaled(model, optimizer), expected, rtol=1e-12, atol=1e-14)
    assert optimizer.param_groups[0]["lr"] == number(len(SHARES))
    assert optimizer.applied_steps == len(SHARES)


@pytest.mark.parametrize("name", ["SGD", "AdamW", "ASGD", "Adafactor"])
def test_an_optimizer_of_torch_is_scaled_as_ours(name):
    theirs, model = made(), made()
    cls = getattr(torch.optim, name)
    optimizer = cls(model.parameters(), lr=0.1)
    found = scaled(model, optimizer)
    assert optimizer.param_groups[0]["lr"] == 0.1
    if hasattr(descend, name):
        expected = scaled(theirs, getattr(descend, name)(theirs.parameters(), lr=0.1))
    else:
        expected = by_hand(theirs, cls(theirs.parameters(), lr=0.1), lambda step: 0.1)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("make", [torch.optim.ASGD, descend.ASGD])
def test_asgd_is_scaled_in_time_while_its_rate_falls(make):
    """theta <- theta (1 - lambd eta) - eta g with eta = share * lr / (1 + lambd lr t)^alpha, t from 0."""
    lr, lambd, alpha = 0.2, 0.3, 0.75
    model = made()
    optimizer = make(model.parameters(), lr=lr, lambd=lambd, alpha=alpha)
    for t, share in enumerate(SHARES):
        backward(model, t)
        eta = share * lr / (1 + lambd * lr * t) ** alpha
        expected = weights(model) * (1 - lambd * eta) - eta * torch.cat([p.grad.flatten() for p in model.parameters()])
        with rate_scaled(optimizer, share):
            optimizer.step()
        torch.testing.assert_close(weights(model), expected, rtol=1e-6, atol=1e-8)  # eta is kept in float32


@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("name", OURS)
def test_a_share_of_1_changes_nothing(name, scheduled):
    def run(through):
        model = made()
        rate = 0.01 * cosine(9) if scheduled and name != "ASGD" else 0.01
        params = descend.groups.matrices(model) if name == "Muon" else model.parameters()
        optimizer = getattr(descend, name)(params, lr=rate)
        for step in range(4):
            backward(model, step)
            through(optimizer)
        return weights(model), optimizer.param_groups[0]["lr"]

    def in_scaled(optimizer):
        with rate_scaled(optimizer, 1.0):
            optimizer.step()

    (found, rate), (expected, expected_rate) = run(in_scaled), run(lambda optimizer: optimizer.step())
    assert torch.equal(found, expected)
    assert rate == expected_rate


def test_groups_are_scaled_each_by_its_own_rate_and_a_schedule_stays():
    model = made()
    optimizer = descend.SGD([{"params": [model.weight], "lr": 0.2 * cosine(50)}, {"params": [model.bias]}], lr=0.1)
    backward(model, 0)
    with rate_scaled(optimizer, 0.5):
        assert [group["lr"] for group in optimizer.param_groups] == [0.5 * (0.2 * cosine(50)(0)), 0.05]
        optimizer.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.2 * cosine(50)(1), 0.1]


@pytest.mark.parametrize("rate", [0.2, 0.2 * cosine(50), torch.tensor(0.2)], ids=["number", "schedule", "tensor"])
def test_rates_are_put_back_where_no_step_was_taken(rate):
    model = made()
    optimizer = descend.SGD(model.parameters(), lr=rate)
    before = optimizer.param_groups[0]["lr"]

    def fail():
        with rate_scaled(optimizer, 0.5):
            assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.1)
            raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            fail()
        assert optimizer.param_groups[0]["lr"] is before or optimizer.param_groups[0]["lr"] == before
        assert float(before) == pytest.approx(0.2)


@pytest.mark.parametrize("make", [torch.optim.SGD, descend.SGD])
def test_a_tensor_that_groups_share_is_scaled_once(make):
    model, rate = made(), torch.tensor(0.2, dtype=torch.float64)
    optimizer = make([{"params": [model.weight]}, {"params": [model.bias]}], lr=rate)
    held = [group["lr"] for group in optimizer.param_groups]
    with rate_scaled(optimizer, 0.5):
        assert [float(group["lr"]) for group in optimizer.param_groups] == [0.1, 0.1]
    assert all(group["lr"] is tensor for group, tensor in zip(optimizer.param_groups, held, strict=True))
    assert [float(tensor) for tensor in held] == [0.2, 0.2]


def test_gradients_flow_through_a_rate():
    p, rate = nn.Parameter(torch.ones(3)), torch.tensor(0.2, requires_grad=True)
    optimizer = torch.optim.SGD([p], lr=rate, differentiable=True, foreach=False)
    moved = p.clone()
    optimizer.param_groups[0]["params"][0] = moved
    moved.grad = torch.full((3,), 2.0)
    with rate_scaled(optimizer, 0.5):
        optimizer.step()
    assert optimizer.param_groups[0]["lr"] is rate
    moved.sum().backward()
    assert float(rate.grad) == -3.0


def test_a_foreign_number_beside_a_schedule_is_scaled_and_stays():
    model = made()
    optimizer = descend.SGD(model.parameters(), lr=0.2 * cosine(50))
    optimizer.param_groups[0]["lr"] = 0.4
    backward(model, 0)
    expected = weights(model) - 0.2 * torch.cat([p.grad.flatten() for p in model.parameters()])
    with pytest.warns(UserWarning, match="while a schedule drives it"), rate_scaled(optimizer, 0.5):
        optimizer.step()
    torch.testing.assert_close(weights(model), expected)
    assert optimizer.param_groups[0]["lr"] == 0.4


def test_a_run_continued_from_its_state_takes_the_same_steps():
    def run(model, optimizer, steps):
        for step, share in itertools.islice(enumerate(SHARES), *steps):
            backward(model, step)
            with rate_scaled(optimizer, share):
                optimizer.step()

    whole, again = made(), made()
    optimizer = descend.AdamW(whole.parameters(), lr=0.1 * cosine(9))
    run(whole, optimizer, (0, 3))
    again.load_state_dict(whole.state_dict())
    resumed = descend.AdamW(again.parameters(), lr=0.1 * cosine(9))
    resumed.load_state_dict(optimizer.state_dict())
    run(whole, optimizer, (3, 6))
    run(again, resumed, (3, 6))
    assert torch.equal(weights(whole), weights(again))


@pytest.mark.parametrize(
    ("share", "error", "message"),
    [
        (0, ValueError, "share must be a finite number above 0; got 0"),
        (-1.0, ValueError, "share must be a finite number above 0; got -1.0"),
        (float("nan"), ValueError, "share must be a finite number above 0; got nan"),
        ("half", TypeError, "share must be a finite number above 0; got 'half'"),
    ],
)
def test_what_is_no_share_is_refused(share, error, message):
    optimizer = descend.SGD(made().parameters(), lr=0.1)
    with pytest.raises(error, match=message), rate_scaled(optimizer, share):
        pass
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_an_optimizer_without_a_rate_is_refused():
    class Rateless(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {})

    with (
        pytest.raises(TypeError, match="optimizer's group 0 has no 'lr' to multiply"),
        rate_scaled(Rateless(made().parameters()), 0.5),
    ):
        pass
