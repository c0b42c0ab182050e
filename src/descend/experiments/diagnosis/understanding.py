"""What is measured of memorization, single directions, symmetry and generalization, as parts of `diagnosis.json`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from descend.experiments.diagnosis.landscapes import on_validation, renewed
from descend.experiments.diagnosis.solutions import Trained
from descend.experiments.diagnosis.subject import SEED, Part, Subject, plain, plains
from descend.experiments.ensemble_study.landscape import Evaluation
from descend.experiments.small_fits import epochs
from descend.generalization import (
    WHAT_IS_COUNTED,
    LearningTimes,
    Objective,
    Robustness,
    accuracy,
    activations,
    align,
    aligned_paths,
    class_selectivity,
    corrupted_labels,
    cumulative_ablation,
    equivalent_minima,
    expected_wrong_share,
    function_change,
    hidden_layers,
    log10_equivalents,
    measures,
    mutual_information,
    noise_robustness,
    permuted,
    sign_flipped,
    supervised,
    unit_importance,
)
from descend.generalization.memorization import By
from descend.generalization.ranking import rank_interval
from descend.optim import Adam
from descend.restoring import seeded
from descend.tasks import Ordered

_BATCH, _RATE = 32, 1e-3
"""Of trainings on corrupted labels."""
_LOSS = 0.01
"""Training loss at which these end, if every label is predicted then."""
_BY: tuple[By, ...] = ("mean loss", "loss", "learned")
_SUSPECTS = 20
_WIDER = (0.25, 0.5, 1.0, 2.0, 4.0)
_CHANCE_SEED = 0


def memorized(subject: Subject, share: float, most_epochs: int) -> Part:
    """A training of a new model on labels some of which are drawn anew."""
    inputs, true = _examples(subject)
    classes = int(true.max()) + 1
    labels = corrupted_labels(true, share, classes=classes, seed=SEED)
    wrong = labels != true
    model = subject.task.model(SEED)
    times = LearningTimes(model, [(inputs, labels)])
    fitted, way = None, []
    with seeded(SEED):
        for epoch in epochs(
            model,
            supervised(nn.functional.cross_entropy),
            Adam(model.parameters(), lr=_RATE),
            inputs,
            labels,
            _BATCH,
            SEED,
        ):
            times.look()
            loss, right = times.last
            way.append([float(epoch), loss, right])
            fitted = epoch if fitted is None and right == 1 else fitted
            if (right == 1 and loss <= _LOSS) or epoch == most_epochs or not math.isfinite(loss):
                break
    ranking, count = times.ranking(), int(wrong.sum())
    usual, places = ranking.usual, _places(subject, inputs)
    suspects = [
        {
            "place": places[place],
            "label": int(labels[place]),
            "predicted": int(usual[place]),
            "loss": plain(float(ranking.losses[:, place].mean())),
            "learned": int(since) + 1 if math.isfinite(since := float(ranking.learned[place])) else None,
        }
        for place in ranking.suspects(count=_SUSPECTS).tolist()
    ]
    return {
        "share": share,
        "wrong_share": float(wrong.double().mean()),
        "expected_wrong_share": expected_wrong_share(share, classes),
        "epochs": epoch,
        "epochs_to_fit": fitted,
        "train_accuracy": right,
        "validation_accuracy": plain(float(subject.task.evaluate(model, "validation")[subject.task.metric])),
        "way": [[at, loss, right] for at, loss, right in way if math.isfinite(loss)],
        "precision": {by: float(wrong[ranking.suspects(by, count)].double().mean()) for by in _BY} if count else {},
        "suspects": suspects,
        "setting": subject.setting(
            ranking.conditions, f"a new model, Adam at {_RATE:g}, batches of {_BATCH}, at most {most_epochs} epochs"
        ),
    }


def _places(subject: Subject, inputs: Tensor) -> list[int]:
    """Return where the examples that instruments see are in the training data, or in what they see if nobody knows."""
    seen, task = len(inputs), subject.task
    if not isinstance(task, Ordered) or seen == task.sizes["train"]:
        return list(range(seen))
    whole = torch.cat([batch[0] for batch in task.ordered("train", len(inputs))])
    spread = torch.arange(seen) * len(whole) // seen
    return spread.tolist() if torch.equal(whole[spread], inputs) else list(range(seen))


def _examples(subject: Subject) -> tuple[Tensor, Tensor]:
    """Return the training examples as two tensors, of inputs and classes."""
    pairs = [one for one in subject.batches if isinstance(one, (tuple, list)) and len(one) == 2]
    if len(pairs) < len(subject.batches) or not all(isinstance(part, Tensor) for pair in pairs for part in pair):
        raise ValueError("batches of the task are no pairs of a tensor of inputs and a tensor of classes")
    inputs, classes = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    if classes.ndim != 1 or classes.is_floating_point():
        raise ValueError("the task has no class for each example")
    return inputs, classes


def clamped(subject: Subject, to: str, orders: int, points: int) -> Part:
    """The training accuracy while more and more units are held at a constant."""
    found = cumulative_ablation(_score(subject), to=to, orders=orders, points=points, seed=SEED)  # type: ignore[arg-type]
    return _disturbed(subject, found, f"clamped to {'zero' if to == 'zero' else 'the mean'}")


def noised(subject: Subject, draws: int) -> Part:
    """The training accuracy while noise is added to all units."""
    return _disturbed(subject, noise_robustness(_score(subject), draws=draws, seed=SEED), "noise")


def _disturbed(subject: Subject, found: Robustness, how: str) -> Part:
    lows, highs = zip(*found.bands, strict=True)
    return {
        "how": how,
        "amounts": found.amounts,
        "means": found.means,
        "lows": list(lows),
        "highs": list(highs),
        "area": found.area,
        "low": found.area_interval[0],
        "high": found.area_interval[1],
        "draws": len(found.scores),
        "units": found.units,
        "dead": found.dead,
        "setting": subject.setting(found.conditions),
    }


def _score(subject: Subject) -> Objective:
    return subject.objective().with_loss(supervised(accuracy))


def units(subject: Subject, bins: int) -> Part:
    """How selective the units of each layer are, and how much each matters by itself."""
    score = _score(subject)
    found, falls = activations(score), unit_importance(subject.objective())  # accuracy is too coarse for one unit
    selective, informed = class_selectivity(found), mutual_information(found, bins=bins)
    chance = mutual_information(found, bins=bins, shuffled=_CHANCE_SEED)
    rows = []
    for name, layer in found.layers.items():
        live = ~layer.dead
        of_class, matters = selective[name][live], -falls[name][live]
        is_known = ~of_class.isnan()
        tau = rank_interval(of_class[is_known].tolist(), matters[is_known].tolist(), seed=SEED)
        rows.append(
            {
                "layer": name,
                "dead": int(layer.dead.sum()),
                "selectivity": plains(of_class.tolist()),
                "information": plains(informed[name][live].tolist()),
                "chance": plain(float(chance[name][live].mean())),
                "importance": plains(matters.tolist()),
                "tau": None if tau is None else tau[0],
                "low": None if tau is None else tau[1],
                "high": None if tau is None else tau[2],
                "setting": subject.setting(found.conditions, f"activity in {bins} bins"),
            }
        )
    return {"layers": rows}


def symmetric(subject: Subject) -> Part:
    """How many weight vectors are the function of the first solution, and two of them."""
    model = subject.model()
    counted = equivalent_minima(model)
    objective = subject.objective(model)
    has_signs = any(layer.signs for layer in counted.layers)
    others = [("permuted", permuted(model, seed=SEED))]
    others += [("signs flipped", sign_flipped(model, seed=SEED))] if has_signs else []
    return {
        "layers": [{"layer": one.name, "units": one.units, "signs": one.signs} for one in counted.layers],
        "log10": counted.log10,
        "distinct": counted.distinct,
        "counted": WHAT_IS_COUNTED,
        "twins": [_twin(subject, objective, how, other) for how, other in others],
        "widths": [[wider, _log10(model, wider)] for wider in _WIDER],
        "setting": subject.setting(objective.conditions),
    }


def _twin(subject: Subject, objective: Objective, how: str, other: nn.Module) -> Part:
    there = subject.objective(other)
    weights = objective.weights()
    return {
        "how": how,
        "distance": float((there.weights() - weights).norm() / weights.norm()),
        "function_change": function_change(objective.model, other, subject.batches[0]),
        "loss": plain(objective.value()),
        "twin_loss": plain(there.value()),
    }


def _log10(model: nn.Module, wider: float) -> float:
    return math.fsum(
        log10_equivalents([max(1, round(wider * layer.units))], signs=layer.signs) for layer in hidden_layers(model)
    )


def aligned(subject: Subject, method: str, points: int) -> Part:
    """The line between two solutions before and after the units of the second are put into the first's order."""
    first, second = subject.model(0), subject.model(1)
    found = align(first, second, method=method, inputs=subject.batches[0], starts=5, seed=SEED)  # type: ignore[arg-type]
    paths = aligned_paths(first, second, found, Evaluation(subject.task, SEED), points=points)
    return {
        "ends": [one.name for one in subject.solutions],
        "method": method,
        "before": found.before,
        "after": found.after,
        "converged": found.converged,
        "fixed": list(found.fixed),
        "amounts": paths.before.amounts,
        "losses_before": plains(paths.before.losses),
        "losses_after": plains(paths.after.losses),
        "barrier_before": plain(paths.before.barrier),
        "barrier_after": plain(paths.after.barrier),
        "statistics": renewed(first),
        "setting": on_validation(subject),
    }


