"""The file `search.json` of a search for rules: its shape (format 1).

The classes below are the format, as those in `results` are of a comparison: a field without a default must be there,
`None` stands for a number that is not finite or was not measured, and keys that are not named here are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

FORMAT = 1


@dataclass(frozen=True)
class SearchManifest:
    """Everything that a repetition needs: options, versions, machine, seeds, command.

    Attributes:
        options: what was asked for, by name.
        versions: of Python and of the packages that numbers depend on.
        hardware: processor, cores that could be used, memory in GiB, threads of a training, trainings at a time.
        seeds: of the policy, of the trainings that `select`, and `fresh` ones.
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
    kind: Literal["search"] = "search"


@dataclass(frozen=True)
class Training:
    """How rules were trained.

    Attributes:
        task: whose training and validation examples were seen; its test examples were not.
        child: name of the network.
        weights: how many it has.
        training_examples: how many.
        validation_examples: how many, which rewards and losses are of.
        batch_size: examples of one batch.
        steps: of a whole training.
        rungs: pairs of a step and how many of a rule's rates were trained up to it in the search.
        rates: of the first rung, relative to the size of a rule's update on probes.
        seeds: of the search, which also chose rates.
        fresh_seeds: of the leaderboard, which selected nothing.
        reward: "loss", exp(-validation cross-entropy), or "accuracy".
    """

    task: str
    child: str
    weights: int
    training_examples: int
    validation_examples: int
    batch_size: int
    steps: int
    rungs: list[list[int]]
    rates: list[float]
    seeds: list[int]
    fresh_seeds: list[int]
    reward: str


@dataclass(frozen=True)
class Counts:
    """How much a search did.

    Attributes:
        rounds: of the policy.
        proposals: in all.
        evaluated: distinct classes of rules that were trained.
        diverged: how many of these diverged at every rate.
        repeats: proposals whose class had been met before, so that nothing was trained.
        invalid: proposals that were not worth training, by verdict on probes.
        seconds: that the rounds took.
    """

    rounds: int
    proposals: int
    evaluated: int
    diverged: int
    repeats: int
    invalid: dict[str, int]
    seconds: float


@dataclass(frozen=True)
class Improvement:
    """A rule that was better than all before it.

    Attributes:
        evaluation: its number among the distinct evaluations, from 1.
        reward: in the search.
        member: it, as the space writes it.
        formula: it, in one line.
    """

    evaluation: int
    reward: float
    member: str
    formula: str


@dataclass(frozen=True)
class Difference:
    """A paired difference of losses: the same seeds.

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
    """A rule on the leaderboard. Losses are validation cross-entropies in nats; null stands for a divergence.

    Attributes:
        rank: its place, from 1; what `descend search export` takes.
        tier: from 1.
        name: of its function.
        title: its name in tables.
        is_known: whether it is one of this library's, shown for comparison.
        known_as: the known rule that it is in other words; null for none.
        member: it, as the space writes it; null for one of this library's.
        key: its class: the fingerprint on probes.
        formula: in one line.
        text: its equations in plain text.
        mathml: its equations in MathML.
        latex: its equations in LaTeX.
        source: a Python file with it.
        hyper_parameters: values that differ from the rule's defaults, the rate apart.
        schedules: what drives its other hyper-parameters, as text, by name; empty for most.
        size: root mean square of its update on probes.
        relative_rate: the rate times that.
        rate: the one chosen.
        reward: in the search; null for what it did not find.
        selection_losses: at the chosen rate, of each seed of the search.
        fresh_losses: of each fresh seed.
        loss: the mean of these; null if one diverged.
        low: lower end of its 95 % interval; null where there is none.
        high: its upper end.
        accuracy: the mean over the fresh seeds, on validation examples.
        difference: fresh losses less those of the best of its tier; null for the best itself.
        state_bytes: of state per parameter.
    """

    rank: int
    tier: int
    name: str
    title: str
    is_known: bool
    known_as: str | None
    member: str | None
    key: str
    formula: str
    text: str
    mathml: str
    latex: str
    source: str
    hyper_parameters: dict[str, Any]
    schedules: dict[str, str]
    size: float
    relative_rate: float
    rate: float
    reward: float | None
    selection_losses: list[float | None]
    fresh_losses: list[float | None]
    loss: float | None
    low: float | None
    high: float | None
    accuracy: float
    difference: Difference | None
    state_bytes: int


@dataclass(frozen=True)
class HeldOutRow:
    """What an optimizer came to on a held-out task, with fresh seeds and on test examples.

    Attributes:
        name: of the optimizer.
        title: its name in tables.
        rank: on the leaderboard, of what was found; null for others.
        test_mean: of the task's metric; null where a seed diverged.
        test_low: lower end of its 95 % interval; null where there is none.
        test_high: its upper end.
        validation_mean: of the task's metric on validation examples.
        rate: the one chosen.
    """

    name: str
    title: str
    rank: int | None
    test_mean: float | None
    test_low: float | None
    test_high: float | None
    validation_mean: float | None
    rate: float


@dataclass(frozen=True)
class HeldOut:
    """A comparison of the finalists with known optimizers on another network or task.

    Attributes:
        task: its name.
        title: the task's name in tables.
        metric: of the task.
        direction: "maximize" or "minimize".
        label: "comparison", or what makes it less.
        steps: of each training.
        seeds: how many fresh ones.
        trials: rates of each optimizer.
        directory: of the comparison, within the run.
        rows: of the optimizers, the best first.
    """

    task: str
    title: str
    metric: str
    direction: str
    label: str
    steps: int
    seeds: int
    trials: int
    directory: str
    rows: list[HeldOutRow]


@dataclass(frozen=True)
class SearchResults:
    """A finished search for update rules.

    Attributes:
        format: the number of this format.
        label: "search", or "screening" where it was quick.
        manifest: what was asked for, with which software, on which machine.
        training: how rules were trained.
        counts: how much was done.
        best_rewards: the best reward after each distinct evaluation.
        improvements: the rules that were better than all before them.
        leaderboard: the best rules and known ones, trained again with fresh seeds, the best first.
        held_out: comparisons of the finalists on other networks or tasks.
        legend: what names in formulas stand for.
        findings: what can be said, in sentences.
        caveats: what it does not say, in sentences.
    """

    format: int
    label: str
    manifest: SearchManifest
    training: Training
    counts: Counts
    best_rewards: list[float]
    improvements: list[Improvement]
    leaderboard: list[Row]
    legend: str
    held_out: list[HeldOut] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    caveats: list[str] = field(default_factory=list)
