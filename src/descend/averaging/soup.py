"""Greedy soups: of several solutions, the average of those that make it better."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from descend.averaging.states import Sum
from descend.model_states import State


@dataclass(frozen=True)
class Soup:
    """The average of some ingredients.

    Attributes:
        state: the average, as `model.load_state_dict` takes it.
        chosen: which states are in it, in the order in which they were taken, the best first.
        score: of the average.
        scores: of each state by itself, in the order given.
    """

    state: dict[str, Tensor]
    chosen: tuple[int, ...]
    score: float
    scores: tuple[float, ...]


def greedy_soup(
    states: Sequence[State], score: Callable[[State], float], *, mode: Literal["max", "min"] = "max"
) -> Soup:
    """Average those states that do not make the average's score worse, from the best one on.

    Recipe 1 of Wortsman et al. 2022, arXiv:2203.05482: the states are sorted by their own score, and each is taken if
    the average with it scores at least as well as the one without. So the soup is never worse than the best state, on
    the data that `score` uses, which must be held-out validation data, and not what is reported in the end. `score`
    loads the state into a model; if that has batch normalization, it also calls `recompute_batch_norm`, each time.

    Args:
        states: of one architecture. Each is read twice, one at a time, so `__getitem__` may load it from a disk; in
            memory are one, the sum in float64 and the average.
        score: of a state, any finite or infinite number. A state or an average with the score NaN is never taken.
        mode: "max" if more is better, as of accuracies; "min" if less is, as of losses.

    Returns:
        the soup; of one state if no other helps.

    Raises:
        ValueError: there is no state, every score is NaN, the mode is unknown, or names or shapes differ.
    """
    if mode not in ("max", "min"):
        raise ValueError(f"mode is {mode!r}; give 'max' if a high score is good, or 'min'")
    if not len(states):
        raise ValueError("states is empty; give one state or more")
    scores = tuple(float(score(states[place])) for place in range(len(states)))
    sign = 1 if mode == "max" else -1
    known = [place for place, own in enumerate(scores) if not math.isnan(own)]
    if not known:
        raise ValueError("score is NaN for every state; look at one of them, and at the data that score uses")
    best, *others = sorted(known, key=lambda place: -sign * scores[place])
    total, chosen, reached = Sum(), [best], scores[best]
    total.add(states[best])
    for place in others:
        state = states[place]
        found = float(score(total.mean(extra=state)))
        if sign * found >= sign * reached:
            total.add(state)
            chosen.append(place)
            reached = found
        del state  # before the next one is read
    return Soup(total.mean(), tuple(chosen), reached, scores)
