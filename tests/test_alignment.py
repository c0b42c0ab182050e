"""Alignment of hidden units against planted permutations, and against trying all."""

import importlib.util
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from descend.averaging import recompute_batch_norm
from descend.generalization import Measured, function_change
from descend.generalization.alignment import align, aligned_paths
from descend.generalization.symmetry import permuted, sign_flipped
from objectives import Tied, assert_untouched, traces


def shallow():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def deep():
    return nn.Sequential(
        nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)
    )


def convolutional():
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(20, 3)
    )


def normalized():
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(96, 7),
        nn.BatchNorm1d(7),
        nn.Tanh(),
        nn.Linear(7, 3),
    )


INPUTS = {shallow: (4,), deep: (4,), convolutional: (2, 8, 8), normalized: (2, 6, 6)}


def made(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make().double()
        for value in model.parameters():
            value.data.normal_()
        inputs = torch.randn(30, *INPUTS[make], dtype=torch.float64)
        for _ in range(3):
            model(inputs)
    return model.eval(), inputs


def evaluation(make, teacher, inputs):
    """How far a state is from a teacher; in a model of its own, with statistics of batch normalization for each."""
    model = made(make, 9)[0]

    def outputs(state):
        model.load_state_dict(state)
        if make is normalized:
            recompute_batch_norm(model, [inputs])
            model.eval()
        with torch.no_grad():
            return model(inputs)

    targets = outputs(teacher.state_dict())

    def evaluate(state):
        found = outputs(state)
        error = (found.argmax(1) != targets.argmax(1)).double().mean()
        return Measured(float((found - targets).square().mean()), float(error))

    return evaluate


def vector(model):
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def cosine(first, second):
    return float(vector(first) @ vector(second) / (vector(first).norm() * vector(second).norm()))


# ---- planted permutations --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("method", ["weights", "activations"])
@pytest.mark.parametrize("make", INPUTS)
def test_a_planted_permutation_is_undone(make, method, seed):
    model, inputs = made(make)
    other = permuted(model, seed=seed)
    before = traces(model), traces(other)
    found = align(model, other, method=method, inputs=inputs, starts=5)
    assert_untouched(before[0], traces(model))
    assert_untouched(before[1], traces(other))
    for value, expected in zip(found.model.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(value, expected)
    assert found.after == pytest.approx(1, abs=1e-12)
    assert found.before < 0.9
    assert found.converged
    back = permuted(other, found.permutations)
    assert torch.equal(vector(back), vector(model))
    if method == "weights":
        assert found.before == pytest.approx(cosine(model, other), rel=1e-12)


@pytest.mark.parametrize("make", INPUTS)
def test_the_barrier_of_a_planted_permutation_is_gone(make):
    model, inputs = made(make)
    other = permuted(model)
    found = align(model, other, starts=5)
    lines = aligned_paths(model, other, found, evaluation(make, model, inputs), points=5)
    assert lines.before.barrier > 0.01
    assert lines.after.barrier == pytest.approx(0, abs=1e-12)
    assert lines.after.losses == pytest.approx([0] * 5, abs=1e-12)
    assert lines.end_change < 1e-12
    assert lines.after.errors == [0] * 5


@pytest.mark.parametrize("method", ["weights", "activations"])
@pytest.mark.parametrize("make", [deep, normalized])
def test_planted_flips_are_undone_too_if_they_may_be(make, method):
    model, inputs = made(make)
    other = sign_flipped(permuted(model, seed=2), seed=3)
    found = align(model, other, method=method, inputs=inputs, signs=True, starts=5)
    for value, expected in zip(found.model.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(value, expected)
    assert {one for signs in found.signs.values() for one in signs} == {1, -1}
    without = align(model, other, method=method, inputs=inputs, starts=5)
    assert without.after < 0.95
    assert {one for signs in without.signs.values() for one in signs} == {1}


def test_flips_are_not_tried_where_they_are_no_symmetry():
    first, second = made(shallow, 0)[0], made(shallow, 1)[0]
    assert align(first, second, signs=True).signs == {"0": [1] * 6}


# ---- any two networks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_one_hidden_layer_against_all_permutations(seed):
    (first, inputs), (second, _) = made(shallow, seed), made(shallow, seed + 100)
    every = {order: permuted(second, {"0": order}) for order in itertools.permutations(range(6))}
    best = max(every, key=lambda order: cosine(first, every[order]))
    found = align(first, second)
    assert found.permutations == {"0": list(best)}
    assert found.after == pytest.approx(cosine(first, every[best]), rel=1e-12)
    assert torch.equal(vector(found.model), vector(every[best]))

    def likeness(order):
        ours, theirs = first[:2](inputs), second[:2](inputs)
        with np.errstate(invalid="ignore"):
            return float(
                np.nan_to_num(np.corrcoef(ours.detach().T, theirs.detach().T[list(order)])[:6, 6:]).trace() / 6
            )

    best = max(every, key=likeness)
    found = align(first, second, method="activations", inputs=inputs)
    assert found.after == pytest.approx(likeness(best), rel=1e-10)
    assert found.before == pytest.approx(likeness(range(6)), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("make", [deep, convolutional, normalized])
@pytest.mark.parametrize("seed", range(3))
def test_likeness_never_falls_and_the_function_stays(make, seed):
    (first, inputs), (second, _) = made(make, seed), made(make, seed + 100)
    reached = [align(first, second, max_rounds=rounds, seed=seed) for rounds in (1, 2, 3, 50)]
    values = [reached[0].before, *(one.after for one in reached)]
    assert values == sorted(values)
    assert reached[-1].converged
    assert reached[-1].after == pytest.approx(cosine(first, reached[-1].model), rel=1e-12)
    assert function_change(second, reached[-1].model, inputs) < 1e-12
    assert align(first, second, starts=4, seed=seed).after >= reached[-1].after
    again = align(first, second, max_rounds=50, seed=seed)
    assert again.permutations == reached[-1].permutations
    distances = [float((vector(first) - vector(one)).norm()) for one in (second, reached[-1].model)]
    assert distances[1] < distances[0]


def test_no_single_change_of_a_layer_is_better_where_it_converged():
    (first, _), (second, _) = made(deep, 3), made(deep, 4)
    found = align(first, second)
    for name, order in found.permutations.items():
        for i, j in itertools.combinations(range(len(order)), 2):
            swapped = list(range(len(order)))
            swapped[i], swapped[j] = j, i
            assert cosine(first, permuted(found.model, {name: swapped})) <= found.after + 1e-12


def test_rounds_that_end_early_say_so():
    (first, _), (second, _) = made(deep, 3), made(deep, 4)
    found = align(first, second, max_rounds=1)
    assert (found.rounds, found.converged) == (1, False)


def test_what_keeps_its_order_is_named():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 3))
    assert align(model, model).fixed == ("2", "3", "4")


def test_dead_units_count_as_nothing():
    model, inputs = made(shallow)
    with torch.no_grad():
        model[0].weight[0], model[0].bias[0] = 0, -1
    found = align(model, permuted(model), method="activations", inputs=inputs)
    assert found.after == pytest.approx(5 / 6)


def test_an_evaluation_may_load_states_into_the_networks_themselves():
    model, inputs = made(shallow)
    other = permuted(model)
    found = align(model, other)

    def evaluate(state):
        model.load_state_dict(state)
        return {"loss": float(model(inputs).detach().square().mean())}

    lines = aligned_paths(model, other, found, evaluate, points=3)
    assert lines.after.barrier == pytest.approx(0, abs=1e-12)
    assert lines.before.losses[1] != pytest.approx(lines.before.losses[0], rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_precisions(dtype):
    model = made(deep)[0].to(dtype)
    found = align(model, permuted(model), starts=5)
    assert torch.equal(vector(found.model), vector(model))
    assert vector(found.model).dtype == dtype


# ---- wrong arguments -------------------------------------------------------------------------------------------------


def test_an_error_in_a_forward_pass_leaves_no_trace():
    model, inputs = made(normalized)
    before = traces(model)
    with pytest.raises(RuntimeError):
        align(model, model, method="activations", inputs=inputs[:, :1])
    assert_untouched(before, traces(model))


def test_without_scipy(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'descend\[lab\]'"):
        align(shallow(), shallow())


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), "'1' is ReLU in first and Tanh in second"),
        (lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU()), "'2' is Linear in first and None in second"),
        (lambda: nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 3)), r"'0.weight' has the shape \(6, 4\)"),
        (
            lambda: nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 3)),
            "one state has '0.bias' and another has not",
        ),
    ],
)
def test_other_architectures(other, words):
    with pytest.raises(ValueError, match=words):
        align(shallow(), other())


