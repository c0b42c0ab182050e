"""The optimizer: torch's contract, groups, schedules and the clock, and errors before anything changes."""

import collections
import copy
import inspect
import pickle
import re
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import descend
from descend import rules, schedules
from descend.rule import Slot, rule
from optimizers import ROWS, parameters, train

all_rows = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def snapshot(optimizer):
    groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    values = [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]
    return copy.deepcopy(
        (groups, [dict(optimizer.state.get(p, {})) for g in optimizer.param_groups for p in g["params"]])
    ), values


def assert_unchanged(optimizer, before):
    (groups, states), values = before
    (now_groups, now_states), now_values = snapshot(optimizer)
    assert now_groups == groups
    assert all(torch.equal(a, b) for a, b in zip(values, now_values, strict=True))
    assert [sorted(s) for s in now_states] == [sorted(s) for s in states]
    for a, b in zip(states, now_states, strict=True):
        assert all(torch.equal(a[k], b[k]) for k in a)


# --- construction ---------------------------------------------------------------------------------------------------


@all_rows
def test_it_is_a_torch_optimizer_that_trains_a_model(row):
    torch.manual_seed(0)
    model, x = nn.Linear(4, 1), torch.randn(32, 4)
    y = x @ torch.tensor([[1.0], [2.0], [-1.0], [0.5]])
    optimizer = row.ours(model.parameters(), lr=0.01)
    assert isinstance(optimizer, torch.optim.Optimizer)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_positional_arguments_as_in_torch():
    p = parameters()
    group = descend.AdamW(p, 3e-4, (0.8, 0.9), 1e-6, 0.2, True).param_groups[0]
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"], group["amsgrad"]) == (
        3e-4,
        (0.8, 0.9),
        1e-6,
        0.2,
        True,
    )
    assert group["decoupled_weight_decay"] is True


def test_subclasses_and_help_show_the_constructor():
    class Mine(descend.SGD):
        pass

    assert Mine(parameters(), lr=0.5).param_groups[0]["lr"] == 0.5
    assert list(inspect.signature(descend.Lion).parameters)[:4] == ["params", "lr", "betas", "weight_decay"]
    assert "Algorithm 2" in descend.Lion.__doc__


BAD_NUMBERS = [
    ("AdamW", {"lr": -1.0}, "Invalid learning rate: -1.0"),
    ("SGD", {"lr": float("nan")}, "Invalid learning rate: nan"),
    ("Lion", {"lr": float("inf")}, "Invalid learning rate: inf"),
    ("AdamW", {"betas": (1.0, 0.9)}, "Invalid beta parameter at index 0: 1.0"),
    ("Adam", {"betas": (0.9, -0.1)}, "Invalid beta parameter at index 1: -0.1"),
    ("Adam", {"eps": -1e-8}, "Invalid epsilon value: -1e-08"),
    ("AdamW", {"weight_decay": -0.1}, "Invalid weight_decay value: -0.1"),
    ("SGD", {"momentum": -0.1}, "Invalid momentum value: -0.1"),
    ("SGD", {"nesterov": True}, "Nesterov momentum requires a momentum and zero dampening"),
    ("RMSprop", {"alpha": -0.1}, "Invalid alpha value: -0.1"),
    ("Adadelta", {"rho": 1.1}, "Invalid rho value: 1.1"),
    ("Adagrad", {"lr_decay": -0.5}, "Invalid lr_decay value: -0.5"),
    ("Adagrad", {"initial_accumulator_value": -1.0}, "Invalid initial_accumulator_value value: -1.0"),
    ("NAdam", {"momentum_decay": -0.2}, "Invalid momentum_decay value: -0.2"),
    ("Rprop", {"etas": (1.0, 0.5)}, "Invalid eta values: 1.0, 0.5"),
    ("AdamW", {"lr": torch.tensor([1e-3, 1e-3])}, "Tensor lr must be 1-element"),
]


@pytest.mark.parametrize(("name", "options", "message"), BAD_NUMBERS)
def test_bad_numbers_raise_torch_s_message_and_the_remedy(name, options, message):
    with pytest.raises(ValueError, match="^" + re.escape(message) + ".") as ours:
        getattr(descend, name)(parameters(), **options)
    assert re.search(r"must lie in|set momentum|not of shape|the first must", str(ours.value)), "the remedy"
    twin = getattr(torch.optim, name, None)
    nan_passes_torch = name == "SGD" and options.get("lr", 0) != options.get("lr", 0)
    if twin is not None and not nan_passes_torch:
        with pytest.raises(ValueError, match=re.escape(message)):
            twin(parameters(), **options)


