"""What the trials of a run share: how long they are, what the rate follows, and what they leave on disk."""

from dataclasses import dataclass
from pathlib import Path

from descend.schedules import Schedule


@dataclass(frozen=True)
class Kept:
    """What a trial keeps of its weights.

    Attributes:
        folder: in which each trial has a folder of its own, with a `SnapshotStore`.
        steps: after which a snapshot is taken.
        ema_decay: of an average of the weights that is kept in the step, and stored in `AVERAGE`; None for none.
    """

    folder: Path
    steps: tuple[int, ...]
    ema_decay: float | None = None


AVERAGE = "average"
"""The folder, in that of a trial, with the average of its weights."""


@dataclass(frozen=True)
class Conditions:
    """What trials share.

    Attributes:
        steps: optimizer steps of each.
        shape: the schedule that the rate follows; None for the usual one.
        logs: the folder where trials are logged; None for nowhere.
        kept: what final trials keep of their weights; None for nothing.
    """

    steps: int
    shape: Schedule | None = None
    logs: Path | None = None
    kept: Kept | None = None
