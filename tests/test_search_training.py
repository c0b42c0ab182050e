"""Child networks against autograd, and many rules trained at once against one plain loop for each."""

import pickle
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from descend import rules, tasks
from descend.backends import compiler
from descend.rule import Slot, rule
from descend.schedules import linear
from descend.search import children, perceptrons
from descend.search.children import ConvNet, Perceptron
from descend.search.training import reward, train
from descend.vocabulary import ema, exp, keep, normal, sign, where
from task_data import write_cifar10, write_idx

needs_compiler = pytest.mark.skipif(compiler.unavailable() is not None, reason="no kernels here")
SGD, ADAM = (rules.catalog()[name] for name in ("sgd", "adam"))
RATES = [1e-3, 1e-2, 1e-1]


@pytest.fixture(params=["torch", pytest.param("kernel", marks=needs_compiler)])
def backend(request, monkeypatch):
    """What computes the gradients of perceptrons."""
    if request.param == "torch":
        monkeypatch.setattr(perceptrons, "_native", lambda: None)
    return request.param


@pytest.fixture
def digits():
    return children.load("digits")


@pytest.fixture
def mnist(tmp_path):
    """A child of MNIST's shape on a few images; 24 hidden units, so that no block is whole."""
    write_idx(tmp_path / "mnist")
    return Perceptron("small", lambda: tasks.load("mnist", data=tmp_path / "mnist"), (784, 22, 10), 48)


@pytest.fixture
def convnet(tmp_path, monkeypatch):
    write_cifar10(tmp_path / "cifar10")
    return ConvNet("small", lambda: tasks.load("cifar10", data=tmp_path / "cifar10"), 20)


def modules_of(child, weights):
    """The same network as torch's modules, with a row's weights."""
    if isinstance(child, ConvNet):
        model = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(32),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(32),
            nn.Flatten(),
            nn.Linear(2048, 10),
        )
        nn.utils.vector_to_parameters(weights.clone(), model.parameters())
        return model
    inputs, hidden, classes = child.sizes
    model = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes))
    cut = hidden * (inputs + 1)
    with torch.no_grad():
        for layer, part in ((model[0], weights[:cut]), (model[2], weights[cut:])):
            matrix = part.view(layer.out_features, -1)
            layer.weight.copy_(matrix[:, :-1])
            layer.bias.copy_(matrix[:, -1])
    return model


def row_of(child, model, what=lambda x: x):
    """What stands in the places of a row's weights."""
    if isinstance(child, ConvNet):
        return torch.cat([what(x).reshape(-1) for x in model.parameters()])
    parts = [torch.cat([what(m.weight), what(m.bias)[:, None]], 1).reshape(-1) for m in (model[0], model[2])]
    return torch.cat(parts)


def gradients_like_autograd(child):
    params = torch.zeros(3, child.width + 9)[:, : child.width]
    params.copy_(torch.stack([child.initial(seed) for seed in (0, 1, 2)]))
    grads, memory = torch.full((3, child.width + 5), 7.0), child.begin(3)
    batch = next(child.batches(0))
    losses = child.gradients(params, grads[:, : child.width], batch, memory)
    assert (grads[:, child.width :] == 7).all()
    for row in range(3):
        model = modules_of(child, params[row])
        loss = functional.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        expected = row_of(child, model, lambda x: x.grad)
        torch.testing.assert_close(grads[row, : child.width], expected, rtol=1e-4, atol=1e-6)
        assert losses[row].item() == pytest.approx(loss.item(), rel=1e-5)
        yield row, model, params[row : row + 1], memory[row : row + 1]


def validates_like_modules(child, model, params, memory):
    inputs, targets = child.splits["validation"]
    with torch.no_grad():
        outputs = model.eval()(inputs)
    [loss], [accuracy] = child.evaluate(params, memory)
    assert loss.item() == pytest.approx(functional.cross_entropy(outputs, targets).item(), rel=1e-5)
    assert accuracy.item() == pytest.approx((outputs.argmax(1) == targets).double().mean().item(), abs=1e-9)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_gradients_and_validation_of_perceptrons_are_those_of_autograd(name, request):
    child = request.getfixturevalue(name)
    for _, model, params, memory in gradients_like_autograd(child):
        validates_like_modules(child, model, params, memory)


def test_gradients_statistics_and_validation_of_the_convnet_are_those_of_autograd(convnet):
    for _, model, params, memory in gradients_like_autograd(convnet):
        statistics = torch.cat(
            [model[3].running_mean, model[7].running_mean, model[3].running_var, model[7].running_var]
        )
        torch.testing.assert_close(memory[0], statistics, rtol=1e-4, atol=1e-5)
        validates_like_modules(convnet, model, params, memory)


