"""Dependency parsing: Universal Dependencies' English Web Treebank, or any CoNLL-U files."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from descend.restoring import evaluating, seeded
from descend.tasks import conllu, data
from descend.tasks.base import Average, Direction, EvaluationSplit, TaskError, task
from descend.tasks.conllu import Sentence
from descend.tasks.lengths import cut, similar
from descend.tasks.subsets import checked_subset

_WHAT = "the files of UD_English-EWT (https://universaldependencies.org), such as en_ewt-ud-train.conllu"
_SUBSET_SEED = 2017  # draws the sentences of a subset once and for all
_LEAST = 100
_LONGEST = 128  # words of a sentence that is trained on; validation and test have all
_AT_ONCE = 64  # sentences in evaluation

PADDING, UNKNOWN, ROOT = range(3)
"""Numbers of what is no known word or tag; those follow."""
IGNORED = -100
"""Head and relation where there is none to learn: of the root, and of padding."""

Batch = tuple[Tensor, Tensor, Tensor, Tensor]
"""Words, tags, heads and relations by number, each of shape (sentences, 1 + longest); at place 0 stands the root."""


@dataclass(frozen=True)
class _Loaded:
    """The splits by number, each sentence of shape (4, 1 + words), and how many of what the training split has."""

    splits: Mapping[str, list[Tensor]]
    words: int
    tags: int
    relations: int


@task
class Parsing:
    """16,622 English sentences of the web with dependency trees, or any CoNLL-U files; a biaffine parser.

    Source: N. Silveira et al., A Gold Standard Dependency Corpus for English, LREC 2014, as UD English EWT (CC BY-SA
    4.0). The splits are the treebank's: 12,544 sentences for training, 2,001 for validation, 2,077 for the test. One
    CoNLL-U file is split 80/10/10 by sentences, drawn with a fixed seed. Multiword tokens and empty nodes are left out,
    and so are the subtypes of relations. Words are lower-cased; the vocabulary has those that training has twice or
    more, others are one unknown word. Training leaves out sentences of more than 128 words.

    A batch has sentences of similar length. The parser reads words and the treebank's own universal parts of speech, so
    its scores stand above those of parsers that read text alone. Its loss is the cross entropy of the right head among
    all words plus that of the relation to the right head, per word and in nats.

    The metric is the labelled attachment score (LAS): the share of words, punctuation included, whose head and
    universal relation are both right, as the CoNLL 2018 shared task counts (Zeman et al. 2018, K18-2001) on given
    words. Each word takes the head that scores highest; the heads of a sentence need not form a tree. `evaluate` adds
    the share of right heads (UAS).

    Args:
        subset: training sentences to take at most, drawn with a fixed seed, the other splits in proportion.
        data: a folder with one .conllu or .conllu.gz file each for train, dev and test, or a single such file, in place
            of ud-english-ewt/ under DESCEND_DATA.
    """

    name = "parsing"
    folder = "ud-english-ewt"
    title = "Parsing UD English EWT"
    description = "16,622 English sentences with dependency trees, or any CoNLL-U files; a biaffine parser."
    metric = "LAS"
    direction: Direction = "maximize"
    target = 0.83
    worst = 0.0
    averages: Average = "probabilities"
    steps = 1200
    batch_size = 32
    quick: Mapping[str, int] = {"subset": 1500, "steps": 100}

    def __init__(self, *, subset: int | None = None, data: str | Path | None = None) -> None:
        self._subset = checked_subset(self.name, subset, _LEAST, "training sentences")
        self._data = data

    @property
    def sizes(self) -> Mapping[str, int]:
        """Number of sentences in each split."""
        return {name: len(sentences) for name, sentences in self._loaded.splits.items()}

    def model(self, seed: int) -> nn.Module:
        """Return the parser over the words, tags and relations of the training split."""
        loaded = self._loaded
        with seeded(seed):
            return BiaffineParser(loaded.words, loaded.tags, loaded.relations)

    def batches(self, seed: int) -> Iterator[Batch]:
        """Yield batches of sentences of similar length; the seed decides which and in what order."""
        sentences = self._loaded.splits["train"]
        size = min(self.batch_size, len(sentences))
        generator = torch.Generator().manual_seed(seed)
        for chosen in similar([sentence.shape[1] for sentence in sentences], size, generator):
            yield padded([sentences[index] for index in chosen])

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the cross entropy of heads plus that of relations, per word and in nats."""
        words, tags, heads, _ = batch
        parser = cast(BiaffineParser, model)
        encoded = parser.encode(words, tags)
        return _losses(parser.heads(encoded, words), parser.relations(encoded, heads), batch) / count(batch)

    def evaluate(self, model: nn.Module, split: EvaluationSplit) -> dict[str, float]:
        """Return the loss, and the shares of words with right head and relation (LAS) and with right head (UAS)."""
        return self.judge(self.outputs(model, split), split)

    def outputs(self, model: nn.Module, split: EvaluationSplit) -> Tensor:
        """Return for each word the log-probabilities of its head among the places of the longest sentence (-inf beyond
        its own), and behind them those of its relation to the right head.
        """
        parser, rows = cast(BiaffineParser, model), []
        longest = max(sentence.shape[1] for sentence in self._loaded.splits[split])
        with evaluating(model):
            for batch in self._evaluation_batches(split):
                encoded = parser.encode(*batch[:2])
                # To the right heads: a relation counts only where the head found is the right one.
                scores = parser.heads(encoded, batch[0]), parser.relations(encoded, batch[2])
                heads, relations = (each[batch[2] != IGNORED].log_softmax(1) for each in scores)
                beyond = (0, longest - heads.shape[1])
                rows.append(torch.cat([nn.functional.pad(heads, beyond, value=-torch.inf), relations], 1))
        return torch.cat(rows)

    def judge(self, outputs: Tensor, split: EvaluationSplit) -> dict[str, float]:
        """Return loss, LAS and UAS of such log-probabilities."""
        batches = self._evaluation_batches(split)
        wanted = [torch.cat([batch[row][batch[2] != IGNORED] for batch in batches]) for row in (2, 3)]
        scores = torch.split(outputs, [outputs.shape[1] - self._loaded.relations, self._loaded.relations], 1)
        losses = [
            nn.functional.nll_loss(each.double(), right, ignore_index=IGNORED, reduction="sum").item()
            for each, right in zip(scores, wanted, strict=True)
        ]
        has_head, has_relation = (each.argmax(1) == right for each, right in zip(scores, wanted, strict=True))
        return {
            "loss": math.fsum(losses) / len(outputs),
            self.metric: (has_head & has_relation).double().mean().item(),
            "UAS": has_head.double().mean().item(),
        }

    def targets(self, split: EvaluationSplit) -> None:
        """Return None: a row is two distributions, of the head and of the relation."""

    def _evaluation_batches(self, split: EvaluationSplit) -> list[Batch]:
        sentences = sorted(self._loaded.splits[split], key=lambda sentence: sentence.shape[1])
        return [padded(part) for part in cut(sentences, _AT_ONCE)]

    @cached_property
    def _loaded(self) -> _Loaded:
        splits = conllu.read_splits(self.name, data.folder(self.folder, self._data), _WHAT, under=self.folder)
        splits["train"] = [sentence for sentence in splits["train"] if len(sentence) <= _LONGEST]
        if not splits["train"]:
            raise TaskError(f"task {self.name}: no training sentence has {_LONGEST} words or fewer; give others")
        share = min(1.0, (self._subset or len(splits["train"])) / len(splits["train"]))
        splits = {name: _drawn(sentences, share) for name, sentences in splits.items()}
        train = splits["train"]
        words = _numbers((word.lower() for sentence in train for word in sentence.words), ROOT + 1, fewest=2)
        tags = _numbers((tag for sentence in train for tag in sentence.tags), ROOT + 1)
        relations = _numbers((relation for sentence in train for relation in sentence.relations), 0)
        numbered = {
            name: [_numbered(sentence, words, tags, relations) for sentence in sentences]
            for name, sentences in splits.items()
        }
        return _Loaded(numbered, ROOT + 1 + len(words), ROOT + 1 + len(tags), len(relations))


