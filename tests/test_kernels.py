"""Kernels against the eager backend in float64: every optimizer, storage type, shape and memory order."""

import ctypes
import mmap
import random as lottery
from functools import partial

import pytest
import torch

import descend
from descend.backends import kernels, openmp
from descend.backends.random_bits import stochastically
from fused_optimizers import TOLERANCE, assert_fused, give_gradients, needs_kernels, normed, random, stored, trust
from optimizers import BY_NAME, ROWS

pytestmark = needs_kernels

DTYPES = list(TOLERANCE)
SIZES = [(0,), (), (1,), (63,), (64,), (65,)]
LARGE = [(16385,), (40000,)]  # some chunks and a bit
LR = 0.0625  # this and a fourth of it are the same number in every type
NUDGE = {torch.float64: 2**-45, torch.float32: 2**-21, torch.bfloat16: 2**-21, torch.float16: 2**-21}


def tensors(dtype, seed, sizes=SIZES):
    """Parameters of edge sizes, random shapes and every dense memory order, leaves of autograd."""
    draw = lottery.Random(seed)
    shapes = sizes + [tuple(draw.randint(1, 9) for _ in range(draw.randint(1, 4))) for _ in range(3)]
    made = [random(shape, seed + i, dtype) for i, shape in enumerate(shapes)]
    made.append(random((2, 3, 5, 7), seed, dtype).to(memory_format=torch.channels_last))
    made.append(random((9, 13), seed, dtype).t())
    made.append(random((3, 4, 5), seed, dtype).permute(2, 0, 1))
    return [x.requires_grad_() for x in made]


def combinations(row):
    """Combinations of the row's options in which each value of each option occurs, the same at every run."""
    every = list(row.combinations())
    lottery.Random(row.name).shuffle(every)
    seen = set()
    for chosen in every:
        if not seen.issuperset(chosen.items()):
            seen.update(chosen.items())
            yield chosen


CASES = [(row, options) for row in ROWS for options in combinations(row)]


def names(case):
    return "-".join([case[0].name, *(f"{name}={value}" for name, value in case[1].items() if value)])


def groups_of(params, lr):
    """Two param groups with rates of their own, every type in both."""
    return [{"params": params[::2], "lr": lr}, {"params": params[1::2], "lr": lr / 4}]


def bound_of(exact, dtype, scale):
    """How far an element may lie from the exact one."""
    own, largest = TOLERANCE[dtype]
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    return own * exact.abs() + largest * scale + smallest


def compare(ours, dtype, exact, nudged, before, what):
    """Compare a stored tensor element by element, and return how many elements were left out.

    `dtype` is the type whose tolerance holds: that of the tensor, or of the arithmetic where that is coarser.

    Left out is what stands at a switch: where inputs that differ in their last bits move the exact result by more
    than the tolerance.
    """
    if not ours.numel():
        return 0
    found, exact = ours.detach().double(), exact.detach()
    bound = bound_of(exact, dtype, torch.maximum(exact.abs().max(), before.abs().max()))
    at_a_switch = torch.stack([(x.detach() - exact).abs() > bound for x in nudged]).any(dim=0)
    off = ((found - exact).abs() > bound) & ~at_a_switch
    assert not off.any(), f"{what}: {found[off][0]} in place of {exact[off][0]}"
    assert torch.equal(found.isnan(), exact.isnan()), what
    return int(at_a_switch.sum())


def coarser(stored_as, computed_for):
    """The type whose tolerance holds for state: its own, or that of the arithmetic, which is float32 at least."""
    computed_in = torch.float64 if computed_for == torch.float64 else torch.float32
    return min(stored_as, computed_in, key=lambda dtype: -torch.finfo(dtype).eps)


class Exact:
    """An eager optimizer in float64 that starts each step from what another one has stored.

    Args:
        nudge: the sign of a change in the last bits of parameters and state, different for each tensor; 0 for none.
            Gradients stay, so that the norm that scales them does.
    """

    def __init__(self, make, params, lr, nudge, **options):
        self.params = [p.detach().clone().double().requires_grad_() for p in params]
        self.dtypes, self.nudge = [p.dtype for p in params], nudge
        options = {**options, "state_dtype": torch.float64}
        self.optimizer = make(groups_of(self.params, lr), backend="eager", **options)

    def start_from(self, params, optimizer):
        self.optimizer.load_state_dict(optimizer.state_dict())
        for i, (p, q) in enumerate(zip(params, self.params, strict=True)):
            q.data.copy_(p.data)
            q.grad = p.grad.clone().double()
            held = [x for x in self.optimizer.state[q].values() if x.shape == q.shape and x.dtype == q.dtype]
            for k, x in enumerate([q.data, *held] if self.nudge else []):
                x.mul_(1 + self.nudge * NUDGE[self.dtypes[i]] * (-0.9) ** k)


