"""What a study amounts to: one JSON document, format 1, from which table and page are made.

Intervals are of a bootstrap over seeds and test examples, the same draws for every method, where the task has a class
for each example; else t intervals over seeds. Differences are paired: the same seed, the same examples.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from descend.ensembles.bootstrap import interval, over_seeds
from descend.experiments.ensemble_study.landscape import BATCHES, counts_right
from descend.experiments.ensemble_study.methods import Method, methods
from descend.experiments.ensemble_study.scoring import BINS, REPLICATES
from descend.experiments.ensemble_study.study import Findings, Studied
from descend.experiments.ensemble_study.verdicts import caveats, findings
from descend.experiments.statistics import mean_interval, sign_flip_p
from descend.tasks import Task

FORMAT = 1
RIVALS = ("last", "cosine", "ema", "nocycle-last", "nocycle", "singlecycle", "soup")
"""What the ensemble of all snapshots is compared with; and with the average of their weights."""

_SCORES = ("accuracy", "nll", "brier", "ece", "adaptive_ece", "classwise_ece", "tempered_nll", "tempered_ece")
_MEANS = ("metric", "loss", *_SCORES)
_POINTS = ("temperature", "validation_metric")


def results(
    task: Task,
    studied: Mapping[str, Studied],
    found: Mapping[str, Findings],
    run: Mapping[str, Any],
    earlier: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Sum a study up.

    Args:
        task: what was trained.
        studied: what was studied, by optimizer.
        found: what came out, by optimizer.
        run: the results of the comparison.
        earlier: the results of a study before; what it says of optimizers that are not studied now is kept.

    Returns:
        The document; every number in it is finite, None stands for one that is not or was not measured.
    """
    titles = {one["name"]: one["title"] for one in run["optimizers"]}
    sums = {name: _optimizer(task, name, titles[name], studied[name], found[name]) for name in studied}
    if earlier is not None and earlier.get("format") == FORMAT:
        sums = {one["name"]: one for one in earlier["optimizers"]} | sums
    optimizers = [sums[name] for name in run["manifest"]["options"]["optimizers"] if name in sums]
    document = {
        "format": FORMAT,
        "kind": "ensemble",
        "label": run["label"],
        "task": run["task"],
        "manifest": run["manifest"],
        "snapshots": next(iter(studied.values())).count,
        "bins": BINS,
        "replicates": REPLICATES,
        "batch_norm_batches": BATCHES,
        "error": f"1 - {task.metric}" if counts_right(task) else task.metric,
        "optimizers": optimizers,
    }
    return {**document, "findings": findings(document), "caveats": caveats(document)}


def _optimizer(task: Task, name: str, title: str, studied: Studied, found: Findings) -> dict[str, Any]:
    known = [one for one in methods(studied.count) if found.scores and all(one.name in s["rows"] for s in found.scores)]
    intervals = Intervals(found.scores)
    first = studied.finals[0] if studied.finals else None
    return {
        "name": name,
        "title": title,
        "rate": first.rate if first else None,
        "values": dict(first.values) if first else {},
        "seeds": [final.seed for final in studied.finals],
        "lost_seeds": list(studied.lost),
        "missing": [one.title for one in methods(studied.count) if one not in known] if found.scores else [],
        "rows": [_row(one, found, intervals) for one in known],
        "comparisons": _comparisons(studied.count, known, intervals),
        "best_average": _best_average(task, known, intervals),
        "diversity": _diversity(found),
        "soup_taken": [s["soup_taken"] for s in found.scores],
        "barriers": _barriers(studied, found),
        "plane": _plane(found),
    }


class Intervals:
    """Means over seeds with their intervals, and paired differences of them.

    Args:
        scores: of each seed.
    """

    def __init__(self, scores: Sequence[Mapping[str, Any]]) -> None:
        self._scores = scores

    def of(self, method: str, number: str) -> dict[str, float | None] | None:
        """Return the mean of a number over the seeds, and its interval; None where it was not measured."""
        values = self.values(method, number)
        return None if values is None else estimate(values, self._replicates(method, number))

    def difference(self, method: str, other: str, number: str) -> dict[str, Any]:
        """Return the paired difference of two methods: mean, interval, sign-flip p, and at how many seeds it is > 0."""
        paired = [a - b for a, b in zip(self._sure(method, number), self._sure(other, number), strict=True)]
        one, two = self._replicates(method, number), self._replicates(other, number)
        return {
            **estimate(paired, None if one is None or two is None else one - two),
            "p": sign_flip_p(paired) if all(map(math.isfinite, paired)) else None,
            "above": sum(value > 0 for value in paired),
            "below": sum(value < 0 for value in paired),
        }

    def values(self, method: str, number: str) -> list[float] | None:
        """Return a number of each seed; None where one was not measured."""
        values = [seed["rows"][method].get(number) for seed in self._scores]
        return None if any(value is None for value in values) else values

    def _sure(self, method: str, number: str) -> list[float]:
        values = self.values(method, number)
        assert values is not None
        return values

    def _replicates(self, method: str, number: str) -> Tensor | None:
        return replicates([seed["replicates"].get(method, {}).get(number) for seed in self._scores])


