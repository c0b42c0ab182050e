"""capturable=True: counts and rate stay in tensors, and a step reads none of them, so that a graph can capture it."""

import copy

import pytest
import torch

import descend
from descend import schedules
from optimizers import ROWS, gradients, parameters, relative_difference, train

PER_PARAMETER = [row for row in ROWS if not row.looks_at_all]  # the others keep plain numbers, and are refused
all_rows = pytest.mark.parametrize("row", PER_PARAMETER, ids=lambda row: row.name)
READERS = ("item", "__float__", "__int__", "__bool__", "__index__", "tolist", "numpy")


@pytest.fixture
def step_that_reads_no_number(monkeypatch):
    """Takes a step in which reading a number out of a tensor raises: on an accelerator no graph could capture it."""

    def refuse(*_):
        raise AssertionError("a number was read from a tensor")

    def step(optimizer, params, number):
        for p, g in zip(params, gradients(number, params), strict=True):
            p.grad = g
        # checks of values are for tensors on the CPU, where reading costs nothing
        monkeypatch.setattr("descend.hyper_parameters._check_number", lambda *_: None)
        for name in READERS:
            monkeypatch.setattr(torch.Tensor, name, refuse)
        optimizer.step()
        monkeypatch.undo()

    return step


@all_rows
@pytest.mark.parametrize("foreach", [True, False])
def test_a_step_reads_no_number(row, foreach, step_that_reads_no_number, float64):
    for options in row.combinations():
        params = parameters()
        optimizer = row.ours(params, capturable=True, foreach=foreach, backend="eager", **options)
        train(optimizer, params, range(2))
        step_that_reads_no_number(optimizer, params, 2)
        assert optimizer.applied_steps == 3


@all_rows
@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_equals_the_plain_step(row, backend, float64):
    for options in row.combinations():
        params, plain = parameters(), parameters()
        train(row.ours(params, capturable=True, backend=backend, **options), params, range(9))
        train(row.ours(plain, backend=backend, **options), plain, range(9))
        assert relative_difference(params, plain) < 1e-13, options


@pytest.mark.parametrize("options", [{"clip_norm": 0.1}, {"clip_value": 0.1}, {"ema_decay": 0.9}])
def test_options_read_no_number(options, step_that_reads_no_number):
    params, plain = parameters(), parameters()
    optimizer = descend.NAdam(params, capturable=True, backend="eager", **options)
    train(optimizer, params, range(3))
    step_that_reads_no_number(optimizer, params, 3)
    train(descend.NAdam(plain, **options), plain, range(4))
    assert relative_difference(params, plain) < 1e-6


def test_large_tensors_are_cut_with_their_own_counts(float64):
    def stepped(**options):
        p = [torch.ones(300_000, requires_grad=True), torch.ones(300_000, requires_grad=True)]
        optimizer = descend.AdamW(p, lr=0.1, backend="eager", **options)
        for step in range(3):
            p[0].grad = torch.full_like(p[0], step + 0.5)
            p[1].grad = None if step == 1 else torch.full_like(p[1], step - 0.5)
            optimizer.step()
        return p

    assert relative_difference(stepped(capturable=True), stepped()) < 1e-13


def test_the_rate_is_a_tensor_that_schedulers_write_in_place():
    params = parameters()
    optimizer = descend.AdamW(params, lr=0.1, capturable=True)
    rate = optimizer.param_groups[0]["lr"]
    assert isinstance(rate, torch.Tensor)
    assert rate.item() == 0.1
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    train(optimizer, params, range(1))
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == 0.05


@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_a_schedule_writes_the_rate_in_place(backend, recwarn):
    params, plain = parameters(), parameters()
    schedule = 0.1 * schedules.cosine(10)
    optimizer = descend.AdamW(params, lr=schedule, capturable=True, backend=backend)
    other = descend.AdamW(plain, lr=schedule, backend=backend)
    rate = optimizer.param_groups[0]["lr"]
    for step in range(6):
        train(optimizer, params, range(step, step + 1))
        train(other, plain, range(step, step + 1))
        assert optimizer.param_groups[0]["lr"] is rate
        assert rate.item() == other.param_groups[0]["lr"]
    assert relative_difference(params, plain) < 1e-6
    assert not recwarn


def test_a_foreign_number_in_the_scheduled_tensor_is_used_until_it_is_taken_back():
    params = parameters()
    optimizer = descend.SGD(params, lr=0.1 * schedules.linear(10), capturable=True)
    train(optimizer, params, range(2))
    rate = optimizer.param_groups[0]["lr"]
    scheduled = rate.item()
    rate.fill_(0.5)
    with pytest.warns(UserWarning, match="set_schedule"):
        train(optimizer, params, range(2, 3))
    assert rate.item() == 0.5
    rate.fill_(scheduled)
    train(optimizer, params, range(3, 4))
    assert rate.item() == 0.1 * schedules.linear(10)(4)


def test_set_schedule_keeps_a_tensor():
    optimizer = descend.SGD(parameters(), lr=0.1, capturable=True)
    optimizer.set_schedule("lr", 0.3)
    assert optimizer.param_groups[0]["lr"].item() == 0.3


@all_rows
def test_state_moves_between_capturable_and_plain(row, float64):
    whole, params = parameters(), parameters()
    train(row.ours(whole), whole, range(8))
    first = row.ours(params, capturable=True, backend="eager")
    train(first, params, range(4))
    second = row.ours(params)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert second.param_groups[0]["capturable"]  # as in torch, the loaded group's flags hold
    for group in second.param_groups:
        group["capturable"] = False
    train(second, params, range(4, 8))
    assert relative_difference(params, whole) < 1e-13


def test_counts_stand_on_the_parameter_s_device():
    p = torch.zeros(3, device="meta", requires_grad=True)
    p.grad = torch.zeros(3, device="meta")
    optimizer = descend.NAdam([p], capturable=True)
    optimizer.step()
    assert optimizer.state[p]["step"].device.type == "meta"
    assert optimizer.state[p]["mu_product"].device.type == "meta"
    assert optimizer.param_groups[0]["lr"].item() == 2e-3  # a number would be lost on meta
