"""What a finished comparison amounts to: one JSON document, format 2, from which table and report are made."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from descend.experiments import search_space
from descend.experiments.caveats import caveats
from descend.experiments.manifest import FORMAT
from descend.experiments.options import Options, smallest_honest
from descend.experiments.statistics import holm, mean_interval, median_with_misses, sign_flip_p
from descend.experiments.trial import Record, cycle_ends
from descend.schedules import Schedule
from descend.tasks import Problem

_SCHEDULE_POINTS = 400


def results(
    task: Problem,
    options: Options,
    manifest: dict[str, Any],
    records: Sequence[Record],
    hardware: dict[str, Any],
    quick_steps: int | None = None,
) -> dict[str, Any]:
    """Sum a comparison up.

    Args:
        task: what was trained.
        options: what was asked for.
        manifest: of the run.
        records: of all its trials, tuning and final.
        hardware: the machine that finished the run.
        quick_steps: the task's own steps of a quick run.

    Returns:
        The document; every number in it is finite, None stands for one that is not.
    """
    optimizers = [_optimizer(options, name, records) for name in options.optimizers]
    edges = {optimizer["name"]: optimizer["edge"] for optimizer in optimizers}
    summary = [_summary(task, options, name, edges[name], records) for name in options.optimizers]
    smallest = smallest_honest(task, quick_steps)
    is_screening = options.quick or any(options.as_dict()[name] < least for name, least in smallest.items())
    document = {
        "format": FORMAT,
        "kind": "compare",
        "label": "screening, no claim" if is_screening else "comparison",
        "task": _task(task, options),
        "manifest": manifest,
        "schedule": _schedule(options.shape(), options.steps),
        "optimizers": optimizers,
        "trials": [record.as_dict() for record in records],
        "summary": sorted(summary, key=lambda row: _order(task, row)),
        **_differences(task, options, summary, records),
    }
    return {**document, "caveats": caveats(document, smallest, moved=hardware != manifest["hardware"])}


def edge_of(rate: float, rates: Sequence[float]) -> str | None:
    """Return "low" or "high" where the rate is an end of a grid of at least two, else None."""
    if len(rates) < 2 or rate not in (rates[0], rates[-1]):
        return None
    return "low" if rate == rates[0] else "high"


def _task(task: Problem, options: Options) -> dict[str, Any]:
    names = ("name", "title", "description", "metric", "direction", "target", "batch_size")
    return {**{name: getattr(task, name) for name in names}, "steps": options.steps, "sizes": dict(task.sizes)} | {
        "settings": dict(options.settings)
    }


def _schedule(shape: Schedule, steps: int) -> dict[str, Any]:
    stride = math.ceil(steps / _SCHEDULE_POINTS)
    values = [shape(s) for s in range(0, steps, stride)]
    return {"text": str(shape), "values": values, "length": shape.length, "cycle_ends": cycle_ends(shape, steps)}


def _optimizer(options: Options, name: str, records: Sequence[Record]) -> dict[str, Any]:
    rule = options.rule(name)
    used = {**search_space.hyper_parameters(rule), **_first_final(name, records).fixed}
    fixed = {key: value for key, value in used.items() if key not in options.grid}
    listed = {key: list(value) if isinstance(value, tuple) else value for key, value in fixed.items()}
    grid = search_space.rates(rule, options.trials)
    tuning, final = ([r for r in records if r.optimizer == name and r.phase == phase] for phase in ("tuning", "final"))
    shown = {**fixed, **final[0].values}
    has_best = not all(record.diverged for record in tuning)
    return {
        "name": name,
        "title": name if name in options.rules else rule.title,
        "summary": rule.summary,
        "hyper_parameters": listed,
        "scheduled": search_space.space(rule).scheduled,
        "rates": grid,
        "best_rate": final[0].rate,
        "grid": {key: list(values) for key, values in options.grid.items()},
        "best_values": final[0].values,
        "edge": edge_of(final[0].rate, grid) if has_best else None,
        "mathml": rule.mathml(**shown),
        "text": rule.text(**shown),
        "symbols": rule.symbols(**shown),
        "state_bytes": _state_bytes(name, records),
    }


def _first_final(name: str, records: Sequence[Record]) -> Record:
    return next(record for record in records if record.optimizer == name and record.phase == "final")


def _summary(task: Problem, options: Options, name: str, edge: str | None, records: Sequence[Record]) -> dict[str, Any]:
    final = [record for record in records if record.optimizer == name and record.phase == "final"]
    mean, low, high = mean_interval([_or_worst(task, record.test_metric) for record in final])
    validation = mean_interval([_or_worst(task, record.validation_metric) for record in final])[0]
    steps = median_with_misses([record.steps_to_target for record in final])
    seconds = median_with_misses([record.seconds_to_target for record in final])
    times = [record.ms_per_step for record in final if record.ms_per_step is not None]
    return {
        "optimizer": name,
        "rate": final[0].rate,
        "values": final[0].values,
        "n": len(final),
        "test_mean": _finite(mean),
        "test_low": low,
        "test_high": high,
        "validation_mean": _finite(validation),
        "steps_to_target": _finite(steps),
        "seconds_to_target": _finite(seconds),
        "test_scores": _test_scores(final),
        **_ensemble(task, options, final),
        "reached": sum(record.steps_to_target is not None for record in final),
        "ms_per_step": statistics.median(times) if times else None,
        "state_bytes": _state_bytes(name, records),
        "diverged": sum(record.diverged for record in final),
        "edge": edge,
    }


def _ensemble(task: Problem, options: Options, final: Sequence[Record]) -> dict[str, Any]:
    """Return mean and interval of the averaged predictions of each run's snapshots, and of what they add to its own."""
    if options.snapshots is None:
        return {}
    together = [_or_worst(task, record.ensemble_metric) for record in final]
    alone = [_or_worst(task, record.test_metric) for record in final]
    gains = [one - other for one, other in zip(together, alone, strict=True)]
    return {"ensemble": _score(together), "ensemble_gain": _score(gains)}