def _twice(p):
    return [{"params": [p[0]]}, {"params": [p[0]]}]


@pytest.mark.parametrize(
    ("make", "error", "remedy"),
    [
        (lambda p: [], ValueError, "no parameters left"),
        (lambda p: p[0], TypeError, "single parameter"),
        (lambda p: [p[0] * 2], ValueError, "pass the parameter itself"),
        (_twice, ValueError, "one group only"),
        (lambda p: [1.0], TypeError, "model.parameters()"),
        (lambda p: [{"params": {p[0], p[1]}}], TypeError, "sets have no order"),
    ],
)
def test_bad_parameters_raise_torch_s_message_and_the_remedy(make, error, remedy):
    with pytest.raises(error) as theirs:
        torch.optim.AdamW(make(parameters()))
    with pytest.raises(error, match=re.escape(remedy)) as ours:
        descend.AdamW(make(parameters()))
    assert str(ours.value).startswith(str(theirs.value))


def test_a_remedy_is_said_once():
    with pytest.raises(TypeError) as error:
        descend.AdamW([1.0])
    assert str(error.value).count("pass model.parameters()") == 1


def test_what_was_meant_is_named():
    p = parameters()
    for make, error, message in [
        (lambda: descend.AdamW({"a": p[0]}), TypeError, r"params\.items\(\)"),
        (lambda: descend.AdamW([{"param": p}]), TypeError, "needs 'params'.* has 'param'"),
        (lambda: descend.Optimizer(descend.rules.adamw, p), TypeError, r"the order is Optimizer\(params, rule\)"),
        (lambda: descend.AdamW(p).set_schedule("lr", 0.1, group=7), IndexError, "group=7: there are 1 param groups"),
    ]:
        with pytest.raises(error, match=message) as raised:
            make()
        assert len(str(raised.value)) < 300


def test_hyper_parameters_of_another_rule_in_a_group_are_noticed():
    with pytest.warns(UserWarning, match="'momentum', which rule adamw does not read"):
        descend.AdamW([{"params": parameters(), "momentum": 0.9}])
    with pytest.warns(UserWarning, match="did you mean 'weight_decay'"):
        descend.AdamW([{"params": parameters(), "weight_deca": 0.9}])
    descend.AdamW([{"params": parameters(), "name": "backbone", "decoupled_weight_decay": True, "initial_lr": 0.1}])


def test_numbers_of_numpy_and_any_sequence_are_taken():
    p = parameters()
    optimizer = descend.SGD(p, lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: np.float32(0.5))
    train(optimizer, p, range(1))
    scheduler.step()
    train(optimizer, p, range(1, 2))
    optimizer.param_groups[0]["lr"] = np.int64(1)
    train(optimizer, p, range(2, 3))
    for betas in (np.array([0.5, 0.9]), [0.5, 0.9], collections.UserList([0.5, 0.9])):
        assert list(descend.AdamW(parameters(), betas=betas).param_groups[0]["betas"]) == [0.5, 0.9]


def test_a_group_that_no_kernel_can_step_is_not_added():
    complex_param = torch.ones(2, dtype=torch.complex64, requires_grad=True)
    optimizer = descend.AdamW(parameters(), fused=True)
    with pytest.raises(RuntimeError, match="parameter 0 of group 1"):
        optimizer.add_param_group({"params": [complex_param]})
    assert len(optimizer.param_groups) == 1
    frozen = complex_param.detach()
    optimizer.add_param_group({"params": [frozen]})  # it may never be stepped
    train(optimizer, optimizer.param_groups[0]["params"], range(2))


def test_what_is_no_number_is_refused():
    for options, message in [
        ({"lr": True}, "lr takes a number"),
        ({"amsgrad": schedules.linear(2)}, "amsgrad chooses the variant"),
        ({"maximize": schedules.linear(2)}, "maximize is a flag"),
    ]:
        with pytest.raises(TypeError, match=message):
            descend.Adam(parameters(), **options)
    with pytest.raises(ValueError, match="step"):
        descend.Adam(parameters(), step=True)
    assert descend.Adam(parameters(), step=np.int64(3)).applied_steps == 3


