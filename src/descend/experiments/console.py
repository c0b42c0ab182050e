"""What a comparison shows in the terminal: its progress, and at the end a table."""

import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.status import Status
from rich.table import Table
from rich.text import Text

from descend.experiments.caveats import counted
from descend.experiments.trial import Record, Trial

_REFRESHES_PER_SECOND = 4  # the bar's thread shares the processor with the steps that are timed
_EDGES = {"high": "↑", "low": "↓"}
_GAP = 2  # between two columns
_SHORTEST_HEADING = len("steps to")


class _Bars(Progress):
    """Progress bars with lines below them."""

    below: Sequence[str] = ()

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the bars, and the lines, each cut off at the terminal's edge."""
        yield from super().get_renderables()
        for line in self.below:
            yield Text(line, no_wrap=True, overflow="ellipsis")


class Bar:
    """A progress bar with what runs now and the time left; on what is no terminal, a line for what is finished.

    Args:
        console: where to write.
        loading: what is shown until the work begins.
        what: is done, in the plural.
    """

    def __init__(self, console: Console, loading: Status, what: str) -> None:
        self._console = console
        self._loading = loading
        self._what = what
        self._bar = _Bars(
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("left, {task.description}"),
            console=console,
            refresh_per_second=_REFRESHES_PER_SECOND,
            transient=True,
            disable=not console.is_terminal,
        )
        self._row = self._bar.add_task("warming up", total=None)
        self._total = self._done = self._begun_at = 0
        self._began = 0.0

    def begin(self, total: int, done: int) -> None:
        """Start at `done` of `total`."""
        self._total, self._done, self._begun_at = total, done, done
        self._began = time.monotonic()
        self._loading.stop()
        self._bar.update(self._row, total=total, completed=done)
        self._bar.start()
        if done:
            self._console.print(f"Going on after {done} of {total} {self._what}.", highlight=False)

    def running(self, name: str) -> None:
        """Show what runs now."""
        self._bar.update(self._row, description=name)

    def below(self, lines: Sequence[str]) -> None:
        """Show lines below the bar."""
        self._bar.below = lines

    def finished(self, said: str, count: int = 1) -> None:
        """Count what is finished, and say it where there is no bar; a say of nothing is left out."""
        self._done += count
        self._bar.advance(self._row, count)
        if said and not self._console.is_terminal:
            line = f"[{self._done}/{self._total}] {said}; {self._time_left()} left"
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def end(self) -> None:
        """Take the bar away."""
        self._bar.stop()

    def _time_left(self) -> str:
        per_piece = (time.monotonic() - self._began) / max(self._done - self._begun_at, 1)
        seconds = round(per_piece * (self._total - self._done))
        return f"{seconds // 60} min {seconds % 60} s" if seconds >= 60 else f"{seconds} s"


class ConsoleProgress:
    """The progress of a comparison, as a bar.

    Args:
        console: where to write.
        metric: name of the task's metric.
        loading: what is shown until the comparison begins.
    """

    def __init__(self, console: Console, metric: str, loading: Status) -> None:
        self._bar, self._metric = Bar(console, loading, "trials"), metric

    def begin(self, total: int, done: int) -> None:
        """Start at `done` of `total` trials."""
        self._bar.begin(total, done)

    def running(self, trial: Trial) -> None:
        """Show what runs now."""
        self._bar.running(_phrase(trial))

    def finished(self, record: Record) -> None:
        """Count a finished trial."""
        outcome = "diverged" if record.diverged else f"{self._metric} {_number(record.validation_metric)}"
        self._bar.finished(f"{_phrase(record.trial)}: {outcome}")

    def end(self) -> None:
        """Take the bar away."""
        self._bar.end()


def table(results: Mapping[str, Any], width: int) -> Table:
    """Return the table of a finished comparison, the best optimizer first.

    Args:
        results: the content of its `results.json`.
        width: columns of the terminal; what does not fit into them is left out, the least important first.
    """
    task, rows = results["task"], results["summary"]
    size = f"{counted(task['steps'], 'step')}, {counted(rows[0]['n'], 'seed')}"
    notes = list(_notes(rows, has_target=task["target"] is not None))
    title = f"{task['title']}, {size} ({results['label']})"
    return fitted(title, _columns(results), width, ("state", "time", "validation", "target"), notes)


