"""Data sets that are corrupted once and stay so: what a network must memorise, having nothing to learn.

Zhang et al. 2017, arXiv:1611.03530, section 2.1. Wrap the training split only: a test set with corrupted labels says
nothing of generalization. (Shuffled pixels are the exception, one permutation for training and test images.)
Augmentation is to be off: a varied example is no longer the one that was corrupted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsIndex

import torch
from torch import Tensor
from torch.utils.data import Dataset

from descend.generalization.krylov import generator, whole


def corrupted_labels(labels: Tensor, share: float, *, classes: int | None = None, seed: int = 0) -> Tensor:
    """Return labels, each replaced with probability `share` by a class drawn uniformly, the true one included.

    Of K classes a share of share (1 - 1/K) is then wrong, in expectation. One seed draws the same examples and classes
    for every share, so that those of a smaller share are among those of a larger one.

    Args:
        labels: whole numbers from 0 up, (examples,).
        share: from 0 to 1.
        classes: how many there are; by default one more than the largest label.
        seed: of what is drawn.

    Raises:
        ValueError: an argument makes no sense.
    """
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or not len(labels) or labels.min() < 0:
        raise ValueError("labels is no vector of whole numbers from 0 up; give the class of each example")
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
        raise ValueError(f"share is {share!r}; give the probability of a new label, from 0 to 1")
    largest = int(labels.max()) + 1
    count = largest if classes is None else whole("classes", classes, 2)
    if count < max(2, largest):
        raise ValueError(f"classes is {count}, and labels go up to {largest - 1}; give more")
    source = generator(seed)
    is_drawn = torch.rand(len(labels), generator=source, dtype=torch.float64) < share
    drawn = torch.randint(count, (len(labels),), generator=source)
    return torch.where(is_drawn.to(labels.device), drawn.to(labels), labels)


def expected_wrong_share(share: float, classes: int) -> float:
    """Return the share of labels that are wrong when so many are drawn anew: share (1 - 1/classes)."""
    return share * (1 - 1 / classes)


class CorruptedLabels(Dataset[Any]):
    """A data set some of whose labels are drawn anew.

    Attributes:
        labels: as they are given, (examples,).
        wrong: which of them are not the true ones, (examples,).

    Args:
        dataset: of pairs of inputs and classes; read once for its labels.
        share: probability of a new label, from 0 to 1.
        classes: how many there are; by default one more than the largest label.
        seed: of what is drawn.

    Raises:
        ValueError: an argument makes no sense, or the targets are no classes.
    """

    def __init__(self, dataset: Any, share: float, *, classes: int | None = None, seed: int = 0) -> None:
        true = torch.tensor([_class(dataset[place]) for place in range(len(dataset))])
        self._dataset = dataset
        self.labels = corrupted_labels(true, share, classes=classes, seed=seed)
        self.wrong = self.labels != true

    @property
    def wrong_share(self) -> float:
        """The share of the examples whose label is wrong: less than was drawn anew, since some are drawn right."""
        return float(self.wrong.double().mean())

    def __len__(self) -> int:
        """Number of examples."""
        return len(self._dataset)

    def __getitem__(self, place: int) -> tuple[Any, Any]:
        """Return an example's inputs and its label, in the type that the data set has."""
        inputs, target = self._dataset[place]
        label = self.labels[place]
        return inputs, label.to(target) if isinstance(target, Tensor) else int(label)


class ShuffledPixels(Dataset[Any]):
    """A data set whose images are all permuted by one permutation of their positions; channels stay together.

    Give test images the same seed: the network then learns as much as one that does not know of neighbourhood.

    Args:
        dataset: of pairs of images, (channels, height, width) or (height, width), and anything; of tensors.
        seed: of the permutation.
    """

    def __init__(self, dataset: Any, *, seed: int = 0) -> None:
        self._dataset = dataset
        self._order = torch.randperm(_positions(_image(dataset)), generator=generator(seed))

    def __len__(self) -> int:
        """Number of examples."""
        return len(self._dataset)

    def __getitem__(self, place: int) -> tuple[Tensor, Any]:
        """Return an example's permuted image, and its target."""
        image, target = self._dataset[place]
        return _permuted(image, self._order), target


