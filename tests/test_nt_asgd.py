"""NT-ASGD beside the authors' loop in straight lines, with torch's SGD and ASGD."""

import copy
import itertools
import math
import statistics

import pytest
import torch
from torch import nn

import descend
from descend.nt_asgd import NTASGD, sequence_lengths
from descend.schedules import cosine

LOSSES = [
    5.0,
    4.0,
    3.0,
    3.5,
    3.2,
    3.1,
    2.9,
    3.05,
    3.2,
    3.3,
]  # with n = 2 the sixth is above the least of the first three
EVERY = 3  # steps per evaluation


def made():
    torch.manual_seed(0)
    return nn.Linear(4, 3).double()


def batch(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 4, generator=generator).double(), torch.randn(8, 3, generator=generator).double()


def backward(model, step):
    inputs, targets = batch(step)
    model.zero_grad()
    nn.functional.mse_loss(model(inputs), targets).backward()


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def authors(lr=0.1, weight_decay=0.0, n=2):
    """The trigger and the switch as in their main loop; the step at which it switched, weights and averages."""
    model, logs, switched, path = made(), [], None, []
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, weight_decay=weight_decay)
    for epoch, loss in enumerate(LOSSES):
        for step in range(EVERY * epoch, EVERY * (epoch + 1)):
            backward(model, step)
            optimizer.step()
        path.append(weights(model))
        if switched is not None:
            path[-1] = torch.cat([path[-1], *(optimizer.state[p]["ax"].flatten() for p in model.parameters())])
        elif len(logs) > n and loss > min(logs[:-n]):
            optimizer = torch.optim.ASGD(model.parameters(), lr=lr, t0=0, lambd=0.0, weight_decay=weight_decay)
            switched = epoch
        logs.append(loss)
    return switched, path


@pytest.mark.parametrize("make", [torch.optim.SGD, descend.SGD])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_the_authors_loop(make, weight_decay):
    expected_switch, expected = authors(weight_decay=weight_decay)
    model, switched = made(), None
    averaging = NTASGD(make(model.parameters(), lr=0.1, weight_decay=weight_decay), n=2)
    for epoch, loss in enumerate(LOSSES):
        for step in range(EVERY * epoch, EVERY * (epoch + 1)):
            backward(model, step)
            averaging.step()
        now = weights(model)
        with averaging.averaged():
            if switched is not None:
                assert not torch.equal(weights(model), now)
                now = torch.cat([now, weights(model)])
        torch.testing.assert_close(now, expected[epoch], rtol=1e-12, atol=1e-12)
        assert torch.equal(weights(model), now[: weights(model).numel()])
        if averaging.note(loss):
            assert switched is None
            switched = epoch
    assert switched == expected_switch == 5
    assert averaging.triggered
    assert isinstance(averaging.optimizer, descend.ASGD)


