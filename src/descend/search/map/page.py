"""The page of the map: its pictures, and its tables between their marks in the text.

    python -m descend.search.map.page docs [--table FILE]

draws docs/pictures/map-*.svg and fills docs/map.md, both from the table alone. Policies are run anew, which takes some
minutes.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from descend.search import benchmark
from descend.search.map import analysis, pictures
from descend.search.map.statistics import WithInterval
from descend.search.map.table import Table, published, read
from descend.search.space import SearchError

_BLOCK: Final = re.compile(r"(<!-- table: ([\w-]+) -->\n)(.*?)(<!-- end -->)", flags=re.DOTALL)
_TOP: Final = 15
_SLOW, _FEWER = ("controller as published",), 10

Row = dict[str, Any]


def filled(text: str, tables: Mapping[str, str]) -> str:
    """Put tables in the place of those that stand between marks.

    Raises:
        SearchError: a mark names a table that there is not.
    """

    def replaced(match: re.Match[str]) -> str:
        if match[2] not in tables:
            raise SearchError(f"there is no table {match[2]!r}; choose of {', '.join(tables)}")
        return f"{match[1]}{tables[match[2]]}\n{match[4]}"

    return _BLOCK.sub(replaced, text)


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int):
        return str(value).replace("|", "\\|")
    return f"{value:,}"


def searched(table: Table) -> dict[str, benchmark.Curves]:
    """Search the map with every policy; with fewer seeds where a search takes long."""
    made = benchmark.policies(table)
    slow = {name: made.pop(name) for name in _SLOW}
    found = benchmark.run(made, table=table)
    return found | benchmark.run(slow, seeds=benchmark.SEEDS[:_FEWER], table=table)


def tables(table: Table, found: Mapping[str, benchmark.Curves]) -> dict[str, str]:
    """Every table of the page, by its name."""
    return {
        "counts": markdown(("what", "how many"), list(analysis.counts(table).items())),
        "operand": _parts("operand", analysis.by_operand(table)),
        "unary": _parts("unary function", analysis.by_unary(table)),
        "binary": _parts("binary function", analysis.by_binary(table)),
        "family": _parts("operands", analysis.by_family(table)),
        "leg": _parts("function of operand", analysis.by_leg(table), limit=_TOP),
        "known": _known(table),
        "sensitivity": _sensitivity(table),
        "agreement": _agreement(table),
        "tiers": _tiers(table),
        "optimism": _optimism(table),
        "transfer": _transfer(table),
        "policies": _policies(found),
    }


def _share(value: float) -> str:
    return f"{100 * value:.1f} %" if value < 0.1 else f"{100 * value:.0f} %"


def _loss(value: float) -> str:
    return f"{value:.4f}" if value < 1 else f"{value:.3g}"


def _correlation(value: WithInterval) -> str:
    return f"{value[0]:.2f} [{value[1]:.2f}, {value[2]:.2f}]"


def _parts(what: str, rows: Sequence[Row], limit: int | None = None) -> str:
    head = (what, "rules", "median", "90 % quantile", "best", "within 10 % of Adam or better", "better than Adam")
    order = sorted((row for row in rows if row["rules"]), key=lambda row: -row["q90"])
    return markdown(
        head,
        [
            (
                f"`{row['name']}`",
                row["rules"],
                *(f"{row[name]:.3f}" for name in ("median", "q90", "best")),
                *(_share(row[name]) for name in ("near Adam", "above Adam")),
            )
            for row in order[:limit]
        ],
    )


def _known(table: Table) -> str:
    first, longer = table.facts["steps"]
    head = (
        "optimizer",
        f"rank of {len(table.brief.classes):,}, {first} steps",
        "loss",
        "relative rate",
        f"rank of {len(table.long.classes):,}, {longer} steps",
        "loss",
        "relative rate",
        "loss, 8 fresh seeds",
        f"rates within 10 %, {first} / {longer} steps",
    )
    return markdown(
        head,
        [
            (
                row["name"],
                row["rank"],
                _loss(row["loss"]),
                f"{row['rate']:g}",
                row["long rank"],
                _loss(row["long loss"]),
                f"{row['long rate']:g}",
                f"{row['fresh loss']:.4f} [{row['fresh interval'][0]:.4f}, {row['fresh interval'][1]:.4f}]",
                f"{row['wide']} / {row['long wide']}",
            )
            for row in analysis.known(table)
        ],
    )


def _sensitivity(table: Table) -> str:
    widths = [str(width) for width in range(1, table.brief.rates.shape[1] + 1)]
    return markdown(
        ("rules", "n", *(f"{width} of {widths[-1]} rates" for width in widths)),
        [
            (row["rules"], row["n"], *(_share(row.get(width, 0.0)) for width in widths))
            for row in analysis.sensitivity(table)
        ],
    )


def _agreement(table: Table) -> str:
    return markdown(
        ("between", "by", "rules", "n", "Spearman's correlation"),
        [
            (row["of"], row["by"], row["rules"], row["n"], _correlation(row["spearman"]))
            for row in analysis.agreement(table)
        ],
    )


def _tiers(table: Table) -> str:
    rows = analysis.tiers(table)
    numbers = [row["tier"] for row in rows]
    shown = [row for place, row in enumerate(rows) if place < _TOP or row["known"]]
    return markdown(
        ("place", "tier", "rules in it", "rule", "loss [95 % interval]", "behind its tier's first"),
        [
            (
                1 + rows.index(row),
                row["tier"],
                numbers.count(row["tier"]),
                f"`{row['name']}`" + (f" ({row['known']})" if row["known"] else ""),
                f"{row['loss']:.4f} [{row['interval'][0]:.4f}, {row['interval'][1]:.4f}]",
                f"{row['behind'][0]:.4f} [{row['behind'][1]:.4f}, {row['behind'][2]:.4f}]",
            )
            for row in shown
        ],
    )


def _optimism(table: Table) -> str:
    return markdown(
        ("the first", "median loss with the seeds that selected them", "with fresh seeds", "Spearman's correlation"),
        [
            (row["top"], _loss(row["selected"]), _loss(row["fresh"]), _correlation(row["spearman"]))
            for row in analysis.optimism(table)
        ],
    )


def _transfer(table: Table) -> str:
    found = analysis.transfers(table)
    columns = [(child, proxy) for child in table.transfers for proxy in ("brief", "long")]
    values = {(row["child"], row["proxy"], row["rules"]): _correlation(row["spearman"]) for row in found}
    steps = dict(zip(("brief", "long"), table.facts["steps"], strict=True))
    return markdown(
        ("rules by rank on the proxy", *(f"{child}, proxy {steps[proxy]} steps" for child, proxy in columns)),
        [
            (which, *(values.get((child, proxy, which), "") for child, proxy in columns))
            for which in dict.fromkeys(row["rules"] for row in found)
        ],
    )


def _policies(found: Mapping[str, benchmark.Curves]) -> str:
    rows = []
    for row in benchmark.summary(found):
        regret, rank = row["regret"], row["rank"]
        better = row.get("better by")
        rows.append(
            (
                row["policy"],
                row["seeds"],
                row["evaluations"],
                f"{regret[0]:.4f} [{regret[1]:.4f}, {regret[2]:.4f}]",
                f"{rank[0]:.0f} [{rank[1]:.0f}, {rank[2]:.0f}]",
                f"{better[0]:.4f} [{better[1]:.4f}, {better[2]:.4f}]" if better else "",
                f"{row['probability']:.2f}" if "probability" in row else "",
            )
        )
    head = (
        "policy",
        "seeds",
        "evaluations",
        "median regret",
        "median rank",
        "better than random by",
        "P(beats random)",
    )
    return markdown(head, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the pictures and fill the tables."""
    parser = argparse.ArgumentParser(prog="python -m descend.search.map.page", description=__doc__)
    parser.add_argument("docs", type=Path, help="folder of map.md and pictures/")
    parser.add_argument("--table", type=Path, help="file of the map; by default the one that comes with the library")
    asked = parser.parse_args(arguments)
    table = read(asked.table) if asked.table else published()
    found = searched(table)
    for name, chart in pictures.drawn(table, found).items():
        chart.save(str(asked.docs / "pictures" / f"map-{name}.svg"))
    page = asked.docs / "map.md"
    page.write_text(filled(page.read_text(), tables(table, found)))
    best = math.exp(-float(table.brief.best.min()))
    print(f"best reward {best:.4f}, of {table.name(int(table.brief.classes[table.brief.best.argmin()]))}")


if __name__ == "__main__":
    main()
