"""The mean of saved states, a state at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any

import torch
from torch import Tensor

from descend.model_states import State, copied, is_floating, wide


def average(states: Iterable[State], weights: Sequence[float] | None = None) -> dict[str, Tensor]:
    """Return the weighted mean of the states of one architecture.

    Sums are kept in float64 (complex128) and rounded once, to the first state's types; so states in bfloat16 have a
    mean too. The statistics of batch normalization are averaged as everything is, and mean nothing: they belong to
    activations that the averaged weights do not have. Load the mean and call `recompute_batch_norm`.

    Args:
        states: as `model.state_dict()` gives. Of a generator one is in memory at a time, beside the sum.
        weights: one per state, from 0 up, on any scale; by default all alike. A state of weight 0 is not summed.

    Returns:
        a tensor per name, in the first state's order. Whole numbers and bools, such as counts of batches, are those of
        the last state.

    Raises:
        TypeError: a state is no mapping, or a weight no number.
        ValueError: there is no state, names or shapes differ, or weights do not fit.
    """
    if isinstance(states, Mapping):
        raise TypeError("states is one state; give several of them, as in average([first, second])")
    shares = None if weights is None else _checked_weights(weights)
    if shares is not None and isinstance(states, Sized) and len(states) != len(shares):
        raise ValueError(f"weights has {len(shares)} numbers for {len(states)} states; give one per state")
    total, count = Sum(), 0
    for state in states:
        if shares is not None and count == len(shares):
            raise ValueError(f"weights has {len(shares)} numbers and there are more states; give one per state")
        total.add(state, 1.0 if shares is None else shares[count])
        count += 1  # not of enumerate, which would keep the last state alive while the next one is read
        del state
    if not count:
        raise ValueError("states is empty; give one state or more, and no generator that was used up before")
    if shares is not None and count < len(shares):
        raise ValueError(f"weights has {len(shares)} numbers for {count} states; give one per state")
    return total.mean()


def _checked_weights(weights: Sequence[float]) -> list[float]:
    found = [float(weight) for weight in weights]
    if not all(0 <= weight < math.inf for weight in found) or not sum(found):
        raise ValueError(f"weights is {found}; give finite numbers from 0 up, one of them above 0")
    return found


class Sum:
    """The weighted sum of states: floating tensors in float64, of all others the last."""

    def __init__(self) -> None:
        self.weight = 0.0
        self._like: dict[str, Any] = {}  # an empty tensor's type and place per name, in the first state's order
        self._shapes: dict[str, torch.Size | None] = {}
        self._totals: dict[str, Tensor] = {}
        self._latest: dict[str, Any] = {}

    def add(self, state: State, weight: float = 1.0) -> None:
        """Add a state, if it is of the first one's architecture."""
        self.check(state)
        if not self._shapes:
            self._shapes = _shapes(state)
            self._like = {name: value.new_empty(0) for name, value in state.items() if is_floating(value)}
        for name, value in state.items():
            if name not in self._like:
                self._latest[name] = copied(value)
            elif weight:
                term = wide(value) * weight
                total = self._totals.get(name)
                self._totals[name] = term if total is None else total.add_(term.to(total.device))
        self.weight += weight

    def mean(self, extra: State | None = None) -> dict[str, Tensor]:
        """Return the mean, rounded once; with `extra`, as if that had been added with weight 1."""
        if extra is not None:
            self.check(extra)
        return {name: self._mean_of(name, None if extra is None else extra[name]) for name in self._shapes}

    def _mean_of(self, name: str, extra: Tensor | None) -> Tensor:
        if name not in self._like:
            return copied(self._latest[name] if extra is None else extra)  # type: ignore[no-any-return]
        total, weight = self._totals[name], self.weight
        if extra is not None:
            total, weight = total + wide(extra).to(total.device), weight + 1
        return (total / weight).to(self._like[name])

    def check(self, state: State) -> None:
        """Refuse a state with other names or shapes than the first, naming the tensor."""
        if not isinstance(state, Mapping):
            raise TypeError(f"a state is {type(state).__name__}; give what model.state_dict() returns")
        if not self._shapes:
            return
        shapes = _shapes(state)
        for name in [*self._shapes, *shapes]:
            if name not in shapes or name not in self._shapes:
                raise ValueError(f"one state has {name!r} and another has not; give states of one architecture")
            if shapes[name] != self._shapes[name]:
                raise ValueError(
                    f"{name!r} is {_shown(shapes[name])} in one state and {_shown(self._shapes[name])} in another; "
                    "give states of one architecture"
                )


def _shapes(state: State) -> dict[str, torch.Size | None]:
    return {name: value.shape if isinstance(value, Tensor) else None for name, value in state.items()}


def _shown(shape: torch.Size | None) -> str:
    return "no tensor" if shape is None else f"of shape {tuple(shape)}"
