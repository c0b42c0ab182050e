"""Translation: Multi30k from English to German, or any parallel text."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from descend.restoring import evaluating, seeded
from descend.tasks import data
from descend.tasks.base import Average, Direction, EvaluationSplit, task
from descend.tasks.lengths import cut, similar
from descend.tasks.parallel_text import BEGIN, END, PADDING, Pairs, Vocabulary, joined, read_pairs, words
from descend.tasks.subsets import checked_subset

_LONGEST = 48  # words; what is longer is cut, in translating too
_AT_ONCE = 128  # sentences in evaluation
_LEAST = 200

Batch = tuple[Tensor, Tensor]
"""Numbers of the words of source and target, each of shape (sentences, longest), the target with begin and end."""


@dataclass(frozen=True)
class _Loaded:
    pairs: Mapping[str, Pairs]
    source: Vocabulary
    target: Vocabulary
    numbers: Mapping[str, list[tuple[list[int], list[int]]]]


@task
class Translation:
    """29,000 captions of Multi30k from English to German, or any parallel text; a Transformer of 64 dimensions.

    Source: D. Elliott, S. Frank, K. Sima'an and L. Specia, Multi30K, 2016, arXiv:1605.00459 (no licence stated: for
    research). The splits are the data set's: 29,000 pairs for training, 1,014 for validation, 1,000 (test 2016) for the
    test. Words are lower-cased and parted from punctuation; a vocabulary has the words that training has twice or more,
    others are one unknown word. Sentences are cut after 48 words.

    A batch has sentences of similar length, so that little of it is padding. The metric that decides is the cross
    entropy of the target's words, ends of sentences among them, in bits per word. On test data `evaluate` adds BLEU, of
    greedy translations against the sentences as they are written, without regard to case (sacrebleu).

    Args:
        subset: training pairs to take at most, the first ones, the other splits in proportion.
        data: a folder with train, val and test files in two languages (train.en, train.de), or a file with
            "source<TAB>target" in each line, in place of multi30k/ under DESCEND_DATA.
    """

    name = "translation"
    folder = "multi30k"
    title = "Multi30k, English to German"
    description = "29,000 captions of Multi30k from English to German, or any parallel text; a Transformer."
    metric = "bits per word"
    direction: Direction = "minimize"
    target = 3.85
    worst = math.inf
    averages: Average = "probabilities"
    block = 16  # words, about a sentence
    steps = 800
    batch_size = 32
    quick: Mapping[str, int] = {"subset": 4000, "steps": 65}

    def __init__(self, *, subset: int | None = None, data: str | Path | None = None) -> None:
        self._subset = checked_subset(self.name, subset, _LEAST, "training pairs")
        self._data = data

    @property
    def sizes(self) -> Mapping[str, int]:
        """Number of pairs of sentences in each split."""
        return {name: len(pairs) for name, pairs in self._loaded.pairs.items()}

    def model(self, seed: int) -> nn.Module:
        """Return the Transformer over the vocabularies of the training split."""
        sizes = len(self._loaded.source), len(self._loaded.target)
        with seeded(seed):
            return Translator(*sizes)

    def batches(self, seed: int) -> Iterator[Batch]:
        """Yield batches of pairs of similar length; the seed decides which and in what order."""
        pairs = self._loaded.numbers["train"]
        lengths = [(len(target), len(source)) for source, target in pairs]
        generator = torch.Generator().manual_seed(seed)
        for chosen in similar(lengths, min(self.batch_size, len(pairs)), generator):
            yield _padded([pairs[index] for index in chosen])

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean cross entropy per word of the target in nats, the end of each sentence counted as a word."""
        return _losses(model, batch).sum() / _count(batch)

    def evaluate(self, model: nn.Module, split: EvaluationSplit) -> dict[str, float]:
        """Return the cross entropy per word over a whole split, in nats and in bits; on the test split BLEU as well."""
        batches = self._evaluation_batches(split)
        with evaluating(model):
            losses = math.fsum(_losses(model, batch).double().sum().item() for batch in batches)
            loss = losses / sum(map(_count, batches))
            scores = {"loss": loss, self.metric: loss / math.log(2)}
            if split == "test" and math.isfinite(loss):
                scores["BLEU"] = self.bleu(model, split)
        return scores

    def outputs(self, model: nn.Module, split: EvaluationSplit) -> Tensor:
        """Return log-probabilities of each word of the target, shape (words of the split, vocabulary)."""
        with evaluating(model):
            return torch.cat(
                [
                    model(source, target[:, :-1])[target[:, 1:] != PADDING].log_softmax(1)
                    for source, target in self._evaluation_batches(split)
                ]
            )

    def judge(self, outputs: Tensor, split: EvaluationSplit) -> dict[str, float]:
        """Return the cross entropy of such log-probabilities, in nats and in bits; no BLEU, which needs a model."""
        loss = -outputs.gather(1, self.targets(split)[:, None]).double().mean().item()
        return {"loss": loss, self.metric: loss / math.log(2)}

    def targets(self, split: EvaluationSplit) -> Tensor:
        """Return the words of the target by number, ends of sentences among them."""
        targets = [target[:, 1:] for _, target in self._evaluation_batches(split)]
        return torch.cat([target[target != PADDING] for target in targets])

    def _evaluation_batches(self, split: EvaluationSplit) -> list[Batch]:
        pairs = sorted(self._loaded.numbers[split], key=lambda pair: len(pair[1]))  # so that little is padding
        return [_padded(part) for part in cut(pairs, _AT_ONCE)]

    @torch.no_grad()
    def bleu(self, model: nn.Module, split: EvaluationSplit) -> float:
        """Return the BLEU of greedy translations of a split, 0 to 100, case ignored; the model as it is set."""
        from sacrebleu.metrics.bleu import BLEU

        translated = [
            joined(self._loaded.target.words(numbers))
            for pairs in cut(self._loaded.numbers[split], _AT_ONCE)
            for numbers in translate(model, _padded(pairs)[0]).tolist()
        ]
        score: float = (
            BLEU(lowercase=True).corpus_score(translated, [[pair[1] for pair in self._loaded.pairs[split]]]).score
        )
        return score

    @cached_property
    def _loaded(self) -> _Loaded:
        what = "Multi30k's {train,val,test_2016_flickr}.{en,de}"
        pairs = read_pairs(self.name, data.folder(self.folder, self._data), what)
        total = len(pairs["train"])
        taken = min(total, self._subset or total)
        pairs = {name: part[: -(-len(part) * taken // total)] for name, part in pairs.items()}  # rounded up
        divided = {
            name: [(words(source)[:_LONGEST], words(target)[:_LONGEST]) for source, target in part]
            for name, part in pairs.items()
        }
        source, target = (Vocabulary(pair[side] for pair in divided["train"]) for side in (0, 1))
        numbers = {
            name: [(source.numbers(one), [BEGIN, *target.numbers(other), END]) for one, other in part]
            for name, part in divided.items()
        }
        return _Loaded(pairs, source, target, numbers)


class Translator(nn.Module):
    """A Transformer (Vaswani et al. 2017, arXiv:1706.03762) with normalization before each layer, as it trains easier.

    Args:
        source: words of the source's vocabulary.
        target: words of the target's vocabulary.
        width: dimensions of an embedding.
    """

    def __init__(self, source: int, target: int, width: int = 64) -> None:
        super().__init__()
        self.source = nn.Embedding(source, width, padding_idx=PADDING)
        self.target = nn.Embedding(target, width, padding_idx=PADDING)
        self.places = nn.Embedding(_LONGEST + 2, width)
        for embedding in (self.source, self.target, self.places):
            nn.init.normal_(embedding.weight, std=width**-0.5)
        shape: dict[str, Any] = {"nhead": 4, "dim_feedforward": 4 * width, "dropout": 0.0}
        order: dict[str, Any] = {"batch_first": True, "norm_first": True}
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(width, **shape, **order), 2, nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.decoder = nn.TransformerDecoder(
            nn.TransformerDecoderLayer(width, **shape, **order), 2, nn.LayerNorm(width)
        )
        self.output = nn.Linear(width, target)

    def encode(self, source: Tensor) -> Tensor:
        """Return what the decoder reads of a source, shape (sentences, length, width)."""
        encoded: Tensor = self.encoder(self._placed(self.source(source)), src_key_padding_mask=source == PADDING)
        return encoded

    def decode(self, encoded: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Return what tells of the word after each of the target's, shape (sentences, length, width)."""
        later = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).triu(1)
        decoded: Tensor = self.decoder(
            self._placed(self.target(target)),
            encoded,
            tgt_mask=later,
            tgt_key_padding_mask=target == PADDING,
            memory_key_padding_mask=source == PADDING,
        )
        return decoded

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Return scores of the word after each of the target's, shape (sentences, length, words)."""
        scores: Tensor = self.output(self.decode(self.encode(source), source, target))
        return scores

    def _placed(self, embedded: Tensor) -> Tensor:
        scaled = embedded * math.sqrt(embedded.shape[-1])
        placed: Tensor = scaled + self.places(torch.arange(embedded.shape[1]))
        return placed


def translate(model: nn.Module, source: Tensor) -> Tensor:
    """Return greedy translations, shape (sentences, length): the likeliest word at each place, until all have ended."""
    assert isinstance(model, Translator)
    encoded = model.encode(source)
    written = torch.full((len(source), 1), BEGIN)
    has_ended = torch.zeros(len(source), dtype=torch.bool)
    while written.shape[1] <= _LONGEST and not has_ended.all():
        likeliest = model.output(model.decode(encoded, source, written)[:, -1]).argmax(-1)
        likeliest[has_ended] = END
        has_ended |= likeliest == END
        written = torch.cat([written, likeliest[:, None]], 1)
    return written[:, 1:]


def _losses(model: nn.Module, batch: Batch) -> Tensor:
    """Cross entropy of each word of the target, 0 for padding."""
    source, target = batch
    scores = model(source, target[:, :-1])
    following = target[:, 1:].flatten()
    return nn.functional.cross_entropy(scores.flatten(0, 1), following, ignore_index=PADDING, reduction="none")


def _count(batch: Batch) -> int:
    """How many words of the target are predicted."""
    return int((batch[1][:, 1:] != PADDING).sum())


def _padded(pairs: Sequence[tuple[list[int], list[int]]]) -> Batch:
    source, target = (
        nn.utils.rnn.pad_sequence([torch.tensor(pair[side]) for pair in pairs], batch_first=True, padding_value=PADDING)
        for side in (0, 1)
    )
    return source, target