def fitted(
    title: str, columns: Mapping[str, "Column"], width: int, least: Sequence[str], notes: Sequence[str] = ()
) -> Table:
    """Return a table that fits into a terminal.

    Args:
        title: above it.
        columns: by name, in order.
        width: of the terminal.
        least: names of the columns that are left out where there is no room, the least important first.
        notes: below it.
    """
    shown = Table(
        title=Text(title),
        title_justify="left",
        caption=Text("\n".join(notes)) if notes else None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),  # with the divider, the gap
        pad_edge=False,
        show_edge=False,
    )
    kept = dict(columns)
    for name in least:
        if sum(column.width for column in kept.values()) + _GAP * (len(kept) - 1) > width:
            kept.pop(name, None)
    for column in kept.values():
        shown.add_column(Text(column.heading), justify="right" if column.is_number else "left", no_wrap=True)
    for cells in zip(*(column.cells for column in kept.values()), strict=True):
        shown.add_row(*map(Text, cells))
    return shown


@dataclass(frozen=True)
class Column:
    """One column of the table, its heading broken into lines that are about as short as its cells."""

    title: str
    cells: list[str]
    is_number: bool = True

    @property
    def heading(self) -> str:
        """The title in lines."""
        width = max([_SHORTEST_HEADING, *map(len, self.cells)])
        return "\n".join(textwrap.wrap(self.title, width, break_long_words=False))

    @property
    def width(self) -> int:
        """Of its widest line."""
        return max(map(len, [*self.heading.splitlines(), *self.cells]))


def _columns(results: Mapping[str, Any]) -> dict[str, Column]:
    task, rows = results["task"], results["summary"]
    titles = {optimizer["name"]: optimizer["title"] for optimizer in results["optimizers"]}
    return {
        "optimizer": Column("optimizer", [titles[row["optimizer"]] for row in rows], is_number=False),
        "test": Column(
            f"test {task['metric']}, 95 % interval",
            [_interval(*(row[f"test_{end}"] for end in ("mean", "low", "high"))) for row in rows],
        ),
        **_of_ensembles(results),
        "validation": Column("valid.", [_number(row["validation_mean"]) for row in rows]),
        "rate": Column("best rate", [_rate(row) for row in rows], is_number=False),
        **_to_target(task["target"], rows),
        "time": Column("ms per step", [_known(row["ms_per_step"], ".2f") for row in rows]),
        "state": Column("state", [_state(row["state_bytes"]) for row in rows]),
    }


def _of_ensembles(results: Mapping[str, Any]) -> dict[str, Column]:
    count, rows = results["manifest"]["options"].get("snapshots"), results["summary"]
    if count is None:
        return {}
    cells = [_interval(*(row["ensemble"][end] for end in ("mean", "low", "high"))) for row in rows]
    return {"ensemble": Column(f"ensemble of {count}, 95 % interval", cells)}


def _to_target(target: float | None, rows: Iterable[Mapping[str, Any]]) -> dict[str, Column]:
    if target is None:
        return {}
    return {"target": Column(f"steps to {target:g}", [_known(row["steps_to_target"], "g") for row in rows])}


def _notes(rows: Iterable[Mapping[str, Any]], *, has_target: bool) -> Iterator[str]:
    rows = list(rows)
    for edge, end in (("high", "highest"), ("low", "lowest")):
        if any(row["edge"] == edge for row in rows):
            yield f"{_EDGES[edge]} the {end} rate of its grid"
    if has_target and any(row["steps_to_target"] is None for row in rows):
        yield "– not reached by at least half of the seeds"


def human_bytes(count: float) -> str:
    """Return a number of bytes with a binary unit and three digits."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1000 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.3g} {unit}"


def _phrase(trial: Trial) -> str:
    return f"{trial.phase} {trial.optimizer}, rate {trial.rate:g}, seed {trial.seed}"


def _interval(mean: float | None, low: float | None, high: float | None) -> str:
    return _number(mean) if mean is None or high is None else f"{_number(mean)} ± {_number(high - mean)}"


def _rate(row: Mapping[str, Any]) -> str:
    rate = f"{row['rate']:g}"
    return f"{rate} {_EDGES[row['edge']]}" if row["edge"] else rate


def _known(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _state(count: float | None) -> str:
    return "–" if count is None else human_bytes(count)


def _number(value: float | None) -> str:
    if value is None:
        return "diverged"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"
