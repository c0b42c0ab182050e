"""Control runs: what the same training would have given without snapshots, or with other ones.

As Huang et al. 2017 (arXiv:1704.00109, section 4.1), at the rate that was chosen for the snapshots:

- nocycle: one run whose rate falls to a tenth after a half and again after three quarters of its steps, with as many
  snapshots, equally spaced;
- cosine: one run under the usual warm-up and cosine; an exponential average of its weights is kept beside it;
- singlecycle: as many runs as there are snapshots, each from its own initial weights over one cycle.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from descend.experiments import trial as trials
from descend.experiments.conditions import AVERAGE, Kept
from descend.experiments.jobs import Result
from descend.experiments.manifest import versions
from descend.experiments.trial import Trial
from descend.schedules import Schedule, multistep, snapshot
from descend.snapshots import SnapshotError, SnapshotStore
from descend.tasks import Problem

Kind = Literal["nocycle", "cosine", "singlecycle"]
_SEEDS_APART = 1000
"""Members of singlecycle for seed s have the seeds 1000 s + 1, 1000 s + 2, ..., which no other trial has."""
EMA_SHARE = 20
"""The average of the weights forgets over a twentieth of the run: decay = steps / (steps + 20)."""


@dataclass(frozen=True)
class Control:
    """One control run.

    Attributes:
        kind: which.
        final: the final trial of the comparison that it is a control of.
        steps: of that trial.
        count: of its snapshots.
        folder: in which the control's snapshots go.
        member: of singlecycle, from 1; else 0.
    """

    kind: Kind
    final: Trial
    steps: int
    count: int
    folder: Path
    member: int = 0

    @property
    def trial(self) -> Trial:
        """The trial that is run."""
        seed = self.final.seed if not self.member else _SEEDS_APART * self.final.seed + self.member
        return dataclasses.replace(self.final, phase="control", seed=seed)

    @property
    def name(self) -> str:
        """What it is called while it runs."""
        return f"{self.kind} {self.trial.file_name()}"

    @property
    def length(self) -> int:
        """Its own steps."""
        return self.steps // self.count if self.kind == "singlecycle" else self.steps

    @property
    def shape(self) -> Schedule | None:
        """What its rate follows; None for the usual warm-up and cosine."""
        if self.kind == "nocycle":
            return multistep(max(1, self.steps // 2), max(2, 3 * self.steps // 4))
        return snapshot(self.length, 1) if self.kind == "singlecycle" else None

    @property
    def kept(self) -> Kept:
        """What it keeps of its weights."""
        cycle = self.steps // self.count
        taken = tuple(range(cycle, self.steps + 1, cycle)) if self.kind == "nocycle" else (self.length,)
        decay = self.steps / (self.steps + EMA_SHARE) if self.kind == "cosine" else None
        return Kept(self.folder / self.kind, taken, decay)

    @property
    def depends(self) -> Mapping[str, Any]:
        """All that decides the weights."""
        own = {"kind": self.kind, "steps": self.steps, "count": self.count, "ema_share": EMA_SHARE}
        return {**own, "trial": self.trial.as_dict(), "shape": repr(self.shape), "versions": versions()}

    @property
    def store(self) -> SnapshotStore:
        """Its snapshots."""
        return SnapshotStore(self.kept.folder / self.trial.file_name())

    @property
    def average(self) -> SnapshotStore:
        """The average of its weights."""
        return SnapshotStore(self.kept.folder / self.trial.file_name() / AVERAGE)

    def holds(self, result: Result) -> bool:
        """Tell whether its snapshots and average are there and whole; a run that diverged need not have them."""
        if result["diverged"]:
            return True
        try:
            kept = [one.step for one in self.store] == list(self.kept.steps) and not self.store.damaged()
            return kept and (self.kept.ema_decay is None or (len(self.average) == 1 and not self.average.damaged()))
        except SnapshotError:
            return False

    def run(self, task: Problem) -> Result:
        """Train it."""
        record = trials.run(task, self.trial, self.length, None, self.shape, self.kept)
        return {"diverged": record.diverged, "validation_metric": record.validation_metric}


def controls(final: Trial, steps: int, count: int, folder: Path) -> list[Control]:
    """Return the control runs of one final trial; together they take three times its steps."""
    own = (final, steps, count, folder)
    members = [Control("singlecycle", *own, member=member) for member in range(1, count + 1)]
    return [Control("nocycle", *own), Control("cosine", *own), *members]
