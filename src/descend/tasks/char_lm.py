"""Character language model: War and Peace, or any text."""

import itertools
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from descend.restoring import evaluating, seeded
from descend.sequences import sequence_lengths
from descend.tasks import data
from descend.tasks.base import Average, Direction, EvaluationSplit, TaskError, task
from descend.tasks.subsets import checked_subset

_FILE = "war_and_peace.txt"
_WINDOW = 64  # characters that are predicted in a row, from a state of zeros
_WINDOWS_AT_ONCE = 64
_SHARES = (0.9, 0.05)  # of training and validation; the rest is for the test
_LEAST = 20 * (_WINDOW + 2)  # so that each split has a window
_UNKNOWN = 0
_CHUNK = 1 << 16


@task
class CharLM:
    """War and Peace, 3.3 million characters, or any text; a two-layer LSTM with 128 cells that predicts the next one.

    Source: L. Tolstoy, War and Peace, as prepared by A. Karpathy, J. Johnson and L. Fei-Fei, Visualizing and
    Understanding Recurrent Networks, 2015, arXiv:1506.02078 (public domain). Split by place, so that no part is seen
    in training: the first 90 % for training, the next 5 % for validation, the last 5 % for the test. A character that
    training has not is one unknown symbol.

    A training batch has windows of 64 characters that begin anywhere, each from a state of zeros: no state is carried
    over, so that a batch depends on the seed alone. Validation and test are cut into such windows side by side and read
    whole. The metric is the mean cross entropy in bits per character; windows without a past make it a little larger
    than a state that is carried through the text would.

    With `variable_length` the windows of a training batch have a length that is drawn for it, and the rates of its step
    are multiplied by length / 64, as S. Merity, N. S. Keskar and R. Socher, Regularizing and Optimizing LSTM Language
    Models, 2018, arXiv:1708.02182, section 4.1 (`descend.sequences.sequence_lengths`). The draws are their own, from
    the same seed. Evaluation does not change, and an epoch is counted in windows of 64 all the same.

    Args:
        subset: training characters to take at most, from the beginning, the other splits in proportion.
        data: a UTF-8 text file in place of text/war_and_peace.txt under DESCEND_DATA, or the folder that holds that.
        variable_length: draw the length of each batch's windows.
    """

    name = "char-lm"
    folder = "text"
    title = "Characters of War and Peace"
    description = "War and Peace, 3.3 million characters, or any text; a two-layer LSTM with 128 cells."
    metric = "bits per character"
    direction: Direction = "minimize"
    target = 2.4
    worst = math.inf
    averages: Average = "probabilities"
    block = _WINDOW
    steps = 800
    batch_size = 32
    quick: Mapping[str, int] = {"subset": 200_000, "steps": 75}

    def __init__(
        self, *, subset: int | None = None, data: str | Path | None = None, variable_length: bool = False
    ) -> None:
        if not isinstance(variable_length, bool):
            raise TaskError(f"task {self.name}: variable_length is {variable_length!r}; give True or False")
        self._subset = checked_subset(self.name, subset, _LEAST, "training characters")
        self._data = data
        self._has_variable_length = variable_length

    @property
    def sizes(self) -> Mapping[str, int]:
        """Number of characters in each split."""
        return {name: len(text) for name, text in self._splits.items()}

    @property
    def steps_per_epoch(self) -> int:
        """Steps that predict as many characters as the training split has."""
        return max(1, self.sizes["train"] // (self.batch_size * _WINDOW))

    def model(self, seed: int) -> nn.Module:
        """Return the LSTM over the characters of the training split and the unknown one."""
        characters = int(self._splits["train"].max()) + 1  # which has every character that is known
        with seeded(seed):
            return CharLSTM(characters)

    def batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield characters and those that follow them, both of shape (batch, window)."""
        text = self._splits["train"]
        generator = torch.Generator().manual_seed(seed)
        for length in self._lengths(seed):
            begins = torch.randint(len(text) - length, (self.batch_size, 1), generator=generator)
            windows = text[begins + torch.arange(length + 1)].long()
            yield windows[:, :-1], windows[:, 1:]

    def _lengths(self, seed: int) -> Iterator[int]:
        return sequence_lengths(_WINDOW, seed=seed) if self._has_variable_length else itertools.repeat(_WINDOW)

    def rate_share(self, batch: tuple[Tensor, Tensor]) -> float:
        """Return the batch's length as a share of the usual one."""
        return batch[0].shape[1] / _WINDOW

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean cross entropy per character in nats."""
        characters, following = batch
        return nn.functional.cross_entropy(model(characters).flatten(0, 1), following.flatten())

    def evaluate(self, model: nn.Module, split: EvaluationSplit) -> dict[str, float]:
        """Return the cross entropy per character over a whole split, in nats and in bits."""
        characters, following = self._windows(split)
        parts = zip(*(torch.split(part, _WINDOWS_AT_ONCE) for part in (characters, following)), strict=True)
        with evaluating(model):
            losses = [self.loss(model, batch).item() * len(batch[0]) for batch in parts]
        loss = math.fsum(losses) / len(characters)
        return {"loss": loss, self.metric: loss / math.log(2)}

    def outputs(self, model: nn.Module, split: EvaluationSplit) -> Tensor:
        """Return log-probabilities of each next character, shape (characters of the split, known characters)."""
        parts = torch.split(self._windows(split)[0], _WINDOWS_AT_ONCE)
        with evaluating(model):
            return torch.cat([model(part).log_softmax(2).flatten(0, 1) for part in parts])

    def judge(self, outputs: Tensor, split: EvaluationSplit) -> dict[str, float]:
        """Return the cross entropy of such log-probabilities, in nats and in bits."""
        loss = -outputs.gather(1, self.targets(split)[:, None]).double().mean().item()
        return {"loss": loss, self.metric: loss / math.log(2)}

    def targets(self, split: EvaluationSplit) -> Tensor:
        """Return the characters that follow, by number."""
        return self._windows(split)[1].flatten()

    def _windows(self, split: EvaluationSplit) -> tuple[Tensor, Tensor]:
        """Characters and those that follow them, in windows side by side."""
        text = self._splits[split].long()
        count = (len(text) - 1) // _WINDOW
        characters, following = (text[shift : shift + count * _WINDOW].view(count, _WINDOW) for shift in (0, 1))
        return characters, following

    @cached_property
    def _file(self) -> Path:
        where = data.folder(self.folder, self._data)
        if where is not None and where.is_file():
            return where
        what = "a UTF-8 text such as War and Peace"
        return data.require(self.name, where, [_FILE], what, under=self.folder)[0]

    @cached_property
    def _splits(self) -> dict[str, Tensor]:
        """The splits as indices of characters, uint8 where that is enough for them."""
        text = data.read_text(self._file)
        points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        if len(points) < _LEAST:
            raise TaskError(f"task {self.name}: {self._file} has {len(points)} characters; give {_LEAST} or more")
        ends = [round(len(points) * share) for share in np.cumsum(_SHARES)]
        parts = dict(zip(("train", "validation", "test"), np.split(points, ends), strict=True))
        share = min(1.0, (self._subset or len(parts["train"])) / len(parts["train"]))
        parts = {name: part[: max(_WINDOW + 1, round(share * len(part)))] for name, part in parts.items()}
        known = np.unique(parts["train"])
        return {name: torch.from_numpy(_indices(part, known)) for name, part in parts.items()}


def _indices(points: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Places of characters among the known ones from 1 on, 0 for what is not among them."""
    found = np.empty(len(points), np.uint8 if len(known) < 255 else np.int32)
    for start in range(0, len(points), _CHUNK):  # what is made on the way takes many times the memory
        chunk = points[start : start + _CHUNK]
        places = np.minimum(np.searchsorted(known, chunk), len(known) - 1)
        found[start : start + _CHUNK] = np.where(known[places] == chunk, places + 1, _UNKNOWN)
    return found


class CharLSTM(nn.Module):
    """Characters in, scores of the next character out; the recurrent state begins with zeros.

    Args:
        characters: how many there are.
        cells: of each of the two layers, and of the embedding half as many.
    """

    def __init__(self, characters: int, cells: int = 128) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, cells // 2)
        self.lstm = nn.LSTM(cells // 2, cells, num_layers=2, batch_first=True)
        self.output = nn.Linear(cells, characters)

    def forward(self, characters: Tensor) -> Tensor:
        """Return scores, shape (batch, length, characters), of characters, shape (batch, length)."""
        outputs, _ = self.lstm(self.embedding(characters))
        scores: Tensor = self.output(outputs)
        return scores
