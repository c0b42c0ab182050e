"""Small models with their data, and the exact derivatives of their losses, for tests of generalization."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.functional import hessian
from torch.func import functional_call
from torch.nn.functional import cross_entropy


class Attending(nn.Module):
    """Attention over five tokens, then classes."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.out = nn.Linear(4, 3)

    def forward(self, inputs):
        return self.out(self.attention(inputs, inputs, inputs, need_weights=False)[0].mean(1))


class Recurrent(nn.Module):
    """An LSTM over five tokens, then classes."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 3, batch_first=True)
        self.out = nn.Linear(3, 3)

    def forward(self, inputs):
        return self.out(self.lstm(inputs)[0][:, -1])


class Tied(nn.Module):
    """One matrix used twice, under two names."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight

    def forward(self, inputs):
        return self.second(torch.tanh(self.first(inputs)))[:, :3]


class Wasteful(nn.Module):
    """A layer that the output does not depend on, and one that is frozen."""

    def __init__(self):
        super().__init__()
        self.used, self.unused, self.frozen = nn.Linear(4, 3), nn.Linear(2, 2), nn.Linear(3, 3)
        self.frozen.requires_grad_(False)

    def forward(self, inputs):
        return self.frozen(torch.tanh(self.used(inputs)))


def perceptron():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def convolutional():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Softplus(), nn.Flatten(), nn.Linear(8, 3))


def normalized():
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))


def dropping():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 3))


SHAPES = {
    perceptron: (4,),
    convolutional: (1, 4, 4),
    normalized: (4,),
    dropping: (4,),
    Attending: (5, 4),
    Recurrent: (5, 4),
    Tied: (4,),
    Wasteful: (4,),
}
"""What each model takes."""


@dataclass
class Case:
    """A model in float64 with two batches, the second one short."""

    model: nn.Module
    batches: list[Any]

    @classmethod
    def of(cls, make, dtype=torch.float64, seed=0):
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = make().to(dtype)
        batches = [
            (
                torch.randn(size, *SHAPES[make], generator=generator).to(dtype),
                torch.randint(3, (size,), generator=generator),
            )
            for size in (7, 4)
        ]
        return cls(model, batches)

    def exact(self):
        """The Hessian of the loss over all examples, with respect to all parameters that require gradients."""
        return exact_hessian(self.model, self.batches)


def exact_hessian(model, batches, criterion=cross_entropy):
    """By torch's own function, from the weighted sum of the batches' losses; in the mode that the model is in."""
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    sizes = [value.numel() for value in parameters.values()]
    examples = sum(len(inputs) for inputs, _ in batches)

    def loss(flat):
        parts = {
            name: part.view(value.shape)
            for (name, value), part in zip(parameters.items(), flat.split(sizes), strict=True)
        }
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            losses = [len(x) * criterion(functional_call(model, parts, (x,)), y) for x, y in batches]
        return sum(losses) / examples

    return hessian(loss, torch.cat([value.detach().flatten() for value in parameters.values()]))


def traces(model):
    """All that measuring must leave alone: bits, and the tensors themselves."""
    tensors = dict(model.state_dict(keep_vars=True))
    gradients = {name: value.grad for name, value in model.named_parameters()}
    return {
        "values": {name: value.detach().clone() for name, value in tensors.items()},
        "tensors": {name: id(value) for name, value in tensors.items()},
        "versions": {name: value._version for name, value in tensors.items()},
        "gradients": {name: (id(value), None if value is None else value.clone()) for name, value in gradients.items()},
        "modes": [module.training for module in model.modules()],
        "hooks": [len(module._forward_hooks) for module in model.modules()],
        "random": torch.get_rng_state(),
    }


def assert_untouched(before, after):
    for name, value in before["values"].items():
        assert torch.equal(value, after["values"][name]), name
    for name, (identity, value) in before["gradients"].items():
        assert after["gradients"][name][0] == identity, name
        assert value is None or torch.equal(value, after["gradients"][name][1]), name
    for what in ("tensors", "versions", "modes", "hooks"):
        assert before[what] == after[what], what
    assert torch.equal(before["random"], after["random"])
