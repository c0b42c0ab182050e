"""The file `meta-train.json` of a learned optimizer: its shape (format 1).

A field without a default must be there, `None` stands for a number that is not finite or does not exist, and keys that
are not named here are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

FORMAT = 1


@dataclass(frozen=True)
class MetaManifest:
    """Everything that a repetition needs.

    Attributes:
        options: what was asked for, by name.
        versions: of Python and of the packages that numbers depend on.
        hardware: processor, cores, memory in GiB, threads of a job, jobs at a time.
        seeds: of the trainings.
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
    kind: Literal["meta-train"] = "meta-train"


@dataclass(frozen=True)
class MetaTask:
    """What an optimizer was learned on.

    Attributes:
        name: on the command line.
        title: in words.
        description: a sentence.
    """

    name: str
    title: str
    description: str


@dataclass(frozen=True)
class LearnedNetwork:
    """The network that validated best.

    Attributes:
        kind: "lstm" or "mlp".
        settings: of its constructor.
        weights: their number.
        seed: of its training.
        digest: what tells it from others.
    """

    kind: str
    settings: dict[str, Any]
    weights: int
    seed: int
    digest: str


@dataclass(frozen=True)
class MetaRecipe:
    """How it was learned.

    Attributes:
        episodes: batches of problems that were solved.
        steps: of an episode.
        unroll: steps between updates of the network.
        problems: of an episode.
        method: "backpropagation" or "evolution".
        objective: "log" or "sum" of the losses.
        rate: of Adam, at the beginning.
    """

    episodes: int
    steps: int
    unroll: int
    problems: int
    method: str
    objective: str
    rate: float


@dataclass(frozen=True)
class Training:
    """How a training went.

    Attributes:
        seed: of it.
        points: pairs of an episode and the mean over validation problems of log10 of the final loss.
    """

    seed: int
    points: list[list[float | None]]


@dataclass(frozen=True)
class Difference:
    """A learned optimizer less a rule, on the same problems: below 0 the learned one is better.

    Attributes:
        seed: of the learned one's training.
        mean: of log10 of the losses, or of log10 of their means.
        low: lower end of its 95 % interval over problems.
        high: upper end.
        won: share of problems on which the learned one's loss is lower; null for means.
    """

    seed: int
    mean: float
    low: float
    high: float
    won: float | None


@dataclass(frozen=True)
class Compared:
    """What an optimizer came to.

    Attributes:
        name: of it.
        seed: of its training; null for a rule.
        values: hyper-parameters that tuning chose.
        score: the metric over test problems.
        median: of log10 of the losses.
        accuracy: mean test accuracy; null where there are no classes.
        differences: of each learned one to this rule; empty for the learned ones.
    """

    name: str
    seed: int | None
    values: dict[str, Any]
    score: float | None
    median: float | None
    accuracy: float | None
    differences: list[Difference]


@dataclass(frozen=True)
class Comparison:
    """Optimizers on the same problems.

    Attributes:
        target: the problems, in words.
        steps: after which losses are compared.
        metric: "mean of log10" or "log10 of mean", which rules are tuned for.
        problems: number of them.
        tuned_on: number of others, which rules are tuned on.
        rows: the learned ones, then rules.
    """

    target: str
    steps: int
    metric: str
    problems: int
    tuned_on: int
    rows: list[Compared]


@dataclass(frozen=True)
class MetaResults:
    """A finished meta-training.

    Attributes:
        label: "meta-training", or "screening".
        manifest: everything that a repetition needs.
        task: what was learned on.
        network: that validated best.
        recipe: how it was learned.
        curves: how each training went.
        comparisons: with tuned rules.
        findings: sentences on what was found.
        caveats: what to be careful of.
        format: number of the format.
        kind: what sort of document it is.
    """

    label: str
    manifest: MetaManifest
    task: MetaTask
    network: LearnedNetwork
    recipe: MetaRecipe
    curves: list[Training]
    comparisons: list[Comparison]
    findings: list[str]
    caveats: list[str]
    format: int = FORMAT
    kind: Literal["meta-train"] = "meta-train"
