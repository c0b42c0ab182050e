"""Meta-training: learning an optimizer on problems drawn anew for every episode, and keeping what validates best.

An episode solves a batch of problems from their beginning; the learned optimizer is improved at every truncation, by
backpropagation through the unroll or by persistent evolution strategies. The seed and the number of an episode alone
decide its problems, so that training goes on after a kill as if nothing had happened.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import torch
from torch import Tensor

from descend import schedules
from descend.learned.evolution import PersistentEvolution
from descend.learned.pairs import Pair
from descend.learned.problems import Family, Problems
from descend.learned.unrolling import Objective, detached, detached_state, initial, solved, unroll
from descend.optim import Adam

_VALIDATION: Final = 1_000_000
"""Seed of problems that are validated on: that of no episode."""
_SKIPPED: Final = 10
"""Episodes without a finite gradient, from which on training gives up."""


@dataclass(frozen=True)
class Recipe:
    """How an optimizer is learned.

    Attributes:
        family: of problems.
        episodes: how many.
        steps: of an episode.
        unroll: steps between two updates of the optimizer: the truncation.
        problems: of an episode, solved at once; antithetic pairs for "evolution".
        method: "backpropagation" or "evolution".
        objective: "log" or "sum"; see `unroll`.
        second_order: let gradients flow through those of the problems.
        rate: of Adam, on what is learned; it falls linearly to `last` of it.
        last: share of the rate at the end.
        clip: norm to which the gradient is clipped.
        sigma: deviation of perturbations, for "evolution".
        curriculum: shorter episodes to begin with: pairs of an episode and the steps from there on.
        validate_every: episodes from one validation to the next.
        validated: number of problems that are validated on, always the same.
    """

    family: Family
    episodes: int
    steps: int = 100
    unroll: int = 20
    problems: int = 8
    method: Literal["backpropagation", "evolution"] = "backpropagation"
    objective: Objective = "log"
    second_order: bool = False
    rate: float = 3e-3
    last: float = 0.05
    clip: float = 1.0
    sigma: float = 0.01
    curriculum: tuple[tuple[int, int], ...] = ()
    validate_every: int = 10
    validated: int = 16

    def __post_init__(self) -> None:
        for name in ("episodes", "steps", "unroll", "problems", "validate_every", "validated"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; give a whole number from 1")
        for name in ("rate", "last", "clip", "sigma"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)!r}; give a finite number above 0")
        if self.method not in ("backpropagation", "evolution"):
            raise ValueError(f"method is {self.method!r}; give 'backpropagation' or 'evolution'")
        if any(pair[0] >= after[0] for pair, after in zip(self.curriculum, self.curriculum[1:], strict=False)):
            raise ValueError(f"curriculum is {self.curriculum!r}; give pairs of an episode and steps, episodes rising")

    def steps_of(self, episode: int) -> int:
        """Return the steps of an episode, counted from 0."""
        return next((steps for start, steps in reversed(self.curriculum) if start <= episode), self.steps)

    @property
    def updates(self) -> int:
        """The number of updates of what is learned."""
        return sum(math.ceil(self.steps_of(episode) / self.unroll) for episode in range(self.episodes))

    def digest(self) -> str:
        """Return what tells this recipe from others."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Validated:
    """A validation.

    Attributes:
        episode: after how many.
        score: mean over problems of log10 of the final loss; None where it is not finite.
        objective: mean of the objective since the last validation; None where it is not finite.
    """

    episode: int
    score: float | None
    objective: float | None


