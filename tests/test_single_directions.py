"""Units, what they know of classes, and how much a network leans on them."""

import copy
import math

import pytest
import torch
from torch import nn

from descend.generalization import (
    Objective,
    accuracy,
    activations,
    class_selectivity,
    cumulative_ablation,
    mutual_information,
    noise_robustness,
    supervised,
    unit_importance,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 6),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(6, 3),
    )


def data(count=30):
    inputs, labels = normal(count, 1, 6, 6, seed=1), torch.arange(count) % 3
    return [(inputs[:20], labels[:20]), (inputs[20:], labels[20:])]


def scored(model=None, batches=None):
    return Objective(network() if model is None else model, supervised(accuracy), batches or data())


class Given(nn.Module):
    """A network whose hidden units do what is given to it, and whose outputs are those of a linear layer on them."""

    def __init__(self, classes=2, units=2):
        super().__init__()
        self.act, self.last = nn.ReLU(), nn.Linear(units, classes)

    def forward(self, inputs):
        return self.last(self.act(inputs))


def built(activity, labels, classes=None):
    activity = torch.as_tensor(activity).float()
    labels = torch.as_tensor(labels)
    model = Given(int(labels.max()) + 1, activity.shape[1])
    return activations(Objective(model, supervised(accuracy), [(activity, labels)]))


def test_activations_are_those_of_a_straight_line():
    model, batches = network().eval(), data()
    found = activations(scored(model, batches))
    assert list(found.layers) == ["2", "6"]
    inputs = torch.cat([one for one, _ in batches])
    maps = model[:3](inputs).double()
    layer = found.layers["2"]
    torch.testing.assert_close(layer.activity, maps.mean((2, 3)))
    torch.testing.assert_close(layer.mean, maps.mean((0, 2, 3)))
    torch.testing.assert_close(layer.deviation, maps.std((0, 2, 3), correction=0))
    torch.testing.assert_close(found.layers["6"].activity, model[:7](inputs).double())
    assert torch.equal(found.labels, torch.arange(30) % 3)
    assert found.conditions.examples == 30


def test_a_module_that_runs_twice_has_two_layers():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.act = nn.Linear(3, 4), nn.Linear(4, 5), nn.Tanh()

        def forward(self, inputs):
            return self.act(self.second(self.act(self.first(inputs))))

    found = activations(scored(Twice(), [(normal(9, 3), torch.arange(9) % 2)]))
    assert {name: layer.size for name, layer in found.layers.items()} == {"act": 4, "act:2": 5}
    curve = cumulative_ablation(scored(Twice(), [(normal(9, 3), torch.arange(9) % 2)]), orders=2)
    assert curve.units == 9


def test_selectivity_on_built_activations():
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    columns = {
        "one class only": ([1, 1, 0, 0, 0, 0], 1.0),
        "all alike": ([2, 2, 2, 2, 2, 2], 0.0),
        "three to one": ([3, 3, 1, 1, 1, 1], 0.5),
        "dead": ([0, 0, 0, 0, 0, 0], math.nan),
    }
    found = built(torch.tensor([values for values, _ in columns.values()]).T, labels)
    torch.testing.assert_close(
        class_selectivity(found)["act"], torch.tensor([value for _, value in columns.values()]).double(), equal_nan=True
    )
    assert found.dead == 1
    assert found.live == [("act", 0), ("act", 1), ("act", 2)]


def test_selectivity_weighs_the_other_examples_and_needs_activity_from_0_up():
    found = built([[4.0], [1.0], [1.0], [1.0], [2.0]], [0, 1, 1, 1, 2])
    assert class_selectivity(found)["act"].item() == pytest.approx((4 - 5 / 4) / (4 + 5 / 4))
    model = nn.Sequential(nn.Tanh(), nn.Linear(1, 2))
    below = activations(scored(model, [(torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1]))]))
    assert class_selectivity(below)["0"].isnan().all()


