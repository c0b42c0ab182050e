"""Measures of one network against closed forms and straight-line references, and what leaves them unchanged."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, pad
from torch.nn.utils.prune import l1_unstructured

from descend.generalization import Objective, reparameterize, supervised, unit_logits
from descend.generalization.margins import margin, margins
from descend.generalization.measures import MEASURES, measures
from descend.generalization.norms import NotDefined, layer_norms, path_norm
from descend.generalization.pac_bayes import flatness, reach
from objectives import Attending, Case, assert_untouched, normalized, traces

CHEAP = [name for name in MEASURES if "flatness" not in name and "sharpness" not in name]


def seeded(make, seed=0, dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().to(dtype)


def objective_of(model, *shape, examples=30, classes=3, seed=0, loss=cross_entropy, **options):
    """Two batches of normal inputs, labelled as the model labels them, so that it fits."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(examples, *shape, generator=generator, dtype=next(model.parameters()).dtype)
    was = model.training
    with torch.no_grad():
        targets = model.eval()(inputs).argmax(1) % classes
    model.train(was)
    cut = 2 * examples // 3
    return Objective(model, supervised(loss), [(inputs[:cut], targets[:cut]), (inputs[cut:], targets[cut:])], **options)


def warmed(model, *shape):
    """A model whose batch normalization has seen data, and has weights that are not all 1."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(7)
        model.train()
        for _ in range(5):
            model(2 * torch.randn(20, *shape).double() + 0.5)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.weight is not None:
                module.weight.uniform_(-2, 2)
                module.bias.normal_()
    return model.eval()


def with_normalization():
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, bias=False),
        nn.BatchNorm2d(3),
        nn.ReLU(inplace=True),
        nn.Sequential(nn.AvgPool2d(2), nn.Flatten()),
        nn.Linear(12, 5),
        nn.BatchNorm1d(5, affine=False),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(5, 3),
    )


def perceptron(bias=True):
    return nn.Sequential(nn.Linear(4, 6, bias=bias), nn.ReLU(), nn.Linear(6, 5, bias=bias), nn.ReLU(), nn.Linear(5, 3))


# ---- margins ---------------------------------------------------------------------------------------------------------


class Outputs(nn.Module):
    """A model whose outputs are its inputs, times one weight."""

    def __init__(self, weight=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))

    def forward(self, inputs):
        return self.weight * inputs


def of_margins(*wanted, weight=1.0):
    """An objective of two classes with these margins at weight 1."""
    inputs = torch.tensor([[one, 0.0] if place % 2 == 0 else [0.0, one] for place, one in enumerate(wanted)])
    targets = torch.arange(len(wanted)) % 2
    return Objective(Outputs(weight), supervised(cross_entropy), [(inputs.double(), targets)])


def test_margins_by_hand():
    inputs = torch.tensor([[3.0, 1.0, 2.5], [0.0, -1.0, 4.0], [1.0, 1.0, 0.0], [5.0, 0.0, 1.0]]).double()
    targets = torch.tensor([0, 1, 0, 2])
    objective = Objective(Outputs(), supervised(cross_entropy), [(inputs[:3], targets[:3]), (inputs[3:], targets[3:])])
    found, conditions = margins(objective)
    assert found.tolist() == [0.5, -5.0, 0.0, -4.0]
    assert (conditions.examples, conditions.batches) == (4, 2)
    assert margin(objective, 1.0).value == 0.5
    assert margin(objective).value == -5.0
    assert margin(objective, 0.5).value == -4.0
    assert margin(objective).accuracy == 0.25


def test_the_tenth_percentile_is_an_examples_margin():
    for count, place in ((10, 1), (20, 2), (29, 3), (30, 3), (31, 4), (1, 1)):
        order = torch.randperm(count, generator=torch.Generator().manual_seed(count)) + 1
        assert margin(of_margins(*order.tolist())).value == place
        found = measures(of_margins(*order.tolist()), only=["inverse_squared_margin"])["inverse_squared_margin"]
        assert found.value == pytest.approx(1 / place**2)
        assert found.evidence == {"margin": place, "accuracy": 1.0, "examples": count}


def test_the_margins_of_normalized_outputs():
    objective = objective_of(seeded(perceptron), 4)
    ours = Objective(objective.model, supervised(cross_entropy), objective.batches, outputs=unit_logits())
    with torch.no_grad():
        rows = [(unit_logits()(objective.model(inputs)), targets) for inputs, targets in objective.batches]
    wanted = [
        float(row[target] - max(row[place] for place in range(3) if place != target))
        for outputs, targets in rows
        for row, target in zip(outputs, targets, strict=True)
    ]
    assert margins(ours)[0].tolist() == pytest.approx(wanted)


def test_without_a_fit_what_is_over_the_margin_is_not_defined():
    found = measures(of_margins(1, 2, -3, 4, 5), torch.ones(1), only=CHEAP)
    assert found["inverse_squared_margin"].value is None
    assert "the margin is -3, not above 0, with a training accuracy of 0.8" in found["inverse_squared_margin"].undefined
    assert found["inverse_squared_margin"].evidence == {"margin": -3, "accuracy": 0.8, "examples": 5}
    assert found["squared_distance"].value == 0


# ---- path norms ------------------------------------------------------------------------------------------------------


def test_the_path_norm_of_a_linear_network_is_a_product_of_squared_matrices():
    model = seeded(lambda: nn.Sequential(*[nn.Linear(a, b, bias=False) for a, b in ((4, 7), (7, 2), (2, 3))]))
    paths = torch.ones(4).double()
    for layer in model:
        paths = layer.weight.detach() ** 2 @ paths
    assert path_norm(objective_of(model, 4)) == pytest.approx(paths.sum().sqrt().item(), rel=1e-12)
    by_loops = sum(
        (model[2].weight[k, j] * model[1].weight[j, i] * model[0].weight[i, x]).item() ** 2
        for x, i, j, k in itertools.product(range(4), range(7), range(2), range(3))
    )
    assert path_norm(objective_of(model, 4)) == pytest.approx(math.sqrt(by_loops), rel=1e-12)


def test_biases_are_the_beginnings_of_paths():
    model = seeded(perceptron)
    first, second, third = model[0], model[2], model[4]
    with torch.no_grad():
        hidden = first.weight**2 @ torch.ones(4).double() + first.bias**2
        hidden = second.weight**2 @ hidden + second.bias**2
        wanted = (third.weight**2 @ hidden + third.bias**2).sum().sqrt().item()
    assert path_norm(objective_of(model, 4)) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("pooling", [nn.AvgPool2d(2), nn.MaxPool2d(2)])
def test_the_path_norm_of_a_convolution_by_loops(pooling):
    model = seeded(
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, stride=1), pooling, nn.Flatten(), nn.Linear(12, 2))
    )
    weight, bias = model[0].weight.detach(), model[0].bias.detach()
    ones = pad(torch.ones(2, 4, 4).double(), (1, 1, 1, 1))
    maps = torch.zeros(3, 4, 4).double()
    for out, row, column in itertools.product(range(3), range(4), range(4)):
        maps[out, row, column] = bias[out] ** 2
        for channel, i, j in itertools.product(range(2), range(3), range(3)):
            maps[out, row, column] += weight[out, channel, i, j] ** 2 * ones[channel, row + i, column + j]
    windows = maps.reshape(3, 2, 2, 2, 2).permute(0, 1, 3, 2, 4).reshape(3, 2, 2, 4)
    pooled = windows.amax(-1) if isinstance(pooling, nn.MaxPool2d) else windows.mean(-1)
    with torch.no_grad():
        wanted = (model[3].weight ** 2 @ pooled.flatten() + model[3].bias ** 2).sum().sqrt().item()
    assert path_norm(objective_of(model, 2, 4, 4, classes=2)) == pytest.approx(wanted, rel=1e-12)


def folded_by_hand(model):
    """The same function in evaluation mode without batch normalization, as layers with weights of their own."""
    layers, chain = [], [one for one in model.modules() if not list(one.children())]
    for layer in chain:
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            before = layers[-1]
            scale = 1 / torch.sqrt(layer.running_var + layer.eps) * (1 if layer.weight is None else layer.weight)
            with torch.no_grad():
                shape = [-1] + [1] * (before.weight.ndim - 1)
                before.weight.mul_(scale.view(shape))
                before.bias.copy_(
                    (before.bias - layer.running_mean) * scale + (0 if layer.bias is None else layer.bias)
                )
        elif isinstance(layer, nn.Conv2d):
            layers.append(nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size).double())
            layers[-1].load_state_dict({"bias": torch.zeros(layer.out_channels)} | layer.state_dict())
        elif isinstance(layer, nn.Linear):
            layers.append(nn.Linear(layer.in_features, layer.out_features).double())
            layers[-1].load_state_dict(layer.state_dict())
        else:
            layers.append(layer)
    return nn.Sequential(*layers).eval()


def test_batch_normalization_is_folded():
    """By hand, into a network that is the same function; its norms are those that are asked for."""
    model = warmed(seeded(with_normalization), 1, 6, 6)
    plain = folded_by_hand(model)
    inputs = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(0)).double()
    assert torch.allclose(plain(inputs), model(inputs), rtol=1e-12, atol=1e-12)
    ours, wanted = objective_of(model, 1, 6, 6), objective_of(plain, 1, 6, 6)
    assert path_norm(ours) == pytest.approx(path_norm(wanted), rel=1e-10)
    assert list(layer_norms(ours).spectral.values()) == pytest.approx(list(layer_norms(wanted).spectral.values()))
    assert list(layer_norms(ours).frobenius.values()) == pytest.approx(list(layer_norms(wanted).frobenius.values()))
    assert (layer_norms(ours).folded, layer_norms(ours).unfolded) == (("1", "5"), ())


def test_batch_normalization_behind_no_layer_is_a_layer_of_its_own():
    model = warmed(seeded(lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))), 4)
    scale = model[0].weight / torch.sqrt(model[0].running_var + model[0].eps)
    shift = model[0].bias - model[0].running_mean * scale
    with torch.no_grad():
        wanted = (model[1].weight ** 2 @ (scale**2 + shift**2) + model[1].bias ** 2).sum().sqrt().item()
    objective = objective_of(model, 4)
    assert path_norm(objective) == pytest.approx(wanted, rel=1e-12)
    assert layer_norms(objective).unfolded == ("0",)
    assert measures(objective, only=["spectral_product"])["spectral_product"].invariances == ()


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions_fold_over_their_outputs(groups):
    """A layer whose channels are scaled is the layer behind which they are scaled."""
    model = warmed(seeded(lambda: nn.Sequential(nn.ConvTranspose1d(4, 6, 2, groups=groups), nn.BatchNorm1d(6))), 4, 3)
    with_head = nn.Sequential(*model, nn.Flatten(), seeded(lambda: nn.Linear(24, 3))).eval()
    plain = nn.Sequential(nn.ConvTranspose1d(4, 6, 2, groups=groups).double(), with_head[2], with_head[3]).eval()
    scale = model[1].weight / torch.sqrt(model[1].running_var + model[1].eps)
    with torch.no_grad():
        for out in range(6):
            place = (
                (slice(4 * (out // 3) // 2, 4 * (out // 3) // 2 + 2), out % 3) if groups == 2 else (slice(None), out)
            )
            plain[0].weight[place] = model[0].weight[place] * scale[out]
        plain[0].bias.copy_((model[0].bias - model[1].running_mean) * scale + model[1].bias)
    inputs = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0)).double()
    assert torch.allclose(plain(inputs), with_head(inputs), rtol=1e-10, atol=1e-10)
    ours, wanted = objective_of(with_head, 4, 3), objective_of(plain, 4, 3)
    assert path_norm(ours) == pytest.approx(path_norm(wanted), rel=1e-10)
    assert list(layer_norms(ours).spectral.values()) == pytest.approx(list(layer_norms(wanted).spectral.values()))


def pruned():
    model = perceptron()
    l1_unstructured(model[2], "weight", 0.5)
    return model


def hooked():
    model = perceptron()
    model[1].register_forward_hook(lambda module, inputs, outputs: 2 * outputs)
    return model


def weight_normed():
    model = perceptron()
    nn.utils.parametrizations.weight_norm(model[2])
    return model


@pytest.mark.parametrize(
    ("make", "shape", "words"),
    [
        (Attending, (5, 4), "'the model' is a Attending"),
        (normalized, (4,), "'2' is a Tanh"),
        (pruned, (4,), "'2' is a Linear, perhaps with hooks"),
        (hooked, (4,), "'1' is a ReLU, perhaps with hooks"),
        (weight_normed, (4,), "'2' is"),
        (lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False)), (4,), "no statistics"),
    ],
)
def test_where_the_path_norm_is_not_defined_it_says_why(make, shape, words):
    objective = objective_of(seeded(make), *shape)
    with pytest.raises(NotDefined, match=words):
        path_norm(objective)
    found = measures(objective, only=["squared_path_norm", "parameters"])
    assert found["squared_path_norm"].value is None
    assert words in found["squared_path_norm"].undefined
    assert found["parameters"].value == objective.size


# ---- norms of layers -------------------------------------------------------------------------------------------------


def test_norms_of_layers_by_their_singular_values():
    model = seeded(lambda: nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3)))
    objective = objective_of(model, 2, 4, 4)
    matrices = [model[0].weight.detach().reshape(5, 18), model[3].weight.detach()]
    largest = [torch.linalg.svdvals(one)[0].item() for one in matrices]
    sizes = [one.square().sum().sqrt().item() for one in matrices]
    layers = layer_norms(objective)
    assert list(layers.spectral) == ["0.weight", "3.weight"]
    assert list(layers.spectral.values()) == pytest.approx(largest, rel=1e-12)
    assert list(layers.frobenius.values()) == pytest.approx(sizes, rel=1e-12)
    squared = margin(objective).value ** 2
    start = objective.weights() + 0.1
    found = {name: one.value for name, one in measures(objective, start, only=CHEAP).items()}
    spectral, frobenius = math.prod(largest) ** 2, math.prod(sizes) ** 2
    weights = torch.cat([value.detach().flatten() for value in model.parameters()])
    assert found == pytest.approx(
        {
            "parameters": len(weights),
            "inverse_squared_margin": 1 / squared,
            "squared_parameter_norm": (weights**2).sum().item(),
            "squared_distance": 0.01 * len(weights),
            "spectral_product": spectral,
            "spectral_product_over_margin": spectral / squared,
            "spectral_sum": 2 * math.sqrt(spectral),
            "spectral_sum_over_margin": 2 * math.sqrt(spectral / squared),
            "frobenius_over_spectral": sum((a / b) ** 2 for a, b in zip(sizes, largest, strict=True)),
            "frobenius_product": frobenius,
            "frobenius_product_over_margin": frobenius / squared,
            "squared_path_norm": path_norm(objective) ** 2,
            "squared_path_norm_over_margin": path_norm(objective) ** 2 / squared,
        },
        rel=1e-9,
    )


def test_frozen_layers_are_of_the_function_though_not_of_what_was_trained():
    objective = objective_of(seeded(perceptron), 4, parameters=["0.weight"])
    assert objective.size == 24
    assert list(layer_norms(objective).spectral) == ["0.weight", "2.weight", "4.weight"]


def test_layers_whose_parameters_are_not_their_weights_have_no_norm():
    for make in (pruned, weight_normed):
        with pytest.raises(NotDefined, match=r"'2\b.* is parametrized, pruned or has hooks"):
            layer_norms(objective_of(seeded(make), 4))


def test_a_layer_of_zeros():
    model = seeded(perceptron)
    with torch.no_grad():
        model[2].weight.zero_()
    found = measures(objective_of(model, 4), only=["frobenius_over_spectral"])["frobenius_over_spectral"]
    assert found.value is None
    assert "'2.weight' is zero" in found.undefined


def test_a_product_beyond_the_range_of_numbers_is_not_defined():
    model = seeded(lambda: nn.Sequential(*[nn.Linear(3, 3) for _ in range(6)]))
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(1e30)
    found = measures(objective_of(model, 3), only=["spectral_product", "spectral_sum"])
    assert "beyond the range" in found["spectral_product"].undefined
    assert 1e59 < found["spectral_sum"].value < 1e62


# ---- noise and boxes -------------------------------------------------------------------------------------------------


def test_sigma_of_a_model_whose_accuracy_is_known():
    """One weight w, all margins w: an example falls where w + sigma z is 0 or below, so at sigma = -w / z of its draw.

    With 10 draws and a fall of 0.1 borne, one draw may fall: sigma is up to the second smallest of these.
    """
    for seed, weight in ((0, 0.5), (1, 0.3), (2, -0.2)):
        objective = of_margins(*[1.0 if weight > 0 else -1.0] * 4, weight=weight)
        source = torch.Generator().manual_seed(seed)
        drawn = [torch.randn(1, generator=source, dtype=torch.float64).item() for _ in range(10)]
        falls = sorted(-weight / z for z in drawn if -weight / z > 0)
        wanted = falls[1] if len(falls) > 1 else math.inf
        found = flatness(objective, seed=seed)
        low, high = found.bracket
        assert low == found.sigma
        assert low < min(wanted, 2.0 + 1e-9) <= high
        assert found.accuracy == 1.0
        assert found.fall == pytest.approx(0.1 if falls and low >= falls[0] else 0.0)
        assert high - low == (2.0 if wanted > 2 else 2 / 2**15)


def test_sigma_is_a_standard_deviation():
    """Of the noise itself: at w + sigma z the example of the one draw falls at sigma = -w / z, not at its root."""
    source = torch.Generator().manual_seed(0)
    drawn = torch.randn(1, generator=source, dtype=torch.float64).item()
    for weight in (0.05, 0.5):
        objective = of_margins(-math.copysign(1.0, drawn), weight=-math.copysign(weight, drawn))
        found = flatness(objective, samples=1, seed=0)
        assert found.sigma == pytest.approx(weight / abs(drawn), abs=1e-4)
        assert abs(found.sigma - math.sqrt(weight / abs(drawn))) > 0.1


def test_sigma_by_a_dense_scan():
    """On a network, for which the same draws at a hundred sigmas tell where the accuracy crosses what is allowed."""
    objective = objective_of(seeded(perceptron), 4, examples=60)
    found = flatness(objective, steps=12, seed=5)
    center = objective.weights()
    source = torch.Generator().manual_seed(5)
    drawn = [torch.randn(len(center), generator=source, dtype=torch.float64) for _ in range(10)]

    def fall(sigma):
        right = 0
        for noise in drawn:
            parts = objective.split(center + sigma * noise)
            for inputs, targets in objective.batches:
                outputs = torch.func.functional_call(objective.model, parts, (inputs,))
                right += int((outputs.argmax(1) == targets).sum())
        return 1 - right / 600

    with torch.no_grad():
        assert found.fall == pytest.approx(fall(found.sigma))
        assert fall(found.sigma) <= 0.1 + 1e-12 < fall(found.bracket[1])
        scan = [sigma for sigma in torch.linspace(0.004, 0.4, 100).tolist() if fall(sigma) > 0.1 + 1e-12]
    assert min(scan) - 0.02 < found.sigma < min(scan) + 0.02
    assert found.interval[0] < found.fall < found.interval[1]
    assert found.standard_error > 0


def test_noise_of_the_weights_magnitude():
    """With eps 0 all is in units of the weight; with eps, beyond the weight, no sigma is borne."""
    small, large = of_margins(1.0, weight=0.01), of_margins(1.0, weight=1.0)
    at_small, at_large = (flatness(one, magnitude_eps=0.0, seed=1) for one in (small, large))
    assert at_small.sigma == at_large.sigma
    assert flatness(large, seed=1).sigma == at_large.sigma
    assert flatness(small, magnitude_eps=1e-3, seed=1).sigma == pytest.approx(at_small.sigma, rel=0.05)
    none = flatness(small, magnitude_eps=10.0, seed=1)
    assert none.sigma == 0
    assert math.isnan(none.fall)
    assert none.bracket == (0, 2 / 2**15)


def test_what_bears_everything_is_said_to():
    """An accuracy that no noise can lower: the search ends at once, at its end."""
    objective = of_margins(-1.0, -2.0)
    found = flatness(objective)
    assert (found.accuracy, found.sigma, found.bracket) == (0.0, 2.0, (2.0, 4.0))
    assert measures(objective, only=["flatness"])["flatness"].value == 0.25


def test_noise_depends_on_the_seed_alone():
    objective = objective_of(seeded(perceptron), 4)
    first = flatness(objective, steps=8, seed=1)
    with torch.random.fork_rng():
        torch.manual_seed(9)
        assert flatness(objective, steps=8, seed=1) == first
    assert flatness(objective, steps=8, seed=2).sigma != first.sigma


def test_the_reach_of_a_linear_loss():
    """Up to which box the loss rises by no more than allowed: alpha |g|_1, relative alpha |w g|_1."""
    slope, weights = torch.tensor([3.0, -1.0]).double(), torch.tensor([0.5, 2.0]).double()

    class Weights(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(weights.clone())

    objective = Objective(Weights(), lambda model, batch: model.weight @ slope, [torch.zeros(1)])
    plain, relative = reach(objective, ascent_steps=3), reach(objective, is_relative=True, ascent_steps=3)
    assert plain.alpha == pytest.approx(0.1 / 4, abs=1e-4)
    assert relative.alpha == pytest.approx(0.1 / 3.5, abs=1e-4)
    for found in (plain, relative):
        assert found.bracket[1] - found.alpha == 2 / 2**15
        assert 0.099 < found.rise <= 0.1
    assert (plain.invariances, len(relative.invariances)) == ((), 1)
    assert reach(objective, allowed=10.0, ascent_steps=3).bracket == (2.0, 4.0)


# ---- invariances -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "shape"), [(perceptron, (4,)), (with_normalization, (1, 6, 6))])
def test_what_a_rescaling_of_layers_leaves_unchanged(make, shape):
    """Just those measures that say so."""
    model = warmed(seeded(make), *shape)
    options = dict(steps=8, ascent_steps=3, samples=4)
    pairs = [None] if make is perceptron else [("0", "1"), ("1", "4")]
    original = measures(objective_of(model, *shape), torch.zeros(len(objective_of(model, *shape).weights())), **options)
    for pair in pairs:
        changed = measures(
            objective_of(reparameterize(model, 20.0, pair), *shape), objective_of(model, *shape).weights(), **options
        )
        for name, found in original.items():
            assert found.undefined is None, name
            if found.invariances:
                assert changed[name].value == pytest.approx(found.value, rel=1e-6), name
                assert changed[name].invariances == found.invariances, name
            elif "flatness" not in name and name != "sharpness":
                assert abs(changed[name].value / found.value - 1) > 0.3, name
        assert not original["flatness"].invariances
    named = [name for name, found in original.items() if found.invariances]
    assert set(MEASURES) - set(named) == {
        "squared_parameter_norm",
        "squared_distance",
        "flatness",
        "magnitude_flatness",
        "sharpness",
    }


# ---- the contract ----------------------------------------------------------------------------------------------------


def test_all_measures_in_order_and_with_their_evidence():
    objective = objective_of(seeded(with_normalization), 1, 6, 6, weight_decay=0.1)
    found = measures(objective, objective.weights(), steps=3, ascent_steps=2, samples=2)
    assert list(found) == list(MEASURES)
    for name, one in found.items():
        assert one.name == name
        assert one.value is not None or one.undefined
        assert "Jiang et al. 2020" in one.source
        assert one.conditions.examples == 30
    assert found["flatness"].evidence["samples"] == 2
    assert found["flatness"].evidence["bracket"][1] <= 2
    assert found["magnitude_sharpness"].invariances == ()  # the decay is in the loss
    assert list(measures(objective, only=["parameters"])) == ["parameters"]


def test_without_a_start_there_is_no_distance():
    found = measures(objective_of(seeded(perceptron), 4), only=["squared_distance"])["squared_distance"]
    assert (found.value, found.undefined) == (None, "the weights before training are not known; give start=")


@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_left_behind(training):
    model = seeded(with_normalization).train(training)
    again = torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(5)).double()
    objective = objective_of(model, 1, 6, 6, recompute=[(again, torch.zeros(8).long())])
    model(objective.batches[0][0]).sum().backward()
    before = traces(model)
    measures(objective, objective.weights(), steps=2, ascent_steps=2, samples=2)
    assert_untouched(before, traces(model))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_nothing_is_left_behind_by_what_is_interrupted(error):
    case = Case.of(normalized)
    model, seen = case.model, []

    class Breaking(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, inputs):
            seen.append(1)
            if len(seen) == 9:
                raise error
            return self.inner(inputs)

    outer = Breaking()
    before = traces(outer)
    objective = Objective(outer, supervised(cross_entropy), case.batches)
    with pytest.raises(error):
        measures(objective, only=["parameters", "flatness"], steps=2, samples=3)
    assert_untouched(before, traces(outer))


def test_what_is_single_precision_is_summed_in_double():
    model = seeded(perceptron, dtype=torch.float32)
    double = seeded(perceptron, dtype=torch.float32).double()
    ours, wanted = objective_of(model, 4), objective_of(double, 4)
    assert path_norm(ours) == path_norm(wanted)
    assert layer_norms(ours) == layer_norms(wanted)


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"start": torch.zeros(3)}, ValueError, r"start has the shape \(3,\)"),
        ({"start": [1.0]}, TypeError, "start is list"),
        ({"start": torch.full((83,), math.nan)}, ValueError, "start has numbers that are not finite"),
        ({"only": "parameters"}, TypeError, r"only is one name; give a list, \['parameters'\]"),
        ({"only": ["margin"]}, ValueError, "only has 'margin', which is no measure"),
        ({"drop": 1.5}, ValueError, "drop is 1.5"),
        ({"rise": 0}, ValueError, "rise is 0"),
        ({"samples": 0}, ValueError, "samples is 0"),
        ({"steps": 0}, ValueError, "steps is 0"),
        ({"ascent_steps": 2.5}, ValueError, "ascent_steps is 2.5"),
        ({"seed": "x"}, ValueError, "seed is 'x'"),
    ],
)
def test_wrong_arguments(options, kind, words):
    with pytest.raises(kind, match=words):
        measures(objective_of(seeded(perceptron), 4), **options)


def test_wrong_objectives():
    model = seeded(perceptron)
    with pytest.raises(TypeError, match="objective is Sequential"):
        measures(model)
    with pytest.raises(ValueError, match='objective has mode="train"'):
        measures(objective_of(model, 4, mode="train"))
    with torch.no_grad():
        model[0].weight[0, 0] = math.nan
    with pytest.raises(ValueError, match="weights that are not finite"):
        measures(Objective(model, supervised(cross_entropy), [(torch.zeros(1, 4).double(), torch.zeros(1).long())]))


@pytest.mark.parametrize(
    ("batch", "kind", "words"),
    [
        ((torch.zeros(2, 3).double(), torch.zeros(2, 3)), ValueError, "targets are torch.float32 of the shape"),
        ((torch.zeros(2, 3).double(), torch.zeros(2)), ValueError, "targets are torch.float32"),
        ((torch.zeros(2, 3).double(), torch.tensor([0, 3])), ValueError, "targets go from 0 to 3, .* classes 0 to 2"),
        ((torch.zeros(2, 3).double(), torch.tensor([-1, 2])), ValueError, "targets go from -1"),
        ((torch.zeros(2, 1).double(), torch.tensor([0, 0])), ValueError, r"the model returns \(2, 1\)"),
        ((torch.zeros(2, 3, 4).double(), torch.tensor([0, 0])), ValueError, r"the model returns \(2, 3, 4\)"),
        (torch.zeros(2, 3).double(), TypeError, "batches has a Tensor that is no pair"),
        ((torch.zeros(2, 3).double(), [0, 1]), TypeError, "batches has a tuple that is no pair"),
        ((torch.full((2, 3), math.nan).double(), torch.tensor([0, 1])), ValueError, "2 of 2 margins are NaN"),
    ],
)
def test_what_is_no_classification(batch, kind, words):
    with pytest.raises(kind, match=words):
        margin(Objective(Outputs(), supervised(cross_entropy), [batch]))


@pytest.mark.parametrize(
    ("measure", "options", "words"),
    [
        (margin, {"share": 0}, "share is 0"),
        (margin, {"share": True}, "share is True"),
        (flatness, {"magnitude_eps": -1}, "magnitude_eps is -1"),
        (flatness, {"allowed": 0}, "allowed is 0"),
        (flatness, {"samples": 0}, "samples is 0"),
        (flatness, {"steps": 0}, "steps is 0"),
        (flatness, {"highest": math.inf}, "highest is inf"),
        (flatness, {"seed": 1.5}, "seed is 1.5"),
        (reach, {"allowed": -1}, "allowed is -1"),
        (reach, {"ascent_steps": 0}, "ascent_steps is 0"),
        (reach, {"highest": "a"}, "highest is 'a'"),
        (reach, {"seed": None}, "seed is None"),
    ],
)
def test_wrong_arguments_of_the_parts(measure, options, words):
    with pytest.raises(ValueError, match=words):
        measure(of_margins(1.0, 2.0), **options)