class BiaffineParser(nn.Module):
    """The parser of Dozat & Manning 2017, arXiv:1611.01734, small: one recurrent layer, no dropout.

    Args:
        words: in the vocabulary.
        tags: in the vocabulary.
        relations: how many there are.
        width: cells of the recurrent layer in each direction.
    """

    def __init__(self, words: int, tags: int, relations: int, width: int = 96) -> None:
        super().__init__()
        self.word = nn.Embedding(words, 64, padding_idx=PADDING)
        self.tag = nn.Embedding(tags, 32, padding_idx=PADDING)
        self.rightward = nn.LSTM(64 + 32, width, batch_first=True)
        self.leftward = nn.LSTM(64 + 32, width, batch_first=True)
        self.dependent, self.head = _layer(2 * width, 64), _layer(2 * width, 64)
        self.attachment = nn.Linear(64, 64)
        self.related, self.related_head = _layer(2 * width, 32), _layer(2 * width, 32)
        self.relation = nn.Linear(32 * 32 + 32 + 32, relations)

    def encode(self, words: Tensor, tags: Tensor) -> Tensor:
        """Return what is known of each word in its sentence, shape (sentences, length, 2 width)."""
        embedded = torch.cat([self.word(words), self.tag(tags)], 2)
        backwards = _backwards(words)
        leftward = _taken(self.leftward(_taken(embedded, backwards))[0], backwards)
        return torch.cat([self.rightward(embedded)[0], leftward], 2)

    def heads(self, encoded: Tensor, words: Tensor) -> Tensor:
        """Return scores of each word's head, shape (sentences, length, length); -inf for itself and for padding.

        Equation 6: h_head . (U h_dependent + u).
        """
        scores: Tensor = self.attachment(self.dependent(encoded)) @ self.head(encoded).transpose(1, 2)
        itself = torch.eye(words.shape[1], dtype=torch.bool)
        return scores.masked_fill(itself | (words == PADDING)[:, None], -torch.inf)

    def relations(self, encoded: Tensor, heads: Tensor) -> Tensor:
        """Return scores of each word's relation to the given head, shape (sentences, length, relations).

        Equation 3, for each relation: r_dependent . U r_head + W (r_dependent, r_head) + b.
        """
        dependent = self.related(encoded)
        head = _taken(self.related_head(encoded), heads.clamp(min=0))
        products = dependent[..., :, None] * head[..., None, :]
        scores: Tensor = self.relation(torch.cat([products.flatten(2), dependent, head], 2))
        return scores