@pytest.mark.usefixtures("backend")
def test_weights_that_are_not_finite_give_losses_that_are_not(digits):
    params = torch.stack([digits.initial(0)] * 3)
    params[1, 5], params[2, -1] = float("nan"), float("inf")
    losses = digits.gradients(params, torch.empty_like(params), next(digits.batches(0)), digits.begin(3))
    assert losses.isfinite().tolist() == [True, False, False]
    loss, _ = digits.evaluate(params, digits.begin(3))
    assert loss.isfinite().tolist() == [True, False, False]


@pytest.mark.usefixtures("backend")
def test_of_equal_logits_the_first_counts(digits):
    _, accuracy = digits.evaluate(torch.zeros(1, digits.width), digits.begin(1))
    targets = digits.splits["validation"][1]
    assert accuracy.item() == pytest.approx((targets == 0).double().mean().item())


def test_a_seed_decides_weights_and_batches(digits):
    assert torch.equal(digits.initial(3), digits.initial(3))
    assert not torch.equal(digits.initial(3), digits.initial(4))
    first, again, other = (digits.batches(seed) for seed in (3, 3, 4))
    for _ in range(40):
        (x, y), (same, _), (different, _) = next(first), next(again), next(other)
        assert x.shape == (64, 64)
        assert y.shape == (64,)
        assert torch.equal(x, same)
        assert not torch.equal(x, different)


def test_an_epoch_has_no_example_twice(digits):
    batches = digits.batches(0)
    epoch = torch.cat([next(batches)[0] for _ in range(16)])
    train = digits.splits["train"][0]
    assert len(train.unique(dim=0)) == len(train)
    assert len(epoch.unique(dim=0)) == len(epoch) == len(train) // 64 * 64


def test_a_child_sees_training_and_validation_examples_alone(digits):
    task = tasks.load("digits")
    found = task.tensors()
    assert digits.splits.keys() == {"train", "validation"}
    for part, (inputs, targets) in digits.splits.items():
        assert torch.equal(inputs, found[part][0].flatten(1))
        assert torch.equal(targets, found[part][1])


def test_children_are_one_per_process_and_pickled_by_name(digits):
    assert pickle.loads(pickle.dumps(digits)) is digits
    assert children.names() == ("digits", "mnist", "cifar10")
    with pytest.raises(ValueError, match=r"child is 'digit'; choose one of digits, mnist, cifar10"):
        children.load("digit")


# training


def plain_loop(child, make, seed, steps):
    """The validation loss and accuracy of a network trained by an optimizer of torch."""
    model = modules_of(child, child.initial(seed))
    optimizer, batches = make(model.parameters()), child.batches(seed)
    for _ in range(steps):
        x, y = next(batches)
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    inputs, targets = child.splits["validation"]
    with torch.no_grad():
        outputs = model.eval()(inputs)
    return functional.cross_entropy(outputs, targets), (outputs.argmax(1) == targets).double().mean()


@pytest.mark.usefixtures("backend")
def test_rules_are_trained_like_torch_s_optimizers(digits):
    trained = train(digits, [SGD, ADAM], RATES, [0, 5], rungs=[(10, 3), (25, 3)])
    assert trained.losses.shape == trained.accuracies.shape == (2, 3, 2, 2)
    for i, make in enumerate([torch.optim.SGD, torch.optim.Adam]):
        for j, rate in enumerate(RATES):
            for k, seed in enumerate([0, 5]):
                for rung, steps in enumerate([10, 25]):
                    loss, accuracy = plain_loop(digits, partial(make, lr=rate), seed, steps)
                    assert trained.losses[i, j, k, rung] == pytest.approx(loss.item(), rel=1e-3)
                    assert trained.accuracies[i, j, k, rung] == pytest.approx(accuracy.item(), abs=0.006)


def test_the_convnet_is_trained_like_torch_s_with_its_running_statistics(convnet):
    trained = train(convnet, [SGD], [1e-4, 1e-3], [3], rungs=[(3, 2), (6, 1)])
    for rung, steps in enumerate([3, 6]):
        kept = trained.best_rates(rung)[0]
        loss, _ = plain_loop(convnet, partial(torch.optim.SGD, lr=[1e-4, 1e-3][kept]), 3, steps)
        assert trained.best_losses(rung)[0] == pytest.approx(loss.item(), rel=1e-4)


@rule
def drifting(p, g, *, lr=0.1):
    """A rate of no effect."""
    return dict(p=p - lr * 0 * g - 0.01 * g)


