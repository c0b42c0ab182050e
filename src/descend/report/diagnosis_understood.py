"""The pages of memorization, single directions and symmetry. Those of measures are in `diagnosis_foretold`."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from descend.report import diagnosis_understanding_charts as charts
from descend.report.diagnosis_parts import (
    STATISTICS,
    Part,
    Table,
    answer,
    capital,
    conditions,
    drawn,
    interval,
    value,
    with_notes,
)
from descend.report.diagnosis_results import Diagnosis
from descend.report.diagnosis_understanding import Aligned, Disturbed, Memorized, Symmetry, UnitLayer
from descend.report.formats import listing, number, plain, rate


def memorization(results: Diagnosis) -> list[Part]:
    """Trainings on labels some of which are drawn anew, and the most suspicious of the true ones."""
    found = results.memorization
    if not found:
        return []
    ways = list(dict.fromkeys(by for one in found for by in one.precision))
    heads = ["share of new labels", "wrong labels", "expected", "epochs", "epochs to fit", "training accuracy"]
    rows = [
        [
            rate(one.share),
            number(one.wrong_share),
            number(one.expected_wrong_share),
            f"{one.epochs:,}",
            _epochs(one),
            number(one.train_accuracy),
            value(one.validation_accuracy),
            *(number(one.precision.get(by)) for by in ways),
        ]
        for one in found
    ]
    heads += [f"validation {results.subject.metric}", *(f"precision of suspects by {by}" for by in ways)]
    overview = with_notes(Table("", heads, rows), [one.setting for one in found])
    names = [charts.renewed(one) for one in found]
    # Only of the labels as they are it is not known which are wrong.
    suspects = [_suspects(one) for one in found if one.share == 0 and one.suspects]
    steps = [
        Table(
            f"Epoch by epoch, {name}",
            ["epoch", "training loss", "training accuracy"],
            [[f"{epoch:,.0f}", number(loss), number(right)] for epoch, loss, right in one.way],
        )
        for name, one in zip(names, found, strict=True)
        if one.way
    ]
    return [
        Part(
            "Trainings on labels some of which are drawn anew",
            _fitted(found),
            drawn(
                ("Training accuracy, on the labels that were given", charts.memorization(found)),
                (
                    "Epochs until every label is fitted",
                    charts.epochs_to_fit(found),
                ),
            ),
            [overview, *suspects, *steps],
            [
                *(
                    ["Hollow points are of trainings that ended before every label was fitted."]
                    if _ends_early(found)
                    else []
                ),
                "A label drawn anew may be the true one: expected is how many are wrong on average.",
                *_judged(ways),
                *(["Suspects are ordered by their mean loss over the epochs."] if suspects else []),
                *conditions([(name, one.setting) for name, one in zip(names, found, strict=True)]),
            ],
            [(charts.renewed(one), hue, False) for hue, one in enumerate(found) if one.way],
        )
    ]


def _ends_early(found: Sequence[Memorized]) -> bool:
    return any(one.epochs_to_fit is None for one in found)


def _judged(ways: Sequence[str]) -> list[str]:
    if not ways:
        return []
    return [
        "Precision is the share of wrong labels among as many suspects as there are wrong labels; drawn blindly, it "
        "would be the share of wrong labels."
    ]


def _epochs(one: Memorized) -> str:
    return f"not in {one.epochs:,}" if one.epochs_to_fit is None else f"{one.epochs_to_fit:,}"


def _fitted(found: Sequence[Memorized]) -> str:
    """What came of the fewest and of the most wrong labels."""
    first, *others = (f"{100 * one.wrong_share:.3g} %" for one in found)
    last = f"; {others[-1]}: {_epochs(found[-1])}" if others else ""
    return f"{first} wrong labels: {_epochs(found[0])} epochs to fit{last}"


def _suspects(one: Memorized) -> Table:
    rows = [
        [
            f"{each.place:,}",
            str(each.label),
            str(each.predicted),
            value(each.loss),
            "never" if each.learned is None else f"{each.learned:,}",
        ]
        for each in one.suspects
    ]
    heads = ["place in the data, from 0", "label", "usually predicted", "mean loss", "learned in epoch"]
    return Table("Suspects of the true labels", heads, rows)


def directions(results: Diagnosis) -> list[Part]:
    """Accuracy while units are clamped or made noisy, and what single units are for."""
    clamped = [one for one in results.directions if one.how != "noise"]
    noisy = [one for one in results.directions if one.how == "noise"]
    parts = [_disturbed(clamped, "Clamped units", "share of clamped units")] if clamped else []
    parts += [_disturbed(noisy, "Noise in all units", "noise, in deviations of the unit")] if noisy else []
    return parts + ([_units(results.units)] if results.units else [])


def _disturbed(found: list[Disturbed], title: str, across: str) -> Part:
    rows = [
        [one.how, number(one.area), interval(one.low, one.high), f"{one.draws:,}", f"{one.units:,}", f"{one.dead:,}"]
        for one in found
    ]
    heads = ["disturbance", "mean accuracy", "95 % interval", "draws", "units", "dead units, left out"]
    curves = [
        Table(
            f"Accuracy, {one.how}",
            [across, "training accuracy", "95 % interval"],
            [
                [rate(amount), number(mean), interval(low, high)]
                for amount, mean, low, high in zip(one.amounts, one.means, one.lows, one.highs, strict=True)
            ],
        )
        for one in found
    ]
    first = found[0]
    settings = [one.setting for one in found]
    return Part(
        title,
        f"mean accuracy {number(first.area)} ({interval(first.low, first.high)}), {first.how}",
        drawn((f"Training accuracy against the {across}, with 95 % intervals", charts.disturbed(found, across))),
        [with_notes(Table("", heads, rows), settings), *curves],
        [
            "The mean accuracy is the area under the curve, over the range of the amounts.",
            *conditions([(one.how, one.setting) for one in found]),
        ],
        [(one.how, hue, False) for hue, one in enumerate(found)] if len(found) > 1 else [],
    )


def _units(found: list[UnitLayer]) -> Part:
    rows = [
        [
            one.layer,
            f"{len(one.selectivity):,}",
            f"{one.dead:,}",
            _mean(one.selectivity),
            _mean(one.information),
            value(one.chance),
            "–" if one.tau is None else number(one.tau),
            interval(one.low, one.high),
        ]
        for one in found
    ]
    heads = ["layer", "units", "dead units, left out", "mean selectivity", "mean information", "by chance"]
    heads += ["Kendall's tau", "95 % interval"]
    settings = [one.setting for one in found]
    first = next((one for one in found if one.tau is not None), None)
    none = "no Kendall's tau of selectivity and importance"
    return Part(
        "Selectivity of units, and what they matter",
        none if first is None else f"layer {first.layer}: tau {number(first.tau)} ({interval(first.low, first.high)})",
        drawn(
            *(
                (f"Layer {one.layer}: importance against selectivity", chart)
                for hue, one in enumerate(found)
                for chart in (charts.selectivity(one, hue),)
            )
        ),
        [with_notes(Table("", heads, rows), settings), *map(_single, found)],
        [
            "Each unit is clamped to zero alone; its importance is by how much the training loss rises.",
            "Kendall's tau is of selectivity and importance, over units; its interval is by the bootstrap over these. "
            "A dash stands where there are too few units, or all are alike.",
            "Information is in nats; by chance is its mean with shuffled labels.",
            "Units are numbered from 0 in their order, dead ones left out. Selectivity is not defined where a mean is "
            "negative.",
            *conditions([(f"layer {one.layer}", one.setting) for one in found]),
        ],
    )


def _mean(found: Sequence[float | None]) -> str:
    known = [one for one in found if one is not None]
    return number(fmean(known)) if known else "not defined"


def _single(one: UnitLayer) -> Table:
    units = zip(one.selectivity, one.information, one.importance, strict=True)
    rows = [
        [f"{place:,}", "not defined" if selective is None else number(selective), value(informed), value(matters)]
        for place, (selective, informed, matters) in enumerate(units)
    ]
    return Table(f"Units of layer {one.layer}", ["unit", "selectivity", "information", "importance"], rows)


def symmetry(results: Diagnosis) -> list[Part]:
    """How many weights are the same function, and solutions before and after alignment."""
    parts = [_symmetry(results.symmetry)] if results.symmetry is not None else []
    ends = list(dict.fromkeys(tuple(one.ends) for one in results.alignments))
    return parts + [_aligned([one for one in results.alignments if tuple(one.ends) == pair]) for pair in ends]


def _symmetry(found: Symmetry) -> Part:
    twins = Table(
        "Other weights, the same function",
        ["how", "distance", "change of the outputs", "loss of the solution", "loss there"],
        [
            [one.how, number(one.distance), number(one.function_change), value(one.loss), value(one.twin_loss)]
            for one in found.twins
        ],
    )
    layers = Table(
        "Layers that are counted",
        ["layer", "units", "sign of each is free"],
        [[one.layer, f"{one.units:,}", answer(one.signs)] for one in found.layers],
    )
    wider = Table(
        "Were all layers wider",
        ["times as wide", "log10 of the number"],
        [[rate(width), number(log10)] for width, log10 in found.widths],
    )
    distinct = "All of these are different weights." if found.distinct else "Not all of these are different weights."
    return Part(
        "Weights that are the same function",
        f"10^{number(found.log10)} weight vectors are the same function",
        drawn(("log10 of the number of equivalent weights, against the width of the layers", charts.widths(found))),
        [table for table in (wider, twins, layers) if table.rows],
        [
            f"There are 10^{number(found.log10)} of them. {distinct}",
            found.counted,
            "The distance is relative to the length of the weight vector, the change of the outputs to the largest.",
            *conditions([("", found.setting)]),
        ],
    )


def _aligned(found: list[Aligned]) -> Part:
    first, second = found[0].ends
    chart, keys = charts.alignment(found)
    rows = [
        [
            one.method,
            number(one.before),
            number(one.after),
            value(one.barrier_before),
            value(one.barrier_after),
            answer(one.converged),
            ", ".join(one.fixed) or "none",
        ]
        for one in found
    ]
    heads = ["by", "likeness before", "likeness after", "barrier before", "barrier after", "converged"]
    heads.append("layers left in their order, the last among them")
    losses = [
        Table(
            f"Losses, by {one.method}",
            ["amount", "loss before", "loss after"],
            [
                [plain(amount), value(before), value(after)]
                for amount, before, after in zip(one.amounts, one.losses_before, one.losses_after, strict=True)
            ],
        )
        for one in found
    ]
    kinds = listing([f"by {one.method} {_LIKENESS[one.method]}" for one in found])
    best = found[0]
    return Part(
        f"{capital(first)} and {second}, aligned",
        f"barrier {value(best.barrier_before)} before, {value(best.barrier_after)} after alignment by {best.method}",
        drawn(("Loss on the straight line, before and after alignment", chart)),
        [with_notes(Table("", heads, rows, frozenset({0, 6})), [one.setting for one in found]), *losses],
        [
            f"Amount 0 is {first}, amount 1 is {second}, whose hidden units are put into the order of the other's.",
            f"Likeness is {kinds}.",
            "The barrier is how far the loss rises above the straight line between its ends.",
            *dict.fromkeys(STATISTICS[one.statistics].strip() for one in found),
            *conditions([(f"by {one.method}", one.setting) for one in found]),
        ],
        keys,
    )


_LIKENESS = {
    "weights": "the cosine of the two weight vectors",
    "activations": "the mean correlation of units in the same place",
}
