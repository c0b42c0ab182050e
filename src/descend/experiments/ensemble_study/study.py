"""The protocol of a study: controls first, then scores and lines, then what they amount to."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from descend.experiments.ensemble_study.controls import controls
from descend.experiments.ensemble_study.landscape import PlaneRow, Trace, lines
from descend.experiments.ensemble_study.scoring import Scoring
from descend.experiments.errors import RunError
from descend.experiments.jobs import Job, KeptJob, Progress, Result, Run, carry_out, kept_results
from descend.experiments.trial import Trial
from descend.schedules import Schedule
from descend.snapshots import SnapshotError, SnapshotStore


@dataclass(frozen=True)
class Fineness:
    """How finely the landscape is measured.

    Attributes:
        line: points on a line between two snapshots, with both ends.
        plane: points of the grid on a plane, in each direction.
    """

    line: int
    plane: int


FULL, QUICK = Fineness(11, 15), Fineness(7, 9)


@dataclass(frozen=True)
class Studied:
    """What is studied: the final trials of one optimizer.

    Attributes:
        finals: those that did not diverge, a seed each.
        lost: the seeds that did.
        steps: of each.
        count: of the snapshots of each.
        shape: of the rate.
        snapshots: the folder of the comparison's snapshots.
        ensemble: the folder of what the study keeps.
        fineness: of the landscape, which is that of the first seed.
    """

    finals: tuple[Trial, ...]
    lost: tuple[int, ...]
    steps: int
    count: int
    shape: Schedule
    snapshots: Path
    ensemble: Path
    fineness: Fineness

    def check(self) -> None:
        """Refuse a run whose snapshots are not all there and whole, before anything is trained.

        Raises:
            RunError: says which is not.
        """
        for final in self.finals:
            try:
                store = SnapshotStore(self.snapshots / final.file_name())
                wrong = list(store.damaged().values())
            except SnapshotError as error:
                raise RunError(f"{error}. Make the comparison again with --fresh") from error
            if wrong:
                raise RunError(f"{wrong[0]}. A study takes all of them: make the comparison again with --fresh")
            if len(store) != self.count:
                held = f"{store.folder} holds {len(store)} of {self.count} snapshots"
                raise RunError(f"{held}; make the comparison again with --fresh")

    def controls(self) -> list[KeptJob]:
        """Return the jobs of training what the comparison does not hold."""
        return self._kept(
            one for final in self.finals for one in controls(final, self.steps, self.count, self._weights)
        )

    def scores(self) -> list[KeptJob]:
        """Return the jobs of judging, one for each seed."""
        return self._kept(
            Scoring(final, self.steps, self.count, self.snapshots, self._weights) for final in self.finals
        )

    def lines(self) -> list[KeptJob]:
        """Return the jobs of the lines between all snapshots of the first seed."""
        return self._kept(lines(self.finals[0], self.snapshots, self._taken, self.fineness.line) if self.finals else [])

    def plane(self) -> list[KeptJob]:
        """Return the jobs of the rows of the plane through the last three snapshots; none where there are fewer."""
        if (three := self._three) is None:
            return []
        own = (self.finals[0], self.snapshots, three)
        return self._kept(PlaneRow(*own, self.fineness.plane, row) for row in range(self.fineness.plane))

    def trace(self) -> list[KeptJob]:
        """Return the job of the way over that plane; none where there is no plane."""
        if (three := self._three) is None:
            return []
        return self._kept([Trace(self.finals[0], self.snapshots, three, self.steps, self.shape)])

    def _kept(self, jobs: Iterable[Job]) -> list[KeptJob]:
        return [KeptJob(self.ensemble / "parts", job) for job in jobs]

    @property
    def _weights(self) -> Path:
        return self.ensemble / "weights"

    @property
    def _taken(self) -> list[int]:
        return [one.step for one in SnapshotStore(self.snapshots / self.finals[0].file_name())]

    @property
    def _three(self) -> tuple[int, int, int] | None:
        if not self.finals or len(taken := self._taken) < 3:
            return None
        first, second, third = taken[-3:]
        return first, second, third


@dataclass(frozen=True)
class Findings:
    """The results of all jobs of one optimizer."""

    scores: list[Result]
    lines: list[Result]
    plane: list[Result]
    trace: list[Result]


def study(studied: Mapping[str, Studied], run: Run, progress: Progress) -> dict[str, Findings]:
    """Do what is not done yet, and return what is found, by optimizer.

    Raises:
        RunError: a snapshot is missing or damaged, or something cannot be written.
        Interrupted: by the keyboard; the running jobs are lost.
    """
    every = list(studied.values())
    for one in every:
        one.check()
    waves = [
        [kept for one in every for kept in one.controls()],
        [kept for one in every for kept in (*one.scores(), *one.lines(), *one.plane(), *one.trace())],
    ]
    carry_out(waves, run, progress, "jobs")
    return {
        name: Findings(*map(kept_results, (one.scores(), one.lines(), one.plane(), one.trace())))
        for name, one in studied.items()
    }
