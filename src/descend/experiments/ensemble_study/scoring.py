"""Judging all methods of one seed: temperatures, choices and soups on validation data, everything else on test data."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from descend.averaging import average, greedy_soup
from descend.ensembles import scores
from descend.ensembles.calibration import fit_temperature, tempered
from descend.ensembles.diversity import diversity
from descend.experiments.ensemble_study.controls import Control, controls
from descend.experiments.ensemble_study.jobs import Result
from descend.experiments.ensemble_study.methods import ensemble_names
from descend.experiments.keeping import averageable, members_outputs, renew_batch_norm
from descend.experiments.trial import Trial
from descend.snapshots import SnapshotStore, State
from descend.tasks import Averages, EvaluationSplit, Task

BINS = 15
FORMAT = 2
"""Of what a job returns; a change of it has the jobs done again."""
_SPLITS: tuple[EvaluationSplit, ...] = ("validation", "test")


@dataclass(frozen=True)
class Scoring:
    """The job of judging everything that one seed has.

    Attributes:
        final: the final trial of the comparison.
        steps: of it.
        count: of its snapshots.
        snapshots: the folder of the comparison's snapshots.
        weights: the folder of the controls'.
    """

    final: Trial
    steps: int
    count: int
    snapshots: Path
    weights: Path

    @property
    def name(self) -> str:
        """What it is called while it runs."""
        return f"scores of {self.final.file_name()}"

    @property
    def depends(self) -> Mapping[str, Any]:
        """The hashes of all weights that are judged."""
        stores = [self._store, *(store for one in self._controls for store in (one.store, one.average))]
        return {"format": FORMAT, "bins": BINS, "weights": [[one.sha256 for one in store] for store in stores]}

    def run(self, task: Task) -> Result:
        """Judge it."""
        able, model = averageable(task), task.model(self.final.seed)
        judge = Judge(task, able)
        nocycle, cosine, *short = self._controls

        def outputs(states: Sequence[State]) -> Callable[[EvaluationSplit], Iterator[Tensor]]:
            return lambda split: members_outputs(able, model, states, split)

        snapshots = self._store.last()
        names = dict(ensemble_names(self.count))
        judge.cumulative("snapshots", outputs(snapshots[::-1]), names)
        judge.single("best", outputs([snapshots[self._best(task)]]))
        for last in range(2, self.count + 1):
            mean = _renewed(task, model, average(snapshots[-last:]), self.final.seed)
            judge.single(f"average-{last}", outputs([mean]))
        soup = self._soup(task, model, snapshots)
        judge.single("soup", outputs([_renewed(task, model, soup.state, self.final.seed)]))
        judge.extra["soup_taken"] = [snapshots.snapshots[place].step for place in soup.chosen]
        if len(cosine.store):
            judge.single("cosine", outputs(cosine.store.last()))
        if len(cosine.average):
            judge.single("ema", outputs(cosine.average.last()))
        if len(nocycle.store) == self.count:
            judge.cumulative("nocycle", outputs(nocycle.store.last()[::-1]), {1: "nocycle-last", self.count: "nocycle"})
        if all(len(one.store) for one in short):
            members = [one.store.last()[0] for one in reversed(short)]
            judge.cumulative("singlecycle", outputs(members), {self.count: "singlecycle"})
        return judge.result()

    @property
    def _controls(self) -> list[Control]:
        return controls(self.final, self.steps, self.count, self.weights)

    @property
    def _store(self) -> SnapshotStore:
        return SnapshotStore(self.snapshots / self.final.file_name())

    def _best(self, task: Task) -> int:
        """The place of the snapshot whose validation metric is best; of equals the later."""
        sign = 1 if task.direction == "maximize" else -1
        known = [-math.inf if one.metric is None else sign * one.metric for one in self._store]
        return max(range(len(known)), key=lambda place: (known[place], place))

    def _soup(self, task: Task, model: nn.Module, snapshots: Sequence[State]) -> Any:
        def metric(state: State) -> float:
            model.load_state_dict(dict(_renewed(task, model, state, self.final.seed)))
            return float(task.evaluate(model, "validation")[task.metric])

        return greedy_soup(snapshots, metric, mode="max" if task.direction == "maximize" else "min")


@dataclass
class Judge:
    """Collects what is measured of methods.

    Attributes:
        task: by whose loss and metric.
        able: the same, as one whose predictions can be averaged.
        rows: per method its numbers.
        examples: per method what bootstraps resample, a number per test example.
        extra: what else is found out.
    """

    task: Task
    able: Averages
    rows: dict[str, dict[str, float | None]] = field(default_factory=dict)
    examples: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def single(self, name: str, outputs: Callable[[EvaluationSplit], Iterator[Tensor]]) -> None:
        """Judge one model."""
        self._judge(name, {split: next(outputs(split)) for split in _SPLITS})

    def cumulative(
        self, source: str, outputs: Callable[[EvaluationSplit], Iterator[Tensor]], names: Mapping[int, str]
    ) -> None:
        """Judge the averages of the first m members, for each m that has a name; and how much they differ."""
        targets = self.able.targets("test")
        seen = {split: self._running(outputs(split)) for split in _SPLITS}
        if targets is None:
            for count, validation in enumerate(seen["validation"], 1):
                _, total = next(seen["test"])
                self._named(names, count, {"validation": validation[1], "test": total})
            return

        def members() -> Iterator[Tensor]:
            both = zip(seen["test"], seen["validation"], strict=True)
            for count, ((own, total), (_, validation)) in enumerate(both, 1):
                self._named(names, count, {"validation": validation, "test": total})
                yield own

        found = asdict(diversity(members(), targets))
        found["pairwise"] = [row[::-1] for row in found["pairwise"][::-1]]  # judged from the last to the first
        self.extra.setdefault("diversity", {})[source] = found

    def result(self) -> Result:
        """Return all of it."""
        return {"rows": self.rows, "examples": self.examples, **self.extra}

    def _named(self, names: Mapping[int, str], count: int, outputs: Mapping[EvaluationSplit, Tensor]) -> None:
        if count in names:
            self._judge(names[count], outputs)

    def _running(self, outputs: Iterator[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Each member's own outputs, and the average up to it."""
        total: Tensor | None = None
        is_log = self.able.averages == "probabilities"
        for count, own in enumerate(outputs, 1):
            if total is None:
                total = own
            else:
                total = torch.logaddexp(total, own) if is_log else total + own
            yield own, (total - math.log(count) if is_log else total / count)

    def _judge(self, name: str, outputs: Mapping[EvaluationSplit, Tensor]) -> None:
        judged = self.able.judge(outputs["test"], "test")
        row: dict[str, float | None] = {"loss": judged["loss"], "metric": judged[self.task.metric]}
        row["validation_metric"] = self.able.judge(outputs["validation"], "validation")[self.task.metric]
        right = {split: self.able.targets(split) for split in _SPLITS}
        if right["test"] is not None and right["validation"] is not None:
            row |= asdict(scores.score(outputs["test"], right["test"], BINS))
            temperature = fit_temperature(outputs["validation"], right["validation"])
            cooled = tempered(outputs["test"], temperature)
            row["temperature"] = temperature
            row["tempered_nll"] = scores.nll(cooled, right["test"]).mean().item()
            row["tempered_ece"] = scores.calibration_error(cooled, right["test"], bins=BINS)
            self.examples[name] = _by_example(outputs["test"], right["test"])
        self.rows[name] = row


def _by_example(outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    return {
        "accuracy": scores.correct(outputs, targets),
        "nll": scores.nll(outputs, targets).float(),
        "brier": scores.brier(outputs, targets).float(),
        "confidence": outputs.max(1).values.exp().float(),
    }


def _renewed(task: Task, model: nn.Module, state: State, seed: int) -> dict[str, Tensor]:
    """A state with the statistics of batch normalization that its weights have."""
    model.load_state_dict(dict(state))
    renew_batch_norm(task, model, seed)
    return {name: value.clone() for name, value in model.state_dict().items()}
