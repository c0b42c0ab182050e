"""Batches larger than memory, and how large a batch is worth while: accumulation and the gradient noise scale.

noise = NoiseScale()
for batch in loader:
    optimizer.zero_grad()
    loss = accumulate(loss_of, model, batch, largest=128, noise=noise)     # loss_of(model, batch) -> mean loss
    optimizer.step()
noise.scale                                                                # examples
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from descend.schedules.arguments import below_1, whole

Loss = Callable[[nn.Module, Any], Tensor]


class NoiseScale:
    """The simple noise scale tr(S) / |G|^2: the batch size up to which a larger batch pays nearly in proportion.

    McCandlish, Kaplan, Amodei et al. 2018, arXiv:1812.06162, equation 2.9, estimated without bias from the gradients of
    a batch and of its parts (appendix A.1); numerator and denominator are averaged over steps, each by itself, since
    their ratio is biased. A measure of the present state of training: it grows as the loss falls.

    Args:
        decay: of the moving averages, from 0 up and below 1.

    Raises:
        TypeError, ValueError: the decay is outside of its limits.
    """

    def __init__(self, decay: float = 0.99) -> None:
        self._decay = below_1("decay", decay)
        self._variance = self._square = 0.0
        self.count = 0
        """How many batches were measured."""

    def add(self, parts: Sequence[float], sizes: Sequence[int], whole: float) -> None:
        """Note a batch: squared norms of its parts' mean gradients, their sizes, and the squared norm of the whole's.

        A batch with a norm that is not finite, as a gradient scaler meets now and then, is left out.

        Raises:
            ValueError: there are fewer than two parts.
        """
        if len(parts) < 2 or len(parts) != len(sizes):
            raise ValueError(f"parts are {len(parts)} and sizes {len(sizes)}; give two or more, as many of each")
        if not all(map(math.isfinite, (*parts, whole))):
            return
        examples = sum(sizes)
        mean_square = math.fsum(parts) / len(parts)
        inverse = math.fsum(1 / size for size in sizes) / len(sizes)
        variance = (mean_square - whole) / (inverse - 1 / examples)  # expectations: |G|^2 + tr(S) / B for each size B
        self._variance = self._decay * self._variance + (1 - self._decay) * variance
        self._square = self._decay * self._square + (1 - self._decay) * (whole - variance / examples)
        self.count += 1

    @property
    def scale(self) -> float | None:
        """The noise scale in examples; None before it is measured, or while the gradient is lost in noise."""
        return self._variance / self._square if self.count and self._square > 0 else None

    def state_dict(self) -> dict[str, Any]:
        """Return what it knows, as plain numbers."""
        return {"variance": self._variance, "square": self._square, "count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a saved state over.

        Raises:
            ValueError: an entry is missing; nothing has changed then.
        """
        if missing := sorted({"variance", "square", "count"} - set(state_dict)):
            raise ValueError(f"the state lacks {', '.join(missing)}; give what state_dict() returned")
        self._variance, self._square = state_dict["variance"], state_dict["square"]
        self.count = state_dict["count"]