def _taken(rows: Tensor, places: Tensor) -> Tensor:
    """The rows of each sentence at these places."""
    return rows.gather(1, places[..., None].expand(-1, -1, rows.shape[2]))


def _backwards(words: Tensor) -> Tensor:
    """Places that turn each sentence round and leave its padding where it is, at the end."""
    places = torch.arange(words.shape[1])
    last = (words != PADDING).sum(1, keepdim=True) - 1
    return torch.where(places <= last, last - places, places)


def padded(sentences: Sequence[Tensor]) -> Batch:
    """Return sentences, each of shape (4, 1 + words), as a batch."""
    fills = (PADDING, PADDING, IGNORED, IGNORED)
    words, tags, heads, relations = (
        nn.utils.rnn.pad_sequence([sentence[row] for sentence in sentences], batch_first=True, padding_value=fill)
        for row, fill in enumerate(fills)
    )
    return words, tags, heads, relations


def count(batch: Batch) -> int:
    """Return how many words a batch has, roots and padding left out."""
    return int((batch[2] != IGNORED).sum())


def _losses(heads: Tensor, relations: Tensor, batch: Batch) -> Tensor:
    """Cross entropy of heads and relations, summed over words; a relation that training does not have costs nothing."""
    return sum(
        (
            nn.functional.cross_entropy(scores.transpose(1, 2), wanted, ignore_index=IGNORED, reduction="sum")
            for scores, wanted in ((heads, batch[2]), (relations, batch[3]))
        ),
        start=heads.new_zeros(()),
    )


def _layer(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.LeakyReLU(0.1))


def _drawn(sentences: list[Sentence], share: float) -> list[Sentence]:
    """A share of the sentences, always the same, in their order."""
    order = np.random.RandomState(_SUBSET_SEED).permutation(len(sentences))
    return [sentences[place] for place in sorted(order[: math.ceil(share * len(sentences))])]


def _numbers(names: Iterable[str], first: int, fewest: int = 1) -> dict[str, int]:
    """Numbers, from the first one on, of the names that occur often enough, the most frequent first."""
    counts = Counter(names)
    ranked = sorted(counts, key=lambda name: (-counts[name], name))
    return {name: number for number, name in enumerate((n for n in ranked if counts[n] >= fewest), first)}


def _numbered(
    sentence: Sentence, words: Mapping[str, int], tags: Mapping[str, int], relations: Mapping[str, int]
) -> Tensor:
    return torch.tensor(
        [
            [ROOT, *(words.get(word.lower(), UNKNOWN) for word in sentence.words)],
            [ROOT, *(tags.get(tag, UNKNOWN) for tag in sentence.tags)],
            [IGNORED, *sentence.heads],
            [IGNORED, *(relations.get(relation, IGNORED) for relation in sentence.relations)],
        ]
    )
