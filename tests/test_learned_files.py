"""Networks as files: round trips, the weights that the package has, and weights published by others."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from descend import learned
from descend.learned import CoordinatewiseLSTM, LearnedOptimizer, PerParameterMLP

NETWORKS = {
    "lstm": lambda: CoordinatewiseLSTM(hidden=3, preprocessing="repository", scale=0.02, seed=4),
    "mlp": lambda: PerParameterMLP(hidden=5, layers=1, step_scale=0.01, seed=4),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_round_trip(kind, tmp_path):
    network = NETWORKS[kind]()
    path = tmp_path / "network.safetensors"
    learned.save(network, path, {"trained on": "nothing", "cost": [1, 2.5]})
    again = learned.load(path)
    assert again.digest() == network.digest()
    assert again.settings == network.settings
    assert learned.card(path) == {"trained on": "nothing", "cost": [1, 2.5]}
    assert not any(one.requires_grad for one in again.parameters())


def test_what_is_no_network_is_named(tmp_path):
    path = tmp_path / "other.safetensors"
    path.write_bytes(b"not at all")
    with pytest.raises(ValueError, match="no safetensors file"):
        learned.load(path)
    save_file({"w0": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="holds no network"):
        learned.load(path)
    with pytest.raises(ValueError, match="there is no trained network 'best'"):
        learned.pretrained("best")
    with pytest.raises(FileNotFoundError):
        learned.load(tmp_path / "gone.safetensors")


@pytest.mark.parametrize("name", learned.shipped())
def test_what_is_shipped_trains_a_network(name):
    network = learned.pretrained(name)
    torch.manual_seed(0)
    inputs = torch.randn(256, 8)
    classes = (inputs[:, :3] * torch.tensor([1.0, 2.0, -1.0])).argmax(1)
    net = nn.Sequential(nn.Linear(8, 20), nn.Sigmoid(), nn.Linear(20, 3))
    optimizer = LearnedOptimizer(net.parameters(), network)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(inputs), classes)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2
    card = learned.pretrained_card(name)
    assert {"command", "task", "recipe", "findings", "caveats", "versions", "seed"} <= set(card)


def test_shipped_weights_are_small():
    from importlib import resources

    folder = resources.files("descend.learned") / "weights"
    sizes = [len(one.read_bytes()) for one in folder.iterdir() if one.name.endswith(".safetensors")]
    assert len(sizes) == len(learned.shipped()) > 0
    assert sum(sizes) < 1_000_000


# ---- published by others


def perceptron(hidden=4, layers=2):
    torch.manual_seed(3)
    network = PerParameterMLP(hidden, layers)
    with torch.no_grad():
        for param in network.parameters():
            param.add_(0.1 * torch.randn_like(param))
    return network


def as_google(network):
    """A file of google/learned_optimization as it would hold this network: haiku's names, weights transposed."""
    layers = {}
    for place, linear in enumerate(network.linears):
        layers[f"w{place}"], layers[f"b{place}"] = linear.weight.detach().numpy().T, linear.bias.detach().numpy()
    offsets = network.offsets
    decays = {
        "momentum_decays": offsets["momentum"],
        "rms_decays": offsets["squares"],
        "adafactor_decays": offsets["factored"],
    }
    return {**{name: one.detach().numpy() for name, one in decays.items()}, "nn": {"~": layers}}


def test_weights_of_google():
    network = perceptron()
    assert learned.published(as_google(network)).digest() == network.digest()


def test_weights_of_google_in_a_file_of_numpy(tmp_path):
    network, path = perceptron(hidden=32), tmp_path / "theta.npz"
    content = as_google(network)
    flat = {name: one for name, one in content.items() if name != "nn"}
    np.savez(path, **flat, **{f"nn/~/{name}": one for name, one in content["nn"]["~"].items()})
    with np.load(path) as file:
        assert learned.published(dict(file)).digest() == network.digest()


def test_weights_of_pylo(tmp_path):
    network, path = perceptron(hidden=32), tmp_path / "model.safetensors"
    names = ["input", "linear_0", "output"]
    content = {}
    for name, linear in zip(names, network.linears, strict=True):
        content[f"network.{name}.weight"], content[f"network.{name}.bias"] = (
            linear.weight.detach(),
            linear.bias.detach(),
        )
    save_file(content, path)
    from safetensors.torch import load_file

    found = learned.published(
        {
            **load_file(path),
            "momentum_decays": network.offsets["momentum"].tolist(),
            "rms_decays": network.offsets["squares"].tolist(),
            "adafactor_decays": network.offsets["factored"].tolist(),
        },
        step_scale=0.01,
    )
    assert found.step_scale == 0.01
    for name, one in network.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], one)


def test_other_names_and_shapes_are_refused():
    with pytest.raises(ValueError, match="no layers are among a, b"):
        learned.published({"a": [1.0], "b": [2.0]})
    content = as_google(perceptron())
    content["nn"]["~"]["w0"] = content["nn"]["~"]["w0"][:30]
    with pytest.raises(ValueError, match="39 features"):
        learned.published(content)
