"""Compare optimizers on your own model and data: one file with one task.

    descend compare --task examples/mytask.py --quick --optimizers adamw,sgd,lion

This one tells malignant from benign tumours by 30 measurements (569 cases, embedded in scikit-learn) with a small
multilayer perceptron. To make it yours, give it your tensors and your network. The rest has defaults that fit a
classification: loss and metric are the cross entropy and the accuracy.

For something else override `criterion(outputs, targets)`, the mean loss to be minimised, and `score(outputs, targets)`,
the number that decides. A regression could say

    metric, direction, worst, target = "mean absolute error", "minimize", float("inf"), 0.2

    def criterion(self, outputs, targets):
        return nn.functional.mse_loss(outputs, targets)

    def score(self, outputs, targets):
        return (outputs - targets).abs().mean().item()

Data that do not fit in memory need a class of their own with the members of `descend.tasks.Task`.
"""

import torch
from sklearn.datasets import load_breast_cancer
from torch import nn

from descend.tasks import TensorTask, standardize, stratified_split, task


@task
class Tumours(TensorTask):
    """569 tumours by 30 measurements, two classes; a multilayer perceptron of 1,058 weights."""

    name = "tumours"
    title = "Breast tumours"
    target = 0.95  # the validation accuracy that counts as reached
    steps = 400  # of one training run; with --quick a quarter of them
    batch_size = 32

    def tensors(self):
        """Return inputs and targets of the three splits: rates are chosen on validation, the test set is seen once."""
        data = load_breast_cancer()
        inputs = torch.tensor(data.data, dtype=torch.float32)
        targets = torch.tensor(data.target)
        parts = stratified_split(targets, {"train": 0.6, "validation": 0.2, "test": 0.2}, seed=0)
        return standardize({name: (inputs[chosen], targets[chosen]) for name, chosen in parts.items()})

    def network(self):
        """Return a new model; its initial weights come from torch's generator, which holds the run's seed by now."""
        return nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 2))