def test_options_of_nonlinearities_and_tied_weights_make_other_layers():
    first, second = (nn.Sequential(nn.Linear(4, 4), nn.Hardtanh(low, 1), nn.Linear(4, 4)) for low in (-1, 0))
    with pytest.raises(ValueError, match="other hidden layers"):
        align(first, second)
    tied = nn.Sequential(nn.Linear(4, 4), nn.Hardtanh(), nn.Linear(4, 4))
    tied[2].weight = tied[0].weight
    with pytest.raises(ValueError, match="no hidden layer of the model is known"):
        align(first, tied)


@pytest.mark.parametrize("make", [Tied, lambda: nn.Linear(3, 3)])
def test_no_hidden_layer(make):
    with pytest.raises(ValueError, match="no hidden layer of the model is known"):
        align(make(), make())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "gradients"}, "method is 'gradients'"),
        ({"method": "activations"}, "activations need inputs="),
        ({"starts": 0}, "starts is 0"),
        ({"max_rounds": 0}, "max_rounds is 0"),
        ({"seed": 0.5}, "seed is 0.5"),
        ({"method": "activations", "inputs": torch.full((3, 4), torch.nan)}, "activations of layer '0' of first"),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(ValueError, match=words):
        align(shallow(), shallow(), **options)


def test_weights_that_are_not_finite():
    model = shallow()
    with torch.no_grad():
        model[2].bias[0] = torch.inf
    with pytest.raises(ValueError, match=r"parameter '2.bias' of second has values that are not finite"):
        align(shallow(), model)


def test_paths_of_other_networks():
    found = align(shallow(), shallow())
    with pytest.raises(ValueError, match="one architecture"):
        aligned_paths(deep(), shallow(), found, lambda state: {"loss": 0.0})
    with pytest.raises(ValueError, match="points is 2"):
        aligned_paths(shallow(), shallow(), found, lambda state: {"loss": 0.0}, points=2)