def measured(subject: Subject, samples: int, steps: int, ascent_steps: int) -> Part:
    """What is said to foretell the gap of a solution, and its gap between training examples and test set."""
    _examples(subject)
    solution, objective = subject.solutions[0], subject.objective()
    start = solution.result()["way"][0][1].double() if isinstance(solution, Trained) else None
    found = measures(objective, start, samples=samples, steps=steps, ascent_steps=ascent_steps, seed=SEED)
    test = subject.task.evaluate(objective.model, "test")
    right = objective.with_loss(supervised(accuracy)).value()
    test_accuracy = float(test["accuracy"]) if "accuracy" in test else None
    if test_accuracy is None:
        raise ValueError(f"the task is judged by {subject.task.metric}, and not by accuracy")
    return {
        "measures": {name: None if one.value is None else plain(one.value) for name, one in found.items()},
        "undefined": {name: one.undefined for name, one in found.items() if one.undefined is not None},
        "train_accuracy": right,
        "test_accuracy": test_accuracy,
        "gap": right - test_accuracy,
        "loss_gap": plain(float(test["loss"]) - objective.value()),
        "setting": subject.setting(objective.conditions),
    }


def ranked(networks: Sequence[Part], settings: Sequence[dict[str, Any]]) -> list[Part]:
    """Whether measures order the gaps of a population: the granulated Kendall coefficient of each."""
    from descend.generalization import MEASURES, granulated_kendall

    replicates = "seed" if settings and "seed" in settings[0] else None
    gaps = [one["gap"] for one in networks]
    rows = []
    for name, (formula, _, _) in MEASURES.items():
        values = [one["measures"][name] for one in networks]
        row: Part = {"measure": name, "formula": formula, "networks": len(networks), "axes": []}
        if None in values:
            why = next(one["undefined"].get(name, "not finite") for one in networks if one["measures"][name] is None)
            row |= {"sentence": f"not defined for all networks: {why}", "psi": None, "low": None, "high": None}
        else:
            found = granulated_kendall(values, gaps, settings, replicates=replicates, seed=SEED)
            axes = found.axes.items()
            row |= {
                "sentence": found.sentence,
                "psi": found.psi,
                "low": found.interval[0],
                "high": found.interval[1],
                "axes": [
                    {
                        "name": axis,
                        "tau": one.tau,
                        "low": one.interval[0],
                        "high": one.interval[1],
                        "pairs": one.pairs,
                    }
                    for axis, one in axes
                ],
            }
        rows.append(row)
    return rows
