"""What a search leaves behind: the content of `search.json`, and its rules as Python files."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Final

from descend.experiments.caveats import counted
from descend.search import children, shipped
from descend.search.evaluation import Recipe
from descend.search.formulas import LEGEND, one_line
from descend.search.leaderboard import Candidate, Row
from descend.search.run import Found
from descend.search.screening import Screening
from descend.search.space import Space

FORMAT: Final = 1
_LR: Final = "lr=0.001"
_WIDTH: Final = 110


def document(
    manifest: Mapping[str, Any],
    space: Space[Any],
    screening: Screening[Any],
    recipe: Recipe,
    found: Found[Any],
    rows: Sequence[Row],
) -> dict[str, Any]:
    """Return the results of a search without its held-out comparisons.

    Args:
        manifest: of the run.
        space: that was searched.
        screening: what is known of its members.
        recipe: of the trainings.
        found: what the search came to.
        rows: of the leaderboard.
    """
    listed = [_row(row, rank, space, recipe, manifest["options"]) for rank, row in enumerate(rows, 1)]
    quick = manifest["options"]["quick"]
    return {
        "format": FORMAT,
        "label": "screening" if quick else "search",
        "manifest": dict(manifest),
        "training": _training(recipe, manifest["seeds"]["fresh"]),
        "counts": {**vars(found.counts), "diverged": sum(reward == 0 for _, reward in found.members.values())},
        "best_rewards": found.best_rewards,
        "improvements": [_improvement(found, space, *one) for one in found.improvements],
        "leaderboard": listed,
        "legend": LEGEND,
        "held_out": [],
        "findings": _findings(found, listed),
        "caveats": _caveats(recipe, quick),
    }


def _training(recipe: Recipe, fresh: Sequence[int]) -> dict[str, Any]:
    child = children.load(recipe.child)
    examples = {part: len(targets) for part, (_, targets) in child.splits.items()}
    return {
        "task": recipe.child,
        "child": type(child).__name__,
        "weights": child.width,
        "training_examples": examples["train"],
        "validation_examples": examples["validation"],
        "batch_size": child.batch_size,
        "steps": recipe.rungs[-1][0],
        "rungs": [list(rung) for rung in recipe.rungs],
        "rates": list(recipe.rates),
        "seeds": list(recipe.seeds),
        "fresh_seeds": list(fresh),
        "reward": recipe.reward,
    }


def _improvement(found: Found[Any], space: Space[Any], number: int, key: str) -> dict[str, Any]:
    member, reward = found.members[key]
    return {
        "evaluation": number,
        "reward": reward,
        "member": space.encode(member),
        "formula": one_line(space.rule(member)),
    }


def _row(row: Row, rank: int, space: Space[Any], recipe: Recipe, options: Mapping[str, Any]) -> dict[str, Any]:
    one, rate = row.candidate, row.selection.rate
    rule, fixed = one.rule, shipped.fixed(one.name) if one.name else {}
    key = shipped.examined(one.name).key if one.name else one.key
    numbers = {
        "size": one.size,
        "relative_rate": rate * one.size,
        "rate": rate,
        "reward": one.reward,
        "selection_losses": _plain(row.selection.losses),
        "fresh_losses": _plain(row.fresh.losses),
        "loss": _finite(row.mean),
        "low": row.low,
        "high": row.high,
        "accuracy": row.accuracy,
        "difference": None if row.difference is None else _interval(row.difference),
        "state_bytes": rule.cost(**fixed).bytes_state,
    }
    formula = one_line(rule, **fixed)
    words = {
        "rank": rank,
        "tier": row.tier,
        "name": one.name or f"found{rank}",
        "title": rule.title if one.name else f"found {rank}",
        "is_known": bool(one.name),
        "known_as": None if one.name else shipped.names_of_classes().get(one.key),
        "member": None if one.name else space.encode(one.member),
        "key": key,
        "formula": formula,
        "text": rule.text(**fixed),
        "mathml": rule.mathml(**fixed),
        "latex": rule.latex(**fixed),
        "hyper_parameters": fixed,
        "schedules": _schedules(one, space, recipe),
    }
    return {**words, **numbers, "source": _source(one, space, {**words, **numbers}, options)}


def _source(one: Candidate, space: Space[Any], row: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    if one.name:
        return one.rule.source("python", **row["hyper_parameters"])
    return source(space, one.member, row["name"], said(row, options), row["rate"])


def _schedules(one: Candidate, space: Space[Any], recipe: Recipe) -> dict[str, str]:
    """The schedules of a rule's own hyper-parameters, in terms of `steps`."""
    if one.name:
        return {}
    steps = recipe.rungs[-1][0]
    driven = {name: str(schedule) for name, schedule in space.schedules(steps).items()}
    return {
        name: text.replace(str(steps), "steps", 1) for name, text in driven.items() if name in one.rule.hyper_parameters
    }


