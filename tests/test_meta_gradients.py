"""Gradients of unrolled optimization against finite differences, in float64: networks and rules by the same unroll."""

import math

import pytest
import torch

from descend import rules
from descend.learned import (
    Classifiers,
    CoordinatewiseLSTM,
    LearnedRule,
    PerParameterMLP,
    PersistentEvolution,
    Quadratics,
    initial,
    unroll,
)
from descend.learned.problems import DrawnQuadratics
from descend.learned.unrolling import detached, detached_state

STEPS = 5
STEP = 1e-6


def quadratics(count=3, seed=0):
    drawn = Quadratics(4).draw(count, seed)
    return DrawnQuadratics(drawn.matrix.double(), drawn.target.double(), drawn.start.double())


def stirred(pair):
    torch.manual_seed(2)
    pair = pair.double()
    with torch.no_grad():
        for param in pair.parameters():
            param.add_(0.05 * torch.randn_like(param))
    return pair


PAIRS = {
    "lstm": lambda: stirred(CoordinatewiseLSTM(hidden=3)),
    "plain lstm": lambda: stirred(CoordinatewiseLSTM(hidden=2, preprocessing="none")),
    "mlp": lambda: stirred(PerParameterMLP(hidden=3, step_scale=0.1)),
    "adam": lambda: LearnedRule(rules.adam, ("lr", "betas"), lr=0.1).double(),
    "momentum": lambda: LearnedRule(rules.sgd, ("lr", "momentum"), lr=0.01, momentum=0.5).double(),
}


class Frozen:
    """The problem of an unroll that is shown the same gradients whatever happens to the parameters."""

    def __init__(self, problem, grads):
        self.problem, self.grads, self.count = problem, grads, problem.count

    def losses(self, params, step):
        """The true losses, with a gradient of what was recorded."""
        true = self.problem.losses(detached(params), step)
        shown = sum((self.grads[step][name] * one).flatten(1).sum(1) for name, one in params.items())
        return true + shown - shown.detach()


def recorded(pair, problem, params, state):
    """The gradients of an unroll, step by step."""
    found = []

    class Recording:
        count = problem.count

        def losses(self, params, step):
            values = problem.losses(params, step)
            found.append(
                dict(
                    zip(
                        params, torch.autograd.grad(values.sum(), list(params.values()), retain_graph=True), strict=True
                    )
                )
            )
            return values

    unroll(pair, Recording(), params, state, STEPS)
    return found


def differences(pair, value):
    """The gradient of `value()` by central differences, one number of the pair after the other."""
    found = []
    for param in pair.parameters():
        for place in range(param.numel()):
            ends = []
            for move in (STEP, -STEP):
                with torch.no_grad():
                    param.view(-1)[place] += move
                ends.append(float(value().detach()))
                with torch.no_grad():
                    param.view(-1)[place] -= move
            found.append((ends[0] - ends[1]) / (2 * STEP))
    return torch.tensor(found, dtype=torch.float64)


