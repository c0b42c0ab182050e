"""The eager backend: the pure pair, reductions, slots of every shape, gradients and vmap."""

import math

import pytest
import torch
from torch.func import grad, vmap

import descend
from descend import (
    Slot,
    clip,
    ema,
    exp,
    global_mean,
    global_norm,
    global_sum,
    log,
    maximum,
    mean,
    minimum,
    norm,
    rule,
    rules,
    sign,
    sqrt,
    tanh,
    where,
)
from descend.backends import portions
from optimizers import ROWS, SHAPES, gradients, parameters, relative_difference, train

all_rows = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


@all_rows
def test_the_pure_pair_takes_the_steps_of_the_optimizer(row, float64):
    for options in list(row.combinations())[::5]:
        options.pop("maximize")
        optimized = parameters()
        train(row.ours(optimized, **options), optimized, range(15))
        params = {str(i): p.detach() for i, p in enumerate(parameters())}
        state = row.ours.rule.init(params, **options)
        for step in range(15):
            grads = dict(zip(params, gradients(step, list(params.values())), strict=True))
            before = {k: v.clone() for k, v in params.items()}
            new_params, state = row.ours.rule.update(params, grads, state, **options)
            assert all(torch.equal(before[k], params[k]) for k in params), "the arguments stay as they are"
            params = new_params
        assert relative_difference(list(params.values()), optimized) <= 1e-12


def test_parameters_without_a_gradient_pass_through():
    params = {"a": torch.ones(2), "b": torch.ones(3)}
    state = rules.adamw.init(params)
    new, new_state = rules.adamw.update(params, {"a": torch.ones(2)}, state)
    assert new["b"] is params["b"]
    assert new_state["b"] == state["b"]
    assert new_state["a"]["step"] == 1
    with pytest.raises(ValueError, match="params lacks"):
        rules.adamw.update(params, {"c": torch.ones(2)}, state)


def _unrolled(the_rule, p, options, steps):
    params = {"p": p}
    state = the_rule.init(params, **options)
    for _ in range(steps):
        params, state = the_rule.update(params, {"p": 2 * params["p"] + 1}, state, **options)
    return (params["p"] ** 2).sum()


@all_rows
def test_gradients_through_unrolled_steps(row, float64):
    """Gradients of the last parameters in the first ones and in every number, by finite differences."""
    numbers = {k: v for k, v in row.ours.rule.hyper_parameters.items() if not isinstance(v, bool)}
    numbers |= {"lr": 0.05, **{k: 0.1 for k in numbers if k == "eps"}, **{k: 0.1 for k in numbers if "decay" in k}}
    numbers |= {k: 0.9 for k in numbers if k == "momentum"}
    numbers |= {k: 2.0 for k in numbers if k == "t0"}
    numbers |= {k: 0.7 for k in numbers if k == "norm_limit"}
    names = [name for name in numbers if name not in ("betas", "etas", "step_sizes")]
    pairs = [name for name in ("betas", "etas") if name in numbers]

    def unrolled(p, *values):
        given = dict(zip(names, values, strict=False))
        given |= dict.fromkeys(pairs, (values[-2], values[-1]))
        return _unrolled(row.ours.rule, p, given, 8)

    p = torch.tensor([0.3, -0.8, 1.7], requires_grad=True)
    flat = [numbers[name] for name in names] + [x for name in pairs for x in numbers[name]]
    assert torch.autograd.gradcheck(unrolled, (p, *(torch.tensor(float(x), requires_grad=True) for x in flat)))


@all_rows
def test_vmap_over_problems_equals_a_loop(row, float64):
    the_rule = row.ours.rule

    def two_steps(p, g, lr):
        params, state = {"p": p}, the_rule.init({"p": p}, lr=0.05)
        for _ in range(2):
            params, state = the_rule.update(params, {"p": g}, state, lr=lr)
        return params["p"]

    p, g, lr = torch.randn(5, 3), torch.randn(5, 3), torch.rand(5) / 10
    together = vmap(two_steps)(p, g, lr)
    apart = torch.stack([two_steps(*row) for row in zip(p, g, lr, strict=True)])
    assert torch.allclose(together, apart, rtol=1e-12)
    meta = vmap(grad(lambda lr, p, g: (two_steps(p, g, lr) ** 2).sum()))(lr, p, g)
    assert meta.shape == (5,)
    assert torch.isfinite(meta).all()


