"""What a rule is worth: trained on a child network at several rates and seeds, in processes, its results kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

import numpy as np

from descend.experiments.workers import Here, Pool
from descend.rule import Rule
from descend.search.screening import Screening
from descend.search.space import Member, SearchError, Space
from descend.search.store import Store
from descend.search.training import CHUNK, Rung, Trained, train

RELATIVE_RATES: Final = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
"""Rates times the size of the update on probes."""
REWARDS: Final = ("loss", "accuracy")
RUNGS: Final[Mapping[str, tuple[Rung, ...]]] = {
    "digits": ((30, 7), (100, 3), (200, 1)),
    "mnist": ((30, 7), (100, 3), (200, 1)),
    "cifar10": ((100, 7), (500, 1)),
}
"""How long a rule is trained on each child, and with how many of its rates.

On cifar10 as Bello et al. 2017 did: a sweep of the rates over one epoch of 10,000 examples, then five epochs.
"""


@dataclass(frozen=True)
class Recipe:
    """How rules are trained and rewarded.

    Attributes:
        child: name of the child network.
        seeds: of weights, batches and random operations: the same for all rules.
        rungs: pairs of a step and how many of a rule's rates are trained up to it.
        rates: of the first rung, relative to the size of the update.
        reward: "loss", exp(-validation cross-entropy), or "accuracy", on the same validation examples.

    Raises:
        SearchError: for another reward.
    """

    child: str
    seeds: tuple[int, ...] = (0, 1)
    rungs: tuple[Rung, ...] = ((30, 7), (100, 3), (200, 1))
    rates: tuple[float, ...] = RELATIVE_RATES
    reward: str = "loss"

    def __post_init__(self) -> None:
        if self.reward not in REWARDS:
            raise SearchError(f"reward is {self.reward!r}; choose {' or '.join(REWARDS)}")

    def as_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON holds it."""
        return asdict(self)

    @classmethod
    def of(cls, child: str, reward: str = "loss") -> Recipe:
        """Return how a search trains rules on a child."""
        return cls(child, rungs=RUNGS[child], reward=reward)


@dataclass(frozen=True)
class Outcome:
    """What training a rule came to.

    Attributes:
        rate: the best of the rates that reached the last rung.
        losses: validation cross-entropies at that rate, one per seed; infinity where it diverged.
        accuracies: likewise.
    """

    rate: float
    losses: tuple[float, ...]
    accuracies: tuple[float, ...]

    def reward(self, kind: str) -> float:
        """Return the reward, from 0 to 1: of the mean loss, or the mean accuracy."""
        if kind == "accuracy":
            return float(np.mean(self.accuracies))
        return float(np.exp(-np.mean(self.losses)))

    def as_dict(self) -> dict[str, Any]:
        """Return the outcome as JSON holds it: None for infinity."""
        losses = [loss if np.isfinite(loss) else None for loss in self.losses]
        return {"rate": self.rate, "losses": losses, "accuracies": list(self.accuracies)}

    @classmethod
    def of(cls, kept: dict[str, Any]) -> Outcome:
        """Return the outcome that was kept as JSON."""
        losses = (float("inf") if loss is None else loss for loss in kept["losses"])
        return cls(kept["rate"], tuple(losses), tuple(kept["accuracies"]))


_Any = TypeVar("_Any", contravariant=True)


class Rules(Protocol[_Any]):
    """What is trained: members that are rules. A `Space` is that, and more."""

    def rule(self, member: _Any) -> Rule:
        """Return the member as a rule."""

    def schedules(self, steps: int) -> Mapping[str, Any]:
        """Return the hyper-parameters, beside the rate, of a training of so many steps: numbers or schedules."""

    def encode(self, member: _Any) -> str:
        """Return the member as text of one line."""


@dataclass(frozen=True)
class Chunk(Generic[Member]):
    """Rules that are trained together: what is sent to a process.

    Attributes:
        number: its place among those sent.
        space: whose members they are.
        members: the rules.
        rates: of each, rules x rates.
        recipe: of the training.
    """

    number: int
    space: Rules[Member]
    members: tuple[Member, ...]
    rates: tuple[tuple[float, ...], ...]
    recipe: Recipe

    def train(self) -> Trained:
        """Train them."""
        recipe = self.recipe
        return train(
            recipe.child,
            [self.space.rule(member) for member in self.members],
            self.rates,
            recipe.seeds,
            rungs=recipe.rungs,
            hyper_parameters=self.space.schedules(recipe.rungs[-1][0]),
        )


