"""Sparse gradients: which rules take them is read from the formula, and the rows step as they do when dense."""

import pytest
import torch
from torch import nn

import descend
from descend import sparsity
from optimizers import ROWS

TAKEN = {"SGD": {}, "SGDW": {}, "Adagrad": {"lr_decay": 0.1, "initial_accumulator_value": 0.2}}


@pytest.fixture(autouse=True)
def checked_invariants():
    with torch.sparse.check_sparse_tensor_invariants():
        yield


def table(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 3, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def sparse_gradient(step, dtype=torch.float64):
    """Three entries, two of them for one row: not coalesced."""
    generator = torch.Generator().manual_seed(step)
    rows = torch.tensor([[step % 6, (step + 2) % 6, step % 6]])
    return torch.sparse_coo_tensor(rows, torch.randn(3, 3, generator=generator, dtype=torch.float64).to(dtype), (6, 3))


def trained(optimizer, p, steps=12, dense=False):
    for step in range(steps):
        gradient = sparse_gradient(step, p.dtype)
        p.grad = gradient.to_dense() if dense else gradient
        optimizer.step()
    return p.detach()


@pytest.mark.parametrize("name", TAKEN)
@pytest.mark.parametrize("maximize", [False, True])
def test_rows_step_as_in_a_dense_gradient(name, maximize):
    cls, p, q = getattr(descend, name), table(), table()
    options = {"lr": 0.1, "maximize": maximize, **TAKEN[name]}
    torch.testing.assert_close(
        trained(cls([p], **options), p), trained(cls([q], **options), q, dense=True), rtol=1e-13, atol=0
    )


@pytest.mark.parametrize("name", ["SGD", "Adagrad"])
@pytest.mark.parametrize("momentum", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}])
def test_equals_torch(name, momentum):
    if name == "Adagrad" and momentum:
        return
    p, q = table(), table()
    ours, theirs = getattr(descend, name)([p], lr=0.1, **momentum), getattr(torch.optim, name)([q], lr=0.1, **momentum)
    torch.testing.assert_close(trained(ours, p), trained(theirs, q), rtol=1e-12, atol=1e-15)


def test_untouched_rows_keep_their_bits_and_their_memory_is_not_read():
    p = table()
    with torch.no_grad():
        p[5] = float("nan")
    optimizer = descend.Adagrad([p], lr=0.1)
    p.grad = torch.sparse_coo_tensor(torch.tensor([[1]]), torch.ones(1, 3, dtype=p.dtype), (6, 3))
    optimizer.step()
    fresh = table()
    assert torch.equal(p[[0, 2, 3, 4]], fresh[[0, 2, 3, 4]])
    assert not torch.equal(p[1], fresh[1])
    assert torch.equal(optimizer.state[p]["sum"], torch.eye(6, dtype=p.dtype)[1][:, None].expand(6, 3))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_other_rule_raises_torch_s_error_and_changes_nothing(row):
    p = table()
    optimizer = row.ours([p])
    p.grad = sparse_gradient(0)
    if row.name in {*TAKEN, "SGDWPaper"}:
        optimizer.step()
        return
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        optimizer.step()
    if row.twin is not None and row.name != "Rprop":
        with pytest.raises(RuntimeError) as said:
            row.twin([p]).step()
        with pytest.raises(RuntimeError, match=str(said.value)):
            optimizer.step()
    assert torch.equal(p, table())
    assert optimizer.applied_steps == 0
    assert not optimizer.state


def test_weight_decay_is_named_where_it_is_the_obstacle():
    p = table()
    p.grad = sparse_gradient(0)
    for cls in (descend.SGD, descend.SGDW, descend.Adagrad):
        with pytest.raises(RuntimeError, match="weight_decay option is not compatible with sparse gradients"):
            cls([p], weight_decay=0.1).step()


def test_an_embedding_trains_beside_dense_parameters():
    def trained_model(sparse):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(20, 4, sparse=sparse), nn.Flatten(), nn.Linear(12, 1)).double()
        optimizer = descend.SGD(model.parameters(), lr=0.1, clip_norm=0.5)
        for step in range(5):
            optimizer.zero_grad()
            model(torch.arange(6).reshape(2, 3) + step).square().sum().backward()
            optimizer.step()
        return [p.detach() for p in model.parameters()], optimizer.explain()

    (ours, said), (dense, _) = trained_model(True), trained_model(False)
    for a, b in zip(ours, dense, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=0)
    assert "eager: its gradient is sparse" in said


@pytest.mark.parametrize("options", [{"clip_value": 0.3}, {"clip_norm": 0.1}, {"state_dtype": torch.float32}])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_options_apply_to_sparse_gradients(options, momentum):
    p, q = table(), table()
    ours = trained(descend.SGD([p], lr=0.1, momentum=momentum, **options), p)
    torch.testing.assert_close(
        ours,
        trained(descend.SGD([q], lr=0.1, momentum=momentum, **options), q, dense=True),
        rtol=1e-6 if "state_dtype" in options else 1e-13,
        atol=0,
    )


