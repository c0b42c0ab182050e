"""The ways to get predictions out of one training budget, all that a study compares."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Source = Literal["snapshots", "nocycle", "cosine", "singlecycle"]


@dataclass(frozen=True)
class Method:
    """One way.

    Attributes:
        name: key in the results.
        title: in tables.
        source: the run whose weights it uses.
        models: how many forward passes a prediction takes.
    """

    name: str
    title: str
    source: Source
    models: int = 1


def methods(count: int) -> list[Method]:
    """Return all methods for so many snapshots, in the order of tables."""
    return [
        Method("cosine", "one cosine, last weights", "cosine"),
        Method("ema", "one cosine, EMA of weights", "cosine"),
        Method("nocycle-last", "step decay, last weights", "nocycle"),
        Method("nocycle", f"NoCycle: {count} snapshots of step decay", "nocycle", count),
        Method("singlecycle", f"SingleCycle: {count} short runs", "singlecycle", count),
        Method("last", "last snapshot", "snapshots"),
        Method("best", "best snapshot on validation", "snapshots"),
        *(Method(f"last-{m}", f"snapshot ensemble, last {m}", "snapshots", m) for m in range(2, count + 1)),
        *(Method(f"average-{m}", f"weights of the last {m} averaged", "snapshots") for m in range(2, count + 1)),
        Method("soup", "greedy soup of snapshots", "snapshots"),
    ]


def ensemble_names(count: int) -> Iterator[tuple[int, str]]:
    """Yield for each m up to so many what the ensemble of the last m snapshots is called."""
    yield 1, "last"
    yield from ((m, f"last-{m}") for m in range(2, count + 1))
