"""The results file of a study of snapshots as it might have come out, made by formula: for what its page shows."""

import math
from itertools import combinations

SOURCES = {"cosine": "cosine", "ema": "cosine", "nocycle-last": "nocycle", "nocycle": "nocycle"}
NUMBERS = ("brier", "ece", "adaptive_ece", "classwise_ece", "temperature", "tempered_nll", "tempered_ece")
ESTIMATES = tuple(name for name in NUMBERS if name != "temperature")


def example(optimizers=("sgd",), count=4, seeds=3, classes=True, label="comparison"):
    """An `ensemble.json` of format 1. Without `classes` it is of a task whose metric is its loss."""
    steps = [100 * place for place in range(1, count + 1)]
    return {
        "format": 1,
        "kind": "ensemble",
        "label": label,
        "task": {
            "name": "digits" if classes else "chars",
            "title": "Digits 8x8" if classes else "Letters <& others>",
            "description": "Handwritten digits, ten classes; a ConvNet.",
            "metric": "accuracy" if classes else "bits per character",
            "direction": "maximize" if classes else "minimize",
            "target": None,
            "steps": steps[-1],
            "batch_size": 32,
            "sizes": {"train": 1078, "validation": 360, "test": 359},
            "settings": {},
        },
        "manifest": {
            "format": 2,
            "kind": "compare",
            "options": {"optimizers": list(optimizers), "task": "digits", "snapshots": count, "steps": steps[-1]},
            "versions": {"descend": "0.1.0", "torch": "2.13.0", "python": "3.11.2"},
            "hardware": {"cpu": "a processor", "cores": 2, "memory_gib": 8.0},
            "seeds": {"tuning": [0], "final": list(range(1, seeds + 1))},
            "command": f"descend compare --task digits --snapshots {count}",
        },
        "snapshots": count,
        "bins": 15,
        "replicates": 2000,
        "batch_norm_batches": 30,
        "error": "1 - accuracy" if classes else "bits per character",
        "optimizers": [_optimizer(name, place, steps, seeds, classes) for place, name in enumerate(optimizers)],
        "findings": [f"{name.upper()}: the ensemble of {count} snapshots is better." for name in optimizers],
        "caveats": ["Intervals are a bootstrap."],
    }


def _optimizer(name, place, steps, seeds, classes):
    count = len(steps)
    rows = [
        _row(method, title, models, rank + place / 3, seeds, classes)
        for rank, (method, title, models) in _methods(count)
    ]
    return {
        "name": name,
        "title": name.upper(),
        "rate": 0.1,
        "values": {},
        "seeds": list(range(1, seeds + 1)),
        "lost_seeds": [],
        "missing": [],
        "rows": rows,
        "comparisons": [
            _comparison(against, 0.01 * (1 - 2 * turn), seeds, classes)
            for turn, against in enumerate(("cosine", "last"))
        ],
        "best_average": {"method": "average-2", "metric": _comparison("last", 0.002, seeds, classes)["metric"]},
        "diversity": [_diversity(source, count, turn) for turn, source in enumerate(("snapshots", "singlecycle"))]
        if classes
        else [],
        "soup_taken": [steps[-2:] for _ in range(seeds)],
        "barriers": _barriers(steps),
        "plane": _plane(steps[-3:]) if count > 2 else None,
    }


def _methods(count):
    averaged = range(2, count + 1)
    return enumerate(
        [
            ("cosine", "one cosine, last weights", 1),
            ("nocycle-last", "step decay, last weights", 1),
            ("nocycle", f"NoCycle: {count} snapshots of step decay", count),
            ("last", "snapshots: the last", 1),
            *((f"last-{m}", f"snapshot ensemble, last {m}", m) for m in averaged),
            *((f"average-{m}", f"weights of the last {m} averaged", 1) for m in averaged),
            ("soup", "greedy soup of snapshots", 1),
        ]
    )


def _row(method, title, models, rank, seeds, classes):
    metric = 0.9 + 0.06 * math.sin(rank) if classes else 1.5 + 0.2 * math.sin(rank)
    numbers = dict.fromkeys(NUMBERS)
    if classes:
        numbers = {name: 0.04 + (rank + 3 * place) / 700 for place, name in enumerate(NUMBERS)}
        numbers |= {name: _estimate(numbers[name], 0.01) for name in ESTIMATES}
    return {
        "method": method,
        "title": title,
        "source": SOURCES.get(method, "snapshots"),
        "models": models,
        "metric": _estimate(metric, 0.012),
        "loss": _estimate(0.3 + rank / 100, 0.02),
        "accuracy": _estimate(metric, 0.012) if classes else None,
        "nll": _estimate(0.3 + rank / 100, 0.02) if classes else None,
        **numbers,
        "validation_metric": metric,
        "by_seed": [metric + 0.004 * (seed - (seeds - 1) / 2) for seed in range(seeds)],
    }


def _estimate(mean, half):
    return {"mean": mean, "low": mean - half, "high": mean + half}


def _comparison(against, mean, seeds, classes):
    found = {
        **_estimate(mean, 0.006),
        "p": 2 / 2**seeds,
        "above": seeds if mean > 0 else 0,
        "below": seeds if mean < 0 else 0,
    }
    return {"against": against, "metric": found} | ({"nll": found} if classes else {})


def _diversity(source, count, turn):
    pairwise = [[0.0 if a == b else 0.05 * abs(a - b) + 0.1 * turn for a in range(count)] for b in range(count)]
    return {
        "source": source,
        "members": count,
        "disagreement": _estimate(0.1234 + turn / 10, 0.01),
        "error_correlation": {"mean": None, "low": None, "high": None},
        "mutual_information": _estimate(0.05, 0.002),
        "ambiguity": _estimate(0.02, 0.003),
        "mean_accuracy": _estimate(0.91, 0.01),
        "ensemble_accuracy": _estimate(0.93, 0.01),
        "pairwise": pairwise,
    }


def _barriers(steps):
    amounts = [place / 4 for place in range(5)]
    matrix = [[0.3 * abs(a - b) / 100 for a in steps] for b in steps]
    lines = []
    for first, second in combinations(steps, 2):
        barrier = 0.3 * (second - first) / 100
        losses = [0.5 - 0.1 * at + 4 * barrier * at * (1 - at) for at in amounts]
        found = {"first": first, "second": second, "barrier": barrier, "error_barrier": barrier / 2, "amounts": amounts}
        lines.append({**found, "losses": losses, "errors": [loss / 2 for loss in losses]})
    return {"seed": 1, "points": 5, "steps": steps, "matrix": matrix, "lines": lines}


def _plane(steps):
    axis = [float(place) for place in range(-1, 6)]
    losses = [[0.2 + 0.3 * (x - 2) ** 2 + 0.2 * (y - 1) ** 2 for x in axis] for y in axis]
    way = [
        [step, step / 100 - 3, math.sin(step / 80), abs(steps[0] - step) / 50] for step in range(0, steps[-1] + 1, 10)
    ]
    return {
        "xs": axis,
        "ys": axis,
        "losses": losses,
        "errors": [[loss / 4 for loss in row] for row in losses],
        "steps": steps,
        "coordinates": [[0.0, 0.0], [3.0, 0.0], [2.5, 3.0]],
        "way": way,
        "repeats": True,
    }
