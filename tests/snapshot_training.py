"""What the tests of snapshots and ensembles share: small models, batches that repeat, and comparisons to the bit."""

import torch
from torch import nn

from descend.snapshots import SnapshotStore


class Net(nn.Module):
    """Everything that training moves: weights, batch normalization's statistics, dropout's draws."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.drop, self.last = (
            nn.Linear(4, 8),
            nn.BatchNorm1d(8),
            nn.Dropout(0.3),
            nn.Linear(8, 3),
        )

    def forward(self, inputs):
        return self.last(self.drop(torch.relu(self.norm(self.first(inputs)))))


class Tied(nn.Module):
    """Two names of one weight."""

    def __init__(self):
        super().__init__()
        self.words, self.out = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
        self.out.weight = self.words.weight

    def forward(self, inputs):
        return self.out(self.words(inputs))


class Map(nn.Sequential):
    """Scores of classes in dimension 1, of every place in a picture."""

    def __init__(self):
        super().__init__(nn.Conv2d(4, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 3, 1))


class Memory(nn.Module):
    """vmap knows no LSTM."""

    def __init__(self):
        super().__init__()
        self.memory, self.last = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, inputs):
        return self.last(self.memory(inputs)[0][:, -1])


def made(model=Net, seed=0):
    torch.manual_seed(seed)
    return model()


def batch(step, dtype=torch.float32):
    """The batch of a step: the same whenever it is asked for."""
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(8, 4, generator=generator)
    return inputs.to(dtype), inputs[:, :3].argmax(1)


def train_step(model, optimizer, step, scaler=None, spoiled=False):
    inputs, targets = batch(step, next(model.parameters()).dtype)
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(inputs).float(), targets)
    if scaler is None:
        loss.backward()
        optimizer.step()
    else:
        scaler.scale(loss).backward()
        if spoiled:
            next(model.parameters()).grad[0] = torch.inf
        scaler.step(optimizer)
        scaler.update()


def same(first, second):
    """Whether two states have the same names, types and bits."""
    return list(first) == list(second) and all(same_bits(first[name], second[name]) for name in first)


def same_bits(first, second):
    first, second = first.detach().contiguous(), second.detach().contiguous()
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    return torch.equal(first.reshape(-1).view(torch.uint8), second.reshape(-1).view(torch.uint8))


def copied(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def content(folder):
    """What the files in a folder hold, those that begin with a dot left out."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def numbered(value, size=2):
    """A model whose weights tell which it is."""
    model = nn.Linear(size, 1)
    nn.init.constant_(model.weight, value)
    return model


def filled(folder, steps=(1, 2, 3), **budget):
    store = SnapshotStore(folder, **budget)
    for step in steps:
        store.add(numbered(step), step=step, cycle=step)
    return store


def steps_of(store):
    return [one.step for one in SnapshotStore(store.folder)]