def _score(values: Sequence[float]) -> dict[str, float | None]:
    if not all(map(math.isfinite, values)):
        return {"mean": None, "low": None, "high": None}
    return dict(zip(("mean", "low", "high"), mean_interval(values), strict=True))


def _test_scores(final: Sequence[Record]) -> dict[str, dict[str, float | None]]:
    """Return mean and interval of what a task measures on test data beside its metric, where every seed has it."""
    scores = {}
    for name in final[0].test_scores:
        known = [value for record in final if (value := record.test_scores.get(name)) is not None]
        if len(known) == len(final):
            scores[name] = _score(known)
    return scores


def _differences(
    task: Problem, options: Options, summary: Sequence[dict[str, Any]], records: Sequence[Record]
) -> dict[str, Any]:
    """Return the paired differences of the test metric from that of the optimizer that validation data puts first."""
    reference = min(summary, key=lambda row: _order(task, {**row, "test_mean": row["validation_mean"]}))["optimizer"]
    test = {(r.optimizer, r.seed): _or_worst(task, r.test_metric) for r in records if r.phase == "final"}
    rows: list[dict[str, Any]] = []
    for name in options.optimizers:
        if name != reference:
            paired = [test[name, seed] - test[reference, seed] for seed in options.final_seeds()]
            known = all(map(math.isfinite, paired))
            mean, low, high = mean_interval(paired) if known else (None, None, None)
            p = sign_flip_p(paired) if known else None
            rows.append({"optimizer": name, "n": len(paired), "mean": mean, "low": low, "high": high, "p": p})
    corrected = iter(holm([row["p"] for row in rows if row["p"] is not None]))
    differences = [{**row, "p_holm": None if row["p"] is None else next(corrected)} for row in rows]
    return {"reference": reference, "differences": differences}


def _state_bytes(name: str, records: Sequence[Record]) -> int | None:
    """Return the size of the state, None if not one step was taken, before which there is no state."""
    stepped = (r.state_bytes for r in records if r.optimizer == name and r.ms_per_step is not None)
    return max(stepped, default=None)


def _or_worst(task: Problem, value: float | None) -> float:
    return task.worst if value is None else value


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _order(task: Problem, row: dict[str, Any]) -> tuple[float, float, str]:
    sign = -1.0 if task.direction == "maximize" else 1.0
    test, validation = (sign * _or_worst(task, row[key]) for key in ("test_mean", "validation_mean"))
    return test, validation, row["optimizer"]
