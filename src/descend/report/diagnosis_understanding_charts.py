"""The charts of memorization, single directions, symmetry and alignment."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from descend.report.curve_charts import Curve, Dots, curves, dots
from descend.report.diagnosis_charts import SMALL
from descend.report.diagnosis_understanding import Aligned, Disturbed, Memorized, Symmetry, UnitLayer
from descend.report.formats import number

_SHARES = (0.0, 1.0)
"""What an axis of accuracies always holds."""


def memorization(found: Sequence[Memorized]) -> Markup | None:
    """The training accuracy by epoch, a line for each share of new labels."""
    lines = [
        Curve(renewed(one), _column(one.way, 0), _column(one.way, 2), hue) for hue, one in enumerate(found) if one.way
    ]
    return curves(lines, "epoch", "Training accuracy", always=_SHARES, frame=SMALL)


def renewed(found: Memorized) -> str:
    """How many labels were drawn anew, in words."""
    return f"{100 * found.share:.3g} % of the labels new"


def epochs_to_fit(found: Sequence[Memorized]) -> Markup | None:
    """How many epochs it took to fit every label, against the share of wrong ones; hollow where they were too few."""
    taken = [one.epochs if one.epochs_to_fit is None else one.epochs_to_fit for one in found]
    unfitted = frozenset(place for place, one in enumerate(found) if one.epochs_to_fit is None)
    said = "; ".join(
        f"wrong share {number(one.wrong_share)} {f'not in {one.epochs:,}' if place in unfitted else f'{epochs:,}'}"
        for place, (one, epochs) in enumerate(zip(found, taken, strict=True))
    )
    points = Dots([one.wrong_share for one in found], [float(one) for one in taken], range(len(found)), unfitted)
    return dots(points, "share of wrong labels", f"Epochs to fit: {said}.", always=(0.0,), joined=True)


def disturbed(found: Sequence[Disturbed], across: str) -> Markup | None:
    """Accuracy against how much units are disturbed, with the bands of the 95 % intervals."""
    lines = [Curve(one.how, one.amounts, one.means, hue, one.lows, one.highs) for hue, one in enumerate(found)]
    return curves(lines, across, "Training accuracy", always=_SHARES)


def selectivity(found: UnitLayer, hue: int) -> Markup | None:
    """By how much the training loss rises without each unit, against its class selectivity."""
    known = known_units(found)
    points = Dots([one for one, _ in known], [rise for _, rise in known], (hue,))
    tau = "no Kendall's tau" if found.tau is None else f"Kendall's tau {number(found.tau)}"
    label = f"Layer {found.layer}: importance against selectivity of {len(known)} units, {tau}."
    return dots(points, "class selectivity", label, across_always=_SHARES)


def known_units(found: UnitLayer) -> list[tuple[float, float]]:
    """Selectivity and importance of the units that have both."""
    pairs = zip(found.selectivity, found.importance, strict=True)
    return [(one, rise) for one, rise in pairs if one is not None and rise is not None]


def widths(found: Symmetry) -> Markup | None:
    """The logarithm of the number of equivalent weights, against how much wider all layers are."""
    line = Curve("log10 of the number", _column(found.widths, 0), _column(found.widths, 1))
    return curves([line], "times as wide", "Equivalent weights", log=False)


def alignment(found: Sequence[Aligned]) -> tuple[Markup | None, list[tuple[str, int, bool]]]:
    """The loss on straight lines between two solutions, before and after alignment; and which line is which.

    What it is before does not depend on the method, and is drawn once where it is the same for all.
    """
    first, second = found[0].ends
    is_same = len({(tuple(one.amounts), tuple(one.losses_before)) for one in found}) == 1
    lines = [
        Curve("before" if is_same else f"before, for {one.method}", one.amounts, one.losses_before, hue)
        for hue, one in enumerate(found[:1] if is_same else found)
    ]
    lines += [
        Curve(
            f"after, by {one.method}{'' if one.converged else ' (not converged)'}",
            one.amounts,
            one.losses_after,
            len(lines) + place,
        )
        for place, one in enumerate(found)
    ]
    chart = curves(lines, f"0: {first}; 1: {second}", "Loss between the solutions", log=None)
    return chart, [] if chart is None else [(line.title, line.hue, False) for line in lines]


def _column(rows: Sequence[Sequence[float]], place: int) -> list[float]:
    return [row[place] for row in rows]