def test_unknown_arguments_suggest_the_nearest():
    with pytest.raises(TypeError, match="did you mean 'weight_decay'"):
        descend.AdamW(parameters(), weightdecay=0.1)
    with pytest.raises(TypeError, match="did you mean 'lr'"):
        descend.Optimizer(parameters(), rules.adamw, lrr=0.1)
    with pytest.raises(TypeError, match="update rule"):
        descend.Optimizer(parameters(), torch.optim.AdamW)
    with pytest.raises(ValueError, match="backend"):
        descend.AdamW(parameters(), backend="gpu")
    with pytest.raises(ValueError, match="step"):
        descend.AdamW(parameters(), step=-1)
    with pytest.raises(ValueError, match="2 numbers"):
        descend.AdamW(parameters(), betas=(0.9,))
    with pytest.raises(TypeError, match="takes a number"):
        descend.AdamW(parameters(), lr="fast")


def test_flags_that_contradict_each_other_or_cannot_be_met():
    with pytest.raises(RuntimeError, match="`fused` and `foreach` cannot be `True` together"):
        descend.AdamW(parameters(), fused=True, foreach=True)
    with pytest.raises(RuntimeError, match="`fused` does not support `differentiable`"):
        descend.AdamW(parameters(), fused=True, differentiable=True)


@pytest.mark.parametrize("name", ["LBFGS", "SparseAdam", "Adafactor"])
def test_names_that_are_no_formulas_say_where_to_look(name):
    with pytest.raises(AttributeError, match=f"torch.optim.{name}|AdamW"):
        getattr(descend, name)


def test_by_name_suggests():
    assert descend.optim.by_name("adamw") is descend.AdamW
    with pytest.raises(ValueError, match="did you mean 'adamw'"):
        descend.optim.by_name("adamww")


# --- groups ---------------------------------------------------------------------------------------------------------


def test_groups_have_their_own_numbers_and_names():
    a, b, c = parameters()[:3]
    optimizer = descend.SGD([("a", a)], lr=0.1)
    optimizer.add_param_group({"params": [("b", b)], "lr": 1.0})
    assert [group["param_names"] for group in optimizer.param_groups] == [["a"], ["b"]]
    with pytest.raises(ValueError, match="with/without names"):
        optimizer.add_param_group({"params": [c]})
    assert len(optimizer.param_groups) == 2
    start = [x.detach().clone() for x in (a, b)]
    a.grad, b.grad = torch.ones_like(a), torch.ones_like(b)
    optimizer.step()
    assert torch.allclose(start[0] - a, torch.full_like(a, 0.1))
    assert torch.allclose(start[1] - b, torch.ones_like(b))


def test_a_bad_group_changes_nothing():
    optimizer = descend.AdamW(parameters()[:1])
    before = snapshot(optimizer)
    for bad, error in [
        ({"params": parameters()[1:2], "lr": -1}, ValueError),
        ({"params": [optimizer.param_groups[0]["params"][0]]}, ValueError),
        ({"params": ["x"]}, TypeError),
        ({"params": parameters()[1:2], "rule": "lion"}, TypeError),
        ([1], TypeError),
    ]:
        with pytest.raises(error):
            optimizer.add_param_group(bad)
    assert len(optimizer.param_groups) == 1
    assert_unchanged(optimizer, before)


def test_a_group_may_have_another_rule(float64):
    mixed, alone_a, alone_b = parameters(), parameters(), parameters()
    optimizer = descend.Optimizer(
        [{"params": mixed[:2], "rule": rules.lion}, {"params": mixed[2:]}], rules.adamw, lr=0.01, eps=1e-6
    )
    assert optimizer.param_groups[0]["rule"] == "lion"
    assert "rule" not in optimizer.param_groups[1]
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.99), "its own rule's default"
    assert optimizer.param_groups[0]["lr"] == optimizer.param_groups[1]["lr"] == 0.01
    assert not {"eps", "decoupled_weight_decay"} & set(optimizer.param_groups[0])
    train(optimizer, mixed, range(20))
    train(descend.Lion(alone_a, lr=0.01), alone_a, range(20))
    train(descend.AdamW(alone_b, lr=0.01, eps=1e-6), alone_b, range(20))
    assert all(torch.equal(x, y) for x, y in zip(mixed, alone_a[:2] + alone_b[2:], strict=True))
    with pytest.raises(TypeError, match="no hyper-parameter 'momentum'"):
        descend.Optimizer([{"params": parameters(), "rule": rules.lion}], rules.adamw, momentum=0.9)
    state = optimizer.state_dict()
    assert state["param_groups"][0]["rule"] == "lion"
    other = descend.Optimizer([{"params": parameters()[:2]}, {"params": parameters()[2:]}], rules.adamw)
    with pytest.raises(ValueError, match="build it with the rules"):
        other.load_state_dict(state)


