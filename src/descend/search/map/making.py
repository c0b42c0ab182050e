"""Making the map: enumeration, trainings, one table. What was finished is kept, so that it can go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from descend.experiments.manifest import hardware, versions
from descend.experiments.workers import Here, Pool
from descend.search.map import enumeration, stages, table, transfer
from descend.search.map.stages import Results, Stage
from descend.search.store import Store

CLASSES: Final = "classes.npz"
TABLE: Final = "map.npz"


class Progress(Protocol):
    """Who is told how the map goes on."""

    def stage(self, name: str, total: int) -> Callable[[int], None]:
        """A stage of so many parts starts; what is returned is told of every number of finished ones."""


class Silence:
    """Progress that nobody is told about."""

    def stage(self, name: str, total: int) -> Callable[[int], None]:
        """Say nothing."""
        return lambda count: None


def make(
    folder: Path,
    store: Store,
    hands: Here | Pool,
    child: str,
    progress: Progress,
    targets: Sequence[str] = tuple(transfer.TARGETS),
) -> table.Table:
    """Make the map, or what is missing of it, and write it to the folder.

    Args:
        folder: keeps the classes, and the table in the end.
        store: keeps the results of trainings.
        hands: does the work.
        child: name of the network.
        progress: is told.
        targets: other children on which a sample is trained; `child` itself is none.

    Raises:
        SearchError, TaskError: nothing is known of a target, or its data cannot be read; nothing has been done then.
    """
    targets = [name for name in targets if name != child]
    transfer.check(targets)
    classes = enumeration.read(folder / CLASSES)
    if classes is None:
        done = progress.stage("sentences", len(enumeration.SPACE.operands))
        classes = enumeration.enumerate_classes(hands, lambda: done(1))
        enumeration.save(classes, folder / CLASSES)

    def results(stage: Stage) -> Results:
        return stages.carry_out(stage, classes, store, hands, progress.stage(stage.name, len(stage.classes)))

    brief = results(stages.brief(classes, child))
    long = results(stages.long(brief, child))
    fresh = results(stages.fresh(long, child))
    known = results(stages.known(classes, child))
    known_fresh = results(stages.known_fresh(known, child))
    found = (brief, long, fresh, known, known_fresh)
    samples = {}
    for name in targets:
        stage, strata = transfer.stage(name, brief, list(map(int, known.classes)))
        samples[name] = transfer.Transfer(results(stage), strata)
    facts: dict[str, Any] = {
        "child": child,
        "steps": [stages.STEPS, stages.LONG_STEPS],
        "seeds": [list(stages.SEEDS), list(stages.FRESH_SEEDS)],
        "transfers": transfer.facts(targets),
        "versions": versions(),
        "hardware": hardware(),
    }
    made = table.of_results(classes, dict(zip(table.STAGES, found, strict=True)), samples, facts)
    table.save(made, folder / TABLE)
    return made
