"""Networks that step: their formulas against straight-line references, and steps in pieces against whole ones."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from descend.learned import CoordinatewiseLSTM, PerParameterMLP, preprocess

SHAPES = {
    "matrix": (5, 7),
    "tall": (7, 5),
    "filters": (4, 3, 2, 5),
    "square": (4, 4),
    "bias": (6,),
    "one": (),
    "row": (1, 3),
}


def parameters(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    return {name: torch.randn(shape, dtype=dtype) for name, shape in SHAPES.items()}


def stirred(network):
    """The network in double, with weights that show every feature."""
    torch.manual_seed(1)
    network = network.double()
    with torch.no_grad():
        for param in network.parameters():
            param.add_(0.3 * torch.randn_like(param))
    return network


NETWORKS = {
    "lstm": lambda: stirred(CoordinatewiseLSTM(hidden=4)),
    "lstm, repository": lambda: stirred(CoordinatewiseLSTM(hidden=3, layers=1, preprocessing="repository", scale=0.01)),
    "lstm, plain": lambda: stirred(CoordinatewiseLSTM(hidden=3, layers=3, preprocessing="none", scale=1.0)),
    "mlp": lambda: stirred(PerParameterMLP(hidden=4)),
}


# ---- preprocessing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0.0, 1e-9, math.exp(-10) * 0.99, math.exp(-10) * 1.01, 0.01, 1.0, 30.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_preprocessing_of_the_paper(size, sign):
    found = preprocess(torch.tensor([sign * size], dtype=torch.float64), "paper", 10.0)[0].tolist()
    if size >= math.exp(-10):
        assert found == pytest.approx([math.log(size) / 10, sign])
    else:
        assert found == pytest.approx([-1, sign * size * math.exp(10)])


@pytest.mark.parametrize("value", [0.0, -1e-9, 1e-3, -0.2, 1.0, -40.0])
def test_preprocessing_of_the_repository(value):
    found = preprocess(torch.tensor([value]), "repository", 5.0)[0].tolist()
    log = max(math.log(abs(value) + 2**-23) / 5, -1)
    assert found == pytest.approx([log, min(max(value * math.exp(5), -1), 1)], rel=1e-5)


def test_preprocessing_has_finite_gradients_at_zero():
    for kind in ("paper", "repository", "none"):
        value = torch.zeros(3, requires_grad=True)
        preprocess(value, kind, 10.0).sum().backward()
        assert value.grad.isfinite().all()


# ---- the LSTM --------------------------------------------------------------------------------------------------------


def test_the_lstm_is_torchs_lstm_on_every_element_by_itself():
    network = NETWORKS["lstm"]()
    param, grads = torch.randn(3, 2, dtype=torch.float64), torch.randn(4, 3, 2, dtype=torch.float64)
    values, state = {"p": param}, network.init({"p": param})
    for grad in grads:
        values, state = network.update(values, {"p": grad}, state)
    for place in range(6):
        one, states = param.flatten()[place], [None, None]
        for grad in grads:
            read = preprocess(grad.flatten()[place : place + 1], "paper", 10.0)
            for layer, cell in enumerate(network.cells):
                states[layer] = cell(read, states[layer])
                read = states[layer][0]
            one = one + 0.1 * network.head(read).squeeze()
        torch.testing.assert_close(values["p"].flatten()[place], one)
        torch.testing.assert_close(state["p"]["hidden"].view(6, 2, 4)[place, 1], states[1][0][0])


def test_forget_gates_begin_at_one():
    network = CoordinatewiseLSTM(hidden=5)
    for cell in network.cells:
        assert isinstance(cell, nn.LSTMCell)
        bias = cell.bias_ih + cell.bias_hh
        assert bias[5:10].tolist() == [1] * 5


# ---- the perceptron --------------------------------------------------------------------------------------------------


def straight_line(network, param, grads):
    """Every feature by loops over NumPy arrays, as the sheet lists them; returns the parameter after the steps."""
    weights = [(one.weight.detach().numpy(), one.bias.detach().numpy()) for one in network.linears]
    offset = {name: one.detach().numpy() for name, one in network.offsets.items()}

    def decays(usual, name):
        return [
            float(np.clip(1 - math.exp(10 * (math.log(1 - d) / 10 + o)), 0, 1))
            for d, o in zip(usual, offset[name], strict=True)
        ]

    m_decays, (v_decay,), f_decays = (
        decays((0.9, 0.99, 0.999), "momentum"),
        decays((0.999,), "squares"),
        decays((0.9, 0.99, 0.999), "factored"),
    )
    p = np.atleast_1d(param.numpy().copy())
    shape = p.shape
    m, v = [np.zeros(shape) for _ in m_decays], np.zeros(shape)
    if len(shape) >= 2:
        d1, d0 = (int(axis) for axis in np.argsort(shape, kind="stable")[-2:])
        rows = [np.zeros(np.delete(shape, d0)) for _ in f_decays]
        columns = [np.zeros(np.delete(shape, d1)) for _ in f_decays]
    else:
        diagonals = [np.zeros(shape) for _ in f_decays]
    for t, grad in enumerate(grads):
        g = np.atleast_1d(grad.numpy())
        m = [d * old + (1 - d) * g for d, old in zip(m_decays, m, strict=True)]
        v = v_decay * v + (1 - v_decay) * g * g
        found = [g, p, *m, v, *[one / np.sqrt(v + 1e-6) for one in m], 1 / np.sqrt(v + 1e-6)]
        if len(shape) >= 2:
            square = g * g + 1e-30
            rows = [d * old + (1 - d) * square.mean(d0) for d, old in zip(f_decays, rows, strict=True)]
            columns = [d * old + (1 - d) * square.mean(d1) for d, old in zip(f_decays, columns, strict=True)]
            reduced = d1 - 1 if d1 > d0 else d1
            scales = []
            for row, column in zip(rows, columns, strict=True):
                of_row = 1 / np.sqrt(np.maximum(row / (row.mean(reduced, keepdims=True) + 1e-9), 1e-9))
                scales.append(np.expand_dims(of_row, d0) * np.expand_dims(1 / np.sqrt(np.maximum(column, 1e-9)), d1))
            row_values = [np.expand_dims(one, d0) + np.zeros(shape) for one in rows]
            column_values = [np.expand_dims(one, d1) + np.zeros(shape) for one in columns]
            found += [g * one for one in scales]
            found += [*row_values, *column_values]
            found += [1 / np.sqrt(one + 1e-8) for one in (*row_values, *column_values)]
            found += [one * scale for one, scale in zip(m, scales, strict=True)]
        else:
            diagonals = [d * old + (1 - d) * (g * g + 1e-30) for d, old in zip(f_decays, diagonals, strict=True)]
            found += [g / np.sqrt(np.maximum(one + 1e-9, 1e-9)) for one in diagonals]
            found += [*diagonals, *diagonals]
            found += [1 / np.sqrt(one + 1e-8) for one in (*diagonals, *diagonals)]
            found += [one * (diagonal + 1e-6) ** -0.5 for one, diagonal in zip(m, diagonals, strict=True)]
        assert len(found) == 28
        found = [one / np.sqrt(1e-5 + (one * one).mean()) for one in found]
        times = [math.tanh(t / tau - 1) for tau in (1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5)]
        value = np.stack([*found, *[np.full(shape, one) for one in times]], -1)
        for place, (weight, bias) in enumerate(weights):
            value = value @ weight.T + bias
            if place < len(weights) - 1:
                value = np.maximum(value, 0)
        p = p - value[..., 0] * np.exp(0.001 * value[..., 1]) * 0.001
    return p.reshape(param.shape)


@pytest.mark.parametrize("name", SHAPES)
def test_features_are_those_of_the_paper(name):
    network = NETWORKS["mlp"]()
    param = parameters()[name]
    grads = [torch.randn_like(param) * 10.0**-place for place in range(4)]
    values, state = {"p": param}, network.init({"p": param})
    with torch.no_grad():
        for grad in grads:
            values, state = network.update(values, {"p": grad}, state)
    change = values["p"] - param
    assert change.abs().min() > 0
    np.testing.assert_allclose(change.numpy(), straight_line(network, param, grads) - param.numpy(), rtol=1e-9)


def test_decays_that_are_learned_stay_between_0_and_1():
    network = PerParameterMLP()
    with torch.no_grad():
        network.offsets["momentum"].fill_(1.0)
    assert network.decays().momentum.tolist() == [0, 0, 0]
    torch.testing.assert_close(network.decays().factored, torch.tensor([0.9, 0.99, 0.999]))


# ---- both ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("elements", [1, 3, 11, 1000])
def test_steps_in_pieces_are_those_of_update(kind, elements):
    network, params = NETWORKS[kind](), parameters()
    state, pieces = network.init(params), {name: one.clone() for name, one in params.items()}
    held = {name: network.first(one) for name, one in params.items()}
    with torch.no_grad():
        for _ in range(3):
            grads = {name: torch.randn_like(one) for name, one in params.items()}
            params, state = network.update(params, grads, state)
            for name, param in pieces.items():
                network.step(param, grads[name], held[name], 1.0, elements)
    for name in params:
        torch.testing.assert_close(pieces[name], params[name], rtol=1e-12, atol=1e-14)
        for entry, value in held[name].items():
            torch.testing.assert_close(value, state[name][entry].to(value), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", NETWORKS)
def test_update_leaves_its_arguments_and_skips_what_has_no_gradient(kind):
    network, params = NETWORKS[kind](), parameters()
    state = network.init(params)
    before = {name: one.clone() for name, one in params.items()}
    new, new_state = network.update(params, {"bias": torch.ones(6, dtype=torch.float64)}, state)
    for name in params:
        assert torch.equal(params[name], before[name])
        assert torch.equal(new[name], before[name]) == (name != "bias")
        assert all(not one.any() for one in state[name].values())
    assert any(one.any() for one in new_state["bias"].values())


@pytest.mark.parametrize("kind", NETWORKS)
def test_empty_parameters_are_stepped(kind):
    network = NETWORKS[kind]()
    empty = torch.empty(0, 3, dtype=torch.float64)
    network.step(empty, empty.clone(), network.first(empty), 1.0, 10)


def test_digests_tell_networks_apart():
    first, same, other = CoordinatewiseLSTM(), CoordinatewiseLSTM(), CoordinatewiseLSTM(seed=1)
    scaled = CoordinatewiseLSTM(scale=0.2)
    assert first.digest() == same.digest()
    assert len({first.digest(), other.digest(), scaled.digest(), PerParameterMLP().digest()}) == 4


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: CoordinatewiseLSTM(hidden=0), "hidden is 0"),
        (lambda: CoordinatewiseLSTM(layers=1.5), "layers is 1.5"),
        (lambda: CoordinatewiseLSTM(preprocessing="log"), "preprocessing is 'log'"),
        (lambda: CoordinatewiseLSTM(reach=-1), "reach is -1"),
        (lambda: CoordinatewiseLSTM(scale=math.nan), "scale is nan"),
        (lambda: PerParameterMLP(hidden=True), "hidden is True"),
        (lambda: PerParameterMLP(step_scale=0), "step_scale is 0"),
    ],
)
def test_wrong_settings_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