def test_vmap_over_states_with_different_step_counts(float64):
    p, g = torch.randn(3, 4), torch.randn(3, 4)
    states = {
        "p": {"step": torch.tensor([0.0, 5.0, 100.0]), "exp_avg": torch.randn(3, 4), "exp_avg_sq": torch.rand(3, 4)}
    }
    together, new = vmap(lambda p, g, s: rules.radam.update({"p": p}, {"p": g}, s))(p, g, states)
    assert new["p"]["step"].tolist() == [1, 6, 101]
    for i in range(3):
        alone, _ = rules.radam.update({"p": p[i]}, {"p": g[i]}, {"p": {k: v[i] for k, v in states["p"].items()}})
        assert torch.allclose(together["p"][i], alone["p"], rtol=1e-12)


@rule
def every_operation(p, g, t, m=Slot("m"), *, lr=0.1, a=0.3, b=2.0):
    """Each operation of the vocabulary once, on elements and on host scalars."""
    x = tanh(exp(-abs(g)) + log(1 + p * p)) ** b
    y = minimum(maximum(g, -a), clip(p, -1, a * t)) / (1 + sqrt(abs(p)))
    z = where(p > g, x, where(p <= a, -y, sign(p)))
    w = where(g == 0, 1, where(g != p, a**m, 0)) + where(g >= 0, 1, 0) - where(g < -a, 1, 0)
    scalar = tanh(exp(-abs(-a)) + log(1 + b * b)) ** minimum(a, maximum(b, 0.5)) + clip(t, 0, 2) * sign(b) / sqrt(b)
    chosen = where(t > 1, scalar, where(t <= a, 0, 1))
    return dict(p=p - lr * (z + w * chosen), m=m + z)


def straight_every_operation(p, g, m, t, lr=0.1, a=0.3, b=2.0):
    x = torch.tanh(torch.exp(-g.abs()) + torch.log(1 + p * p)) ** b
    y = torch.minimum(g.clamp(min=-a), p.clamp(-1, a * t)) / (1 + p.abs().sqrt())
    z = torch.where(p > g, x, torch.where(p <= a, -y, p.sign()))
    w = torch.where(g == 0, 1.0, torch.where(g != p, a**m, 0.0)) + (g >= 0).double() - (g < -a).double()
    scalar = math.tanh(math.exp(-a) + math.log(1 + b * b)) ** min(a, max(b, 0.5)) + min(t, 2) / math.sqrt(b)
    chosen = scalar if t > 1 else 0.0 if t <= a else 1.0
    return p - lr * (z + w * chosen), m + z


@pytest.mark.parametrize("foreach", [None, False])
def test_every_operation_against_straight_line_code(foreach, float64):
    params = parameters()
    expected = [(p.detach().clone(), torch.zeros_like(p)) for p in params]
    optimizer = descend.Optimizer(params, every_operation, foreach=foreach)
    for step in range(4):
        grads = gradients(step, params)
        expected = [
            straight_every_operation(p.detach(), g, m.detach(), step + 1)
            for (p, m), g in zip(expected, grads, strict=True)
        ]
        train(optimizer, params, range(step, step + 1))
    assert relative_difference(params, [p for p, _ in expected]) <= 1e-12


def test_every_operation_is_used_in_the_test_above():
    from descend.expr import OPERATIONS, WINDOWS

    used = {node.op for node in every_operation.formula().nodes}
    reductions = {name for name, operation in OPERATIONS.items() if operation.reduces is not None}
    whole = {name for name, operation in OPERATIONS.items() if operation.whole}
    random = {name for name, operation in OPERATIONS.items() if operation.random}
    apart = reductions | WINDOWS | whole | random  # each has a file of its own
    assert used >= set(OPERATIONS) - apart


