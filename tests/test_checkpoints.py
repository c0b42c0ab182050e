"""State moves both ways between torch's classes and ours, and our own resumes bit for bit."""

import copy
import io
import itertools

import numpy as np
import pytest
import torch

import descend
from descend import schedules
from optimizers import BY_NAME, ROWS, parameters, relative_difference, train

with_twin = pytest.mark.parametrize("row", [row for row in ROWS if row.twin], ids=lambda row: row.name)
all_rows = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def saved_and_loaded(state_dict):
    buffer = io.BytesIO()
    torch.save(state_dict, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def copied(params):
    return [p.detach().clone().requires_grad_() for p in params]


def some(combinations, n=6):
    return list(itertools.islice(combinations, 0, None, 3))[:n]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["ASGD", "NAdam", "AdamW"])
def test_parameters_without_dimensions_resume_bit_for_bit(name, dtype):
    """Their scalars look like slots shaped like the parameter, and are not."""

    def trained(optimizer, p, steps):
        for step in steps:
            p.grad = torch.tensor(1.0 + step, dtype=dtype)
            optimizer.step()
        return p

    cls = getattr(descend, name)
    whole = torch.tensor(1.0, dtype=dtype, requires_grad=True)
    trained(cls([whole]), whole, range(9))
    first, second = (
        torch.tensor(1.0, dtype=dtype, requires_grad=True),
        torch.tensor(1.0, dtype=dtype, requires_grad=True),
    )
    begun = cls([first])
    trained(begun, first, range(4))
    second.data.copy_(first.data)
    resumed = cls([second])
    resumed.load_state_dict(saved_and_loaded(begun.state_dict()))
    assert {k: v.dtype for k, v in resumed.state[second].items()} == {k: v.dtype for k, v in begun.state[first].items()}
    assert torch.equal(trained(resumed, second, range(4, 9)), whole)


def test_a_slot_s_own_type_is_kept_on_load():
    @descend.Rule
    def wide(p, g, m=descend.Slot("m", dtype="float32"), *, lr=0.1):
        m = m + g / 3
        return dict(p=p - lr * m, m=m)

    p = torch.zeros(3, dtype=torch.bfloat16, requires_grad=True)
    first = descend.Optimizer([p], wide)
    train(first, [p], range(1))
    q = torch.zeros(3, dtype=torch.bfloat16, requires_grad=True)
    second = descend.Optimizer([q], wide)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.state[q]["m"], first.state[p]["m"])
    assert second.state[q]["m"].dtype is torch.float32


def test_the_absent_momentum_of_old_states_of_torch_is_absent():
    params = parameters()
    theirs = torch.optim.SGD(params)
    state = theirs.state_dict()
    state["state"] = {i: {"momentum_buffer": None} for i in range(len(params))}
    ours = descend.SGD(params, momentum=0.9)
    ours.load_state_dict(state)
    ours.param_groups[0]["momentum"] = 0.9
    train(ours, params, range(2))
    assert "momentum_buffer" in ours.state[params[0]]


def test_the_clock_follows_steps_that_torch_took_meanwhile():
    params = parameters()
    ours = descend.AdamW(params, lr=schedules.linear(10))
    train(ours, params, range(3))
    theirs = torch.optim.AdamW(params)
    theirs.load_state_dict(ours.state_dict())
    train(theirs, params, range(3, 8))
    again = descend.AdamW(params, lr=schedules.linear(10))
    again.load_state_dict(theirs.state_dict())
    assert again.applied_steps == 8
    assert again.param_groups[0]["lr"] == schedules.linear(10)(8)


def test_numbers_of_numpy_are_saved_as_plain_ones():
    optimizer = descend.AdamW(
        parameters(), lr=np.float64(0.1), betas=(np.float32(0.5), 0.9), weight_decay=np.array(0.1)
    )
    state = saved_and_loaded(optimizer.state_dict())
    assert type(state["param_groups"][0]["lr"]) is float
    assert type(state["param_groups"][0]["weight_decay"]) is float


def test_a_schedule_that_fails_at_the_loaded_clock_changes_nothing():
    def late(s):
        if s >= 3:
            raise ArithmeticError("too late")
        return 0.1

    params = parameters()
    first = descend.AdamW(params)
    train(first, params, range(5))
    second = descend.AdamW(parameters(), lr=schedules.function(late))
    with pytest.raises(ArithmeticError):
        second.load_state_dict(first.state_dict())
    assert len(second.state) == 0
    assert second.applied_steps == 0


@with_twin
@pytest.mark.parametrize("to_ours", [True, False], ids=["torch-to-ours", "ours-to-torch"])
def test_state_moves_in_mid_training(row, to_ours, float64):
    giver, receiver = (row.twin, row.ours) if to_ours else (row.ours, row.twin)
    for options in some(row.combinations()):
        params = parameters()
        first = giver(params, **options)
        train(first, params, range(20))
        here = copied(params)
        second = receiver(here)  # built with other options: the loaded groups hold
        state = saved_and_loaded(first.state_dict())
        second.load_state_dict(state)
        for p, q in zip(params, here, strict=True):
            given = {k: v for k, v in first.state[p].items() if v is not None}
            got = {k: v for k, v in second.state[q].items() if v is not None}
            assert list(given) == list(got)
            assert all(torch.equal(given[k], got[k]) and given[k].dtype == got[k].dtype for k in given)
        train(second, here, range(20, 60))
        whole = parameters()
        train(receiver(whole, **options), whole, range(60))
        assert relative_difference(here, whole) <= 1e-12, options


