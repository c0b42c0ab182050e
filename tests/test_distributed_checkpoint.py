"""torch.distributed.checkpoint reads and writes an optimizer that has no state by a step for the state alone."""

import copy
import warnings

import pytest
import torch
from torch import nn

import descend
from descend import schedules
from optimizers import ROWS

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torch.distributed", "ignore::FutureWarning")

all_rows = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def trained(model, optimizer, steps):
    for step in steps:
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    optimizer.zero_grad()


def built(row, model, rate=0.01, **options):
    return row.ours(model.named_parameters(), lr=rate, **options)


def same_bits(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@all_rows
@pytest.mark.parametrize("rate", [0.01, 0.01 * schedules.linear(20), 0.01 * schedules.warmup(5)], ids=str)
def test_reading_changes_nothing(row, rate):
    model, twin = network(), network()
    optimizer, alone = built(row, model, rate, weight_decay=0.1), built(row, twin, rate, weight_decay=0.1)
    before = optimizer.param_groups[0]["lr"]
    get_optimizer_state_dict(model, optimizer)
    assert same_bits(model, twin)
    assert optimizer.applied_steps == 0
    assert optimizer.param_groups[0]["lr"] == before
    assert all(entry.get("step", 0) == 0 for entry in optimizer.state.values())
    trained(model, optimizer, range(6))
    trained(twin, alone, range(6))
    assert same_bits(model, twin)
    assert optimizer.applied_steps == 6


@all_rows
@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.9}, {"momentum": 0.9}], ids=str)
def test_a_checkpoint_resumes_bit_for_bit(row, options):
    options = {k: v for k, v in options.items() if k == "ema_decay" or k in row.ours.rule.hyper_parameters}
    rate = 0.01 * schedules.cosine(30)
    whole = network()
    trained(whole, built(row, whole, rate, **options), range(10))
    model = network()
    first = built(row, model, rate, **options)
    trained(model, first, range(6))
    state = copy.deepcopy(get_optimizer_state_dict(model, first))
    resumed = network(1)
    resumed.load_state_dict(model.state_dict())
    second = built(row, resumed, rate, **options)
    set_optimizer_state_dict(resumed, second, state)
    assert same_bits(resumed, model)
    assert second.applied_steps == 6
    assert second.param_groups[0]["lr"] == first.param_groups[0]["lr"]
    trained(resumed, second, range(6, 10))
    assert same_bits(resumed, whole)


@all_rows
@pytest.mark.parametrize("flat", [False, True], ids=["nested", "flat"])
def test_a_checkpoint_is_read_into_what_a_fresh_optimizer_gives(row, flat, tmp_path):
    """The way of torch's tutorial: the state of the fresh optimizer is the template that the files are read into."""
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    numbers = {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}
    numbers = {name: x for name, x in numbers.items() if name in row.ours.rule.hyper_parameters}
    whole = network()
    trained(whole, row.ours(whole.parameters(), lr=0.01, **numbers), range(8))
    model = network()
    first = row.ours(model.parameters(), lr=0.01, **numbers)
    trained(model, first, range(5))
    checkpoint.save({"opt": get_optimizer_state_dict(model, first, options=options)}, checkpoint_id=tmp_path)
    resumed = network(1)
    resumed.load_state_dict(model.state_dict())
    second = row.ours(resumed.parameters(), lr=0.01, **numbers)
    template = {"opt": get_optimizer_state_dict(resumed, second, options=options)}
    checkpoint.load(template, checkpoint_id=tmp_path)
    set_optimizer_state_dict(resumed, second, template["opt"], options=options)
    trained(resumed, second, range(5, 8))
    assert same_bits(resumed, whole)


def test_placeholders_that_nothing_was_read_into_are_no_state():
    model, twin = network(), network()
    optimizer, alone = (descend.SGD(m.parameters(), lr=0.1, momentum=0.9, dampening=0.5) for m in (model, twin))
    state = get_optimizer_state_dict(model, optimizer)
    assert all("momentum_buffer" in entry for entry in state["state"].values())
    trained(model, optimizer, range(3))
    trained(twin, alone, range(3))
    assert same_bits(model, twin)


def test_an_optimizer_that_keeps_no_state_is_read_in_mid_training():
    model, twin = network(), network()
    rate = 0.1 * schedules.linear(20)
    optimizer, alone = descend.SGD(model.parameters(), lr=rate), descend.SGD(twin.parameters(), lr=rate)
    for steps in (range(3), range(3, 7)):
        trained(model, optimizer, steps)
        state = get_optimizer_state_dict(model, optimizer)
        set_optimizer_state_dict(model, optimizer, state)
        trained(twin, alone, steps)
    assert same_bits(model, twin)
    assert optimizer.applied_steps == 7


@pytest.mark.parametrize(
    "build", [lambda: 0.0, lambda: torch.tensor(0.1), lambda: 0.1 * schedules.function(lambda s: 0)]
)
def test_a_rate_of_zero_or_in_a_tensor_is_told_from_the_writer_s_zero(build):
    model, twin = network(), network()
    optimizer = descend.AdamWPaper(model.parameters(), lr=build(), weight_decay=0.1)
    get_optimizer_state_dict(model, optimizer)
    assert same_bits(model, twin)
    assert optimizer.applied_steps == 0


def test_capturable_state_is_created_where_it_belongs():
    model = network()
    optimizer = descend.NAdam(model.parameters(), capturable=True)
    rate = optimizer.param_groups[0]["lr"]
    get_optimizer_state_dict(model, optimizer)
    assert optimizer.param_groups[0]["lr"] is rate
    assert optimizer.applied_steps == 0


def test_zero_gradients_at_the_optimizer_s_own_rate_are_a_step():
    for rate in (0.1, 0.0):
        p = torch.ones(3, requires_grad=True)
        optimizer = descend.AdamW([p], lr=rate)
        p.grad = torch.zeros(3)
        optimizer.step()
        assert optimizer.applied_steps == 1
        assert optimizer.state[p]["step"] == 1


def test_a_rate_set_to_zero_with_other_gradients_is_a_step():
    p = torch.ones(3, requires_grad=True)
    optimizer = descend.AdamW([p], lr=0.1)
    optimizer.param_groups[0]["lr"] = 0.0
    p.grad = torch.tensor([0.0, 0.0, 1e-30])
    optimizer.step()
    assert optimizer.applied_steps == 1
    assert optimizer.state[p]["step"] == 1


def test_the_first_value_of_a_slot_is_not_the_writer_s_rate():
    model = network()
    optimizer = descend.Rprop(model.parameters(), lr=0.02)
    get_optimizer_state_dict(model, optimizer)
    assert all((entry["step_size"] == 0.02).all() for entry in optimizer.state.values())
