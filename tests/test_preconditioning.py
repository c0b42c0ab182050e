"""The preconditioner of adaptive optimizers, against the steps that they take."""

import copy

import pytest
import torch

import descend
from descend.generalization import preconditioner, stability_threshold
from quadratics import Weights

WITH_MOMENTUM = [
    (library, name, options)
    for library in (torch.optim, descend)
    for name, options in (
        ("Adam", {}),
        ("Adam", {"amsgrad": True}),
        ("AdamW", {"weight_decay": 0.1}),
        ("NAdam", {}),
        ("RAdam", {"betas": (0.9, 0.99)}),
        ("Adamax", {}),
    )
] + [(descend, "AMSGrad", {}), (descend, "AdamWPaper", {})]
WITHOUT = [
    (library, name, options)
    for library in (torch.optim, descend)
    for name, options in (("RMSprop", {}), ("RMSprop", {"centered": True}), ("Adagrad", {}))
]


def stepped(library, name, options, steps=20):
    model = Weights(torch.linspace(-1, 2, 7))
    optimizer = getattr(library, name)(model.parameters(), lr=1e-2, **options)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        model.weight.grad = torch.randn(7, generator=generator, dtype=torch.float64) * torch.logspace(-3, 1, 7).double()
        optimizer.step()
    return model, optimizer


def next_step(model, optimizer, momentum):
    """What a step takes off the weights, and the preconditioner after it, with something added to the momentum."""
    model, optimizer = copy.deepcopy((model, optimizer))
    if momentum:
        next(iter(optimizer.state.values()))["exp_avg"].add_(momentum)
    before = model.weight.detach().clone()
    model.weight.grad = torch.full((7,), 0.3, dtype=torch.float64)
    optimizer.step()
    return before - model.weight.detach(), preconditioner(optimizer, model.parameters())


@pytest.mark.parametrize(("library", "name", "options"), WITH_MOMENTUM)
def test_what_momentum_adds_to_a_step_is_divided_by_it(library, name, options):
    model, optimizer = stepped(library, name, options)
    plain, scale = next_step(model, optimizer, 0.0)
    moved, same = next_step(model, optimizer, 0.7)
    assert torch.equal(scale, same)
    shares = (moved - plain) * scale
    torch.testing.assert_close(shares, shares[0].expand(7), rtol=1e-7, atol=0)
    if name in ("Adam", "AdamW", "RAdam", "Adamax"):
        assert shares[0].item() == pytest.approx(1e-2 * 0.9 * 0.7 / (1 - 0.9**21), rel=1e-6)
    if name == "AMSGrad":
        assert shares[0].item() == pytest.approx(1e-2 * 0.9 * 0.7, rel=1e-6)


@pytest.mark.parametrize(("library", "name", "options"), WITHOUT)
def test_a_step_without_momentum_is_the_gradient_divided_by_it(library, name, options):
    step, scale = next_step(*stepped(library, name, options), 0.0)
    torch.testing.assert_close(step * scale, torch.full((7,), 1e-2 * 0.3, dtype=torch.float64), rtol=1e-9, atol=0)


def test_groups_with_rules_of_their_own_and_order():
    first, second = Weights([1.0, 2.0]), Weights([3.0])
    optimizer = descend.Optimizer(
        [{"params": [first.weight], "rule": descend.rules.rmsprop}, {"params": [second.weight]}],
        descend.rules.adam,
        lr=1e-2,
    )
    first.weight.grad, second.weight.grad = torch.tensor([1.0, 2.0]).double(), torch.tensor([5.0]).double()
    optimizer.step()
    found = preconditioner(optimizer, [second.weight, first.weight])
    torch.testing.assert_close(found, torch.tensor([5.0, 0.1, 0.2]).double(), rtol=1e-6, atol=1e-7)


def diverges(optimizer, weight, curvature, steps=4000, bound=1e6):
    for _ in range(steps):
        weight.grad = curvature * weight.detach()
        optimizer.step()
        if weight.abs() > bound:
            return True
    return False


@pytest.mark.parametrize("library", [torch.optim, descend])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.9, "dampening": 0.9},  # a moving average, as in Adam
    ],
)
def test_steps_grow_beyond_the_threshold_only(library, options):
    for share, grows in ((0.99, False), (1.01, True)):
        model = Weights([1.0])
        optimizer = library.SGD(model.parameters(), lr=0.1, **options)
        assert diverges(optimizer, model.weight, share * stability_threshold(optimizer)) is grows


@pytest.mark.parametrize("library", [torch.optim, descend])
@pytest.mark.parametrize("name", ["Adam", "AdamW", "RAdam", "Adamax"])
@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_adam_with_a_frozen_preconditioner_grows_beyond_the_threshold_only(library, name, beta):
    """The frozen Adam of Cohen et al. 2022: a second moment that stays, corrections of bias that have become 1."""
    for share, grows in ((0.99, False), (1.01, True)):
        model = Weights([1.0])
        optimizer = getattr(library, name)(
            model.parameters(), lr=0.1, betas=(beta, 1 - 1e-12), **({"weight_decay": 0.0} if name == "AdamW" else {})
        )
        model.weight.grad = torch.zeros(1, dtype=torch.float64)
        optimizer.step()
        state = optimizer.state[model.weight]
        state["step"] = torch.full_like(state["step"], 1e15) if isinstance(state["step"], torch.Tensor) else 10**15
        state["exp_inf" if name == "Adamax" else "exp_avg_sq"].fill_(4.0)
        scale = preconditioner(optimizer, model.parameters())
        assert scale.item() == pytest.approx(4.0 if name == "Adamax" else 2.0)
        with torch.no_grad():
            model.weight.fill_(1e-12)  # so small that the gradients do not matter to the second moment
        curvature = share * stability_threshold(optimizer) * scale
        assert diverges(optimizer, model.weight, curvature, steps=1500, bound=1e-8) is grows
        torch.testing.assert_close(preconditioner(optimizer, model.parameters()), scale)


def test_the_threshold_of_adam_is_that_of_a_moving_average():
    weight = [torch.nn.Parameter(torch.ones(1))]
    assert stability_threshold(descend.Adam(weight, lr=0.1)) == pytest.approx(380)
    assert stability_threshold(torch.optim.AdamW(weight, lr=1.0)) == pytest.approx(38)
    assert stability_threshold(torch.optim.RMSprop(weight, lr=0.5)) == pytest.approx(4)


def test_what_has_no_preconditioner():
    weight = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match="sgd divides its steps by nothing"):
        preconditioner(torch.optim.SGD([weight]), [weight])
    adam = torch.optim.Adam([weight])
    with pytest.raises(ValueError, match="take a step first"):
        preconditioner(adam, [weight])
    with pytest.raises(ValueError, match="take a step first"):
        preconditioner(torch.optim.Adagrad([weight]), [weight])  # which has a state from the beginning
    with pytest.raises(ValueError, match="parameters has none"):
        preconditioner(adam, [])
    with pytest.raises(ValueError, match="parameter 0 is not the optimizer's"):
        preconditioner(adam, [torch.nn.Parameter(torch.ones(1))])
    with pytest.raises(ValueError, match="no threshold of stability is known for adadelta"):
        stability_threshold(torch.optim.Adadelta([weight]))
    groups = [{"params": [weight]}, {"params": [torch.nn.Parameter(torch.ones(1))], "lr": 3.0}]
    with pytest.raises(ValueError, match="different rates"):
        stability_threshold(torch.optim.SGD(groups, lr=1.0))