def test_groups_may_be_taken_out_and_put_in():
    a, b, c = parameters()[:3]
    optimizer = descend.SGD([{"params": [a], "lr": schedules.linear(10)}, {"params": [b], "lr": 0.5}], momentum=0.9)
    del optimizer.param_groups[0]
    train(optimizer, [b], range(2))
    assert optimizer.param_groups[0]["lr"] == 0.5
    optimizer.add_param_group({"params": [c], "lr": schedules.linear(10)})
    train(optimizer, [b, c], range(2, 4))
    assert optimizer.param_groups[1]["lr"] == schedules.linear(10)(4)
    assert copy.deepcopy(optimizer).param_groups[1]["lr"] == optimizer.param_groups[1]["lr"]
    optimizer.param_groups.append({"params": [a], "lr": 0.1})
    with pytest.raises(RuntimeError, match="add_param_group"):
        optimizer.step()
    optimizer.param_groups.clear()
    optimizer.add_param_group({"params": [a]})
    train(optimizer, [a], range(1))


def test_parameters_without_a_gradient_stay_and_keep_their_own_count():
    a, b = parameters()[:2]
    optimizer = descend.Adam([a, b], lr=0.1)
    kept = b.detach().clone()
    for step in range(3):
        a.grad = torch.ones_like(a)
        b.grad = torch.ones_like(b) if step == 2 else None
        optimizer.step()
        if step < 2:
            assert torch.equal(b, kept)
            assert b not in optimizer.state
    assert optimizer.state[a]["step"] == 3
    assert optimizer.state[b]["step"] == 1
    assert torch.allclose(kept - b, torch.full_like(b, 0.1), rtol=1e-4), "bias correction by its own count"
    assert optimizer.param_groups[0]["applied_steps"] == 3


def test_step_counts_are_exact_beyond_float32():
    p = torch.zeros(1, requires_grad=True)
    optimizer = descend.Adam([p])
    train(optimizer, [p], range(1))
    optimizer.state[p]["step"].fill_(2**24 - 1)
    for expected in (2**24, 2**24 + 1, 2**24 + 2):
        p.grad = torch.ones(1)
        optimizer.step()
        assert int(optimizer.state[p]["step"]) == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_parameters_compute_in_float32(dtype):
    low, high = parameters(dtype=dtype), [p.detach().float().requires_grad_() for p in parameters(dtype=dtype)]
    ours, theirs = descend.AdamW(low, lr=0.1), torch.optim.AdamW(high, lr=0.1)
    for p, q in zip(low, high, strict=True):
        p.grad = torch.ones_like(p)
        q.grad = torch.ones_like(q)
    ours.step()
    theirs.step()
    assert all(torch.equal(p, q.to(dtype)) for p, q in zip(low, high, strict=True))
    assert ours.state[low[0]]["exp_avg"].dtype is dtype


@all_rows
def test_foreach_gives_the_bits_of_the_loop(row):
    for options in list(row.combinations())[:4]:
        with_foreach, loop = parameters(), parameters()
        train(row.ours(with_foreach, **options), with_foreach, range(10))
        train(row.ours(loop, foreach=False, **options), loop, range(10))
        assert all(torch.equal(a, b) for a, b in zip(with_foreach, loop, strict=True))


# --- step -----------------------------------------------------------------------------------------------------------


def test_closure_hooks_and_profiles():
    p = torch.ones(2, requires_grad=True)
    optimizer = descend.SGD([p], lr=0.1)
    calls = []
    optimizer.register_step_pre_hook(lambda *a: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *a: calls.append("post"))

    def closure():
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        calls.append("closure")
        return loss

    assert optimizer.step(closure).item() == 2.0
    assert calls == ["pre", "closure", "post"]
    assert torch.allclose(p, torch.full((2,), 0.8))


