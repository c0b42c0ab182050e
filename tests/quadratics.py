"""Losses that are quadratic in the weights, of which everything is known in closed form."""

import torch
from torch import nn

from descend.generalization import Objective


class Weights(nn.Module):
    """A model that is its weights."""

    def __init__(self, values):
        super().__init__()
        self.weight = nn.Parameter(torch.as_tensor(values, dtype=torch.float64).clone())

    def forward(self):
        return self.weight


def quadratic(at, matrix, slope=None, constant=0.0, **options):
    """The objective constant + slope w + w' matrix w / 2, at some weights."""
    matrix = torch.as_tensor(matrix, dtype=torch.float64)
    slope = torch.zeros(len(matrix), dtype=torch.float64) if slope is None else torch.as_tensor(slope).double()

    def loss(model, batch):
        w = model()
        return constant + slope @ w + w @ matrix @ w / 2

    return Objective(Weights(at), loss, [torch.zeros(1)], **options)
