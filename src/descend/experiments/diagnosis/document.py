"""What a diagnosis leaves behind: the content of `diagnosis.json`, with what was found and what to be careful of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from descend.experiments.diagnosis.instruments import INVARIANT
from descend.experiments.diagnosis.plan import Plan
from descend.experiments.diagnosis.solutions import Trained
from descend.experiments.diagnosis.subject import INACCURATE, plain
from descend.generalization.monitor import NOISE_SCALE, TOP_EIGENVALUE, UPDATE_RATIO
from descend.generalization.slices import amounts
from descend.generalization.trajectory import CAVEAT
from descend.tasks import Task

FORMAT: Final = 1
WATCHED: Final = (UPDATE_RATIO, NOISE_SCALE, TOP_EIGENVALUE)
_GRIDS: Final = ("slice plane", "three", "way")
_INSTRUMENT_OF: Final = {
    "scores": "all",
    "spectra": "eigenvalues",
    "traces": "trace",
    "densities": "density",
    "sharpness": "sharpness",
    "rescaling": "rescaling",
    "slice": "slices",
    "slice plane": "slices",
    "interpolation": "interpolation",
    "three": "interpolation",
    "way": "trajectory",
}
Parts = Mapping[str, Sequence[Mapping[str, Any]]]


def document(manifest: Mapping[str, Any], task: Task, plan: Plan, parts: Parts) -> dict[str, Any]:
    """Return the whole file.

    Args:
        manifest: of the run.
        task: that was diagnosed.
        plan: of the measurements.
        parts: what each job gave, by the part that it makes.
    """
    quick = manifest["options"]["quick"]
    parts, missing = _measured(parts)
    found = {
        "format": FORMAT,
        "kind": "diagnosis",
        "label": "screening" if quick else "diagnosis",
        "manifest": dict(manifest),
        "subject": _subject(task, manifest),
        "solutions": list(parts["scores"]),
        "spectra": list(parts["spectra"]),
        "traces": list(parts["traces"]),
        "densities": list(parts["densities"]),
        "sharpness": list(parts["sharpness"]),
        "rescaling": _rescaling(parts["rescaling"]),
        "lines": [*parts["slice"], *parts["interpolation"]],
        "surfaces": _surfaces(plan, parts),
        "training": _training(plan) if "training" in plan.instruments else [],
    }
    return {**found, "findings": _findings(found), "caveats": _caveats(found, plan, missing, quick)}


def _measured(parts: Parts) -> tuple[Parts, dict[str, list[str]]]:
    """Return the parts without what could not be measured, and sentences on that by instrument; no half surfaces."""
    measured: dict[str, Sequence[Mapping[str, Any]]] = {}
    missing: dict[str, list[str]] = {}
    for name, results in parts.items():
        measured[name] = [one for one in results if "unmeasured" not in one]
        if name in _GRIDS and len(measured[name]) < len(results):
            measured[name] = []
        lines = missing.setdefault(_INSTRUMENT_OF[name], [])
        for reason in dict.fromkeys(one["unmeasured"] for one in results if "unmeasured" in one):
            whats = [one["what"] for one in results if one.get("unmeasured") == reason]
            more = f" and {len(whats) - 1} more" if len(whats) > 1 else ""
            lines.append(f"Not measured: {whats[0]}{more} ({reason}).")
    return measured, missing


def _subject(task: Task, manifest: Mapping[str, Any]) -> dict[str, Any]:
    model = task.model(0)
    return {
        "name": task.name,
        "title": task.title,
        "description": task.description,
        "metric": task.metric,
        "direction": task.direction,
        "model": type(model).__name__,
        "weights": sum(one.numel() for one in model.parameters()),
        "sizes": dict(task.sizes),
        "settings": dict(manifest["options"]["settings"]),
    }


def _rescaling(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    if not rows:
        return None
    return {
        "layers": rows[0]["layers"],
        "rows": [one["row"] for one in rows],
        "invariant": list(INVARIANT),
        "setting": {
            **rows[0]["setting"],
            "notes": list(dict.fromkeys(note for one in rows for note in one["setting"]["notes"])),
        },
    }


def _surfaces(plan: Plan, parts: Parts) -> list[dict[str, Any]]:
    surfaces = []
    name = plan.solutions[0].name
    if rows := parts["slice plane"]:
        grid = amounts(plan.extent.slice)
        surfaces.append(
            {
                "title": f"slice on a plane through {name}",
                "kind": "slice",
                "xs": grid,
                "ys": grid,
                "x_title": "first direction",
                "y_title": "second direction",
                "points": [{"name": name, "x": 0.0, "y": 0.0}],
                "way": [],
                "explained": [],
                "direction": "two random directions, each filter as long as the model's; biases and normalization "
                f"stay; the cosine of their angle is {rows[0]['cosine']:.2g}",
                **_grid(rows),
            }
        )
    if rows := parts["three"]:
        spots = zip(plan.solutions, rows[0]["coordinates"], strict=False)
        surfaces.append(
            {
                "title": "plane through three solutions, validation data",
                "kind": "solutions",
                "xs": rows[0]["xs"],
                "ys": rows[0]["ys"],
                "x_title": "distance between weights",
                "y_title": "",
                "points": [{"name": solution.name, "x": at[0], "y": at[1]} for solution, at in spots],
                "way": [],
                "explained": [],
                "direction": "through the three",
                **_grid(rows),
            }
        )
    if rows := parts["way"]:
        surfaces.append(
            {
                "title": f"the way of training of {name}",
                "kind": "trajectory",
                "xs": rows[0]["xs"],
                "ys": rows[0]["ys"],
                "x_title": "first principal direction",
                "y_title": "second principal direction",
                "points": [{"name": name, "x": 0.0, "y": 0.0}],
                "way": rows[0]["way"],
                "explained": rows[0]["explained"],
                "direction": "the two principal directions of the way, through its end",
                **_grid(rows),
            }
        )
    return surfaces


def _grid(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    own = ("statistics", "setting")
    return {"losses": [row["losses"] for row in rows], **{key: rows[0][key] for key in own}}


def _training(plan: Plan) -> list[dict[str, Any]]:
    first = plan.solutions[0]
    if not isinstance(first, Trained):
        return []
    result, job = first.result(), first.kept.job
    quantities: dict[str, list[dict[str, Any]]] = {}
    for one in result["readings"]:
        reading = {"step": one["step"], "value": plain(one["value"]), "error": plain(one["error"])}
        quantities.setdefault(one["quantity"], []).append({**reading, "converged": one["converged"]})
    thresholds = [
        [float(one["step"]), one["threshold"]]
        for one in result["readings"]
        if one["threshold"] is not None and plain(one["threshold"]) is not None
    ]
    return [
        {
            "solution": first.name,
            "optimizer": job.optimizer,  # type: ignore[attr-defined]
            "rate": job.rate,  # type: ignore[attr-defined]
            "steps": job.steps,  # type: ignore[attr-defined]
            "ceiling": job.ceiling,  # type: ignore[attr-defined]
            "overhead": result["overhead"],
            "quantities": quantities,
            "losses": [list(one) for one in result["losses"]],
            "threshold": thresholds,
        }
    ]


def _findings(found: Mapping[str, Any]) -> list[str]:
    said = []
    largest = [one for one in found["spectra"] if (one["matrix"], one["which"]) == ("Hessian", "largest")]
    for one in largest[:1]:
        if one["values"] and one["values"][0] is not None:
            end = f"The largest eigenvalue of the Hessian is {one['values'][0]:.4g} (within {one['residuals'][0]:.2g})"
            if one["threshold"] is not None:
                share = one["values"][0] / one["threshold"]
                end += f", {share:.2g} of the {one['threshold']:.4g} at which steps of the peak rate turn unstable"
            said.append(f"{end}.")
    smallest = next((one for one in found["spectra"] if one["which"] == "smallest"), None)
    if smallest is not None and smallest["values"] and smallest["values"][0] is not None:
        value = smallest["values"][0]
        sign = "negative: the solution is no minimum" if value < -smallest["residuals"][0] else "not below 0 for sure"
        said.append(f"The smallest is {value:.3g} (within {smallest['residuals'][0]:.2g}), {sign}.")
    rescaling = found["rescaling"]
    if rescaling is not None:
        eigenvalues = [row["measures"]["largest eigenvalue"] for row in rescaling["rows"]]
        known = [value for value in eigenvalues if value is not None]
        changes = [row["function_change"] for row in rescaling["rows"]]
        if known:
            said.append(
                f"Rescaling two layers moves the largest eigenvalue from {min(known):.3g} to {max(known):.3g}, while "
                f"no output changes by more than {max(changes):.1g} of the largest."
            )
    for line in found["lines"]:
        if line.get("barrier") is not None:
            said.append(
                f"On the straight line from {line['ends'][0]} to {line['ends'][1]} the validation loss rises "
                f"{line['barrier']:.3g} above the straight line between its ends."
            )
    for one in found["training"]:
        said.append(
            f"Watching the training took {100 * one['overhead']:.1f} % of its time; the ceiling is "
            f"{100 * one['ceiling']:g} %."
        )
    return said


def _caveats(
    found: Mapping[str, Any], plan: Plan, missing: Mapping[str, Sequence[str]], quick: bool
) -> dict[str, list[str]]:
    said: dict[str, list[str]] = {
        "all": [
            f"Instruments see {plan.examples:,} training examples at most, in evaluation mode, without weight decay."
        ],
        "eigenvalues": [
            "A residual says that an eigenvalue is so near, not that there is no larger one; how often one repeats is "
            "not seen.",
        ],
        "trace": ["Hutch++ gains only where few eigenvalues hold most of the trace."],
        "density": ["It is smoothed: eigenvalues closer than its width cannot be told apart."],
        "sharpness": [
            "Sharpness alone does not predict generalization: across trainings it follows the rate and other settings, "
            "and may even correlate the wrong way (Andriushchenko et al. 2023, arXiv:2302.07011).",
            "Worst cases and boxes are searched, so each value is a lower bound of the maximum.",
            "Only measures that state an invariance to rescaling compare solutions of different scale (Dinh et al. "
            "2017, arXiv:1703.04933).",
        ],
        "rescaling": ["A measure that moves here says something of the weights, and not of the function."],
        "slices": [
            "Two directions out of thousands show little of the landscape; where a slice is convex, others may not be.",
            "Two random directions are only nearly at a right angle.",
        ],
        "interpolation": ["A barrier on the straight line does not mean that no curved way without one exists."],
        "trajectory": [CAVEAT],
        "training": [
            "Eigenvalues are those of one fixed batch, in evaluation mode.",
            "A noise scale is the ratio of two estimates; it is negative where noise drowns the gradient.",
        ],
    }
    for one in found["training"]:
        for name in WATCHED:
            if name not in one["quantities"]:
                said["training"].append(
                    f"The training was too short for {100 * one['ceiling']:g} % of its time to pay for "
                    f"{name.replace('_', ' ')}; a higher --ceiling does."
                )
    if quick:
        said["all"].insert(0, "A quick diagnosis is a screening: coarse grids, few examples, no claim.")
    _unconverged(found, said)
    if not plan.can_rescale:
        said["rescaling"] = ["No two layers of this model can be rescaled by themselves, so nothing was measured."]
    if not isinstance(plan.solutions[0], Trained):
        said["trajectory"] = said["training"] = ["Checkpoints have no way of training."]
    if len(plan.solutions) < 3:
        said["interpolation"].append("There are fewer than three solutions, and no plane through them.")
    if len(plan.solutions) < 2 and not isinstance(plan.solutions[0], Trained):
        said["interpolation"] = ["One checkpoint alone has nothing to be interpolated with."]
    if plan.has_statistics:
        moved = "Statistics of batch normalization are computed anew at every point, those of the solutions included."
        for name in ("slices", "interpolation", "trajectory"):
            said[name].append(moved)
        said["sharpness"].append("The statistics of batch normalization stay those of the solution.")
    for name, lines in missing.items():
        said[name].extend(lines)
    return {name: lines for name, lines in said.items() if name == "all" or name in plan.instruments}


def _unconverged(found: Mapping[str, Any], said: Mapping[str, list[str]]) -> None:
    for one in found["spectra"]:
        if not one["converged"]:
            mode = "" if one["setting"]["mode"] == "eval" else " with batch statistics"
            said["eigenvalues"].append(
                f"The {one['which']} eigenvalues of the {one['matrix']}{mode} are {INACCURATE} ({one['rtol']:g}): see "
                "their residuals."
            )
    for one in found["traces"]:
        if not one["converged"]:
            said["trace"].append(
                f"The trace of the {one['matrix']} by {one['method']} is {INACCURATE}: see its interval."
            )
    for one in found["sharpness"]:
        if INACCURATE in one["setting"]["notes"]:
            eta = "" if one["eta"] is None else f", eta {one['eta']:g}"
            said["sharpness"].append(
                f"The {one['measure']} at {one['size']:g}{eta} (logits {one['logits']}) is {INACCURATE}: see its "
                "interval."
            )
    if found["rescaling"] is not None and INACCURATE in found["rescaling"]["setting"]["notes"]:
        said["rescaling"].append(f"A largest eigenvalue of rescaled weights is {INACCURATE}.")
    for one in found["training"]:
        readings = [reading for several in one["quantities"].values() for reading in several]
        if loose := sum(not reading["converged"] for reading in readings):
            said["training"].append(f"Of {len(readings)} measurements in training {loose} are {INACCURATE}.")
    if any(one["stalled"] for one in found["sharpness"]):
        said["sharpness"].append("A search stalled where it began, at a stationary point: its value says nothing.")
