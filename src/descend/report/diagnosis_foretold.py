"""The page of measures that are said to foretell the generalization gap, and of how they order gaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from descend.report import diagnosis_charts as charts
from descend.report.diagnosis_parts import Part, Table, conditions, drawn, interval, value, with_notes
from descend.report.diagnosis_results import Diagnosis
from descend.report.diagnosis_understanding import MeasuredNetwork, Ranked
from descend.report.formats import count, number, plain

_COLUMNS = 4
"""Networks, up to which each has a column of its own."""


def measures(results: Diagnosis) -> list[Part]:
    """Whether measures order the gaps of a population, and what they are for each solution."""
    parts = [_ranked(results.rankings)] if results.rankings else []
    return parts + ([_measured(results.measures)] if results.measures else [])


def _ranked(found: list[Ranked]) -> Part:
    names = list(dict.fromkeys(axis.name for one in found for axis in one.axes))
    rows = [
        [
            one.measure,
            "not defined" if one.psi is None else number(one.psi),
            interval(one.low, one.high),
            *(_tau(one, name) for name in names),
        ]
        for one in found
    ]
    heads = ["measure", "Psi", "95 % interval", *(f"tau, {name}" for name in names)]
    sentences = [[one.measure, one.formula, one.sentence] for one in found]
    ordered = sorted(_points(found), key=lambda row: -row.value)
    undefined = sum(one.psi is None for one in found)
    pairs = {axis.name: axis.pairs for one in found for axis in one.axes}
    said = [
        "Psi is the mean of Kendall's tau over hyper-parameters, from -1, every pair the wrong way round, to 1; pairs "
        "are of networks that differ in one hyper-parameter alone. Brackets are 95 % intervals, by the bootstrap.",
        "Of several measures the best looks better than it is: each interval is of one measure alone.",
    ]
    if pairs:
        said.append(f"Pairs: {', '.join(f'{name} {number_:,}' for name, number_ in pairs.items())}.")
    if undefined:
        said.append(f"Not drawn: {count(undefined, 'measure')} that some networks have no value of.")
    return Part(
        f"How measures order the gaps of {found[0].networks:,} networks",
        f"highest Psi {_highest(ordered[0])}" if ordered else "no measure is defined for all networks",
        drawn(
            (
                "Psi of each measure with its 95 % interval",
                charts.rows(ordered, "Psi with its 95 % interval", always=(-1.0, 1.0)),
            )
        ),
        [
            Table("Psi and tau", heads, rows),
            Table("What came of each", ["measure", "formula", "what came of it"], sentences, frozenset({0, 1, 2})),
        ],
        said,
    )


def _points(found: Sequence[Ranked]) -> list[charts.Row]:
    return [
        charts.Row(one.measure, one.psi, one.low, one.high)
        for one in found
        if one.psi is not None and one.low is not None and one.high is not None
    ]


def _highest(row: charts.Row) -> str:
    return f"{number(row.value)} ({interval(row.low, row.high)}), {row.title}"


def _tau(found: Ranked, name: str) -> str:
    own = next((axis for axis in found.axes if axis.name == name), None)
    return "–" if own is None else f"{number(own.tau)} [{number(own.low)}, {number(own.high)}]"


def _measured(found: list[MeasuredNetwork]) -> Part:
    names = list(dict.fromkeys(name for one in found for name in one.measures))
    is_summary = len(found) > _COLUMNS
    first = found[0]
    gaps = [one.gap for one in found]
    line = f"gap of {first.setting.solution} {number(first.gap)}"
    if is_summary:
        line = f"gaps {number(min(gaps))} to {number(max(gaps))}, of {len(found):,} networks"
    return Part(
        "Measures of each network" if not is_summary else f"Measures of {len(found):,} networks",
        line,
        [],
        [_gaps(found), _summary(names, found) if is_summary else _columns(names, found), *_undefined(names, found)],
        [
            "The gap is the training accuracy less the test accuracy, the gap of the loss the test loss less the "
            "training loss; training is of the examples that instruments see.",
            "The larger a measure, the larger the gap is claimed to be.",
            *(["The measures of each network stand in diagnosis.json."] if is_summary else []),
            *_conditions(found),
        ],
    )


def _gaps(found: Sequence[MeasuredNetwork]) -> Table:
    settings = list(dict.fromkeys(name for one in found for name in one.settings))
    heads = ["network", *settings, "training accuracy", "test accuracy", "gap", "gap of the loss"]
    rows = [
        [
            one.setting.solution,
            *(plain(one.settings[name]) if name in one.settings else "–" for name in settings),
            number(one.train_accuracy),
            number(one.test_accuracy),
            number(one.gap),
            value(one.loss_gap),
        ]
        for one in found
    ]
    return with_notes(Table("Gaps", heads, rows), [one.setting for one in found])


def _columns(names: Sequence[str], found: Sequence[MeasuredNetwork]) -> Table:
    rows = [[name, *(_value(one, name) for one in found)] for name in names]
    return Table("Measures", ["measure", *(one.setting.solution for one in found)], rows)


def _value(one: MeasuredNetwork, name: str) -> str:
    if name not in one.measures:
        return "–"
    return "not defined" if name in one.undefined else value(one.measures[name])


def _summary(names: Sequence[str], found: Sequence[MeasuredNetwork]) -> Table:
    rows = []
    for name in names:
        known = [own for one in found if (own := one.measures.get(name)) is not None]
        ends = [number(pick(known)) for pick in (min, median, max)] if known else ["–"] * 3
        rows.append([name, *ends, f"{len(known):,} of {len(found):,}"])
    return Table("Measures", ["measure", "least", "median", "most", "known of"], rows)


def _undefined(names: Sequence[str], found: Sequence[MeasuredNetwork]) -> list[Table]:
    """Why measures are not defined: a row for each reason."""
    reasons: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for one in found:
        for name in names:
            if name in one.undefined:
                own = reasons.setdefault(one.undefined[name], ({}, {}))
                own[0][name] = own[1][one.setting.solution] = None
    rows = [
        [why, ", ".join(of), ", ".join(networks) if len(networks) <= _COLUMNS else f"{len(networks):,} networks"]
        for why, (of, networks) in reasons.items()
    ]
    return [Table("Not defined", ["why", "measures", "networks"], rows, frozenset({0, 1, 2}))] if rows else []


def _conditions(found: Sequence[MeasuredNetwork]) -> list[str]:
    """What was measured on: networks of one size together."""
    alike = [replace(one.setting, solution="each network") for one in found]
    return conditions([(f"of {one.parameters:,} weights", one) for one in alike])