@all_rows
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_our_own_resumes_bit_for_bit(row, dtype):
    for options in some(row.combinations(), 4):
        whole = parameters(dtype=dtype)
        train(row.ours(whole, **options), whole, range(30))
        params = parameters(dtype=dtype)
        first = row.ours(params, **options)
        train(first, params, range(13))
        resumed = copied(params)
        second = row.ours(resumed, **options)
        second.load_state_dict(saved_and_loaded(first.state_dict()))
        train(second, resumed, range(13, 30))
        assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True)), options


def test_a_loaded_state_is_not_shared():
    params, others = parameters(), parameters()
    first, second = descend.AdamW(params), descend.AdamW(others)
    train(first, params, range(3))
    second.load_state_dict(first.state_dict())
    kept = copy.deepcopy(first.state[params[0]])
    train(second, others, range(3, 6))
    assert all(torch.equal(kept[k], v) for k, v in first.state[params[0]].items())


def test_state_dicts_hold_plain_values_and_tensors():
    optimizer = descend.Optimizer(
        [{"params": parameters()[:2], "rule": descend.rules.lion}, {"params": parameters()[2:]}],
        descend.rules.nadam,
        lr=0.1 * schedules.cosine(5),
    )
    train(optimizer, [p for g in optimizer.param_groups for p in g["params"]], range(2))

    def plain(value):
        if isinstance(value, dict):
            return all(plain(v) for v in value.values())
        if isinstance(value, (tuple, list)):
            return all(map(plain, value))
        return value is None or type(value) in (int, float, str, bool) or isinstance(value, torch.Tensor)

    assert plain(optimizer.state_dict())
    saved_and_loaded(optimizer.state_dict())


def test_schedules_resume_at_the_saved_clock():
    schedule = 0.1 * (schedules.warmup(5) >> schedules.cosine(20))
    params = parameters()
    first = descend.AdamW(params, lr=schedule)
    train(first, params, range(8))
    second = descend.AdamW(parameters(), lr=schedule)
    second.load_state_dict(saved_and_loaded(first.state_dict()))
    assert second.applied_steps == 8
    assert second.param_groups[0]["lr"] == schedule(8)
    other = descend.AdamW(parameters(), lr=0.5 * schedules.linear(100))
    other.load_state_dict(first.state_dict())
    assert other.param_groups[0]["lr"] == 0.5 * schedules.linear(100)(8), "the constructor's schedule holds"


def test_the_clock_of_a_torch_state_is_its_largest_step():
    params = parameters()
    theirs = torch.optim.AdamW(params)
    train(theirs, params, range(7))
    ours = descend.AdamW(parameters(), lr=schedules.linear(10))
    ours.load_state_dict(theirs.state_dict())
    assert ours.applied_steps == 7
    assert ours.param_groups[0]["lr"] == schedules.linear(10)(7)


def test_a_torch_state_without_steps_warns_once_if_a_schedule_is_attached():
    params = parameters()
    theirs = torch.optim.SGD(params, momentum=0.9)
    train(theirs, params, range(7))
    ours = descend.SGD(parameters(), lr=schedules.linear(10), momentum=0.9)
    with pytest.warns(UserWarning, match="schedules start at 0") as caught:
        ours.load_state_dict(theirs.state_dict())
    assert len(caught) == 1
    assert ours.applied_steps == 0
    descend.SGD(parameters(), momentum=0.9).load_state_dict(theirs.state_dict())  # silent without a schedule


def test_states_of_old_versions_of_torch_load():
    params = parameters()
    first = descend.NAdam(params)
    train(first, params, range(3))
    state = first.state_dict()
    for entry in state["state"].values():
        entry["step"], entry["mu_product"] = int(entry["step"]), float(entry["mu_product"])
    for group in state["param_groups"]:
        for key in ("foreach", "capturable", "differentiable", "maximize", "applied_steps"):
            del group[key]
    second = descend.NAdam(parameters())
    second.load_state_dict(state)
    assert isinstance(second.state[second.param_groups[0]["params"][0]]["step"], torch.Tensor)
    assert second.param_groups[0]["maximize"] is False
    train(second, second.param_groups[0]["params"], range(3, 4))


def test_hooks_run_around_loading_and_saving():
    optimizer, calls = descend.AdamW(parameters()), []
    optimizer.register_state_dict_post_hook(lambda o, d: calls.append("saved"))
    optimizer.register_load_state_dict_pre_hook(lambda o, d: calls.append("loads"))
    optimizer.register_load_state_dict_post_hook(lambda o: calls.append("loaded"))
    optimizer.load_state_dict(optimizer.state_dict())
    assert calls == ["saved", "loads", "loaded"]


def test_mismatches_raise_before_anything_changes():
    params = parameters()
    optimizer = descend.AdamW(params)
    train(optimizer, params, range(2))
    good = optimizer.state_dict()
    before = copy.deepcopy(good)
    fewer = {**good, "param_groups": [{**good["param_groups"][0], "params": [0, 1]}]}
    more = {**good, "param_groups": good["param_groups"] * 2}
    swapped = {**good, "state": {**good["state"], 0: good["state"][1], 1: good["state"][0]}}
    for bad, message in [
        (fewer, "doesn't match the size of optimizer's group"),
        (more, "different number of parameter groups"),
        (swapped, "another order"),
    ]:
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(bad)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert all(
        torch.equal(after["state"][i][k], before["state"][i][k]) for i in before["state"] for k in before["state"][i]
    )


def test_rows_without_a_twin_are_the_ones_torch_lacks():
    assert {row.name for row in ROWS if not row.twin} == {name for name in BY_NAME if not hasattr(torch.optim, name)}
