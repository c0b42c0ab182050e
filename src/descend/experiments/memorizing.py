"""Do networks that memorise lean on single directions? Zhang et al. 2017 and Morcos et al. 2018 on MNIST and CIFAR-10.

    python -m descend.experiments.memorizing memorizing

Trains small networks on data that are corrupted more and more, each until it fits every training label it is given, and
looks at how long that takes, how well it does on the test set, and how it stands the loss of units. Killed and started
again, it goes on; `memorizing.json` in the directory has the numbers.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from descend.experiments.jobs import Result
from descend.experiments.small_fits import carried_out, epochs, tensors
from descend.generalization import (
    CorruptedLabels,
    GaussianPixels,
    LearningTimes,
    Objective,
    RandomPixels,
    ShuffledPixels,
    accuracy,
    activations,
    class_selectivity,
    cumulative_ablation,
    mutual_information,
    noise_robustness,
    supervised,
    unit_importance,
)
from descend.optim import SGD
from descend.restoring import seeded

SEEDS = (0, 1, 2, 3, 4)
EXAMPLES = {"mnist": 2000, "cifar10": 1000}
"""Of the training data."""
TESTED = 2000
BATCH, RATE, MOMENTUM = 64, 0.02, 0.9
LOSS = 0.01
"""Training loss at which a training ends, if every label is fitted then."""
MOST_EPOCHS = 500
BINS = 30
CRITERION = supervised(nn.functional.cross_entropy)
FORMAT = 1


@dataclass(frozen=True)
class Variant:
    """A network and the data it is trained on.

    Attributes:
        data: "mnist" or "cifar10".
        corruption: "labels", "shuffled pixels", "random pixels" or "gaussian".
        share: of labels drawn anew.
        normalized: whether it has batch normalization.
        dropout: rate behind every hidden layer.
    """

    data: str
    corruption: str = "labels"
    share: float = 0.0
    normalized: bool = False
    dropout: float = 0.0


def variants(data: str) -> list[Variant]:
    """Return the variants that are trained on a data set."""
    plain = [Variant(data, share=share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    pixels = [Variant(data, corruption) for corruption in ("shuffled pixels", "random pixels", "gaussian")]
    normalized = [Variant(data, share=share, normalized=True) for share in (0.0, 0.5, 1.0)]
    dropped = [Variant(data, share=share, dropout=rate) for rate in (0.1, 0.3) for share in (0.0, 1.0)]
    return plain + pixels + normalized + dropped


@dataclass(frozen=True)
class Fit:
    """The job of training one network and measuring it.

    Attributes:
        variant: what is trained on what.
        seed: of weights, order and corruption.
        examples: of the training data.
        epochs: at most.
    """

    variant: Variant
    seed: int
    examples: int
    epochs: int = MOST_EPOCHS

    @property
    def name(self) -> str:
        """By the variant and the seed."""
        return " ".join(str(value) for value in [*asdict(self.variant).values(), self.seed])

    @property
    def depends(self) -> Mapping[str, Any]:
        """All of it."""
        return {"format": FORMAT, **asdict(self)}

    def holds(self, result: Result) -> bool:
        """Tell that there is nothing beside the result."""
        return True

    def run(self, task: Any) -> Result:
        """Train until everything is fitted, and measure."""
        inputs, labels, wrong = _corrupted(self.variant, *tensors(task, "train", self.examples), self.seed)
        model = network(self.variant, self.seed)
        batches = [(inputs, labels)]
        trained = _train(model, inputs, labels, self.seed, self.epochs)
        found = {**asdict(self.variant), "seed": self.seed, "wrong_share": wrong, **trained}
        found["test_accuracy"] = self._tested(task, model)
        if self.variant.corruption != "labels":
            return found
        score = Objective(model, supervised(accuracy), batches)
        zero, mean, noise = cumulative_ablation(score), cumulative_ablation(score, to="mean"), noise_robustness(score)
        curves = {"zero": zero, "mean": mean, "noise": noise}
        areas = {name: {"area": one.area, "amounts": one.amounts, "means": one.means} for name, one in curves.items()}
        return {
            **found,
            "units": zero.units,
            "dead": zero.dead,
            "curves": areas,
            "layers": _layers(score, self.variant == Variant(self.variant.data, share=self.variant.share)),
        }

    def _tested(self, task: Any, model: nn.Module) -> float:
        images, targets = tensors(task, "test", TESTED)
        if self.variant.corruption == "shuffled pixels":  # one permutation for training and test images
            images = _stacked(ShuffledPixels(TensorDataset(images, targets), seed=self.seed))[0]
        return Objective(model, supervised(accuracy), [(images, targets)]).value()


def network(variant: Variant, seed: int) -> nn.Sequential:
    """Return a perceptron for MNIST, a small convolutional network for CIFAR-10."""
    with seeded(seed):
        if variant.data == "mnist":
            sizes = (784, 256, 256)
            layers = [
                layer
                for before, after in pairwise(sizes)
                for layer in (nn.Linear(before, after), *_behind(variant, nn.BatchNorm1d(after)))
            ]
            return nn.Sequential(nn.Flatten(), *layers, nn.Linear(256, 10))
        widths = (3, 16, 32, 32)
        layers = [
            layer
            for before, after in pairwise(widths)
            for layer in (nn.Conv2d(before, after, 3, stride=2, padding=1), *_behind(variant, nn.BatchNorm2d(after)))
        ]
        return nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(512, 64), *_behind(variant, nn.BatchNorm1d(64)), nn.Linear(64, 10)
        )


def _behind(variant: Variant, normalization: nn.Module) -> Iterator[nn.Module]:
    if variant.normalized:
        yield normalization
    yield nn.ReLU()
    if variant.dropout:
        yield nn.Dropout(variant.dropout)


def _corrupted(variant: Variant, inputs: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor, float]:
    """Return the training data as they are given to the network, and the share of labels that are wrong."""
    dataset: Any = TensorDataset(inputs, labels)
    pixels = {"shuffled pixels": ShuffledPixels, "random pixels": RandomPixels, "gaussian": GaussianPixels}
    if variant.corruption in pixels:
        return *_stacked(pixels[variant.corruption](dataset, seed=seed)), 0.0
    drawn = CorruptedLabels(dataset, variant.share, classes=10, seed=seed)
    return inputs, drawn.labels, drawn.wrong_share


def _stacked(dataset: Any) -> tuple[Tensor, Tensor]:
    images, targets = zip(*(dataset[place] for place in range(len(dataset))), strict=True)
    return torch.stack(images), torch.stack(targets)


def _train(model: nn.Module, inputs: Tensor, labels: Tensor, seed: int, most: int) -> Result:
    """Train until all labels are fitted and the loss is low; return how that went."""
    optimizer = SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)
    times = LearningTimes(model, [(inputs, labels)])
    fitted, way = None, []
    with seeded(seed):
        for epoch in epochs(model, CRITERION, optimizer, inputs, labels, BATCH, seed):
            times.look()
            loss, right = times.last
            way.append([epoch, loss, right])
            fitted = epoch if fitted is None and right == 1 else fitted
            if (right == 1 and loss <= LOSS) or epoch == most or not math.isfinite(loss):
                break
    return {"epochs": epoch, "epochs_to_fit": fitted, "train_loss": loss, "train_accuracy": right, "way": way[:100]}


def _layers(score: Objective, is_plain: bool) -> list[Result]:
    """How selective the units of each layer are, and of plain networks, how much each matters by itself."""
    found = activations(score)
    rises = unit_importance(score.with_loss(CRITERION)) if is_plain else None  # accuracy is too coarse for one unit
    selective, informed = class_selectivity(found), mutual_information(found, bins=BINS)
    by_chance = mutual_information(found, bins=BINS, shuffled=0)
    rows = []
    for name, layer in found.layers.items():
        is_live = ~layer.dead
        rows.append(
            {
                "layer": name,
                "selectivity": selective[name][is_live].tolist(),
                "information": informed[name][is_live].tolist(),
                "information_by_chance": float(by_chance[name][is_live].mean()),
                "importance": None if rises is None else (-rises[name][is_live]).tolist(),
            }
        )
    return rows


def run(out: Path) -> Mapping[str, Any]:
    """Do what is not done yet of the study, and write its numbers as JSON into a directory."""
    jobs = {
        data: [Fit(one, seed, count) for seed in SEEDS for one in variants(data)] for data, count in EXAMPLES.items()
    }
    return carried_out(jobs, out, "memorizing.json", examples=EXAMPLES, seeds=SEEDS)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