@dataclass
class MetaTraining:
    """A meta-training under way.

    Attributes:
        pair: that is learned; its weights are those of the last episode.
        recipe: how.
        seed: of problems and perturbations.
        episode: how many are done.
        history: of validations.
        best: weights of the best validation; empty before the first.
    """

    pair: Pair
    recipe: Recipe
    seed: int = 0
    episode: int = 0
    history: list[Validated] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    _objectives: list[float] = field(default_factory=list)
    _skipped: int = 0

    def __post_init__(self) -> None:
        falling = schedules.linear(self.recipe.updates, end=self.recipe.last)
        rate = self.recipe.rate * falling
        self._optimizer = Adam(self.pair.parameters(), lr=rate, clip_norm=self.recipe.clip)
        self._validation: Problems | None = None

    @property
    def best_score(self) -> float:
        """The best validation's score; infinite before the first."""
        return min((one.score for one in self.history if one.score is not None), default=math.inf)

    def run(self, episodes: int | None = None, validated: Callable[[Validated], None] = lambda _: None) -> None:
        """Go on with training.

        Args:
            episodes: until so many are done; by default all of the recipe.
            validated: is told of each validation.

        Raises:
            FloatingPointError: episode after episode has no finite gradient.
        """
        until = self.recipe.episodes if episodes is None else min(episodes, self.recipe.episodes)
        if not self.history and self.episode == 0:
            self._validate(validated)
        while self.episode < until:
            self._skipped = 0 if self._run_episode() else self._skipped + 1
            self.episode += 1
            if self._skipped == _SKIPPED:
                raise FloatingPointError(
                    f"{_SKIPPED} episodes in a row had no finite gradient; take a smaller rate or output scale"
                )
            if self.episode % self.recipe.validate_every == 0 or self.episode == self.recipe.episodes:
                self._validate(validated)

    def _run_episode(self) -> bool:
        """Train on new problems; tell whether any update was finite. An episode ends where one is not."""
        recipe, seed = self.recipe, self.seed * 10_000_019 + self.episode
        problem, steps = recipe.family.draw(recipe.problems, seed), recipe.steps_of(self.episode)
        runs = self._evolve if recipe.method == "evolution" else self._backpropagate
        return runs(problem, steps, seed)

    def _backpropagate(self, problem: Problems, steps: int, seed: int) -> bool:
        params = problem.first()
        state, any_finite = initial(self.pair, params), False
        for start in range(0, steps, self.recipe.unroll):
            length = min(self.recipe.unroll, steps - start)
            found = unroll(
                self.pair,
                problem,
                detached(params),
                detached_state(state),
                length,
                start=start,
                objective=self.recipe.objective,
                second_order=self.recipe.second_order,
            )
            self._optimizer.zero_grad()
            torch.autograd.backward(found.objective)
            if not self._step(float(found.objective.detach())):
                return any_finite
            any_finite, params, state = True, found.params, found.state
        return any_finite

    def _evolve(self, problem: Problems, steps: int, seed: int) -> bool:
        particles, any_finite = PersistentEvolution(self.pair, problem, self.recipe.sigma, seed), False
        for start in range(0, steps, self.recipe.unroll):
            grads, value = particles.gradients(min(self.recipe.unroll, steps - start), self.recipe.objective)
            for name, param in self.pair.named_parameters():
                param.grad = grads[name]
            if not self._step(float(value)):
                return any_finite
            any_finite = True
        return any_finite

    def _step(self, objective: float) -> bool:
        """Improve what is learned; tell whether its gradient is finite, without which nothing changes."""
        grads = [param.grad for param in self.pair.parameters() if param.grad is not None]
        if not math.isfinite(objective) or not all(bool(grad.isfinite().all()) for grad in grads):
            return False
        self._optimizer.step()
        self._objectives.append(objective)
        return True

    def _validate(self, validated: Callable[[Validated], None]) -> None:
        if self._validation is None:
            self._validation = self.recipe.family.draw(self.recipe.validated, _VALIDATION)
        score = mean_log10(final_losses(self.pair, self._validation, self.recipe.steps))
        best = self.best_score
        told = sum(self._objectives) / len(self._objectives) if self._objectives else None
        self._objectives.clear()
        self.history.append(Validated(self.episode, score if math.isfinite(score) else None, told))
        if score < best or not self.best:
            self.best = {name: one.detach().clone() for name, one in self.pair.state_dict().items()}
        validated(self.history[-1])

    def state_dict(self) -> dict[str, Any]:
        """Return all that going on needs: plain values and tensors."""
        return {
            "recipe": self.recipe.digest(),
            "seed": self.seed,
            "episode": self.episode,
            "pair": self.pair.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "history": [[one.episode, one.score, one.objective] for one in self.history],
            "objectives": list(self._objectives),
            "skipped": self._skipped,
            "best": self.best,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another left off.

        Args:
            state: of `state_dict`.

        Raises:
            ValueError: it is of another recipe or seed.
        """
        if state["recipe"] != self.recipe.digest() or state["seed"] != self.seed:
            raise ValueError("this meta-training had another recipe or seed; start it afresh")
        self.pair.load_state_dict(state["pair"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.episode, self._skipped = state["episode"], state["skipped"]
        self.history = [Validated(*one) for one in state["history"]]
        self._objectives, self.best = list(state["objectives"]), dict(state["best"])


def final_losses(pair: Pair, problem: Problems, steps: int) -> Tensor:
    """Return the loss of each problem after so many steps, on all of its training data.

    Args:
        pair: that steps.
        problem: to solve.
        steps: to take.
    """
    return problem.final(solved(pair, problem, steps).params)


def mean_log10(losses: Tensor) -> float:
    """Return the mean of log10 of losses, in double."""
    return float(losses.double().log10().mean())
