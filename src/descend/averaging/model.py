"""The average of a model's weights while it trains: torch's AveragedModel, right in low precision too."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import swa_utils

from descend.model_states import unwrapped


class AveragedModel(swa_utils.AveragedModel):
    """A copy of a model whose parameters are averages of the model's: equal (SWA) or exponential (EMA).

        averaged = AveragedModel(model, decay=0.999)
        for batch in loader:
            ...
            optimizer.step()
            averaged.update_parameters(model)
        evaluate(averaged)

    Izmailov et al. 2018, arXiv:1803.05407, section 3, is the equal average; call `recompute_batch_norm` at its end.
    The first update copies the model. Buffers, such as running statistics, are always copies of the model's latest.
    `ema_decay=` of every descend optimizer keeps the same exponential average fused into its step, to be used within
    `with opt.averaged():`; here is the one for any optimizer, with a forward and a state dict of its own.

    Where torch differs: it keeps the average of a parameter in bfloat16 or float16 in that type, where a small step
    rounds to none. Measured on torch 2.13, a weight that goes from 1 to 1.5 after the first update has, 5000 updates
    later with decay 0.999, an average of 1 in bfloat16 and 1.012 in float16, and 1.497 in float32; of 1000 weights
    evenly from 1 to 2 the equal average is 1 in bfloat16. Here averages of such parameters are float32, buffers in the
    state dict beside the module, which gets them rounded; so cast the model first and then average it. The equal
    average of float64, by torch's function for several tensors, has float32's precision (0, 1 and 4 give 1.66666670).
    And torch takes a model with other parameters as far as they fit.

    Args:
        model: to average; it is copied.
        device: of the copy; by default the model's.
        decay: of the exponential average, from 0 up and below 1; None is the equal average. Not in the state dict.
        warmup: let the decay of the update after t others be min(decay, (1 + t) / (10 + t)), so that the average soon
            leaves the start behind, as the num_updates of TensorFlow's ExponentialMovingAverage do.

    Raises:
        TypeError: the decay is no number, or the model no module.
        ValueError: the decay is out of its range, or there is none to warm up.
    """

    def __init__(
        self,
        model: nn.Module,
        device: int | torch.device | None = None,
        *,
        decay: float | None = None,
        warmup: bool = False,
    ) -> None:
        _check(model, decay, warmup)
        super().__init__(unwrapped(model), device)
        self.decay, self.warmup = decay, warmup
        self.float32 = nn.Module()  # holds the averages of the parameters that are narrower
        for name, parameter in self.module.named_parameters():
            if parameter.is_floating_point() and parameter.dtype.itemsize < 4:
                self.float32.register_buffer(_buffer_name(name), parameter.detach().float())

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take the model's parameters into the average, and its buffers as they are; one that is compiled, too.

        Raises:
            ValueError: the model's parameters or buffers have other names or shapes than those of the copy.
        """
        model = unwrapped(model)
        self._check_alike(model)
        own = dict(self.module.named_parameters())
        wide = dict(self.float32.named_buffers())
        averages = [wide.get(_buffer_name(name), parameter.detach()) for name, parameter in own.items()]
        sources, buffers = dict(model.named_parameters()), dict(model.named_buffers())
        currents = [
            sources[name].detach().to(average.device, average.dtype)
            for name, average in zip(own, averages, strict=True)
        ]
        self._move(averages, currents)
        for name, parameter in own.items():
            if _buffer_name(name) in wide:
                parameter.copy_(wide[_buffer_name(name)])
        for name, buffer in self.module.named_buffers():
            buffer.copy_(buffers[name])
        self.n_averaged += 1

    def _move(self, averages: list[Tensor], currents: list[Tensor]) -> None:
        before = int(self.n_averaged)  # a tensor would make the share of a new model float32
        moved = [average.is_floating_point() or average.is_complex() for average in averages]
        for average, current, moves in zip(averages, currents, moved, strict=True):
            if before == 0 or not moves:
                average.copy_(current)
        if before and any(moved):
            self._rule(before)(
                list(itertools.compress(averages, moved)), list(itertools.compress(currents, moved)), before
            )

    def _rule(self, before: int) -> Callable[[list[Tensor], list[Tensor], int], None]:
        """Return torch's update of averages, after so many others."""
        if self.decay is None:
            return swa_utils.get_swa_multi_avg_fn()  # type: ignore[no-untyped-call, no-any-return]
        decay = min(self.decay, (1 + before) / (10 + before)) if self.warmup else self.decay
        return swa_utils.get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call, no-any-return]

    def _check_alike(self, model: nn.Module) -> None:
        own, given = _shapes(self.module), _shapes(model)
        if own != given:
            name = next(name for name in [*own, *given] if own.get(name) != given.get(name))
            raise ValueError(
                f"model has {name!r} as {given.get(name)} and the average as {own.get(name)}; "
                "update with the model that was averaged from the start"
            )


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(one.shape) for name, one in itertools.chain(model.named_parameters(), model.named_buffers())}


def _buffer_name(parameter_name: str) -> str:
    return parameter_name.replace(".", "/")  # a buffer's own name has no dot


def _check(model: object, decay: Any, warmup: bool) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is {type(model).__name__}; give a torch module")
    if decay is None:
        if warmup:
            raise ValueError("warmup is of an exponential average; give decay=0.999, say, or leave warmup out")
        return
    if isinstance(decay, bool) or not isinstance(decay, Real):
        raise TypeError(f"decay is {decay!r}; give a number from 0 up and below 1, or None for the equal average")
    if not 0 <= float(decay) < 1:
        raise ValueError(f"decay is {decay!r}; give a number from 0 up and below 1, or None for the equal average")
