"""Growing the batch in place of lowering the rate.

    growth = BatchGrowth(multistep(60, 120, 160, factor=0.2), start=128, examples=50_000)   # per epoch
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from operator import itemgetter, rshift
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler

from descend.schedules import Schedule, linear
from descend.schedules.arguments import below_1, whole

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
        TypeError, ValueError: a batch size is no whole number from 1 up, or a momentum is not from 0 up and below 1.
    """
    other = momentum if new_momentum is None else new_momentum
    grown = whole("new_batch_size", new_batch_size) / whole("batch_size", batch_size)
    return lr * grown * ((1 - below_1("new_momentum", other)) / (1 - below_1("momentum", momentum)))


@dataclass(frozen=True)
class BatchGrowth:
    """The batch-size twin of a rate schedule over epochs.

    While the schedule falls the batch grows by as much and the rate stays, up to `largest`; from there on the rate
    falls. The batch is rounded to whole examples, and the rate makes up for that, so rate / batch is the schedule's in
    every epoch.

    Args:
        schedule: of the rate, over epochs in place of steps; above 0.
        start: the batch size at a multiplier of 1.
        examples: in the training data.
        largest: batch size; by default a tenth of the examples.

    Raises:
        TypeError, ValueError: an argument makes no sense.
    """

    schedule: Schedule
    start: int
    examples: int
    largest: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, Schedule):
            raise TypeError(f"schedule is {self.schedule!r}; give one of descend.schedules, over epochs")
        start, examples = whole("start", self.start), whole("examples", self.examples)
        most = max(start, examples // LARGEST_SHARE) if self.largest is None else whole("largest", self.largest)
        if not start <= most <= examples:
            raise ValueError(
                f"start is {start} and largest {most}, of {examples} examples; give start <= largest <= examples"
            )
        for name, value in {"start": start, "examples": examples, "largest": most}.items():
            object.__setattr__(self, name, value)

    def batch_size(self, epoch: int) -> int:
        """Return the batch size of an epoch, from 0.

        Raises:
            ValueError: the schedule is not above 0 there.
        """
        assert self.largest is not None
        return max(1, min(self.largest, round(self.start / self._multiplier(epoch))))

    def rate(self, epoch: int) -> float:
        """Return what the rate is multiplied by in an epoch."""
        return self._multiplier(epoch) * self.batch_size(epoch) / self.start

    def updates(self, epochs: int) -> int:
        """Return how many updates so many epochs take, an odd rest of an epoch counted as one."""
        return sum(map(self._updates, range(epochs)))

    def rates(self, epochs: int) -> Schedule:
        """Return the rate's multiplier as a schedule over steps, for so many epochs; from there on it holds the last.

        Each epoch has its own number of steps, as a `GrowingBatchSampler` without `drop_last` gives them.

        Raises:
            ValueError: there is no epoch.
        """
        each = ((self.rate(epoch), self._updates(epoch)) for epoch in range(whole("epochs", epochs)))
        alike = (
            (rate, sum(updates for _, updates in epochs_of_it))
            for rate, epochs_of_it in itertools.groupby(each, key=itemgetter(0))
        )
        return reduce(rshift, (linear(updates, start=rate, end=rate) for rate, updates in alike))

    def _updates(self, epoch: int) -> int:
        return -(-self.examples // self.batch_size(epoch))

    def _multiplier(self, epoch: int) -> float:
        value = self.schedule(epoch)
        if not 0 < value < math.inf:
            raise ValueError(f"the schedule {self.schedule} is {value:g} in epoch {epoch}; give one that is above 0")
        return value


class GrowingBatchSampler(Sampler[list[int]]):
    """Batches of indices for torch's DataLoader (`batch_sampler=`), of another size in each epoch.

    The order of an epoch is decided by seed and epoch alone, so a resumed run sees the batches that it would have seen:
    `set_epoch(epoch, start=batches_done)`. In several processes each takes its share of every batch, which together are
    the batches of one process; where a batch is no multiple of the processes their shares differ by one example, which
    their mean then weighs by a little less. torch's DistributedSampler gives each process batches of its own instead.
    A last batch with fewer examples than processes is filled up from the epoch's beginning, as torch fills up.

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
        together = torch.distributed.is_available() and torch.distributed.is_initialized()
        if num_replicas is None:
            num_replicas = torch.distributed.get_world_size() if together else 1
        replicas = whole("num_replicas", num_replicas)
        place = rank if rank is not None else torch.distributed.get_rank() if together else 0
        if not 0 <= place < replicas:
            raise ValueError(f"rank is {place} of {replicas}; give 0 to num_replicas - 1")
        if not callable(batch_size):
            raise TypeError(f"batch_size is {batch_size!r}; give a function of the epoch, such as lambda epoch: 128")
        self._examples, self._seed = whole("examples", examples), whole("seed", seed, least=0)
        self._batch_size = batch_size
        self._shuffle, self._drop_last = shuffle, drop_last
        self._rank, self._replicas = place, replicas
        self._epoch = self._start = 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch that is iterated next, and how many of its batches are behind already.

        Raises:
            ValueError: one of them is negative, or the epoch has fewer batches.
        """
        epoch, start = whole("epoch", epoch, least=0), whole("start", start, least=0)
        if start > (most := self._count(epoch)):
            raise ValueError(f"start is {start}, and epoch {epoch} has {most} batches; give at most so many")
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
            lacking = max(0, self._replicas - len(batch))
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
        return size

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
        groups = max(1, min(round(len(inputs) / self.group), len(inputs) // 2))  # of one example there is no variance
        if not self.layer.training or groups == 1:
            return plain(self.layer, inputs)  # type: ignore[no-any-return]
        return torch.cat([plain(self.layer, part) for part in inputs.tensor_split(groups)])
