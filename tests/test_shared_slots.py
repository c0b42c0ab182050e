"""Slots that exist once per optimizer, numbers and windows of them: the same on every backend."""

import math

import pytest
import torch

import descend
from descend import Slot, ema, global_norm, highest, lowest, push, rule, where
from descend.backends import compiler
from descend.expr import FormulaError

needs_compiler = pytest.mark.skipif(compiler.unavailable() is not None, reason="no compiler")
BACKENDS = ["eager", pytest.param("cpp", marks=needs_compiler)]


@rule
def windowed(
    p,
    g,
    t,
    buf=Slot("buf"),
    w=Slot("w", shape=("optimizer", 3)),
    h=Slot("h", init="start", shape="optimizer"),
    n=Slot("n", shape="optimizer"),
    *,
    lr=0.1,
    decay=0.5,
    start=2.0,
):
    """A window over global norms, an average that reads the clock, and a counter."""
    size = global_norm(g)
    w = push(w, size)
    n = n + 1
    h = ema(h, highest(w) + lowest(w), decay) / t
    buf = ema(buf, g, decay)
    return dict(p=p - lr * buf / (1 + h * n) / t, buf=buf, w=w, h=h, n=n)


def parameters(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (5,), (70000,), ()]
    return [torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for s in shapes]


def give_gradients(params, step, absent=()):
    generator = torch.Generator().manual_seed(step + 1)
    for i, p in enumerate(params):
        g = torch.randn(p.shape, generator=generator, dtype=torch.float64) * (1 + step % 5)
        p.grad = None if i in absent else g.to(p.dtype)


class Straight:
    """The rule above, written out."""

    def __init__(self, params):
        self.params = [p.detach().double().clone() for p in params]
        self.buf = [torch.zeros_like(p) for p in self.params]
        self.t = [0] * len(params)
        self.window, self.h, self.n = [], 2.0, 0

    def step(self, grads):
        squares = sum(float((g.double() ** 2).sum()) for g in grads if g is not None)
        self.window = [*self.window, math.sqrt(squares)][-3:]
        self.n += 1
        self.h = (0.5 * self.h + 0.5 * (max(self.window) + min(self.window))) / self.n
        for i, g in enumerate(grads):
            if g is not None:
                self.t[i] += 1
                self.buf[i] = 0.5 * self.buf[i] + 0.5 * g.double()
                self.params[i] -= 0.1 * self.buf[i] / (1 + self.h * self.n) / self.t[i]


@pytest.mark.parametrize("backend", BACKENDS)
def test_windows_numbers_and_the_clock_against_the_rule_written_out(backend):
    params = parameters()
    optimizer = descend.Optimizer([{"params": params[:2]}, {"params": params[2:]}], windowed, backend=backend)
    assert optimizer.param_groups[1]["w"] == []
    straight = Straight(params)
    for step in range(7):
        give_gradients(params, step, absent=[1] if step in (0, 3) else [])
        straight.step([p.grad for p in params])
        optimizer.step()
        for group in optimizer.param_groups:
            assert group["w"] == pytest.approx(straight.window, rel=1e-13)
            assert group["h"] == pytest.approx(straight.h, rel=1e-13)
            assert group["n"] == straight.n
            assert {type(x) for x in (group["h"], *group["w"])} == {float}
    for p, expected in zip(params, straight.params, strict=True):
        torch.testing.assert_close(p.detach(), expected, rtol=1e-12, atol=1e-14)


@needs_compiler
def test_kernels_take_such_rules_and_leave_the_same_bits_for_any_threads_and_groups():
    results = []
    for threads, groups in [(1, 1), (2, 1), (1, 4), (2, 4)]:
        torch.set_num_threads(threads)
        try:
            params = parameters(torch.float32)
            split = [{"params": params}] if groups == 1 else [{"params": [p]} for p in params]
            optimizer = descend.Optimizer(split, windowed, backend="cpp")
            for step in range(5):
                give_gradients(params, step)
                optimizer.step()
            results.append([*(p.detach().clone() for p in params), torch.tensor(optimizer.param_groups[-1]["w"])])
        finally:
            torch.set_num_threads(1)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_saved_state_continues_to_the_bit(backend, tmp_path):
    def made():
        params = parameters(torch.float32)
        return params, descend.Optimizer(params, windowed, backend=backend)

    params, optimizer = made()
    for step in range(9):
        if step == 4:
            torch.save([optimizer.state_dict(), [p.detach().clone() for p in params]], tmp_path / "saved.pt")
        give_gradients(params, step)
        optimizer.step()
    resumed, again = made()
    state, values = torch.load(tmp_path / "saved.pt", weights_only=True)
    again.load_state_dict(state)
    with torch.no_grad():
        for p, value in zip(resumed, values, strict=True):
            p.copy_(value)
    for step in range(4, 9):
        give_gradients(resumed, step)
        again.step()
    assert all(torch.equal(a, b) for a, b in zip(params, resumed, strict=True))
    assert again.param_groups[0]["w"] == optimizer.param_groups[0]["w"]


