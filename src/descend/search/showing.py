"""What a search shows in the terminal: its progress, and at the end tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from rich.console import Console
from rich.status import Status
from rich.table import Table

from descend.experiments.caveats import counted
from descend.experiments.console import Bar, Column, ConsoleProgress, fitted
from descend.search.progress import Counts

_EVERY: Final = 15.0
"""Seconds between two lines where there is no bar."""
_SHORTEST, _GAP = 28, 2
"""Characters that a formula has in a table at least, and between two columns."""
_LEAST: Final = ("state", "interval", "accuracy", "rate")


class SearchProgress:
    """The progress of a search: a bar for each part, below it the best rules so far.

    Args:
        console: where to write.
        loading: what is shown until the search begins.
    """

    def __init__(self, console: Console, loading: Status) -> None:
        self._console, self._loading = console, loading
        self._bar: Bar | None = None
        self._done = 0
        self._said_at = time.monotonic()
        self._best: list[tuple[float, str]] = []
        self._told = ""

    def searching(self, total: int, unit: str) -> None:
        """Start the bar of the search."""
        self._begin(unit, total)

    def searched(self, done: int, counts: Counts, best: list[tuple[float, str]]) -> None:
        """Show how much is done, and the best rules; where there is no bar, now and then a line."""
        assert self._bar is not None
        told = self._told = (
            f"{counts.evaluated} evaluated of {counts.proposals} proposals, "
            f"{counted(counts.repeats, 'duplicate')} avoided"
        )
        lines = [f"  {reward:.4f}  {formula}" for reward, formula in best]
        self._bar.running(told)
        self._bar.below(lines)
        line = ""
        if best != self._best and time.monotonic() - self._said_at >= _EVERY:
            self._best, self._said_at = best, time.monotonic()
            line = "; ".join([told, f"best {best[0][0]:.4f}: {best[0][1]}"])
        self._bar.finished(line, done - self._done)
        self._done = done

    def training(self, what: str, total: int) -> Callable[[int], None]:
        """Start the bar of a stage of the leaderboard; before the first, say what the search came to."""
        if self._told:
            self._console.print(self._told, highlight=False)
            self._told = ""
        bar = self._begin(f"rules, leaderboard: {what}", total)

        def finished(count: int) -> None:
            bar.finished("", count)

        return finished

    def comparing(self, task: str) -> Callable[[Any], Any]:
        """End the bar, and return what makes the one of a comparison."""
        self.end()
        self._console.print(f"The first of them on {task}, beside known optimizers:", highlight=False)
        return lambda problem: ConsoleProgress(self._console, problem.metric, self._loading)

    def end(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.end()
            self._bar = None

    def _begin(self, what: str, total: int) -> Bar:
        self.end()
        self._bar, self._done = Bar(self._console, self._loading, what), 0
        self._bar.begin(total, 0)
        self._bar.running(what)
        return self._bar


class MapProgress:
    """The progress of a map: a bar for each stage.

    Args:
        console: where to write.
        loading: what is shown until it begins.
    """

    def __init__(self, console: Console, loading: Status) -> None:
        self._console, self._loading = console, loading
        self._bar: Bar | None = None

    def stage(self, name: str, total: int) -> Callable[[int], None]:
        """Start the bar of a stage."""
        self.end()
        bar = self._bar = Bar(self._console, self._loading, name)
        bar.begin(total, 0)
        bar.running(name)
        done = 0

        def finished(count: int) -> None:
            nonlocal done
            before, done = done, done + count
            is_told = done == total or done * 100 // max(total, 1) > before * 100 // max(total, 1)
            bar.finished(name if is_told else "", count)

        return finished

    def end(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.end()
            self._bar = None


def tables(results: Mapping[str, Any], width: int) -> Iterator[Table]:
    """Yield the tables of a finished search: its leaderboard, and each held-out task.

    Args:
        results: the content of its `search.json`.
        width: columns of the terminal; what does not fit into them is left out, the least important first.
    """
    yield _leaderboard(results, width)
    for one in results["held_out"]:
        yield _held_out(one, width)


def _leaderboard(results: Mapping[str, Any], width: int) -> Table:
    rows, training = results["leaderboard"], results["training"]
    size = f"{counted(training['steps'], 'step')}, {counted(len(training['fresh_seeds']), 'fresh seed')}"
    columns = {
        "rank": Column("rank", [str(row["rank"]) for row in rows]),
        "tier": Column("tier", [str(row["tier"]) for row in rows]),
        "loss": Column("loss", [_number(row["loss"]) for row in rows]),
        "interval": Column("95 % interval", [_ends(row["low"], row["high"]) for row in rows]),
        "accuracy": Column("accuracy", [_number(row["accuracy"]) for row in rows]),
        "rate": Column("rate", [f"{row['rate']:.3g}" for row in rows]),
        "state": Column("state, bytes", [str(row["state_bytes"]) for row in rows]),
    }
    left = max(width - sum(column.width + _GAP for column in columns.values()), _SHORTEST)
    columns["rule"] = Column("rule", [_rule(row, left) for row in rows], is_number=False)
    title = f"{training['task']}, {training['child']}, validation, {size} ({results['label']})"
    return fitted(title, columns, width, _LEAST, [results["legend"]])


def _held_out(results: Mapping[str, Any], width: int) -> Table:
    rows = results["rows"]
    size = f"{counted(results['steps'], 'step')}, {counted(results['seeds'], 'seed')}"
    columns = {
        "optimizer": Column("optimizer", [row["title"] for row in rows], is_number=False),
        "test": Column(f"test {results['metric']}", [_number(row["test_mean"]) for row in rows]),
        "interval": Column("95 % interval", [_ends(row["test_low"], row["test_high"]) for row in rows]),
        "rate": Column("rate", [f"{row['rate']:.3g}" for row in rows]),
    }
    return fitted(f"{results['title']}, held out, {size} ({results['label']})", columns, width, _LEAST)


def _rule(row: Mapping[str, Any], longest: int) -> str:
    """A rule in so many characters: the name of a known one, or the formula of what was found."""
    if row["is_known"] or row["known_as"]:
        return str(row["known_as"] or row["title"])
    text = str(row["formula"])
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _number(value: float | None) -> str:
    return "diverged" if value is None else f"{value:.4f}"


def _ends(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{low:.4f} to {high:.4f}"
