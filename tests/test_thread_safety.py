"""Optimizers that step in several threads at the same time give the bits that they give one after the other."""

import threading

import pytest
import torch

import descend
from descend import Slot, ema, rule
from descend.schedules import cosine
from fused_optimizers import needs_kernels

BACKENDS = ["eager", pytest.param("cpp", marks=needs_kernels)]
STEPS = 8
OPTIONS = [
    {},
    {"clip_norm": 1.0, "ema_decay": 0.9},
    {"state_dtype": torch.bfloat16, "stochastic_rounding": True, "seed": 3},
]


@pytest.fixture(autouse=True)
def threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def built(make, number, **options):
    """An optimizer whose kernels take several threads, with a gradient in every parameter."""
    generator = torch.Generator().manual_seed(number)
    params = [torch.randn(size, generator=generator).requires_grad_() for size in (70_001, 33)]
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator)
    return make(params, lr=0.01 * cosine(100), **options), params


def stepped(optimizer, params, threads=1):
    torch.set_num_threads(threads)  # OpenMP keeps it per thread
    for _ in range(STEPS):
        optimizer.step()
        for p in params:
            p.grad.mul_(-0.9)


def at_once(works):
    """Run functions in threads that start together; what one raises is raised here."""
    barrier, errors = threading.Barrier(len(works)), []

    def run(work):
        try:
            barrier.wait()
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def compared(makes, backend, threads, **options):
    """Step optimizers one after the other and others like them at once, and compare weights, state and groups."""
    expected = [built(make, number, backend=backend, **options) for number, make in enumerate(makes)]
    for optimizer, params in expected:
        stepped(optimizer, params)
    found = [built(make, number, backend=backend, **options) for number, make in enumerate(makes)]
    at_once([lambda pair=pair: stepped(*pair, threads=threads) for pair in found])
    for (ours, params), (alone, weights) in zip(found, expected, strict=True):
        assert [g["lr"] for g in ours.param_groups] == [g["lr"] for g in alone.param_groups]
        assert ours.applied_steps == STEPS
        for p, q in zip(params, weights, strict=True):
            assert torch.equal(p, q)
            assert ours.state[p].keys() == alone.state[q].keys()
            assert all(torch.equal(ours.state[p][key], alone.state[q][key]) for key in alone.state[q])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "clipped-averaged", "rounded"])
def test_two_optimizers_of_one_class(backend, threads, options):
    compared([descend.AdamW, descend.AdamW], backend, threads, **options)


@pytest.mark.parametrize("backend", BACKENDS)
def test_optimizers_of_several_classes(backend):
    compared([descend.AdamW, descend.NAdam, descend.Lion, descend.RMSprop], backend, threads=2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_rule_that_no_thread_has_traced_or_compiled(backend, tmp_path, monkeypatch):
    """The first step of both threads traces one rule and compiles one kernel."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # nothing is compiled there

    @rule
    def unseen(p, g, m=Slot("exp_avg"), *, lr=0.01, beta=0.9):
        """Momentum of a rule that is made in this test."""
        m = ema(m, g, beta)
        return dict(p=p - lr * (m + 0.125 * g), m=m)

    @rule
    def twin(p, g, m=Slot("exp_avg"), *, lr=0.01, beta=0.9):
        """The same formula, traced in the main thread alone."""
        m = ema(m, g, beta)
        return dict(p=p - lr * (m + 0.125 * g), m=m)

    def optimizers(formula):
        return [
            built(lambda params, **options: descend.Optimizer(params, formula, **options), number, backend=backend)
            for number in (0, 1)
        ]

    found = optimizers(unseen)
    at_once([lambda pair=pair: stepped(*pair) for pair in found])
    expected = optimizers(twin)
    for pair in expected:
        stepped(*pair)
    for (_, params), (_, weights) in zip(found, expected, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(params, weights, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_beside_a_thread_that_builds_saves_and_loads(backend):
    optimizer, params = built(descend.AdamW, 0, backend=backend)
    alone, weights = built(descend.AdamW, 0, backend=backend)
    stepped(alone, weights)
    other, other_params = built(descend.AdamW, 1, backend=backend)

    def save_and_load():
        for _ in range(STEPS):
            other.step()
            fresh = descend.AdamW(other_params, backend=backend)
            fresh.load_state_dict(other.state_dict())
            assert fresh.applied_steps == other.applied_steps

    at_once([lambda: stepped(optimizer, params), save_and_load])
    assert all(torch.equal(p, q) for p, q in zip(params, weights, strict=True))
    assert other.applied_steps == STEPS