@pytest.mark.parametrize("special", [float("nan"), float("inf"), -float("inf"), 0.0, -0.0])
def test_special_values_pass_as_in_torch(special):
    for name in ("AdamW", "SGD", "RMSprop", "Adamax", "Rprop", "Adagrad", "NAdam"):
        ours, theirs = (
            torch.tensor([1.0, special], requires_grad=True),
            torch.tensor([1.0, special], requires_grad=True),
        )
        a, b = getattr(descend, name)([ours]), getattr(torch.optim, name)([theirs])
        for g in (special, 1.0, 0.0):
            ours.grad, theirs.grad = torch.tensor([g, 1.0]), torch.tensor([g, 1.0])
            a.step()
            b.step()
        assert torch.allclose(ours, theirs, rtol=1e-6, equal_nan=True), name


@rule
def normalised(p, g, *, lr=0.1):
    """A step of length lr * |p| per tensor, in the manner of LARS."""
    ratio = where(norm(g) > 0, norm(p) / norm(g), 1)
    return dict(p=p - lr * ratio * (g - mean(g)) / descend.sum(abs(g)))


@rule
def clipped(p, g, m=Slot("m"), *, lr=0.1, limit=1.0):
    """Gradient clipping by the global norm, then momentum clipped again."""
    g = g * minimum(1, limit / global_norm(g))
    m = ema(m, g, 0.9)
    return dict(p=p - lr * m / (global_mean(abs(m)) + global_sum(m * m)), m=m)


def test_reductions_per_tensor(float64):
    params = parameters()
    expected = []
    for p, g in zip(params, gradients(0, params), strict=True):
        ratio = p.norm() / g.norm()
        expected.append(p - 0.1 * ratio * (g - g.mean()) / g.abs().sum())
    train(descend.Optimizer(params, normalised), params, range(1))
    assert relative_difference(params, expected) <= 1e-12


def straight_clipped(params, grads, momenta):
    total = torch.sqrt(sum((g**2).sum() for g in grads))
    momenta = [0.9 * m + 0.1 * g * min(1.0, 1 / total) for m, g in zip(momenta, grads, strict=True)]
    flat = torch.cat([m.reshape(-1) for m in momenta])
    scale = flat.abs().mean() + (flat**2).sum()
    return [p.detach() - 0.1 * m / scale for p, m in zip(params, momenta, strict=True)], momenta


def test_global_reductions_run_over_all_groups_of_the_rule(float64):
    params, others = parameters(), parameters(seed=1)
    expected, momenta = parameters(), [torch.zeros(shape) for shape in SHAPES]
    optimizer = descend.Optimizer(
        [{"params": params[:1]}, {"params": others, "rule": rules.sgd}, {"params": params[1:]}], clipped
    )
    for step in range(3):
        expected, momenta = straight_clipped(expected, gradients(step, expected), momenta)
        for p, g in zip(others, gradients(step + 50, others), strict=True):
            p.grad = 100 * g  # another rule's gradients do not count
        train(optimizer, params, range(step, step + 1))
    assert relative_difference(params, expected) <= 1e-12
    pure = {str(i): p.detach() for i, p in enumerate(parameters())}
    new, _ = clipped.update(pure, dict(zip(pure, gradients(0, list(pure.values())), strict=True)), clipped.init(pure))
    expected, _ = straight_clipped(parameters(), gradients(0, parameters()), [torch.zeros(s) for s in SHAPES])
    assert relative_difference(list(new.values()), expected) <= 1e-12


def test_reductions_have_the_same_bits_for_any_threads_and_buckets():
    sizes = [70_001, 3, 4096, 123_456]
    results = []
    for threads, groups in ((1, 1), (2, 1), (2, 4)):
        generator = torch.Generator().manual_seed(0)
        params = [torch.randn(n, generator=generator, requires_grad=True) for n in sizes]
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator)
        split = [{"params": params}] if groups == 1 else [{"params": [p]} for p in params]
        torch.set_num_threads(threads)
        for the_rule in (clipped, normalised):
            descend.Optimizer(split, the_rule).step()
        torch.set_num_threads(1)
        results.append([p.detach() for p in params])
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@rule
def counted(p, g, t, h=Slot("h", init="start", shape="optimizer"), *, lr=0.1, decay=0.5, start=2.0):
    """A slot that exists once per optimizer: an average of the global gradient norm, corrected by the clock."""
    h = ema(h, global_norm(g), decay) / t
    return dict(p=p - lr * g / h, h=h)


