"""`make_map`: the complete map of the simplest rules."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from descend.commands.needs import FOR_COMPARISONS, require
from descend.commands.searching import command_line, loaded, recipe_of

if TYPE_CHECKING:
    from descend.search.map.making import Progress as MapProgress


def make_map(
    task: str = "digits",
    *,
    workers: int | None = None,
    out: str | Path | None = None,
    fresh: bool = False,
    progress: Callable[[], MapProgress] | None = None,
) -> Path:
    """Make the map of the space "nos" at depth one: all sentences told apart, screened and trained.

    On two cores it takes a quarter of an hour. Killed and started again, it continues.

    Args:
        task: of the child network.
        workers: trainings at a time; by default as many as there are cores.
        out: the directory; by default one under `runs/`.
        fresh: start over.
        progress: makes the object that is told how it goes on.

    Returns:
        The table.

    Raises:
        ModuleNotFoundError: a package of the lab extra is missing.
        TaskError: data are missing or damaged.
        UsageError: another argument makes no sense.
        RunError: the directory holds something else, is in use, damaged, or cannot be written.
        Interrupted: stopped by Ctrl-C; the message says how to go on.
    """
    require(FOR_COMPARISONS)
    from descend.experiments import options, run_directory
    from descend.experiments import workers as processes
    from descend.experiments.errors import Interrupted
    from descend.experiments.manifest import hardware, versions
    from descend.search.map import making
    from descend.search.run import MAP
    from descend.search.store import Store

    recipe_of(task, "loss", None)
    at_a_time = options.at_least("workers", 1, processes.available() if workers is None else workers)
    problem, digest = loaded(task)
    directory = Path(out) if out is not None else Path("runs") / f"map-{task}"
    command = command_line({"map": True, "task": task, "workers": workers, "out": out})
    manifest = {
        "format": MAP.format,
        "kind": MAP.command,
        "options": {"task": task, "data_sha256": digest},
        "versions": versions(),
        "hardware": hardware(at_a_time),
        "command": command,
    }
    with run_directory.opened(directory, manifest, fresh, MAP) as run:
        told = _NotedMap(progress() if progress else making.Silence())
        try:
            with (
                contextlib.closing(Store(run.trials)) as store,
                processes.hands(task, {}, problem, at_a_time) as hands,
            ):
                making.make(directory, store, hands, task, told)
        except KeyboardInterrupt:
            interrupted = Interrupted(*told.place)
            interrupted.command = command
            raise interrupted from None
    return directory / making.TABLE


class _NotedMap:
    """Progress of a map that knows how far it is."""

    def __init__(self, to: MapProgress) -> None:
        self._to = to
        self.place = (0, 0, "parts")

    def stage(self, name: str, total: int) -> Callable[[int], None]:
        self.place = (0, total, f"parts of the stage {name}")
        told = self._to.stage(name, total)

        def finished(count: int) -> None:
            self.place = (self.place[0] + count, *self.place[1:])
            told(count)

        return finished
