"""Meta-training: it learns, goes on after an interruption as if there had been none, and keeps what validates best."""

import io
import math

import pytest
import torch

from descend import rules
from descend.learned import (
    Classifiers,
    CoordinatewiseLSTM,
    LearnedOptimizer,
    LearnedRule,
    MetaTraining,
    OnePerKind,
    PerParameterMLP,
    Quadratics,
    Recipe,
)
from descend.learned.baselines import BASELINES, METRICS, losses_at, metric, params_at, tuned
from descend.learned.jobs import of_mean, paired

SMALL = dict(steps=12, unroll=4, problems=6, validate_every=2, validated=8)


def recipe(**changes):
    return Recipe(Quadratics(3), **{"episodes": 6, **SMALL, **changes})


PAIRS = {
    "backpropagation": lambda: CoordinatewiseLSTM(hidden=4),
    "evolution": lambda: PerParameterMLP(hidden=3, step_scale=0.1),
}


def weights(training):
    return torch.cat([one.detach().flatten() for one in training.pair.parameters()])


def test_it_learns_quadratics():
    training = MetaTraining(
        CoordinatewiseLSTM(hidden=8), recipe(episodes=40, steps=20, unroll=10, problems=32, rate=2e-2)
    )
    training.run()
    assert training.history[-1].episode == 40
    assert training.best_score < training.history[0].score - 1


def test_rates_are_learned_by_the_same_training():
    pair = LearnedRule(rules.sgd, ("lr", "momentum"), lr=1e-3, momentum=0.5)
    training = MetaTraining(pair, recipe(episodes=30, rate=0.1, problems=16))
    training.run()
    assert training.best_score < training.history[0].score - 0.2
    assert float(pair.hyper_parameters()["lr"].detach()) > 5e-3


@pytest.mark.parametrize("method", PAIRS)
def test_interrupted_it_goes_on_as_if_it_had_not_been(method):
    whole = MetaTraining(PAIRS[method](), recipe(method=method), seed=3)
    whole.run()
    first = MetaTraining(PAIRS[method](), recipe(method=method), seed=3)
    first.run(3)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = MetaTraining(PAIRS[method](), recipe(method=method), seed=3)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert second.episode == 3
    second.run()
    assert torch.equal(weights(second), weights(whole))
    assert second.history == whole.history
    for name, one in whole.best.items():
        assert torch.equal(second.best[name], one)


@pytest.mark.parametrize("method", PAIRS)
def test_the_best_weights_are_those_of_the_best_validation(method):
    from descend.learned.training import final_losses, mean_log10

    training = MetaTraining(PAIRS[method](), recipe(method=method, rate=0.05, episodes=8))
    seen = []
    training.run(validated=seen.append)
    assert [one.episode for one in seen] == [0, 2, 4, 6, 8]
    assert seen == training.history
    best = PAIRS[method]()
    best.load_state_dict(training.best)
    problems = training.recipe.family.draw(8, 1_000_000)
    assert mean_log10(final_losses(best, problems, 12)) == pytest.approx(min(one.score for one in seen))


def test_seeds_and_recipes_are_not_mixed_up():
    training = MetaTraining(PAIRS["evolution"](), recipe(method="evolution"))
    training.run(1)
    for other in (
        MetaTraining(PAIRS["evolution"](), recipe(method="evolution"), seed=1),
        MetaTraining(PAIRS["evolution"](), recipe(method="evolution", rate=0.1)),
    ):
        with pytest.raises(ValueError, match="another recipe or seed"):
            other.load_state_dict(training.state_dict())


def test_episodes_grow_by_the_curriculum():
    growing = recipe(episodes=6, curriculum=((0, 3), (2, 6), (4, 12)))
    assert [growing.steps_of(episode) for episode in range(6)] == [3, 3, 6, 6, 12, 12]
    assert growing.updates == 2 * (1 + 2 + 3)
    training = MetaTraining(CoordinatewiseLSTM(hidden=2), growing)
    training.run()
    assert training.episode == 6


def test_what_is_not_finite_changes_nothing_and_ends_training_in_time():
    pair = CoordinatewiseLSTM(hidden=2, scale=1e30)
    training = MetaTraining(pair, recipe(episodes=50))
    before = weights(training).clone()
    with pytest.raises(FloatingPointError, match="smaller rate or output scale"):
        training.run()
    assert torch.equal(weights(training), before)
    assert training.history[0].score is None


def by_kind():
    return OnePerKind(
        {"weights": CoordinatewiseLSTM(hidden=3), "biases": PerParameterMLP(hidden=3, step_scale=0.1)},
        lambda name: "biases" if name.endswith("bias") else "weights",
    )


def test_there_can_be_a_network_for_each_kind_of_parameter():
    pair = by_kind()
    family = Classifiers(widths=(4,), batch_size=16)
    params = {name: one[0] for name, one in family.draw(1, 0).first().items()}
    grads = {name: torch.randn_like(one) for name, one in params.items()}
    with torch.no_grad():
        new, state = pair.update(params, grads, pair.init(params))
        for kind, network in pair.networks.items():
            own = {name: one for name, one in params.items() if pair.kind(name) == kind}
            expected, _ = network.update(own, {name: grads[name] for name in own}, network.init(own))
            assert len(own) == 2
            for name, one in expected.items():
                assert torch.equal(new[name], one)
    assert set(state["1.weight"]) == {"hidden", "cell"}
    before = {kind: network.digest() for kind, network in pair.networks.items()}
    training = MetaTraining(pair, Recipe(family, 2, steps=4, unroll=2, problems=2, validate_every=1, validated=2))
    training.run()
    assert all(network.digest() != before[kind] for kind, network in pair.networks.items())

    model = family.draw(1, 0).model
    optimizer = LearnedOptimizer(pair.groups(model.named_parameters()), pair.networks["weights"])
    assert [group["network"] for group in optimizer.param_groups] == [one.digest() for one in pair.networks.values()]
    with pytest.raises(ValueError, match="parameter x is of kind 'other'"):
        OnePerKind(pair.networks, lambda _: "other").init({"x": torch.zeros(2)})
    with pytest.raises(ValueError, match="networks is empty"):
        OnePerKind({}, str)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"episodes": 0}, "episodes is 0"),
        ({"problems": 1.5}, "problems is 1.5"),
        ({"rate": -1.0}, "rate is -1.0"),
        ({"method": "guess"}, "method is 'guess'"),
        ({"curriculum": ((3, 10), (1, 20))}, "curriculum"),
        ({"sigma": math.inf}, "sigma is inf"),
    ],
)
def test_wrong_recipes_are_named(changes, words):
    with pytest.raises(ValueError, match=words):
        recipe(**changes)