def test_errors_in_a_step_change_nothing():
    p = [torch.ones(3, requires_grad=True), torch.ones(2, requires_grad=True)]
    optimizer = descend.AdamW(p, lr=0.1)
    train(optimizer, p, range(2))
    for q in p:
        q.grad = torch.ones_like(q)
    before = snapshot(optimizer)
    p[1].grad = torch.sparse_coo_tensor([[0]], [1.0], (2,), check_invariants=True)
    with pytest.raises(
        RuntimeError, match=r"^Adam does not support sparse gradients, please consider SparseAdam instead"
    ):
        optimizer.step()
    assert_unchanged(optimizer, before)
    p[1].grad = torch.ones(2)
    optimizer.param_groups[0]["betas"] = (0.9, 1.0)
    with pytest.raises(ValueError, match="Invalid beta parameter at index 1"):
        optimizer.step()
    optimizer.param_groups[0]["betas"] = (0.9, 0.999)
    assert_unchanged(optimizer, before)


@pytest.mark.parametrize(
    "damage",
    [
        lambda p, state: state.update(momentum_buffer=None),
        lambda p, state: state.update(momentum_buffer=torch.zeros(7, 7)),
    ],
    ids=["none", "shape"],
)
def test_damaged_state_is_refused_before_anything_changes(damage):
    p = [torch.ones(3, requires_grad=True), torch.ones(2, requires_grad=True)]
    optimizer = descend.SGD([{"params": [q]} for q in p], momentum=0.9)
    train(optimizer, p, range(1))
    damage(p[1], optimizer.state[p[1]])
    kept = [q.detach().clone() for q in p]
    with pytest.raises(RuntimeError, match=r"state\['momentum_buffer'\] of a parameter of shape \(2,\)"):
        train(optimizer, p, range(1, 2))
    assert all(torch.equal(a, b) for a, b in zip(kept, p, strict=True))
    assert optimizer.applied_steps == 1


def test_parameters_whose_elements_share_memory_are_refused_before_anything_changes():
    p = [torch.ones(3, requires_grad=True), torch.ones(1).expand(3).detach().requires_grad_()]
    optimizer = descend.SGD(p, lr=0.1)
    with pytest.raises(RuntimeError, match=r"^unsupported operation: more than one element"):
        train(optimizer, p, range(1))
    assert p[0].tolist() == [1, 1, 1]


def test_a_schedule_that_gives_nan_raises_before_anything_changes():
    with pytest.raises(ValueError, match="Invalid learning rate: nan"):
        descend.SGD(parameters(), lr=schedules.function(lambda s: float("nan")))
    p = parameters()
    optimizer = descend.SGD(p, lr=schedules.function(lambda s: float("nan") if s == 2 else 0.1))
    train(optimizer, p, range(2))
    before = snapshot(optimizer)[1]
    with pytest.raises(ValueError, match="Invalid learning rate: nan"):
        train(optimizer, p, range(2, 3))
    assert all(torch.equal(a, b) for a, b in zip(before, snapshot(optimizer)[1], strict=True))
    assert optimizer.applied_steps == 2


def test_assignment_is_simultaneous():
    @rule
    def swap(p, g, m=Slot("m", init=5.0)):
        return dict(p=m, m=p)

    p = torch.tensor([1.0, 2.0], requires_grad=True)
    optimizer = descend.Optimizer([p], swap)
    for expected_p, expected_m in [([5.0, 5.0], [1.0, 2.0]), ([1.0, 2.0], [5.0, 5.0])]:
        p.grad = torch.zeros(2)
        optimizer.step()
        assert p.tolist() == expected_p
        assert optimizer.state[p]["m"].tolist() == expected_m


def test_gradients_are_never_kept_or_changed():
    p = torch.ones(3, requires_grad=True)
    optimizer = descend.SGD([p], momentum=0.9, lr=0.1)
    p.grad = torch.ones(3)
    optimizer.step()
    assert optimizer.state[p]["momentum_buffer"].data_ptr() != p.grad.data_ptr()
    assert p.grad.tolist() == [1, 1, 1]


