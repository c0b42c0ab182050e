"""Fused steps bit for bit, however tensors are grouped, placed, threaded and resumed; and what a step must not do."""

import copy
import tracemalloc
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import descend
from fused_optimizers import (
    assert_fused,
    assert_same_bits,
    clones,
    give_gradients,
    needs_kernels,
    normed,
    random,
    stored,
    trust,
)

pytestmark = needs_kernels

SHAPES = [(4, 3), (70001,), (), (0,), (65,), (2, 3, 5), (40000,), (1,)]
WITH = dict(clip_norm=1.5, clip_value=2.0, ema_decay=0.9, seed=3)
CASES = {
    "adamw": (descend.AdamW, {}),
    "nadam": (descend.NAdam, {}),
    "momentum": (descend.SGD, dict(momentum=0.9)),
    "norm": (partial(descend.Optimizer, rule=trust), {}),
    "global_norm": (partial(descend.Optimizer, rule=normed), {}),
    "all options": (descend.AdamW, WITH),
    "all options and a scale": (descend.RAdam, WITH),
    "all options, norm": (partial(descend.Optimizer, rule=trust), WITH),
    "all options, global_norm": (partial(descend.Optimizer, rule=normed), WITH),
    "random rounding": (descend.AdamW, dict(WITH, stochastic_rounding=True, state_dtype=torch.bfloat16)),
}
PER_TENSOR = ["adamw", "nadam", "momentum", "norm"]  # what a tensor's place in the optimizer means nothing to

every_case = pytest.mark.parametrize("case", CASES)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)


def parameters(dtype=torch.float32):
    return [random(shape, i, dtype).requires_grad_() for i, shape in enumerate(SHAPES)]


def build(case, groups, **options):
    make, given = CASES[case]
    optimizer = make(groups, lr=0.1, **{"backend": "cpp", **given, **options})
    if "scale" in case:
        optimizer.grad_scale = torch.tensor(3.0)
    return optimizer


def run(optimizer, params, steps=range(3), scale=None):
    """Steps with gradients that depend on the parameter's place in `params`, and hold a scale as a scaler's do."""
    for step in steps:
        give_gradients(params, step, scale or 1.0)
        if scale is not None:
            optimizer.grad_scale = torch.tensor(scale)
        optimizer.step()
    assert_fused(optimizer)
    return optimizer


@every_dtype
@every_case
def test_one_bucket_and_many_buckets_store_the_same_bits(case, dtype):
    together, apart = parameters(dtype), parameters(dtype)
    one = run(build(case, together), together)
    many = run(build(case, [{"params": [p]} for p in apart]), apart)
    (table,) = one._fused.tables
    (other,) = many._fused.tables
    assert (len(table.bucket_groups), len(other.bucket_groups)) == (1, len(apart))
    assert_same_bits(stored(one), stored(many))


@pytest.mark.parametrize("case", ["adamw", "norm", "all options"])
def test_steps_of_their_own_make_buckets_and_no_other_bits(case):
    """Parameters that missed steps stand in buckets of their own; those that missed none do not notice."""
    steady, lagging = parameters(), parameters()
    params = [*steady, *lagging]
    mixed = build(case, params, clip_norm=None)
    for step in range(4):
        give_gradients(steady, step)
        give_gradients(lagging, step)
        for i, p in enumerate(lagging):
            if (step + i) % 3 == 0:
                p.grad = None
        mixed.step()
    alone = parameters()
    expected = run(build(case, alone, clip_norm=None), alone, range(4))
    assert len({len(table.bucket_groups) for table in mixed._fused.tables} - {1})
    for p, q in zip(steady, alone, strict=True):
        assert_same_bits([p, *mixed.state[p].values()], [q, *expected.state[q].values()])


@every_dtype
@pytest.mark.parametrize("case", PER_TENSOR)
def test_the_place_in_the_table_means_nothing(case, dtype):
    params, shuffled = parameters(dtype), parameters(dtype)
    order = [5, 2, 7, 0, 6, 3, 1, 4]
    groups = [{"params": [shuffled[i] for i in order[:3]]}, {"params": [shuffled[i] for i in order[3:]]}]
    one, other = run(build(case, params), params), run(build(case, groups), shuffled)
    for p, q in zip(params, shuffled, strict=True):
        assert_same_bits([p, *one.state[p].values()], [q, *other.state[q].values()])


@every_dtype
@every_case
def test_the_place_in_memory_means_nothing(case, dtype):
    """Parameters and gradients that begin anywhere in a larger block of memory, at any alignment."""
    params = parameters(dtype)
    block = torch.empty(sum(p.numel() + 3 for p in params), dtype=dtype)
    inside, first = [], 0
    for i, p in enumerate(params):
        first += i % 3 + 1
        inside.append(block[first : first + p.numel()].view(p.shape).copy_(p.detach()).requires_grad_())
        first += p.numel()
    one, other = run(build(case, params), params), build(case, inside)
    for step in range(3):
        give_gradients(inside, step)
        for p in inside:
            p.grad = torch.cat([torch.zeros(1, dtype=dtype), p.grad.reshape(-1)])[1:].view(p.shape)
        other.step()
    assert_fused(other)
    assert_same_bits(stored(one), stored(other))


