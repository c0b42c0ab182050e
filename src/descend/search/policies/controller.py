"""The controller of Neural Optimizer Search: a network that learns to write good sentences."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from descend.experiments.trial import one_thread
from descend.schedules.arguments import at_least_0, below_1, flag, positive, whole
from descend.search.policies.base import Result, check_told, checked_seed, register
from descend.search.policies.recurrent import Recurrent, Sentence
from descend.search.space import SearchError

_OBJECTIVES: Final = ("reinforce", "ppo")


class Sentences(Protocol):
    """A space whose members are sequences of tokens, all of one length."""

    @property
    def length(self) -> int:
        """How many tokens a sentence has."""

    def sizes(self) -> Sequence[int]:
        """Return how many tokens there are at each place."""

    def allowed(self, prefix: Sequence[int]) -> Sequence[bool]:
        """Return which tokens may come next."""


class _Written(NamedTuple):
    sentence: Sentence
    log_probabilities: Tensor  # of its tokens, when it was written
    masks: Tensor


@register
class Controller:
    """A recurrent network that writes sentences, trained by their rewards. Bello et al. 2017, arXiv:1709.07417.

    A single-layer LSTM writes token by token; forbidden tokens get probability 0. After every `batch` results it takes
    a step of Adam up the gain, in which A = reward - baseline, the baseline a moving average over earlier batches:

        reinforce   mean over sentences of  sum over tokens of  A log P(token)
        ppo         mean over sentences of  sum over tokens of  min(r A, clip(r, 1 - clip, 1 + clip) A)

    with r = P(token) / P(token when it was written), plus `entropy` times the entropy of each token's distribution.
    REINFORCE with such a baseline is Zoph & Le 2017, arXiv:1611.01578; PPO is Schulman et al. 2017, arXiv:1707.06347,
    equation 7. Both take P as it is at the update; REINFORCE ignores that an earlier controller may have written.

    Where we differ: at the published rate of 1e-5 the controller does not move in a thousand evaluations, and at a rate
    at which it does, it collapses onto a few sentences. The defaults keep it exploring: a repeated or an invalid
    sentence earns minus `penalty`, and another one the square of the share of earlier rewards that it beats.
    `published` has the paper's settings.

    Args:
        space: its members are sentences: it has `length`, `sizes()` and `allowed(prefix)`.
        seed: a whole number from 0 up.
        objective: "reinforce" or "ppo".
        hidden: units of the LSTM.
        rate: of Adam.
        batch: results per update.
        entropy: weight of the entropy, 0 or more.
        baseline_decay: of the moving average, per batch; from 0 up, below 1.
        ranked: whether rewards are ranked as above, or taken as they are.
        penalty: what a repeated or invalid sentence loses; None gives a repeat its reward again, an invalid one 0.
        clip: of PPO, above 0.
        epochs: of PPO, updates per batch.

    Raises:
        SearchError: the members of the space are no sentences.
        TypeError, ValueError: naming the argument.
    """

    name = "controller"

    def __init__(
        self,
        space: Sentences,
        *,
        seed: int = 0,
        objective: Literal["reinforce", "ppo"] = "reinforce",
        hidden: int = 64,
        rate: float = 3e-3,
        batch: int = 20,
        entropy: float = 0.03,
        baseline_decay: float = 0.9,
        ranked: bool = True,
        penalty: float | None = 0.2,
        clip: float = 0.2,
        epochs: int = 4,
    ) -> None:
        self._sizes = _checked_sizes(space)
        if objective not in _OBJECTIVES:
            raise ValueError(f"controller: objective is {objective!r}; give {' or '.join(map(repr, _OBJECTIVES))}")
        self._proximal = objective == "ppo"
        hidden = whole("controller: hidden", hidden)
        rate = positive("controller: rate", rate)
        self._batch = whole("controller: batch", batch)
        self._entropy = at_least_0("controller: entropy", entropy)
        self._decay = below_1("controller: baseline_decay", baseline_decay)
        self._ranked = flag("controller: ranked", ranked)
        self._penalty = None if penalty is None else at_least_0("controller: penalty", penalty)
        self._clip = positive("controller: clip", clip)
        self._updates = whole("controller: epochs", epochs) if self._proximal else 1
        self._generator = torch.Generator().manual_seed(checked_seed(self.name, seed))
        self._space = space
        self._network = Recurrent(self._sizes, hidden, self._generator)
        self._adam = torch.optim.Adam(self._network.parameters(), lr=rate)
        self._baseline: float | None = None
        self._rewards: list[float] = []  # of the sentences evaluated so far, sorted
        self._untold: deque[_Written] = deque()
        self._gathered: list[tuple[_Written, float]] = []

    @classmethod
    def published(cls, space: Sentences, *, seed: int = 0) -> Controller:
        """The paper's settings: 150 units, Adam at 1e-5, batches of 5, entropy 0.0015, PPO, rewards as they are.

        That it is PPO is confirmed by a review of the arXiv version. The numbers are remembered, not verified (some
        remember batches of 20). The paper does not print PPO's clipping, its epochs or the baseline's decay: ours hold.
        """
        return cls(
            space,
            seed=seed,
            objective="ppo",
            hidden=150,
            rate=1e-5,
            batch=5,
            entropy=0.0015,
            ranked=False,
            penalty=None,
        )

    def ask(self, count: int) -> list[Sentence]:
        """Write so many sentences, with the weights as they are."""
        shape = (whole("count", count), len(self._sizes))
        uniforms = torch.rand(shape, dtype=torch.float64, generator=self._generator)
        with one_thread():
            sentences, log_probabilities, masks = self._network.write(uniforms, self._allowed)
        self._untold += map(_Written, sentences, log_probabilities, masks)
        return sentences

    def tell(self, members: Sequence[Sentence], results: Sequence[Result]) -> None:
        """Gather results, and learn from every `batch` of them.

        Raises:
            ValueError: these are not the sentences asked for first among those not told yet.
        """
        check_told(members, results)
        for place, member in enumerate(members):
            if place >= len(self._untold) or self._untold[place].sentence != member:
                raise ValueError(f"members[{place}] is not what was asked for: tell them in the order of asking, once")
        for result in results:
            self._gathered.append((self._untold.popleft(), self._score(result)))
            if len(self._gathered) == self._batch:
                self._learn(self._gathered)
                self._gathered = []

    def log_probabilities(self, sentences: Iterable[Sequence[int]]) -> Tensor:
        """Return how likely the controller is to write each sentence now: the logarithm, -inf for a forbidden one."""
        tokens = torch.tensor([tuple(sentence) for sentence in sentences]).reshape(-1, len(self._sizes))
        begun = tokens.tolist()
        with torch.no_grad(), one_thread():
            masks = [self._allowed([tuple(row[:place]) for row in begun]) for place in range(len(self._sizes))]
            return self._network.judge(tokens, torch.stack(masks, 1))[0].sum(1)

    def _allowed(self, prefixes: Sequence[Sentence]) -> Tensor:
        rows = {prefix: self._row(prefix) for prefix in set(prefixes)}
        return torch.tensor([rows[prefix] for prefix in prefixes])

    def _row(self, prefix: Sentence) -> list[bool]:
        size = self._sizes[len(prefix)]
        row = list(map(bool, self._space.allowed(prefix)))
        if len(row) != size or not any(row):
            raise SearchError(
                f"allowed({prefix!r}) gives {len(row)} tokens, {sum(row)} of them allowed; give one truth value for "
                f"each of the {size} tokens that sizes() tells, and allow one at least"
            )
        return row + [False] * (self._network.width - size)

    def _score(self, result: Result) -> float:
        if self._penalty is not None and (result.repeat or result.reward is None):
            return -self._penalty
        reward = 0.0 if result.reward is None else float(result.reward)
        if not self._ranked:
            return reward
        beaten = bisect_left(self._rewards, reward) / max(len(self._rewards), 1)
        if not result.repeat and result.reward is not None:
            insort(self._rewards, reward)
        return beaten**2

    def _learn(self, gathered: Sequence[tuple[_Written, float]]) -> None:
        written = [row for row, _ in gathered]
        sentences = torch.tensor([row.sentence for row in written])
        before = torch.stack([row.log_probabilities for row in written])
        masks = torch.stack([row.masks for row in written])
        mean = sum(score for _, score in gathered) / len(gathered)
        baseline = mean if self._baseline is None else self._baseline
        advantages = torch.tensor([score - baseline for _, score in gathered], dtype=torch.float32)[:, None]
        with one_thread(), torch.enable_grad():
            for _ in range(self._updates):
                now, entropies = self._network.judge(sentences, masks)
                gains = clipped(now, before, advantages, self._clip) if self._proximal else advantages * now
                loss = -(gains + self._entropy * entropies).sum(1).mean()
                self._adam.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                self._adam.step()
        self._baseline = self._decay * baseline + (1 - self._decay) * mean


def clipped(now: Tensor, before: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """PPO's gain of actions, given their log-probabilities. Schulman et al. 2017, arXiv:1707.06347, equation 7."""
    ratio = (now - before).exp()
    return torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def _checked_sizes(space: Sentences) -> tuple[int, ...]:
    missing = [name for name in ("length", "sizes", "allowed") if not hasattr(space, name)]
    if missing:
        raise SearchError(
            f"controller: the members of the space {getattr(space, 'name', space)!r} are no sentences (it has no "
            f"{', '.join(missing)}): search it by evolution or at random"
        )
    sizes = tuple(whole("controller: a place's size", size) for size in space.sizes())
    if len(sizes) != space.length or not sizes:
        raise SearchError(f"controller: sizes() has {len(sizes)} places for sentences of {space.length} tokens")
    return sizes
