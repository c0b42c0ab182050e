"""What the numbers of a study support, in sentences."""

from collections.abc import Iterator, Mapping
from typing import Any

from descend.experiments.caveats import SEEDS_FOR_SIGNIFICANCE, counted
from descend.experiments.ensemble_study.controls import EMA_SHARE
from descend.experiments.statistics import smallest_sign_flip_p

CLAIM = (
    ("cosine", "one model under one cosine"),
    ("nocycle-last", "one model under the paper's step decay"),
    ("nocycle", "NoCycle snapshots"),
    ("singlecycle", "independent short runs"),
)
"""Whom the snapshot ensemble beats at equal training cost, as Huang et al. 2017 claim."""

LOW_BARRIER = 0.1
"""Of the ends' mean loss: below that share of it a barrier counts as low."""


def findings(document: Mapping[str, Any]) -> list[str]:
    """Return what was found, a sentence each."""
    several = len(document["optimizers"]) > 1
    return [
        f"{optimizer['title']}: {line}" if several else line[0].upper() + line[1:]
        for optimizer in document["optimizers"]
        for line in _of_one(document, optimizer)
    ]


def _of_one(document: Mapping[str, Any], optimizer: Mapping[str, Any]) -> Iterator[str]:
    task = document["task"]
    sign = 1 if task["direction"] == "maximize" else -1
    against = {row["against"]: row for row in optimizer["comparisons"]}
    for rival, words in CLAIM:
        if rival in against:
            found = against[rival]
            said = f"{verdict(found['metric'], sign)} ({task['metric']} {_signed(found['metric'], task['metric'])})"
            if "nll" in found:
                said += f"; by NLL {verdict(found['nll'], -1)} ({_signed(found['nll'], 'NLL')})"
            yield f"the ensemble of {document['snapshots']} snapshots against {words}, at equal training cost: {said}."
    if members := _of_members(optimizer):
        yield members
    if optimizer["barriers"] and (barriers := _of_barriers(optimizer, task, sign)):
        yield barriers


def _of_members(optimizer: Mapping[str, Any]) -> str | None:
    """How good the members are beside the last one: where cycles are too short for a model, they are not."""
    found = next((one for one in optimizer["diversity"] if one["source"] == "snapshots"), None)
    last = next((row for row in optimizer["rows"] if row["method"] == "last"), None)
    if found is None or last is None or last["accuracy"] is None:
        return None
    mean, end = found["mean_accuracy"]["mean"], last["accuracy"]["mean"]
    return (
        f"the snapshots' mean accuracy is {100 * mean:.1f} %, the last one's {100 * end:.1f} %, and two of them "
        f"disagree on {100 * found['disagreement']['mean']:.1f} % of the test examples: an ensemble gains where cycles "
        "are long enough for its members to be about as good as the last."
    )


def verdict(difference: Mapping[str, Any], sign: int) -> str:
    """Return whether a paired difference supports that the ensemble is better: by its interval."""
    if difference["low"] is None or difference["high"] is None:
        return "no interval, so nothing is decided"
    low, high = sorted((sign * difference["low"], sign * difference["high"]))
    if low > 0:
        return "better"
    return "worse" if high < 0 else "not decided, as the interval holds 0"


def _signed(found: Mapping[str, Any], metric: str) -> str:
    """A difference with its interval and the p of its sign-flip test, in points of an accuracy."""
    factor, unit, form = (100, " points", "+.2f") if metric == "accuracy" else (1, "", "+.3g")
    if found["mean"] is None:
        return "not known"
    said = f"{factor * found['mean']:{form}}{unit}"
    if found["low"] is not None:
        said += f", 95 % interval {factor * found['low']:{form}} to {factor * found['high']:{form}}"
    return said if found["p"] is None else f"{said}, p {found['p']:.2g}"


def _of_barriers(optimizer: Mapping[str, Any], task: Mapping[str, Any], sign: int) -> str | None:
    """Whether averaging weights was foreseen to work, and whether it did."""
    lines, average = optimizer["barriers"]["lines"], optimizer["best_average"]
    if average is None:
        return None
    known = [line for line in lines if line["barrier"] is not None]
    if len(known) < len(lines):
        foreseen = "a barrier between two snapshots is infinite, which says beforehand that averaging them cannot work"
    else:
        highest = max(known, key=lambda line: line["barrier"])
        ends = (highest["losses"][0] + highest["losses"][-1]) / 2
        may = "may work" if highest["barrier"] <= LOW_BARRIER * ends else "cannot be expected to work for all of them"
        foreseen = (
            f"the highest loss barrier between two snapshots is {highest['barrier']:.3g}, at ends of {ends:.3g}, which "
            f"says beforehand that averaging weights {may}"
        )
    [title] = [row["title"] for row in optimizer["rows"] if row["method"] == average["method"]]
    return (
        f"{foreseen}; measured, the average that validation data put first ({title}) against the last snapshot: "
        f"{verdict(average['metric'], sign)} ({task['metric']} {_signed(average['metric'], task['metric'])})."
    )


def caveats(document: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know before believing it, a sentence or two each, the weightiest first."""
    return list(_caveats(document))


def _caveats(document: Mapping[str, Any]) -> Iterator[str]:
    options = document["manifest"]["options"]
    if document["label"] != "comparison":
        yield "A screening, no claim: the comparison was one."
    seeds = max((len(one["seeds"]) for one in document["optimizers"]), default=0)
    by_example = any(row["nll"] is not None for one in document["optimizers"] for row in one["rows"])
    how = (
        f"a bootstrap over {counted(seeds, 'seed')} and the test examples together ({document['replicates']:,} "
        "replicates); of few seeds it says little about further ones"
        if by_example
        else f"t intervals over {counted(seeds, 'seed')}"
    )
    yield f"Intervals are {how}. They are not corrected for their number."
    if seeds < SEEDS_FOR_SIGNIFICANCE:
        least = smallest_sign_flip_p(seeds)
        yield (
            f"With {counted(seeds, 'seed')} an exact sign-flip test cannot give a p below {least:.2g}: what an "
            "interval decides here holds for these seeds."
        )
    yield (
        "The rate was tuned for the snapshots' schedule, and is that of all controls; each might do better at its own."
    )
    yield (
        f"Equal cost is that of training: {options['steps']:,} steps for each row. An ensemble of m models takes m "
        "passes for a prediction."
    )
    yield (
        f"The exponential average has the decay {options['steps'] / (options['steps'] + EMA_SHARE):.4g}; statistics of "
        "batch normalization are recomputed over training batches for every average of weights."
    )
    yield (
        f"Calibration errors have {document['bins']} bins; temperatures, the best snapshot and the soup are chosen on "
        "validation data; the test set is used for the table and what is said of it."
    )
    for one in document["optimizers"]:
        if one["lost_seeds"]:
            yield f"{one['title']}: seeds {', '.join(map(str, one['lost_seeds']))} diverged and are left out."
        if one["missing"]:
            yield f"{one['title']}: a control diverged at a seed, so there is no row for {', '.join(one['missing'])}."
        if one["barriers"]:
            yield (
                f"{one['title']}: barriers and plane are of seed {one['barriers']['seed']} alone, on validation data, "
                f"with {one['barriers']['points']} points on a line; the paper's plots show the test error."
            )
        if one["plane"] and not one["plane"]["repeats"]:
            yield (
                f"{one['title']}: the run repeated for the trajectory did not come out bit for bit, as on another "
                "machine; it is another run of the same settings."
            )