def steps_like_float64(make, params, steps=5, **options):
    """Step with kernels, and every time compare with one eager step in float64 from the same stored values."""
    lr = options.pop("lr")
    optimizer = make(groups_of(params, lr), backend="cpp", **options)
    exact, *nudged = [Exact(make, params, lr, nudge, **options) for nudge in (0, 1, -1)]
    left_out = compared = 0
    for step in range(steps):
        give_gradients(params, step)
        for oracle in (exact, *nudged):
            oracle.start_from(params, optimizer)
        before = [p.detach().clone().double() for p in params]
        optimizer.step()
        for oracle in (exact, *nudged):
            oracle.optimizer.step()
        for i, p in enumerate(params):
            what = f"step {step}, {p.dtype}, {tuple(p.shape)}"
            q, others = exact.params[i], [oracle.params[i] for oracle in nudged]
            left_out += compare(p, p.dtype, q, others, before[i], what)
            compared += p.numel()
            held = exact.optimizer.state[q]
            assert optimizer.state[p].keys() == held.keys()
            for key, x in optimizer.state[p].items():
                also = [o.optimizer.state[o.params[i]][key].double() for o in nudged]
                dtype = coarser(x.dtype, p.dtype)
                left_out += compare(x, dtype, held[key].double(), also, held[key].double(), f"{key}, {what}")
                compared += x.numel()
    assert left_out <= 0.01 * compared
    return optimizer


@pytest.mark.parametrize("case", CASES, ids=names)
def test_kernels_agree_with_the_eager_backend_in_float64(case):
    row, options = case
    for params in together(row, [tensors(dtype, 10 * i) for i, dtype in enumerate(DTYPES)]):
        optimizer = steps_like_float64(row.ours, params, **{"lr": LR, **options})
        assert_fused(optimizer)


def together(row, lists):
    """What one optimizer steps: all types, or one of them where the rule looks at all tensors and so has one kernel."""
    return lists if row.looks_at_all else [[x for params in lists for x in params]]


ALL_OPTIONS = dict(clip_value=2.0, clip_norm=20.0, ema_decay=0.9)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_kernels_with_all_options_agree_with_the_eager_backend_in_float64(row):
    for params in together(row, [tensors(dtype, 10 * i, SIZES + LARGE) for i, dtype in enumerate(DTYPES)]):
        optimizer = steps_like_float64(row.ours, params, steps=2, lr=LR, **ALL_OPTIONS)
        assert_fused(optimizer)


@pytest.mark.parametrize("make", [trust, normed], ids=lambda rule: rule.name)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kernels_of_rules_that_reduce_agree_with_the_eager_backend_in_float64(make, dtype):
    optimizer = steps_like_float64(partial(descend.Optimizer, rule=make), tensors(dtype, 5, SIZES + LARGE), lr=LR)
    assert_fused(optimizer)


