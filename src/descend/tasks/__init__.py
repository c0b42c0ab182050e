"""Problems to train on: data, model, loss and metric under one name.

A task says how to make a model, which batches it sees, what its loss is and how it is judged; nothing in it knows about
optimizers. `load("digits")` gives a built-in task, `load("mytask.py")` the one in your own file:

    import torch
    from torch import nn
    from descend.tasks import TensorTask, standardize, stratified_split, task

    @task
    class Mine(TensorTask):
        "Points in the unit square, two classes; a multilayer perceptron."
        name, target = "mine", 0.9  # the validation accuracy that counts as reached

        def tensors(self):  # your inputs and targets, in three splits
            inputs = torch.rand(500, 2, generator=torch.Generator().manual_seed(0))
            targets = (inputs[:, 0] > inputs[:, 1]).long()
            parts = stratified_split(targets, {"train": 0.6, "validation": 0.2, "test": 0.2}, seed=0)
            return standardize({name: (inputs[chosen], targets[chosen]) for name, chosen in parts.items()})

        def network(self):  # your model, freshly initialised
            return nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))

Every file in this package holds one task, found by its `@task`.
"""

from descend.restoring import seeded
from descend.tasks.base import (
    Averages,
    Direction,
    EvaluationSplit,
    Ordered,
    ScalesRates,
    Task,
    TaskError,
    averages,
    rate_share,
    task,
)
from descend.tasks.registry import Problem, catalog, find, load
from descend.tasks.script import Script
from descend.tasks.splits import standardize, stratified_split
from descend.tasks.tensors import TensorTask

__all__ = [
    "Averages",
    "Direction",
    "EvaluationSplit",
    "Ordered",
    "Problem",
    "ScalesRates",
    "Script",
    "Task",
    "TaskError",
    "TensorTask",
    "averages",
    "catalog",
    "find",
    "load",
    "rate_share",
    "seeded",
    "standardize",
    "stratified_split",
    "task",
]