def test_the_average_is_the_mean_from_the_second_iterate_on():
    model = made()
    averaging = NTASGD(descend.SGD(model.parameters(), lr=0.1), n=1)
    for loss in (1.0, 2.0, 3.0):
        averaging.note(loss)
    assert averaging.triggered
    iterates = []
    for step in range(7):
        backward(model, step)
        averaging.step()
        iterates.append(weights(model))
    with averaging.averaged():
        torch.testing.assert_close(weights(model), torch.stack(iterates[1:]).mean(0), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("make", [torch.optim.SGD, descend.SGD])
@pytest.mark.parametrize("triggered", [False, True])
def test_rates_of_other_lengths_count_in_time(make, triggered):
    """theta <- theta - share * lr * g, with the share of this very step, before and after the trigger."""
    model = made()
    averaging = NTASGD(make(model.parameters(), lr=0.1), n=1)
    for loss in (1.0, 2.0, 3.0) if triggered else ():
        averaging.note(loss)
    for step, share in enumerate((1.0, 0.5, 0.25, 1.3, 1.0)):
        backward(model, step)
        expected = weights(model) - share * 0.1 * torch.cat([p.grad.flatten() for p in model.parameters()])
        with averaging.rate_scaled(share):
            averaging.step()
        torch.testing.assert_close(weights(model), expected, rtol=1e-6, atol=1e-8)  # eta is kept in float32
        assert averaging.optimizer.param_groups[0]["lr"] == 0.1


def test_schedules_options_names_and_groups_are_taken_over():
    model = made()
    named = [{"params": [("w", model.weight)], "lr": 0.2 * cosine(50)}, {"params": [("b", model.bias)]}]
    averaging = NTASGD(descend.SGD(named, lr=0.1, weight_decay=0.01, clip_norm=0.25), n=1)
    backward(model, 0)
    averaging.step()
    for loss in (1.0, 2.0, 3.0):
        averaging.note(loss)
    now = averaging.optimizer
    assert (now.options.clip_norm, now.applied_steps) == (0.25, 1)
    assert [group["lr"] for group in now.param_groups] == [0.2 * cosine(50)(1), 0.1]
    assert [group["param_names"] for group in now.param_groups] == [["w"], ["b"]]
    assert {(group["weight_decay"], group["lambd"], group["t0"]) for group in now.param_groups} == {(0.01, 0.0, 0)}
    with averaging.rate_scaled(0.5):
        assert now.param_groups[0]["lr"] == 0.5 * (0.2 * cosine(50)(1))
        averaging.step()
    assert now.param_groups[0]["lr"] == 0.2 * cosine(50)(2)


@pytest.mark.parametrize("at", [2, 8])
def test_a_resumed_run_ends_as_an_uninterrupted_one(at):
    def run(model, averaging, epochs):
        for epoch in epochs:
            for step in range(EVERY * epoch, EVERY * (epoch + 1)):
                backward(model, step)
                averaging.step()
            averaging.note(LOSSES[epoch])

    model = made()
    averaging = NTASGD(descend.SGD(model.parameters(), lr=0.1), n=2)
    run(model, averaging, range(at))
    saved = copy.deepcopy((model.state_dict(), averaging.state_dict(), averaging.optimizer.state_dict()))
    run(model, averaging, range(at, 10))

    again = made()
    resumed = NTASGD(descend.SGD(again.parameters(), lr=0.1), n=2)
    again.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    resumed.optimizer.load_state_dict(saved[2])
    run(again, resumed, range(at, 10))
    assert resumed.triggered
    assert torch.equal(weights(again), weights(model))
    with resumed.averaged(), averaging.averaged():
        assert torch.equal(weights(again), weights(model))


def test_losses_that_are_no_numbers_never_trigger():
    averaging = NTASGD(descend.SGD(made().parameters(), lr=0.1), n=1)
    assert not any(map(averaging.note, (math.nan, 1.0, math.nan, math.nan)))
    assert averaging.note(2.0)
    assert not averaging.note(3.0)  # once


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: NTASGD(descend.Adam(p)), TypeError, "optimizer is Adam; give SGD, torch's or descend's"),
        (lambda p: NTASGD(torch.optim.AdamW(p)), TypeError, "optimizer is AdamW; give SGD"),
        (lambda p: NTASGD(descend.SGD(p, momentum=0.9)), ValueError, "has momentum, and ASGD has none"),
        (lambda p: NTASGD(descend.SGD(p, ema_decay=0.9)), ValueError, "build SGD without ema_decay"),
        (lambda p: NTASGD(descend.SGD(p), n=0), ValueError, "n must be a whole number from 1 up; got 0"),
        (lambda p: NTASGD(descend.SGD(p)).load_state_dict({}), ValueError, "the state lacks losses, triggered"),
        (
            lambda p: NTASGD(descend.SGD(p)).rate_scaled(0).__enter__(),
            ValueError,
            "share must be a finite number above 0",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make(list(made().parameters()))


def test_a_trigger_is_not_taken_back():
    averaging = NTASGD(descend.SGD(made().parameters(), lr=0.1), n=1)
    before = averaging.state_dict()
    for loss in (1.0, 2.0, 3.0):
        averaging.note(loss)
    with pytest.raises(ValueError, match="the state is from before the trigger"):
        averaging.load_state_dict(before)


def test_lengths_are_drawn_as_published():
    drawn = list(itertools.islice(sequence_lengths(70, seed=3), 20_000))
    assert drawn == list(itertools.islice(sequence_lengths(70, seed=3), 20_000))
    assert drawn != list(itertools.islice(sequence_lengths(70, seed=4), 20_000))
    assert all(isinstance(length, int) and length >= 5 for length in drawn)
    short = [length for length in drawn if length < 52]
    assert len(short) / len(drawn) == pytest.approx(0.05, abs=0.006)
    assert statistics.fmean(short) == pytest.approx(34.5, abs=0.6)  # rounded down
    usual = [length for length in drawn if length >= 52]
    assert (statistics.fmean(usual), statistics.stdev(usual)) == pytest.approx((69.5, 5), abs=0.15)
    assert min(itertools.islice(sequence_lengths(5), 200)) == 5