def test_slots_that_exist_once_per_optimizer(float64):
    params = parameters()
    optimizer = descend.Optimizer([{"params": params[:2]}, {"params": params[2:]}], counted, decay=0.25)
    assert [group["h"] for group in optimizer.param_groups] == [2.0, 2.0]
    expected, h = [p.detach().clone() for p in params], 2.0
    for step in range(3):
        grads = gradients(step, params)
        h = (0.25 * h + 0.75 * math.sqrt(sum((g**2).sum().item() for g in grads))) / (step + 1)
        expected = [p - 0.1 * g / h for p, g in zip(expected, grads, strict=True)]
        train(optimizer, params, range(step, step + 1))
        assert optimizer.param_groups[0]["h"] == optimizer.param_groups[1]["h"] == pytest.approx(h, rel=1e-13)
    assert relative_difference(params, expected) <= 1e-12
    resumed = descend.Optimizer([{"params": parameters()[:2]}, {"params": parameters()[2:]}], counted)
    resumed.load_state_dict(optimizer.state_dict())
    assert resumed.param_groups[0]["h"] == optimizer.param_groups[0]["h"]
    optimizer.param_groups[0]["decay"] = 0.9
    before = [p.detach().clone() for p in params]
    with pytest.raises(ValueError, match="decay reaches a slot that exists once per optimizer"):
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, params, strict=True))


@rule
def two_variants(p, g, *, lr=1.0, clipped=False):
    """A variant that calls one global reduction more than the other, before the one that both call."""
    if clipped:
        g = g / global_norm(g)
    return dict(p=p - lr * g * global_mean(abs(p)))


def test_global_reductions_of_two_variants_are_told_apart(float64):
    a, b = torch.full((2,), 3.0, requires_grad=True), torch.full((2,), 5.0, requires_grad=True)
    a.grad, b.grad = torch.full((2,), 10.0), torch.ones(2)
    descend.Optimizer([{"params": [a], "clipped": True}, {"params": [b]}], two_variants).step()
    assert b.tolist() == [1.0, 1.0], "5 - 1 * mean(3, 3, 5, 5)"
    assert a.tolist() == pytest.approx([3 - 4 / 2**0.5] * 2)


@rule
def shared_clock(p, g, t, h=Slot("h", init="start", shape="optimizer"), *, lr=0.1, start=0.0):
    """What is assigned to the slot is the clock + 1; the parameter's own t is another number."""
    return dict(p=p - lr * g * t, h=t)


def test_the_clock_of_an_optimizer_s_slot_is_not_the_parameter_s_step(float64):
    a, b = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer = descend.Optimizer([a, b], shared_clock, lr=1.0)
    for step in range(3):
        a.grad, b.grad = torch.ones(1), torch.ones(1) if step == 2 else None
        optimizer.step()
        assert optimizer.param_groups[0]["h"] == step + 1
    assert (a.item(), b.item()) == (-6.0, -1.0)


@rule
def counting(p, g, h=Slot("h", init="start", shape="optimizer"), *, lr=1.0, start=0.0):
    h = h + 1
    return dict(p=p - lr * g * h, h=h)


def test_a_group_that_comes_later_takes_the_optimizer_s_slot_as_it_is(float64):
    a, b = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer = descend.Optimizer([a], counting)
    a.grad = torch.ones(1)
    for _ in range(3):
        optimizer.step()
    optimizer.add_param_group({"params": [b]})
    a.grad, b.grad = None, torch.ones(1)
    optimizer.step()
    assert b.item() == -4.0
    assert [group["h"] for group in optimizer.param_groups] == [4.0, 4.0]


def test_the_pure_pair_keeps_an_optimizer_s_slot_in_step(float64):
    params = {"a": torch.zeros(1), "b": torch.zeros(1)}
    state = counting.init(params)
    for _ in range(3):
        params, state = counting.update(params, {"a": torch.ones(1)}, state)
    params, state = counting.update(params, {"a": torch.ones(1), "b": torch.ones(1)}, state)
    assert (params["a"].item(), params["b"].item()) == (-10.0, -4.0)
    slope = torch.func.grad(
        lambda start: counting.update(
            {"p": torch.zeros(1)}, {"p": torch.ones(1)}, counting.init({"p": torch.zeros(1)}, start=start)
        )[0]["p"].sum()
    )
    assert slope(torch.tensor(2.0)) == -1.0
    several = {"p": {"h": torch.tensor([0.0, 1.0, 5.0])}}
    together, _ = vmap(lambda s: counting.update({"p": torch.zeros(1)}, {"p": torch.ones(1)}, s))(several)
    assert together["p"].flatten().tolist() == [-1.0, -2.0, -6.0]