def test_gradient_scaler_skips_steps_and_the_clock():
    p = torch.ones(3, requires_grad=True)
    optimizer = descend.AdamW([p], lr=0.1 * schedules.linear(10))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    for bad in (True, False):
        optimizer.zero_grad()
        scaler.scale((p * (float("inf") if bad else 1.0)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert optimizer.applied_steps == (0 if bad else 1)
        assert len(optimizer.state[p]) == (0 if bad else 3)


def test_differentiable_steps_pass_gradients_to_tensor_hyper_parameters(float64):
    def final(lr, weight_decay):
        p = torch.tensor([1.0, -2.0])
        p = (p + 0).requires_grad_().clone()
        optimizer = descend.AdamW([p], lr=lr, weight_decay=weight_decay, differentiable=True)
        for step in range(3):
            p.grad = torch.tensor([1.0 + step, -0.5])
            optimizer.step()
        return (p**2).sum()

    lr = torch.tensor(0.05, requires_grad=True)
    decay = torch.tensor(0.1, requires_grad=True)
    assert torch.autograd.gradcheck(final, (lr, decay))


# --- schedules and the clock ----------------------------------------------------------------------------------------


def rates(optimizer, params, steps):
    seen = []
    for step in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        train(optimizer, params, range(step, step + 1))
    return seen


def test_groups_hold_the_number_in_force_for_the_next_step():
    p = parameters()
    schedule = 0.1 * (schedules.warmup(3) >> schedules.cosine(5))
    optimizer = descend.SGD(p, lr=schedule, momentum=schedules.linear(4, 0.5, 0.9))
    assert rates(optimizer, p, 10) == [schedule(s) for s in range(10)]
    assert optimizer.param_groups[0]["momentum"] == pytest.approx(0.9)
    assert isinstance(optimizer.param_groups[0]["lr"], float)
    assert optimizer.param_groups[0]["applied_steps"] == 10
    assert optimizer.defaults["lr"] == schedule(0)


def test_the_number_in_force_is_the_number_used(float64):
    p = torch.zeros(1, requires_grad=True)
    schedule = schedules.linear(4)
    optimizer = descend.SGD([p], lr=schedule)
    for _ in range(4):
        p.grad = torch.ones(1)
        optimizer.step()
    assert -p.item() == sum(schedule(s) for s in range(4))


def test_elements_of_tuples_take_schedules():
    p = parameters()
    optimizer = descend.AdamW(p, betas=(schedules.linear(4, 0.95, 0.85), 0.99))
    train(optimizer, p, range(2))
    assert optimizer.param_groups[0]["betas"] == (pytest.approx(0.9), 0.99)


def test_a_scheduled_zero_is_active():
    p = parameters()
    optimizer = descend.SGD(p, lr=0.1, momentum=schedules.linear(2, 0.0, 0.9))
    train(optimizer, p, range(1))
    assert "momentum_buffer" in optimizer.state[p[0]]


def test_a_foreign_number_is_used_until_the_replaced_one_is_back():
    p = parameters()
    schedule = schedules.linear(100)
    optimizer = descend.SGD(p, lr=schedule)
    group = optimizer.param_groups[0]
    train(optimizer, p, range(2))
    replaced, group["lr"] = group["lr"], 0.0
    with pytest.warns(UserWarning, match=r"opt\.set_schedule\('lr', value, group=0\)"):
        train(optimizer, p, range(2, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        train(optimizer, p, range(3, 5))
        assert group["lr"] == 0.0
        assert optimizer.applied_steps == 5, "the clock runs on"
        group["lr"] = replaced
        train(optimizer, p, range(5, 6))
    assert group["lr"] == schedule(6)


def test_set_schedule_replaces_and_names_what_is_missing():
    p = parameters()
    optimizer = descend.SGD([{"params": p[:1]}, {"params": p[1:]}], lr=schedules.linear(100))
    train(optimizer, p, range(3))
    optimizer.set_schedule("lr", 0.5, group=0)
    optimizer.set_schedule("lr", 2 * schedules.linear(100), group=1)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 2 * schedules.linear(100)(3)]
    train(optimizer, p, range(3, 4))
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 2 * schedules.linear(100)(4)]
    with pytest.raises(TypeError, match="no hyper-parameter"):
        optimizer.set_schedule("rate", 0.1)
    with pytest.raises(ValueError, match="Invalid learning rate"):
        optimizer.set_schedule("lr", -1.0)
    with pytest.raises(IndexError):
        optimizer.set_schedule("lr", 1.0, group=7)


def test_step_sets_the_clock_alone():
    p = parameters()
    schedule = schedules.linear(10)
    optimizer = descend.AdamW(p, lr=schedule, step=4)
    assert optimizer.param_groups[0]["lr"] == schedule(4)
    train(optimizer, p, range(1))
    assert optimizer.state[p[0]]["step"] == 1
    assert optimizer.applied_steps == 5


@pytest.mark.parametrize(
    "make",
    [
        lambda o: torch.optim.lr_scheduler.StepLR(o, 3),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10),
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=20),
        lambda o: torch.optim.lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=4),
        lambda o: torch.optim.lr_scheduler.SequentialLR(
            o,
            [torch.optim.lr_scheduler.LinearLR(o, 0.1, total_iters=3), torch.optim.lr_scheduler.ExponentialLR(o, 0.9)],
            [3],
        ),
    ],
    ids=["StepLR", "CosineAnnealingLR", "OneCycleLR", "CyclicLR", "SequentialLR"],
)
def test_torch_s_schedulers_drive_it_as_they_drive_torch_s_class(make):
    traces = []
    for cls in (descend.SGD, torch.optim.SGD):
        p = parameters()
        optimizer = cls(p, lr=0.1, momentum=0.9)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SequentialLR warns about itself
            scheduler = make(optimizer)
            trace = []
            for step in range(15):
                train(optimizer, p, range(step, step + 1))
                scheduler.step()
                trace.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        traces.append(trace)
    assert traces[0] == traces[1]


