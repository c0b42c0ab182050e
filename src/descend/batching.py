"""Growing the batch in place of lowering the rate.

    growth = BatchGrowth(multistep(60, 120, 160, factor=0.2), batch_size=128, examples=50_000)   # per epoch
    sampler = GrowingBatchSampler(50_000, growth.batch_size, seed=0)
    loader = DataLoader(data, batch_sampler=sampler)
    optimizer = descend.SGD(model.parameters(), lr=0.1 * growth.rates(200), momentum=0.9)
    for epoch in range(200):
        sampler.set_epoch(epoch)
        for batch in loader: ...

Smith, Kindermans, Ying & Le 2018, arXiv:1711.00489: the noise of SGD is about lr * N / (B * (1 - momentum)), so a rate
that falls and a batch that grows do the same to it, while B is much smaller than N; the second takes fewer updates.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler

from descend.schedules import Schedule

LARGEST_SHARE = 10
"""The batch grows up to the examples divided by this; the paper's rule for B << N."""


def scaled_rate(
    lr: float, batch_size: int, new_batch_size: int, *, momentum: float = 0.0, new_momentum: float | None = None
) -> float:
    """Return the rate under which another batch size, and momentum, keep SGD's noise: lr / (B * (1 - momentum)).

    Args:
        lr: the rate that was tuned.
        batch_size: with which.
        new_batch_size: the other one.
        momentum: with which it was tuned.
        new_momentum: the other one; by default the same.

    Raises:
        ValueError: a batch size is below 1, or a momentum is not from 0 up and below 1.
    """
    other = momentum if new_momentum is None else new_momentum
    if batch_size < 1 or new_batch_size < 1:
        raise ValueError(f"batch_size is {batch_size} and new_batch_size {new_batch_size}; give 1 or more")
    if not 0 <= momentum < 1 or not 0 <= other < 1:
        raise ValueError(f"momentum is {momentum} and {other}; give numbers from 0 up and below 1")
    return lr * (new_batch_size / batch_size) * ((1 - other) / (1 - momentum))