def said(row: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """Return the docstring of a rule that was found: its formula, where it was found, and what it came to."""
    loss = "it diverged" if row["loss"] is None else f"a mean validation loss of {row['loss']:.4g}"
    where = (
        f"Found by `descend search` in the space {options['space']} on {options['task']} (policy {options['policy']}, "
        f"seed {options['seed']}), where it ranks {row['rank']} with {loss} over "
        f"{counted(len(row['fresh_losses']), 'fresh seed')} at a rate of {row['rate']:.3g}."
    )
    driven = [f"The schedule {text} drives {name} there." for name, text in row["schedules"].items()]
    lines = [*textwrap.wrap(f"{row['formula']}.", _WIDTH), "", *textwrap.wrap(" ".join([where, *driven]), _WIDTH)]
    return "\n".join([lines[0], *(f"    {line}" if line else "" for line in lines[1:]), "    "])


def source(space: Space[Any], member: Any, name: str, doc: str, rate: float) -> str:
    """Return a member as a Python file, its best rate being the default one."""
    text = space.source(member, name, doc)
    if text.count(_LR) != 1:
        raise AssertionError(f"the space {space.name} does not write {_LR} once")
    return text.replace(_LR, f"lr={float(f'{rate:.3g}')!r}")


def _findings(found: Found[Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    counts = found.counts
    invalid = sum(counts.invalid.values())
    sentences = [
        f"{counted(counts.proposals, 'proposal')} came to {counted(counts.evaluated, 'distinct rule')} that were "
        f"trained; {counts.repeats} met a class again, and {invalid} were not worth training."
    ]
    own = [row for row in rows if not row["is_known"]]
    if own:
        first = max(own, key=lambda row: row["reward"])
        sentences.append(
            f"The rule with the best reward in the search is at rank {first['rank']} with fresh seeds: the top of a "
            "search owes much to the luck of its seeds, and only the ranks here, by seeds that chose nothing, count."
        )
    tier = [row for row in rows if row["tier"] == 1]
    known = [row["title"] for row in tier if row["is_known"]]
    beside = f", {' and '.join([', '.join(known[:-1]), known[-1]] if known[1:] else known)} among them" if known else ""
    sentences.append(
        f"The first tier has {counted(len(tier), 'rule')}{beside}: within a tier no rule is told from the best of it "
        "by these seeds."
    )
    return sentences


def _caveats(recipe: Recipe, quick: bool) -> list[str]:
    caveats = [
        f"All numbers but those of held-out tasks are of validation examples of {recipe.child}, which also chose rules "
        f"and rates: they rank rules on this network within {recipe.rungs[-1][0]} steps, and say little of others.",
        "A rule belongs to a tier by many paired comparisons that are not corrected for their number.",
    ]
    return ["A screening: it supports no claim. Leave --quick out for a search.", *caveats] if quick else caveats


def _plain(losses: Sequence[float]) -> list[float | None]:
    return [_finite(loss) for loss in losses]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _interval(difference: tuple[float, float | None, float | None]) -> dict[str, float | None]:
    mean, low, high = difference
    return {"mean": _finite(mean), "low": low, "high": high}
