"""What fits MNIST without any learning: a kernel's solution of least norm, and a network of 2n + d weights.

    python -m descend.experiments.fits_of_anything fits.json

Zhang et al. 2017, arXiv:1611.03530: the solution of least norm of a Gaussian kernel, with nothing to hold it back,
generalizes (section 5), and two layers of 2n + d weights fit any labels (theorem 1).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from descend import tasks
from descend.experiments.manifest import hardware, versions
from descend.experiments.run_directory import write_json
from descend.generalization import Kernel, corrupted_labels, fitting_network, minimum_norm

COUNTS = (1000, 3000, 10_000)
RANDOM = 1000
GAMMA = 0.02
"""Of the Gaussian kernel, on pixels from 0 to 1."""


def kernel_errors(task: Any, kernel: Kernel, gamma: float | None, counts: tuple[int, ...] = COUNTS) -> dict[str, Any]:
    """Return the test error of the solution of least norm by the number of training examples, and its residual."""
    images, classes = _pixels(task, "test")
    found = {}
    for count in counts:
        solution = minimum_norm(*_pixels(task, "train", count), kernel, gamma=gamma)
        outputs = torch.cat([solution(part) for part in torch.split(images, 1000)])
        wrong = (outputs.argmax(1) != classes).double().mean().item()
        found[str(count)] = {"test_error": wrong, "residual": solution.residual}
    return found


def random_labels(task: Any, count: int = RANDOM) -> dict[str, Any]:
    """Return how well a network of 2n + d weights fits random labels of images."""
    images, classes = _pixels(task, "train", count)
    labels = corrupted_labels(classes, 1.0, classes=10)
    network = fitting_network(images, labels)
    outputs = network(images).detach()
    return {
        "examples": count,
        "dimensions": images[0].numel(),
        "weights": sum(one.numel() for one in network.parameters()),
        "fitted": (outputs.round().long() == labels).double().mean().item(),
        "largest_miss": float((outputs - labels).abs().max()),
    }


def _pixels(task: Any, split: str, count: int | None = None) -> tuple[Tensor, Tensor]:
    """Return images as numbers from 0 to 1, and their classes."""
    images, classes = (torch.cat(parts) for parts in zip(*task.ordered(split, 1000, count), strict=True))
    return (images - images.min()) / (images.max() - images.min()), classes  # the task standardises


def run(out: Path) -> Mapping[str, Any]:
    """Do it and write the numbers as JSON."""
    task = tasks.load("mnist")
    result = {
        "gaussian": kernel_errors(task, "gaussian", GAMMA),
        "linear": kernel_errors(task, "linear", None),
        "random_labels": random_labels(task),
        "versions": versions(),
        "hardware": hardware(1),
    }
    write_json(out, result)
    return result


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1])), indent=1))
