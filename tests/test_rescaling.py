"""Rescaled networks are the same function, and other points for measures of curvature."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import prune

from descend.generalization import (
    Hessian,
    Objective,
    function_change,
    reparameterize,
    rescalable,
    supervised,
    top_eigenvalues,
    trace,
)
from objectives import Tied, assert_untouched, exact_hessian, traces


def dense():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def convolutional():
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.LeakyReLU(), nn.MaxPool2d(2)),
        nn.Dropout(0.2),
        nn.Sequential(nn.Conv2d(4, 4, 2, groups=2), nn.PReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(4, 3),
    )


def normalized():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 5),
        nn.BatchNorm1d(5),
        nn.Tanh(),
        nn.Linear(5, 3),
    )


INPUTS = {dense: (4,), convolutional: (1, 4, 4), normalized: (1, 4, 4)}
PAIRS = {
    dense: [("0", "2")],
    convolutional: [("0.0", "2.0"), ("2.0", "3")],
    normalized: [("0", "1"), ("1", "4"), ("4", "5")],
}


def made(make, dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make().to(dtype)
        inputs = torch.randn(9, *INPUTS[make]).to(dtype)
        model(inputs)  # so that running statistics are none of 0 and 1
    return model, inputs, torch.arange(9) % 3


@pytest.mark.parametrize("make", INPUTS)
def test_pairs_that_are_found(make):
    assert rescalable(made(make)[0]) == PAIRS[make]


@pytest.mark.parametrize("alpha", [0.01, 3.0, 100.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize(("make", "pair"), [(make, pair) for make, pairs in PAIRS.items() for pair in pairs])
def test_the_function_is_the_same(make, pair, dtype, tolerance, alpha):
    model, inputs, _ = made(make, dtype)
    before = traces(model)
    other = reparameterize(model, alpha, pair, inputs=inputs)
    assert_untouched(before, traces(model))
    assert function_change(model, other, inputs) < tolerance
    weights = [dict(one.named_parameters())[f"{pair[0]}.weight"] for one in (model, other)]
    torch.testing.assert_close(weights[1], alpha * weights[0])
    if not any(isinstance(module, nn.Dropout) for module in model.modules()):
        model.train()
        other.train()
        torch.testing.assert_close(model(inputs), other(inputs), rtol=tolerance * 10, atol=tolerance * 10)


def hessian_of(model, inputs, targets):
    model.eval()
    return exact_hessian(model, [(inputs, targets)])


@pytest.mark.parametrize("alpha", [0.1, 10.0])
def test_dinhs_identities(alpha):
    """Gradient D^-1 g; Hessian D^-1 H D^-1: blocks alpha^-2 H11, H12, alpha^2 H22. The second bias stays."""
    model, inputs, targets = made(dense)
    other = reparameterize(model, alpha)
    first, last = 4 * 6 + 6, 3
    scale = torch.full((len(hessian_of(model, inputs, targets)),), alpha, dtype=torch.float64)
    scale[first:] = 1 / alpha
    scale[-last:] = 1
    objectives = [Objective(one, supervised(cross_entropy), [(inputs, targets)]) for one in (model, other)]
    gradients = [one.gradient() for one in objectives]
    torch.testing.assert_close(gradients[1], gradients[0] / scale, rtol=1e-8, atol=1e-12)
    before, after = hessian_of(model, inputs, targets), hessian_of(other, inputs, targets)
    torch.testing.assert_close(after, before / scale[:, None] / scale, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(after[:first, :first], before[:first, :first] / alpha**2, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(after[:first, first:-last], before[:first, first:-last], rtol=1e-8, atol=1e-10)
    products = Hessian(objectives[1]) @ torch.eye(len(scale), dtype=torch.float64)
    torch.testing.assert_close(products, before / scale[:, None] / scale, rtol=1e-8, atol=1e-10)


def test_curvature_grows_without_bound():
    model, inputs, targets = made(dense)
    found = {}
    for alpha in (0.01, 1.0, 100.0):
        objective = Objective(reparameterize(model, alpha), supervised(cross_entropy), [(inputs, targets)])
        curvature = Hessian(objective)
        found[alpha] = top_eigenvalues(curvature).values[0], trace(curvature, "exact").value, objective.value()
    for alpha in (0.01, 100.0):
        assert found[alpha][0] > 100 * found[1.0][0]
        assert found[alpha][1] > 100 * found[1.0][1]
        assert found[alpha][2] == pytest.approx(found[1.0][2], rel=1e-12)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.act = nn.ReLU()

    def forward(self, inputs):
        return self.third(self.second(self.act(self.first(inputs))) + inputs)


def test_layers_in_code_of_ones_own_are_checked_on_inputs():
    model, inputs = Residual().double(), torch.randn(9, 4).double()
    assert rescalable(model) == []
    with pytest.raises(ValueError, match="no two layers of the model"):
        reparameterize(model, 2.0)
    with pytest.raises(ValueError, match=r"give inputs="):
        reparameterize(model, 2.0, ("first", "second"))
    assert function_change(model, reparameterize(model, 2.0, ("first", "second"), inputs=inputs), inputs) < 1e-12
    with pytest.raises(ValueError, match="changed the outputs by"):
        reparameterize(model, 2.0, ("second", "third"), inputs=inputs)


def test_what_is_not_homogeneous_or_not_free_is_no_pair():
    for between in (nn.Tanh(), nn.GELU(), nn.Sigmoid(), nn.LayerNorm(4), nn.ReLU6()):
        assert rescalable(nn.Sequential(nn.Linear(4, 4), between, nn.Linear(4, 4))) == []
    layer = nn.Linear(4, 4)
    assert rescalable(nn.Sequential(layer, nn.ReLU(), layer)) == []
    parametrized = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    assert rescalable(nn.Sequential(parametrized, nn.ReLU(), nn.Linear(4, 4))) == []
    with pytest.raises(ValueError, match="tied, parametrized or pruned"):
        reparameterize(Tied().double(), 2.0, ("first", "second"), inputs=torch.ones(1, 4).double())


class Skip(nn.Sequential):
    def forward(self, inputs):
        return super().forward(inputs) + inputs


class Bounded(nn.ReLU):
    def forward(self, inputs):
        return inputs.tanh()


def hooked():
    layer = nn.Linear(4, 4)
    layer.register_forward_hook(lambda module, inputs, outputs: outputs + 1)
    return layer


def replaced():
    act = nn.ReLU()
    act.forward = torch.tanh
    return act


TANH = nn.Tanh()
NORM = nn.BatchNorm1d(4)


@pytest.mark.parametrize(
    "modules",
    [
        (nn.Linear(4, 4), TANH, nn.Linear(4, 4), TANH, nn.Linear(4, 3)),  # the second comes under a name of its own
        (nn.Linear(4, 4), NORM, nn.Tanh(), nn.Linear(4, 4), NORM),
        (nn.Linear(4, 4), Skip(nn.ReLU(), nn.Linear(4, 4)), nn.Linear(4, 3)),
        (nn.Linear(4, 4), Bounded(), nn.Linear(4, 3)),
        (nn.Linear(4, 4), replaced(), nn.Linear(4, 3)),
        (hooked(), nn.ReLU(), nn.Linear(4, 3)),
        (nn.Linear(4, 4), nn.AlphaDropout(0.5), nn.Linear(4, 3)),  # what it drops becomes a constant
    ],
)
def test_what_only_looks_like_a_pair(modules):
    assert rescalable(nn.Sequential(*modules)) == []


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    "changed",
    [
        lambda layer: prune.l1_unstructured(layer, "weight", amount=0.3),
        nn.utils.spectral_norm,
        nn.utils.weight_norm,
    ],
)
def test_weights_that_are_computed_are_not_rescaled(changed):
    model = nn.Sequential(changed(nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    assert rescalable(model) == [("2", "4")]
    with pytest.raises(ValueError, match="tied, parametrized or pruned"):
        reparameterize(model, 2.0, ("0", "2"), inputs=torch.ones(5, 4))


def test_a_normalization_behind_an_activation_undoes_the_scale():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()
    inputs = torch.randn(9, 4).double()
    assert rescalable(model)[0] == ("0", "2")
    other = reparameterize(model, 0.01)
    assert function_change(model, other, inputs) < 1e-12
    torch.testing.assert_close(model(inputs), other(inputs), rtol=1e-12, atol=1e-12)


def test_a_state_dict_takes_the_rescaling_along_but_for_eps():
    """With eps as it was, sqrt(var + eps) no longer scales: little where alpha is large, much where it is small."""
    model, inputs, _ = made(normalized)
    changes = {}
    for alpha in (0.01, 100.0):
        loaded = normalized().double()
        loaded.load_state_dict(reparameterize(model, alpha, ("0", "1")).state_dict())
        changes[alpha] = function_change(model, loaded, inputs)
    assert changes[0.01] > 1e-3 > 1e-4 > changes[100.0] > 1e-12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_check_knows_the_precision_of_the_weights(dtype):
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)).to(dtype)
    inputs = torch.randn(9, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert 0 < function_change(model, reparameterize(model, 3.0, inputs=inputs), inputs) < 0.05


def test_the_check_sees_small_changes():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    with pytest.raises(ValueError, match="changed the outputs by"):
        reparameterize(model, 1.0001, ("0", "2"), inputs=torch.ones(5, 4).double())


class Two(nn.Module):
    def __init__(self, second):
        super().__init__()
        self.second = second

    def forward(self, inputs):
        return inputs, inputs * self.second


def test_not_a_number_in_any_output_is_a_change():
    changes = [function_change(Two(1.0), Two(value), torch.ones(3)) for value in (1.0, float("nan"))]
    assert changes[0] == 0
    assert changes[1] != changes[1]


@pytest.mark.parametrize(("alpha", "dtype"), [(1e39, torch.float32), (1e-39, torch.float32), (2e5, torch.float16)])
def test_weights_that_would_overflow_or_vanish(alpha, dtype):
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)).to(dtype)
    with pytest.raises(ValueError, match=f"too much for weights in {dtype}"):
        reparameterize(model, alpha)


def test_what_is_in_the_way_is_named():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    with pytest.raises(ValueError, match=r"by themselves: not known to be positively homogeneous: '1' \(Tanh\)"):
        reparameterize(model, 2.0)
    with pytest.raises(ValueError, match=r"homogeneous: '1' \(Tanh\); choose another, or give inputs="):
        reparameterize(model, 2.0, ("0", "2"))


@pytest.mark.parametrize(
    ("alpha", "layers", "words"),
    [
        (0, None, "alpha is 0"),
        (-1, None, "alpha is -1"),
        (float("inf"), None, "alpha is inf"),
        ("2", None, "alpha is '2'"),
        (2, ("0", "9"), "'9', which the model has not"),
        (2, ("0", "1"), "'1' is a ReLU"),
        (2, "02", "give the names of two"),
    ],
)
def test_wrong_arguments(alpha, layers, words):
    with pytest.raises(ValueError, match=words):
        reparameterize(dense(), alpha, layers)
