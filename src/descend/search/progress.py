"""Who is told how a search goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass
class Counts:
    """How far a search is.

    Attributes:
        rounds: that are finished.
        proposals: of the policy, in all.
        evaluated: distinct classes of rules that were trained.
        repeats: proposals whose class had been met before, so that nothing was trained.
        invalid: proposals that are not worth training, by verdict.
        seconds: that the rounds took, whenever that was.
    """

    rounds: int = 0
    proposals: int = 0
    evaluated: int = 0
    repeats: int = 0
    invalid: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


class Progress(Protocol):
    """Who is told how a search goes on."""

    def searching(self, total: int, unit: str) -> None:
        """The search begins, or begins to be played again: so many evaluations, or seconds."""

    def searched(self, done: int, counts: Counts, best: list[tuple[float, str]]) -> None:
        """A round is finished: how much is done, and the best rules so far, each with its reward."""

    def training(self, what: str, total: int) -> Callable[[int], None]:
        """Some rules are trained again; what is returned is told of every number of finished ones."""

    def comparing(self, task: str) -> Callable[[Any], Any] | None:
        """A comparison on a task begins; what is returned makes its progress."""

    def end(self) -> None:
        """Nothing follows: all is finished, or was stopped."""


class Silence:
    """Progress that nobody is told about."""

    def searching(self, total: int, unit: str) -> None:
        """Say nothing."""

    def searched(self, done: int, counts: Counts, best: list[tuple[float, str]]) -> None:
        """Say nothing."""

    def training(self, what: str, total: int) -> Callable[[int], None]:
        """Say nothing."""
        return lambda count: None

    def comparing(self, task: str) -> Callable[[Any], Any] | None:
        """Say nothing."""
        return None

    def end(self) -> None:
        """Say nothing."""


class Noted:
    """Progress that is told on, and knows how far all is.

    Args:
        to: who is told.

    Attributes:
        place: what is done, of how much, and in which units, in the plural.
    """

    def __init__(self, to: Progress) -> None:
        self._to = to
        self.place: tuple[int, int, str] = (0, 0, "evaluations")

    def searching(self, total: int, unit: str) -> None:
        """See `Progress`."""
        self.place = (0, total, unit)
        self._to.searching(total, unit)

    def searched(self, done: int, counts: Counts, best: list[tuple[float, str]]) -> None:
        """See `Progress`."""
        self.place = (done, *self.place[1:])
        self._to.searched(done, counts, best)

    def training(self, what: str, total: int) -> Callable[[int], None]:
        """See `Progress`."""
        self.place = (0, total, f"rules in the stage {what} of the leaderboard")
        told = self._to.training(what, total)

        def finished(count: int) -> None:
            self.place = (self.place[0] + count, *self.place[1:])
            told(count)

        return finished

    def comparing(self, task: str) -> Callable[[Any], Any] | None:
        """See `Progress`."""
        return self._to.comparing(task)

    def end(self) -> None:
        """See `Progress`."""
        self._to.end()
