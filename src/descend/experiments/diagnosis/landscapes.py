"""What is measured of the landscape around and between solutions, as parts of `diagnosis.json`."""

from __future__ import annotations

import math

from torch import nn

from descend.experiments.diagnosis.solutions import Trained
from descend.experiments.diagnosis.subject import SEED, Part, Subject, has_statistics, plain, plains
from descend.experiments.ensemble_study.landscape import Evaluation
from descend.generalization import Objective, Plane, amounts, project_trajectory, random_directions, slice_row
from descend.generalization import path as measure_path
from descend.generalization.linear import Conditions

MARGIN = 0.25


def line_slice(subject: Subject, points: int, recompute: bool) -> Part:
    """The loss on a line through the first solution."""
    objective = _landscape(subject, recompute)
    xs = amounts(points)
    return {
        "title": f"slice on a line through {subject.solutions[0].name}",
        "amounts": xs,
        "losses": plains(slice_row(objective, random_directions(objective, 1, seed=SEED), xs, 0.0)),
        "ends": [],
        "direction": "random, each filter as long as the model's; biases and normalization stay",
        "statistics": objective.statistics,
        "setting": subject.setting(objective.conditions),
    }


def plane_row(subject: Subject, points: int, row: int, recompute: bool) -> Part:
    """One row of the loss on a plane through the first solution."""
    objective = _landscape(subject, recompute)
    grid = amounts(points)
    directions = random_directions(objective, 2, seed=SEED)
    losses = slice_row(objective, directions, grid, grid[row])
    cosine = float(directions[0] @ directions[1]) / math.prod(float(one.norm()) for one in directions)
    return {
        "losses": plains(losses),
        "statistics": objective.statistics,
        "cosine": cosine,
        "setting": subject.setting(objective.conditions),
    }


def _landscape(subject: Subject, recompute: bool) -> Objective:
    return subject.objective(recompute=subject.batches if recompute else None)


def interpolated(subject: Subject, points: int) -> Part:
    """The loss and the error on validation data, on the line between two solutions."""
    first, second = subject.solutions
    start, end = subject.states()
    found = measure_path(start, end, Evaluation(subject.task, SEED), points=points)
    return {
        "title": f"from {first.name} to {second.name}, validation data",
        "amounts": found.amounts,
        "losses": plains(found.losses),
        "errors": plains(found.errors or []),
        "ends": [first.name, second.name],
        "direction": "straight line",
        "statistics": renewed(subject.model()),
        "barrier": plain(found.barrier),
        "setting": on_validation(subject),
    }


def three_row(subject: Subject, points: int, row: int) -> Part:
    """One row of the validation loss on the plane through three solutions."""
    names = [name for name, _ in subject.task.model(0).named_parameters(remove_duplicate=False)]
    first, second, third = subject.states()
    plane = Plane.through(first, second, third, names=names)
    xs, ys = plane.grid(points, MARGIN)
    evaluate = Evaluation(subject.task, SEED)
    return {
        "losses": plains([evaluate(plane.at(x, ys[row])).loss for x in xs]),
        "xs": xs,
        "ys": ys,
        "coordinates": [list(at) for at in plane.coordinates],
        "statistics": renewed(subject.model()),
        "setting": on_validation(subject),
    }


def way_row(subject: Subject, points: int, row: int, recompute: bool) -> Part:
    """One row of the loss on the plane of the way that training took."""
    solution = subject.solutions[0]
    assert isinstance(solution, Trained)
    objective = _landscape(subject, recompute)
    steps, way = zip(*solution.result()["way"], strict=True)
    found = project_trajectory([one.double() for one in way])
    xs, ys = found.grid(points)
    losses = slice_row(objective, found.directions, xs, ys[row])
    coordinates = [
        [float(step), *at, float(apart)]
        for step, at, apart in zip(steps, found.coordinates.tolist(), found.distances, strict=True)
    ]
    return {
        "losses": plains(losses),
        "xs": xs,
        "ys": ys,
        "way": coordinates,
        "explained": found.explained,
        "statistics": objective.statistics,
        "setting": subject.setting(objective.conditions),
    }


def renewed(model: nn.Module) -> str:
    """Tell which statistics a model has where weights are evaluated on validation data."""
    return "none" if not has_statistics(model) else "recomputed"


def on_validation(subject: Subject) -> Part:
    """Return what was measured of weights that are evaluated on all validation data."""
    size = subject.task.sizes["validation"]
    parameters = sum(one.numel() for one in subject.task.model(0).parameters())
    return subject.setting(Conditions("eval", size, 1, parameters), "on validation data")