@pytest.mark.parametrize("classes", [2, 4, 10])
def test_information_on_built_activations(classes):
    labels = torch.arange(10 * classes) % classes
    noise = torch.arange(10 * classes) // classes
    found = built(torch.stack([labels, labels == 0, torch.ones(len(labels)), noise], 1), labels)
    share = 1 / classes
    of_one = -share * math.log(share) - (1 - share) * math.log(1 - share)
    expected = torch.tensor([math.log(classes), of_one, 0.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(mutual_information(found, bins=10)["act"], expected, atol=1e-12, rtol=0)


def test_information_of_continuous_activity_against_a_table():
    labels = torch.arange(300) % 3
    activity = (normal(300, 1) + labels[:, None]).relu()
    found = built(activity, labels)
    values = activity[:, 0].double()
    edges = torch.linspace(values.min().item(), values.max().item(), 21)
    table = [[0] * 3 for _ in range(20)]
    for value, label in zip(values.tolist(), labels.tolist(), strict=True):
        place = min(19, int((value - values.min().item()) / (values.max() - values.min()).item() * 20))
        assert edges[place] - 1e-6 <= value <= edges[place + 1] + 1e-6
        table[place][label] += 1
    expected = sum(cell / 300 * math.log(cell * 300 / (sum(row) * 100)) for row in table for cell in row if cell)
    assert mutual_information(found, bins=20)["act"].item() == pytest.approx(expected)
    chance = mutual_information(found, bins=20, shuffled=0)["act"].item()
    assert 0 < chance < expected / 2


def ablated(model, inputs, labels, clamped, values):
    """The loss with units at constants, by a straight-line forward pass; accuracy may not see a single unit."""
    maps = model[:3](inputs)
    for (name, place), value in zip(clamped, values, strict=True):
        if name == "2":
            maps[:, place] = value
    hidden = model[3:7](maps)
    for (name, place), value in zip(clamped, values, strict=True):
        if name == "6":
            hidden[:, place] = value
    return nn.functional.cross_entropy(model[7:](hidden), labels).item()


@pytest.mark.parametrize("to", ["zero", "mean"])
def test_ablation_is_that_of_a_straight_line(to):
    model, batches = network().eval(), data()
    inputs, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    loss = scored(model, batches).with_loss(supervised(nn.functional.cross_entropy))
    found, falls = activations(loss), unit_importance(loss, to=to)
    with torch.no_grad():
        before = ablated(model, inputs, labels, [], [])
        for name, place in found.live:
            value = found.layers[name].mean[place].float() if to == "mean" else 0.0
            expected = before - ablated(model, inputs, labels, [(name, place)], [value])
            assert falls[name][place].item() == pytest.approx(expected, abs=1e-6)
        curve = cumulative_ablation(loss, to=to, orders=3, points=4)
        values = [found.layers[name].mean[place].float() if to == "mean" else 0.0 for name, place in found.live]
        last = ablated(model, inputs, labels, found.live, values)
    assert all(row[0] == pytest.approx(before) and row[-1] == pytest.approx(last) for row in curve.scores)
    assert curve.amounts[0] == 0
    assert curve.amounts[-1] == 1
    assert curve.units == len(found.live)
    assert max(falls[name][place].abs().item() for name, place in found.live) > 1e-3


def test_units_that_matter_alike_fall_one_by_one():
    """Each example needs one unit of its own, so k of n units leave (n - k) / n of the examples right, in any order."""
    count = 8
    model = Given(2, count)
    with torch.no_grad():
        model.last.weight.copy_(torch.stack([torch.zeros(count), torch.ones(count)]))
        model.last.bias.copy_(torch.tensor([0.5, 0.0]))
    curve = cumulative_ablation(scored(model, [(torch.eye(count), torch.ones(count).long())]), orders=4, points=9)
    for row in curve.scores:
        assert row == pytest.approx([1 - share for share in curve.amounts])
    assert curve.area == pytest.approx(0.5)
    assert curve.areas == pytest.approx([0.5] * 4)
    assert curve.area_interval == pytest.approx((0.5, 0.5))
    assert curve.means[3] == pytest.approx(5 / 8)


def test_dead_units_are_left_out_and_counted():
    model = Given(2, 3)
    inputs = torch.tensor([[1.0, -1.0, 2.0], [3.0, -2.0, 1.0]])
    curve = cumulative_ablation(scored(model, [(inputs, torch.tensor([0, 1]))]), points=3)
    assert (curve.units, curve.dead) == (2, 1)
    batches = [(inputs, torch.tensor([0, 1])), (-inputs, torch.tensor([0, 1]))]  # active in one of two batches
    assert activations(scored(model, batches)).dead == 0
    assert unit_importance(scored(model, [(inputs, torch.tensor([0, 1]))]))["act"].isnan().tolist() == [
        False,
        True,
        False,
    ]
    with pytest.raises(ValueError, match="every unit is dead"):
        cumulative_ablation(scored(model, [(-inputs.abs(), torch.tensor([0, 1]))]))


def test_noise_is_scaled_by_the_deviation_of_the_unit():
    """Two classes at 0 and 2 have deviation 1; noise of deviation s flips one with probability Phi(-1 / s)."""
    model = nn.Sequential(nn.ReLU(), nn.Linear(1, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[0.0], [1.0]]))
        model[1].bias.copy_(torch.tensor([1.0, 0.0]))
    labels = torch.arange(4000) % 2
    batches = [(2.0 * labels[:, None], labels)]
    found = noise_robustness(scored(model, batches), amounts=(0, 0.5, 2), draws=5)
    expected = [1.0, *(0.5 * (1 + math.erf(1 / scale / math.sqrt(2))) for scale in (0.5, 2.0))]
    assert found.means == pytest.approx(expected, abs=0.01)
    assert found.bands[1][0] < expected[1] < found.bands[1][1]
    tenfold = noise_robustness(scored(scaled(model), [(10 * batches[0][0], labels)]), amounts=(0, 0.5, 2), draws=5)
    assert tenfold.means == found.means


def scaled(model):
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[1].weight.div_(10)
    return other


@pytest.mark.parametrize("measure", [cumulative_ablation, noise_robustness, unit_importance, activations])
def test_nothing_of_the_model_changes(measure):
    model = network().train()
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    first, second = measure(scored(model)), measure(scored(model))
    assert model.training
    assert hooks == [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    if hasattr(first, "scores"):
        assert first.scores == second.scores


def test_an_exception_leaves_no_hook():
    model = network()
    model[6].register_forward_hook(lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        activations(scored(model))
    assert [len(module._forward_hooks) for module in model.modules()].count(1) == 1
    assert not model._forward_pre_hooks


def test_data_that_change_are_refused():
    class Drawn:
        def __init__(self):
            self.source = torch.Generator().manual_seed(0)

        def __iter__(self):
            yield torch.randn(8, 1, 6, 6, generator=self.source), torch.arange(8) % 3

    model = network()
    cross_entropy = Objective(model, supervised(nn.functional.cross_entropy), Drawn())
    with pytest.raises(ValueError, match="the same in every pass"):
        cumulative_ablation(cross_entropy)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda s: cumulative_ablation(s, ["nine"]), "modules has 'nine'"),
        (lambda s: cumulative_ablation(s, to="max"), "to is 'max'"),
        (lambda s: cumulative_ablation(s, orders=0), "orders is 0"),
        (lambda s: cumulative_ablation(s, points=1), "points is 1"),
        (lambda s: noise_robustness(s, seed=-1), "seed is -1"),
        (lambda s: unit_importance(s, to=0), "to is 0"),
        (lambda s: noise_robustness(s, amounts=[0.0]), "amounts is"),
        (lambda s: noise_robustness(s, amounts=[0.5, 1.0]), "amounts is"),
        (lambda s: noise_robustness(s, amounts=[0.0, 2.0, 1.0]), "amounts is"),
        (lambda s: noise_robustness(s, draws=0), "draws is 0"),
        (lambda s: activations(s, dim=0), "dim is 0"),
        (lambda s: activations(s, dim=4), "dim is 4"),
        (lambda s: mutual_information(activations(s), bins=1), "bins is 1"),
    ],
)
def test_wrong_arguments(act, words):
    with pytest.raises(ValueError, match=words):
        act(scored())