def gradient(pair, objective):
    pair.zero_grad(set_to_none=True)
    objective.backward()
    zeros = (torch.zeros_like(one) if one.grad is None else one.grad for one in pair.parameters())
    return torch.cat([one.flatten() for one in zeros])


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("objective", ["log", "sum"])
def test_second_order(name, objective):
    pair, problem = PAIRS[name](), quadratics()
    params = problem.first()
    state = initial(pair, params)

    def value():
        return unroll(pair, problem, params, state, STEPS, objective=objective, second_order=True).objective

    expected = differences(pair, value)
    assert expected.abs().max() > 1e-4
    torch.testing.assert_close(gradient(pair, value()), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("objective", ["log", "sum"])
def test_first_order_is_the_gradient_where_the_problems_gradients_are_constants(name, objective):
    pair, problem = PAIRS[name](), quadratics()
    params = problem.first()
    state = initial(pair, params)
    frozen = Frozen(problem, recorded(pair, problem, params, state))

    def value():
        return unroll(pair, frozen, params, state, STEPS, objective=objective).objective

    found = unroll(pair, problem, params, state, STEPS, objective=objective).objective
    torch.testing.assert_close(found, value())
    got = gradient(pair, found)
    torch.testing.assert_close(got, differences(pair, value), rtol=1e-5, atol=1e-8)
    whole = unroll(pair, problem, params, state, STEPS, objective=objective, second_order=True).objective
    assert not torch.allclose(got, gradient(pair, whole), rtol=1e-6)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("second_order", [True, False])
def test_truncated_is_the_gradient_of_the_last_unroll(name, second_order):
    pair, problem = PAIRS[name](), quadratics()
    params = problem.first()
    before = unroll(pair, problem, params, initial(pair, params), STEPS)
    params, state = detached(before.params), detached_state(before.state)
    frozen = problem
    if not second_order:
        grads = recorded(pair, problem, params, state)  # quadratics have no batches: the step does not matter
        frozen = Frozen(problem, [{}] * STEPS + grads)

    def value():
        return unroll(pair, frozen, params, state, STEPS, start=STEPS, second_order=second_order).objective

    found = unroll(pair, problem, params, state, STEPS, start=STEPS, second_order=second_order).objective
    torch.testing.assert_close(gradient(pair, found), differences(pair, value), rtol=1e-5, atol=1e-8)


def test_two_unrolls_are_one_longer():
    pair, problem = PAIRS["lstm"](), quadratics()
    params = problem.first()
    state = initial(pair, params)
    whole = unroll(pair, problem, params, state, 6)
    first = unroll(pair, problem, params, state, 3)
    second = unroll(pair, problem, first.params, first.state, 3, start=3)
    torch.testing.assert_close(whole.losses, torch.cat([first.losses, second.losses[1:]]))
    torch.testing.assert_close(whole.objective, (first.objective + second.objective) / 2)
    torch.testing.assert_close(
        gradient(pair, whole.objective), gradient(pair, (first.objective + second.objective) / 2), rtol=1e-9, atol=1e-12
    )


def test_stacked_problems_are_single_ones():
    problem = quadratics(4)
    for name, make in PAIRS.items():
        pair = make()
        params = problem.first()
        together = unroll(pair, problem, params, initial(pair, params), STEPS)
        for place in range(4):
            one = DrawnQuadratics(
                *(each[place : place + 1] for each in (problem.matrix, problem.target, problem.start))
            )
            alone = unroll(pair, one, one.first(), initial(pair, one.first()), STEPS)
            torch.testing.assert_close(together.losses[:, place], alone.losses[:, 0], msg=name)


def test_networks_of_classifiers_are_stepped_on_their_own_batches():
    problem = Classifiers(widths=(5,), batch_size=16).draw(3, 1)
    pair = CoordinatewiseLSTM(hidden=3)
    params = problem.first()
    found = unroll(pair, problem, params, initial(pair, params), 4)
    assert found.losses.shape == (5, 3)
    again = unroll(pair, problem, params, initial(pair, params), 4)
    assert torch.equal(found.losses, again.losses)
    assert len(set(found.losses[0].tolist())) == 3
    inputs, classes = problem.data.splits["train"]
    expected = torch.nn.functional.cross_entropy(
        torch.func.functional_call(problem.model, {name: one[1] for name, one in params.items()}, (inputs,)), classes
    )
    torch.testing.assert_close(problem.final(params)[1], expected)


def test_rates_and_betas_are_learned_by_the_same_unroll():
    problem, pair = quadratics(8), LearnedRule(rules.adam, ("lr", "betas"), lr=1e-3).double()
    start = float(unroll(pair, problem, problem.first(), initial(pair, problem.first()), 20).objective.detach())
    optimizer = torch.optim.Adam(pair.parameters(), lr=0.1)
    for _ in range(40):
        optimizer.zero_grad()
        objective = unroll(pair, problem, problem.first(), initial(pair, problem.first()), 20).objective
        objective.backward()
        optimizer.step()
    assert float(objective.detach()) < start - 0.5
    values = pair.hyper_parameters()
    assert float(values["lr"].detach()) > 0.01
    assert all(0 < float(beta.detach()) < 1 for beta in values["betas"])


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: LearnedRule(rules.adam, ("rate",)), TypeError, "rate"),
        (lambda: LearnedRule(rules.adam, ("amsgrad",)), TypeError, "amsgrad is False"),
        (lambda: LearnedRule(rules.sgd, ("momentum",)), ValueError, "momentum is 0"),
        (lambda: LearnedRule(rules.adam, lr=-1.0), ValueError, "lr is -1.0"),
        (lambda: LearnedRule(rules.lars), ValueError, "reduces over a tensor"),
    ],
)
def test_what_cannot_be_learned_is_named(make, error, words):
    with pytest.raises(error, match=words):
        make()


# ---- persistent evolution strategies


class Line:
    """A problem of one number, whose loss at each step is known in closed form."""

    count = 4000

    def first(self):
        return {"x": torch.zeros(self.count, 1, dtype=torch.float64)}

    def losses(self, params, step):
        return (params["x"] - 3).square().sum(1)


def test_evolution_estimates_the_gradient_without_truncating_it():
    # x_t = -lr * sum of gradients 2 (x - 3): plain descent, whose rate is learned as a logarithm.
    pair = LearnedRule(rules.sgd, ("lr",), lr=0.05).double()
    problem = Line()
    params = problem.first()
    state = initial(pair, params)
    particles = PersistentEvolution(pair, problem, sigma=0.05, seed=1)
    found = [particles.gradients(2, "sum")[0]["logs.lr"].clone() for _ in range(3)]
    whole = unroll(pair, problem, params, state, 6, objective="sum", second_order=True)

    def value(first, last):
        losses = unroll(pair, problem, params, state, last, objective="sum", second_order=True)
        earlier = unroll(pair, problem, params, state, first, objective="sum", second_order=True) if first else None
        return losses.objective * last / 2 - (earlier.objective * first / 2 if first else 0)

    assert math.isfinite(float(whole.objective.detach()))
    for place, each in enumerate(found):
        expected = gradient(pair, value(2 * place, 2 * place + 2))
        torch.testing.assert_close(each.flatten(), expected, rtol=0.15, atol=0.0)


def test_evolution_is_decided_by_its_seed_and_changes_nothing_of_the_pair():
    pair, problem = PerParameterMLP(hidden=3), Quadratics(3).draw(5, 0)
    before = {name: one.detach().clone() for name, one in pair.named_parameters()}
    first, again, other = [PersistentEvolution(pair, problem, seed=seed).gradients(3)[0] for seed in (0, 0, 1)]
    for name, one in pair.named_parameters():
        assert torch.equal(one, before[name])
        assert first[name].shape == one.shape
        assert torch.equal(first[name], again[name])
    assert not torch.equal(first["linears.0.weight"], other["linears.0.weight"])


def test_a_wrong_sigma_is_named():
    with pytest.raises(ValueError, match="sigma is 0"):
        PersistentEvolution(PerParameterMLP(), Quadratics(3).draw(2, 0), sigma=0)