# ---- problems


def test_families_are_decided_by_the_seed():
    for family in (
        Quadratics(4),
        Quadratics(4, uniform=True),
        Classifiers(
            models=("mlp", "convnet", "logistic"),
            widths=(3, 5),
            activations=("tanh", "relu"),
            initials=("small", "torch"),
        ),
    ):
        first, again, other = (family.draw(2, seed).first() for seed in (5, 5, 6))
        assert first.keys() == again.keys()
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert first.keys() != other.keys() or any(
            first[name].shape != other[name].shape or not torch.equal(first[name], other[name]) for name in first
        )


def test_layouts():
    for model, names in (
        ("logistic", {"1.weight", "1.bias"}),
        ("mlp", {"1.weight", "1.bias", "3.weight", "3.bias"}),
        ("convnet", {"0.weight", "0.bias", "4.weight", "4.bias"}),
    ):
        problems = Classifiers(models=(model,), widths=(3,)).draw(2, 0)
        params = problems.first()
        assert set(params) == names
        assert problems.losses(params, 0).shape == (2,)
        assert max(float(one.abs().max()) for one in params.values()) < 0.06
        assert problems.accuracies(params, "test").shape == (2,)


def test_the_quadratic_is_its_formula():
    problems = Quadratics(3).draw(4, 0)
    theta = problems.first()["theta"]
    expected = [((w @ x - y) ** 2).sum() for w, x, y in zip(problems.matrix, theta, problems.target, strict=True)]
    torch.testing.assert_close(problems.final({"theta": theta}), torch.stack(expected))
    assert problems.accuracies({"theta": theta}, "test") is None


# ---- baselines


def test_baselines_are_torchs_optimizers():
    problems = Quadratics(3).draw(2, 1)
    twins = {
        "SGD": lambda p: torch.optim.SGD(p, lr=0.01),
        "momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.8),
        "Nesterov": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.8, nesterov=True),
        "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, alpha=0.9),
        "Adam": lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.99)),
    }
    chosen = {
        "momentum": {"momentum": 0.8},
        "Nesterov": {"momentum": 0.8},
        "RMSprop": {"alpha": 0.9},
        "Adam": {"betas": (0.8, 0.99)},
    }
    for baseline in BASELINES:
        values = {**baseline.fixed, "lr": 0.01, **chosen.get(baseline.name, {})}
        assert {**values, "lr": 0.01} in [{**one, "lr": 0.01} for one in baseline.choices()]
        found = params_at(baseline.pair(values), problems, (3, 7))[-1]["theta"]
        for place in range(2):
            theta = problems.start[place].clone().requires_grad_()
            optimizer = twins[baseline.name]([theta])
            for _ in range(7):
                optimizer.zero_grad()
                (problems.matrix[place] @ theta - problems.target[place]).square().sum().backward()
                optimizer.step()
            torch.testing.assert_close(found[place], theta.detach(), rtol=1e-4, atol=1e-6)


def test_tuning_takes_the_best_for_each_number_of_steps_and_metric():
    problems, baseline = Quadratics(3).draw(8, 2), BASELINES[1]
    best = tuned(baseline, problems, (2, 10))
    assert set(best) == {(mark, name) for mark in (2, 10) for name in METRICS}
    for (mark, name), values in best.items():
        own = metric(losses_at(baseline.pair(values), problems, (mark,))[0], name)
        others = [metric(losses_at(baseline.pair(one), problems, (mark,))[0], name) for one in baseline.choices()]
        assert own == pytest.approx(min(others))


def test_metrics_of_losses():
    losses = torch.tensor([0.1, 10.0, 1000.0])
    assert metric(losses, "mean of log10") == pytest.approx(1.0)
    assert metric(losses, "log10 of mean") == pytest.approx(math.log10(1010.1 / 3))
    assert metric(torch.tensor([1.0, math.nan]), "mean of log10") == math.inf


def test_paired_differences():
    torch.manual_seed(0)
    theirs = torch.rand(4000, dtype=torch.float64) + 0.1
    ours = theirs * 10 ** (-0.3 + 0.5 * torch.randn(4000, dtype=torch.float64))
    mean, low, high, won = paired(ours, theirs)
    assert low < -0.3 < high
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / 4000**0.5, rel=0.1)
    assert won == pytest.approx(0.726, abs=0.03)  # a normal number below 0.6 of its deviations
    mean, low, high = of_mean(theirs / 2, theirs)
    assert (mean, low, high) == pytest.approx([-math.log10(2)] * 3)


@pytest.mark.parametrize("marks", [(), (0,), (5, 3), (2, 2)])
def test_wrong_marks_are_named(marks):
    with pytest.raises(ValueError, match="marks are"):
        losses_at(BASELINES[0].pair({"lr": 0.1}), Quadratics(3).draw(1, 0), marks)