@pytest.fixture
def threads():
    """torch.set_num_threads, undone at the end."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@every_dtype
@every_case
def test_one_thread_and_several_store_the_same_bits(case, dtype, threads):
    results = []
    for number in (1, 2, 3):
        threads(number)
        params = parameters(dtype)
        results.append(stored(run(build(case, params), params)))
    assert_same_bits(results[0], results[1])
    assert_same_bits(results[0], results[2])


@every_dtype
@every_case
def test_a_run_that_resumes_stores_the_same_bits(case, dtype):
    straight, first = parameters(dtype), parameters(dtype)
    expected = run(build(case, straight), straight, range(4))
    saved = copy.deepcopy(run(build(case, first), first, range(2)).state_dict())
    resumed = clones(first)
    optimizer = build(case, resumed)
    optimizer.load_state_dict(saved)
    run(optimizer, resumed, range(2, 4))
    assert_same_bits(stored(expected), stored(optimizer))


@every_case
def test_a_gradient_scale_means_the_same_to_both_backends(case):
    ours, theirs = parameters(torch.float64), parameters(torch.float64)
    expected = build(case, theirs, backend="eager", stochastic_rounding=False, state_dtype=None)
    expected.grad_scale = None
    optimizer = build(case, ours, stochastic_rounding=False, state_dtype=None)
    run(optimizer, ours, scale=48.0)
    for step in range(3):
        give_gradients(theirs, step)
        expected.step()
    for a, b in zip(stored(optimizer), stored(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("absent", [0, 2])
def test_random_rounding_is_that_of_the_place_in_the_optimizer(absent):
    """Exact arithmetic, so that both backends round the same numbers, also where a gradient is absent."""
    results = []
    for backend in ("cpp", "eager"):
        params = parameters(torch.bfloat16)
        optimizer = descend.SGD(params, lr=0.25, stochastic_rounding=True, seed=7, backend=backend)
        for step in range(2):
            give_gradients(params, step)
            params[absent].grad = None
            optimizer.step()
        results.append(stored(optimizer))
    assert_same_bits(*results)


# --- what a step must not do ----------------------------------------------------------------------------------------


def test_autograd_notices_a_step():
    params = [random((5,), 0).requires_grad_(), random((3, 3), 1).requires_grad_()]
    optimizer = descend.AdamW(params, backend="cpp")
    give_gradients(params, 0)
    optimizer.step()
    for p in params:
        before, square = p._version, (p * p).sum()
        optimizer.step()
        assert p._version > before
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            square.backward()


@pytest.mark.parametrize("steps", [0, 2])
@every_case
def test_a_step_that_a_scaler_skips_changes_nothing(case, steps):
    params = parameters()
    optimizer = build(case, params)
    for step in range(steps):
        give_gradients(params, step)
        optimizer.step()
    give_gradients(params, 9)
    before = [x.clone() for x in stored(optimizer)] if steps else clones(params)
    optimizer.found_inf, optimizer.grad_scale = torch.tensor(1.0), torch.tensor(4.0)
    optimizer.step()
    assert optimizer.applied_steps == steps
    assert len(optimizer.state) == (len(params) if steps else 0)
    assert_same_bits(before, stored(optimizer) if steps else params)
    optimizer.found_inf = torch.tensor(0.0)
    optimizer.step()
    assert optimizer.applied_steps == steps + 1
    assert {int(entry["step"]) for entry in optimizer.state.values() if "step" in entry} <= {steps + 1}


def test_an_empty_optimizer_and_one_without_gradients_step():
    params = parameters()
    optimizer = descend.AdamW(params, backend="cpp")
    optimizer.step()
    assert not optimizer.state
    assert optimizer.applied_steps == 1
    empty = torch.zeros(0, requires_grad=True)
    empty.grad = torch.zeros(0)
    optimizer = descend.AdamW([empty], backend="cpp", clip_norm=1.0)
    for _ in range(2):
        optimizer.step()
    assert int(optimizer.state[empty]["step"]) == 2


# --- memory ---------------------------------------------------------------------------------------------------------


class Allocations(TorchDispatchMode):
    """Counts the bytes of new tensors that torch's operations return."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = {x.untyped_storage().data_ptr() for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        made = {
            x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()
            for x in tree_leaves(out)
            if isinstance(x, torch.Tensor)
        }
        self.bytes += sum(size for pointer, size in made.items() if pointer not in given)
        return out


def temporary_memory(optimizer):
    """The bytes that a step takes on the way: tensors of torch altogether, NumPy's and Python's memory at its peak."""
    tracemalloc.start()
    try:
        with Allocations() as found:
            optimizer.step()
        return found.bytes + tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "case", ["adamw", "all options", "all options, norm", "all options, global_norm", "random rounding"]
)
def test_a_step_takes_less_than_1_mb_of_temporary_memory(case):
    dtype = torch.bfloat16 if case == "random rounding" else torch.float32
    params = [torch.full((2**20,), 0.5, dtype=dtype, requires_grad=True) for _ in range(8)]
    for p in params:
        p.grad = torch.full_like(p, 0.25)
    optimizer = build(case, params)
    optimizer.step()
    assert temporary_memory(optimizer) < 2**20
    assert_fused(optimizer)


def test_the_measure_of_temporary_memory_sees_what_torch_makes():
    params = [torch.zeros(2**20, requires_grad=True)]
    params[0].grad = torch.ones(2**20)
    optimizer = torch.optim.AdamW(params, foreach=False)
    optimizer.step()
    assert temporary_memory(optimizer) > 2**22
