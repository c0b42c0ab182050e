"""What the numbers of a study support, in sentences."""

from collections.abc import Iterator, Mapping
from typing import Any

from descend.experiments.caveats import counted
from descend.experiments.ensemble_study.controls import EMA_SHARE

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
    against = {row["against"]: row["metric"] for row in optimizer["comparisons"]}
    for rival, words in CLAIM:
        if rival not in against:
            continue
        found = against[rival]
        yield (
            f"the ensemble of {document['snapshots']} snapshots against {words}, at equal training cost: "
            f"{verdict(found, sign)} ({task['metric']} {_signed(found, task['metric'])})."
        )
    if optimizer["barriers"] and (said := _of_barriers(optimizer, sign)):
        yield said


def verdict(difference: Mapping[str, Any], sign: int) -> str:
    """Return whether a paired difference supports that the ensemble is better: by its interval."""
    if difference["low"] is None or difference["high"] is None:
        return "no interval, so nothing is decided"
    low, high = sorted((sign * difference["low"], sign * difference["high"]))
    if low > 0:
        return "better"
    return "worse" if high < 0 else "not decided, as the interval holds 0"


def _signed(found: Mapping[str, Any], metric: str) -> str:
    factor, unit = (100, " points") if metric == "accuracy" else (1, "")
    mean = f"{factor * found['mean']:+.2f}{unit}"
    if found["low"] is None:
        return mean
    return f"{mean}, 95 % interval {factor * found['low']:+.2f} to {factor * found['high']:+.2f}"


def _of_barriers(optimizer: Mapping[str, Any], sign: int) -> str | None:
    """Whether averaging weights was foreseen to work, and whether it did."""
    lines = optimizer["barriers"]["lines"]
    known = [line for line in lines if line["barrier"] is not None]
    rows = {row["method"]: row for row in optimizer["rows"]}
    averages = {name: row["metric"]["mean"] for name, row in rows.items() if name.startswith("average-")}
    if not known or not averages:
        return None
    highest = max(known, key=lambda line: line["barrier"])
    ends = (highest["losses"][0] + highest["losses"][-1]) / 2
    best = max(averages, key=lambda name: sign * averages[name])
    gain = sign * (averages[best] - rows["last"]["metric"]["mean"])
    foreseen = "may work" if highest["barrier"] <= LOW_BARRIER * ends else "is not to be expected to work for all"
    return (
        f"the highest loss barrier between two snapshots is {highest['barrier']:.3g}, at ends of {ends:.3g}, which "
        f"says beforehand that averaging weights {foreseen}; measured, the best of the averages "
        f"({rows[best]['title']}) is {'no worse' if gain >= 0 else 'worse'} than the last snapshot."
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
    yield f"Intervals are {how}."
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
        "validation data, and the test set is used for nothing but the table."
    )
    for one in document["optimizers"]:
        if one["lost_seeds"]:
            yield f"{one['title']}: seeds {', '.join(map(str, one['lost_seeds']))} diverged and are left out."
        if one["missing"]:
            yield f"{one['title']}: a control diverged, so there is no row for {', '.join(one['missing'])}."
        if one["barriers"]:
            yield (
                f"{one['title']}: barriers and plane are of seed {one['barriers']['seed']} alone, on validation data; "
                "the paper's plots show the test error."
            )
        if one["plane"] and not one["plane"]["repeats"]:
            yield (
                f"{one['title']}: the run repeated for the trajectory did not come out bit for bit, as on another "
                "machine; it is another run of the same settings."
            )