def test_the_pure_pair_keeps_windows_too():
    params = {"a": torch.ones(2, dtype=torch.float64), "b": torch.ones((), dtype=torch.float64)}
    state = windowed.init(params)
    assert state["a"]["w"].shape == (0,)
    for step in range(5):
        grads = {name: torch.full_like(p, step + 1.0) for name, p in params.items()}
        params, state = windowed.update(params, grads, state)
    assert state["b"]["w"].tolist() == pytest.approx([math.sqrt(3) * k for k in (3, 4, 5)])
    slope = torch.func.grad(
        lambda x: windowed.update({"a": x}, {"a": 3 * x}, windowed.init({"a": x}))[1]["a"]["w"].sum()
    )(torch.tensor([4.0]))
    assert slope.item() == pytest.approx(3.0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("window", [math.nan, math.inf])
def test_nan_and_infinity_pass_through_a_window(backend, window):
    @rule
    def held(p, g, w=Slot("w", shape=("optimizer", 2)), *, lr=1.0):
        w = push(w, global_norm(g))
        return dict(p=p - lr * (highest(w) + 0 * lowest(w)), w=w)

    p = torch.zeros(2, requires_grad=True)
    optimizer = descend.Optimizer([p], held, backend=backend)
    for value in (1.0, window, 1.0):
        p.grad = torch.full((2,), value)
        optimizer.step()
    assert p.isnan().all() if math.isnan(window) else p.isinf().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_empty_window_has_infinite_ends(backend):
    @rule
    def before(p, g, w=Slot("w", shape=("optimizer", 1)), *, lr=1.0):
        """Reads the window as it was before the push."""
        least = where(lowest(w) > highest(w), 10.0, lowest(w))
        return dict(p=p - lr * g * least, w=push(w, global_norm(g)))

    p = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = descend.Optimizer([p], before, backend=backend)
    for _ in range(2):
        p.grad = torch.full((1,), 3.0, dtype=torch.float64)
        optimizer.step()
    assert p.item() == -30.0 - 9.0


@pytest.mark.parametrize("backend", BACKENDS)
def test_groups_that_disagree_are_refused_before_anything_changes(backend):
    params = parameters()
    optimizer = descend.Optimizer(
        [{"params": params[:2]}, {"params": params[2:], "lr": 0.3}], windowed, backend=backend
    )
    give_gradients(params, 0)
    optimizer.step()  # rates may differ: none reaches a shared slot
    before = [p.detach().clone() for p in params]
    optimizer.param_groups[1]["decay"] = 0.9
    with pytest.raises(ValueError, match="decay reaches a slot that exists once per optimizer"):
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, params, strict=True))
    assert optimizer.applied_steps == 1


def test_a_window_that_is_no_list_is_refused_by_its_key():
    params = parameters()
    optimizer = descend.Optimizer(params, windowed)
    give_gradients(params, 0)
    optimizer.param_groups[0]["w"] = "gone"
    with pytest.raises(RuntimeError, match=r"group\['w'\] is 'gone', and rule 'windowed' keeps a list of numbers"):
        optimizer.step()


@pytest.mark.parametrize("flag", ["differentiable", "capturable"])
def test_plain_numbers_carry_no_gradient_and_are_no_tensors(flag):
    with pytest.raises(RuntimeError, match=rf"'windowed' keeps 'w' as a plain number.*leave {flag} unset"):
        descend.Optimizer(parameters(), windowed, **{flag: True})
    with pytest.raises(RuntimeError, match=f"leave {flag} unset"):
        descend.Optimizer([{"params": parameters(), flag: True}], windowed)


def test_what_the_language_refuses_of_windows():
    window = Slot("w", shape=("optimizer", 3))

    def number(p, g, w=window):
        return dict(p=p - w * g, w=push(w, global_norm(g)))

    def twice(p, g, w=window):
        w = push(push(w, 1), 2)
        return dict(p=p - g, w=w)

    def elements(p, g, w=window):
        return dict(p=p - g, w=push(w, g))

    def no_window(p, g):
        return dict(p=p - lowest(global_norm(g)) * g)

    def assigned(p, g, w=window):
        return dict(p=p - highest(w) * g, w=global_norm(g))

    def another(p, g, w=window, v=Slot("v", shape=("optimizer", 3))):
        return dict(p=p - highest(w) * highest(v) * g, w=push(v, 1), v=push(v, 1))

    for function, message in [
        (number, "takes numbers, not a window; read one out of it with lowest or highest"),
        (twice, "a window takes one value per step"),
        (elements, "push takes one value per optimizer, not per element"),
        (no_window, "lowest takes a window"),
        (assigned, r"assigns a number to 'w', whose shape is \('optimizer', 3\); assign push\(w, x\)"),
        (another, r"assigns a window to 'w'.*assign push\(w, x\)"),
    ]:
        with pytest.raises(FormulaError, match=message):
            rule(function)
    for shape in (("optimizer", 0), ("optimizer", True), ("scalar", 3), ("optimizer",), 3):
        with pytest.raises(ValueError, match="for a window of n values"):
            Slot("w", shape=shape)
    with pytest.raises(ValueError, match="begins empty"):
        Slot("w", init=1, shape=("optimizer", 2))


def test_a_rule_with_windows_is_written_and_reads_back():
    text = windowed.source("python")
    assert 'w=Slot("w", shape=("optimizer", 3))' in text
    namespace = {}
    exec(compile(text, "<written>", "exec"), namespace)
    assert namespace["windowed"].formula().is_same_as(windowed.formula())
    assert "max(w" in windowed.text().replace("ₜ", "")
    assert r"\max" in windowed.latex()
    assert windowed.cost().bytes_written == 8
