"""Judging all methods of one seed: temperatures, choices and soups on validation data, everything else on test data."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, overload

import torch
from torch import Tensor, nn

from descend.averaging import average, greedy_soup
from descend.ensembles import scores
from descend.ensembles.bootstrap import Draws
from descend.ensembles.calibration import fit_temperature, tempered
from descend.ensembles.diversity import ByExample, by_example, summarized
from descend.experiments.ensemble_study.controls import Control, controls
from descend.experiments.ensemble_study.methods import ensemble_names
from descend.experiments.jobs import Result
from descend.experiments.keeping import averageable, members_outputs, renew_batch_norm
from descend.experiments.trial import Trial
from descend.snapshots import SnapshotStore, State
from descend.tasks import Averages, EvaluationSplit, Task

BINS = 15
REPLICATES = 2000
FORMAT = 3
"""Of what a job returns; a change of it has the jobs done again."""
_MOST_CLASSWISE = 500_000
"""Examples times classes up to which there is a classwise error; beyond, as of words, it takes longer than training."""
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
        return {
            "format": FORMAT,
            "bins": BINS,
            "replicates": REPLICATES,
            "weights": [[one.sha256 for one in store] for store in stores],
        }

    def holds(self, result: Result) -> bool:
        """Tell that there is nothing beside the result."""
        return True

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
            judge.cumulative(
                "singlecycle", outputs(Firsts([one.store for one in short][::-1])), {self.count: "singlecycle"}
            )
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


class Judge:
    """Collects what is measured of methods.

    Args:
        task: by whose loss and metric.
        able: the same, as one whose predictions can be averaged.

    Attributes:
        rows: per method its numbers on test data.
        replicates: per method and number what bootstraps of the test examples give, the same draws for every seed;
            empty for a task without a class for each example.
        extra: what else is found out.
    """

    def __init__(self, task: Task, able: Averages) -> None:
        self._task, self._able = task, able
        self._targets = {split: able.targets(split) for split in _SPLITS}
        self._draws = None
        if (targets := self._targets["test"]) is not None:
            self._draws = Draws(len(targets), REPLICATES, block=getattr(task, "block", 1))
        self.rows: dict[str, dict[str, float | None]] = {}
        self.replicates: dict[str, dict[str, Tensor]] = {}
        self.extra: dict[str, Any] = {}

    def single(self, name: str, outputs: Callable[[EvaluationSplit], Iterator[Tensor]]) -> None:
        """Judge one model."""
        self._judge(name, {split: next(outputs(split)) for split in _SPLITS})

    def cumulative(
        self, source: str, outputs: Callable[[EvaluationSplit], Iterator[Tensor]], names: Mapping[int, str]
    ) -> None:
        """Judge the averages of the first m members, for each m that has a name; and how much they differ."""

        def members() -> Iterator[Tensor]:
            both = zip(*(self._running(outputs(split)) for split in _SPLITS), strict=True)
            for count, ((_, validation), (own, test)) in enumerate(both, 1):
                if count in names:
                    self._judge(names[count], {"validation": validation, "test": test})
                yield own

        if (targets := self._targets["test"]) is None or self._draws is None:
            for _ in members():
                pass
            return
        found = by_example(members(), targets)
        numbers = asdict(summarized(found))
        numbers["pairwise"] = [row[::-1] for row in numbers["pairwise"][::-1]]  # judged from the last to the first
        self.extra.setdefault("diversity", {})[source] = numbers
        self.replicates[source + " members"] = _of_members(found, self._draws)

    def result(self) -> Result:
        """Return all of it."""
        return {"rows": self.rows, "replicates": self.replicates, **self.extra}

    def _running(self, outputs: Iterator[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Each member's own outputs, and the average up to it."""
        total: Tensor | None = None
        is_log = self._able.averages == "probabilities"
        for count, own in enumerate(outputs, 1):
            if total is None:
                total = own
            else:
                total = torch.logaddexp(total, own) if is_log else total + own
            yield own, (total - math.log(count) if is_log else total / count)

    def _judge(self, name: str, outputs: Mapping[EvaluationSplit, Tensor]) -> None:
        judged = {split: self._able.judge(outputs[split], split) for split in _SPLITS}
        row: dict[str, float | None] = {
            "loss": judged["test"]["loss"],
            "metric": judged["test"][self._task.metric],
            "validation_metric": judged["validation"][self._task.metric],
        }
        validation, test = (self._targets[split] for split in _SPLITS)
        if validation is not None and test is not None and self._draws is not None:
            temperature = fit_temperature(outputs["validation"], validation)
            numbers, drawn = _of_method(outputs["test"].double(), temperature, test, self._draws)
            row |= {**numbers, "temperature": temperature}
            if self._task.metric == "accuracy":
                drawn["metric"] = drawn["accuracy"]
            self.replicates[name] = drawn
        self.rows[name] = row


