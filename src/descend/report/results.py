"""The file `results.json` of a run: its shape (format 2), read and checked before anything is drawn.

The classes below are the format: a field without a default must be there, `None` stands for a number that is not finite
or was not measured, and keys that are not named here are ignored. Their docstrings are the descriptions in the schema,
and hold no more than that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from descend.report.decoding import decode
from descend.report.files import document

FORMAT = 2


@dataclass(frozen=True)
class Task:
    """The task: what was learned, how long, and the number by which it is judged.

    Attributes:
        name: what the command line calls it.
        title: its name on the page.
        description: what is learned, in a sentence.
        metric: name of the number by which it is judged; `accuracy` is a fraction of 1, shown in per cent.
        direction: whether a higher or a lower metric is better.
        target: the validation metric that counts as reached, in the metric's unit; null for none.
        steps: optimizer steps of each trial.
        batch_size: examples in a batch; null where a training script keeps it to itself.
        sizes: examples in each split; empty where a training script keeps them to itself.
        settings: what was asked of the task, such as a subset or a model, by name.
    """

    name: str
    title: str
    description: str
    metric: str
    direction: Literal["maximize", "minimize"]
    target: float | None
    steps: int
    batch_size: int | None
    sizes: dict[str, int]
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """Everything that a repetition needs: options, versions, machine, seeds, command.

    Attributes:
        options: what was asked for, by name; with the SHA-256 of the task's file and of data that were named, and under
            `rules` the text of each rule that came from a file.
        versions: of Python and of the packages that numbers depend on.
        hardware: processor, cores that could be used, memory in GiB, threads of a trial, trials at a time.
        seeds: of the `tuning` trials and of the `final` ones.
        command: what to type to repeat the run.
        format: number of the format of the run's files.
        kind: what sort of run it is.
    """

    options: dict[str, Any]
    versions: dict[str, Any]
    hardware: dict[str, Any]
    seeds: dict[str, list[int]]
    command: str
    format: int = FORMAT
    kind: Literal["compare"] = "compare"


@dataclass(frozen=True)
class Schedule:
    """The multiplier that all optimizers with a schedule share.

    Attributes:
        text: the schedule, as the library writes it.
        values: of the multiplier, evenly spaced from the first step to the last.
        length: of the schedule in steps; null for none.
        cycle_ends: steps at which its cycles end; the curves of a task have points there.
    """

    text: str
    values: list[float]
    length: int | None = None
    cycle_ends: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Optimizer:
    """One compared optimizer: its formula, its grid of rates and the rate that validation data chose.

    Attributes:
        name: of its rule.
        title: its published name.
        summary: a sentence on it.
        hyper_parameters: those that were fixed, by name.
        rates: the rates that were tried.
        best_rate: the rate that validation data chose; null for an optimizer without one.
        edge: the end of the grid of rates at which the best lies; null where it lies inside, or every trial diverged.
        mathml: one step as MathML.
        text: one step as plain text.
        state_bytes: state held beside the parameters, in bytes; null if no step was taken.
        scheduled: the hyper-parameter that the schedule multiplies; null for none.
        symbols: what stands in the formula for hyper-parameters, by their names.
        grid: the hyper-parameter tuned beside the rate, if one was, and its values; every rate met each of them.
        best_values: what validation data chose of it.
    """

    name: str
    title: str
    summary: str
    hyper_parameters: dict[str, Any]
    rates: list[float]
    best_rate: float | None
    edge: Literal["low", "high"] | None
    mathml: str
    text: str
    state_bytes: int | None
    scheduled: str | None = "lr"
    symbols: dict[str, str] = field(default_factory=dict)
    grid: dict[str, list[float]] = field(default_factory=dict)
    best_values: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Point:
    """What was measured at one step of a trial.

    Attributes:
        step: how many steps had been taken.
        seconds: spent in those steps, measuring left out.
        train_loss: mean loss of the batches since the point before.
        validation_loss: mean loss on validation data.
        validation_metric: the task's metric on validation data.
    """

    step: int
    seconds: float | None
    train_loss: float | None
    validation_loss: float | None
    validation_metric: float | None


@dataclass(frozen=True)
class Trial:
    """One training run.

    Attributes:
        phase: whether the trial chose a rate (`tuning`) or is a result (`final`).
        optimizer: name of its rule.
        rate: the peak rate, greater than 0.
        seed: of the initial weights and of the order of the data.
        diverged: whether a loss or the weights stopped being finite, which ended the trial.
        curve: what was measured on the way.
        validation_loss: mean loss on validation data at the end; null if diverged.
        validation_metric: the metric on validation data at the end; if diverged, its worst value, or null for an
            infinite one.
        test_loss: mean loss on test data, of a final trial; null if diverged.
        test_metric: the metric on test data, of a final trial; if diverged, as above.
        steps_to_target: steps until the target was reached on validation data; null if it was not.
        ms_per_step: median time of a step, in milliseconds.
        seconds_to_target: time spent in the steps to the target, in seconds.
        values: of the hyper-parameter tuned beside the rate, by its name.
        test_scores: what else the task measures on test data, by name, of a final trial.
        optimizer_ms_per_step: the optimizer's part of `ms_per_step`.
        state_bytes: the optimizer's state, in bytes.
        fixed: hyper-parameters that a training script set itself, by name.
        ensemble_loss: loss on test data of the averaged predictions of the snapshots that a final trial took.
        ensemble_metric: the metric of the same.
    """

    phase: Literal["tuning", "final"]
    optimizer: str
    rate: float
    seed: int
    diverged: bool
    curve: list[Point]
    validation_loss: float | None
    validation_metric: float | None
    test_loss: float | None
    test_metric: float | None
    steps_to_target: int | None
    ms_per_step: float | None
    seconds_to_target: float | None = None
    values: dict[str, float] = field(default_factory=dict)
    test_scores: dict[str, float | None] = field(default_factory=dict)
    optimizer_ms_per_step: float | None = None
    state_bytes: int | None = None
    fixed: dict[str, Any] = field(default_factory=dict)
    ensemble_loss: float | None = None
    ensemble_metric: float | None = None


@dataclass(frozen=True)
class Score:
    """A score on test data over the seeds.

    Attributes:
        mean: over the seeds.
        low: lower end of the 95 % Student t interval of the mean; null for one seed.
        high: its upper end.
    """

    mean: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Row:
    """The final result of one optimizer over its seeds, a diverged one counted as the worst result there is.

    Attributes:
        optimizer: name of its rule.
        rate: the rate that validation data chose.
        n: number of final seeds.
        test_mean: mean test metric; null if it is not finite.
        test_low: lower end of the 95 % Student t interval of the mean; null for one seed, or an infinite mean.
        test_high: its upper end.
        validation_mean: mean validation metric at the end.
        steps_to_target: median steps to the target; null if half of the seeds did not reach it.
        ms_per_step: median over the seeds, in milliseconds.
        state_bytes: state held beside the parameters, in bytes.
        diverged: how many of the seeds diverged.
        edge: the end of the grid of rates at which the rate lies; null where it lies inside.
        seconds_to_target: median seconds spent in the steps to the target, counted in the same way.
        values: of the hyper-parameter tuned beside the rate, by its name.
        test_scores: what else the task measures on test data, by name, where every seed has it.
        reached: how many of the seeds reached the target.
        ensemble: the test metric of the averaged predictions of each run's snapshots; null without snapshots.
        ensemble_gain: what that is more than the metric of the run's last weights, paired by seed.
    """

    optimizer: str
    rate: float | None
    n: int
    test_mean: float | None
    test_low: float | None
    test_high: float | None
    validation_mean: float | None
    steps_to_target: float | None
    ms_per_step: float | None
    state_bytes: int | None
    diverged: int
    edge: Literal["low", "high"] | None
    seconds_to_target: float | None = None
    values: dict[str, float] = field(default_factory=dict)
    test_scores: dict[str, Score] = field(default_factory=dict)
    reached: int | None = None
    ensemble: Score | None = None
    ensemble_gain: Score | None = None

    @property
    def failed(self) -> bool:
        """Whether there is no result: every seed diverged, or the mean with those that did is not finite."""
        return self.test_mean is None or self.diverged >= self.n

    def reach(self) -> list[float]:
        """The mean on test data and the ends of its interval, as far as there are any."""
        return [value for value in (self.test_mean, self.test_low, self.test_high) if value is not None]


@dataclass(frozen=True)
class Difference:
    """An optimizer's test metric less the reference's under the same seed.

    All numbers are null where a run diverged to no finite metric.

    Attributes:
        optimizer: name of its rule.
        n: number of pairs.
        mean: of the differences, in the metric's unit.
        low: lower end of the 95 % Student t interval of the mean; null for one pair.
        high: its upper end.
        p: two-sided p of the exact sign-flip test.
        p_holm: the same, corrected for the number of differences by Holm's method.
    """

    optimizer: str
    n: int
    mean: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None


@dataclass(frozen=True)
class Results:
    """A finished comparison.

    Attributes:
        format: number of this format.
        kind: what sort of run it is.
        label: `comparison`, or what it is short of one, such as `screening, no claim`.
        task: what was trained.
        manifest: what a repetition needs.
        schedule: the multiplier that optimizers share.
        optimizers: what was compared, in the order asked for.
        trials: every training run.
        summary: a row per optimizer, best first.
        caveats: what to keep in mind, a sentence each.
        reference: the optimizer with the best mean validation metric of the final trials.
        differences: of every other optimizer from the reference.
    """

    format: int
    kind: Literal["compare"]
    label: str
    task: Task
    manifest: Manifest
    schedule: Schedule
    optimizers: list[Optimizer]
    trials: list[Trial]
    summary: list[Row]
    caveats: list[str]
    reference: str | None = None
    differences: list[Difference] = field(default_factory=list)

    def titles(self) -> dict[str, str]:
        """Title of each optimizer by its name."""
        return {optimizer.name: optimizer.title for optimizer in self.optimizers}

    def of(self, phase: str, optimizer: str) -> list[Trial]:
        """Trials of one phase and one optimizer, in the file's order."""
        return [trial for trial in self.trials if trial.phase == phase and trial.optimizer == optimizer]


