"""YellowFin: every intermediate against straight lines of float64, the cubic, the clips, and one kernel for all."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import descend
from descend.backends import compiler
from descend.backends.plan import plan
from yellowfin import yellowfin

needs_compiler = pytest.mark.skipif(compiler.unavailable() is not None, reason="no compiler")
BACKENDS = ["eager", pytest.param("cpp", marks=needs_compiler)]
SHAPES = [(30, 20), (20,), (), (40000,)]
KEPT = {
    "tuned_lr": "rate",
    "tuned_momentum": "momentum",
    "log_curvature_min": "log_min",
    "log_curvature_max": "log_max",
    "grad_norm_squared_avg": "g2",
    "grad_norm_avg": "norm",
    "distance_avg": "dist",
}


def parameters(dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for s in SHAPES]


def noisy_gradients(params, step, scale):
    """Gradients of a quadratic, with noise."""
    generator = torch.Generator().manual_seed(100 + step)
    noise = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in params]
    return [scale * (0.3 * p.detach().double() + 0.5 * x) for p, x in zip(params, noise, strict=True)]


def scale_of(step):
    """Bursts beyond both clips, a vanishing gradient, and calm between."""
    return {17: 40.0, 30: 1e-5, 31: 1000.0, 45: 0.0}.get(step, 0.05)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("smoothed", [False, True])
def test_every_intermediate_of_sixty_steps(backend, smoothed):
    params = parameters()
    optimizer = descend.YellowFin(params, backend=backend, smoothed=smoothed, weight_decay=0.01, lr=2.0)
    expected, state, bursts = [p.detach().clone() for p in params], {}, 0
    for step in range(60):
        grads = noisy_gradients(expected, step, scale_of(step))
        expected = yellowfin(expected, grads, state, step + 1, lr=2.0, weight_decay=0.01, smoothed=smoothed)
        bursts += state["burst"]
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        optimizer.step()
        group = optimizer.param_groups[0]
        for key, name in KEPT.items():
            assert group[key] == pytest.approx(state[name], rel=1e-10, abs=1e-14), (step, key)
        assert group["curvatures"] == pytest.approx(state["window"], rel=1e-10)
        assert group["tuned_steps"] == step + 1
        for p, value, average, buffer in zip(params, expected, state["gbar"], state["buf"], strict=True):
            torch.testing.assert_close(p.detach(), value, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(optimizer.state[p]["grad_avg"], average, rtol=1e-9, atol=1e-14)
            torch.testing.assert_close(optimizer.state[p]["momentum_buffer"], buffer, rtol=1e-9, atol=1e-12)
    assert bursts >= 2
    assert len(group["curvatures"]) == 20


def named(formula):
    """The formula's named values, as a function of hyper-parameters and slots is evaluated in plain floats."""
    return dict(formula.bindings)


def evaluated(node, known):
    """A scalar expression in Python floats."""
    if node in known:
        return known[node]
    if node.op == "constant":
        return node.value
    a = [evaluated(x, known) for x in node.args]
    operations = {
        "add": lambda: a[0] + a[1],
        "sub": lambda: a[0] - a[1],
        "mul": lambda: a[0] * a[1],
        "div": lambda: a[0] / a[1],
        "pow": lambda: a[0] ** a[1],
        "neg": lambda: -a[0],
        "sqrt": lambda: math.sqrt(a[0]),
    }
    return operations[node.op]()


@given(st.floats(-18, 12))
def test_the_root_solves_the_cubic(exponent):
    q = 10.0**exponent
    names = named(descend.rules.yellowfin.formula())
    x = evaluated(names["x"], {names["q"]: q})
    assert abs((1 - x) ** 3 - q * x) <= 1e-9 * (1 + q)
    assert 0 < x < 1 or q < 1e-15


def test_one_pass_for_the_norm_one_for_the_averages_one_for_the_update():
    steady = plan(descend.rules.yellowfin.formula(weight_decay=0.0).settle(frozenset()))
    assert steady.traffic(dict.fromkeys(steady.streams, 4)) == 4 + 12 + 20
    assert [len(sweep.reductions) for sweep in steady.passes] == [1, 1, 0]
    cost = descend.rules.yellowfin.cost()
    assert cost.bytes_read + cost.bytes_written == 36


@needs_compiler
def test_the_same_bits_for_any_number_of_threads_and_groups():
    results = []
    for threads, groups in [(1, 1), (2, 1), (2, len(SHAPES))]:
        torch.set_num_threads(threads)
        try:
            params = parameters(torch.float32)
            given = params if groups == 1 else [{"params": [p]} for p in params]
            optimizer = descend.YellowFin(given, backend="cpp")
            for step in range(25):
                for p, g in zip(params, noisy_gradients(params, step, scale_of(step)), strict=True):
                    p.grad = g.float()
                optimizer.step()
            results.append([p.detach().clone() for p in params])
        finally:
            torch.set_num_threads(1)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_long_jump_is_held_to_a_hundred(backend):
    p = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = descend.YellowFin([p], first_lr=1e6, backend=backend)
    p.grad = torch.full((4,), 50.0, dtype=torch.float64)
    optimizer.step()
    assert p.detach().norm() == pytest.approx(100, rel=1e-6)


@pytest.mark.parametrize("backend", [pytest.param("eager", marks=pytest.mark.long), *BACKENDS[1:]])
def test_it_finds_the_minimum_of_a_noisy_quadratic_untuned(backend):
    generator = torch.Generator().manual_seed(0)
    curvature = torch.logspace(-2, 0, 50, dtype=torch.float64)
    p = torch.ones(50, dtype=torch.float64, requires_grad=True)
    optimizer = descend.YellowFin([p], backend=backend)
    for _ in range(2000):
        p.grad = curvature * p.detach() + 0.001 * torch.randn(50, generator=generator, dtype=torch.float64)
        optimizer.step()
    loss = float((curvature * p.detach() ** 2).sum() / 2)
    assert loss <= 1e-3 * float(curvature.sum() / 2)


def test_a_schedule_multiplies_the_tuned_rate():
    results = []
    for lr in (1.0, descend.schedules.constant() if hasattr(descend.schedules, "constant") else 1.0, 0.25):
        p = torch.ones(3, dtype=torch.float64, requires_grad=True)
        optimizer = descend.YellowFin([p], lr=lr, backend="eager")
        p.grad = torch.ones(3, dtype=torch.float64)
        optimizer.step()
        results.append((1 - p.detach()[0]).item())
    assert results[0] == results[1] == pytest.approx(4 * results[2])


@pytest.mark.parametrize(("name", "value"), [("lr", -1), ("beta", 1.0), ("beta", -0.1), ("first_lr", -1e-3)])
def test_wrong_values_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        descend.YellowFin([torch.zeros(1, requires_grad=True)], **{name: value})
