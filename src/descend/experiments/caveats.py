"""What a reader must know before believing a comparison, derived from its own numbers."""

from collections.abc import Iterator, Mapping
from typing import Any

from descend.experiments import search_space
from descend.experiments.statistics import smallest_sign_flip_p

SEEDS_FOR_SIGNIFICANCE = 6
"""From six seeds on can a two-sided sign-flip test of paired differences give p below 0.05."""

_END = {"low": "lowest", "high": "highest"}


def caveats(document: Mapping[str, Any], smallest: Mapping[str, int], moved: bool) -> list[str]:
    """Return the caveats of a comparison, a sentence or two each, the weightiest first.

    Args:
        document: its results.
        smallest: trials, seeds and steps of the smallest honest run.
        moved: whether it was finished on another machine than it was begun on.
    """
    return [*_of_size(document, smallest), *_of_tuning(document), *_of_outcome(document), *_of_machine(document, moved)]


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, in the plural where it is one: "1 seed", "3 seeds"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _of_size(document: Mapping[str, Any], smallest: Mapping[str, int]) -> Iterator[str]:
    options, task = document["manifest"]["options"], document["task"]
    seeds = options["seeds"]
    if document["label"] != "comparison":
        yield f"A screening, no claim: {_screening({name: options[name] for name in smallest}, smallest)}."
    if seeds == 1:
        yield "One seed per optimizer: the spread between runs is unknown, so there are no intervals."
    elif seeds < SEEDS_FOR_SIGNIFICANCE:
        yield (
            f"With {seeds} seeds no difference can be called significant: the smallest p that a two-sided sign-flip "
            f"test can give is {smallest_sign_flip_p(seeds):.2g}."
        )
    if seeds > 1:
        test = counted(task["sizes"]["test"], "test example") if "test" in task["sizes"] else "test examples"
        yield (
            f"The intervals are 95 % t intervals over {seeds} seeds (initial weights, data order). They do not cover "
            f"the choice of the {test}, nor other tasks."
        )


def _screening(numbers: Mapping[str, int], smallest: Mapping[str, int]) -> str:
    if all(numbers[name] >= least for name, least in smallest.items()) and numbers != smallest:
        return "it was asked for as one, with --quick"
    rates, seeds = counted(numbers["trials"], "rate"), counted(numbers["seeds"], "seed")
    size = f"{rates} and {seeds} per optimizer, {numbers['steps']} steps each,"
    if numbers == smallest:
        return f"{size} are the smallest honest run"
    least = "{trials} rates, {seeds} seeds, {steps} steps".format_map(smallest)
    return f"{size} are fewer than the smallest honest run ({least})"


def _of_tuning(document: Mapping[str, Any]) -> Iterator[str]:
    grid = document["manifest"]["options"].get("grid")
    if grid:
        yield (
            f"Only the peak rate and {', '.join(grid)} were tuned, on validation data under one seed; the other "
            "hyper-parameters and the schedule are as shown."
        )
    elif document["manifest"]["options"]["trials"] == 1:
        yield "One rate per optimizer: nothing was tuned, each ran at its known default."
    else:
        yield (
            "Only the peak rate was tuned, on validation data under one seed; the other hyper-parameters and the "
            "schedule are as shown."
        )
    if (count := document["manifest"]["options"].get("snapshots")) is not None:
        yield (
            f"The ensemble averages the predictions of the {count} snapshots of each final run, at the same training "
            f"cost and {count} times the cost of a prediction; its members are those of a cyclic schedule, which other "
            "schedules may beat (descend ensemble compares them)."
        )
    length, steps = document["schedule"].get("length"), document["task"]["steps"]
    if length is not None and length != steps:
        yield f"The schedule has {length:,} steps, and the runs took {steps:,}: they stop before its end, or hold it."
    tuned = document["manifest"]["options"]["trials"] > 1
    unscheduled = [optimizer for optimizer in document["optimizers"] if optimizer["scheduled"] is None]
    own = [one["title"] for one in unscheduled if search_space.tunes_itself(one["name"])]
    if own:
        instead = ", and ran at its default instead of a grid of rates" if tuned else ""
        yield f"The rate follows no schedule of {', '.join(own)}, which sets it itself{instead}."
    titles = [one["title"] for one in unscheduled if one["title"] not in own]
    if titles:
        yield f"The rate is only the first step size, and follows no schedule, of {', '.join(titles)}."
    beside = [one["title"] for one in document["optimizers"] if search_space.is_of_matrices(one["name"])]
    if beside:
        yield f"AdamW stepped what is no matrix, and embeddings, at the same rate, of {', '.join(beside)}."
    edges = [
        f"{optimizer['title']} ({optimizer['best_rate']:g}, the {_END[optimizer['edge']]})"
        for optimizer in document["optimizers"]
        if optimizer["edge"]
    ]
    if edges:
        yield f"The best rate is an end of the grid, so a better one may lie beyond, of {', '.join(edges)}."

    ends = [
        f"{optimizer['title']} ({name} {value:g})"
        for optimizer in document["optimizers"]
        for name, value in optimizer["best_values"].items()
        if value and value in (optimizer["grid"][name][0], optimizer["grid"][name][-1])
    ]
    if ends:
        yield f"The best value is an end of the grid, so a better one may lie beyond, of {', '.join(ends)}."


def _of_outcome(document: Mapping[str, Any]) -> Iterator[str]:
    titles = {optimizer["name"]: optimizer["title"] for optimizer in document["optimizers"]}
    for phase, what in (("tuning", "tuning trials"), ("final", "final runs")):
        shares = []
        for name, title in titles.items():
            trials = [t for t in document["trials"] if t["optimizer"] == name and t["phase"] == phase]
            diverged = sum(trial["diverged"] for trial in trials)
            if diverged:
                shares.append(f"{title} ({diverged} of {len(trials)})")
        if shares:
            yield f"Diverged {what}, each counted as the worst result: {', '.join(shares)}."
    if document["task"]["target"] is None:
        return
    target = f"the target (validation {document['task']['metric']} {document['task']['target']:g})"
    misses = [
        f"{titles[row['optimizer']]} ({row['n'] - row['reached']} of {row['n']})"
        for row in document["summary"]
        if row["reached"] < row["n"]
    ]
    if misses:
        yield f"Final runs that missed {target}, each counted as later than all others: {', '.join(misses)}."


def _of_machine(document: Mapping[str, Any], moved: bool) -> Iterator[str]:
    hardware = document["manifest"]["hardware"]
    at_a_time = hardware.get("trials_at_a_time", 1)
    beside = f", {at_a_time} trials at a time, which share its memory" if at_a_time > 1 else ""
    yield (
        f"Times are medians on one thread of {hardware['cpu']}{beside}; evaluation is excluded. They say little about "
        "other machines and larger models."
    )
    if moved:
        yield (
            "The run was begun on one machine and finished on another, or with another number of trials at a time: its "
            "times mix the two."
        )
