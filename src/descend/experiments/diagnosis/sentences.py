"""What is said of a diagnosis: what was found, and what to be careful of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from descend.experiments.diagnosis.plan import Plan
from descend.experiments.diagnosis.solutions import Trained
from descend.experiments.diagnosis.subject import INACCURATE
from descend.generalization.monitor import NOISE_SCALE, TOP_EIGENVALUE, UPDATE_RATIO
from descend.generalization.trajectory import CAVEAT

WATCHED: Final = (UPDATE_RATIO, NOISE_SCALE, TOP_EIGENVALUE)
_UNEQUAL = 0.01
"""Difference of training accuracies from which on gaps are not those of networks trained alike."""


def findings(found: Mapping[str, Any]) -> list[str]:
    """Return what was found, most of it of the first solution."""
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
    return said + _understood(found)


def _understood(found: Mapping[str, Any]) -> list[str]:
    """What was found of memorization, single directions, symmetry and measures."""
    said = []
    random = next((one for one in found["memorization"] if one["share"] == 1), None)
    true = next((one for one in found["memorization"] if one["share"] == 0), None)
    if random is not None and true is not None:
        if random["epochs_to_fit"] is None:
            came = f"{100 * random['train_accuracy']:.1f} % of random labels are fitted in {random['epochs']} epochs"
        else:
            came = f"Random labels are all fitted after {random['epochs_to_fit']} epochs"
        own = true["epochs_to_fit"]
        said.append(f"{came}; the true ones {'are not all fitted' if own is None else f'after {own}'}.")
    planted = next((one for one in found["memorization"] if one["precision"] and one["share"] < 0.2), None)
    if planted is not None:
        said.append(
            f"Of as many suspects as there are planted errors ({100 * planted['wrong_share']:.1f} % of the labels), "
            f"{100 * planted['precision']['mean loss']:.0f} % are planted ones, by their mean loss."
        )
    zero = next((one for one in found["directions"] if one["how"] == "clamped to zero"), None)
    if zero is not None:
        said.append(
            f"While units are clamped to zero, none to all, the training accuracy is {zero['area']:.3f} on average "
            f"[{zero['low']:.3f}, {zero['high']:.3f}]."
        )
    if found["symmetry"] is not None:
        said.append(
            f"10^{found['symmetry']['log10']:.0f} weight vectors are the same function by orders and signs of hidden "
            "units alone."
        )
    for one in found["alignments"]:
        if one["method"] == "weights" and one["barrier_before"] is not None and one["barrier_after"] is not None:
            said.append(
                f"Putting the units of {one['ends'][1]} into the order of {one['ends'][0]}'s changes the barrier "
                f"between them from {one['barrier_before']:.3g} to {one['barrier_after']:.3g}."
            )
    predictive = [one["measure"] for one in found["rankings"] if one["low"] is not None and one["low"] > 0]
    if found["rankings"]:
        count = found["rankings"][0]["networks"]
        names = ", ".join(name.replace("_", " ") for name in predictive)
        came = f"The test gaps are ordered by {names}" if names else "No measure has predictive value on these runs"
        said.append(f"{came}: {count} networks, an interval of each measure alone.")
    return said


def caveats(
    found: Mapping[str, Any], plan: Plan, missing: Mapping[str, Sequence[str]], quick: bool
) -> dict[str, list[str]]:
    """Return what to be careful of, by instrument.

    Args:
        found: the document, without sentences.
        plan: of the measurements.
        missing: sentences on what could not be measured, by instrument.
        quick: whether it is a screening.
    """
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
        "memorization": [
            "Trainings here have a new model, Adam, and no augmentation; how long they take says nothing of others.",
            "A suspect is an example that is learned late, which hard ones with the right label are, too.",
        ],
        "directions": [
            "Compare networks of the same training accuracy only, on the labels that each was fitted to.",
            "A unit that is selective need not matter: selectivity says what a unit does, not what it is for.",
        ],
        "symmetry": [
            "Matching of several layers finds a local optimum; a barrier that is left may be the search's.",
        ],
        "measures": [
            "Of a single network a measure says nothing: only over networks that differ can it be held to their gaps.",
            "Gaps are between the examples that instruments see and the test set.",
        ],
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
    if len(plan.solutions) < 2:
        said["symmetry"].append("There is one solution, and nothing to be aligned with.")
    accuracies = [one["train_accuracy"] for one in found["measures"]]
    if accuracies and max(accuracies) - min(accuracies) > _UNEQUAL:
        said["measures"].append(
            f"Training accuracies go from {min(accuracies):.3g} to {max(accuracies):.3g}: gaps differ for that, too."
        )
    if not found["rankings"]:
        said["measures"].append("No population was given, so nothing is said of what orders gaps; see --population.")
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
