"""What is measured of the curvature and the sharpness of solutions, as parts of `diagnosis.json`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from descend.experiments.diagnosis.solutions import Trained
from descend.experiments.diagnosis.subject import INACCURATE, SEED, Part, Subject, plain, plains
from descend.generalization import (
    GaussNewton,
    Hessian,
    NotConverged,
    Objective,
    Preconditioned,
    average,
    box_sharpness,
    function_change,
    reparameterize,
    rescalable,
    spectral_density,
    top_eigenvalues,
    trace,
    unit_logits,
    worst_case,
)

_ASCENT = 20
"""Steps of the second search in Keskar's box."""


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
        "values": plains(result.values),
        "residuals": plains(result.residuals),
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
        "values": plains(means.tolist()),
        "errors": plains(errors.tolist()),
        "width": result.width,
        "draws": draws,
        "steps": result.nodes.shape[1],
        "moments": plains(moments),
        "moment_errors": plains(moment_errors),
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
        box = box_sharpness(objective, size, manifold=manifold, ascent_steps=_ASCENT, seed=SEED)
        low, high = box.interval or (None, None)
        return {
            "value": plain(box.mean),
            "low": plain(low),
            "high": plain(high),
            "trials": len(box.values),
            "stalled": box.stalled > 0,
            "invariances": list(box.invariances),
            "notes": [f"a second search, by the gradient's signs, finds {sum(box.ascended) / len(box.ascended):.4g} %"],
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