@pytest.mark.parametrize("state_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("row", [BY_NAME["AdamW"], BY_NAME["RMSprop"]], ids=lambda row: row.name)
def test_kernels_keep_state_in_another_type(row, state_dtype):
    params = [x for i, dtype in enumerate(DTYPES) for x in tensors(dtype, 10 * i)]
    optimizer = steps_like_float64(row.ours, params, steps=3, lr=LR, state_dtype=state_dtype)
    assert_fused(optimizer)
    kept = {x.dtype for p in params for key, x in optimizer.state[p].items() if key != "step"}
    assert kept == {state_dtype}


def test_what_a_kernel_cannot_read_steps_eagerly_beside_it():
    params = [random((6, 4), 0), random((6, 4), 1), random((12, 4), 2)[::2], random((6,), 3)]
    ours, theirs = [[x.clone() if x.is_contiguous() else random((12, 4), 2)[::2] for x in params] for _ in range(2)]
    runs = []
    for held, backend in ((ours, "auto"), (theirs, "eager")):
        optimizer = descend.AdamW([x.requires_grad_() for x in held], lr=LR, backend=backend)
        for step in range(4):
            give_gradients(held, step)
            held[1].grad = random((4, 6), 50 + step).t()
            optimizer.step()
        runs.append(optimizer)
    assert_fused(runs[0], eager=[ours[1], ours[2]])
    for a, b in zip(stored(runs[0]), stored(runs[1]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


# --- indices --------------------------------------------------------------------------------------------------------

MAP_NORESERVE = 0x4000
ELEMENTS = 2**33 + 3 * 2**14 + 77
PARTS = 2**18  # of the work, which is shared evenly: each is 2**15 elements long, and some
WINDOW = 4 * 2**15  # elements at the end that are looked at


def unreserved(dtype):
    """A tensor of zeros that costs address space only, until it is written."""
    size = ELEMENTS * dtype.itemsize
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    return torch.frombuffer(memory, dtype=dtype)


@pytest.fixture
def last_part_only(monkeypatch):
    """A team of many threads of which the last alone does its work."""
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    parallel = ctypes.CFUNCTYPE(None, function, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)(
        lambda work, data, threads, flags: work(data)
    )
    number, size = [ctypes.CFUNCTYPE(ctypes.c_int)(lambda n=n: n) for n in (PARTS - 1, PARTS)]
    team = [ctypes.cast(f, ctypes.c_void_p).value for f in (parallel, number, size)]
    monkeypatch.setattr(openmp, "team", lambda threads: (*team, PARTS))
    return parallel, number, size  # alive as long as the test


@pytest.mark.usefixtures("last_part_only")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_indices_beyond_2_to_the_32(dtype):
    try:
        p, g, m = (unreserved(dtype) for _ in range(3))
    except OSError:
        pytest.skip("no address space")
    for i, x in enumerate((p, g, m)):
        x[-WINDOW:] = random(WINDOW, i, dtype)
    before = p[-WINDOW:].clone(), m[-WINDOW:].clone()
    p.requires_grad_()
    p.grad = g
    optimizer = descend.SGD([p], lr=0.25, momentum=0.5, stochastic_rounding=True, backend="cpp", seed=5)
    optimizer.state[p] = {"momentum_buffer": m}
    optimizer.step()

    exact_m = 0.5 * before[1].float() + g[-WINDOW:].float()
    exact_p = before[0].float() - 0.25 * exact_m
    if dtype == torch.bfloat16:  # the site is the output's place in the formula
        at = dict(seed=5, step=0, ordinal=0, first=ELEMENTS - WINDOW)
        exact_p, exact_m = (stochastically(x, site=site, **at) for site, x in enumerate((exact_p, exact_m)))
    stepped = (p.detach()[-WINDOW:] != before[0]).nonzero()
    length = WINDOW - int(stepped[0])
    part = (ELEMENTS + 256) // PARTS
    assert part - 2**14 <= length + 256 <= part + 2**14
    for found, old, exact in zip((p.detach(), m), before, (exact_p, exact_m), strict=True):
        torch.testing.assert_close(found[-length:], exact[-length:], rtol=1e-6, atol=1e-6)
        assert torch.equal(found[-WINDOW:-length], old[:-length])


@pytest.mark.parametrize(
    ("make", "options", "titles"),
    [
        (descend.AdamW, {}, ["adamw bfloat16"]),
        (descend.AdamW, {"amsgrad": True}, ["adamw amsgrad=True bfloat16"]),
        (descend.AdamW, {"state_dtype": torch.float32}, ["adamw bfloat16, state float32"]),
        (descend.SGD, {"clip_value": 1.0, "ema_decay": 0.5}, ["sgd bfloat16, clip_value, ema_decay"]),
        (descend.Lion, {"stochastic_rounding": True}, ["lion bfloat16, stochastic rounding"]),
        (descend.Lion, {"clip_norm": 1.0}, ["lion bfloat16, clip_norm", "norm of gradients, lion bfloat16"]),
    ],
)
def test_titles_tell_kernels_apart(monkeypatch, make, options, titles):
    asked = []
    prepare = kernels.prepare
    monkeypatch.setattr(kernels, "prepare", lambda requests: asked.extend(requests) or prepare(requests))
    p = random((5,), 0, torch.bfloat16).requires_grad_()
    p.grad = torch.ones_like(p)
    make([p], **options).step()
    assert list(dict.fromkeys(kernels.title(formula, storage) for formula, storage in asked)) == titles