def accumulate(
    loss: Loss,
    model: nn.Module,
    batch: Any,
    largest: int,
    *,
    noise: NoiseScale | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> float:
    """Add a batch's gradient to the parameters, part by part, and return its mean loss.

    The parts are nearly equal and weighted by their sizes, so that the gradient is that of the mean over the batch
    wherever the loss is a mean over examples; batch normalization sees the parts. Processes under
    DistributedDataParallel exchange gradients once, with the last part. Measuring the noise scale takes memory for one
    more gradient, and reads the gradients three times more per part.

    Args:
        loss: takes model and batch, returns the mean loss over its examples.
        model: whose parameters get the gradient.
        batch: a tensor, or tuples, lists and mappings of tensors, examples in the first dimension; of lists without
            tensors those that are as long are cut too, and what else there is goes to every part whole.
        largest: examples of a part, 1 or more.
        noise: is told of the batch if it has two parts or more.
        scaler: the gradient scaler in use; the gradient is scaled by it, the noise scale's norms are not.

    Raises:
        TypeError, ValueError: largest is no whole number from 1 up, the batch's tensors are none or not equally long,
            or the noise scale is to be measured under DistributedDataParallel, where no process has the gradient of a
            part alone. An error of the loss leaves the gradient of the parts before it.
    """
    largest = whole("largest", largest)
    if noise is not None and not isinstance(noise, NoiseScale):
        raise TypeError(f"noise is {noise!r}; give a NoiseScale, or None")
    if noise is not None and hasattr(model, "no_sync"):
        raise ValueError(
            "noise cannot be measured on a model that exchanges gradients; leave it out, or give its module"
        )
    examples = _length(batch)
    count = -(-examples // largest)
    bounds = [part * examples // count for part in range(count + 1)]
    sizes = [end - begin for begin, end in itertools.pairwise(bounds)]
    parts = (_cut(batch, begin, end, examples) for begin, end in itertools.pairwise(bounds))
    gradients = _Parts(model, scaler) if noise is not None and count > 1 else None
    losses = []
    try:
        for number, (part, size) in enumerate(zip(parts, sizes, strict=True), 1):
            if gradients is not None:
                gradients.make_room()
            with _alone(model) if number < count else nullcontext():
                value = scalar_loss(loss(model, part)) * (size / examples)
                scaled = value if scaler is None else scaler.scale(value)
                scaled.backward()  # type: ignore[no-untyped-call]
            losses.append(value.item())
            if gradients is not None:
                gradients.collect(size / examples)
    finally:
        square = 0.0 if gradients is None else gradients.put_back()
    if gradients is not None and noise is not None:
        noise.add(gradients.squares, sizes, square)
    return math.fsum(losses)


def scalar_loss(value: Any) -> Tensor:
    """Return what a user's loss function gave, if it is one number in a tensor; TypeError if not."""
    if not isinstance(value, Tensor) or value.numel() != 1:
        what = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"{value!r}"
        raise TypeError(f"loss(model, batch) returned {what}; let it return one number in a tensor, such as a mean")
    return value.reshape(())


class _Parts:
    """The gradients of a batch's parts, each by itself, and their sum; what was there before stands aside."""

    def __init__(self, model: nn.Module, scaler: torch.amp.GradScaler | None) -> None:
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._before = [parameter.grad for parameter in self._parameters]
        self._sums: list[Tensor | None] = [None] * len(self._parameters)
        self._scale = 1.0 if scaler is None else scaler.get_scale()
        self.squares: list[float] = []

    def make_room(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    def collect(self, share: float) -> None:
        """Note the squared norm of a part's mean gradient, and add its share to the sum."""
        gradients = [parameter.grad for parameter in self._parameters]
        self.squares.append(_square(gradients) / (share * self._scale) ** 2)
        self._sums = [_sum(one, other) for one, other in zip(self._sums, gradients, strict=True)]

    def put_back(self) -> float:
        """Leave the sum, with what was there before, in the parameters; return its squared norm by itself."""
        square = _square(self._sums) / self._scale**2
        for parameter, old, new in zip(self._parameters, self._before, self._sums, strict=True):
            parameter.grad = _sum(old, new)
        return square


def _alone(model: nn.Module) -> AbstractContextManager[None]:
    """Without exchanging gradients, on a model of several processes."""
    exchange: Callable[[], AbstractContextManager[None]] = getattr(model, "no_sync", nullcontext)
    return exchange()


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return other if one is None else one
    return one.add_(other)


def _square(gradients: Sequence[Tensor | None]) -> float:
    """The squared norm of a gradient; of a sparse one that of its values, each place counted once."""
    dense = (g.coalesce().values() if g is not None and g.is_sparse else g for g in gradients)
    held = [gradient for gradient in dense if gradient is not None]
    return float(torch.stack(torch._foreach_norm(held)).double().square().sum()) if held else 0.0


def _length(batch: Any) -> int:
    lengths = {len(tensor) for tensor in _tensors(batch)}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"batch: its tensors have {sorted(lengths)} examples; give tensors that are equally long")
    return lengths.pop()


def _tensors(batch: Any) -> list[Tensor]:
    if isinstance(batch, Tensor):
        return [batch] if batch.ndim else []
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (tuple, list)) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _cut(batch: Any, begin: int, end: int, examples: int) -> Any:
    """A part of a batch: of its tensors, and of lists that hold something for each example, such as names."""
    if isinstance(batch, Tensor):
        return batch[begin:end] if batch.ndim else batch
    if isinstance(batch, Mapping):
        return {name: _cut(part, begin, end, examples) for name, part in batch.items()}
    if not isinstance(batch, (tuple, list)):
        return batch
    if len(batch) == examples and not _tensors(batch):
        return batch[begin:end]
    parts = [_cut(part, begin, end, examples) for part in batch]
    return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)  # a named tuple's own way
