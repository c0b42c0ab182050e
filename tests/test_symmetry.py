"""Permuted and flipped hidden units: other weights, the same function, and how many there are."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrizations

from descend.generalization import Objective, function_change, supervised
from descend.generalization.chains import hidden_layers
from descend.generalization.symmetry import equivalent_minima, log10_equivalents, permuted, sign_flipped
from objectives import Tied, assert_untouched, exact_hessian, traces


def dense():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.GELU(), nn.Dropout(0.1), nn.Linear(5, 3))


def convolutional():
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.PReLU(4), nn.MaxPool2d(2)),
        nn.Conv2d(4, 5, 2, bias=False),
        nn.Softsign(),
        nn.AvgPool2d(2, stride=1),
        nn.Flatten(),
        nn.BatchNorm1d(20),
        nn.Linear(20, 6),
        nn.BatchNorm1d(6),
        nn.Hardtanh(),
        nn.Linear(6, 3),
    )


def turned():
    return nn.Sequential(
        nn.ConvTranspose1d(2, 3, 2), nn.Tanh(), nn.ConvTranspose1d(3, 4, 2), nn.Identity(), nn.Conv1d(4, 2, 2)
    )


def inside():
    return nn.ModuleDict({"body": dense(), "head": nn.Linear(3, 2)})


INPUTS = {dense: (4,), convolutional: (2, 8, 8), turned: (2, 5)}
FOUND = {
    dense: [("0", 6, "2", True), ("2", 5, "5", False)],
    convolutional: [("0.0", 4, "1", False), ("1", 5, "6", True), ("6", 6, "9", True)],
    turned: [("0", 3, "2", True), ("2", 4, "4", True)],
}


def made(make, dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make().to(dtype)
        inputs = torch.randn(9, *INPUTS[make]).to(dtype)
        for _ in range(3):
            model(inputs)  # so that running statistics are none of 0 and 1
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.PReLU)):
                for value in module.parameters():
                    value.data.normal_()
    return model, inputs


@pytest.mark.parametrize("make", INPUTS)
def test_layers_that_are_found(make):
    found = [(one.name, one.units, one.reader, one.signs) for one in hidden_layers(made(make)[0])]
    assert found == FOUND[make]


def test_what_belongs_to_the_units_of_a_layer():
    first, second, third = hidden_layers(convolutional())
    found = {(axis.tensor, axis.dim, axis.block, axis.flips, axis.learned) for axis in second.axes}
    assert found == {
        ("1.weight", 0, 1, True, True),
        ("5.weight", 0, 4, False, True),
        ("5.bias", 0, 4, True, True),
        ("5.running_mean", 0, 4, True, False),
        ("5.running_var", 0, 4, False, False),
        ("6.weight", 1, 4, True, True),
    }
    assert [len(layer.axes) for layer in (first, third)] == [8, 7]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
@pytest.mark.parametrize("change", [permuted, sign_flipped])
@pytest.mark.parametrize("make", INPUTS)
def test_the_function_is_the_same_at_other_weights(make, change, dtype, tolerance, seed):
    model, inputs = made(make, dtype)
    before = traces(model)
    other = change(model, seed=seed, inputs=inputs)
    assert_untouched(before, traces(model))
    assert function_change(model, other, inputs) < tolerance
    assert not torch.equal(
        torch.cat([one.flatten() for one in model.parameters()]), nn.utils.parameters_to_vector(other.parameters())
    )
    again = change(model, seed=seed)
    assert all(map(torch.equal, other.state_dict().values(), again.state_dict().values()))
    if not any(isinstance(module, nn.Dropout) for module in model.modules()):
        torch.testing.assert_close(model.train()(inputs), other.train()(inputs), rtol=0, atol=100 * tolerance)


@pytest.mark.parametrize("make", INPUTS)
def test_a_permutation_is_undone_by_its_inverse(make):
    model, _ = made(make)
    source = torch.Generator().manual_seed(1)
    orders = {name: torch.randperm(units, generator=source).tolist() for name, units, *_ in FOUND[make]}
    inverse = {name: [order.index(place) for place in range(len(order))] for name, order in orders.items()}
    back = permuted(permuted(model, orders), inverse)
    assert all(map(torch.equal, model.state_dict().values(), back.state_dict().values()))
    flips = {name: [-1] * units for name, units, _, signs in FOUND[make] if signs}
    twice = sign_flipped(sign_flipped(model, flips), flips)
    assert all(map(torch.equal, model.state_dict().values(), twice.state_dict().values()))


def test_rows_and_columns_by_hand():
    model = dense().double()
    other = permuted(model, {"0": [5, 0, 1, 2, 3, 4]})
    assert torch.equal(other[0].weight, model[0].weight[[5, 0, 1, 2, 3, 4]])
    assert torch.equal(other[0].bias, model[0].bias[[5, 0, 1, 2, 3, 4]])
    assert torch.equal(other[2].weight, model[2].weight[:, [5, 0, 1, 2, 3, 4]])
    assert torch.equal(other[5].weight, model[5].weight)
    flipped = sign_flipped(model, {"0": torch.tensor([-1, 1, 1, 1, 1, 1])})
    assert torch.equal(flipped[0].weight[0], -model[0].weight[0])
    assert torch.equal(flipped[2].weight[:, 0], -model[2].weight[:, 0])
    assert torch.equal(flipped[2].weight[:, 1:], model[2].weight[:, 1:])


def test_loss_and_curvature_are_the_same():
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    batch = torch.randn(9, 4, dtype=torch.float64), torch.arange(9) % 3
    other = sign_flipped(permuted(model))
    losses = [Objective(one, supervised(cross_entropy), [batch]).value() for one in (model, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-13)
    spectra = [torch.linalg.eigvalsh(exact_hessian(one, [batch])) for one in (model, other)]
    torch.testing.assert_close(*spectra, rtol=1e-10, atol=1e-12)


# ---- counting --------------------------------------------------------------------------------------------------------


def all_equivalents(model):
    """All weights that permutations and flips of one hidden layer make, one by one."""
    units, found = model[0].out_features, set()
    for order in itertools.permutations(range(units)):
        for signs in itertools.product((1, -1), repeat=units):
            other = sign_flipped(permuted(model, {"0": order}), {"0": signs})
            found.add(tuple(nn.utils.parameters_to_vector(other.parameters()).tolist()))
    return found


def test_the_count_against_listing_all():
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    found = equivalent_minima(model)
    assert found.count == len(all_equivalents(model)) == 6 * 8
    assert found.distinct
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = -model[0].weight[0], -model[0].bias[0]
        model[2].weight[0, 1] = -model[2].weight[0, 0]
    assert len(all_equivalents(model)) < 48
    assert not equivalent_minima(model).distinct
    assert equivalent_minima(model, signs=False).distinct


def test_units_that_are_alike_or_nothing_are_not_distinct():
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    with torch.no_grad():
        model[0].weight[2], model[0].bias[2] = 0, 0
    assert (equivalent_minima(model).distinct, equivalent_minima(model, signs=False).distinct) == (False, True)
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = 0, 0
    assert not equivalent_minima(model, signs=False).distinct


def test_counts_of_models():
    found = equivalent_minima(convolutional())
    assert found.count == math.factorial(4) * math.factorial(5) * math.factorial(6) * 2**11
    assert found.log10 == pytest.approx(math.log10(found.count), rel=1e-14)
    assert equivalent_minima(convolutional(), signs=False).count == found.count // 2**11


@pytest.mark.parametrize("signs", [False, True])
def test_the_logarithm_against_whole_numbers(signs):
    for widths in ([1], [2], [10, 10], [64, 512, 3], []):
        exact = math.prod(math.factorial(one) * (2**one if signs else 1) for one in widths)
        assert log10_equivalents(widths, signs=signs) == pytest.approx(math.log10(exact), rel=1e-13, abs=1e-14)


def test_a_count_of_many_digits_can_be_shown():
    """Python refuses to print whole numbers of more than 4300 digits."""
    found = equivalent_minima(nn.Sequential(nn.Linear(1, 2000), nn.ReLU(), nn.Linear(2000, 1)))
    assert "HiddenLayer" in repr(found)
    assert found.count == math.factorial(2000)
    assert found.log10 == pytest.approx(5735.52, abs=0.01)


# ---- what is not known -----------------------------------------------------------------------------------------------


class Skip(nn.Sequential):
    def forward(self, inputs):
        return super().forward(inputs) + inputs


def hooked():
    layer = nn.Linear(4, 4)
    layer.register_forward_hook(lambda module, inputs, outputs: outputs + 1)
    return layer


LAYER = nn.Linear(4, 4)


@pytest.mark.parametrize(
    "modules",
    [
        (nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 3)),
        (nn.Linear(4, 4), nn.Softmax(1), nn.Linear(4, 3)),
        (nn.Linear(4, 4), nn.GLU(), nn.Linear(2, 3)),
        (nn.Linear(4, 4), nn.MaxPool1d(2), nn.Linear(2, 3)),
        (nn.Linear(4, 4), Skip(nn.ReLU(), nn.Linear(4, 4)), nn.Linear(4, 3)),
        (hooked(), nn.ReLU(), nn.Linear(4, 3)),
        (LAYER, nn.ReLU(), LAYER),
        (parametrizations.weight_norm(nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 3)),
        (nn.Conv1d(4, 4, 1, groups=2), nn.ReLU(), nn.Conv1d(4, 4, 1)),
        (nn.Conv1d(4, 4, 1), nn.ReLU(), nn.Conv1d(4, 4, 1, groups=4)),
        (nn.Conv1d(4, 4, 1), nn.ReLU(), nn.Linear(4, 4)),
        (nn.Conv1d(4, 4, 1), nn.AvgPool2d(2), nn.Conv1d(4, 4, 1)),
        (nn.Conv2d(4, 4, 1), nn.Flatten(2), nn.Linear(4, 4)),
        (nn.Conv2d(4, 4, 1), nn.MaxPool2d(2, return_indices=True), nn.Conv2d(4, 4, 1)),
        (nn.Linear(4, 4), nn.Flatten(), nn.Linear(8, 4)),
    ],
)
def test_what_only_looks_like_a_hidden_layer(modules):
    model = nn.Sequential(*modules)
    before = traces(model)
    assert hidden_layers(model) == []
    for function in (permuted, equivalent_minima):
        with pytest.raises(ValueError, match="no hidden layer of the model is known"):
            function(model)
    assert_untouched(before, traces(model))


def test_tied_weights_and_chains_inside_of_modules():
    assert hidden_layers(Tied()) == []
    assert [one.name for one in hidden_layers(inside())] == ["body.0", "body.2"]
    tied = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    tied[2].weight = tied[0].weight
    assert hidden_layers(tied) == []


@pytest.mark.parametrize(
    ("between", "signs"),
    [
        (nn.Tanh(), True),
        (nn.Softsign(), True),
        (nn.Tanhshrink(), True),
        (nn.Hardtanh(-2, 2), True),
        (nn.Identity(), True),
        (nn.Hardtanh(-1, 2), False),
        (nn.ReLU6(), False),
        (nn.ReLU(), False),
        (nn.Sigmoid(), False),
        (nn.PReLU(), False),
        (nn.Threshold(0.1, 0), False),
    ],
)
def test_which_nonlinearities_are_odd(between, signs):
    model = nn.Sequential(nn.Linear(4, 5), between, nn.Linear(5, 3)).double()
    inputs = torch.randn(50, 4).double()
    assert [one.signs for one in hidden_layers(model)] == [signs]
    assert function_change(model, permuted(model), inputs) < 1e-14
    if signs:
        assert function_change(model, sign_flipped(model), inputs) < 1e-14
    else:
        with pytest.raises(ValueError, match="must be odd"):
            sign_flipped(model)


class Apart(nn.Module):
    """Takes a chain apart."""

    def __init__(self):
        super().__init__()
        self.chain = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))

    def forward(self, inputs):
        return self.chain[2](self.chain[0](inputs).cumsum(1))


def test_inputs_show_that_a_chain_is_not_used_as_it_stands():
    model, inputs = Apart().double(), torch.randn(9, 4).double()
    before = traces(model)
    for change in (permuted, sign_flipped):
        with pytest.raises(ValueError, match="the outputs changed by"):
            change(model, {"chain.0": [1, 0, 3, 2] if change is permuted else [1, -1, 1, 1]}, inputs=inputs)
    assert_untouched(before, traces(model))


@pytest.mark.parametrize(
    ("change", "given", "words"),
    [
        (permuted, [1, 0], "permutations is list; give a mapping"),
        (permuted, {"9": [0]}, "'9'; choose among the hidden layers '0', '2'"),
        (permuted, {"0": [0, 1, 2, 3, 4, 4]}, r"permutations\['0'\] is no permutation"),
        (permuted, {"0": [0, 1]}, "each whole number from 0 to 5 once"),
        (permuted, {"0": [0, True, 2, 3, 4, 5]}, "is no permutation"),
        (permuted, {"0": 6}, r"permutations\['0'\] is 6; give a list"),
        (sign_flipped, {"2": [1] * 5}, "'2'; choose among the hidden layers '0'"),
        (sign_flipped, {"0": [1, 1, 1, 1, 1, 2]}, r"signs\['0'\] is no list of signs"),
        (sign_flipped, {"0": [1]}, "give 1 or -1 for each of 6 units"),
    ],
)
def test_wrong_arguments(change, given, words):
    with pytest.raises(ValueError, match=words):
        change(dense(), given)


def test_wrong_seeds_and_widths():
    with pytest.raises(ValueError, match="seed is 'a'"):
        permuted(dense(), seed="a")
    with pytest.raises(ValueError, match="a width is 0"):
        log10_equivalents([3, 0])
