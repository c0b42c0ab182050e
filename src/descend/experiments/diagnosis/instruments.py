"""What is measured of solutions: functions whose results are parts of `diagnosis.json`, as plain values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from torch import nn

from descend.experiments.diagnosis.solutions import Solution, Trained
from descend.experiments.ensemble_study.landscape import Evaluation
from descend.experiments.jobs import Result
from descend.generalization import (
    GaussNewton,
    Hessian,
    NotConverged,
    Objective,
    Plane,
    Preconditioned,
    amounts,
    average,
    box_sharpness,
    function_change,
    project_trajectory,
    random_directions,
    reparameterize,
    rescalable,
    slice_row,
    spectral_density,
    top_eigenvalues,
    trace,
    unit_logits,
    worst_case,
)
from descend.generalization import path as measure_path
from descend.generalization.linear import Conditions
from descend.model_states import State
from descend.tasks import Ordered, Task

FORMAT = 1
BATCH = 250
"""Examples whose graph is in memory at a time."""
MARGIN = 0.25
SEED = 0
"""Of what instruments draw."""

INACCURATE = "not as accurate as was asked"

Part = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """The task and the weights that an instrument looks at.

    Attributes:
        task: decides model and loss.
        solutions: the weights; most instruments look at the first.
        examples: of the training data that they see.
    """

    task: Task
    solutions: Sequence[Solution]
    examples: int

    @cached_property
    def batches(self) -> list[Any]:
        """Training examples in order, without augmentation, or where the task has no order, batches of an epoch."""
        return examples_of(self.task, self.examples)

    def model(self, place: int = 0) -> nn.Module:
        """Return the model with the weights of a solution."""
        model = self.task.model(0)
        model.load_state_dict(dict(self.solutions[place].state()))
        return model.eval()

    def states(self) -> list[State]:
        """Return the weights of all solutions, in the types that the model has."""
        return [self.model(place).state_dict() for place in range(len(self.solutions))]

    def objective(self, model: nn.Module | None = None, **options: Any) -> Objective:
        """Return the loss on these examples."""
        model = self.model() if model is None else model
        found = Objective(model, self.task.loss, self.batches, **options)
        if not isinstance(self.task, Ordered):
            found.notes.append("the task has no order of its examples: they are the first of its training batches")
        return found

    def setting(self, conditions: Conditions, *notes: str) -> Part:
        """Return what was measured, as the document has it."""
        return {
            "solution": self.solutions[0].name,
            "mode": conditions.mode,
            "examples": conditions.examples,
            "batches": conditions.batches,
            "parameters": conditions.parameters,
            "weight_decay": conditions.weight_decay,
            "seed": conditions.seed,
            "notes": [*conditions.notes, *notes],
        }


def examples_of(task: Task, count: int) -> list[Any]:
    """Return training examples in batches, at most so many."""
    if isinstance(task, Ordered):
        return task.ordered("train", BATCH, count)
    batches = max(1, min(count, task.sizes["train"]) // task.batch_size)
    return list(islice(task.batches(SEED), batches))


def plain(value: float | None) -> float | None:
    """Return a number as JSON holds it: None for what is not finite."""
    return value if value is not None and math.isfinite(value) else None


def _plain(values: Sequence[float]) -> list[float | None]:
    return [plain(value) for value in values]


def scores(subject: Subject) -> Part:
    """The losses of a solution, and how far it is from its start."""
    solution, task = subject.solutions[0], subject.task
    model = subject.model()
    validation = task.evaluate(model, "validation")
    distance = None
    if isinstance(solution, Trained):
        result = solution.result()
        distance = float((result["way"][-1][1].double() - result["way"][0][1].double()).norm())
    return {
        "name": solution.name,
        "source": "trained" if isinstance(solution, Trained) else "checkpoint",
        "train_loss": plain(subject.objective(model).value()),
        "validation_loss": plain(float(validation["loss"])),
        "validation_metric": plain(float(validation[task.metric])),
        "distance": distance,
    }


def eigenvalues(subject: Subject, matrix: str, which: str, k: int, rtol: float, mode: str = "eval") -> Part:
    """Eigenvalues at one end of a spectrum."""
    found, objective = _curvature(subject, matrix, mode)
    try:
        result = top_eigenvalues(found, min(k, found.size), which=which, rtol=rtol, seed=SEED)  # type: ignore[arg-type]
    except NotConverged as error:
        result = error.result
    threshold = None
    solution = subject.solutions[0]
    if isinstance(solution, Trained) and which == "largest" and matrix != "Gauss-Newton":
        kept = solution.result()
        is_own = (kept["scale"] is None) == (matrix == "Hessian")
        threshold = kept["threshold"] / solution.kept.job.rate if kept["threshold"] and is_own else None  # type: ignore[attr-defined]
    return {
        "matrix": matrix,
        "which": which,
        "values": _plain(result.values),
        "residuals": _plain(result.residuals),
        "converged": result.converged,
        "products": result.products,
        "rtol": rtol,
        "setting": subject.setting(objective.conditions),
        "threshold": threshold,
    }


def _curvature(subject: Subject, matrix: str, mode: str = "eval") -> tuple[Any, Objective]:
    objective = subject.objective(mode=mode, seed=SEED if mode == "train" else None)
    if matrix == "Gauss-Newton":
        return GaussNewton(objective), objective
    hessian = Hessian(objective)
    if matrix == "Hessian":
        return hessian, objective
    solution = subject.solutions[0]
    assert isinstance(solution, Trained)
    return Preconditioned(hessian, solution.result()["scale"]), objective


def traces(subject: Subject, matrix: str, method: str, rtol: float, max_products: int) -> Part:
    """The trace of a curvature."""
    found, objective = _curvature(subject, matrix)
    try:
        result = trace(found, method, rtol=rtol, max_products=max_products, seed=SEED)  # type: ignore[arg-type]
    except NotConverged as error:
        result = error.result
    return {
        "matrix": matrix,
        "method": method,
        "value": plain(result.value),
        "standard_error": plain(result.standard_error),
        "low": plain(result.interval[0]),
        "high": plain(result.interval[1]),
        "samples": result.samples,
        "products": result.products,
        "converged": result.converged,
        "setting": subject.setting(objective.conditions),
    }


def density(subject: Subject, matrix: str, draws: int, steps: int, points: int) -> Part:
    """The spectral density of a curvature."""
    found, objective = _curvature(subject, matrix)
    result = spectral_density(found, draws=draws, steps=steps, seed=SEED)
    low, high = float(result.nodes.min()), float(result.nodes.max())
    beyond = 0.05 * (high - low) or 1.0
    grid = torch.linspace(low - beyond, high + beyond, points, dtype=torch.float64)
    means, errors = result.at(grid)
    moments, moment_errors = result.moments(6)
    return {
        "matrix": matrix,
        "grid": grid.tolist(),
        "values": _plain(means.tolist()),
        "errors": _plain(errors.tolist()),
        "width": result.width,
        "draws": draws,
        "steps": result.nodes.shape[1],
        "moments": _plain(moments),
        "moment_errors": _plain(moment_errors),
        "negative_share": plain(result.share_below(-result.width)[0]),
        "products": result.products,
        "setting": subject.setting(objective.conditions),
    }


def sharpness(
    subject: Subject, measure: str, size: float, eta: float | None = None, logits: str = "as they are"
) -> Part:
    """One measure of sharpness."""
    objective = subject.objective(outputs=unit_logits() if logits == "normalized" else None)
    found = _sharpness(objective, measure, size, eta)
    return {
        "measure": measure,
        "size": size,
        "unit": "%" if measure.startswith("Keskar") else "loss",
        "eta": eta,
        "logits": logits,
        "setting": subject.setting(objective.conditions, *found.pop("notes")),
        **found,
    }


def _sharpness(objective: Objective, measure: str, size: float, eta: float | None) -> Part:
    if measure.startswith("Keskar"):
        manifold = None if "full" in measure else min(100, objective.size)
        box = box_sharpness(objective, size, manifold=manifold, seed=SEED)
        low, high = box.interval or (None, None)
        return {
            "value": plain(box.mean),
            "low": plain(low),
            "high": plain(high),
            "trials": len(box.values),
            "stalled": box.stalled > 0,
            "invariances": list(box.invariances),
            "notes": ["the gradient alone foretells more: the search ended too early"] if box.short else [],
        }
    if measure == "worst case":
        worst = worst_case(objective, size, eta=eta, seed=SEED)
        return {
            "value": plain(worst.rise),
            "low": None,
            "high": None,
            "trials": 1,
            "stalled": worst.stalled,
            "invariances": list(worst.invariances),
            "notes": [f"the gradient alone foretells {worst.first_order:.3g}"],
        }
    try:
        mean = average(objective, size, eta=eta, rtol=0.1, max_samples=200, seed=SEED)
    except NotConverged as error:
        mean = error.result
    return {
        "value": plain(mean.rise),
        "low": plain(mean.interval[0]),
        "high": plain(mean.interval[1]),
        "trials": mean.samples,
        "stalled": False,
        "invariances": list(mean.invariances),
        "notes": [] if mean.converged else [INACCURATE],
    }


MEASURES: Mapping[str, Callable[[Objective], float]] = {
    "largest eigenvalue": lambda objective: _largest(objective),
    "Keskar box, eps 0.001": lambda objective: box_sharpness(objective, 1e-3).mean,
    "worst case, plain": lambda objective: worst_case(objective, 0.05).rise,
    "worst case, adaptive, eta 0.01": lambda objective: worst_case(objective, 0.05, eta=0.01).rise,
    "worst case, adaptive, eta 0": lambda objective: worst_case(objective, 0.05, eta=0).rise,
    "average, plain": lambda objective: average(objective, 0.01, samples=20).rise,
    "average, adaptive, eta 0": lambda objective: average(objective, 0.05, eta=0, samples=20).rise,
}
"""What is measured of rescaled weights."""
INVARIANT = ("worst case, adaptive, eta 0", "average, adaptive, eta 0")


def _largest(objective: Objective) -> float:
    try:
        return top_eigenvalues(Hessian(objective)).values[0]
    except NotConverged as error:
        objective.notes.append(INACCURATE)
        return float(error.result.values[0])


def rescaled(subject: Subject, alpha: float) -> Part:
    """Measures of the first solution with two layers rescaled against each other."""
    model = subject.model()
    other = model if alpha == 1 else reparameterize(model, alpha)
    change = function_change(model, other, subject.batches[0])
    objective = subject.objective(other)
    measures = {name: plain(measure(objective)) for name, measure in MEASURES.items()}
    setting = subject.setting(objective.conditions)
    return {
        "row": {"alpha": alpha, "function_change": change, "measures": measures},
        "layers": list(rescalable(model)[0]),
        "setting": setting,
    }


def line_slice(subject: Subject, points: int, recompute: bool) -> Part:
    """The loss on a line through the first solution."""
    objective = _landscape(subject, recompute)
    xs = amounts(points)
    return {
        "title": f"slice on a line through {subject.solutions[0].name}",
        "amounts": xs,
        "losses": _plain(slice_row(objective, random_directions(objective, 1, seed=SEED), xs, 0.0)),
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
        "losses": _plain(losses),
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
        "losses": _plain(found.losses),
        "errors": _plain(found.errors or []),
        "ends": [first.name, second.name],
        "direction": "straight line",
        "statistics": _renewed(subject.model()),
        "barrier": plain(found.barrier),
        "setting": _on_validation(subject),
    }


def three_row(subject: Subject, points: int, row: int) -> Part:
    """One row of the validation loss on the plane through three solutions."""
    names = [name for name, _ in subject.task.model(0).named_parameters(remove_duplicate=False)]
    first, second, third = subject.states()
    plane = Plane.through(first, second, third, names=names)
    xs, ys = plane.grid(points, MARGIN)
    evaluate = Evaluation(subject.task, SEED)
    return {
        "losses": _plain([evaluate(plane.at(x, ys[row])).loss for x in xs]),
        "xs": xs,
        "ys": ys,
        "coordinates": [list(at) for at in plane.coordinates],
        "statistics": _renewed(subject.model()),
        "setting": _on_validation(subject),
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
        "losses": _plain(losses),
        "xs": xs,
        "ys": ys,
        "way": coordinates,
        "explained": found.explained,
        "statistics": objective.statistics,
        "setting": subject.setting(objective.conditions),
    }


def _renewed(model: nn.Module) -> str:
    return "none" if not has_statistics(model) else "recomputed"


def has_statistics(model: nn.Module) -> bool:
    """Tell whether a model has batch normalization."""
    return any(isinstance(one, nn.modules.batchnorm._BatchNorm) for one in model.modules())


def _on_validation(subject: Subject) -> Part:
    size = subject.task.sizes["validation"]
    parameters = sum(one.numel() for one in subject.task.model(0).parameters())
    return subject.setting(Conditions("eval", size, 1, parameters), "on validation data")


INSTRUMENTS: Mapping[str, Callable[..., Part]] = {
    one.__name__: one
    for one in (
        scores,
        eigenvalues,
        traces,
        density,
        sharpness,
        rescaled,
        line_slice,
        plane_row,
        interpolated,
        three_row,
        way_row,
    )
}


@dataclass(frozen=True)
class Measurement:
    """The job of one measurement.

    Attributes:
        instrument: name of its function.
        solutions: that it looks at.
        examples: of the training data.
        options: of the function.
    """

    instrument: str
    solutions: tuple[Solution, ...]
    examples: int
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """What it is called while it runs."""
        said = " ".join(str(value) for _, value in self.options)
        on = " and ".join(solution.name for solution in self.solutions)
        return f"{self.instrument.replace('_', ' ')} {said} of {on}".replace("/", " ").replace("  ", " ")

    @property
    def depends(self) -> Mapping[str, Any]:
        """The weights, the data and the options."""
        return {
            "format": FORMAT,
            "instrument": self.instrument,
            "solutions": [dict(one.depends) for one in self.solutions],
            "examples": self.examples,
            "options": dict(self.options),
        }

    def holds(self, result: Result) -> bool:
        """Tell that there is nothing beside the result."""
        return True

    def run(self, task: Task) -> Result:
        """Measure; what cannot be, of this task or of these weights, is kept as "unmeasured", with the reason."""
        subject = Subject(task, self.solutions, self.examples)
        try:
            return INSTRUMENTS[self.instrument](subject, **dict(self.options))
        except (ValueError, TypeError) as error:
            if self.instrument == scores.__name__:  # then nothing can
                raise
            return {"unmeasured": str(error), "what": self.name}
