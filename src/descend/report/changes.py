"""What differs between runs in what was asked for and in where they ran."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from descend.report.results import Optimizer, Results


@dataclass(frozen=True)
class Change:
    """One entry that is not the same in all runs.

    Attributes:
        group: what it belongs to: options, task, schedule, an optimizer's title, seeds, versions or hardware.
        entry: its name, the names of nested objects joined by dots.
        values: one per run, in the order of the runs; null where a run has none.
    """

    group: str
    entry: str
    values: list[Any]


def changes(runs: Sequence[Results]) -> list[Change]:
    """The entries that differ; of an optimizer, between the runs that have it."""
    return [*_settings(runs), *_optimizers(runs), *_surroundings(runs)]


def _settings(runs: Sequence[Results]) -> Iterator[Change]:
    options = list(_differing("options", [_options(run) for run in runs]))
    yield from options
    for change in _differing("task", [_task(run) for run in runs]):
        if Change("options", change.entry, change.values) not in options:  # as options may hold the steps
            yield change
    texts = {run.schedule.text for run in runs}
    yield from _differing(
        "schedule",
        [{"text": run.schedule.text} if len(texts) > 1 else {"values": run.schedule.values} for run in runs],
    )


def _optimizers(runs: Sequence[Results]) -> Iterator[Change]:
    known = [{optimizer.name: optimizer for optimizer in run.optimizers} for run in runs]
    titles = {name: title for run in runs for name, title in run.titles().items()}
    for name, title in titles.items():
        yield from _differing(title, [_optimizer(own[name]) if name in own else None for own in known])


def _surroundings(runs: Sequence[Results]) -> Iterator[Change]:
    yield from _differing("seeds", [run.manifest.seeds for run in runs])
    yield from _differing("versions", [run.manifest.versions for run in runs])
    yield from _differing("hardware", [run.manifest.hardware for run in runs])


def _options(run: Results) -> dict[str, Any]:
    """What was asked for; the texts of rules apart, whose formulas are compared."""
    return {name: value for name, value in run.manifest.options.items() if name != "rules"}


def _task(run: Results) -> dict[str, Any]:
    names = ("name", "description", "metric", "direction", "target", "steps", "batch_size", "sizes", "settings")
    return {name: getattr(run.task, name) for name in names}


def _optimizer(optimizer: Optimizer) -> dict[str, Any]:
    return {
        **optimizer.hyper_parameters,
        "rates": optimizer.rates,
        "grid": optimizer.grid,
        "scheduled": optimizer.scheduled,
        "formula": optimizer.text,
    }


def _differing(group: str, runs: Sequence[dict[str, Any] | None]) -> Iterator[Change]:
    """The entries of a group that differ between the runs that have the group."""
    flat = [None if run is None else dict(_flat(run)) for run in runs]
    there = [entries for entries in flat if entries is not None]
    for entry in dict.fromkeys(key for entries in there for key in entries):
        if any(entries.get(entry) != there[0].get(entry) for entries in there):
            yield Change(group, entry, [None if entries is None else entries.get(entry) for entries in flat])


def _flat(values: dict[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    """Entries that hold something: what an older run does not name was not asked for either."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{place}{key}.")
        elif value is not None and value not in ("", []):
            yield f"{place}{key}", value