def replicates(by_seed: Sequence[Tensor | None]) -> Tensor | None:
    """Return bootstraps over seeds and test examples from those of each seed; None where a seed has none."""
    known = [one for one in by_seed if one is not None]
    return over_seeds(torch.stack(known)) if len(known) == len(by_seed) else None


def estimate(values: Sequence[float], drawn: Tensor | None) -> dict[str, float | None]:
    """Return the mean of what the seeds have, and an interval: of bootstraps, or without them of Student's t."""
    low, high = mean_interval(values)[1:] if drawn is None else interval(drawn)
    return {"mean": _finite(sum(values) / len(values)), "low": _finite(low), "high": _finite(high)}


def _row(method: Method, found: Findings, intervals: Intervals) -> dict[str, Any]:
    points = {number: intervals.values(method.name, number) for number in _POINTS}
    return {
        "method": method.name,
        "title": method.title,
        "source": method.source,
        "models": method.models,
        **{number: intervals.of(method.name, number) for number in _MEANS},
        **{number: None if values is None else _finite(sum(values) / len(values)) for number, values in points.items()},
        "by_seed": [_finite(seed["rows"][method.name]["metric"]) for seed in found.scores],
    }


def _comparisons(count: int, known: Sequence[Method], intervals: Intervals) -> list[dict[str, Any]]:
    """The ensemble of all snapshots less each rival."""
    names = [one.name for one in known]
    whole = f"last-{count}"
    if whole not in names:
        return []
    numbers = [number for number in ("metric", "nll") if intervals.values(whole, number) is not None]
    return [
        {"against": rival, **{number: intervals.difference(whole, rival, number) for number in numbers}}
        for rival in (*RIVALS, f"average-{count}")
        if rival in names
    ]


def _best_average(task: Task, known: Sequence[Method], intervals: Intervals) -> dict[str, Any] | None:
    """The average of weights that validation data put first, less the last snapshot."""
    names = [one.name for one in known if one.name.startswith("average-")]
    validation = {name: intervals.values(name, "validation_metric") for name in names}
    means = {name: sum(values) / len(values) for name, values in validation.items() if values is not None}
    if not means:
        return None
    sign = 1 if task.direction == "maximize" else -1
    best = max(means, key=lambda name: sign * means[name])
    return {"method": best, "metric": intervals.difference(best, "last", "metric")}


def _diversity(found: Findings) -> list[dict[str, Any]]:
    """Means over the seeds, for each set of members."""
    rows = []
    for source in ("snapshots", "nocycle", "singlecycle"):
        every = [seed["diversity"][source] for seed in found.scores if source in seed.get("diversity", {})]
        if not every or len(every) < len(found.scores):
            continue
        drawn = [seed["replicates"][f"{source} members"] for seed in found.scores]
        estimates = {
            key: _of_known([one[key] for one in every], replicates([one.get(key) for one in drawn]))
            for key in every[0]
            if key not in ("members", "pairwise")
        }
        pairwise = torch.tensor([one["pairwise"] for one in every], dtype=torch.float64).mean(0).tolist()
        rows.append({"source": source, "members": every[0]["members"], **estimates, "pairwise": pairwise})
    return rows


def _barriers(studied: Studied, found: Findings) -> dict[str, Any] | None:
    """The lines between the snapshots of the first seed."""
    if not found.lines:
        return None
    jobs = [kept.job for kept in studied.lines()]
    steps = sorted({step for job in jobs for step in job.steps})  # type: ignore[attr-defined]
    rows: list[list[float | None]] = [[0.0] * len(steps) for _ in steps]
    lines = []
    for job, line in zip(jobs, found.lines, strict=True):
        first, second = (steps.index(step) for step in job.steps)  # type: ignore[attr-defined]
        rows[first][second] = rows[second][first] = _finite(line["barrier"])
        lines.append(
            {
                "first": steps[first],
                "second": steps[second],
                "barrier": _finite(line["barrier"]),
                "error_barrier": _finite(line["error_barrier"]),
                "amounts": line["amounts"],
                "losses": [_finite(value) for value in line["losses"]],
                "errors": [_finite(value) for value in line["errors"] or []],
            }
        )
    own = {"seed": studied.finals[0].seed, "points": studied.fineness.line, "steps": steps}
    return {**own, "matrix": rows, "lines": lines}


def _plane(found: Findings) -> dict[str, Any] | None:
    if not found.plane:
        return None
    [trace] = found.trace
    return {
        "xs": found.plane[0]["xs"],
        "ys": [row["y"] for row in found.plane],
        "losses": [[_finite(value) for value in row["losses"]] for row in found.plane],
        "errors": [[_finite(value) for value in row["errors"]] for row in found.plane],
        "steps": trace["steps"],
        "coordinates": trace["coordinates"],
        "way": trace["way"],
        "repeats": trace["repeats"],
    }


def _of_known(values: Sequence[float | None], drawn: Tensor | None) -> dict[str, float | None]:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return {"mean": None, "low": None, "high": None}
    return estimate(known, drawn)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
