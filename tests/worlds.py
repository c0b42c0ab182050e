"""Two optimizers to which the same is done, one of which steps by kernels; and the table of what is done to them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import descend
from fused_optimizers import random

SHAPES = [(4, 3), (7,), (), (5, 5), (65,), (5, 5)]
FIRST, STEPS = 2, 6  # the step before which a scenario happens first, and how many there are


class World:
    """An optimizer over two param groups, and the memory that must stay as it is."""

    def __init__(self, backend, dtype=torch.float64, make=descend.AdamW, **options):
        self.make, self.backend, self.options = make, backend, options
        self.params = [nn.Parameter(random(shape, i, dtype)) for i, shape in enumerate(SHAPES)]
        groups = [{"params": self.params[:3]}, {"params": self.params[3:], "lr": 0.02}]
        self.optimizer = make(groups, lr=0.1, backend=backend, **options)
        self.watched = []
        self.saved = None

    @property
    def state(self):
        return self.optimizer.state

    @property
    def groups(self):
        return self.optimizer.param_groups

    def watch(self, *tensors):
        """Expect that nobody writes to memory that these tensors hold now."""
        for x in tensors:
            x = x.detach()
            self.watched.append((x, x.clone()))

    def check_watched(self):
        for x, before in self.watched:
            assert torch.equal(x, before)

    def stored(self):
        return {
            f"{i} {key}": x.detach().double()
            for i, p in enumerate(self.params)
            for key, x in {"p": p, **self.state.get(p, {})}.items()
        }


@dataclass(frozen=True)
class Scenario:
    """What is done to a world before a step, after its gradients are there.

    Attributes:
        does: called with the world and the step.
        every: whether it is done before every step from the first on.
        eager: how many parameters step eagerly at the end; None for all of them.
    """

    does: Any
    every: bool = False
    eager: int | None = 0
    options: tuple = ()


SCENARIOS = {}


def scenario(every=False, eager=0, **options):
    def register(does):
        SCENARIOS[does.__name__] = Scenario(does, every, eager, tuple(options.items()))
        return does

    return register
