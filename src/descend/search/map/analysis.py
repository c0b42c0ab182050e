"""What the map says: from a `Table` to small tables, lists of rows that are plain dictionaries.

A class of sentences is one rule, described by its simplest sentence. Of `left` the second operand and its function are
not read, so they do not count; an operand that a rule reads twice counts once. Losses are validation cross-entropies in
nats, rewards exp(-loss) at the best rate of the brief training. "Near Adam" is a loss of at most 1.1 times that of
plain Adam, "above Adam" a loss below Adam's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from descend.search.known import SENTENCES
from descend.search.map.enumeration import SPACE, VERDICTS
from descend.search.map.stages import TOP, Results
from descend.search.map.statistics import correlation, paired
from descend.search.map.table import Table
from descend.search.map.transfer import KNOWN, correlations
from descend.search.nos import BINARY, OPERANDS, SEPARATOR, UNARY

Row = dict[str, Any]
Numbers = npt.NDArray[np.float64]

LEARNED: Final = 0.5
"""A rule has learned something if more than this share of the validation examples is classified rightly."""
NEAR: Final = 1.1
ALONE: Final = "alone"
"""In place of a second operand that is not read."""
FAMILIES: Final[Mapping[str, tuple[str, ...]]] = {
    "gradient": ("g", "g^2", "g^3"),
    "average": ("m", "v", "gamma"),
    "sign": ("sign(g)", "sign(m)"),
    "constant": ("1", "2"),
    "noise": ("eps",),
    "decay": ("1e-4w", "1e-3w", "1e-2w", "1e-1w"),
    "adaptive": ("ADAM", "RMSProp"),
}
NAMES: Final = tuple(row.name for row in OPERANDS)
_LEFT: Final = tuple(BINARY).index("left")
_QUANTILES: Final = {"q10": 0.1, "q25": 0.25, "median": 0.5, "q75": 0.75, "q90": 0.9, "best": 1.0}


def counts(table: Table) -> dict[str, int]:
    """How many sentences, forms and classes there are, what became of them, and how many learned something."""
    brief = table.brief
    verdicts = np.bincount(table.verdicts, minlength=len(VERDICTS))
    accuracies = _at(brief.accuracies.mean(-1), brief.means.argmin(1))
    return {
        "sentences": len(table.of_sentence),
        "sentences without class": int((table.of_sentence < 0).sum()),
        "forms": int(table.facts["forms"]),
        "classes": len(table.sentences),
        **{f"classes: {name}": int(count) for name, count in zip(VERDICTS, verdicts, strict=True) if count},
        "trained": len(brief.classes),
        "learned": int((accuracies > LEARNED).sum()),
        "trained longer": len(table.long.classes),
        "trained with fresh seeds": len(table.fresh.classes),
    }


def _at(values: Numbers, places: npt.NDArray[np.int64]) -> Numbers:
    """One value of each row."""
    found: Numbers = np.take_along_axis(values, places[:, None], axis=1)[:, 0]
    return found


# ---- what rules are made of


def by_operand(table: Table) -> list[Row]:
    """Quantiles of the reward of the rules that read each operand."""
    return _by(table, NAMES, lambda left, right, joint: {left[0]} | ({right[0]} if joint != _LEFT else set()))


def by_unary(table: Table) -> list[Row]:
    """Quantiles of the reward of the rules with each unary function."""
    return _by(table, tuple(UNARY), lambda left, right, joint: {left[1]} | ({right[1]} if joint != _LEFT else set()))


def by_binary(table: Table) -> list[Row]:
    """Quantiles of the reward of the rules with each binary function."""
    return _by(table, tuple(BINARY), lambda left, right, joint: {joint})


def by_family(table: Table) -> list[Row]:
    """Quantiles of the reward of the rules by the families of their operands, such as "adaptive & decay"."""
    order = list(FAMILIES)
    of_operand = [next(order.index(f) for f, names in FAMILIES.items() if name in names) for name in NAMES]
    known = len(order)

    def family(left: tuple[int, int], right: tuple[int, int], joint: int) -> set[int]:
        one = of_operand[left[0]]
        if joint == _LEFT:
            return {one * (known + 1) + known}
        one, other = sorted((one, of_operand[right[0]]))
        return {one * (known + 1) + other}

    endings = [*(f" & {name}" for name in order), f" {ALONE}"]
    return [row for row in _by(table, [name + ending for name in order for ending in endings], family) if row["rules"]]


def by_pair(table: Table) -> list[Row]:
    """Quantiles of the reward by the two operands, in either order; the second is `ALONE` if it is not read."""
    known = len(NAMES)

    def pair(left: tuple[int, int], right: tuple[int, int], joint: int) -> set[int]:
        if joint == _LEFT:
            return {left[0] * (known + 1) + known}
        one, other = sorted((left[0], right[0]))
        return {one * (known + 1) + other}

    pairs = [(one, other) for one in NAMES for other in (*NAMES, ALONE)]
    rows = _by(table, [" & ".join(names) for names in pairs], pair)
    return [
        {**row, "first": one, "second": other} for row, (one, other) in zip(rows, pairs, strict=True) if row["rules"]
    ]


def by_leg(table: Table) -> list[Row]:
    """Quantiles of the reward of the rules with each function of each operand."""
    width = len(UNARY)
    legs = [(operand, unary) for operand in NAMES for unary in UNARY]

    def read(left: tuple[int, int], right: tuple[int, int], joint: int) -> set[int]:
        return {one * width + of for one, of in ([left] if joint == _LEFT else [left, right])}

    rows = _by(table, [f"{unary} of {operand}" for operand, unary in legs], read)
    return [{**row, "operand": one, "unary": of} for row, (one, of) in zip(rows, legs, strict=True) if row["rules"]]


_Parts = Callable[[tuple[int, int], tuple[int, int], int], Iterable[int]]
"""From two legs, operand and function, and what joins them, to the groups that a rule belongs to."""


def _by(table: Table, names: Sequence[str], parts: _Parts) -> list[Row]:
    rewards = table.rewards[table.brief.classes]
    members: list[list[int]] = [[] for _ in names]
    for place, sentence in enumerate(table.sentences[table.brief.classes].tolist()):
        left, right, of_left, of_right, joint = sentence
        for group in parts((left, of_left), (right, of_right), joint):
            members[group].append(place)
    adam = reward_of_adam(table)
    return [{"name": name, **_described(rewards[places], adam)} for name, places in zip(names, members, strict=True)]


def _described(rewards: Numbers, adam: float) -> Row:
    if not len(rewards):
        return {"rules": 0}
    with np.errstate(divide="ignore"):
        near = (-np.log(rewards) <= -NEAR * np.log(adam)).mean()
    return {
        "rules": len(rewards),
        **{name: float(np.quantile(rewards, share)) for name, share in _QUANTILES.items()},
        "near Adam": float(near),
        "above Adam": float((rewards > adam).mean()),
    }


def reward_of_adam(table: Table) -> float:
    """The reward of plain Adam."""
    return float(table.rewards[known_classes(table)["adam"]])


# ---- known optimizers, and rates


def known_classes(table: Table) -> dict[str, int]:
    """The class of each known optimizer that has a sentence of one group."""
    found = {name: table.class_of(SPACE.decode(text)) for name, text in SENTENCES.items() if SEPARATOR not in text}
    return {name: number for name, number in found.items() if number is not None}


def known(table: Table) -> list[Row]:
    """Where the known optimizers stand: briefly trained, longer, and with fresh seeds; the best first."""
    rows = []
    for name, number in known_classes(table).items():
        brief, long, fresh = (_row(found, number) for found in (table.brief, table.known, table.known_fresh))
        loss = float(table.known.best[long])
        mean, low, high = paired(table.known_fresh.losses[fresh, 0])
        rows.append(
            {
                "name": name,
                "rank": int(table.ranks[number]),
                "loss": float(table.brief.best[brief]),
                "rate": float(table.brief.rates[brief, table.brief.means[brief].argmin()]),
                "long rank": 1 + int((table.long.best < loss).sum()),
                "long loss": loss,
                "long rate": float(table.known.rates[long, table.known.means[long].argmin()]),
                "fresh loss": mean,
                "fresh interval": (low, high),
                "wide": int(widths(table.brief)[brief]),
                "long wide": int(widths(table.known)[long]),
            }
        )
    return sorted(rows, key=lambda row: row["rank"])


def _row(found: Results, number: int) -> int:
    return int(np.flatnonzero(found.classes == number)[0])


def widths(found: Results) -> npt.NDArray[np.int64]:
    """At how many rates each rule's loss is at most 1.1 times its best one."""
    counted: npt.NDArray[np.int64] = (found.means <= NEAR * found.best[:, None]).sum(1)
    return counted


