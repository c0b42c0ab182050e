"""The file `diagnosis.json` of a diagnosis: its shape (format 1).

The classes below are the format, as those in `results` are of a comparison: a field without a default must be there,
`None` stands for a number that is not finite or was not measured, and keys that are not named here are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from descend.report.diagnosis_measures import Density, Setting, Sharpness, Spectrum, TraceEstimate
from descend.report.diagnosis_understanding import (
    Aligned,
    Disturbed,
    MeasuredNetwork,
    Memorized,
    Ranked,
    Symmetry,
    UnitLayer,
)

FORMAT = 1


@dataclass(frozen=True)
class DiagnosisManifest:
    """Everything that a repetition needs: options, versions, machine, seeds, command.

    Attributes:
        options: what was asked for, by name.
        versions: of Python and of the packages that numbers depend on.
        hardware: processor, cores that could be used, memory in GiB, threads of a job, jobs at a time.
        seeds: of the solutions, and of what instruments draw.
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
    kind: Literal["diagnose"] = "diagnose"


@dataclass(frozen=True)
class Solution:
    """Weights that were looked at.

    Attributes:
        name: that instruments give, such as "seed 0" or the file's name.
        source: "trained" here, or read from a "checkpoint".
        train_loss: mean over the examples that instruments see.
        validation_loss: the task's.
        validation_metric: the task's.
        distance: from the weights that it began at; null for a checkpoint.
    """

    name: str
    source: Literal["trained", "checkpoint"]
    train_loss: float | None
    validation_loss: float | None
    validation_metric: float | None
    distance: float | None = None


@dataclass(frozen=True)
class Rescaled:
    """Measures of the same function at other weights.

    Attributes:
        alpha: what the first layer is multiplied by, and the second divided by; 1 for the solution itself.
        function_change: largest difference of an output, relative to the largest output.
        measures: by name.
    """

    alpha: float
    function_change: float | None
    measures: dict[str, float | None]


@dataclass(frozen=True)
class Rescaling:
    """What a rescaling of layers does to measures, and not to the function.

    Attributes:
        layers: the two that are rescaled against each other, by name.
        rows: by alpha, rising.
        invariant: names of measures that stay what they are.
        setting: what was measured.
    """

    layers: list[str]
    rows: list[Rescaled]
    invariant: list[str]
    setting: Setting


@dataclass(frozen=True)
class Line:
    """The loss on a line through weights.

    Attributes:
        title: what the line is.
        amounts: rising; what they mean is said by `ends`, or by `direction`.
        losses: at each.
        ends: names of what stands at amounts 0 and 1; empty for a slice through one solution, at amount 0.
        direction: of a slice: how it was chosen and normalized.
        statistics: of batch normalization: "none", "fixed" or "recomputed".
        setting: what was measured.
        errors: the task's error at each; empty where it was not measured.
        barrier: rise above the straight line between the ends; null for a slice.
    """

    title: str
    amounts: list[float]
    losses: list[float | None]
    ends: list[str]
    direction: str
    statistics: Literal["none", "fixed", "recomputed"]
    setting: Setting
    errors: list[float | None] = field(default_factory=list)
    barrier: float | None = None


@dataclass(frozen=True)
class Spot:
    """A solution on a plane.

    Attributes:
        name: of it.
        x: its place across.
        y: its place up.
    """

    name: str
    x: float
    y: float


@dataclass(frozen=True)
class Surface:
    """The loss on a plane through weights.

    Attributes:
        title: what the plane is.
        kind: "slice" through one solution, "solutions" through three, or "trajectory".
        xs: rising.
        ys: rising.
        losses: losses[i][j] at (xs[j], ys[i]).
        x_title: what xs are.
        y_title: what ys are.
        points: what stands on the plane.
        way: of training: step, x, y, distance from the plane; empty without one.
        explained: shares of the way's variance along x and y; empty without one.
        direction: how the plane was chosen and normalized.
        statistics: of batch normalization: "none", "fixed" or "recomputed".
        setting: what was measured.
    """

    title: str
    kind: Literal["slice", "solutions", "trajectory"]
    xs: list[float]
    ys: list[float]
    losses: list[list[float | None]]
    x_title: str
    y_title: str
    points: list[Spot]
    way: list[list[float]]
    explained: list[float]
    direction: str
    statistics: Literal["none", "fixed", "recomputed"]
    setting: Setting


