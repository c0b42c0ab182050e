"""Handwritten digits, 8x8 pixels, embedded in scikit-learn: real data that needs no download."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from descend.tasks.base import task
from descend.tasks.splits import standardize, stratified_split
from descend.tasks.tensors import TensorTask

_SPLIT = {"train": 0.6, "validation": 0.2, "test": 0.2}
_SPLIT_SEED = 1998  # of the data set's publication; it draws the splits once and for all


@task
class Digits(TensorTask):
    """1,797 handwritten digits of 8x8 pixels, ten classes; a ConvNet of 13,706 weights.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (its test part, by 13
    writers), as `sklearn.datasets.load_digits` ships it. Split 60/20/20 within every class, drawn once with a fixed
    seed; the writers are in all three parts. Pixels (0 to 16) are standardised with the training part's mean and
    deviation.
    """

    name = "digits"
    title = "Digits 8x8"
    target = 0.95
    steps = 600
    batch_size = 32

    def tensors(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Return the standardised images, shape (n, 1, 8, 8), and their digits."""
        from sklearn.datasets import load_digits  # takes a second to import

        data = load_digits()
        images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1)
        digits = torch.tensor(data.target, dtype=torch.int64)
        parts = stratified_split(digits, _SPLIT, _SPLIT_SEED)
        return standardize({name: (images[chosen], digits[chosen]) for name, chosen in parts.items()})

    def network(self) -> nn.Module:
        """Return two convolutions with pooling and two linear layers."""
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 2 * 2, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )
