"""A task of two moons that takes no time, in files of its own."""

SOURCE = '''
import torch
from torch import nn
from descend.tasks import TensorTask, task

@task
class Moons(TensorTask):
    """Two clouds of points, two classes."""

    name = "moons"
    target = 0.9
    steps = 40
    batch_size = 16

    def tensors(self):
        source = torch.Generator().manual_seed(0)
        splits = {}
        for name, count in (("train", 70), ("validation", 30), ("test", 30)):
            targets = torch.arange(count).remainder(2)
            splits[name] = (torch.randn(count, 2, generator=source) + 2.0 * targets[:, None], targets)
        return splits

    def network(self):
        return nn.Sequential(nn.Linear(2, 8), %s nn.ReLU(), nn.Linear(8, 2))
'''


def plain(folder, name="moons"):
    """The file of the task."""
    return written(folder, name, SOURCE % "")


def normalized(folder):
    """The same with batch normalization."""
    return written(folder, "normalized", SOURCE % "nn.BatchNorm1d(8),")


def unordered(folder):
    """The same whose examples cannot be visited in order, and whose layers cannot be rescaled."""
    source = (SOURCE % "").replace("nn.ReLU()", "nn.Tanh()")
    source = source.replace("@task\nclass Moons(TensorTask)", "class Base(TensorTask)")
    source = source.replace('name = "moons"', 'name = "base"')
    own = '''
@task
class Unordered:
    """Without an order of its examples."""

    name, steps, batch_size, title, description = "unordered", 40, 16, "Unordered", "Without an order."
    metric, direction, target, worst = "accuracy", "maximize", 0.9, 0.0

    def __init__(self):
        self._inner = Base()

    sizes = property(lambda self: self._inner.sizes)

    def model(self, seed):
        return self._inner.model(seed)

    def batches(self, seed):
        return self._inner.batches(seed)

    def loss(self, model, batch):
        return self._inner.loss(model, batch)

    def evaluate(self, model, split):
        return self._inner.evaluate(model, split)
'''
    return written(folder, "unordered", source + own)


def written(folder, name, source):
    path = folder / f"{name}.py"
    path.write_text(source)
    return str(path)
