"""The pages of what is measured at a solution: eigenvalues, traces, densities, sharpness, rescaling."""

from __future__ import annotations

from descend.report import diagnosis_charts as charts
from descend.report.diagnosis_measures import Density, Sharpness, Spectrum
from descend.report.diagnosis_parts import Part, Table, answer, conditions, drawn, interval, value, with_notes
from descend.report.diagnosis_results import Diagnosis
from descend.report.formats import number, rate

_UNCONVERGED = " (not converged)"


def eigenvalues(results: Diagnosis) -> list[Part]:
    """Eigenvalues with their residuals."""
    if not results.spectra:
        return []
    rows, points, settings = [], [], []
    for hue, one in enumerate(results.spectra):
        for place, (found, residual) in enumerate(zip(one.values, one.residuals, strict=True), 1):
            title = f"{one.which} {place}, {_matrix(one)}"
            settings.append(one.setting)
            rows.append(
                [
                    title,
                    value(found),
                    value(residual),
                    answer(one.converged),
                    f"{100 * one.rtol:.3g} %",
                    f"{one.products:,}",
                    "–" if one.threshold is None or one.which != "largest" else number(one.threshold),
                ]
            )
            if found is not None:
                reach = residual or 0.0
                mark = "" if one.converged else _UNCONVERGED
                points.append(charts.Row(title + mark, found, found - reach, found + reach, hue))
    heads = ["eigenvalue", "value", "residual", "converged", "asked for", "products", "stable below"]
    return [
        Part(
            "Extreme eigenvalues",
            _extreme(results.spectra[0]),
            drawn(("Eigenvalues, each ± its residual", charts.rows(points, "Eigenvalues, each within its residual"))),
            [with_notes(Table("", heads, rows), settings)],
            [
                *conditions([(f"{one.which}, {_matrix(one)}", one.setting) for one in results.spectra]),
                "Products are of the matrix with a vector, for all eigenvalues of a search together.",
            ],
        )
    ]


def _matrix(one: Spectrum) -> str:
    return one.matrix if one.setting.mode != "train" else f"{one.matrix}, batch statistics"


def _extreme(one: Spectrum) -> str:
    first = one.values[0] if one.values else None
    if first is None:
        return f"{one.which} of the {one.matrix} not finite"
    reach = f" ± {number(one.residuals[0])}" if one.residuals[0] is not None else ""
    return f"{one.which} of the {one.matrix} {number(first)}{reach}{'' if one.converged else _UNCONVERGED}"


def trace(results: Diagnosis) -> list[Part]:
    """Traces with their intervals."""
    if not results.traces:
        return []
    names = [f"{one.matrix}, {one.method}" for one in results.traces]
    rows = [
        [
            name,
            value(one.value),
            value(one.standard_error),
            interval(one.low, one.high),
            answer(one.converged),
            f"{one.samples:,}",
            f"{one.products:,}",
        ]
        for name, one in zip(names, results.traces, strict=True)
    ]
    matrices = list(dict.fromkeys(one.matrix for one in results.traces))
    points = [
        charts.Row(
            name + ("" if one.converged else _UNCONVERGED),
            one.value,
            _or(one.low, one.value),
            _or(one.high, one.value),
            matrices.index(one.matrix),
        )
        for name, one in zip(names, results.traces, strict=True)
        if one.value is not None
    ]
    first = results.traces[0]
    found = f"{value(first.value)} ± {value(first.standard_error)}{'' if first.converged else _UNCONVERGED}"
    heads = ["matrix, method", "trace", "standard error", "95 % interval", "converged", "samples", "products"]
    settings = [one.setting for one in results.traces]
    return [
        Part(
            "Traces",
            f"of the {first.matrix} {found}",
            drawn(("Traces with their 95 % intervals", charts.rows(points, "Traces with their 95 % intervals"))),
            [with_notes(Table("", heads, rows), settings)],
            conditions(list(zip(names, settings, strict=True))),
        )
    ]


def density(results: Diagnosis) -> list[Part]:
    """Densities with their bands, and their moments."""
    return [_density(one) for one in results.densities]


