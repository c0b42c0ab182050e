"""What a comparison shows in the terminal: its progress, and at the end a table."""

import time
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from descend.experiments.trial import Record, Trial

_REFRESHES_PER_SECOND = 4  # the bar's thread shares the processor with the steps that are timed


class ConsoleProgress:
    """A progress bar with what runs now and the time left; on what is no terminal, a line per finished trial.

    Args:
        console: where to write.
        metric: name of the task's metric.
    """

    def __init__(self, console: Console, metric: str) -> None:
        self._console = console
        self._metric = metric
        self._bar = Progress(
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("left, {task.description}"),
            console=console,
            refresh_per_second=_REFRESHES_PER_SECOND,
            transient=True,
            disable=not console.is_terminal,
        )
        self._row = self._bar.add_task("", total=None)
        self._total = self._done = self._begun_at = 0
        self._began = 0.0

    def begin(self, total: int, done: int) -> None:
        """Start at `done` of `total` trials."""
        self._total, self._done, self._begun_at = total, done, done
        self._began = time.monotonic()
        self._bar.update(self._row, total=total, completed=done)
        self._bar.start()
        if done:
            self._console.print(f"Going on after {done} of {total} trials.", highlight=False)

    def running(self, trial: Trial) -> None:
        """Show what runs now."""
        self._bar.update(self._row, description=_phrase(trial))

    def finished(self, record: Record) -> None:
        """Count a finished trial."""
        self._done += 1
        self._bar.advance(self._row)
        if not self._console.is_terminal:
            outcome = "diverged" if record.diverged else f"{self._metric} {_number(record.validation_metric)}"
            line = f"[{self._done}/{self._total}] {_phrase(record.trial)}: {outcome}; {self._time_left()} left"
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def end(self) -> None:
        """Take the bar away."""
        self._bar.stop()

    def _time_left(self) -> str:
        per_trial = (time.monotonic() - self._began) / (self._done - self._begun_at)
        seconds = round(per_trial * (self._total - self._done))
        return f"{seconds // 60} min {seconds % 60} s" if seconds >= 60 else f"{seconds} s"


def table(results: Mapping[str, Any]) -> Table:
    """Return the table of a finished comparison, the best optimizer first."""
    task, first = results["task"], results["summary"][0]
    shown = Table(
        title=f"{task['title']}, {task['steps']} steps, {first['n']} seeds ({results['label']})",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        pad_edge=False,
    )
    shown.add_column("optimizer", no_wrap=True)
    shown.add_column(f"test {task['metric']},\n95 % interval", justify="right")
    shown.add_column("validation", justify="right")
    shown.add_column("best rate")
    for heading in (f"steps to\n{task['target']:g}", "ms per\nstep", "state"):
        shown.add_column(heading, justify="right")
    titles = {optimizer["name"]: optimizer["title"] for optimizer in results["optimizers"]}
    for row in results["summary"]:
        shown.add_row(
            titles[row["optimizer"]],
            _interval(row),
            _number(row["validation_mean"]),
            _rate(row),
            "not reached" if row["steps_to_target"] is None else f"{row['steps_to_target']:g}",
            "-" if row["ms_per_step"] is None else f"{row['ms_per_step']:.2f}",
            human_bytes(row["state_bytes"]),
        )
    return shown


def human_bytes(count: float) -> str:
    """Return a number of bytes with a binary unit and three digits."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1000 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.3g} {unit}"


def _phrase(trial: Trial) -> str:
    return f"{trial.phase} {trial.optimizer}, rate {trial.rate:g}, seed {trial.seed}"


def _interval(row: Mapping[str, Any]) -> str:
    mean = _number(row["test_mean"])
    return mean if row["test_low"] is None else f"{mean} ± {_number(row['test_high'] - row['test_mean'])}"


def _rate(row: Mapping[str, Any]) -> Text:
    text = Text(f"{row['rate']:g}")
    return text.append(f" {row['edge']} edge", style="yellow") if row["edge"] else text


def _number(value: float | None) -> str:
    if value is None:
        return "diverged"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"