def test_assignment_is_simultaneous_through_a_choice_on_the_host(float64):
    @rule
    def swap(p, g, t, m=Slot("m", init=5.0)):
        return dict(p=where(t > 0, m, p), m=where(t > 0, p, m))

    p = torch.tensor([1.0, 2.0], requires_grad=True)
    optimizer = descend.Optimizer([p], swap)
    p.grad = torch.zeros(2)
    optimizer.step()
    assert (p.tolist(), optimizer.state[p]["m"].tolist()) == ([5.0, 5.0], [1.0, 2.0])


def test_assignment_is_simultaneous_where_a_rule_reduces(float64):
    @rule
    def swap(p, g, m=Slot("m", init=5.0), length=Slot("length", shape="scalar")):
        return dict(p=m, m=p, length=norm(g))

    p = torch.tensor([1.0, 2.0], requires_grad=True)
    optimizer = descend.Optimizer([p], swap)
    p.grad = torch.tensor([3.0, 4.0])
    optimizer.step()
    assert (p.tolist(), optimizer.state[p]["m"].tolist()) == ([5.0, 5.0], [1.0, 2.0])
    assert optimizer.state[p]["length"].item() == 5.0


def test_a_differentiable_step_keeps_no_gradient_as_state():
    p = torch.ones(3, requires_grad=True).clone()
    optimizer = descend.SGD([p], momentum=0.9, differentiable=True)
    p.grad = torch.ones(3)
    optimizer.step()
    assert optimizer.state[p]["momentum_buffer"].data_ptr() != p.grad.data_ptr()


def test_the_unused_side_of_a_choice_between_scalars_has_no_gradient(float64):
    @rule
    def guarded(p, g, *, lr=0.1, a=4.0):
        return dict(p=p - lr * where(a > 5, sqrt(a - 5), a) * g)

    def final(a):
        return guarded.update({"p": torch.zeros(2)}, {"p": torch.ones(2)}, {"p": {}}, a=a)[0]["p"].sum()

    assert torch.func.grad(final)(torch.tensor(4.0)).item() == pytest.approx(-0.2)


def test_the_pure_update_shares_no_memory_with_what_it_was_given():
    gradient = torch.ones(3)
    params = {"p": torch.zeros(3)}
    _, state = rules.sgd.update(params, {"p": gradient}, rules.sgd.init(params, momentum=0.9), momentum=0.9)
    assert state["p"]["momentum_buffer"].data_ptr() != gradient.data_ptr()

    @rule
    def constant(p, g, m=Slot("m"), *, lr=0.1):
        return dict(p=p - lr * g, m=0.5)

    _, state = constant.update(params, {"p": gradient}, constant.init(params))
    state["p"]["m"].add_(1)
    assert state["p"]["m"].tolist() == [1.5, 1.5, 1.5]


def test_the_pure_update_takes_complex_parameters_and_ascends(float64):
    z = torch.tensor([1 + 1j, 2 - 1j])
    new, _ = rules.adamw.update({"z": z}, {"z": z}, rules.adamw.init({"z": z}))
    parameter = z.clone().requires_grad_()
    parameter.grad = z.clone()
    descend.AdamW([parameter]).step()
    assert torch.allclose(new["z"], parameter)
    up, _ = rules.sgd.update({"z": torch.zeros(2)}, {"z": torch.ones(2)}, {"z": {}}, maximize=True, lr=1.0)
    assert up["z"].tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match=r"begin with adamw.init"):
        rules.adamw.update({"z": z}, {"z": z}, {"z": {}})


