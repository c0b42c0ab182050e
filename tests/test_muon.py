"""Muon: torch's where conventions meet, matrices only, beside AdamW in one optimizer."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn

import descend
from descend import Slot, ema, global_norm, norm, orthogonalize
from descend.backends.opaque import OPAQUE
from descend.backends.plan import plan
from fused_optimizers import needs_kernels

SHAPES = [(20, 30), (30, 20), (16, 16), (5, 1), (1, 7)]
CONVENTIONS = [
    {},
    {"nesterov": False},
    {"adjust_lr_fn": "original"},
    {"adjust_lr_fn": "match_rms_adamw"},
    {"weight_decay": 0.0, "momentum": 0.0},
    {"ns_steps": 3, "ns_coefficients": (2.0, -1.5, 0.5), "eps": 1e-3},
]
TOLERANCES = {torch.float64: (10, 1e-15), torch.float32: (10, 1e-3), torch.bfloat16: (1, 2e-2)}
"""Steps and relative errors. The iterations are in bfloat16: a last bit of float32 in which the momenta differ may be a
last bit there; and torch rounds each operation on bfloat16 tensors, where ours is computed in float32."""


def trained(make, dtype=torch.float64, steps=10, shapes=SHAPES):
    generator = torch.Generator().manual_seed(0)
    params = [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes]
    optimizer = make(params)
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(dtype)
        optimizer.step()
    return params, optimizer


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("options", CONVENTIONS, ids=str)
def test_equals_torch_where_conventions_meet(options, dtype):
    steps, tolerance = TOLERANCES[dtype]
    ours, optimizer = trained(lambda params: descend.Muon(params, lr=0.02, **options), dtype, steps)
    theirs, twin = trained(lambda params: torch.optim.Muon(params, lr=0.02, **options), dtype, steps)
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max()
        assert optimizer.state[a].keys() == twin.state[b].keys() == {"momentum_buffer"}


def test_states_go_to_torch_and_back_in_mid_training():
    whole, _ = trained(lambda params: torch.optim.Muon(params, lr=0.02), steps=8)

    def resumed(params):
        _, half = trained(lambda given: torch.optim.Muon(given, lr=0.02), steps=4)
        optimizer = descend.Muon(params, lr=0.02)
        optimizer.load_state_dict(half.state_dict())
        return optimizer

    _, optimizer = trained(resumed, steps=0)
    twin = torch.optim.Muon(optimizer.param_groups[0]["params"], lr=0.02)
    twin.load_state_dict(optimizer.state_dict())
    _, half = trained(lambda given: torch.optim.Muon(given, lr=0.02), steps=4)
    for p, q in zip(twin.param_groups[0]["params"], half.param_groups[0]["params"], strict=True):
        assert torch.equal(twin.state[p]["momentum_buffer"], half.state[q]["momentum_buffer"])
    assert len(whole) == len(SHAPES)


def test_the_step_is_nearly_orthogonal_and_as_long_as_the_shape_says():
    shapes = [(40, 10), (10, 40)]
    for options, scale in [({}, [2.0, 1.0]), ({"adjust_lr_fn": "match_rms_adamw"}, [0.2 * math.sqrt(40)] * 2)]:
        before, _ = trained(lambda params: descend.Muon(params), shapes=shapes, steps=0)
        after, _ = trained(
            lambda params, options=options: descend.Muon(params, lr=1.0, weight_decay=0.0, **options),
            shapes=shapes,
            steps=1,
        )
        for p, q, factor in zip(before, after, scale, strict=True):
            singular = torch.linalg.svdvals((p - q).detach()) / factor
            assert ((singular > 0.6) & (singular < 1.3)).all()


def test_a_filter_is_a_matrix_of_its_first_dimension_by_the_rest():
    shapes = [(8, 3, 3, 3)]
    filters, _ = trained(lambda params: descend.Muon(params, lr=0.1), shapes=shapes)
    matrices, _ = trained(lambda params: descend.Muon(params, lr=0.1), shapes=[(8, 27)])
    assert torch.equal(filters[0].reshape(8, 27), matrices[0])


def test_one_optimizer_for_matrices_and_for_the_rest():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3))
    matrices = [p for p in model.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    optimizer = descend.Muon(
        [{"params": matrices}, {"params": rest, "rule": descend.rules.adamw, "lr": 0.003}], lr=0.02
    )
    assert optimizer.param_groups[1]["rule"] == "adamw"
    x, y = torch.randn(64, 6), torch.randint(3, (64,))
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert set(optimizer.state[matrices[0]]) == {"momentum_buffer"}
    assert set(optimizer.state[rest[0]]) == {"step", "exp_avg", "exp_avg_sq"}


@pytest.mark.parametrize("shape", [(), (4,)])
def test_what_is_no_matrix_is_refused_when_the_optimizer_is_built(shape):
    message = "Muon only supports 2D parameters.*put them into a group of another rule"
    with pytest.raises(ValueError, match=message):
        descend.Muon([torch.zeros(2, 2, requires_grad=True), torch.zeros(shape, requires_grad=True)])
    optimizer = descend.Muon([torch.zeros(2, 2, requires_grad=True)])
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": [torch.zeros(shape, requires_grad=True)]})
    assert len(optimizer.param_groups) == 1
    with pytest.raises(ValueError, match=r"this is parameter 1\.bias"):
        descend.Muon(nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 2)).named_parameters())


def test_states_convert_both_ways():
    _, ours = trained(lambda params: descend.Muon(params), steps=3)
    _, theirs = trained(lambda params: torch.optim.Muon(params), steps=3)
    there = descend.checkpoint.convert(ours.state_dict(), source="descend.Muon", to="torch.optim.Muon")
    assert there["param_groups"][0].keys() == theirs.state_dict()["param_groups"][0].keys()
    back = descend.checkpoint.convert(theirs.state_dict(), source="torch.optim.Muon", to="descend.Muon")
    for state in (there, back):
        for place, entry in theirs.state_dict()["state"].items():
            torch.testing.assert_close(state["state"][place]["momentum_buffer"], entry["momentum_buffer"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"adjust_lr_fn": "none"},
            'Adjust learning rate function none is not supported; adjust_lr_fn takes "original"',
        ),
        ({"ns_steps": 100}, "Number of steps must be less than 100"),
        ({"lr": -1.0}, "(?i)learning rate"),
        ({"momentum": -0.1}, "momentum"),
        ({"ns_coefficients": (1.0, 2.0)}, "ns_coefficients"),
    ],
    ids=str,
)
def test_wrong_values_are_refused_when_the_optimizer_is_built(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        descend.Muon([torch.zeros(2, 2, requires_grad=True)], **options)


def test_complex_and_sparse_are_refused_before_anything_changes():
    p = torch.zeros(2, 2, dtype=torch.complex64, requires_grad=True)
    with pytest.raises((RuntimeError, ValueError), match="Muon does not support complex parameters"):
        descend.Muon([p])
    p = torch.ones(2, 2, requires_grad=True)
    optimizer = descend.Muon([p])
    p.grad = torch.eye(2).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()
    assert torch.equal(p, torch.ones(2, 2))


def test_the_formula_is_written_and_reads_back():
    for options in ({}, {"nesterov": False}, {"adjust_lr_fn": "match_rms_adamw"}):
        namespace = {}
        exec(compile(descend.rules.muon.source("python", **options), "<written>", "exec"), namespace)
        assert namespace["muon"].formula().is_same_as(descend.rules.muon.formula(**options))
    assert "orthogonalize" in descend.rules.muon.latex()


@pytest.mark.parametrize("backend", [pytest.param("cpp", marks=needs_kernels), "eager"])
@pytest.mark.parametrize("shape", [(), (1,), (5,), (0, 3), (3, 0), (0,), (2, 0, 4)])
def test_a_call_takes_any_shape(shape, backend):
    def flattened(p, g, *, lr=0.1):
        return dict(p=p - lr * orthogonalize(g, 1.5, -0.5, 0.0, 1e-7, 20))

    p = torch.ones(shape, requires_grad=True)
    p.grad = torch.full(shape, 3.0)
    descend.Optimizer([p], descend.rule(flattened), backend=backend).step()
    torch.testing.assert_close(p.detach(), torch.full(shape, 1 - 0.1 / max(p.numel(), 1) ** 0.5), rtol=0, atol=2e-3)


def test_the_call_is_written_of_tensors_and_numbers():
    def wrong(p, g, *, lr=0.1):
        return dict(p=p - lr * descend.orthogonalize(lr, 1, 1, 1, 1, 1))

    def also_wrong(p, g, *, lr=0.1):
        return dict(p=p - lr * descend.orthogonalize(g, g, 1, 1, 1, 1))

    for function in (wrong, also_wrong):
        with pytest.raises(descend.FormulaError, match="orthogonalize takes a tensor"):
            descend.rule(function)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"nesterov": False}, {"clip_norm": 1.0, "clip_value": 0.5, "ema_decay": 0.9}, {"maximize": True}]
)
def test_the_kernel_does_what_the_formula_says(options, dtype):
    """To the last bits: what both hand to torch in bfloat16 is the same but for ties."""
    shapes = [*SHAPES, (130, 257), (8, 3, 3, 3)]
    results = [
        trained(lambda params, backend=backend: descend.Muon(params, backend=backend, **options), dtype, 3, shapes)
        for backend in ("cpp", "eager")
    ]
    (fused, optimizer), (eager, twin) = results
    for p, q in zip(fused, eager, strict=True):
        torch.testing.assert_close(p, q, rtol=torch.finfo(dtype).eps * 4, atol=2e-5)
        assert optimizer.state[p].keys() == twin.state[q].keys()


@needs_kernels
def test_memory_in_another_order_and_parameters_without_gradient():
    def run(backend):
        generator = torch.Generator().manual_seed(1)
        random = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
        params = [random(12, 7).T, random(6, 4, 3, 3).to(memory_format=torch.channels_last), random(9, 9)]
        params = [p.requires_grad_() for p in params]
        optimizer = descend.Muon(params, lr=0.1, backend=backend)
        for step in range(4):
            for i, p in enumerate(params):
                gradient = random(*p.shape)
                p.grad = None if step == i else torch.empty_like(p).copy_(gradient)
            optimizer.step()
        return params

    for p, q in zip(run("cpp"), run("eager"), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def twice_called(p, g, buf=Slot("buf"), *, lr=0.1, momentum=0.5):
    """Reductions before and after two calls, of which the second reads the first, and numbers of every kind."""
    m = ema(buf, g, momentum)
    length = norm(m)
    first = orthogonalize(m / length, 2, -1.5, 0.5, global_norm(g) * 1e-9, 3)
    second = orthogonalize(first + m, 2, -1.5, 0.5, lr * 1e-6, 2)
    return dict(p=p - lr * length * second / norm(second) - lr * global_norm(first) * p, buf=m)


@needs_kernels
def test_it_is_explained():
    _, optimizer = trained(lambda params: descend.Muon(params), torch.float32, 1)
    assert "28 bytes moved per parameter and step, beside orthogonalize by torch (5 tensors" in optimizer.explain()


@needs_kernels
def test_calls_stand_between_reductions():
    def run(backend):
        rule = descend.rule(twice_called)
        params, _ = trained(lambda params: descend.Optimizer(params, rule, lr=0.02, backend=backend), shapes=SHAPES[:3])
        return params

    for p, q in zip(run("cpp"), run("eager"), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-10)


def test_nothing_is_stored_before_a_call():
    planned = plan(descend.rules.muon.formula().settle(frozenset()))
    first, last = planned.passes
    assert [name for name, _ in first.stores] == ["orthogonalize1"]
    assert {name for name, _ in last.stores} == {"p", "buf"}
    assert planned.traffic({"p": 4, "g": 4, "buf": 4}) == 28  # g and buf; again, with p; p and buf back
    cost = descend.rules.muon.cost()
    assert cost.bytes_read + cost.bytes_written == 28


@pytest.mark.parametrize("backend", [pytest.param("cpp", marks=needs_kernels), "eager"])
@pytest.mark.parametrize("failing", [1, 8])
def test_a_call_that_fails_has_changed_nothing(failing, backend, monkeypatch):
    """Neither of the matrices nor of what AdamW steps in the same optimizer; the next step is as if none had failed."""

    def made():
        generator = torch.Generator().manual_seed(0)
        params = [torch.randn(s, generator=generator).requires_grad_() for s in [(4, 6), (5,), (6, 4), (3, 3), (7,)]]
        matrices, rest = [p for p in params if p.ndim == 2], [p for p in params if p.ndim == 1]
        groups = [{"params": rest, "rule": descend.rules.adamw}, {"params": matrices}]
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator)
        return params, descend.Muon(groups, backend=backend, ema_decay=0.5)

    (params, optimizer), (untouched, twin) = made(), made()
    original, count = OPAQUE["orthogonalize"], itertools.count(1)

    def fails(*arguments):
        if next(count) == failing:
            raise RuntimeError("out of memory")
        return original(*arguments)

    monkeypatch.setitem(OPAQUE, "orthogonalize", fails)
    for _ in range(4):
        kept = [p.detach().clone() for p in params], copy.deepcopy(optimizer.state_dict())
        try:
            optimizer.step()
        except RuntimeError:
            assert all(map(torch.equal, kept[0], params))
            assert str(kept[1]) == str(optimizer.state_dict())
    assert next(count) > failing
    for _ in range(3):
        twin.step()
    assert all(map(torch.equal, params, untouched))


def test_its_scales_are_shown():
    from descend import commands
    from descend.experiments.errors import UsageError

    assert "0.2" in commands.show("muon", adjust_lr_fn="match_rms_adamw")
    with pytest.raises(UsageError, match='adjust_lr_fn takes "original", "match_rms_adamw" or None'):
        commands.show("muon", adjust_lr_fn="x")
