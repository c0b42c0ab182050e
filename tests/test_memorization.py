"""Corruptions, learning times, and fits of anything: `descend.generalization.corruption`, `memorization`, `fitting`."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from descend.generalization import (
    CorruptedLabels,
    GaussianPixels,
    LearningTimes,
    RandomPixels,
    ShuffledPixels,
    corrupted_labels,
    expected_wrong_share,
    fitting_network,
    minimum_norm,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def images(count=12, channels=3):
    pixels = torch.arange(count * channels * 4 * 5).float().view(count, channels, 4, 5)
    return TensorDataset(pixels, torch.arange(count) % 3)


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_the_share_of_wrong_labels_is_that_of_a_uniform_draw(share, classes):
    count = 40_000
    labels = torch.arange(count) % classes
    found = corrupted_labels(labels, share)
    expected = share * (1 - 1 / classes)
    assert expected_wrong_share(share, classes) == expected
    wrong = (found != labels).double().mean().item()
    assert abs(wrong - expected) <= 4 * math.sqrt(max(expected * (1 - expected), 0) / count)
    assert found.bincount(minlength=classes).min() > 0.9 * count / classes


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 5))
def test_a_smaller_share_is_among_a_larger_one(first, second, seed):
    labels = torch.arange(200) % 7
    low, high = (corrupted_labels(labels, share, seed=seed) for share in sorted((first, second)))
    changed = low != labels
    assert torch.equal(low[changed], high[changed])


def test_labels_are_drawn_once_and_images_stay():
    dataset = images()
    found = CorruptedLabels(dataset, 1.0, seed=1)
    assert len(found) == 12
    once, twice = ([label for _, label in found] for _ in range(2))
    assert torch.equal(torch.stack(once), torch.stack(twice))
    assert torch.equal(torch.stack(once), found.labels)
    assert all(torch.equal(found[i][0], dataset[i][0]) for i in range(12))
    assert found.wrong_share == (found.labels != dataset.tensors[1]).double().mean()
    assert not torch.equal(found.labels, CorruptedLabels(dataset, 1.0, seed=2).labels)
    batch = next(iter(DataLoader(found, batch_size=12)))
    assert torch.equal(batch[1], found.labels)


def test_labels_that_are_plain_numbers_stay_such():
    found = CorruptedLabels([("a", 0), ("b", 1), ("c", 2)], 1.0)
    assert [type(label) for _, label in found] == [int] * 3


def test_one_permutation_for_all_images_and_for_test_images_too():
    train, test = images(), images(5)
    found, there = ShuffledPixels(train, seed=3), ShuffledPixels(test, seed=3)
    order = found[0][0][0].flatten() - train[0][0][0].min()  # what stands where
    for dataset, shuffled in ((train, found), (test, there)):
        for place in range(len(dataset)):
            image, label = shuffled[place]
            assert label == dataset[place][1]
            for before, after in zip(dataset[place][0], image, strict=True):
                assert torch.equal(after.flatten(), before.flatten()[order.long()])


def test_a_permutation_for_each_image_is_fixed():
    dataset = images()
    found = RandomPixels(dataset, seed=4)
    orders = [tuple((found[i][0][0].flatten() - dataset[i][0][0].min()).int().tolist()) for i in range(12)]
    assert len(set(orders)) == 12
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert all(torch.equal(found[i][0], found[i][0]) for i in range(12))
    assert torch.equal(found[3][0][1] - found[3][0][0], torch.full((4, 5), 20.0))  # channels together


def test_noise_has_the_mean_and_the_variance_of_the_data():
    dataset = TensorDataset(3 + 2 * normal(200, 1, 8, 8).float(), torch.zeros(200).long())
    found = GaussianPixels(dataset)
    drawn = torch.stack([found[i][0] for i in range(200)])
    assert drawn.dtype == torch.float32
    assert drawn.mean().item() == pytest.approx(dataset.tensors[0].mean().item(), abs=0.06)
    assert drawn.std().item() == pytest.approx(dataset.tensors[0].std().item(), rel=0.03)
    assert torch.equal(found[7][0], drawn[7])
    assert len({tuple(image.flatten().tolist()) for image in drawn}) == 200


def test_corrupting_draws_nothing_from_the_global_generators():
    before = torch.get_rng_state()
    dataset = images()
    for one in (CorruptedLabels(dataset, 0.5), ShuffledPixels(dataset), RandomPixels(dataset), GaussianPixels(dataset)):
        one[0]
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: corrupted_labels(torch.tensor([0, 1]), 1.5), "share is 1.5"),
        (lambda: corrupted_labels(torch.tensor([0, 1]), True), "share is True"),
        (lambda: corrupted_labels(torch.tensor([0, 3]), 0.5, classes=3), "classes is 3, and labels go up to 3"),
        (lambda: corrupted_labels(torch.tensor([0.5]), 0.5), "no vector of whole numbers"),
        (lambda: corrupted_labels(torch.tensor([-1, 2]), 0.5), "no vector of whole numbers"),
        (lambda: corrupted_labels(torch.tensor([0, 0]), 0.5), "classes is 1"),
        (lambda: CorruptedLabels([(0, 0.5)], 0.5), "no pair of inputs and a class"),
        (lambda: ShuffledPixels([(1, 2)]), "no pair of an image"),
        (lambda: RandomPixels(TensorDataset(torch.ones(3, 4))), "no pair of an image"),
        (lambda: GaussianPixels(TensorDataset(torch.ones(3, 4, 4).byte(), torch.ones(3))), "images are of torch.uint8"),
    ],
)
def test_wrong_arguments_of_corruptions(act, words):
    with pytest.raises(ValueError, match=words):
        act()


class Scripted(nn.Module):
    """A model that gives the next of some outputs at each look."""

    def __init__(self, looks):
        super().__init__()
        self.looks, self.weight = looks, nn.Parameter(torch.zeros(()))
        self.now = 0

    def forward(self, inputs):
        return self.looks[self.now][inputs[:, 0].long()] + self.weight


def test_learning_times_by_hand():
    right, wrong = [5.0, 0.0], [0.0, 5.0]
    looks = torch.tensor([[wrong, right, wrong, right], [wrong, right, right, wrong], [right, right, right, wrong]])
    model = Scripted(looks)
    batches = [
        (torch.tensor([[0.0], [1.0], [2.0]]), torch.zeros(3).long()),
        (torch.tensor([[3.0]]), torch.tensor([0])),
    ]
    times = LearningTimes(model, batches)
    for model.now in range(3):
        times.look()
    found = times.ranking()
    assert found.learned.tolist() == [2, 0, 1, math.inf]
    assert found.forgotten.tolist() == [0, 0, 0, 1]
    assert found.usual.tolist() == [1, 0, 0, 1]
    assert found.suspects("learned").tolist() == [3, 0, 2, 1]
    assert found.suspects("loss")[0] == 3
    assert found.suspects(count=1).tolist() == [0]  # two looks of three at a high loss, as 3, and before it
    expected = nn.functional.cross_entropy(looks[1], torch.zeros(4).long(), reduction="none")
    torch.testing.assert_close(found.losses[1], expected.double())
    assert found.conditions.examples == 4


def trained_on(labels, inputs, epochs=40):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(inputs.shape[1], 64), nn.ReLU(), nn.Linear(64, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    times = LearningTimes(model, [(inputs, labels)])
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(inputs)), 32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[rows]), labels[rows]).backward()
            optimizer.step()
        times.look()
    return model, times


@pytest.mark.parametrize(("by", "precision"), [("mean loss", 0.9), ("learned", 0.7)])  # 0.1 by chance
def test_planted_errors_are_found(by, precision):
    centers = 3 * normal(4, 10, seed=5).float()
    true = torch.arange(400) % 4
    inputs = centers[true] + normal(400, 10, seed=6).float()
    labels = corrupted_labels(true, 0.1, seed=2)
    wrong = labels != true
    ranking = trained_on(labels, inputs)[1].ranking()
    count = int(wrong.sum())
    assert wrong[ranking.suspects(by, count)].double().mean() > precision
    assert ranking.learned[wrong].median() > ranking.learned[~wrong].median()


def test_a_look_changes_nothing():
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 2)).train()
    batches = [(normal(6, 3).float(), torch.arange(6) % 2)]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    LearningTimes(model, batches).look()
    assert model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert all(value.grad is None for value in model.parameters())


def test_wrong_arguments_of_learning_times():
    model, batch = nn.Linear(3, 2), (normal(6, 3).float(), torch.arange(6) % 2)
    with pytest.raises(ValueError, match="no look yet"):
        LearningTimes(model, [batch]).ranking()
    with pytest.raises(ValueError, match="loss of each"):
        LearningTimes(model, [batch], nn.functional.cross_entropy).look()
    with pytest.raises(TypeError, match="no pair of inputs and classes"):
        LearningTimes(model, [batch[0]]).look()
    batches = [batch]
    times = LearningTimes(model, batches)
    times.look()
    batches.append(batch)
    with pytest.raises(ValueError, match=r"other labels in this pass \(12\) than before \(6\)"):
        times.look()
    with pytest.raises(ValueError, match="by is 'area'"):
        times.ranking().suspects("area")
    with pytest.raises(ValueError, match="count is 0"):
        times.ranking().suspects(count=0)


@pytest.mark.parametrize(("count", "size"), [(1, 1), (7, 1), (50, 3), (1000, 784)])
def test_2n_plus_d_weights_fit_any_n_labels(count, size):
    inputs = normal(count, size)
    labels = torch.randint(10, (count,), generator=torch.Generator().manual_seed(1))
    network = fitting_network(inputs, labels)
    assert sum(one.numel() for one in network.parameters()) == 2 * count + size
    assert torch.equal(network(inputs).round().long(), labels)
    torch.testing.assert_close(network(inputs), labels.double(), atol=1e-6, rtol=0)


def test_images_of_bytes_are_fitted():
    inputs = torch.randint(256, (300, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels = torch.arange(300) % 10
    assert torch.equal(fitting_network(inputs, labels)(inputs).round().long(), labels)


@pytest.mark.parametrize(
    ("inputs", "targets", "words"),
    [
        (torch.ones(2, 3), torch.ones(2), "two inputs are the same"),
        (torch.ones(2, 3), torch.ones(3), "2 rows"),
        (torch.eye(2), torch.ones(2, 1), "shape"),
        (torch.tensor([[0.0], [math.nan]]), torch.ones(2), "not finite"),
        (torch.tensor([[0.0], [1e-300], [1.0]], dtype=torch.float64), torch.tensor([0.0, 1e30, 2.0]), "too near"),
    ],
)
def test_what_cannot_be_fitted_is_refused(inputs, targets, words):
    with pytest.raises(ValueError, match=words):
        fitting_network(inputs, targets)


def test_minimum_norm_of_the_linear_kernel_is_the_pseudo_inverse():
    for shape in ((5, 12), (30, 4)):
        inputs, targets = normal(*shape), normal(shape[0], 2, seed=1)
        found = minimum_norm(inputs, targets, "linear")
        weights = torch.linalg.pinv(inputs) @ targets
        there = normal(7, shape[1], seed=2)
        torch.testing.assert_close(found(there), there @ weights)
        torch.testing.assert_close(found.norms, weights.norm(dim=0))
    assert minimum_norm(normal(5, 12), normal(5), "linear").residual < 1e-12


def test_the_gaussian_kernel_fits_and_has_its_closed_form():
    inputs, labels = normal(60, 5), torch.arange(60) % 3
    found = minimum_norm(inputs, labels, gamma=0.3)
    matrix = torch.exp(-0.3 * torch.cdist(inputs, inputs) ** 2)
    torch.testing.assert_close(found.coefficients, torch.linalg.solve(matrix, nn.functional.one_hot(labels).double()))
    assert torch.equal(found(inputs).argmax(1), labels)
    assert found.residual < 1e-8
    mean = torch.cdist(inputs, inputs).square().mean().item()
    assert minimum_norm(inputs, labels).gamma == pytest.approx(1 / mean)


def test_two_examples_alike_have_the_solution_of_least_norm():
    inputs = torch.cat([normal(4, 3), normal(4, 3)])
    found = minimum_norm(inputs, torch.arange(8).double() % 4, gamma=1.0)
    torch.testing.assert_close(found(inputs)[:, 0], torch.arange(8).double() % 4)
    torch.testing.assert_close(found.coefficients[:4], found.coefficients[4:])


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda x, y: minimum_norm(x, y, "poly"), "kernel is 'poly'"),
        (lambda x, y: minimum_norm(x, y, "linear", gamma=1.0), "gamma is 1.0"),
        (lambda x, y: minimum_norm(x, y, gamma=0.0), "gamma is 0.0"),
        (lambda x, y: minimum_norm(x[:2], y), "give a target a row"),
        (lambda x, y: minimum_norm(x[:, 0], y), "give a target a row"),
        (lambda x, y: minimum_norm(x * math.inf, y), "not finite"),
    ],
)
def test_wrong_arguments_of_kernels(act, words):
    with pytest.raises(ValueError, match=words):
        act(normal(4, 2), torch.arange(4) % 2)


def test_a_loader_that_shuffles_is_refused():
    data = torch.utils.data.TensorDataset(torch.randn(20, 3), torch.randint(2, (20,)))
    model = torch.nn.Linear(3, 2)
    with pytest.raises(ValueError, match="give shuffle=False"):
        LearningTimes(model, torch.utils.data.DataLoader(data, batch_size=5, shuffle=True))
    LearningTimes(model, torch.utils.data.DataLoader(data, batch_size=5)).look()
