"""Which examples a network learns late or never, and networks and kernels that fit whatever they are given.

Zhang et al. 2017, arXiv:1611.03530: a network that fits random labels can fit anything, so its fit of the real ones
proves nothing. Arpit et al. 2017, arXiv:1706.05394: real examples are learned before wrongly labelled ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from descend.generalization.krylov import whole
from descend.generalization.linear import Conditions
from descend.generalization.objective import Objective
from descend.model_states import run_on

By = Literal["loss", "mean loss", "learned"]


@dataclass(frozen=True)
class Ranking:
    """How the examples of a training were learned, in the order of the batches.

    Attributes:
        losses: of each example at each look, (looks, examples).
        predicted: the class that each example was given at each look, (looks, examples).
        labels: (examples,).
        conditions: what was measured.
    """

    losses: Tensor
    predicted: Tensor
    labels: Tensor
    conditions: Conditions

    @property
    def right(self) -> Tensor:
        """Whether the label was predicted, (looks, examples)."""
        return self.predicted == self.labels

    @property
    def usual(self) -> Tensor:
        """The class that each example was given most often, (examples,): of a mislabelled one mostly the true class."""
        return self.predicted.mode(0).values

    @property
    def learned(self) -> Tensor:
        """The first look from which on an example is predicted as labelled, up to the last; infinite if it never is."""
        since = self.right.flip(0).cumprod(0).sum(0)
        return torch.where(since > 0, len(self.right) - since, torch.inf)

    @property
    def forgotten(self) -> Tensor:
        """How often an example that was right is wrong at the next look (Toneva et al. 2019, arXiv:1812.05159)."""
        return (self.right[:-1] & ~self.right[1:]).sum(0)

    def suspects(self, by: By = "mean loss", count: int | None = None) -> Tensor:
        """Return the places of the examples that are most likely mislabelled, the most suspicious first.

        Args:
            by: the loss at the last look, its mean over all looks, or the time at which an example is learned, with
                ties broken by the mean loss.
            count: of them; by default all.

        Raises:
            ValueError: an argument makes no sense.
        """
        if by not in ("loss", "mean loss", "learned"):
            raise ValueError(f'by is {by!r}; give "loss", "mean loss" or "learned"')
        taken = self.losses.shape[1] if count is None else whole("count", count, 1)
        mean = self.losses.mean(0).nan_to_num(math.inf)
        order = torch.argsort(mean, descending=True, stable=True)
        if by != "mean loss":
            first = self.learned if by == "learned" else self.losses[-1].nan_to_num(math.inf)
            order = order[torch.argsort(first[order], descending=True, stable=True)]
        return order[:taken]


class LearningTimes:
    """A log of which examples a training has learned.

        times = LearningTimes(model, train_batches)
        for epoch in range(epochs):
            train(model)
            times.look()
        times.ranking().suspects(count=100)

    Nothing of the model changes by a look, in evaluation mode; each takes a forward pass over the batches.

    Args:
        model: that is trained.
        batches: of inputs and classes, in the same order in every pass: a list, or a loader that does not shuffle.
        criterion: from outputs and targets to the loss of each example; by default the cross entropy.

    Raises:
        TypeError, ValueError: as `Objective`.
    """

    def __init__(
        self, model: nn.Module, batches: Any, criterion: Callable[[Tensor, Tensor], Tensor] | None = None
    ) -> None:
        if _shuffles(batches):
            raise ValueError("batches is a loader that shuffles, and places would be of its order; give shuffle=False")
        self._criterion = criterion or _cross_entropies
        self._objective = Objective(model, self._loss, batches)
        self._losses: list[Tensor] = []
        self._predicted: list[Tensor] = []
        self._labels = torch.empty(0)
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def look(self) -> None:
        """Note the loss of every example, and whether its label is predicted."""
        self._seen = []
        self._objective.value()
        losses, predicted, labels = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
        if self._losses and not torch.equal(labels, self._labels):
            raise ValueError(
                f"batches gave other labels in this pass ({len(labels)}) than before ({len(self._labels)}); give such"
                " as are the same in every pass, in the same order"
            )
        self._losses.append(losses)
        self._predicted.append(predicted)
        self._labels = labels

    @property
    def last(self) -> tuple[float, float]:
        """The mean loss at the last look, and the share of labels that were predicted."""
        if not self._losses:
            raise ValueError("there was no look yet; call look(), after each epoch say")
        return float(self._losses[-1].mean()), float((self._predicted[-1] == self._labels).double().mean())

    def ranking(self) -> Ranking:
        """Return what was noted.

        Raises:
            ValueError: there was no look.
        """
        if not self._losses:
            raise ValueError("there was no look yet; call look(), after each epoch say")
        return Ranking(
            torch.stack(self._losses), torch.stack(self._predicted), self._labels, self._objective.conditions
        )

    def _loss(self, model: nn.Module, batch: Any) -> Tensor:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not isinstance(batch[1], Tensor):
            raise TypeError(f"batches has a {type(batch).__name__} that is no pair of inputs and classes; give such")
        outputs, targets = run_on(model, batch), batch[1]
        losses = self._criterion(outputs, targets)
        if losses.shape != targets.shape:
            raise ValueError(
                f"criterion gave the shape {tuple(losses.shape)} for {len(targets)} examples; let it return the loss "
                'of each, with reduction="none" say'
            )
        self._seen.append((losses.detach().double().cpu(), outputs.argmax(1).cpu(), targets.cpu()))
        return losses.mean()


def _cross_entropies(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def _shuffles(batches: Any) -> bool:
    """Whether a loader of torch's draws the order of its examples: places would then be of no use."""
    samplers = [getattr(batches, "sampler", None), getattr(getattr(batches, "batch_sampler", None), "sampler", None)]
    return any(isinstance(one, torch.utils.data.RandomSampler) for one in samplers)
