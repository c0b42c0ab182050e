"""AdamWR and SGDWR against the paper's algorithms in straight lines."""

import itertools
import math

import pytest
import torch

from descend import Adam, presets
from descend.schedules import warm_restarts

PERIOD, MULT, STEPS, NORMALIZED = 7, 2, 60, 0.3


def gradients():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(5, generator=generator, dtype=torch.float64) for _ in range(STEPS)]


def runs():
    """T_cur and T_i of every step, by counting."""
    length, position = PERIOD, 0
    for _ in range(STEPS):
        yield position, length
        position += 1
        if position == length:
            length, position = MULT * length, 0


def trained(make, **arguments):
    parameter = torch.nn.Parameter(torch.linspace(-1, 1, 5, dtype=torch.float64))
    optimizer = make([parameter], PERIOD, MULT, weight_decay=NORMALIZED, **arguments)
    path = []
    for gradient in gradients():
        parameter.grad = gradient.clone()
        optimizer.step()
        path.append(parameter.detach().clone())
    return torch.stack(path)


def test_adamwr_is_algorithm_2_with_appendix_b():
    p = torch.linspace(-1, 1, 5, dtype=torch.float64)
    m, v, path = torch.zeros_like(p), torch.zeros_like(p), []
    for t, (g, (position, length)) in enumerate(zip(gradients(), runs(), strict=True), 1):
        eta = 0.5 + 0.5 * math.cos(math.pi * position / length)
        decay = NORMALIZED * math.sqrt(1 / length)  # b / (B T_i): one over the steps of the run
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        hat_m, hat_v = m / (1 - 0.9**t), v / (1 - 0.999**t)
        p = p - eta * (0.01 * hat_m / (hat_v.sqrt() + 1e-8) + decay * p)
        path.append(p)
    torch.testing.assert_close(trained(presets.adamwr, lr=0.01), torch.stack(path), rtol=1e-12, atol=1e-12)


def test_sgdwr_is_algorithm_1_with_appendix_b():
    p = torch.linspace(-1, 1, 5, dtype=torch.float64)
    m, path = torch.zeros_like(p), []
    for g, (position, length) in zip(gradients(), runs(), strict=True):
        eta = 0.5 + 0.5 * math.cos(math.pi * position / length)
        m = 0.8 * m + eta * 0.02 * g
        p = p - m - eta * NORMALIZED * math.sqrt(1 / length) * p
        path.append(p)
    torch.testing.assert_close(trained(presets.sgdwr, lr=0.02, momentum=0.8), torch.stack(path), rtol=1e-12, atol=1e-12)


def test_recommended_solutions_stand_at_the_ends_of_runs():
    ends = list(itertools.islice(warm_restarts(100, mult=2).cycles(), 4))
    assert ends == [100, 300, 700, 1500]
    eta = warm_restarts(100, mult=2)
    assert [eta(end) for end in ends] == [1.0] * 4
    assert all(eta(math.nextafter(end, 0)) < 1e-12 for end in ends)


@pytest.mark.parametrize("make", [presets.adamwr, presets.sgdwr])
def test_the_optimizer_tells_where_runs_end(make):
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = make([parameter], 5, 2)
    marked = [] if not optimizer.at_cycle_end else [0]
    for step in range(1, 80):
        parameter.grad = torch.ones(3)
        optimizer.step()
        if optimizer.at_cycle_end:
            marked.append(step)
    assert marked == [5, 15, 35, 75]


def test_the_end_of_a_run_is_one_of_any_schedule_in_a_tuple_or_group_too():
    first, second = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    groups = [{"params": [first]}, {"params": [second], "betas": (0.9 * warm_restarts(3), 0.999)}]
    optimizer = Adam(groups, lr=1e-3 * warm_restarts(4), step=9)
    assert optimizer.at_cycle_end
    assert [Adam([first], lr=1e-3 * warm_restarts(4), step=step).at_cycle_end for step in (7, 8)] == [False, True]
    assert not Adam([first]).at_cycle_end


@pytest.mark.parametrize("make", [presets.adamwr, presets.sgdwr])
def test_a_group_s_own_decay_is_normalised_too(make):
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], **own} for own in ({}, {"weight_decay": 0.3}, {"lr": 1})]
    groups.append({"params": [torch.nn.Parameter(torch.ones(1))], "weight_decay": 0})
    optimizer = make(iter(groups), 100, 2, weight_decay=0.1)
    assert [group["weight_decay"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.03, 0.01, 0])
    assert groups[1]["weight_decay"] == 0.3


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"period": 0}, ValueError, "adamwr: period must be a whole number from 1 up; got 0"),
        ({"weight_decay": "x"}, TypeError, "adamwr: weight_decay must be a finite number from 0 up"),
        ({"weight_decay": math.nan}, ValueError, "adamwr: weight_decay must be a finite number from 0 up"),
        ({"params": torch.ones(3)}, TypeError, r"write \[tensor\] for a single parameter"),
        ({"params": 3}, TypeError, "should be an iterable of Tensors or dicts, not int"),
        ({"mult": 0.5}, ValueError, "mult must be 1 or more; got 0.5"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        presets.adamwr(**{"params": [torch.nn.Parameter(torch.ones(1))], "period": 10, **arguments})


def test_the_sheet_s_example_of_normalised_decay():
    steps = 100 * 50_000 / 128
    assert 0.025 * math.sqrt(128 / (50_000 * 100)) == pytest.approx(1.265e-4, rel=1e-3)
    assert presets.torch_weight_decay(0.025, steps, 1e-3) == pytest.approx(0.126, rel=5e-3)
    with pytest.raises(ValueError, match=r"steps must be a finite number above 0; got 0"):
        presets.torch_weight_decay(0.025, 0, 0.1)


def test_torch_decays_as_much_with_the_converted_decay():
    """A weight without gradient, at the peak of a run."""
    ours, theirs = (torch.nn.Parameter(torch.ones(1, dtype=torch.float64)) for _ in range(2))
    ours.grad = theirs.grad = torch.zeros(1, dtype=torch.float64)
    presets.adamwr([ours], 400, lr=2e-3, weight_decay=0.05).step()
    torch.optim.AdamW([theirs], lr=2e-3, weight_decay=presets.torch_weight_decay(0.05, 400, 2e-3)).step()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-15)
