"""Random operations of formulas in torch: the same numbers as the generated kernels draw, on any device.

A draw is one call of `normal` or `keep` in a rule. Its numbers are a function of the optimizer's seed, the parameter's
step and place in the optimizer, the number of the call and the index of the element; `prelude.hpp` holds the same
function in C++.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from descend.backends.operations import Value
from descend.backends.random_bits import is_dense, random_bits

_FIRST_SITE: Final = 256
"""The sites of random bits below are those of stochastic rounding, which are numbers of outputs."""

_RESOLUTION: Final = 2**23
"""Uniform numbers are the middles of as many equal parts of (0, 1): all are exact in float32."""


def bit_sites(number: int) -> tuple[int, int]:
    """The sites of the random bits of a draw, by its number: those of its upper and of its lower half words."""
    return _FIRST_SITE + 2 * number, _FIRST_SITE + 2 * number + 1


@dataclass(frozen=True)
class Draw:
    """What random numbers are a function of, beside the index of the element.

    Attributes:
        seed: the optimizer's.
        step: the step being taken by the parameter, a number or a tensor of one.
        ordinal: the parameter's place in the optimizer.
        number: the call's among those of the rule.
        first: the index of the first element in its parameter.
    """

    seed: int
    step: Value
    ordinal: int
    number: int
    first: int = 0

    def uniform(self, like: Tensor, dtype: torch.dtype) -> Tensor:
        """A uniform number in (0, 1) for each element of a tensor, numbered as in `stochastically`."""
        step = self.step.detach().long() if isinstance(self.step, Tensor) else int(self.step)
        high, low = (
            random_bits(
                like.numel(),
                seed=self.seed,
                step=step,
                ordinal=self.ordinal,
                site=site,
                first=self.first,
                device=like.device,
            )
            for site in bit_sites(self.number)
        )
        bits = (high << 7) | (low >> 9)
        return _laid_out((bits.to(dtype) + 0.5) / _RESOLUTION, like)


def _laid_out(flat: Tensor, like: Tensor) -> Tensor:
    """Numbers in the shape of a tensor: in the order of its memory if it is dense, else in logical order."""
    if not is_dense(like):
        return flat.view(like.shape)
    strides = like.stride()
    order = sorted(range(like.ndim), key=lambda place: -strides[place])
    return flat.view([like.shape[place] for place in order]).permute([order.index(d) for d in range(like.ndim)])


def normal_quantile(u: Tensor) -> Tensor:
    """The standard normal number below which a share `u` of all lies, for u from 2^-24 to 1 - 2^-24.

    Wichura 1988, "Algorithm AS 241", Applied Statistics 37, its PPND7, which has 7 digits; what it does for a share
    below e^-25 is left away.
    """
    q = u - 0.5
    r = 0.180625 - q * q
    middle = q * (((59.109374720 * r + 159.29113202) * r + 50.434271938) * r + 3.3871327179)
    middle = middle / (((67.187563600 * r + 78.757757664) * r + 17.895169469) * r + 1)
    s = torch.sqrt(-torch.log(torch.minimum(u, 1 - u))) - 1.6
    tail = ((0.17023821103 * s + 1.3067284816) * s + 2.7568153900) * s + 1.4234372777
    tail = tail / ((0.12021132975 * s + 0.73700164250) * s + 1)
    return torch.where(q.abs() <= 0.425, middle, torch.copysign(tail, q))


def _normal(u: Tensor, std: Value) -> Tensor:
    return torch.mul(normal_quantile(u), std)


def _keep(u: Tensor, x: Value, q: Value) -> Tensor:
    kept = x.to(u.dtype) if isinstance(x, Tensor) else torch.as_tensor(x, dtype=u.dtype, device=u.device)
    return torch.where(u < q, kept, 0)


DRAWS: Final[Mapping[str, Callable[..., Tensor]]] = {"normal": _normal, "keep": _keep}
"""The random operations, of a uniform number for every element and of their arguments but the step."""
