"""Which measures order the generalization gaps of 40 small networks? Jiang et al. 2020 on MNIST and on CIFAR-10.

    python -m descend.experiments.measured_gaps measured-gaps

Trains networks of two depths and two widths with two sizes of batches, from five seeds, each to the same training loss,
so that none has a gap for being less trained, and asks of each measure whether it orders the gaps where only one of the
three differs. Killed and started again, it goes on; `measured-gaps.json` in the directory has the numbers.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from descend.experiments.jobs import Result
from descend.experiments.run_directory import write_json
from descend.experiments.small_fits import carried_out, epochs, tensors
from descend.generalization import Objective, accuracy, granulated_kendall, measures, supervised
from descend.optim import SGD
from descend.restoring import seeded

SEEDS = (0, 1, 2, 3, 4)
DEPTHS, WIDTHS, BATCHES = (1, 3), {"mnist": (64, 256), "cifar10": (8, 24)}, (16, 128)
EXAMPLES = {"mnist": 2000, "cifar10": 1000}
"""Of the training data."""
TESTED = 10_000
RATES, MOMENTUM = {"mnist": 0.02, "cifar10": 0.005}, 0.9
"""At 0.02 batches of 16 leave the small networks for CIFAR-10 untrained."""
LOSS = 0.01
"""Training loss at which a training ends."""
MOST_EPOCHS = 2000
SAMPLES, STEPS, ASCENT = 5, 15, 5
"""Draws, bisections and steps of a search, of the measures that need them."""
FORMAT = 1


@dataclass(frozen=True)
class Measured:
    """The job of training one network and measuring it.

    Attributes:
        data: "mnist" or "cifar10".
        depth: hidden layers of a perceptron, convolutions behind the first of a network for CIFAR-10.
        width: units of a hidden layer, channels of a convolution.
        batch: examples of a batch.
        seed: of weights and order.
    """

    data: str
    depth: int
    width: int
    batch: int
    seed: int

    @property
    def name(self) -> str:
        """By the settings and the seed."""
        return " ".join(str(value) for value in asdict(self).values())

    @property
    def depends(self) -> Mapping[str, Any]:
        """All of it."""
        return {"format": FORMAT, "rate": RATES[self.data], **asdict(self)}

    def holds(self, result: Result) -> bool:
        """Tell that there is nothing beside the result."""
        return True

    def run(self, task: Any) -> Result:
        """Train to the loss, and measure."""
        batch = tensors(task, "train", EXAMPLES[self.data])
        model, criterion = network(self), supervised(nn.functional.cross_entropy)
        objective, right = Objective(model, criterion, [batch]), supervised(accuracy)
        start = objective.weights()
        optimizer = SGD(model.parameters(), lr=RATES[self.data], momentum=MOMENTUM)
        for epoch in epochs(model, criterion, optimizer, *batch, self.batch, self.seed):
            loss = objective.value()
            if loss <= LOSS or epoch == MOST_EPOCHS:
                break
        test = [tensors(task, "test", TESTED)]
        found = measures(objective, start, samples=SAMPLES, steps=STEPS, ascent_steps=ASCENT)
        train_accuracy, test_accuracy = (Objective(model, right, data).value() for data in ([batch], test))
        return {
            **asdict(self),
            "epochs": epoch,
            "train_loss": loss,
            "gap": train_accuracy - test_accuracy,
            "loss_gap": Objective(model, criterion, test).value() - loss,
            "train_accuracy": train_accuracy,
            "test_accuracy": test_accuracy,
            "measures": {name: one.value for name, one in found.items()},
            "undefined": {name: one.undefined for name, one in found.items() if one.undefined},
        }


def network(wanted: Measured) -> nn.Sequential:
    """Return a perceptron for MNIST, a convolutional network for CIFAR-10."""
    width = wanted.width
    with seeded(wanted.seed):
        if wanted.data == "mnist":
            hidden = [
                layer
                for before in (784, *[width] * (wanted.depth - 1))
                for layer in (nn.Linear(before, width), nn.ReLU())
            ]
            return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, 10))
        first = [nn.Conv2d(3, width, 3, stride=2, padding=1), nn.ReLU()]
        more = [
            layer
            for number in range(wanted.depth)
            for layer in (nn.Conv2d(width, width, 3, stride=2 if number == 0 else 1, padding=1), nn.ReLU())
        ]
        return nn.Sequential(*first, *more, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16 * width, 10))


def jobs(data: str) -> Iterator[Measured]:
    """Yield the networks of a data set."""
    for seed, depth, width, batch in itertools.product(SEEDS, DEPTHS, WIDTHS[data], BATCHES):
        yield Measured(data, depth, width, batch, seed)


def ranked(networks: list[Result], gap: str) -> dict[str, Any]:
    """Return how each measure orders the gaps, where it is defined for all networks.

    Args:
        networks: of one data set.
        gap: "gap", of accuracy, or "loss_gap".
    """
    settings = [{name: one[name] for name in ("depth", "width", "batch", "seed")} for one in networks]
    found = {}
    for name in networks[0]["measures"]:
        values = [one["measures"][name] for one in networks]
        if None in values:
            found[name] = {"undefined": next(one["undefined"][name] for one in networks if name in one["undefined"])}
            continue
        psi = granulated_kendall(values, [one[gap] for one in networks], settings, replicates="seed")
        axes = {axis: {"tau": one.tau, "interval": one.interval} for axis, one in psi.axes.items()}
        found[name] = {"psi": psi.psi, "interval": psi.interval, "axes": axes, "sentence": psi.sentence}
    return found


def run(out: Path) -> Mapping[str, Any]:
    """Do what is not done yet of the study, and write its numbers as JSON into a directory."""
    result = dict(carried_out({data: list(jobs(data)) for data in EXAMPLES}, out, "networks.json", examples=EXAMPLES))
    for data in EXAMPLES:
        networks = [one for one in result["networks"] if one["data"] == data]
        result[data] = {gap: ranked(networks, gap) for gap in ("gap", "loss_gap")}
        result[data]["not trained to the loss"] = sum(one["train_loss"] > LOSS for one in networks)
    write_json(out / "measured-gaps.json", result)
    return result


if __name__ == "__main__":
    run(Path(sys.argv[1]))
