"""The statistics of batch normalization, computed anew: what an average of weights needs before it is used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy

from descend.model_states import run_on


def recompute_batch_norm(
    model: nn.Module, batches: Iterable[Any], forward: Callable[[nn.Module, Any], Any] | None = None
) -> int:
    """Compute the running means and variances of a model's normalization layers anew, over batches.

    What a layer gets are the mean and the unbiased variance of all that reaches it, whatever the batches' sizes: those
    of the population, as in the precise batch normalization of Wu & Johnson 2021, arXiv:2105.07576, section 3. (An
    instance normalization gets the means over instances, as its training does.) `num_batches_tracked` is then how often
    the layer was called. A layer that no batch reached keeps what it had, and so do all after an exception.

    Where torch's `update_bn` differs: a short last batch has the weight of a full one; variances are means over
    batches, without what lies between them; dropout draws, since the whole model is in training mode; that mode is the
    model's afterwards, and is given to every module below; an exception, or a loader without batches, leaves reset
    statistics behind, and momenta of None; and it builds the model's input in one way only.

    A layer in evaluation mode inside of a model in training mode was frozen on purpose: its statistics are constants
    that the weights were trained with, and are left alone. A model all in evaluation mode shows no such intent, and has
    all its layers computed; call `train()` and freeze again where some are to stay.

    Args:
        model: in any mode, which it keeps. Other modules evaluate: dropout is off, and draws no random numbers.
        batches: the training data, on the model's device. Not read at all where there is no layer to compute.
        forward: how a batch goes through the model; by default a tensor as it is, of a tuple or list the first
            element, and a mapping as keyword arguments. Under DistributedDataParallel, pass it the inner module; layers
            that synchronize gather the statistics of all processes, others have those of their own.

    Returns:
        how many batches were read; 0 without a layer that keeps statistics.

    Raises:
        ValueError: there is no batch, or a lazy layer does not know its size yet.
        TypeError: a batch is nothing that the default `forward` knows.
    """
    layers = _layers_to_compute(model)
    if not layers:
        return 0
    moments = {layer: _Moments(layer) for layer in layers}
    count = 0
    with _observed(model, moments), torch.no_grad(), _eager():
        for batch in batches:
            (forward or run_on)(model, batch)
            count += 1
    if not count:
        raise ValueError("batches is empty; give one batch or more, and no iterator that was used up before")
    for each in moments.values():
        each.write()
    return count


def _layers_to_compute(model: nn.Module) -> list[_NormBase]:
    layers = [one for one in model.modules() if isinstance(one, _NormBase) and one.running_mean is not None]
    if any(is_lazy(buffer) for layer in layers for buffer in layer.buffers(recurse=False)):
        raise ValueError("model has a lazy normalization without a size yet; pass a batch through the model first")
    return [layer for layer in layers if layer.training or not model.training]


@contextmanager
def _observed(model: nn.Module, moments: Mapping[_NormBase, _Moments]) -> Iterator[None]:
    """Let moments see their layers' inputs, alone in training mode; put modes and statistics back, come what may."""
    modes = [(module, module.training) for module in model.modules()]
    held = [buffer for layer in moments for buffer in layer.buffers(recurse=False)]
    values = [buffer.clone() for buffer in held]
    hooks = [layer.register_forward_pre_hook(each, with_kwargs=True) for layer, each in moments.items()]
    try:
        for module, _ in modes:
            module.training = module in moments  # not train(), which a model may have overridden
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, value in zip(held, values, strict=True):
                buffer.copy_(value)


def _eager() -> Any:
    """Let compiled models run as they are written: what is compiled already does not call new hooks."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


class _Moments:
    """The mean and the spread of what reaches a layer, per channel: a hook before its forward."""

    def __init__(self, layer: _NormBase) -> None:
        self.layer = layer
        self.calls = 0
        self.count = 0.0  # elements per channel
        self.mean = self.spread = torch.zeros((), dtype=torch.float64)  # the spread: squares around the mean, summed

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs: Tensor = args[0] if args else kwargs["input"]
        inputs = inputs.detach().to(torch.promote_types(inputs.dtype, torch.float32))
        self.calls += 1
        if isinstance(self.layer, _InstanceNorm):
            unbatched = inputs.dim() == self.layer._get_no_batch_dim()  # type: ignore[no-untyped-call]
            each = (inputs.unsqueeze(0) if unbatched else inputs).flatten(2)
            variance, mean = torch.var_mean(each, 2)
            self._merge(each.numel() / each.shape[1], mean.mean(0), variance.mean(0), between=False)
        else:
            variance, mean = torch.var_mean(inputs, [0, *range(2, inputs.dim())], correction=0)
            self._merge(inputs.numel() / inputs.shape[1], mean, variance)

    def _merge(self, count: float, mean: Tensor, variance: Tensor, *, between: bool = True) -> None:
        """Add a batch (Chan, Golub & LeVeque 1979), on the CPU, for any device to have float64."""
        mean, variance = mean.cpu().double(), variance.cpu().double()
        total = self.count + count
        apart = mean - self.mean
        self.spread = self.spread + variance * count
        if between:
            self.spread = self.spread + apart.square() * (self.count * count / total)
        self.mean = self.mean + apart * (count / total)
        self.count = total

    def write(self) -> None:
        """Give the layer its statistics, if anything reached it."""
        if not self.calls:
            return
        layer = self.layer
        assert layer.running_mean is not None
        assert layer.running_var is not None
        if isinstance(layer, nn.SyncBatchNorm) and torch.distributed.is_available():
            self._gather(layer.process_group, layer.running_mean.device)
        free = self.count if isinstance(layer, _InstanceNorm) else self.count - 1
        with torch.no_grad():
            layer.running_mean.copy_(self.mean)
            layer.running_var.copy_(self.spread / free)
            if layer.num_batches_tracked is not None:
                layer.num_batches_tracked.fill_(self.calls)

    def _gather(self, group: Any, device: torch.device) -> None:
        """Merge the moments of all processes of a group."""
        if not torch.distributed.is_initialized():
            return
        own = torch.stack([torch.full_like(self.mean, self.count), self.mean, self.spread]).to(device)
        everyone = [torch.empty_like(own) for _ in range(torch.distributed.get_world_size(group))]
        torch.distributed.all_gather(everyone, own, group=group)
        self.count, self.mean, self.spread = 0.0, torch.zeros_like(self.mean), torch.zeros_like(self.mean)
        for count, mean, spread in everyone:
            self._merge(float(count[0]), mean, spread / count)
