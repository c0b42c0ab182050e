"""Holding a model as it is measured, and putting back all that measuring touches, whatever ends it."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from descend.averaging import recompute_batch_norm
from descend.restoring import batches_restored, seeded

_PASS_SEED = 0  # of what a loader draws: the same order in every pass


class Holding:
    """A model that is held: its modes are set, its buffers are copies; made by `held`.

    Args:
        model: the model.
        buffers: its buffers, as they were.
    """

    def __init__(self, model: nn.Module, buffers: list[tuple[nn.Module, dict[str, Tensor | None]]]) -> None:
        self._model, self._buffers = model, buffers
        self._quiet: set[int] = set()  # places of batches on which nothing was drawn

    def read(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield the batches, in the same order in every pass."""
        _seed(_PASS_SEED)
        yield from batches

    def prepare(self, place: int, seed: int | None) -> list[Tensor] | None:
        """Make ready for a forward pass on a batch: fresh buffers, and what it draws fixed by a seed.

        Without a seed, return where the generators stand, for `drew`; None for a batch that drew nothing before.
        """
        self._refresh()
        if seed is not None:
            _seed(seed)
        return None if seed is not None or place in self._quiet else _positions()

    def drew(self, place: int, before: list[Tensor] | None) -> bool:
        """Tell whether a forward pass on a batch drew random numbers without a seed."""
        if before is None:
            return False
        is_quiet = all(map(torch.equal, before, _positions()))
        if is_quiet:
            self._quiet.add(place)
        return not is_quiet

    @contextmanager
    def renewed(self, batches: Iterable[Any], forward: Callable[[nn.Module, Any], Any]) -> Iterator[None]:
        """Compute the statistics of batch normalization anew, for a block."""
        own = self._buffers
        self._refresh()
        recompute_batch_norm(self._model, self.read(batches), forward)
        self._buffers = [(module, dict(module._buffers)) for module, _ in own]
        try:
            yield
        finally:
            self._buffers = own

    def _refresh(self) -> None:
        """Give the model copies of its buffers."""
        copies: dict[int, Tensor] = {}  # a buffer that two modules share stays shared
        for module, buffers in self._buffers:
            for name, value in buffers.items():
                if value is not None:
                    module._buffers[name] = copies.setdefault(id(value), value.detach().clone())


@contextmanager
def held(
    model: nn.Module, batches: Any, *, training: bool, outputs: Callable[[Any], Any] | None = None
) -> Iterator[Holding]:
    """Hold a model as it is measured.

    Args:
        model: the model; not compiled.
        batches: whose generators are put back, too.
        training: whether its modules train; those that evaluate within a model that trains go on evaluating.
        outputs: replaces what the model returns.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(module, dict(module._buffers)) for module in model.modules() if module._buffers]
    is_trained = model.training
    hook = model.register_forward_hook(lambda _, __, out: outputs(out)) if outputs is not None else None
    with seeded(_PASS_SEED), batches_restored(batches), torch.enable_grad(), _eager():
        try:
            for module, mode in modes:
                module.training = training and (mode or not is_trained)  # not train(), which may be overridden
            yield Holding(model, buffers)
        finally:
            for module, own in buffers:
                module._buffers.clear()
                module._buffers.update(own)
            for module, mode in modes:
                module.training = mode
            if hook is not None:
                hook.remove()


def has_fused_attention(result: Tensor) -> bool:
    """Tell whether a tensor was computed by a fused kernel for attention, which has no second derivatives."""
    waiting, seen = [result.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if "ScaledDotProduct" in node.name():
            return True
        seen.add(node)
        waiting += [before for before, _ in node.next_functions]
    return False


def plain_attention() -> Any:
    """Let attention run in its plain form inside of this context."""
    return sdpa_kernel(SDPBackend.MATH)


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would note a stack trace for devices not in use
    if torch.cuda._initialized:
        torch.cuda.manual_seed_all(seed)


def _positions() -> list[Tensor]:
    """Where torch's generators stand."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda._initialized else [])]


def _eager() -> Any:
    """Let compiled parts run as they are written: they have no second derivatives."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