def _density(one: Density) -> Part:
    rows = [
        [str(power), value(found), value(error)]
        for power, (found, error) in enumerate(zip(one.moments, one.moment_errors, strict=True), 1)
    ]
    matrix = "" if "Hessian" in one.matrix else " matrix"
    share = "" if one.negative_share is None else f"{100 * one.negative_share:.2g} % of the eigenvalues lie below 0"
    made = (
        f"{one.draws:,} draws of {one.steps:,} steps, {one.products:,} products. Each eigenvalue is drawn as a "
        f"Gaussian with the standard deviation {number(one.width)}; the dotted line is as high as one eigenvalue "
        "alone, and what lies far below that is not drawn."
    )
    return Part(
        f"Spectral density of the {one.matrix}{matrix}",
        f"{share} ({one.matrix})" if share else "measured",
        drawn(("Density, mean of the draws with its 95 % interval", charts.density(one))),
        [Table("", ["mean of the eigenvalues to the power", "value", "standard error"], rows)],
        [*([f"{share}."] if share else []), made, *conditions([("", one.setting)])],
    )


def sharpness(results: Diagnosis) -> list[Part]:
    """All measures of sharpness, those in per cent apart from those in loss."""
    return [
        _sharpness([one for one in results.sharpness if one.unit == unit], unit, title)
        for unit, title in (("%", "Keskar's box"), ("loss", "Worst case in a ball, average under noise"))
        if any(one.unit == unit for one in results.sharpness)
    ]


def _sharpness(found: list[Sharpness], unit: str, title: str) -> Part:
    rows = [
        [
            _measure(one),
            f"{value(one.value)}{' %' if unit == '%' and one.value is not None else ''}",
            interval(one.low, one.high),
            f"{one.trials:,}",
            answer(one.stalled),
            "; ".join(one.invariances) or "nothing",
        ]
        for one in found
    ]
    points = [
        charts.Row(
            _measure(one) + (" (stalled)" if one.stalled else ""),
            one.value,
            _or(one.low, one.value),
            _or(one.high, one.value),
            _hue(one),
        )
        for one in found
        if one.value is not None
    ]
    what = "Rise of the loss, in per cent of 1 + loss" if unit == "%" else "Rise of the loss"
    heads = ["measure", "sharpness" if unit == "%" else "rise of the loss", "95 % interval", "trials", "stalled"]
    settings = [one.setting for one in found]
    return Part(
        title,
        f"{_measure(found[0])}: {rows[0][1]}{' (stalled)' if found[0].stalled else ''}",
        drawn((f"{what}, with 95 % intervals where something is drawn", charts.rows(points, title))),
        [with_notes(Table("", [*heads, "unchanged by"], rows, frozenset({0, 5})), settings)],
        [
            *conditions([(_measure(one), one.setting) for one in found]),
            *(
                ["A search that stalled stopped where it began: the sharpness may be far larger."]
                if _stalls(found)
                else []
            ),
        ],
    )


def _stalls(found: list[Sharpness]) -> bool:
    return any(one.stalled for one in found)


def _or(end: float | None, otherwise: float) -> float:
    return otherwise if end is None else end


def _hue(one: Sharpness) -> int:
    return 0 if one.eta is None else 1 if one.eta else 2


def _measure(one: Sharpness) -> str:
    kind = "" if one.unit == "%" else ", plain" if one.eta is None else f", adaptive, eta {rate(one.eta)}"
    logits = "" if one.logits == "as they are" else ", unit logits"
    return f"{one.measure}{kind}, {'eps' if one.unit == '%' else 'rho'} {rate(one.size)}{logits}"


def rescaling(results: Diagnosis) -> list[Part]:
    """Measures of the same function at other weights."""
    found = results.rescaling
    if found is None or not found.rows:
        return []
    names = list(dict.fromkeys(name for row in found.rows for name in row.measures))
    rows = [
        [
            rate(row.alpha),
            value(row.function_change),
            *(value(row.measures[name]) if name in row.measures else "–" for name in names),
        ]
        for row in found.rows
    ]
    chart = charts.rescaling(found)
    caption = "Measures relative to those at alpha 1; dashed those that rescaling leaves as they are"
    return [
        Part(
            f"Layers {' and '.join(found.layers)} rescaled against each other",
            _moved(names, [row.measures for row in found.rows]),
            [] if chart is None else [(caption, chart[0])],
            [Table("", ["alpha", "change of the outputs", *names], rows)],
            [
                "The change of the outputs is the largest, relative to the largest output.",
                *conditions([("", found.setting)]),
            ],
            [] if chart is None else chart[1],
        )
    ]


def _moved(names: list[str], measures: list[dict[str, float | None]]) -> str:
    """How far the first measure moves that has numbers."""
    for name in names:
        known = [number_ for row in measures if (number_ := row.get(name)) is not None]
        if known:
            return f"{name} {number(min(known))} to {number(max(known))}"
    return "not finite"