@dataclass(frozen=True)
class BatchGrowth:
    """The batch-size twin of a rate schedule over epochs.

    While the schedule falls the batch grows by as much and the rate stays, up to `largest`; from there on the rate
    falls. The batch is rounded to whole examples, and the rate makes up for that, so rate / batch is the schedule's in
    every epoch.

    Args:
        schedule: of the rate, over epochs in place of steps; above 0.
        batch_size: at a multiplier of 1.
        examples: in the training data.
        largest: batch size; by default a tenth of the examples.

    Raises:
        ValueError: batch size or largest make no sense.
    """

    schedule: Schedule
    start: int
    examples: int
    largest: int

    def __init__(self, schedule: Schedule, batch_size: int, examples: int, largest: int | None = None) -> None:
        if not isinstance(schedule, Schedule):
            raise TypeError(f"schedule is {schedule!r}; give one of descend.schedules, over epochs")
        most = max(batch_size, examples // LARGEST_SHARE) if largest is None else largest
        if not 1 <= batch_size <= most <= examples:
            raise ValueError(
                f"batch_size is {batch_size} and largest {most}, of {examples} examples; give "
                "1 <= batch_size <= largest <= examples"
            )
        values = {"schedule": schedule, "start": batch_size, "examples": examples, "largest": most}
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def batch_size(self, epoch: int) -> int:
        """Return the batch size of an epoch, from 0.

        Raises:
            ValueError: the schedule is not above 0 there.
        """
        return max(1, min(self.largest, round(self.start / self._multiplier(epoch))))

    def rate(self, epoch: int) -> float:
        """Return what the rate is multiplied by in an epoch."""
        return self._multiplier(epoch) * self.batch_size(epoch) / self.start

    def updates(self, epochs: int) -> int:
        """Return how many updates so many epochs take, an odd rest of an epoch counted as one."""
        return sum(-(-self.examples // self.batch_size(epoch)) for epoch in range(epochs))

    def rates(self, epochs: int) -> PerEpoch:
        """Return the rate's multiplier as a schedule over steps, for so many epochs.

        Each epoch has its own number of steps, as a `GrowingBatchSampler` without `drop_last` gives them.
        """
        lengths = [-(-self.examples // self.batch_size(epoch)) for epoch in range(epochs)]
        return PerEpoch(tuple(lengths), tuple(self.rate(epoch) for epoch in range(epochs)))

    def _multiplier(self, epoch: int) -> float:
        value = self.schedule(epoch)
        if not 0 < value < math.inf:
            raise ValueError(f"the schedule {self.schedule} is {value:g} in epoch {epoch}; give one that is above 0")
        return value


@dataclass(frozen=True)
class PerEpoch(Schedule):
    """A value per epoch as a schedule over steps, epochs being of different lengths.

    lengths: steps of each epoch. multipliers: its value.
    """

    lengths: tuple[int, ...]
    multipliers: tuple[float, ...]
    _ends: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.lengths or len(self.lengths) != len(self.multipliers) or min(self.lengths) < 1:
            raise ValueError("PerEpoch: give one or more epochs, each with 1 step or more and a value")
        object.__setattr__(self, "_ends", tuple(itertools.accumulate(self.lengths)))
        object.__setattr__(self, "length", self._ends[-1])

    def __call__(self, s: float) -> float:
        """Return the value of the epoch that s is in; after the last one, its value."""
        return self.multipliers[min(bisect_right(self._ends, self.held(s)), len(self._ends) - 1)]

    def __repr__(self) -> str:
        return f"PerEpoch({self.lengths!r}, {self.multipliers!r})"


class GrowingBatchSampler(Sampler[list[int]]):
    """Batches of indices for torch's DataLoader (`batch_sampler=`), of another size in each epoch.

    The order of an epoch is decided by seed and epoch alone, so a resumed run sees the batches that it would have seen:
    `set_epoch(epoch, start=batches_done)`. In several processes each takes its share of every batch, which together are
    the batches of one process; the last ones, where they would be uneven, are filled up from the epoch's beginning, as
    DistributedSampler fills up.

    Args:
        examples: how many there are.
        batch_size: of an epoch, given its number from 0; over all processes together.
        seed: of the order.
        shuffle: False keeps the data's own order.
        drop_last: leave out the odd rest of an epoch.
        num_replicas: how many processes there are; by default torch.distributed's, or one.
        rank: of this process; by default torch.distributed's, or 0.

    Raises:
        ValueError: an argument makes no sense.
    """

    def __init__(
        self,
        examples: int,
        batch_size: Callable[[int], int],
        *,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        if examples < 1:
            raise ValueError(f"examples is {examples}; give 1 or more")
        together = torch.distributed.is_available() and torch.distributed.is_initialized()
        replicas = num_replicas or (torch.distributed.get_world_size() if together else 1)
        place = rank if rank is not None else torch.distributed.get_rank() if together else 0
        if not 0 <= place < replicas:
            raise ValueError(f"rank is {place} of {replicas}; give 0 to num_replicas - 1")
        if not callable(batch_size):
            raise TypeError(f"batch_size is {batch_size!r}; give a function of the epoch, such as lambda epoch: 128")
        self._examples, self._batch_size, self._seed = examples, batch_size, seed
        self._shuffle, self._drop_last = shuffle, drop_last
        self._rank, self._replicas = place, replicas
        self._epoch = self._start = 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch that is iterated next, and how many of its batches are behind already.

        Raises:
            ValueError: one of them is negative, or the epoch has fewer batches.
        """
        if epoch < 0 or not 0 <= start <= self._count(epoch):
            raise ValueError(f"epoch is {epoch} and start {start}; give 0 or more, start up to the epoch's batches")
        self._epoch, self._start = epoch, start

    def __len__(self) -> int:
        """Return how many batches of the epoch are left."""
        return self._count(self._epoch) - self._start

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the indices of each batch, in several processes those of this one's share."""
        size = self._size(self._epoch)
        order = self._order()
        for place in range(self._start, self._count(self._epoch)):
            batch = order[place * size : (place + 1) * size]
            lacking = -len(batch) % self._replicas
            batch += [order[extra % len(order)] for extra in range(lacking)]
            yield batch[self._rank :: self._replicas]

    def _order(self) -> list[int]:
        if not self._shuffle:
            return list(range(self._examples))
        generator = torch.Generator().manual_seed((self._seed * 0x9E3779B97F4A7C15 + self._epoch) % 2**63)
        order: list[int] = torch.randperm(self._examples, generator=generator).tolist()
        return order

    def _size(self, epoch: int) -> int:
        size = self._batch_size(epoch)
        if isinstance(size, bool) or not isinstance(size, int) or not self._replicas <= size:
            raise ValueError(f"batch_size({epoch}) is {size!r}; give a whole number, {self._replicas} or more")
        return min(size, self._examples)

    def _count(self, epoch: int) -> int:
        size = self._size(epoch)
        return self._examples // size if self._drop_last else -(-self._examples // size)


def ghost(model: nn.Module, group: int) -> nn.Module:
    """Let every batch normalization of a model see groups of a fixed size, however large the batch; return the model.

    Ghost batch normalization (Hoffer, Hubara & Soudry 2017, arXiv:1705.08741), which Smith et al. 2018 use while the
    batch grows. In training a batch is cut into the whole number of nearly equal groups that comes closest to `group`;
    each is normalised by its own statistics and moves the running ones in turn. In evaluation nothing changes. State
    dicts stay as they were.

    Args:
        model: changed in place.
        group: examples, 2 or more.

    Raises:
        ValueError: the group is below 2, or the model has no batch normalization.
    """
    if isinstance(group, bool) or not isinstance(group, int) or group < 2:
        raise ValueError(f"group is {group!r}; give a whole number, 2 or more")
    layers = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not layers:
        raise ValueError("the model has no batch normalization, so there is nothing to cut into groups")
    for layer in layers:
        setattr(layer, "forward", _InGroups(layer, group))  # noqa: B010 (a method, to the type checker)
    return model


class _InGroups:
    """A batch normalization's forward, by groups; a class, so that a model with it can be copied and pickled."""

    def __init__(self, layer: Any, group: int) -> None:
        self.layer, self.group = layer, group

    def __call__(self, inputs: Tensor) -> Tensor:
        plain = type(self.layer).forward
        groups = max(1, round(len(inputs) / self.group))
        if not self.layer.training or groups == 1:
            return plain(self.layer, inputs)  # type: ignore[no-any-return]
        return torch.cat([plain(self.layer, part) for part in inputs.tensor_split(groups)])
