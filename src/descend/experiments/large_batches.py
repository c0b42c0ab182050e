"""Do large batches end in sharper minima? Keskar et al. 2017 on MNIST, and Dinh et al.'s answer to their metric.

    python -m descend.experiments.large_batches large-batches.json

Each seed trains a perceptron with Adam, once with batches of 256 and once with a tenth of the training data, from the
same weights; by two protocols: for the same number of epochs, as the authors' code, and to the same training loss, so
that neither is sharper for being less trained. Sharpness is Keskar's, over all training examples; then one layer of the
small-batch solution is rescaled against the other, which changes no output.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from descend import tasks
from descend.experiments.manifest import hardware, versions
from descend.experiments.run_directory import write_json
from descend.experiments.small_fits import epochs
from descend.experiments.trial import one_thread
from descend.experiments.workers import available, hands
from descend.generalization import Objective, box_sharpness, function_change, reparameterize
from descend.optim import Adam
from descend.tasks import Problem

TASK, SETTINGS = "mnist", {"model": "mlp"}
SEEDS = (0, 1, 2, 3, 4)
SMALL = 256
LARGE_SHARE = 10
"""The large batch is the training data divided by this."""
TARGET = 0.01
"""Training loss at which a training ends, of those to the same loss."""
EPOCHS = 40
"""Of the trainings for the same number."""
MOST_EPOCHS = 600
EPS = (1e-3, 5e-4)
ASCENT = 20
"""Steps of a second search in the box, which does not slow down where gradients are small."""
ALPHAS = (0.05, 0.2, 5.0, 20.0)


def study(seed: int, task: Any, *, examples: int | None = None, most_epochs: int = EPOCHS) -> dict[str, Any]:
    """Train the solutions of a seed by both protocols, and measure them.

    Args:
        seed: of the weights and of the order of the data.
        task: with two linear layers in its model.
        examples: of the training data; by default all.
        most_epochs: of trainings for the same number.
    """
    batches = task.ordered("train", 5000, examples)
    protocols = {"same epochs": (most_epochs, 0.0), "same loss": (MOST_EPOCHS, TARGET)}
    return {"seed": seed, **{name: _both(task, seed, batches, *until) for name, until in protocols.items()}}


def _both(task: Any, seed: int, batches: Any, most: int, target: float) -> dict[str, Any]:
    """Train with small and with large batches, and measure both."""
    inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    found: dict[str, Any] = {}
    for name, size in {"small": SMALL, "large": len(targets) // LARGE_SHARE}.items():
        model = task.model(seed)
        count = _train(task, model, inputs, targets, size, seed, batches, most, target)
        found[name] = {"batch": size, "epochs": count, **_scores(task, model, batches)}
        found[name]["sharpness"] = _sharpness(Objective(model, task.loss, batches))
        if name == "small":
            found["rescaled"] = [_rescaled(task, model, batches, alpha) for alpha in ALPHAS]
    return found


def _train(
    task: Any,
    model: torch.nn.Module,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    size: int,
    seed: int,
    batches: Any,
    most: int,
    target: float,
) -> int:
    """Train to a training loss, looking at it after each epoch, at most so many; return how many there were."""
    objective = Objective(model, task.loss, batches)
    for epoch in epochs(model, task.loss, Adam(model.parameters()), inputs, targets, size, seed):
        if epoch == most or (target and objective.value() <= target):
            break
    return epoch


def _scores(task: Any, model: torch.nn.Module, batches: Any) -> dict[str, float]:
    return {
        "train_loss": Objective(model, task.loss, batches).value(),
        "test_accuracy": task.evaluate(model, "test")[task.metric],
    }


def _sharpness(objective: Objective) -> dict[str, float]:
    found = {f"manifold {EPS[0]:g}": box_sharpness(objective, EPS[0], manifold=100).mean}
    for eps in EPS:
        box = box_sharpness(objective, eps, ascent_steps=ASCENT)
        found |= {f"full {eps:g}": box.mean, f"full {eps:g}, second search": box.ascended[0]}
    return found


def _rescaled(task: Any, model: torch.nn.Module, batches: Any, alpha: float) -> dict[str, Any]:
    other = reparameterize(model, alpha)
    objective = Objective(other, task.loss, batches)
    change = function_change(model, other, batches[0])
    own = {"alpha": alpha, "function_change": change, **_scores(task, other, batches)}
    return {**own, "sharpness": {f"full {EPS[0]:g}": box_sharpness(objective, EPS[0]).mean}}


def _work(task: Problem, seed: int, examples: int | None) -> dict[str, Any]:
    with one_thread():
        return study(seed, task, examples=examples)


def run(out: Path, examples: int | None = None) -> Mapping[str, Any]:
    """Do the study and write its numbers as JSON.

    Args:
        out: the file.
        examples: of the training data; by default all.
    """
    task = tasks.load(TASK, **SETTINGS)
    with hands(TASK, SETTINGS, task, available()) as both:
        done = both.run(partial(_work, examples=examples), SEEDS, lambda seed: print(f"seed {seed}", file=sys.stderr))
        seeds = sorted(done, key=lambda one: int(one["seed"]))
    result = {
        "task": TASK,
        "settings": SETTINGS,
        "examples": examples,
        "target": TARGET,
        "epochs": EPOCHS,
        "seeds": seeds,
    }
    result |= {"versions": versions(), "hardware": hardware(available())}
    write_json(out, result)
    return result


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1])), indent=1))
