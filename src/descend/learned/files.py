"""Trained networks as files: safetensors with a card of how they came to be; and weights published by others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from descend.learned.lstm import CoordinatewiseLSTM
from descend.learned.mlp import PerParameterMLP
from descend.learned.network import Network
from descend.snapshots import files

_KINDS: Final[Mapping[str, type[Network]]] = {one.kind: one for one in (CoordinatewiseLSTM, PerParameterMLP)}
_SHIPPED: Final = "weights"


def save(network: Network, path: str | Path, card: Mapping[str, Any] | None = None) -> None:
    """Write a network into a file, in one step.

    Args:
        network: to write.
        path: of the file, `.safetensors`.
        card: how it was trained, on what, and where it fails: plain values.

    Raises:
        ModuleNotFoundError: without safetensors, of the lab extra.
        SnapshotError: the file cannot be written.
    """
    from safetensors.torch import save as packed

    about = {"kind": network.kind, "settings": json.dumps(network.settings), "card": json.dumps(dict(card or {}))}
    content = packed({name: one.detach().cpu().contiguous() for name, one in network.state_dict().items()}, about)
    files.write(Path(path), lambda file: file.write(content))


def load(path: str | Path) -> Network:
    """Read a network from a file that `save` wrote.

    Args:
        path: of the file.

    Raises:
        ModuleNotFoundError: without safetensors, of the lab extra.
        ValueError: it holds no network of this library.
    """
    return _read(Path(path))[0]


def card(path: str | Path) -> dict[str, Any]:
    """Return what a network's file says of how it came to be; raises as `load` does."""
    return _read(Path(path))[1]


def _read(path: Path) -> tuple[Network, dict[str, Any]]:
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
        weights = load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is no safetensors file ({error}); give one that descend.learned.save wrote"
        ) from error
    if about.get("kind") not in _KINDS:
        raise ValueError(
            f"{path} holds no network of descend.learned; read weights of others by descend.learned.published"
        )
    network = _KINDS[about["kind"]](**json.loads(about["settings"]))
    network.load_state_dict(weights)
    return network.requires_grad_(False), json.loads(about["card"])


def shipped() -> list[str]:
    """Return the names of the trained networks that the package has."""
    folder = resources.files("descend.learned") / _SHIPPED
    return sorted(
        one.name.removesuffix(".safetensors") for one in folder.iterdir() if one.name.endswith(".safetensors")
    )


def pretrained(name: str) -> Network:
    """Return a trained network that the package has.

    Args:
        name: one of `shipped()`.

    Raises:
        ValueError: there is none of that name.
    """
    return load(_shipped(name))


def pretrained_card(name: str) -> dict[str, Any]:
    """Return how a network that the package has was trained, on what, and where it fails."""
    return card(_shipped(name))


def _shipped(name: str) -> Path:
    if name not in shipped():
        raise ValueError(f"there is no trained network {name!r}; there are {', '.join(shipped())}")
    with resources.as_file(resources.files("descend.learned") / _SHIPPED / f"{name}.safetensors") as path:
        return path


def published(
    weights: Mapping[str, Any], *, step_scale: float = 0.001, exponent_scale: float = 0.001
) -> PerParameterMLP:
    """Return a per-parameter perceptron with weights that others have published.

    Understood are the names of google/learned_optimization (`nn/~/w0`, `b0`, ..., w of shape (inputs, outputs), with
    `momentum_decays`, `rms_decays` and `adafactor_decays`), nested or joined by slashes, and of PyLO
    (`network.input.weight`, `network.linear_0.weight`, ..., `network.output.weight`, whose decays may stand beside
    them under the names above).

    Args:
        weights: tensors or arrays by name, such as `numpy.load` or `safetensors.torch.load_file` return.
        step_scale: of steps: 0.001 in google/learned_optimization; PyLO's weights are used with 0.01.
        exponent_scale: of the output that is the logarithm of a size.

    Raises:
        ValueError: names or shapes are none of these.
    """
    flat = {name: torch.as_tensor(value).float() for name, value in _flattened(weights)}
    layers = _google_layers(flat) or _pylo_layers(flat)
    if not layers:
        raise ValueError(f"no layers are among {', '.join(sorted(flat)) or 'no names'}; see descend.learned.published")
    network = PerParameterMLP(
        layers[0][0].shape[0], len(layers) - 1, step_scale=step_scale, exponent_scale=exponent_scale
    )
    state = network.state_dict()
    for place, (weight, bias) in enumerate(layers):
        state[f"linears.{place}.weight"], state[f"linears.{place}.bias"] = weight, bias
    for ours, theirs in (("momentum", "momentum_decays"), ("squares", "rms_decays"), ("factored", "adafactor_decays")):
        found = next((value for name, value in flat.items() if name.split("/")[-1] == theirs), None)
        if found is not None:
            state[f"offsets.{ours}"] = found.reshape(-1)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"shapes do not fit a perceptron of 39 features and 2 outputs: {error}") from error
    return network.requires_grad_(False)


def _flattened(weights: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    found = []
    for name, value in weights.items():
        path = f"{before}{name}"
        found += _flattened(value, f"{path}/") if isinstance(value, Mapping) else [(path, value)]
    return found


def _google_layers(flat: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    named = {name.split("/")[-1]: value for name, value in flat.items()}
    found: list[tuple[Tensor, Tensor]] = []
    while f"w{len(found)}" in named and f"b{len(found)}" in named:
        found.append((named[f"w{len(found)}"].T.contiguous(), named[f"b{len(found)}"]))
    return found


def _pylo_layers(flat: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    inner = sum(name.startswith("network.linear_") and name.endswith(".weight") for name in flat)
    names = ["input", *(f"linear_{place}" for place in range(inner)), "output"]
    try:
        return [(flat[f"network.{name}.weight"], flat[f"network.{name}.bias"]) for name in names]
    except KeyError:
        return []
