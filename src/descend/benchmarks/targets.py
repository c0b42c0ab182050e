"""What is measured, and the numbers that it is held to: the one place where they stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

Shapes = Sequence[tuple[int, ...]]


def _resnet18() -> Shapes:
    """The shapes of ResNet-18's 62 parameters, for 1,000 classes."""
    shapes: list[tuple[int, ...]] = [(64, 3, 7, 7), (64,), (64,)]
    for width, into in ((64, 64), (128, 64), (256, 128), (512, 256)):
        for before in (into, width):
            shapes += [(width, before, 3, 3), (width,), (width,), (width, width, 3, 3), (width,), (width,)]
            if before != width:
                shapes += [(width, before, 1, 1), (width,), (width,)]
    return [*shapes, (1000, 512), (1000,)]


@dataclass(frozen=True)
class Sizes:
    """How much is stepped.

    Attributes:
        large: elements of the one large tensor.
        model: the shapes of the model.
        tensors: how many small tensors there are in one param group.
        groups: how many param groups of one small tensor there are.
        width: elements of a small tensor.
        searched: how many networks are trained at once by rules of a search.
        search_steps: steps of each.
        loop_steps: steps of a loop beside them.
        convnets: how many convolutional networks are trained at once.
        convnet_steps: steps of each.
        curved_batches: sizes of the batches that curvature is measured on; of one alone, the first.
        curved_side: of their images, in pixels.
    """

    large: int = 32_000_000
    model: Shapes = tuple(_resnet18())
    tensors: int = 2000
    groups: int = 465
    width: int = 64
    searched: tuple[int, ...] = (1024, 2048, 4096, 8192)
    search_steps: int = 30
    loop_steps: int = 500
    convnets: int = 8
    convnet_steps: int = 4
    curved_batches: tuple[int, ...] = (64, 64, 32)
    curved_side: int = 32


@dataclass(frozen=True)
class Limits:
    """What our time may be of the best of torch's, by the number of threads.

    Attributes:
        fused: for rules of which torch has a fused implementation.
        unfused: for the others.
    """

    fused: Mapping[int, float]
    unfused: Mapping[int, float]

    def of(self, fused: bool, threads: int) -> float:
        """The limit for so many threads; more threads than are listed have the limit of the most that are."""
        by_threads = self.fused if fused else self.unfused
        return by_threads[max(n for n in by_threads if n <= threads)]


LIMITS: Final[Mapping[str, Limits]] = {
    "large": Limits({1: 0.75, 2: 1.05}, {1: 0.25}),
    "model": Limits({1: 1.0}, {1: 0.3}),
    "tensors": Limits({1: 0.10}, {1: 0.05}),
    "groups": Limits({1: 0.10}, {1: 0.05}),
    "clip-ema": Limits({1: 0.7, 2: 0.85}, {}),
}
WHOLE_TENSORS: Final[Mapping[str, float]] = {"LAMB": 0.5, "LARS": 0.5}
"""What our time may be of pytorch_optimizer's, for rules with norms of whole tensors that torch does not have."""
MATRICES: Final = 1.05
"""What Muon may take of torch's: both leave the matrix products to torch."""
BFLOAT16: Final[Mapping[str, float]] = {"bfloat16, float32 state": 0.85, "bfloat16, bfloat16 state": 0.6}
"""What a step with parameters and gradients in bfloat16 may take of ours in float32, by what is stored how."""
SEARCHES: Final[Mapping[str, float]] = {"7 rates, 2 seeds": 1 / 8, "distinct rules": 1 / 5}
"""What a row's step may take of a step of the best loop, by what the rows are."""
BANDWIDTH: Final = 0.85
"""The share of the streaming bandwidth that an elementwise rule reaches."""
BANDWIDTH_OF_FUNCTIONS: Final = 0.7
"""The same, where it takes exp, log, pow or tanh per element."""
TEMPORARY_BYTES: Final = 1_000_000
COLD_SECONDS: Final = 1.0
CACHED_SECONDS: Final = 0.020
