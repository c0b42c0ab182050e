"""`EnsembleModule`: all members in one module, one after the other or in one batched pass."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call

from descend.ensembles.combining import Average, check_average, check_members, check_state, member_output

Strategy = Literal["loop", "batched"]
_PROBES = 3


class EnsembleModule(nn.Module):
    """Several models of one architecture as one module, whose output is the average of theirs.

    It holds the members' tensors stacked along a new first dimension, under the names that the model's class gives
    them. `forward` takes what the model takes, and returns the mean of the members' softmax outputs (probabilities, not
    logits), or of their outputs. Members are run one after the other, or all in one pass by `torch.func.vmap`; `choose`
    times both. They are always in evaluation mode. `torch.export` takes it as any other module; where a dimension
    is of variable size members are exported one after the other, since vmap fixes sizes in many layers.

    Args:
        model: of the architecture; copied, not changed.
        states: of the members, what `state_dict` gives; one or more.
        average: "softmax" or "mean".
        dim: of the classes in the model's output.

    Raises:
        ValueError: an argument makes no sense, or a state does not fit the model.
    """

    def __init__(self, model: nn.Module, states: Sequence[Any], *, average: Average = "softmax", dim: int = -1) -> None:
        super().__init__()
        check_average(average)
        check_members(states)
        self.average: Average = average
        self.dim = dim
        self.strategy: Strategy = "loop"
        skeleton = copy.deepcopy(model).eval()
        members = [_tensors_in(skeleton, state) for state in states]
        self.count = len(members)
        self.stacked = copy.deepcopy(skeleton)
        _stack(self.stacked, members)
        # Not a submodule: its own tensors are never used, and belong into no state dict.
        self._skeleton = [skeleton.to("meta")]

    def choose(self, *inputs: Any, **named: Any) -> dict[Strategy, float]:
        """Time both ways on an example, three calls each after a first, and take the faster one from here on.

        Returns:
            The median seconds of each; infinite where the model cannot be run in a batched pass.
        """
        return self.choose_by(lambda module: module(*inputs, **named))

    @torch.no_grad()
    def choose_by(self, call: Callable[[EnsembleModule], object]) -> dict[Strategy, float]:
        """Time both ways of a call of this module, and take the faster one from here on; as `choose`."""
        seconds: dict[Strategy, float] = {}
        for strategy in get_args(Strategy):
            self.strategy = strategy
            try:
                seconds[strategy] = _timed(lambda: call(self))
            except (RuntimeError, NotImplementedError, ValueError):
                if strategy == "loop":
                    raise
                seconds[strategy] = float("inf")
        self.strategy = min(seconds, key=lambda way: seconds[way])
        return seconds

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """Return the average of the members' outputs: probabilities, or values."""
        tensors = _tensors(self.stacked)

        def run(of_one: dict[str, Tensor]) -> Tensor:
            output = functional_call(self._skeleton[0], of_one, inputs, named)
            return member_output(output, self.average, self.dim)

        if self.strategy == "batched" and not _is_of_variable_size([*inputs, *named.values()]):
            return torch.vmap(run)(tensors).mean(0)
        total = run({name: value[0] for name, value in tensors.items()})
        for place in range(1, self.count):
            total = total + run({name: value[place] for name, value in tensors.items()})
        return total / self.count


def _is_of_variable_size(inputs: Sequence[Any]) -> bool:
    """Whether an export leaves a dimension open."""
    sizes = [size for one in inputs if isinstance(one, Tensor) for size in one.shape]
    return torch.compiler.is_exporting() and any(isinstance(size, torch.SymInt) for size in sizes)


def _tensors_in(model: nn.Module, state: Any) -> dict[str, Tensor]:
    """The parameters and buffers that the model has under a state; those that no state dict keeps are the model's."""
    check_state(state)
    try:
        model.load_state_dict(dict(state))
    except RuntimeError as error:
        raise ValueError(f"a member's state does not fit {type(model).__name__}: {error}") from None
    return {name: value.detach().clone() for name, value in _tensors(model).items()}


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by all of their names: tied ones have several, and lose what ties them on "meta"."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def _stack(model: nn.Module, members: Sequence[dict[str, Tensor]]) -> None:
    """Put in place of each of a model's tensors those of all members, stacked; tied ones stay tied."""
    stacked = {name: torch.stack([member[name] for member in members]) for name in members[0]}
    known = {id(value): stacked[name] for name, value in _tensors(model).items()}
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, value in module._parameters.items():
            if value is not None:
                one = made.setdefault(
                    id(value), nn.Parameter(known[id(value)], requires_grad=value.is_floating_point())
                )
                module._parameters[name] = one
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = known[id(buffer)]


def _timed(call: Callable[[], object]) -> float:
    call()
    seconds = []
    for _ in range(_PROBES):
        begun = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)