def sensitivity(table: Table) -> list[Row]:
    """How the numbers of rates near the best one are distributed: among all that learned, and among the top."""
    brief = table.brief
    learned = _at(brief.accuracies.mean(-1), brief.means.argmin(1)) > LEARNED
    rows = []
    for name, chosen in (("learned", np.flatnonzero(learned)), (f"top {TOP:,}", np.argsort(brief.best)[:TOP])):
        shares = np.bincount(widths(brief)[chosen], minlength=brief.rates.shape[1] + 1) / len(chosen)
        rows.append(
            {
                "rules": name,
                "n": len(chosen),
                "median": float(np.median(widths(brief)[chosen])),
                **{str(width): float(share) for width, share in enumerate(shares) if width},
            }
        )
    return rows


# ---- how much of it is luck


def agreement(table: Table) -> list[Row]:
    """Rank correlations: between two seeds, by loss and by accuracy, and between brief and long training.

    A top that was chosen by the sum of two seeds correlates them negatively, as what is lucky on one need not be good
    on the other. The means of four fresh seeds and of four others owe nothing to the choice.
    """
    rows = []
    for name, found in (("brief", table.brief), ("long", table.long)):
        best, order = found.means.argmin(1), np.argsort(found.best, kind="stable")
        for measure, values in (("loss", found.losses), ("accuracy", found.accuracies)):
            seeds = values[np.arange(len(best)), best]
            for which, chosen in (("all", order), (f"top {TOP:,}", order[:TOP])):
                rows.append(
                    {
                        "of": f"two seeds, {name}",
                        "by": measure,
                        "rules": which,
                        "n": len(chosen),
                        "spearman": correlation(seeds[chosen, 0], seeds[chosen, 1]),
                    }
                )
    for measure, values in (("loss", table.fresh.losses[:, 0]), ("accuracy", table.fresh.accuracies[:, 0])):
        half = values.shape[1] // 2
        rows.append(
            {
                "of": f"{half} fresh seeds and {half} others, long",
                "by": measure,
                "rules": f"top {TOP:,}",
                "n": len(values),
                "spearman": correlation(values[:, :half].mean(1), values[:, half:].mean(1)),
            }
        )
    brief = table.brief.best[np.searchsorted(table.brief.classes, table.long.classes)]
    order = np.argsort(brief, kind="stable")
    for which, chosen in (("the best quarter", order), (f"top {TOP:,} when brief", order[:TOP])):
        rows.append(
            {
                "of": "brief and long",
                "by": "loss",
                "rules": which,
                "n": len(chosen),
                "spearman": correlation(brief[chosen], table.long.best[chosen]),
            }
        )
    return rows