@rule
def noisy(p, g, t, m=Slot("m"), *, lr=0.1):
    """What a search might draw."""
    m = ema(m, keep(g, 0.5), 0.9)
    return dict(p=p - lr * m * exp(sign(g) * sign(m)), m=m)


@rule
def exploding(p, g, *, lr=0.1):
    """Too far at large rates."""
    return dict(p=p - exp(lr * 1000) * g)


MIXED = [SGD, noisy, ADAM, exploding, drifting]


def test_rungs_go_on_with_the_best_rates_of_each_rule(digits):
    seeds = [0, 1]
    whole = train(digits, MIXED, RATES, seeds, rungs=[(5, 3), (12, 3), (20, 3)])
    thinned = train(digits, MIXED, RATES, seeds, rungs=[(5, 3), (12, 2), (20, 1)])
    for rung, count in enumerate([3, 2, 1]):
        kept = ~np.isnan(thinned.losses[..., rung])
        assert (kept.all(axis=2) == kept.any(axis=2)).all()
        assert (kept[..., 0].sum(axis=1) == count).all()
        assert np.array_equal(thinned.losses[..., rung][kept], whole.losses[..., rung][kept])
        assert np.array_equal(thinned.accuracies[..., rung][kept], whole.accuracies[..., rung][kept])
        if rung:
            means = thinned.losses[..., rung - 1].mean(axis=2)
            for i in range(len(MIXED)):
                candidates = [j for j in range(3) if not np.isnan(means[i, j])]
                best = sorted(candidates, key=lambda j: (means[i, j], RATES[j]))[:count]
                assert set(best) == set(np.flatnonzero(kept[i, :, 0]))
    assert (thinned.best_rates() == np.nanargmin(thinned.losses[..., -1].mean(axis=2), axis=1)).all()


def test_equal_rates_are_the_smaller_one(digits):
    trained = train(digits, [drifting], [0.3, 0.1, 0.2], [0], rungs=[(3, 3), (5, 2), (6, 1)])
    assert np.isnan(trained.losses[0, :, 0, 1]).tolist() == [True, False, False]
    assert np.isnan(trained.losses[0, :, 0, 2]).tolist() == [True, False, True]
    assert trained.best_rates().tolist() == [1]


@pytest.mark.usefixtures("backend")
def test_what_diverges_is_infinite_and_takes_nobody_along(digits):
    trained = train(digits, [exploding, SGD], RATES, [0, 1], rungs=[(20, 3), (30, 3)])
    assert np.isposinf(trained.losses[0, 2]).all()
    assert (trained.accuracies[0, 2] == 0).all()
    alone = train(digits, [SGD], RATES, [0, 1], rungs=[(20, 3), (30, 3)])
    assert np.array_equal(alone.losses[0], trained.losses[1])
    everything = train(digits, [exploding], [10.0, 1.0], [0], rungs=[(20, 2), (30, 1)])
    assert np.isposinf(everything.losses[0, :, 0, 0]).all()
    assert np.isnan(everything.losses[0, 0, 0, 1])
    assert np.isposinf(everything.losses[0, 1, 0, 1])
    assert everything.rewards().tolist() == [0.0]
    assert everything.best_rates().tolist() == [1]


@rule
def recovering(p, g, *, lr=0.1):
    """Leaves the finite losses, not the finite weights, and would come back."""
    return dict(p=where(abs(p) > 1e30, p * 1e-38, p - lr * sign(g)))


@pytest.mark.usefixtures("backend")
def test_a_row_whose_training_loss_is_not_finite_goes_no_further(digits):
    trained = train(digits, [recovering], [1e38, 1e-3], [0], rungs=[(1, 2), (2, 2)])
    assert np.isposinf(trained.losses[0, 0, 0]).all()
    assert np.isfinite(trained.losses[0, 1, 0]).all()


@rule
def wandering(p, g, t, *, lr=0.1):
    """Random numbers alone."""
    return dict(p=p - lr * normal(1.0))


def test_random_numbers_are_those_of_the_seed(digits):
    trained = train(digits, [wandering], [0.1], [0, 3], rungs=[(2, 1)])
    for place, seed in enumerate([0, 3]):
        params = {"x": digits.initial(seed)}
        state = wandering.init(params)
        for _ in range(2):
            params, state = wandering.update(params, {"x": torch.zeros(digits.width)}, state, seed=seed)
        [loss], _ = digits.evaluate(params["x"][None], digits.begin(1))
        assert trained.losses[0, 0, place, 0] == pytest.approx(loss.item(), rel=1e-4)


