"""What a diagnosis leaves behind: the content of `diagnosis.json`, with numbers and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from descend.experiments.diagnosis.instruments import INVARIANT
from descend.experiments.diagnosis.plan import Plan
from descend.experiments.diagnosis.sentences import caveats, findings
from descend.experiments.diagnosis.solutions import Trained
from descend.experiments.diagnosis.subject import plain
from descend.experiments.diagnosis.understanding import ranked
from descend.generalization.slices import amounts
from descend.tasks import Task

FORMAT: Final = 1
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
    "memorization": "memorization",
    "directions": "directions",
    "units": "directions",
    "symmetry": "symmetry",
    "alignment": "symmetry",
    "measures": "measures",
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
        "memorization": list(parts["memorization"]),
        "directions": list(parts["directions"]),
        "units": [layer for one in parts["units"] for layer in one["layers"]],
        "symmetry": next(iter(parts["symmetry"]), None),
        "alignments": list(parts["alignment"]),
        "measures": _measures(plan, parts["measures"]),
        "rankings": _rankings(plan, parts["measures"]),
    }
    return {**found, "findings": findings(found), "caveats": caveats(found, plan, missing, quick)}


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


def _measures(plan: Plan, networks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    settings = {one.name: dict(own) for one, own in zip(plan.solutions, plan.settings, strict=False)}
    return [{**one, "settings": settings.get(one["setting"]["solution"], {})} for one in networks]


def _rankings(plan: Plan, networks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if not plan.settings or len(networks) < len(plan.solutions):
        return []
    return ranked([dict(one) for one in networks], [dict(one) for one in plan.settings])


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
