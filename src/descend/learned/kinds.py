"""One network for each kind of parameter, such as one for convolutions and one for all else, learned together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from descend.learned.network import Network
from descend.learned.pairs import Pair, Params, State


class OnePerKind(Pair):
    """Several networks, each of which steps the parameters of its kind.

    Args:
        networks: by kind.
        kind: gives the kind of a parameter by its name.

    Raises:
        ValueError: there is no network.

    Source: Andrychowicz et al. 2016, arXiv:1606.04474, section 3.3: on CIFAR-10 one network for convolutions and one
    for fully connected layers.
    """

    def __init__(self, networks: Mapping[str, Network], kind: Callable[[str], str]) -> None:
        super().__init__()
        if not networks:
            raise ValueError("networks is empty; give one for each kind")
        self.networks = nn.ModuleDict(networks)
        self.kind = kind
        self.is_elementwise = all(network.is_elementwise for network in networks.values())

    def network(self, name: str) -> Network:
        """Return the network of a parameter.

        Args:
            name: of the parameter.

        Raises:
            ValueError: its kind has none.
        """
        kind = self.kind(name)
        if kind not in self.networks:
            raise ValueError(f"parameter {name} is of kind {kind!r}; there are networks for {', '.join(self.networks)}")
        found = self.networks[kind]
        assert isinstance(found, Network)
        return found

    def _split(self, names: Iterable[str]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name in names:
            self.network(name)
            found.setdefault(self.kind(name), []).append(name)
        return found

    def init(self, params: Params) -> dict[str, dict[str, Tensor]]:
        """See `Pair.init`."""
        return {name: self.network(name).first(param) for name, param in params.items()}

    def update(
        self, params: Params, grads: Params, state: State
    ) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
        """See `Pair.update`."""
        new_params, new_state = dict(params), {name: dict(entry) for name, entry in state.items()}
        for kind, names in self._split(params).items():
            own = {name: params[name] for name in names}
            pair = self.networks[kind]
            assert isinstance(pair, Network)
            moved, held = pair.update(
                own,
                {name: grads[name] for name in names if name in grads},
                {name: state[name] for name in names},
            )
            new_params.update(moved)
            new_state.update(held)
        return new_params, new_state

    def groups(self, named_parameters: Iterable[tuple[str, Tensor]]) -> list[dict[str, Any]]:
        """Return param groups for `LearnedOptimizer`, one for each kind.

        Args:
            named_parameters: of a model.
        """
        params = dict(named_parameters)
        return [
            {"params": [(name, params[name]) for name in names], "network": self.networks[kind]}
            for kind, names in self._split(params).items()
        ]
