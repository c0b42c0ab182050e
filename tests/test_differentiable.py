"""differentiable=True: gradients flow through the steps of every class as through its pure pair.

That in turn is held to finite differences in test_eager.py.
"""

import pytest
import torch

import descend
from optimizers import ROWS, parameters

PER_PARAMETER = [row for row in ROWS if not row.looks_at_all]  # the others keep plain numbers, and are refused
all_rows = pytest.mark.parametrize("row", PER_PARAMETER, ids=lambda row: row.name)


def by_optimizer(row, start, numbers, steps=5, **options):
    p = start.clone()
    optimizer = row.ours([p], differentiable=True, **numbers, **options)
    for _ in range(steps):
        p.grad = 2 * p.clone() + 1
        optimizer.step()
    return (p**2).sum(), optimizer


def by_rule(row, start, numbers, steps=5):
    params, rule = {"p": start}, row.ours.rule
    state = rule.init(params, **numbers)
    for _ in range(steps):
        params, state = rule.update(params, {"p": 2 * params["p"] + 1}, state, **numbers)
    return (params["p"] ** 2).sum()


def tensors(row):
    """Every hyper-parameter that is a number or a pair of numbers, as a tensor with a gradient."""
    numbers = {"lr": 0.05, "weight_decay": 0.1, "momentum": 0.9, "eps": 0.1}
    given = {}
    for name, default in row.ours.rule.hyper_parameters.items():
        if isinstance(default, tuple):
            given[name] = tuple(torch.tensor(float(x), requires_grad=True) for x in default)
        elif isinstance(default, float):
            given[name] = torch.tensor(float(numbers.get(name, default)), requires_grad=True)
    return given


def leaves(given):
    return [x for value in given.values() for x in (value if isinstance(value, tuple) else (value,))]


@all_rows
@pytest.mark.parametrize("capturable", [False, True])
def test_gradients_in_the_weights_and_in_every_number(row, capturable, float64):
    start, given = torch.tensor([0.3, -0.8, 1.7], requires_grad=True), tensors(row)
    loss, optimizer = by_optimizer(row, start, given, capturable=capturable)
    ours = torch.autograd.grad(loss, [start, *leaves(given)], allow_unused=True)
    theirs = torch.autograd.grad(by_rule(row, start, given), [start, *leaves(given)], allow_unused=True)
    for name, a, b in zip(["p", *map(str, range(99))], ours, theirs, strict=False):
        assert (a is None) == (b is None), name
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13, msg=name)
    assert ours[0] is not None
    assert optimizer.applied_steps == 5


@pytest.mark.parametrize("options", [{"clip_norm": 0.5}, {"clip_value": 1.2}], ids=str)
def test_options_have_gradients(options, float64):
    def loss(start, lr):
        row = next(row for row in ROWS if row.name == "AdamW")
        return by_optimizer(row, start, {"lr": lr}, steps=3, **options)[0]

    start, lr = torch.tensor([0.3, -0.8, 1.7], requires_grad=True), torch.tensor(0.05, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (start, lr))


def test_a_leaf_is_refused_as_by_torch():
    params = parameters()
    for p in params:
        p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match="leaf"):
        torch.optim.AdamW(params, differentiable=True).step()
    optimizer = descend.AdamW(params, differentiable=True)
    before = [p.detach().clone() for p in params]
    with pytest.raises(RuntimeError, match="leaf"):
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))
    assert optimizer.applied_steps == 0