def test_models_and_data_that_do_not_fit():
    with pytest.raises(ValueError, match="no module of the model is a nonlinearity"):
        activations(scored(nn.Linear(3, 2), [(normal(4, 3), torch.arange(4) % 2)]))
    sequences = nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(9, 2))
    batches = [(normal(4, 2, 5), torch.arange(4) % 2)]
    with pytest.raises(ValueError, match="gives 3 dimensions; give dim="):
        activations(scored(sequences, batches))
    assert activations(scored(sequences, batches), dim=1).layers["1"].size == 3
    unused = network()
    unused.extra = nn.ReLU()
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    model.forward = lambda inputs: model[0](inputs)
    with pytest.raises(ValueError, match="'1' does not run"):
        activations(scored(model, [(normal(4, 3), torch.arange(4) % 2)]))
    regression = Objective(network(), lambda m, b: m(b[0]).mean(), [(normal(4, 1, 6, 6), normal(4))])
    with pytest.raises(ValueError, match="no pair of inputs and classes"):
        activations(regression)
    one = built([[1.0, 2.0]] * 3, [0, 0, 0])
    with pytest.raises(ValueError, match="all examples are of one class"):
        class_selectivity(one)
    broken = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        broken[0].weight.fill_(math.inf)
    with pytest.raises(ValueError, match="not finite"):
        activations(scored(broken, [(normal(4, 3), torch.arange(4) % 2)]))