def test_an_average_of_the_weights_moves_every_row_and_is_refused():
    p = table()
    p.grad = sparse_gradient(0)
    with pytest.raises(RuntimeError, match="ema_decay option is not compatible with sparse gradients"):
        descend.SGD([p], ema_decay=0.9).step()


def test_stochastic_rounding_rounds_as_for_a_dense_gradient():
    p, q = table(torch.bfloat16), table(torch.bfloat16)
    options = dict(lr=0.1, stochastic_rounding=True, backend="eager")
    assert torch.equal(
        trained(descend.SGD([p], **options), p, 1), trained(descend.SGD([q], **options), q, 1, dense=True)
    )


def test_gradients_may_change_between_sparse_and_dense():
    p, q = table(), table()
    ours, dense = descend.SGD([p], lr=0.1, momentum=0.9), descend.SGD([q], lr=0.1, momentum=0.9)
    for step in range(9):
        gradient = sparse_gradient(step)
        p.grad = gradient if step % 3 == 1 else gradient.to_dense()
        q.grad = gradient.to_dense()
        ours.step()
        dense.step()
    torch.testing.assert_close(p, q, rtol=1e-13, atol=0)


def test_complex_and_hybrid_tensors_of_any_sparse_dimensions():
    for sparse_dim in (1, 2):
        p = table().detach().to(torch.complex128).requires_grad_()
        q = p.detach().clone().requires_grad_()
        values = torch.randn(6, 3, dtype=torch.complex128) * torch.eye(6, 3)
        p.grad, q.grad = values.to_sparse(sparse_dim), values
        descend.Adagrad([p], lr=0.1).step()
        descend.Adagrad([q], lr=0.1).step()
        torch.testing.assert_close(p, q, rtol=1e-13, atol=0)


def test_a_gradient_without_entries_moves_nothing():
    p = table()
    p.grad = torch.sparse_coo_tensor(torch.zeros(1, 0, dtype=torch.long), torch.zeros(0, 3, dtype=p.dtype), (6, 3))
    optimizer = descend.Adagrad([p], lr=0.1)
    optimizer.step()
    assert torch.equal(p, table())
    assert optimizer.state[p]["step"] == 1


def test_a_kernel_that_is_demanded_is_refused():
    p = table()
    p.grad = sparse_gradient(0)
    with pytest.raises(RuntimeError, match="its gradient is sparse"):
        descend.SGD([p], fused=True).step()


def test_differentiable_steps_take_sparse_gradients():
    p, lr = table(), torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    q = p.clone()
    optimizer = descend.SGD([q], lr=lr, differentiable=True)
    gradient = sparse_gradient(0)
    q.grad = gradient
    optimizer.step()
    (slope,) = torch.autograd.grad(q.sum(), lr)
    torch.testing.assert_close(slope, -gradient.to_dense().sum())


def test_rules_of_one_s_own_are_decided_on_their_graph():
    @descend.Rule
    def rows(p, g, seen=descend.Slot("seen"), *, lr=0.1, limit=1.0):
        seen = descend.maximum(abs(descend.clip(g, -limit, limit)), 0) + seen
        return dict(p=p - lr * descend.sign(g), seen=seen)

    @descend.Rule
    def decays(p, g, *, lr=0.1):
        return dict(p=p * (1 - lr) - lr * g)

    @descend.Rule
    def squares(p, g, m=descend.Slot("m"), *, lr=0.1):
        m = 0.9 * m + g * g
        return dict(p=p - lr * m * m, m=m)

    @descend.Rule
    def reduces(p, g, *, lr=0.1):
        return dict(p=p - lr * g / descend.norm(p))

    @descend.Rule
    def divides(p, g, *, lr=0.1):
        return dict(p=p - lr / (1 + g))

    found = {rule.name: sparsity.taken_as(rule.formula()) for rule in (rows, decays, squares, reduces, divides)}
    assert found == {"rows": "rows", "decays": None, "squares": None, "reduces": None, "divides": None}


def test_a_single_number_with_a_sparse_gradient_steps_as_in_torch():
    values = torch.tensor(2.0, dtype=torch.float64)
    gradient = torch.sparse_coo_tensor(torch.zeros(0, 1, dtype=torch.long), values[None], ())
    p, q = (torch.tensor(1.0, dtype=torch.float64, requires_grad=True) for _ in range(2))
    p.grad, q.grad = gradient, gradient
    descend.SGD([p], lr=0.1).step()
    torch.optim.SGD([q], lr=0.1).step()
    assert torch.equal(p, q)
