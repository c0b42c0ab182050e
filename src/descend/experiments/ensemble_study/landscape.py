"""What lies between the snapshots of one run: barriers on lines, and the plane through three of them.

All on validation data, with the statistics of batch normalization recomputed at every point, the ends included.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

from torch import nn

from descend.experiments import trial as trials
from descend.experiments.jobs import Result
from descend.experiments.keeping import renew_batch_norm
from descend.experiments.trial import Trial
from descend.generalization import Measured, Plane, path
from descend.schedules import Schedule
from descend.snapshots import SnapshotStore, State
from descend.tasks import Task

FORMAT = 1
BATCHES = 30
"""Training batches over which the statistics of batch normalization are recomputed at each point."""
MARGIN = 0.3
"""Of the plane around the three snapshots, as a share of their extent."""
TRACE_POINTS = 120
"""Of the way that training took over the plane."""


@dataclass(frozen=True)
class Line:
    """The job of measuring the line from one snapshot to a later one.

    Attributes:
        final: the trial that took them.
        folder: of the comparison's snapshots.
        steps: of the two.
        points: on the line, with both ends.
    """

    final: Trial
    folder: Path
    steps: tuple[int, int]
    points: int

    @property
    def name(self) -> str:
        """What it is called while it runs."""
        return f"line of {self.points} points from {self.steps[0]} to {self.steps[1]} of {self.final.file_name()}"

    @property
    def depends(self) -> Mapping[str, Any]:
        """The hashes of the two, and how finely it is measured."""
        return {"format": FORMAT, "ends": _hashes(self.folder, self.final, self.steps), "points": self.points}

    def holds(self, result: Result) -> bool:
        """Tell that there is nothing beside the result."""
        return True

    def run(self, task: Task) -> Result:
        """Measure it."""
        store = SnapshotStore(self.folder / self.final.file_name())
        first, second = (store.load(step) for step in self.steps)
        found = path(first, second, Evaluation(task, self.final.seed), points=self.points)
        return {**asdict(found), "barrier": found.barrier, "error_barrier": found.error_barrier}


@dataclass(frozen=True)
class PlaneRow:
    """The job of measuring one row of a grid on the plane through three snapshots.

    Attributes:
        final: the trial that took them.
        folder: of the comparison's snapshots.
        steps: of the three.
        points: of the grid, in each direction.
        row: which, from 0 at the bottom.
    """

    final: Trial
    folder: Path
    steps: tuple[int, int, int]
    points: int
    row: int

    @property
    def name(self) -> str:
        """What it is called while it runs."""
        return f"row {self.row} of {self.points} of the plane of {self.final.file_name()}"

    @property
    def depends(self) -> Mapping[str, Any]:
        """The hashes of the three, and how finely it is measured."""
        own = {"format": FORMAT, "points": self.points, "row": self.row, "margin": MARGIN}
        return {**own, "three": _hashes(self.folder, self.final, self.steps)}

    def holds(self, result: Result) -> bool:
        """Tell that there is nothing beside the result."""
        return True

    def run(self, task: Task) -> Result:
        """Measure it."""
        plane = _plane(task, self.folder, self.final, self.steps)
        evaluation = Evaluation(task, self.final.seed)
        xs, ys = plane.grid(self.points, MARGIN)
        found = [evaluation(plane.at(x, ys[self.row])) for x in xs]
        losses, errors = [one.loss for one in found], [one.error for one in found]
        return {"xs": xs, "y": ys[self.row], "losses": losses, "errors": errors}


@dataclass(frozen=True)
class Trace:
    """The job of repeating a final run, to see its way over the plane through three of its snapshots.

    Attributes:
        final: the trial that took them.
        folder: of the comparison's snapshots.
        steps: of the three.
        length: of the run.
        shape: of its rate.
    """

    final: Trial
    folder: Path
    steps: tuple[int, int, int]
    length: int
    shape: Schedule

    @property
    def name(self) -> str:
        """What it is called while it runs."""
        return f"trace of {self.final.file_name()}"

    @property
    def depends(self) -> Mapping[str, Any]:
        """The hashes of the three."""
        return {"format": FORMAT, "three": _hashes(self.folder, self.final, self.steps), "points": TRACE_POINTS}

    def holds(self, result: Result) -> bool:
        """Tell that there is nothing beside the result."""
        return True

    def run(self, task: Task) -> Result:
        """Train, and project the weights on the way; `repeats` is whether the snapshots came out bit for bit."""
        store = SnapshotStore(self.folder / self.final.file_name())
        plane = _plane(task, self.folder, self.final, self.steps)
        every = max(1, self.length // TRACE_POINTS)
        taken = {one.step for one in store}
        way = [[0.0, *plane.project(task.model(self.final.seed).state_dict())]]
        agree = []

        def watch(step: int, model: nn.Module) -> None:
            if step % every == 0 or step in taken:
                way.append([float(step), *plane.project(model.state_dict())])
            if step in taken:
                agree.append(_is_same(model.state_dict(), store.load(step)))

        # As a tuning trial: the test set has been looked at, and nothing is kept.
        repeated = replace(self.final, phase="tuning")
        trials.run(task, repeated, self.length, None, self.shape, None, watch)
        return {"steps": list(self.steps), "coordinates": [list(at) for at in plane.coordinates], "way": way} | {
            "repeats": all(agree)
        }


class Evaluation:
    """What a state scores on validation data.

    Args:
        task: decides loss and metric.
        seed: of the batches over which batch normalization is recomputed.
    """

    def __init__(self, task: Task, seed: int) -> None:
        self._task, self._seed = task, seed

    @cached_property
    def _model(self) -> nn.Module:
        return self._task.model(self._seed)

    def __call__(self, state: State) -> Measured:
        """Return its loss, and its metric as an error: 1 less a share of right answers, other metrics as they are."""
        self._model.load_state_dict(dict(state))
        renew_batch_norm(self._task, self._model, self._seed, BATCHES)
        scores = self._task.evaluate(self._model, "validation")
        metric = float(scores[self._task.metric])
        return Measured(float(scores["loss"]), 1 - metric if counts_right(self._task) else metric)


def counts_right(task: Task) -> bool:
    """Tell whether a task's metric is a share of right answers, whose rest is an error."""
    return task.direction == "maximize" and task.worst == 0 and task.target is not None and task.target <= 1


def lines(final: Trial, folder: Path, steps: Sequence[int], points: int) -> list[Line]:
    """Return the jobs of all lines between snapshots of one run."""
    return [Line(final, folder, pair, points) for pair in combinations(steps, 2)]


def _plane(task: Task, folder: Path, final: Trial, steps: tuple[int, int, int]) -> Plane:
    store = SnapshotStore(folder / final.file_name())
    first, second, third = (store.load(step) for step in steps)
    names = [name for name, _ in task.model(final.seed).named_parameters(remove_duplicate=False)]
    return Plane.through(first, second, third, names=names)


def _hashes(folder: Path, final: Trial, steps: Sequence[int]) -> list[str]:
    hashes = {one.step: one.sha256 for one in SnapshotStore(folder / final.file_name())}
    return [hashes[step] for step in steps]


def _is_same(one: State, other: State) -> bool:
    return all(bool((one[name] == other[name]).all()) for name in one)