# --- copies, pickles, prints ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"])
def test_copies_continue_alike(copied):
    p = parameters()
    optimizer = descend.AdamW(p, lr=0.1 * schedules.cosine(20))
    train(optimizer, p, range(5))
    twin = copied(optimizer)
    q = twin.param_groups[0]["params"]
    assert q[0] is not p[0]
    train(optimizer, p, range(5, 9))
    train(twin, q, range(5, 9))
    assert all(torch.equal(a, b) for a, b in zip(p, q, strict=True))
    assert twin.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


def test_explain_says_what_runs():
    p = parameters()
    optimizer = descend.AdamW(p, lr=0.1 * schedules.cosine(20))
    train(optimizer, p, range(1))
    said = optimizer.explain()
    for part in ("group 0: adamw on 4 tensors, 26 parameters", "cosine(20)", "state 224 bytes"):
        assert part in said, said


def test_a_rule_of_one_s_own_steps_at_once(float64):
    @rule
    def momentum_sgd(p, g, m=Slot("momentum_buffer"), *, lr=0.1, momentum=0.9):
        m = momentum * m + g
        return dict(p=p - lr * m, m=m)

    mine, theirs = parameters(), parameters()
    train(descend.Optimizer(mine, momentum_sgd, lr=0.05), mine, range(30))
    train(torch.optim.SGD(theirs, lr=0.05, momentum=0.9), theirs, range(30))
    assert all(torch.allclose(a, b, rtol=1e-13) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"fused": "no"}, "fused takes True, False or None, not 'no'"),
        ({"foreach": 1}, "foreach takes True, False or None, not 1"),
        ({"maximize": None}, "maximize takes True or False, not None"),
        ({"capturable": "yes"}, "capturable takes True or False, not 'yes'"),
        ({"differentiable": 0}, "differentiable takes True or False, not 0"),
        ({"amsgrad": "yes"}, "amsgrad takes True or False, not 'yes'"),
        ({"amsgrad": 1}, "amsgrad takes True or False, not 1"),
    ],
)
def test_what_is_no_bool_is_refused_by_name(given, message):
    first, second = parameters()[:2]
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        descend.AdamW([first], **given)
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        descend.AdamW([{"params": [first], **given}])
    optimizer = descend.AdamW([first])
    before = snapshot(optimizer)
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        optimizer.add_param_group({"params": [second], **given})
    assert len(optimizer.param_groups) == 1
    assert_unchanged(optimizer, before)


def test_a_bool_of_numpy_chooses_the_variant():
    (p,) = parameters()[:1]
    optimizer = descend.AdamW([p], amsgrad=np.bool_(True))
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert "max_exp_avg_sq" in optimizer.state[p]