@dataclass(frozen=True)
class Watched:
    """One measurement in training.

    Attributes:
        step: after which it was taken.
        value: measured.
        error: its standard error or residual; null where there is none.
        converged: whether it is as accurate as was asked.
    """

    step: int
    value: float | None
    error: float | None
    converged: bool


@dataclass(frozen=True)
class InTraining:
    """What was measured while a solution was trained.

    Attributes:
        solution: its name.
        optimizer: that trained it.
        rate: its peak rate.
        steps: of the training.
        ceiling: of the overhead.
        overhead: measured: time of measurements by time of training.
        quantities: by name.
        losses: training loss: step and value.
        threshold: step and what the largest eigenvalue must stay below for stability; empty without one.
    """

    solution: str
    optimizer: str
    rate: float
    steps: int
    ceiling: float
    overhead: float
    quantities: dict[str, list[Watched]]
    losses: list[list[float]]
    threshold: list[list[float]] = field(default_factory=list)


@dataclass(frozen=True)
class Subject:
    """The task and model that were diagnosed.

    Attributes:
        name: of the task.
        title: its title.
        description: a line on it.
        metric: name of the metric.
        direction: "maximize" or "minimize".
        model: class of the model.
        weights: how many it has.
        sizes: of the splits.
        settings: of the task.
    """

    name: str
    title: str
    description: str
    metric: str
    direction: Literal["maximize", "minimize"]
    model: str
    weights: int
    sizes: dict[str, int]
    settings: dict[str, Any]


@dataclass(frozen=True)
class Diagnosis:
    """The whole file.

    Attributes:
        label: "diagnosis", or "screening" for a quick one.
        manifest: what a repetition needs.
        subject: task and model.
        solutions: weights that were looked at; instruments look at the first where they take one.
        spectra: extreme eigenvalues.
        traces: of matrices.
        densities: of spectra.
        sharpness: measures of it.
        rescaling: null where no layers can be rescaled, which a caveat says.
        lines: slices and interpolations.
        surfaces: slices, planes through solutions, trajectories.
        training: what was measured in training; empty for checkpoints.
        findings: sentences on what was found.
        caveats: by instrument: "all", "eigenvalues", "trace", "density", "sharpness", "rescaling", "slices",
            "interpolation", "trajectory", "memorization", "directions", "symmetry", "measures" or "training".
        memorization: trainings on labels some of which are drawn anew.
        directions: accuracy while units are disturbed.
        units: of each layer: what they know of classes, and what they matter.
        symmetry: weights that are the same function; null where no hidden layer is known.
        alignments: of the first two solutions.
        measures: of each solution, with its gap.
        rankings: of measures over a population; empty where none was given.
        format: number of the format.
        kind: what sort of document it is.
    """

    label: Literal["diagnosis", "screening"]
    manifest: DiagnosisManifest
    subject: Subject
    solutions: list[Solution]
    spectra: list[Spectrum]
    traces: list[TraceEstimate]
    densities: list[Density]
    sharpness: list[Sharpness]
    rescaling: Rescaling | None
    lines: list[Line]
    surfaces: list[Surface]
    training: list[InTraining]
    findings: list[str]
    caveats: dict[str, list[str]]
    memorization: list[Memorized] = field(default_factory=list)
    directions: list[Disturbed] = field(default_factory=list)
    units: list[UnitLayer] = field(default_factory=list)
    symmetry: Symmetry | None = None
    alignments: list[Aligned] = field(default_factory=list)
    measures: list[MeasuredNetwork] = field(default_factory=list)
    rankings: list[Ranked] = field(default_factory=list)
    format: int = FORMAT
    kind: Literal["diagnosis"] = "diagnosis"
