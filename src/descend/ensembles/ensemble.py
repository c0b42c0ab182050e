"""`Ensemble`: averages the predictions of models that are read one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import RandomSampler

from descend.ensembles.combining import Average, check_average, check_members, check_state, member_output
from descend.ensembles.module import EnsembleModule
from descend.model_states import run_on, unwrapped
from descend.restoring import evaluating

Strategy = Literal["auto", "stream", "batched"]
_PROBED_BYTES = 256 * 2**20
"""Members that take more together are streamed without a probe: what a batched pass saves is the overhead of calls."""


class Ensemble:
    """The average of the predictions of several models of one architecture.

    Args:
        model: of the architecture; it is run with the members' tensors in place of its own, which stay as they are.
            Members come to its device.
        members: state dicts, one or more; those of a `SnapshotStore` are read when they are needed.
        average: "softmax" averages the probabilities of class scores, "mean" the outputs as they are (regression).
        dim: of the classes in the model's output; -1, the last, for most models, 1 for maps of classes.
        forward: runs the model on a batch; by default a tensor is passed as it is, of a tuple or list the first
            element, and a mapping as keyword arguments. It is given the model and the batch.

    Raises:
        ValueError: there are no members, or an option makes no sense.
    """

    def __init__(
        self,
        model: nn.Module,
        members: Sequence[Mapping[str, Tensor]],
        *,
        average: Average = "softmax",
        dim: int = -1,
        forward: Callable[[nn.Module, Any], Any] | None = None,
    ) -> None:
        check_average(average)
        check_members(members)
        self.model, self.members, self.average, self.dim = unwrapped(model), members, average, dim
        self._run = forward or run_on

    def __len__(self) -> int:
        return len(self.members)

    def predict(self, batches: Iterable[Any], *, strategy: Strategy = "auto") -> Tensor:
        """Return the averaged predictions for all batches, one after the other along the first dimension.

        They are probabilities, or values, in float32 for models in half precision.

        Args:
            batches: such as a DataLoader that does not shuffle; gone through once for each member where they are
                streamed, so no generator then.
            strategy: "stream" reads one member at a time and runs it on all batches, so that memory is one model's and
                the outputs; "batched" runs all members in one pass; "auto" times both on the first batch, where the
                members together take less than 256 MiB, and takes the faster.

        Raises:
            ValueError: there is no batch, the batches are a generator, shuffled, or differ from pass to pass, or a
                member is of another architecture.
            TypeError: the model's output is not one tensor.
            RuntimeError: the strategy is "batched", and the model cannot be run in a batched pass.
        """
        if strategy not in get_args(Strategy):
            raise ValueError(f"strategy is {strategy!r}; give 'auto', 'stream' or 'batched'")
        _check_batches(batches)
        if strategy == "batched" or (strategy == "auto" and self._is_batched_faster(batches)):
            return self._batched(batches)
        total: Tensor | None = None
        for outputs in self.outputs(batches):
            if total is None:
                total = outputs
            elif total.shape != outputs.shape:
                raise ValueError(
                    f"batches gave outputs of shape {tuple(total.shape)} at first and {tuple(outputs.shape)} later; "
                    "give the same batches in every pass"
                )
            else:
                total += outputs
        assert total is not None
        return total / len(self.members)

    def outputs(self, batches: Iterable[Any]) -> Iterator[Tensor]:
        """Yield each member's own predictions for all batches: probabilities, or values.

        The members are read one at a time, in order.
        """
        _check_batches(batches)
        for state in self.members:
            with _untouched(self.model):
                member = _Member(self.model, _fitted(self.model, state))
                outputs = _joined(member_output(self._run(member, batch), self.average, self.dim) for batch in batches)
            yield outputs

    def module(self) -> EnsembleModule:
        """Return all members in one module, on the model's device; memory is that of all of them."""
        states = [_fitted(self.model, state) for state in self.members]
        return EnsembleModule(self.model, states, average=self.average, dim=self.dim)

    def _is_batched_faster(self, batches: Iterable[Any]) -> bool:
        size = sum(value.numel() * value.element_size() for value in self.model.state_dict().values())
        if size * len(self.members) > _PROBED_BYTES:
            return False
        with _untouched(self.model):
            try:
                first = next(iter(batches))
                seconds = self.module().choose_by(lambda module: self._run(module, first))
            except Exception:  # whatever it is, streaming does without, or says what is wrong
                return False
        return seconds["batched"] < seconds["loop"]

    def _batched(self, batches: Iterable[Any]) -> Tensor:
        module = self.module()
        module.strategy = "batched"
        with _untouched(self.model):
            try:
                return _joined(self._run(module, batch) for batch in batches)
            except RuntimeError as error:
                reason = str(error).strip().partition("\n")[0]
                name = type(self.model).__name__
                raise RuntimeError(f"{name} may not run in a batched pass ({reason}); try strategy='stream'") from error


class _Member(nn.Module):
    """A model with other tensors in place of its own."""

    def __init__(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers(remove_duplicate=False)}
        copies = {name: value.clone() if name in buffers else value for name, value in state.items()}
        self._held = model, {**buffers, **copies}  # in a tuple: neither is a submodule

    def forward(self, *inputs: Any, **named: Any) -> Any:
        model, state = self._held
        return functional_call(model, state, inputs, named, tie_weights=False)  # tied ones are given by all names


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Evaluate a model: its modes, and the random numbers that are drawn on the way, are as before."""
    devices = {value.device for value in model.state_dict().values() if value.is_cuda}
    with evaluating(model), torch.random.fork_rng(devices):
        yield


def _joined(parts: Iterable[Tensor]) -> Tensor:
    every = list(parts)
    if not every:
        raise ValueError("batches has none; give one or more")
    return torch.cat(every)


def _check_batches(batches: Iterable[Any]) -> None:
    if isinstance(batches, (Tensor, Mapping)):
        raise ValueError(f"batches is one {type(batches).__name__}; give a list of batches, such as [inputs]")
    if isinstance(batches, Iterator):
        raise ValueError("batches is an iterator, which can be gone through once; give a list or a DataLoader")
    if isinstance(getattr(batches, "sampler", None), RandomSampler):
        raise ValueError("batches is shuffled, so nobody knows what a prediction belongs to; give shuffle=False")


def _fitted(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state on the devices and in the types of the model's own tensors."""
    check_state(state)
    own = model.state_dict()
    if lacking := [name for name in own if name not in state]:
        raise ValueError(f"a member has no '{lacking[0]}', which {type(model).__name__} has; give states of this model")
    if further := [name for name in state if name not in own]:
        raise ValueError(
            f"a member has '{further[0]}', which {type(model).__name__} has not; give states of this model"
        )
    if wrong := [name for name in own if own[name].shape != state[name].shape]:
        name = wrong[0]
        raise ValueError(
            f"'{name}' of a member has shape {tuple(state[name].shape)}, and {type(model).__name__} has "
            f"{tuple(own[name].shape)}; give states of this model"
        )
    return {name: state[name].to(value) for name, value in own.items()}
