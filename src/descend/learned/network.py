"""What every optimizer that is a network offers: steps of single tensors, whole or in chunks of bounded memory."""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from descend.learned.pairs import Pair


class Network(Pair):
    """An optimizer that is a network.

    Attributes:
        kind: its name in files and param groups.
    """

    kind: str

    @property
    @abc.abstractmethod
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments: plain values."""

    @abc.abstractmethod
    def first(self, param: Tensor) -> dict[str, Tensor]:
        """Return the state of a parameter before its first step.

        Args:
            param: of any shape.
        """

    @abc.abstractmethod
    def step(self, param: Tensor, grad: Tensor, state: Mapping[str, Tensor], rate: float, elements: int) -> None:
        """Step a parameter and advance its state, both in place and without gradients, in pieces of bounded memory.

        Args:
            param: contiguous, in the type in which steps are computed.
            grad: of the same shape and type.
            state: of `first`, of the same type.
            rate: what the change is multiplied by.
            elements: of a piece, about: memory beside the state is bounded by it.
        """

    @property
    @abc.abstractmethod
    def bytes_per_element(self) -> int:
        """What a piece takes in memory while it is computed, about, per element in float32."""

    def digest(self) -> str:
        """Return what tells this network from others: of its kind, its settings and its weights."""
        found = hashlib.sha256(repr((self.kind, sorted(self.settings.items()))).encode())
        for name, weight in self.state_dict().items():
            found.update(name.encode())
            found.update(weight.detach().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()[:16]
