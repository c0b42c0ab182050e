"""The document of a meta-training: how it went, and how the learned optimizer stands beside tuned rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from descend.learned.baselines import METRICS, Metric, metric
from descend.learned.jobs import Stretch, of_mean, paired
from descend.learned.recipes import MetaTask

FORMAT: Final = 1


def document(
    manifest: Mapping[str, Any],
    task: MetaTask,
    name: str,
    kind: str,
    trained: Sequence[tuple[Stretch, Mapping[str, Any]]],
    tests: Sequence[Sequence[Mapping[str, Any]]],
    tunings: Sequence[Sequence[Mapping[str, Any]]],
    quick: bool,
) -> dict[str, Any]:
    """Return the content of `meta-train.json`.

    Args:
        manifest: of the run.
        task: the meta-task.
        name: of it.
        kind: of network.
        trained: the last stretch of each seed, with its result.
        tests: of each target, one of each seed.
        tunings: of each target, one of each baseline.
        quick: whether it is a screening.
    """
    recipe = task.recipes[kind]
    best = min(range(len(trained)), key=lambda place: _best_score(trained[place][1]))
    network = trained[best][0].best(dict(trained[best][1]))
    comparisons = list(_comparisons(task, tests, tunings))
    found = {
        "format": FORMAT,
        "kind": "meta-train",
        "label": "screening" if quick else "meta-training",
        "manifest": dict(manifest),
        "task": {"name": name, "title": task.title, "description": task.description},
        "network": {
            "kind": kind,
            "settings": network.settings,
            "weights": sum(one.numel() for one in network.parameters()),
            "seed": trained[best][0].seed,
            "digest": network.digest(),
        },
        "recipe": {
            "episodes": recipe.episodes,
            "steps": recipe.steps,
            "unroll": recipe.unroll,
            "problems": recipe.problems,
            "method": recipe.method,
            "objective": recipe.objective,
            "rate": recipe.rate,
        },
        "curves": [
            {"seed": stretch.seed, "points": [[point[0], point[1]] for point in result["history"]]}
            for stretch, result in trained
        ],
        "comparisons": comparisons,
    }
    return {**found, "findings": _findings(found), "caveats": _caveats(found, quick)}


def _best_score(result: Mapping[str, Any]) -> float:
    return min((float(point[1]) for point in result["history"] if point[1] is not None), default=float("inf"))


def _comparisons(
    task: MetaTask, tests: Sequence[Sequence[Mapping[str, Any]]], tunings: Sequence[Sequence[Mapping[str, Any]]]
) -> Iterator[dict[str, Any]]:
    for target, its_tests, its_tunings in zip(task.targets, tests, tunings, strict=True):
        for mark in target.marks:
            ours = {test["seed"]: next(row for row in test["rows"] if row["steps"] == mark) for test in its_tests}
            for name in METRICS:
                rows = [_learned(seed, row, name) for seed, row in ours.items()]
                for tuning in its_tunings:
                    theirs = next(row for row in tuning["rows"] if row["steps"] == mark and row["metric"] == name)
                    rows.append(_baseline(tuning["name"], theirs, ours, name))
                yield {
                    "target": target.name,
                    "steps": mark,
                    "metric": name,
                    "problems": target.tested,
                    "tuned_on": target.tuned,
                    "rows": rows,
                }


def _learned(seed: int, row: Mapping[str, Any], name: Metric) -> dict[str, Any]:
    return {"name": f"learned, seed {seed}", "seed": seed, "values": {}, **_scores(row, name), "differences": []}


def _baseline(
    title: str, theirs: Mapping[str, Any], ours: Mapping[int, Mapping[str, Any]], name: Metric
) -> dict[str, Any]:
    differences = []
    for seed, row in ours.items():
        pair = row["losses"], theirs["losses"]
        if not all(bool(one.isfinite().all()) for one in pair):
            continue
        if name == "mean of log10":
            mean, low, high, won = paired(*pair)
        else:
            (mean, low, high), won = of_mean(*pair), None
        differences.append({"seed": seed, "mean": mean, "low": low, "high": high, "won": won})
    return {
        "name": title,
        "seed": None,
        "values": theirs["values"],
        **_scores(theirs, name),
        "differences": differences,
    }


def _scores(row: Mapping[str, Any], name: Metric) -> dict[str, Any]:
    score = metric(row["losses"], name)
    accuracies = row["accuracies"]
    return {
        "score": score if score < float("inf") else None,
        "median": float(row["losses"].log10().median()) if score < float("inf") else None,
        "accuracy": None if accuracies is None else float(accuracies.mean()),
    }


def _findings(found: Mapping[str, Any]) -> list[str]:
    seed = found["network"]["seed"]
    said = []
    for one in found["comparisons"]:
        if one["metric"] != METRICS[0]:
            continue
        better: list[str] = []
        worse: list[str] = []
        open_: list[str] = []
        for row in one["rows"]:
            for difference in row["differences"]:
                if difference["seed"] == seed:
                    side = better if difference["high"] < 0 else worse if difference["low"] > 0 else open_
                    side.append(row["name"])
        parts = [
            f"{what} {', '.join(names)}"
            for what, names in (("better than", better), ("worse than", worse), ("not to be told from", open_))
            if names
        ]
        said.append(f"{one['target']}, {one['steps']:,} steps: the learned optimizer is {'; '.join(parts)}.")
    return said


def _caveats(found: Mapping[str, Any], quick: bool) -> list[str]:
    said = [
        "Rules are tuned on each kind of problem, over rates in half decades and a few momenta; the learned optimizer "
        "has nothing to tune, and was trained on the first kind.",
        "Tuning is of the rules alone: what training the network has cost is in no comparison.",
        "Intervals are over problems, of one trained network each; other seeds of training differ by more.",
    ]
    if quick:
        said.insert(0, "A quick run trains for a few episodes: a screening, no claim.")
    if any(row["score"] is None for one in found["comparisons"] for row in one["rows"]):
        said.append("Where a loss is not finite, there is no score.")
    return said