@pytest.mark.usefixtures("backend")
def test_a_row_does_not_depend_on_the_rows_beside_it(digits):
    rungs = [(8, 3), (14, 2), (20, 1)]
    usual = train(digits, MIXED, RATES, [0, 1, 7], rungs=rungs)
    for chunk in (1, 18, 1000):
        other = train(digits, MIXED[::-1], RATES, [0, 1, 7], rungs=rungs, chunk=chunk)
        assert np.array_equal(other.losses[::-1], usual.losses, equal_nan=True)
        assert np.array_equal(other.accuracies[::-1], usual.accuracies, equal_nan=True)
    one = train(digits, [noisy], RATES[1:2], [7], rungs=[(20, 1)])
    among = train(digits, MIXED, RATES, [0, 7], rungs=[(20, 3)])
    assert one.losses[0, 0, 0, 0] == among.losses[1, 1, 1, 0]


def test_results_do_not_depend_on_the_number_of_threads(digits):
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            results.append(train(digits, MIXED, RATES, [0, 1], rungs=[(20, 3)]))
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(1)
    assert np.array_equal(results[0].losses, results[1].losses)


@rule
def further(p, g, *, lr=0.1, factor=1.0):
    """A second hyper-parameter."""
    return dict(p=p - lr * factor * g)


def test_further_hyper_parameters_reach_the_rules_that_declare_them(digits):
    given = {"factor": 0.5}
    trained = train(digits, [further, drifting], [0.2], [0], rungs=[(10, 1)], hyper_parameters=given)
    plain = train(digits, [SGD, drifting], [0.1], [0], rungs=[(10, 1)])
    assert trained.losses[0] == pytest.approx(plain.losses[0], rel=1e-6)
    assert np.array_equal(trained.losses[1], plain.losses[1])


def test_a_schedule_spans_the_whole_training(digits):
    given = {"factor": linear(10)}
    trained = train(digits, [further], [0.2], [0], rungs=[(4, 1), (10, 1)], hyper_parameters=given)
    schedule = linear(10)

    def make(params):
        optimizer = torch.optim.SGD(params, lr=0.2)
        scheduled = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
        optimizer.register_step_post_hook(lambda *_: scheduled.step())
        return optimizer

    loss, _ = plain_loop(digits, make, 0, 10)
    assert trained.losses[0, 0, 0, 1] == pytest.approx(loss.item(), rel=1e-4)


def test_rules_have_rates_of_their_own(digits):
    trained = train(digits, [SGD, SGD], [[0.1, 0.2], [0.2, 0.3]], [0], rungs=[(5, 2)])
    assert trained.losses[0, 1] == trained.losses[1, 0]
    assert trained.rates.tolist() == [[0.1, 0.2], [0.2, 0.3]]


def test_the_reward_is_one_for_certainty_and_nothing_for_divergence():
    assert reward([0.0, np.log(2), np.inf]).tolist() == [1.0, pytest.approx(0.5), 0.0]


def test_rewards_are_of_the_best_rate_s_mean_loss(digits):
    trained = train(digits, [SGD], RATES, [0, 1], rungs=[(5, 3)])
    assert trained.rewards()[0] == pytest.approx(np.exp(-trained.losses[0, :, :, 0].mean(axis=1).min()))


def test_training_leaves_the_global_generators_alone(digits):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(digits, [noisy], [0.1], [0], rungs=[(2, 1)])
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (dict(rates=[]), "rates"),
        (dict(rates=[[0.1]]), "2 rules"),
        (dict(rates=[0.1, 0.0]), "above 0"),
        (dict(rates=[0.1, float("nan")]), "above 0"),
        (dict(seeds=[]), "seeds is empty"),
        (dict(rungs=[]), "rungs"),
        (dict(rungs=[(5, 1)]), "take part in the first"),
        (dict(rungs=[(5, 2), (5, 1)]), "rising"),
        (dict(rungs=[(5, 2), (6, 0)]), "fewer later"),
        (dict(rungs=[(5, 1), (6, 2)]), "fewer later"),
        (dict(child="digit"), "child is 'digit'"),
    ],
)
def test_arguments_that_do_not_fit_are_named(changes, why):
    given = dict(child="digits", rules=[SGD, ADAM], rates=[0.1, 0.2], seeds=[0], rungs=[(5, 2)])
    with pytest.raises(ValueError, match=why):
        train(**{**given, **changes})


def test_a_rule_without_a_rate_is_named(digits):
    @rule
    def bare(p, g, *, step_size=0.1):
        return dict(p=p - step_size * g)

    with pytest.raises(ValueError, match="rule 'bare' has no hyper-parameter lr"):
        train(digits, [bare], [0.1], [0], rungs=[(1, 1)])