def fresh_losses(table: Table) -> tuple[npt.NDArray[np.int64], Numbers]:
    """The classes that were trained with fresh seeds, the known ones among them, and losses, classes x seeds."""
    beside = ~np.isin(table.known_fresh.classes, table.fresh.classes)
    classes = np.concatenate([table.fresh.classes, table.known_fresh.classes[beside]])
    return classes, np.concatenate([table.fresh.losses[:, 0], table.known_fresh.losses[beside, 0]])


def tiers(table: Table) -> list[Row]:
    """The rules trained with fresh seeds in tiers, the best first.

    A rule belongs to a tier as long as the 95 % interval of its paired difference to the tier's first contains 0 (t,
    over seeds, not corrected for how many are compared); else it opens the next.
    """
    classes, losses = fresh_losses(table)
    named = {number: name for name, number in known_classes(table).items()}
    rows: list[Row] = []
    tier, first = 0, losses[0]
    for place in np.argsort(losses.mean(1), kind="stable"):
        own = losses[place]
        if not rows or not _is_level(own, first):
            tier, first = tier + 1, own
        finite = bool(np.isfinite(own).all())
        mean, low, high = paired(own) if finite else (np.inf, np.inf, np.inf)
        number = int(classes[place])
        rows.append(
            {
                "class": number,
                "name": table.name(number),
                "known": named.get(number),
                "tier": tier,
                "loss": mean,
                "interval": (low, high),
                "behind": paired(own - first) if finite else (np.inf, np.inf, np.inf),
            }
        )
    return rows


def _is_level(own: Numbers, first: Numbers) -> bool:
    if not (np.isfinite(own).all() and np.isfinite(first).all()):
        return not np.isfinite(own).all() and not np.isfinite(first).all()
    _, low, high = paired(own - first)
    return low <= 0 <= high


def optimism(table: Table, tops: Sequence[int] = (10, 100, TOP)) -> list[Row]:
    """How much better the best look with the seeds that selected them than with fresh ones: medians of losses."""
    places = [_row(table.long, number) for number in table.fresh.classes.tolist()]
    selected, again = table.long.best[places], table.fresh.best
    rows = []
    for top in tops:
        chosen = np.argsort(selected, kind="stable")[:top]
        rows.append(
            {
                "top": top,
                "selected": float(np.median(selected[chosen])),
                "fresh": float(np.median(again[chosen])),
                "spearman": correlation(selected[chosen], again[chosen]),
            }
        )
    return rows


# ---- other children


def transfers(table: Table) -> list[Row]:
    """Rank correlations between the proxy, briefly and longer trained, and each other child."""
    proxies = {"brief": table.brief, "long": table.long}
    rows = []
    for child, transfer in table.transfers.items():
        for name, found in proxies.items():
            losses = np.full(len(table.sentences), np.nan)
            losses[found.classes] = found.best
            for which, value in correlations(losses, transfer).items():
                rows.append({"child": child, "proxy": name, "rules": which, "spearman": value})
    return rows


def edges(table: Table) -> list[Row]:
    """Of how many sampled rules the best rate on another child was the lowest or the highest one tried."""
    rows = []
    for child, transfer in table.transfers.items():
        found = transfer.results
        best = found.means[transfer.strata != KNOWN].argmin(1)
        lowest, highest = (best == 0).mean(), (best == found.rates.shape[1] - 1).mean()
        rows.append({"child": child, "n": len(best), "lowest": float(lowest), "highest": float(highest)})
    return rows