def work(task: object, chunk: Chunk[Any]) -> tuple[int, Trained]:
    """Train a chunk; what is sent to processes."""
    return chunk.number, chunk.train()


def chunks(
    space: Rules[Member], members: Sequence[Member], rates: Sequence[Sequence[float]], recipe: Recipe
) -> list[Chunk[Member]]:
    """Cut rules into chunks, always alike, whatever trains them."""
    size = max(1, CHUNK // (len(recipe.rates) * len(recipe.seeds)))
    return [
        Chunk(
            begin // size,
            space,
            tuple(members[begin : begin + size]),
            tuple(tuple(of) for of in rates[begin : begin + size]),
            recipe,
        )
        for begin in range(0, len(members), size)
    ]


def outcomes(trained: Trained) -> list[Outcome]:
    """What the last rung says of each rule."""
    best = trained.best_rates()
    return [
        Outcome(
            float(trained.rates[rule, place]),
            tuple(map(float, trained.losses[rule, place, :, -1])),
            tuple(map(float, trained.accuracies[rule, place, :, -1])),
        )
        for rule, place in enumerate(best)
    ]


def _nothing(count: object) -> None:
    pass


class Trainings(Generic[Member]):
    """Trains rules at rates of their own; what a stage of a store holds is not trained again.

    Args:
        rules: whose members.
        recipe: of the training; of its rates the number counts.
        store: of the results.
        hands: what does the work.
        stage: under which name results are kept.

    Attributes:
        known: what is kept, by key.
    """

    def __init__(self, rules: Rules[Member], recipe: Recipe, store: Store, hands: Here | Pool, stage: str) -> None:
        self._rules, self._recipe = rules, recipe
        self._store, self._hands, self._stage = store, hands, stage
        self.known = {key: Outcome.of(kept) for key, kept in store.results(stage).items()}

    def __call__(
        self, wanted: Sequence[tuple[str, Member, Sequence[float]]], done: Callable[[int], None] = _nothing
    ) -> list[Outcome]:
        """Return what members come to, given with their keys and rates; `done` is told numbers of finished ones."""
        missing = [(key, member, rates) for key, member, rates in wanted if key not in self.known]
        done(len(wanted) - len(missing))
        if missing:
            self._train(missing, done)
        return [self.known[key] for key, _, _ in wanted]

    def _train(self, missing: Sequence[tuple[str, Member, Sequence[float]]], done: Callable[[int], None]) -> None:
        keys, members, rates = zip(*missing, strict=True)
        cut = chunks(self._rules, members, rates, self._recipe)
        starts = np.cumsum([0, *(len(chunk.members) for chunk in cut)])
        for number, trained in self._hands.run(work, cut, _nothing):
            found = outcomes(trained)
            own = keys[starts[number] : starts[number] + len(found)]
            texts = (self._rules.encode(member) for member in cut[number].members)
            self.known |= dict(zip(own, found, strict=True))
            self._store.add(
                self._stage,
                [(key, text, outcome.as_dict()) for key, text, outcome in zip(own, texts, found, strict=True)],
            )
            done(len(found))


class Evaluator(Generic[Member]):
    """Evaluates members of a space, each class once: what a store holds is not trained again.

    Args:
        space: whose members.
        screening: what is known of them.
        recipe: of the training.
        store: of the results.
        hands: what does the work.
        stage: under which name results are kept.
    """

    def __init__(
        self,
        space: Space[Member],
        screening: Screening[Member],
        recipe: Recipe,
        store: Store,
        hands: Here | Pool,
        stage: str = "search",
    ) -> None:
        self._screening, self._recipe = screening, recipe
        self._trainings = Trainings(space, recipe, store, hands, stage)

    @property
    def known(self) -> dict[str, Outcome]:
        """What is kept, by class."""
        return self._trainings.known

    def __call__(self, wanted: Sequence[tuple[str, Member]]) -> list[float]:
        """Return the rewards of members, given with their classes."""
        found = self._trainings([(key, member, self._rates(member)) for key, member in wanted])
        return [outcome.reward(self._recipe.reward) for outcome in found]

    def _rates(self, member: Member) -> list[float]:
        size = self._screening.examine(member).size
        return [rate / size for rate in self._recipe.rates]
