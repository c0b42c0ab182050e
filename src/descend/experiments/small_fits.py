"""What studies of small networks share: data in tensors, training epoch by epoch, and jobs that are kept."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from descend import tasks
from descend.experiments.jobs import Job, KeptJob, Result, carry_out, kept_results
from descend.experiments.manifest import hardware, versions
from descend.experiments.run_directory import write_json
from descend.experiments.workers import available, hands
from descend.generalization.losses import Loss
from descend.tasks import Ordered
from descend.tasks.base import Split


def epochs(
    model: nn.Module,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    targets: Tensor,
    size: int,
    seed: int,
) -> Iterator[int]:
    """Train for ever, and yield the number of epochs after each.

    Args:
        model: that is trained, in training mode.
        loss: of the model and a batch of inputs and targets.
        optimizer: of its weights.
        inputs: (examples, ...).
        targets: (examples, ...).
        size: of a batch; the last of an epoch holds the rest.
        seed: of the order of the examples.
    """
    source, count = torch.Generator().manual_seed(seed), 0
    while True:
        model.train()
        for rows in torch.split(torch.randperm(len(targets), generator=source), size):
            torch.autograd.backward(loss(model, (inputs[rows], targets[rows])))
            optimizer.step()
            optimizer.zero_grad()
        count += 1
        yield count


def tensors(task: Ordered, split: Split, count: int) -> tuple[Tensor, Tensor]:
    """Return inputs and targets of a split, of so many examples that lie evenly in it."""
    inputs, targets = (torch.cat(parts) for parts in zip(*task.ordered(split, 1000, count), strict=True))
    return inputs, targets


class Lines:
    """Progress in lines on the standard error."""

    def begin(self, total: int, done: int) -> None:
        """Say how much there is."""
        print(f"{done} of {total} are done", file=sys.stderr)

    def running(self, name: str) -> None:
        """Say nothing."""

    def finished(self, name: str) -> None:
        """Say what."""
        print(name, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Say nothing."""


def carried_out(jobs: Mapping[str, Sequence[Job]], out: Path, name: str, **about: Any) -> Mapping[str, Any]:
    """Do the jobs that are not done yet, and write all results as JSON into a directory.

    Args:
        jobs: by the task that each is done on.
        out: the directory.
        name: of the file of results.
        about: what stands beside them in the file.
    """
    networks: list[Result] = []
    for task, wanted in jobs.items():
        kept = [KeptJob(out / "parts", job) for job in wanted]
        with hands(task, {}, tasks.load(task), available()) as both:
            carry_out([kept], both.run, Lines(), "networks")
        networks += kept_results(kept)
    result = {**about, "networks": networks, "versions": versions(), "hardware": hardware(available())}
    write_json(out / name, result)
    return result
