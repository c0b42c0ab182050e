"""The pictures of the map: charts from a `Table`, on white, in colours that the colour-blind can tell apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import altair as alt
import numpy as np

from descend.search.benchmark import Curves
from descend.search.map import analysis
from descend.search.map.stages import Results
from descend.search.map.table import Table
from descend.search.map.transfer import EDGES, KNOWN, stratum_name

WIDTH: Final = 560
_INK, _GREY, _ADAM = "#222222", "#8a8a8a", "#d55e00"
# Okabe and Ito's colours
_HUES: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#999933")
_SHOWN_TIERS: Final = 40
_TIER_NAMES: Final = ("1", "2", "3", "later")
_WORST: Final = 3.0  # what is worse, or diverged, is drawn there
_LOSSES: Final = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 4)
_REWARD: Final = "reward, exp(-cross-entropy in nats)"

Row = dict[str, Any]


def drawn(table: Table, curves: Mapping[str, Curves]) -> dict[str, Any]:
    """Every picture, by its name."""
    made = {
        "operands": operands(table),
        "parts": parts(table),
        "ranks": ranks(table),
        "rates": rates(table),
        "tiers": tiers(table),
        "policies": policies(curves),
    }
    if table.transfers:
        made["transfer"] = transfer(table)
    return {name: _styled(chart) for name, chart in made.items()}


def _styled(chart: Any) -> Any:
    return (
        chart.configure(background="white", padding=12)
        .configure_axis(
            labelFontSize=11, titleFontSize=12, titleFontWeight="normal", gridColor="#e4e4e4", labelLimit=260
        )
        .configure_legend(labelFontSize=11, titleFontSize=11, titleFontWeight="normal", labelLimit=260)
        .configure_title(fontSize=12, fontWeight="normal", anchor="start", color=_INK)
        .configure_view(stroke="#d0d0d0")
    )


def _data(rows: Iterable[Row]) -> Any:
    return alt.InlineData(list(rows))


# ---- what rules are made of


def operands(table: Table) -> Any:
    """Heat map: the 90 % quantile of the reward by the two operands."""
    rows = [row for found in analysis.by_pair(table) for row in _both_ways(found)]
    order, across = list(analysis.NAMES), [*analysis.NAMES, analysis.ALONE]
    x = alt.X("second:N", sort=across, title="the other operand", axis=alt.Axis(labelAngle=-45, orient="top"))
    y = alt.Y("first:N", sort=order, title="one operand")
    base = alt.Chart(_data(rows)).encode(x=x, y=y)
    color = alt.Color(
        "q90:Q",
        scale=alt.Scale(scheme="viridis", domain=[0.1, 0.8]),
        legend=alt.Legend(title=["90 % quantile", "of reward"]),
    )
    text = base.mark_text(fontSize=9).encode(
        text=alt.Text("q90:Q", format=".2f"),
        color=alt.condition("datum.q90 < 0.5", alt.value("white"), alt.value("black")),
    )
    return (base.mark_rect().encode(color=color) + text).properties(width=WIDTH, height=480)


def _both_ways(row: Row) -> list[Row]:
    if row["second"] in (analysis.ALONE, row["first"]):
        return [row]
    return [row, {**row, "first": row["second"], "second": row["first"]}]


def parts(table: Table) -> Any:
    """Quantiles of the reward by operand, unary and binary function."""
    adam = analysis.reward_of_adam(table)
    found = {
        "operand": analysis.by_operand(table),
        "unary function": analysis.by_unary(table),
        "binary function": analysis.by_binary(table),
    }
    return alt.vconcat(*(_strips(title, rows, adam) for title, rows in found.items()), spacing=14)


def _strips(title: str, rows: Sequence[Row], adam: float) -> Any:
    rows = [{**row, "label": f"{row['name']}  ({row['rules']:,})"} for row in rows if row["rules"]]
    rows = sorted(rows, key=lambda row: -row["q90"])
    y = alt.Y("label:N", sort=[row["label"] for row in rows], title=f"{title} (rules)")
    scale = alt.Scale(domain=[0, 0.85])
    base = alt.Chart(_data(rows)).encode(y=y)

    def x(name: str) -> Any:
        return alt.X(f"{name}:Q", scale=scale, title=_REWARD)

    line = alt.Chart(_data([{"adam": adam}])).mark_rule(color=_ADAM, strokeDash=[4, 3]).encode(x=x("adam"))
    return alt.layer(
        line,
        base.mark_rule(color=_HUES[0], strokeWidth=1.5).encode(x=x("q10"), x2="q90:Q"),
        base.mark_bar(color=_HUES[0], height=7, opacity=0.55).encode(x=x("q25"), x2="q75:Q"),
        base.mark_tick(color="black", thickness=2, height=12).encode(x=x("median")),
        base.mark_point(color=_INK, shape="diamond", size=22, filled=True).encode(x=x("best")),
    ).properties(width=WIDTH - 40, height=alt.Step(17))


# ---- ranks and rates


def ranks(table: Table) -> Any:
    """The reward of every trained class by its rank, the known optimizers marked."""
    rewards = -np.sort(-table.rewards[table.brief.classes])
    places = np.unique(np.geomspace(1, len(rewards), 300).astype(int))
    line = [{"rank": int(place), "reward": float(rewards[place - 1])} for place in places]
    marks = [
        {
            "rank": row["rank"],
            "reward": float(np.exp(-row["loss"])),
            "name": row["name"],
            "side": "right" if place % 2 else "left",  # neighbours' names keep apart
        }
        for place, row in enumerate(analysis.known(table))
    ]
    x = alt.X("rank:Q", scale=alt.Scale(type="log", domain=[1, len(rewards)]), title="rank among all trained rules")
    y = alt.Y("reward:Q", title=_REWARD, scale=alt.Scale(domain=[0, 0.85]))
    base = alt.Chart(_data(marks)).encode(x=x, y=y)
    left, right = base.transform_filter("datum.side == 'left'"), base.transform_filter("datum.side == 'right'")
    return alt.layer(
        alt.Chart(_data(line)).mark_line(color=_HUES[0], strokeWidth=2).encode(x=x, y=y),
        base.mark_point(color=_ADAM, filled=True, size=60, opacity=1),
        left.mark_text(align="right", dx=-7, dy=7, color=_INK, fontSize=11).encode(text="name:N"),
        right.mark_text(align="left", dx=7, dy=-7, color=_INK, fontSize=11).encode(text="name:N"),
    ).properties(width=WIDTH, height=300)


def rates(table: Table) -> Any:
    """The loss against the relative rate: the known optimizers and the best ten, after 30 and after 200 steps."""
    steps = table.facts["steps"]
    brief = _rate_panel(
        table, table.brief, f"{steps[0]} steps (grey: the best ten rules)", np.argsort(table.brief.best)[:10]
    )
    long = _rate_panel(table, table.known, f"{steps[1]} steps (known optimizers)", ())
    return alt.hconcat(brief, long, spacing=18)


def _rate_panel(table: Table, found: Results, title: str, top: Iterable[int]) -> Any:
    named = {number: name for name, number in analysis.known_classes(table).items()}
    hues = alt.Scale(domain=list(named.values()), range=list(_HUES[: len(named)]))
    x = alt.X("rate:Q", scale=alt.Scale(type="log"), title="relative rate", axis=alt.Axis(format="~g", tickCount=4))
    y = alt.Y(
        "loss:Q", scale=alt.Scale(type="log", domain=[0.1, 4], clamp=True), title="validation cross-entropy, nats"
    )

    def lines(places: Iterable[int]) -> list[Row]:
        return [
            {
                "rate": float(rate),
                "loss": float(min(loss, 99)),
                "name": named.get(int(found.classes[place]), str(place)),
            }
            for place in places
            for rate, loss in zip(found.rates[place], found.means[place], strict=True)
        ]

    own = [place for place, number in enumerate(found.classes.tolist()) if number in named]
    shape = alt.Shape("name:N", scale=alt.Scale(domain=list(named.values())), legend=alt.Legend(title=None))
    color = alt.Color("name:N", scale=hues, legend=alt.Legend(title=None))
    behind = alt.Chart(_data(lines(top))).mark_line(color=_GREY, opacity=0.6, strokeWidth=1)
    before = alt.Chart(_data(lines(own))).encode(x=x, y=y, color=color)
    layers = [before.mark_line(strokeWidth=2), before.mark_point(size=45, filled=True, opacity=1).encode(shape=shape)]
    if list(top):
        layers = [behind.encode(x=x, y=y, detail="name:N"), *layers]
    return alt.layer(*layers).properties(width=WIDTH // 2 - 10, height=280, title=title)


# ---- tiers and transfer


def tiers(table: Table) -> Any:
    """Losses with fresh seeds and their intervals: the best forty rules and the known optimizers."""
    found = analysis.tiers(table)
    rows = [row for place, row in enumerate(found) if place < _SHOWN_TIERS or row["known"]]
    shown = [
        {
            "label": f"{row['name']}{'   = ' + row['known'] if row['known'] else ''}",
            "loss": row["loss"],
            "low": row["interval"][0],
            "high": row["interval"][1],
            "tier": str(row["tier"]) if row["tier"] < len(_TIER_NAMES) else _TIER_NAMES[-1],
        }
        for row in rows
    ]
    hues = alt.Scale(domain=_TIER_NAMES, range=list(_HUES[: len(_TIER_NAMES)]))
    scale = alt.Scale(type="log", zero=False, nice=False, padding=8)
    base = alt.Chart(_data(shown)).encode(
        y=alt.Y("label:N", sort=[row["label"] for row in shown], title=None),
        color=alt.Color("tier:N", scale=hues, legend=alt.Legend(title="tier")),
    )
    title = f"validation cross-entropy after {table.facts['steps'][1]} steps, nats (8 fresh seeds, 95 % interval)"
    return alt.layer(
        base.mark_rule(strokeWidth=1.5).encode(
            x=alt.X("low:Q", scale=scale, title=title, axis=alt.Axis(format=".2~f", tickCount=8)), x2="high:Q"
        ),
        base.mark_point(filled=True, size=35, opacity=1).encode(x=alt.X("loss:Q", scale=scale)),
    ).properties(width=WIDTH - 140, height=alt.Step(14))


def transfer(table: Table) -> Any:
    """The loss on other children against that on the proxy, for a stratified sample."""
    return alt.hconcat(*(_transfer_panel(table, child) for child in table.transfers), spacing=18)


def _transfer_panel(table: Table, child: str) -> Any:
    found = table.transfers[child]
    proxy = np.full(len(table.sentences), np.nan)
    proxy[table.brief.classes] = table.brief.best
    rows = [
        {
            "proxy": float(proxy[number]),
            "loss": float(min(loss, _WORST)),
            "stratum": "known" if stratum == KNOWN else stratum_name(int(stratum)),
        }
        for number, loss, stratum in zip(
            found.results.classes.tolist(), found.results.best.tolist(), found.strata.tolist(), strict=True
        )
    ]
    names = [stratum_name(stratum) for stratum in range(len(EDGES) - 1)]
    scheme = ("#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#e3c800")
    hue = alt.Color(
        "stratum:N",
        scale=alt.Scale(domain=[*names, "known"], range=[*scheme, _ADAM]),
        legend=alt.Legend(title=["rank on the", "proxy"]),
    )
    facts = table.facts["transfers"][child]
    y = f"loss on {child} after {facts['steps']} steps, nats"
    base = alt.Chart(_data(rows)).encode(
        x=alt.X(
            "proxy:Q",
            title=f"loss on {table.facts['child']} after {table.facts['steps'][0]} steps, nats",
            scale=alt.Scale(type="log", domain=[0.18, 3]),
            axis=alt.Axis(values=[0.2, 0.3, 0.5, 1, 2]),
        ),
        y=alt.Y(
            "loss:Q",
            title=y,
            scale=alt.Scale(type="log", zero=False, nice=False, padding=8),
            axis=alt.Axis(values=_LOSSES),
        ),
    )
    return (
        base.mark_point(filled=True, size=38, opacity=0.85)
        .encode(color=hue)
        .properties(width=WIDTH // 2 - 10, height=300, title=child)
    )


# ---- policies


def policies(curves: Mapping[str, Curves]) -> Any:
    """Median regret and rank against distinct evaluations, with 95 % bands of the median over seeds."""
    panels = [
        _policy_panel(curves, "regrets", "median regret (reward)", alt.Scale(zero=True)),
        _policy_panel(curves, "ranks", "median rank of the best found", alt.Scale(type="log")),
    ]
    return alt.hconcat(*panels, spacing=18)


def _policy_panel(curves: Mapping[str, Curves], what: str, title: str, scale: Any) -> Any:
    random, rows = np.random.default_rng(0), []
    for name, found in curves.items():
        values = getattr(found, what)
        drawn = random.integers(0, len(values), (1000, len(values)))
        for place in np.unique(np.geomspace(10, values.shape[1], 60).astype(int)):
            medians = np.median(values[drawn, place - 1], axis=1)
            low, high = np.percentile(medians, (2.5, 97.5))
            middle = float(np.median(values[:, place - 1]))
            rows.append(
                {"policy": name, "evaluations": int(place), "median": middle, "low": float(low), "high": float(high)}
            )
    order = list(curves)
    x = alt.X(
        "evaluations:Q",
        scale=alt.Scale(type="log", nice=False),
        title="distinct evaluations",
        axis=alt.Axis(values=[10, 30, 100, 300, 1000]),
    )
    hues = alt.Scale(domain=order, range=list(_HUES[: len(order)]))
    dashes = alt.Scale(domain=order, range=[[1, 0], [6, 2], [2, 2], [8, 3, 2, 3]][: len(order)])
    stroke = alt.Legend(title=None, symbolType="stroke", symbolOpacity=1, symbolStrokeWidth=2)
    base = alt.Chart(_data(rows)).encode(x=x, color=alt.Color("policy:N", scale=hues, legend=stroke))
    band = base.mark_area(opacity=0.16).encode(y=alt.Y("low:Q", scale=scale, title=title), y2="high:Q")
    line = base.mark_line(strokeWidth=2).encode(
        y=alt.Y("median:Q", scale=scale),
        strokeDash=alt.StrokeDash("policy:N", scale=dashes, legend=stroke),
    )
    return (band + line).properties(width=WIDTH // 2 - 10, height=280)