def _of_method(
    outputs: Tensor, temperature: float, targets: Tensor, draws: Draws
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Every score of a method, and its bootstraps; none of a score that is infinite for an example."""
    cooled = tempered(outputs, temperature)
    by_example = {
        "accuracy": scores.correct(outputs, targets).double(),
        "nll": scores.nll(outputs, targets),
        "brier": scores.brier(outputs, targets),
        "tempered_nll": scores.nll(cooled, targets),
    }
    binned = {
        "ece": [*scores.binned(outputs, targets, bins=BINS)],
        "adaptive_ece": [*scores.binned(outputs, targets, bins=BINS, kind="adaptive")],
        "tempered_ece": [*scores.binned(cooled, targets, bins=BINS)],
    }
    if outputs.numel() <= _MOST_CLASSWISE:
        binned["classwise_ece"] = [*scores.binned(outputs, targets, bins=BINS, kind="classwise")]
    errors = iter(draws.calibration_errors([one for every in binned.values() for one in every]))
    drawn = {name: torch.stack([next(errors) for _ in every]).mean(0).float() for name, every in binned.items()}
    numbers = {name: values.mean().item() for name, values in by_example.items()}
    numbers |= {name: fmean(map(scores.mean_gap, every)) for name, every in binned.items()}
    return numbers, _means(by_example, draws) | drawn


def _of_members(found: ByExample, draws: Draws) -> dict[str, Tensor]:
    """Bootstraps of how much members differ."""
    errors = found.errors.double()
    by_example = {
        "disagreement": found.disagreement,
        "mutual_information": found.mutual_information,
        "ambiguity": found.ambiguity,
        "mean_accuracy": 1 - errors.mean(0),
        "ensemble_accuracy": found.hits.double(),
    }
    replicates = _means(by_example, draws)
    if (correlation := _correlations(errors, draws)) is not None:
        replicates["error_correlation"] = correlation.float()
    return replicates


def _correlations(errors: Tensor, draws: Draws) -> Tensor | None:
    """Bootstraps of the mean correlation of two members' errors; None if one of them has none that varies."""
    count = len(errors)
    if count < 2:
        return None
    first, second = torch.triu_indices(count, count, offset=1)
    means = draws.means(errors)
    covariances = draws.means(errors[first] * errors[second]) - means[first] * means[second]
    deviations = (means * (1 - means)).sqrt()
    found = (covariances / (deviations[first] * deviations[second])).nanmean(0)  # NaN where a draw has no error
    return found if bool(found.isfinite().all()) else None


def _means(by_example: Mapping[str, Tensor], draws: Draws) -> dict[str, Tensor]:
    finite = {name: values for name, values in by_example.items() if bool(values.isfinite().all())}
    return dict(zip(finite, draws.means(torch.stack(list(finite.values()))).float(), strict=True))


class Firsts(Sequence[State]):
    """The first snapshot of each of several stores, read when it is asked for."""

    def __init__(self, stores: Sequence[SnapshotStore]) -> None:
        self._stores = stores

    def __len__(self) -> int:
        return len(self._stores)

    @overload
    def __getitem__(self, place: int) -> State: ...

    @overload
    def __getitem__(self, place: slice) -> "Firsts": ...

    def __getitem__(self, place: int | slice) -> "State | Firsts":
        if isinstance(place, slice):
            return Firsts(self._stores[place])
        return self._stores[place].last()[0]


def _renewed(task: Task, model: nn.Module, state: State, seed: int) -> dict[str, Tensor]:
    """A state with the statistics of batch normalization that its weights have."""
    model.load_state_dict(dict(state))
    renew_batch_norm(task, model, seed)
    return {name: value.clone() for name, value in model.state_dict().items()}
