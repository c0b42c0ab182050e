"""The file `ensemble.json` of a study of snapshots: its shape (format 1); `ensemble_reading` reads it.

The classes below are the format, as those in `results` are of a comparison: a field without a default must be there,
`None` stands for a number that is not finite or was not measured, and keys that are not named here are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from descend.report.results import Manifest, Task

FORMAT = 1


@dataclass(frozen=True)
class Estimate:
    """A number over the seeds and the test examples.

    Attributes:
        mean: over the seeds; null if it is not finite.
        low: lower end of its 95 % interval; null where there is none.
        high: its upper end.
    """

    mean: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Row:
    """What one method came to on test data. Means over the seeds where nothing else is said.

    Attributes:
        method: its key.
        title: its name in tables.
        source: the run whose weights it uses.
        models: how many forward passes a prediction takes.
        metric: the task's metric.
        loss: the task's loss.
        accuracy: share of right classes; null for a task without classes, as is all below.
        nll: negative log-likelihood of the right class, in nats.
        brier: Brier score, the sum over the classes.
        ece: expected calibration error, bins of equal width.
        adaptive_ece: calibration error, bins of equal count.
        classwise_ece: calibration error, the mean over the classes.
        temperature: what validation data chose to divide the logits by.
        tempered_nll: NLL at that temperature.
        tempered_ece: ECE at that temperature.
        validation_metric: the task's metric on validation data.
        by_seed: the task's metric of each seed, in the order of the optimizer's seeds.
    """

    method: str
    title: str
    source: Literal["snapshots", "nocycle", "cosine", "singlecycle"]
    models: int
    metric: Estimate
    loss: Estimate | None
    accuracy: Estimate | None
    nll: Estimate | None
    brier: Estimate | None
    ece: Estimate | None
    adaptive_ece: Estimate | None
    classwise_ece: Estimate | None
    temperature: float | None
    tempered_nll: Estimate | None
    tempered_ece: Estimate | None
    validation_metric: float | None
    by_seed: list[float | None]


@dataclass(frozen=True)
class Difference:
    """A paired difference: the same seeds, the same examples.

    Attributes:
        mean: over the seeds; null if it is not finite.
        low: lower end of its 95 % interval; null where there is none.
        high: its upper end.
        p: two-sided p of the exact sign-flip test over the seeds; null where a difference is not finite.
        above: at how many seeds it is above 0.
        below: at how many seeds it is below 0.
    """

    mean: float | None
    low: float | None
    high: float | None
    p: float | None
    above: int
    below: int


@dataclass(frozen=True)
class Comparison:
    """The ensemble of all snapshots less another method.

    Attributes:
        against: key of the other method.
        metric: difference of the task's metric.
        nll: difference of the NLL; null for a task without classes.
    """

    against: str
    metric: Difference
    nll: Difference | None = None


@dataclass(frozen=True)
class BestAverage:
    """The average of weights that validation data put first, less the last snapshot.

    Attributes:
        method: its key.
        metric: difference of the task's metric.
    """

    method: str
    metric: Difference


@dataclass(frozen=True)
class Diversity:
    """How much the members of an ensemble differ on test data.

    Attributes:
        source: whose members: the snapshots, or those of a control.
        members: how many there are.
        disagreement: the share of examples that two members classify differently, the mean over all pairs.
        error_correlation: correlation of two members' errors, the mean over all pairs; a null mean where there is none.
        mutual_information: entropy of the averaged probabilities less the members' mean entropy, in nats.
        ambiguity: the members' mean NLL less that of their averaged probabilities, in nats; a null mean if infinite.
        mean_accuracy: mean of the members' accuracies.
        ensemble_accuracy: accuracy of their averaged probabilities.
        pairwise: the disagreement of each pair, from the earliest member to the latest.
    """

    source: Literal["snapshots", "nocycle", "singlecycle"]
    members: int
    disagreement: Estimate
    error_correlation: Estimate
    mutual_information: Estimate
    ambiguity: Estimate
    mean_accuracy: Estimate
    ensemble_accuracy: Estimate
    pairwise: list[list[float | None]]


@dataclass(frozen=True)
class Line:
    """What was measured on the line from one snapshot to a later one, on validation data.

    Attributes:
        first: step of the earlier snapshot.
        second: step of the later one.
        barrier: the most by which the loss rises above the straight line between its ends; null if it is not finite.
        error_barrier: the same of the error.
        amounts: places on the line, from 0 at the earlier snapshot to 1 at the later.
        losses: at those places; null for one that is not finite.
        errors: at those places; empty where there are none.
    """

    first: int
    second: int
    barrier: float | None
    error_barrier: float | None
    amounts: list[float]
    losses: list[float | None]
    errors: list[float | None]


@dataclass(frozen=True)
class Barriers:
    """The barriers between the snapshots of one seed.

    Attributes:
        seed: which.
        points: on each line, with both ends.
        steps: at which the snapshots were taken, ascending.
        matrix: the loss barrier of each pair, in the order of the steps; null for one that is not finite.
        lines: between all pairs.
    """

    seed: int
    points: int
    steps: list[int]
    matrix: list[list[float | None]]
    lines: list[Line]


@dataclass(frozen=True)
class Plane:
    """The plane through the last three snapshots of one seed; distances on it are distances between weights.

    Attributes:
        xs: columns of the grid, evenly spaced.
        ys: its rows, evenly spaced.
        losses: on validation data, a list for each row; null for one that is not finite.
        errors: on validation data, likewise.
        steps: at which the three snapshots were taken.
        coordinates: of the three, x and y.
        way: of training over the plane; step, x, y and distance from the plane.
        repeats: whether the run that was made again for the way gave the same weights bit for bit.
    """

    xs: list[float]
    ys: list[float]
    losses: list[list[float | None]]
    errors: list[list[float | None]]
    steps: list[int]
    coordinates: list[list[float]]
    way: list[list[float]]
    repeats: bool


@dataclass(frozen=True)
class Optimizer:
    """What the snapshots of one optimizer are worth.

    Attributes:
        name: of its rule.
        title: its published name.
        rate: the peak rate of all its runs; null where every run diverged.
        values: of the hyper-parameter tuned beside the rate, by its name.
        seeds: that all numbers are over.
        lost_seeds: that diverged and are left out.
        missing: titles of the methods without a result, as a control diverged.
        rows: a row for each method, in the order of tables.
        comparisons: of the ensemble of all snapshots with its rivals.
        best_average: of weights, chosen on validation data, beside the last snapshot; null without results.
        diversity: of each set of members; empty for a task without classes.
        soup_taken: steps of the snapshots that the greedy soup took, in its order, for each seed.
        barriers: between the snapshots; null where none were measured.
        plane: through the last three of them; null where there are fewer.
    """

    name: str
    title: str
    rate: float | None
    values: dict[str, float]
    seeds: list[int]
    lost_seeds: list[int]
    missing: list[str]
    rows: list[Row]
    comparisons: list[Comparison]
    best_average: BestAverage | None
    diversity: list[Diversity]
    soup_taken: list[list[int]]
    barriers: Barriers | None
    plane: Plane | None

    def row(self, method: str) -> Row | None:
        """The row of a method, None where there is none."""
        return next((row for row in self.rows if row.method == method), None)


@dataclass(frozen=True)
class EnsembleResults:
    """A finished study of snapshots.

    Attributes:
        format: number of this format.
        kind: what sort of document it is.
        label: of the comparison that took the snapshots; `comparison`, or what it is short of one.
        task: what was trained.
        manifest: what a repetition of the comparison needs.
        snapshots: how many each run has.
        bins: of the calibration errors.
        replicates: of the bootstrap.
        batch_norm_batches: training batches that renew the statistics of batch normalization at points of lines.
        error: what the errors on lines and plane are, in terms of the metric.
        optimizers: what was studied.
        findings: what was found, a sentence each.
        caveats: what to keep in mind, a sentence or two each.
    """

    format: int
    kind: Literal["ensemble"]
    label: str
    task: Task
    manifest: Manifest
    snapshots: int
    bins: int
    replicates: int
    batch_norm_batches: int
    error: str
    optimizers: list[Optimizer]
    findings: list[str] = field(default_factory=list)
    caveats: list[str] = field(default_factory=list)