def read(path: Path) -> Results:
    """Read a `results.json` and check it against the format.

    Raises FileNotFoundError where there is none, ValueError where it is damaged or of a newer format; both name the
    file and the remedy.
    """
    missing = "give the directory of a finished run, or finish the run by repeating its command"
    data = document(path, FORMAT, "run", missing=missing, damaged=_damaged)
    try:
        results: Results = decode(Results, data)
        _check_names(results)
    except ValueError as error:
        raise ValueError(_damaged(path, str(error))) from None
    return results


def _damaged(path: Path, why: str) -> str:
    return f"{path} is damaged: {why}; repeat the run's command, with --fresh if it reports the run as finished"


def _check_names(results: Results) -> None:
    """Raise ValueError where a name is missing, repeated, or stands for no optimizer."""
    known = results.titles()
    if not known:
        raise ValueError("optimizers is empty")
    if len(known) < len(results.optimizers):
        raise ValueError("optimizers has a name twice")
    if sorted(row.optimizer for row in results.summary) != sorted(known):
        raise ValueError("summary and optimizers do not name the same optimizers")
    for index, trial in enumerate(results.trials):
        if trial.optimizer not in known:
            raise ValueError(f"trials[{index}].optimizer is {trial.optimizer!r}, which optimizers does not have")
        if trial.rate <= 0:
            raise ValueError(f"trials[{index}].rate must be positive, not {trial.rate!r}")
    for index, difference in enumerate(results.differences):
        if difference.optimizer not in known:
            raise ValueError(f"differences[{index}].optimizer is {difference.optimizer!r}, which optimizers lacks")
    if results.reference is not None and results.reference not in known:
        raise ValueError(f"reference is {results.reference!r}, which optimizers does not have")
