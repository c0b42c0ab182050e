"""Random bits and stochastic rounding in torch: the same bits as the generated kernels draw, on any device.

The bits are a function of their arguments and need no state: Philox4x32-10 (Salmon et al. 2011, "Parallel random
numbers: as easy as 1, 2, 3", section 3.3) under the key (seed, call site), counting blocks of elements, steps and
parameters. Element i belongs to block (i // 64) * 8 + i % 8, which yields eight half words, and takes the one numbered
i % 64 // 8. `prelude.hpp` holds the same function in C++.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

_TILE: Final = 64  # elements that share eight blocks
_BLOCKS: Final = 8
_PORTION: Final = (
    2**16
)  # elements that are drawn at a time, a multiple of the tile; each takes about 16 bytes meanwhile
_LOW: Final = 2**32 - 1

_Words = tuple[Tensor, Tensor, Tensor, Tensor]


def random_bits(
    count: int,
    *,
    seed: int,
    step: int | Tensor,
    ordinal: int,
    site: int,
    first: int = 0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """16 uniform random bits for each of the elements first to first + count - 1, as int32.

    Args:
        count: how many elements.
        seed: the optimizer's seed, of which 64 bits count.
        step: the step being taken, of which 32 bits count; as a tensor of int64 it may stand in a graph or for many.
        ordinal: the parameter's place in the optimizer.
        site: tells the draws within one step of one parameter apart.
        first: the index of the first element in its parameter.
        device: where the bits are made.

    Raises:
        ValueError: if count or first is negative.
    """
    if count < 0 or first < 0:
        raise ValueError(f"count and first must be at least 0, not {count} and {first}; elements are numbered from 0")
    keys = seed & _LOW, (seed >> 32 & _LOW) ^ site
    if isinstance(step, Tensor):
        drawn: Tensor = _bits_of(step.to(device), count, *keys, ordinal & _LOW, first)
        return drawn
    bits = torch.empty(count, dtype=torch.int32, device=device)
    for start, stop in _portions(first, first + count):
        at = torch.tensor(step & _LOW, device=device)
        bits[start - first : stop - first] = _whole_bits(at, stop - start, *keys, ordinal & _LOW, start)
    return bits


@torch.library.custom_op("descend::random_bits", mutates_args=())
def _bits_of(step: Tensor, count: int, key0: int, key1: int, ordinal: int, first: int) -> Tensor:
    """What `random_bits` gives, as one node of a graph: where a compiler fuses it, it writes each round many times."""
    return _whole_bits(step, count, key0, key1, ordinal, first)


@_bits_of.register_fake
def _(step: Tensor, count: int, key0: int, key1: int, ordinal: int, first: int) -> Tensor:
    return step.new_empty(count, dtype=torch.int32)


def _bits_of_many(
    info: object, dims: tuple[int | None, ...], step: Tensor, count: int, key0: int, key1: int, ordinal: int, first: int
) -> tuple[Tensor, int]:
    """The rule of vmap: steps of many parameters."""
    steps = step.movedim(dims[0] or 0, 0).view(-1, 1, 1, 1)
    return _whole_bits(steps, count, key0, key1, ordinal, first), 0


_bits_of.register_vmap(_bits_of_many)


def round_stochastically(x: Tensor, bits: Tensor) -> Tensor:
    """float32 to bfloat16, to one of the two neighbours with the mean at x, given 16 uniform bits per element.

    Infinity and NaN stay; a finite number may become infinite only beyond the largest finite bfloat16.
    """
    pattern = (x.contiguous().view(torch.int32) + bits.reshape(x.shape)) >> 16
    rounded = pattern.to(torch.int16).view(torch.bfloat16)
    return torch.where(x.isnan(), torch.full_like(rounded, float("nan")), rounded)


def stochastically(x: Tensor, *, seed: int, step: int, ordinal: int, site: int, first: int = 0) -> Tensor:
    """A tensor rounded stochastically to bfloat16, with the strides of `x` if it is dense, else contiguous.

    Elements are numbered from `first` in the order of memory if the tensor is dense (its strides are a permutation
    without gaps), else in logical order. The other arguments are those of `random_bits`.

    Raises:
        TypeError: if x is not float32.
    """
    if x.dtype is not torch.float32:
        raise TypeError(f"x is rounded from float32, not from {x.dtype}; convert it with x.float()")
    x = x.detach()
    if is_dense(x):
        result = torch.empty_strided(x.shape, x.stride(), dtype=torch.bfloat16, device=x.device)
        source, target = _in_memory_order(x), _in_memory_order(result)
    else:
        result = torch.empty(x.shape, dtype=torch.bfloat16, device=x.device)
        source, target = x.reshape(-1), result.view(-1)
    for start, stop in _portions(first, first + x.numel()):
        place = slice(start - first, stop - first)
        bits = random_bits(stop - start, seed=seed, step=step, ordinal=ordinal, site=site, first=start, device=x.device)
        target[place] = round_stochastically(source[place], bits)
    return result


def is_dense(x: Tensor) -> bool:
    """Whether the strides of a tensor are a permutation without gaps, so that it fills its part of memory."""
    expected = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size != 1 and stride != expected:
            return x.numel() == 0
        expected *= size
    return True


def _in_memory_order(x: Tensor) -> Tensor:
    return x.as_strided((x.numel(),), (1,))


def _portions(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """The range from start to stop, cut at multiples of the portion."""
    while start < stop:
        end = min(stop, (start // _PORTION + 1) * _PORTION)
        yield start, end
        start = end


def _whole_bits(step: Tensor, count: int, key0: int, key1: int, ordinal: int, first: int) -> Tensor:
    """What `random_bits` gives for one step, in one piece; for steps of shape (n, 1, 1, 1), n rows of it."""
    tiles = range(first // _TILE, -(-(first + count) // _TILE))
    blocks = torch.arange(tiles.start * _BLOCKS, tiles.stop * _BLOCKS, device=step.device).view(-1, 1, _BLOCKS)
    counter = (
        blocks & _LOW,
        blocks >> 32,
        torch.zeros_like(blocks) + (step & _LOW),
        torch.full_like(blocks, ordinal),
    )
    words = philox(counter, key0, key1)
    halves = torch.cat([half for word in words for half in (word & 0xFFFF, word >> 16)], dim=-2)
    skipped = first - tiles.start * _TILE
    return halves.flatten(-3)[..., skipped : skipped + count].to(torch.int32)


def philox(counter: _Words, key0: int, key1: int) -> _Words:
    """Philox4x32-10: a counter to four random words, numbers of 32 bits held in int64 tensors and integers."""
    a, b, c, d = counter
    for _ in range(10):
        # the products with 0xD2511F53 and 0xCD9E8D57 less 2^32, which do not overflow; the upper halves lack a and c
        left, right = a * (0xD2511F53 - 2**32), c * (0xCD9E8D57 - 2**32)
        a, b, c, d = (
            ((right >> 32) + c) ^ b ^ key0,
            right & _LOW,
            ((left >> 32) + a) ^ d ^ key1,
            left & _LOW,
        )
        key0, key1 = (key0 + 0x9E3779B9) & _LOW, (key1 + 0xBB67AE85) & _LOW
    return a, b, c, d
