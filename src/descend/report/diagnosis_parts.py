"""What stands on the page of each instrument: charts and tables in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from descend.report import diagnosis_charts as charts
from descend.report import diagnosis_surfaces as surfaces
from descend.report.diagnosis_results import Diagnosis, Line, Setting, Sharpness, Surface, Watched
from descend.report.formats import number

_LARGE = 1e6


@dataclass(frozen=True)
class Part:
    """Charts with a table under them.

    Attributes:
        title: of the part.
        line: what it came to, in a few words.
        charts: with their captions.
        heads: of the table's columns.
        rows: of the table.
        setting: what was measured, in words.
        keys: of a chart's lines: name and colour.
    """

    title: str
    line: str
    charts: list[tuple[str, Markup]]
    heads: list[str]
    rows: list[list[str]]
    setting: str
    keys: list[tuple[str, int]] = field(default_factory=list)


def _charts(*found: tuple[str, Markup | None]) -> list[tuple[str, Markup]]:
    return [(caption, chart) for caption, chart in found if chart is not None]


def _setting(found: Setting) -> str:
    mode = "evaluation mode" if found.mode == "eval" else "training mode, with the statistics of each batch"
    decay = "without weight decay" if not found.weight_decay else f"weight decay {found.weight_decay:g} included"
    batches = f"{found.batches:,} batch{'' if found.batches == 1 else 'es'}"
    words = [
        f"{found.solution}; {mode}; {found.examples:,} examples in {batches}; {found.parameters:,} weights; {decay}",
        *found.notes,
    ]
    return ". ".join(f"{word[0].upper()}{word[1:]}" for word in words) + "."


def _number(value: float | None) -> str:
    return "not finite" if value is None else number(value)


def eigenvalues(results: Diagnosis) -> list[Part]:
    """Eigenvalues with their residuals."""
    if not results.spectra:
        return []
    rows, points = [], []
    for hue, one in enumerate(results.spectra):
        mode = "" if one.setting.mode == "eval" else ", batch statistics"
        for place, (value, residual) in enumerate(zip(one.values, one.residuals, strict=True), 1):
            title = f"{one.which} {place}, {one.matrix}{mode}"
            state = "yes" if one.converged else "no"
            rows.append(
                [title, _number(value), _number(residual), state, f"{one.products:,}", _threshold(one.threshold)]
            )
            if value is not None:
                reach = residual or 0.0
                points.append(charts.Row(title, value, value - reach, value + reach, hue))
    first = results.spectra[0]
    chart = charts.rows(points, "Eigenvalues, each within its residual")
    line = f"largest {_number(first.values[0] if first.values else None)}"
    heads = ["eigenvalue", "value", "within", "converged", "products", "stable below"]
    return [
        Part(
            "Extreme eigenvalues",
            line,
            _charts(("Eigenvalues, each ± its residual", chart)),
            heads,
            rows,
            _setting(first.setting),
        )
    ]


def _threshold(value: float | None) -> str:
    return "–" if value is None else number(value)


def trace(results: Diagnosis) -> list[Part]:
    """Traces with their intervals."""
    if not results.traces:
        return []
    rows = [
        [
            f"{one.matrix}, {one.method}",
            _number(one.value),
            _number(one.standard_error),
            _interval(one.low, one.high),
            "yes" if one.converged else "no",
            f"{one.samples:,}",
            f"{one.products:,}",
        ]
        for one in results.traces
    ]
    points = [
        charts.Row(f"{one.matrix}, {one.method}", one.value, one.low, one.high, place)
        for place, one in enumerate(results.traces)
        if one.value is not None and one.low is not None and one.high is not None
    ]
    chart = charts.rows(points, "Traces with their 95 % intervals")
    first = results.traces[0]
    heads = ["matrix, method", "trace", "standard error", "95 % interval", "converged", "samples", "products"]
    line = f"{_number(first.value)} ± {_number(first.standard_error)}"
    return [Part("Traces", line, _charts(("95 % intervals", chart)), heads, rows, _setting(first.setting))]


def _interval(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{number(low)} to {number(high)}"


def density(results: Diagnosis) -> list[Part]:
    """Densities with their bands, and their moments."""
    parts = []
    for one in results.densities:
        rows = [
            [f"{power}", _number(value), _number(error)]
            for power, (value, error) in enumerate(zip(one.moments, one.moment_errors, strict=False), 1)
        ]
        matrix = "" if "Hessian" in one.matrix else " matrix"
        share = "" if one.negative_share is None else f"{100 * one.negative_share:.1f} % of the eigenvalues lie below 0"
        caption = (
            f"{one.draws} draws of {one.steps} steps, smoothed by {number(one.width)}; the band is a 95 % interval"
        )
        parts.append(
            Part(
                f"Spectral density of the {one.matrix}{matrix}",
                share or "measured",
                _charts((caption, charts.density(one))),
                ["moment", "mean", "standard error"],
                rows,
                f"{share}{'. ' if share else ''}{_setting(one.setting)}",
            )
        )
    return parts


def sharpness(results: Diagnosis) -> list[Part]:
    """All measures of sharpness, those in per cent apart from those in loss."""
    parts = []
    for unit, title in (("%", "Keskar's box"), ("loss", "In a ball")):
        found = [one for one in results.sharpness if one.unit == unit]
        if not found:
            continue
        rows = [
            [
                _measure(one),
                f"{_number(one.value)}{' %' if unit == '%' else ''}",
                _interval(one.low, one.high),
                f"{one.trials:,}",
                "yes" if one.stalled else "no",
                "; ".join(one.invariances) or "nothing",
            ]
            for one in found
        ]
        points = [
            charts.Row(_measure(one), one.value, _or(one.low, one.value), _or(one.high, one.value), _hue(one))
            for one in found
            if one.value is not None
        ]
        chart = charts.rows(points, f"{title}: sharpness with 95 % intervals")
        heads = [
            "measure",
            "value" if unit == "%" else "rise of the loss",
            "95 % interval",
            "trials",
            "stalled",
            "unchanged by",
        ]
        line = f"{_measure(found[0])}: {rows[0][1]}"
        parts.append(
            Part(
                title,
                line,
                _charts(("95 % intervals, where something is drawn", chart)),
                heads,
                rows,
                _setting(found[0].setting),
            )
        )
    return parts


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _hue(one: Sharpness) -> int:
    return 0 if one.eta is None else 1 if one.eta else 2


def _measure(one: Sharpness) -> str:
    kind = "" if one.unit == "%" else ", plain" if one.eta is None else f", adaptive, eta {one.eta:g}"
    logits = "" if one.logits == "as they are" else ", unit logits"
    size = "eps" if one.unit == "%" else "rho"
    return f"{one.measure}{kind}, {size} {one.size:g}{logits}"


def rescaling(results: Diagnosis) -> list[Part]:
    """Measures of the same function at other weights."""
    found = results.rescaling
    if found is None or not found.rows:
        return []
    names = list(found.rows[0].measures)
    rows = [
        [f"{row.alpha:g}", _number(row.function_change), *(_number(row.measures.get(name)) for name in names)]
        for row in found.rows
    ]
    drawn = charts.rescaling(found)
    caption = (
        f"Measures relative to those at alpha 1; dashed what is unchanged by rescaling {' against '.join(found.layers)}"
    )
    eigenvalues_ = [value for row in found.rows if (value := row.measures.get("largest eigenvalue")) is not None]
    line = (
        f"largest eigenvalue {number(min(eigenvalues_))} to {number(max(eigenvalues_))}" if eigenvalues_ else "measured"
    )
    return [
        Part(
            f"Layers {' and '.join(found.layers)} rescaled against each other",
            line,
            [] if drawn is None else [(caption, drawn[0])],
            ["alpha", "change of the outputs", *names],
            rows,
            _setting(found.setting),
            [] if drawn is None else drawn[1],
        )
    ]


def slices(results: Diagnosis) -> list[Part]:
    """Slices through the first solution."""
    parts = [_line(one) for one in results.lines if not one.ends]
    return parts + [_surface(one) for one in results.surfaces if one.kind == "slice"]


def interpolation(results: Diagnosis) -> list[Part]:
    """Straight lines between solutions, and the plane through three."""
    parts = [_line(one) for one in results.lines if one.ends]
    return parts + [_surface(one) for one in results.surfaces if one.kind == "solutions"]


def trajectory(results: Diagnosis) -> list[Part]:
    """The way of training on its plane."""
    return [_surface(one) for one in results.surfaces if one.kind == "trajectory"]


def _line(found: Line) -> Part:
    barrier = "" if found.barrier is None else f"barrier {number(found.barrier)}"
    has_errors = bool(found.errors)
    rows = [
        [f"{amount:g}", _number(loss), *([_number(found.errors[place])] if has_errors else [])]
        for place, (amount, loss) in enumerate(zip(found.amounts, found.losses, strict=True))
    ]
    drawn = _charts(
        ("Loss", charts.line(found, found.losses, "Loss")),
        ("Error", charts.line(found, found.errors, "Error") if has_errors else None),
    )
    known = [loss for loss in found.losses if loss is not None]
    line = barrier or (f"loss {number(min(known))} to {number(max(known))}" if known else "not finite")
    ends = f"Amount 0 is {found.ends[0]}, amount 1 is {found.ends[1]}. " if found.ends else ""
    said = f"{ends}{_direction(found.direction, found.statistics)} {_setting(found.setting)}"
    return Part(_capital(found.title), line, drawn, ["amount", "loss", *(["error"] if has_errors else [])], rows, said)


def _surface(found: Surface) -> Part:
    known = [loss for row in found.losses for loss in row if loss is not None]
    line = f"loss {number(min(known))} to {number(max(known))}" if known else "not finite"
    drawn = _charts(
        ("From above, with lines of equal loss", surfaces.contours(found)),
        ("In perspective", surfaces.perspective(found)),
    )
    explained = ""
    if found.explained:
        shares = " and ".join(f"{100 * share:.0f} %" for share in found.explained)
        explained = f"The two directions hold {shares} of the way's squared distances from its end. "
    rows = [[point.name, number(point.x), number(point.y)] for point in found.points]
    said = f"{explained}{_direction(found.direction, found.statistics)} {_setting(found.setting)}"
    return Part(_capital(found.title), line, drawn, ["point", found.x_title or "x", found.y_title or "y"], rows, said)


def _direction(direction: str, statistics: str) -> str:
    words = {
        "none": "",
        "fixed": " The statistics of batch normalization are the solution's.",
        "recomputed": " The statistics of batch normalization are computed anew at every point.",
    }
    return f"{_capital(direction)}.{words[statistics]}"


def _capital(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"


def training(results: Diagnosis) -> list[Part]:
    """What was measured while the first solution was trained."""
    parts = []
    for one in results.training:
        drawn = _charts(
            *(
                (
                    charts.QUANTITIES[name],
                    charts.series(
                        one.quantities[name],
                        charts.QUANTITIES[name],
                        one.steps,
                        one.threshold if "eigen" in name else (),
                    ),
                )
                for name in charts.known(one.quantities)
            ),
            ("Training loss of single batches", charts.losses(one)),
        )
        rows = [
            [charts.QUANTITIES[name], f"{len(one.quantities[name]):,}", _last(one.quantities[name])]
            for name in charts.known(one.quantities)
        ]
        overhead = f"{100 * one.overhead:.2f} % of the training's time"
        said = (
            f"{one.optimizer} at a peak rate of {one.rate:g}, {one.steps:,} steps. Watching took {overhead}; "
            f"the ceiling is "
            f"{100 * one.ceiling:g} %. Bars are 95 % intervals, of eigenvalues twice their residuals; hollow "
            f"points did not "
            "converge; dashed is the threshold of stability."
        )
        parts.append(Part(f"Training of {one.solution}", overhead, drawn, ["quantity", "measured", "last"], rows, said))
    return parts


def _last(found: Sequence[Watched]) -> str:
    return _number(found[-1].value) if found else "–"


Make = Callable[[Diagnosis], list[Part]]
PARTS: Mapping[str, tuple[str, str, str, Make]] = {
    "eigenvalues": (
        "Eigenvalues",
        "The curvature of the loss along its steepest directions. Along an eigenvector of the Hessian with "
        "the value c the "
        "loss rises by c/2 times the squared distance; gradient descent at the rate r is stable along it "
        "while c is below "
        "2/r. Gauss-Newton is the part of the Hessian that comes from the curvature of the loss in the outputs.",
        "Lanczos 1950; Cohen et al. 2021, arXiv:2103.00065; 2022, arXiv:2207.14484",
        eigenvalues,
    ),
    "trace": (
        "Trace",
        "The sum of all eigenvalues: how much the loss rises on average under noise of the same size in every weight.",
        "Hutchinson 1990; Meyer et al. 2021, arXiv:2010.09649",
        trace,
    ),
    "density": (
        "Spectral density",
        "How many directions have which curvature: most have hardly any, a few stand out. The scale is logarithmic.",
        "Ghorbani, Krishnan & Xiao 2019, arXiv:1901.10159",
        density,
    ),
    "sharpness": (
        "Sharpness",
        "How far the loss rises near the solution: at worst in a box or a ball, or on average under noise. Adaptive "
        "measures move each weight in proportion to its size.",
        "Keskar et al. 2017, arXiv:1609.04836; Kwon et al. 2021, arXiv:2102.11600; Andriushchenko et al. "
        "2023, arXiv:2302.07011",
        sharpness,
    ),
    "rescaling": (
        "Rescaling",
        "The same function at other weights: one layer is multiplied by alpha, the next one divided by it. "
        "What a measure "
        "does here, it does without any change of what the network computes.",
        "Dinh et al. 2017, arXiv:1703.04933",
        rescaling,
    ),
    "slices": (
        "Slices",
        "The training loss on a line and on a plane of random directions through the solution, which is at "
        "0. At an amount "
        "of 1 every filter has moved by its own length.",
        "Li et al. 2018, arXiv:1712.09913",
        slices,
    ),
    "interpolation": (
        "Interpolation",
        "The loss on straight lines between weights. A barrier is how far it rises above the line between "
        "its ends: where "
        "there is none, the two can be averaged.",
        "Goodfellow et al. 2015, arXiv:1412.6544; Frankle et al. 2020, arXiv:1912.05671; Garipov et al. "
        "2018, arXiv:1802.10026",
        interpolation,
    ),
    "trajectory": (
        "Trajectory",
        "The way of training, projected on the plane of its two principal directions through its end, over "
        "the loss there.",
        "Li et al. 2018, arXiv:1712.09913, section 7",
        trajectory,
    ),
    "training": (
        "In training",
        "What was measured while the first solution was trained, as often as a share of its time allowed.",
        "McCandlish et al. 2018, arXiv:1812.06162; Cohen et al. 2021, arXiv:2103.00065",
        training,
    ),
}
"""Title, lead, source and content of each instrument's page."""