def test_a_scalar_slot_of_its_own_type_is_kept_in_it():
    @rule
    def thirds(p, g, h=Slot("h", shape="scalar", dtype="float64"), *, lr=0.1):
        h = where(descend.fresh(h), lr / 3, h)
        return dict(p=p - h * g, h=h)

    p = torch.zeros(1, requires_grad=True)
    optimizer = descend.Optimizer([p], thirds, lr=1.0)
    p.grad = torch.ones(1)
    optimizer.step()
    assert optimizer.state[p]["h"].item() == 1 / 3


def test_an_average_of_the_weights_starts_from_the_weights(float64):
    @rule
    def averaged(p, g, average=Slot("average", init="p"), *, lr=0.1):
        p = p - lr * g
        return dict(p=p, average=ema(average, p, 0.5))

    p = torch.tensor([1.0, 2.0], requires_grad=True)
    optimizer = descend.Optimizer([p], averaged)
    p.grad = torch.ones(2)
    optimizer.step()
    assert optimizer.state[p]["average"].tolist() == pytest.approx([0.95, 1.95])


def test_scalars_of_a_parameter_are_stored_as_torch_stores_them():
    p = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = descend.NAdam([p])
    for _ in range(3):
        p.grad = torch.ones(3, dtype=torch.float64)
        optimizer.step()
    stored = optimizer.state[p]["mu_product"]
    assert (stored.shape, stored.dtype) == ((), torch.float32)


def test_a_slot_may_have_its_own_type():
    @rule
    def wide(p, g, m=Slot("m", dtype="float64"), *, lr=0.1):
        m = m + g
        return dict(p=p - lr * m, m=m)

    p = torch.zeros(3, dtype=torch.bfloat16, requires_grad=True)
    optimizer = descend.Optimizer([p], wide)
    p.grad = torch.ones(3, dtype=torch.bfloat16)
    optimizer.step()
    assert optimizer.state[p]["m"].dtype is torch.float64


def test_memory_formats_are_kept():
    p = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    optimizer = descend.AdamW([p])
    p.grad = torch.randn(2, 3, 4, 5)
    optimizer.step()
    assert p.is_contiguous(memory_format=torch.channels_last)
    assert optimizer.state[p]["exp_avg"].is_contiguous(memory_format=torch.channels_last)


@all_rows
def test_complex_parameters_step_as_their_two_parts(row, float64):
    for options in list(row.combinations())[::7]:
        z = torch.complex(torch.randn(3, 2), torch.randn(3, 2)).requires_grad_()
        parts = torch.view_as_real(z.detach()).clone().requires_grad_()
        together, apart = row.ours([z], **options), row.ours([parts], **options)
        for _ in range(3):
            z.grad = torch.complex(torch.randn(3, 2), torch.randn(3, 2))
            parts.grad = torch.view_as_real(z.grad).clone()
            together.step()
            apart.step()
        assert torch.allclose(torch.view_as_real(z), parts, rtol=1e-12)
        slots = {slot.key for slot in row.ours.rule.slots.values() if slot.shape == "like"}
        assert all(v.is_complex() for key, v in together.state[z].items() if key in slots)


@all_rows
def test_portions_give_the_bits_of_the_whole(row, monkeypatch):
    for options in list(row.combinations())[::5]:
        whole, cut = parameters(), parameters()
        train(row.ours(whole, **options), whole, range(4))
        monkeypatch.setattr(portions, "PORTION", 4)
        train(row.ours(cut, **options), cut, range(4))
        monkeypatch.undo()
        assert all(torch.equal(a, b) for a, b in zip(whole, cut, strict=True)), options


def test_portions_of_tensors_that_cannot_be_cut(monkeypatch):
    monkeypatch.setattr(portions, "PORTION", 4)
    for layout in (lambda x: x.t(), lambda x: x[:, ::2], lambda x: x):
        ours, theirs = (layout(torch.ones(6, 8)).detach().requires_grad_() for _ in range(2))
        ours.grad, theirs.grad = torch.ones(ours.shape), torch.ones(ours.shape)
        descend.AdamW([ours]).step()
        torch.optim.AdamW([theirs]).step()
        assert torch.equal(ours, theirs)


def test_empty_tensors_step():
    p = torch.zeros(0, 3, requires_grad=True)
    optimizer = descend.Optimizer([p], rules.adamw)
    p.grad = torch.zeros(0, 3)
    optimizer.step()
    assert optimizer.state[p]["step"] == 1
