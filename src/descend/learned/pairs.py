"""What is unrolled and meta-learned: a pair of pure functions, `init` and `update`, of networks and of rules alike.

An optimizer that is a network has weights to learn; a rule has rates and betas. Both are modules here, whose parameters
are what is learned, and both step by the same two functions, so that one unroll serves them all.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from descend.rule import Rule

Params = Mapping[str, Tensor]
"""Tensors by the name of a parameter."""
State = Mapping[str, Mapping[str, Tensor]]
"""The entries of the state, by the name of a parameter, then by their own."""

_DECAYS: Final = ("betas", "momentum", "alpha", "beta", "rho")
"""Hyper-parameters that lie between 0 and 1, and are learned as the logarithm of what is missing to 1."""


class Pair(nn.Module, abc.ABC):
    """An optimizer as two pure functions; what is learned of it are its parameters.

    Attributes:
        is_elementwise: whether each element of a parameter is stepped by itself, so that parameters of many problems
            may be stacked along a first dimension.
    """

    is_elementwise: bool

    @abc.abstractmethod
    def init(self, params: Params) -> dict[str, dict[str, Tensor]]:
        """Return the state before the first step.

        Args:
            params: what will be stepped.
        """

    @abc.abstractmethod
    def update(
        self, params: Params, grads: Params, state: State
    ) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
        """Take one step: return new parameters and new state; the arguments stay as they are.

        Args:
            params: to step.
            grads: their gradients; a parameter without one is passed on as it is.
            state: of `init`, or of the step before.
        """

    def forward(
        self, params: Params, grads: Params, state: State
    ) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
        """The same as `update`, for `torch.func.functional_call`."""
        return self.update(params, grads, state)


class LearnedRule(Pair):
    """A rule some of whose hyper-parameters are learned.

    What is above 0 is learned as its logarithm, what lies between 0 and 1 (betas, momentum) as that of its distance to
    1: gradients then do not depend on the scale of a rate.

    Args:
        rule: such as `descend.rules.adam`.
        learned: names of the hyper-parameters to learn; each starts at its value.
        hyper_parameters: values in place of the rule's defaults.

    Raises:
        TypeError: the rule has no such hyper-parameter, or one to learn is no number or tuple of numbers.
        ValueError: one to learn is not above 0, or a decay is not between 0 and 1; or the rule is not elementwise.
    """

    def __init__(self, rule: Rule, learned: Sequence[str] = ("lr",), **hyper_parameters: Any) -> None:
        super().__init__()
        values = rule.merged(hyper_parameters)
        rule.merged(dict.fromkeys(learned))
        if not rule.formula(**hyper_parameters).is_elementwise:
            raise ValueError(
                f"rule {rule.name!r} reduces over a tensor, and would do so over stacked problems; give one that steps "
                "each element by itself"
            )
        self.rule = rule
        self.fixed = {name: value for name, value in hyper_parameters.items() if name not in learned}
        self.is_elementwise = True
        self.logs = nn.ParameterDict()
        self._shapes: dict[str, bool] = {}
        for name in learned:
            is_tuple = isinstance(values[name], tuple)
            numbers = values[name] if is_tuple else (values[name],)
            self._shapes[name] = is_tuple
            self.logs[name] = nn.Parameter(torch.tensor([_logarithm(name, one) for one in numbers]))

    def hyper_parameters(self) -> dict[str, Any]:
        """Return the values in force, tensors with gradients where they are learned."""
        found = dict(self.fixed)
        for name, logs in self.logs.items():
            values = (1 - logs.exp() if name in _DECAYS else logs.exp()).unbind()
            found[name] = tuple(values) if self._shapes[name] else values[0]
        return found

    def init(self, params: Params) -> dict[str, dict[str, Tensor]]:
        """See `Pair.init`."""
        return self.rule.init(params, **self.hyper_parameters())

    def update(
        self, params: Params, grads: Params, state: State
    ) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
        """See `Pair.update`."""
        return self.rule.update(params, grads, state, **self.hyper_parameters())


def _logarithm(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is {value!r}; only numbers are learned")
    if name in _DECAYS:
        if not 0 < value < 1:
            raise ValueError(f"{name} is {value!r}, and is learned between 0 and 1; give it such a value to start from")
        return math.log1p(-value)
    if not 0 < value < math.inf:
        raise ValueError(f"{name} is {value!r}, and is learned above 0; give it such a value to start from")
    return math.log(value)