class RandomPixels(Dataset[Any]):
    """A data set each of whose images has a permutation of its own.

    Args:
        dataset: of pairs of images, (channels, height, width) or (height, width), and anything; of tensors.
        seed: of the permutations; that of an example depends on it and on the example's place only.
    """

    def __init__(self, dataset: Any, *, seed: int = 0) -> None:
        _image(dataset)
        self._dataset, self._seeds = dataset, _seeds(dataset, seed)

    def __len__(self) -> int:
        """Number of examples."""
        return len(self._dataset)

    def __getitem__(self, place: int) -> tuple[Tensor, Any]:
        """Return an example's permuted image, and its target."""
        image, target = self._dataset[place]
        source = torch.Generator().manual_seed(self._seeds[place])
        return _permuted(image, torch.randperm(_positions(image), generator=source)), target


class GaussianPixels(Dataset[Any]):
    """A data set whose images are Gaussian noise, with the mean and the variance that all pixels of the data set have.

    They are of a floating type, as the images must be, and not cut off at its least and largest pixel.

    Args:
        dataset: of pairs of images of a floating type and anything; of tensors; read once.
        seed: of the noise; that of an example depends on it and on the example's place only.
    """

    def __init__(self, dataset: Any, *, seed: int = 0) -> None:
        if not _image(dataset).is_floating_point():
            raise ValueError(f"images are of {_image(dataset).dtype}; make them of a floating type first")
        self._dataset, self._seeds = dataset, _seeds(dataset, seed)
        images = [dataset[place][0].double() for place in range(len(dataset))]
        count = sum(image.numel() for image in images)
        self.mean = float(sum(image.sum() for image in images) / count)
        self.deviation = float(sum((image - self.mean).square().sum() for image in images) / count) ** 0.5

    def __len__(self) -> int:
        """Number of examples."""
        return len(self._dataset)

    def __getitem__(self, place: int) -> tuple[Tensor, Any]:
        """Return noise in the shape of an example's image, and its target."""
        image, target = self._dataset[place]
        source = torch.Generator().manual_seed(self._seeds[place])
        noise = torch.randn(image.shape, generator=source, dtype=torch.float64)
        return (self.mean + self.deviation * noise).to(image), target


def _seeds(dataset: Any, seed: int) -> Sequence[int]:
    """Return a seed for each example; those of two data sets, or of two seeds, have nothing to do with each other."""
    seeds: list[int] = torch.randint(2**62, (len(dataset),), generator=generator(seed)).tolist()
    return seeds


def _class(example: Any) -> int:
    target = example[1] if isinstance(example, (tuple, list)) and len(example) == 2 else None
    if isinstance(target, Tensor) and target.numel() == 1 and not target.is_floating_point():
        return int(target)
    if isinstance(target, bool) or not isinstance(target, SupportsIndex):
        raise ValueError("an example of the data set is no pair of inputs and a class; wrap a data set of such pairs")
    return int(target)


def _image(dataset: Any) -> Tensor:
    example = dataset[0] if len(dataset) else None
    image = example[0] if isinstance(example, (tuple, list)) and len(example) == 2 else None
    if not isinstance(image, Tensor) or image.ndim not in (2, 3):
        raise ValueError(
            "an example of the data set is no pair of an image, a tensor of 2 or 3 dimensions, and a target; wrap a "
            "data set of such pairs"
        )
    return image


def _positions(image: Tensor) -> int:
    return image.shape[-1] * image.shape[-2]


def _permuted(image: Tensor, order: Tensor) -> Tensor:
    return image.flatten(-2)[..., order.to(image.device)].reshape(image.shape)
