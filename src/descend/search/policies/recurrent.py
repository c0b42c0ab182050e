"""The network that writes sentences: a recurrent one, with a softmax over the tokens allowed at each place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

Sentence = tuple[int, ...]

_RANGE: Final = 0.08  # weights are uniform in +-0.08 (Zoph & Le 2017, arXiv:1611.01578)


class Recurrent:
    """A single-layer LSTM that writes a sentence token by token, each token embedded as the next input.

    Places with equally many tokens share their softmax and their embedding: in the language of Neural Optimizer Search
    these are the operands, the unary and the binary functions. The first input is learned.

    Args:
        sizes: how many tokens there are at each place.
        hidden: units of the LSTM, and of the embedding.
        generator: draws all weights, biases included.
    """

    def __init__(self, sizes: Sequence[int], hidden: int, generator: torch.Generator) -> None:
        kinds = sorted(set(sizes))
        firsts = [0, *accumulate(kinds)]
        self.width = max(sizes)  # of a row of tokens, padded by forbidden ones
        self._hidden = hidden
        self._kinds = torch.tensor([kinds.index(size) for size in sizes])
        self._offsets = torch.tensor([firsts[kinds.index(size)] for size in sizes])

        def weights(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=torch.float32).uniform_(-_RANGE, _RANGE, generator=generator)

        self._first = weights(1, hidden)
        self._embedding = weights(firsts[-1], hidden)
        self._input_weight = weights(4 * hidden, hidden)
        self._state_weight = weights(4 * hidden, hidden)
        self._bias = weights(4 * hidden)
        self._head_weights = weights(len(kinds), self.width, hidden)
        self._head_biases = weights(len(kinds), self.width)
        for weight in self.parameters():
            weight.requires_grad_()

    def parameters(self) -> list[Tensor]:
        """Return what is trained."""
        return [
            self._first,
            self._embedding,
            self._input_weight,
            self._state_weight,
            self._bias,
            self._head_weights,
            self._head_biases,
        ]

    @torch.no_grad()
    def write(
        self, uniforms: Tensor, allowed: Callable[[Sequence[Sentence]], Tensor]
    ) -> tuple[list[Sentence], Tensor, Tensor]:
        """Write one sentence per row of uniform numbers in [0, 1), by the inverse of the distribution function.

        Args:
            uniforms: one per sentence and place, float64.
            allowed: the masks, a row of `width` per sentence, of the tokens that may follow its beginning.

        Returns:
            the sentences; the log-probability of each of their tokens; and the masks that were asked for.
        """
        count, length = uniforms.shape
        sentences: list[Sentence] = [()] * count
        inputs = self._first.expand(count, -1)
        state = self._beginning(count)
        log_probabilities, masks = [], []
        for place in range(length):
            mask = allowed(sentences)
            state = self._next(functional.linear(inputs, self._input_weight, self._bias), state)
            kind = int(self._kinds[place])
            scores = functional.linear(state[0], self._head_weights[kind], self._head_biases[kind])
            row = scores.masked_fill(~mask, -torch.inf).log_softmax(1)
            tokens = drawn(row, uniforms[:, place, None])
            log_probabilities.append(row.gather(1, tokens))
            masks.append(mask)
            inputs = self._embedding[tokens[:, 0] + self._offsets[place]]
            sentences = [(*begun, token) for begun, token in zip(sentences, tokens[:, 0].tolist(), strict=True)]
        return sentences, torch.cat(log_probabilities, 1), torch.stack(masks, 1)

    def judge(self, sentences: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-probability of each token of sentences, and the entropy of what it was drawn from."""
        rows = self._rows(sentences, masks)
        entropies = -(rows.exp() * rows.masked_fill(~masks, 0)).sum(2)  # 0 * log 0 is 0
        return rows.gather(2, sentences[..., None])[..., 0], entropies

    def _rows(self, sentences: Tensor, masks: Tensor) -> Tensor:
        tokens = functional.embedding(sentences[:, :-1] + self._offsets[:-1], self._embedding)
        inputs = torch.cat([self._first.expand(len(sentences), 1, -1), tokens], 1)
        state = self._beginning(len(sentences))
        outputs = []
        for step in functional.linear(inputs, self._input_weight, self._bias).unbind(1):
            state = self._next(step, state)
            outputs.append(state[0])
        weights = self._head_weights.index_select(0, self._kinds)
        scores = torch.einsum("lnh,lvh->nlv", torch.stack(outputs), weights)
        scores = scores + self._head_biases.index_select(0, self._kinds)
        return scores.masked_fill(~masks, -torch.inf).log_softmax(2)

    def _beginning(self, count: int) -> tuple[Tensor, Tensor]:
        zeros = torch.zeros(count, self._hidden, dtype=torch.float32)
        return zeros, zeros

    def _next(self, step: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        output, cell = state
        gates = step + functional.linear(output, self._state_weight)
        enter, forget, new, leave = gates.chunk(4, 1)
        cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
        return leave.sigmoid() * cell.tanh(), cell


def drawn(rows: Tensor, uniforms: Tensor) -> Tensor:
    """Draw a column per row of log-probabilities, given a row of one uniform number in [0, 1) for each.

    It is the first at which the sum of probabilities exceeds the number. It cannot be a forbidden one, which adds
    nothing to the sum.
    """
    sums = rows.double().exp().cumsum(1)
    return torch.searchsorted(sums, uniforms * sums[:, -1:], right=True)
