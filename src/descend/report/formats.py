"""Numbers as the report writes them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from descend.report.results import Optimizer, Results, Row, Score

# A number and its unit never part at the end of a line.
_SPACE = "\u00a0"
# Units at the end of a key.
_UNITS = {"gib": "GiB"}


@dataclass(frozen=True)
class Metric:
    """The number by which a task is judged: its name, its direction and how it is written."""

    name: str
    higher_is_better: bool
    decimals: int

    @classmethod
    def of(cls, results: Results) -> Metric:
        """The metric of a comparison, with as many decimals for all values as give the best mean four digits."""
        task = results.task
        best = next((row.test_mean for row in results.summary if row.test_mean and not row.failed), 1.0)
        decimals = 1 if task.metric == "accuracy" else 3 - math.floor(math.log10(abs(best)))
        return cls(task.metric.replace("_", " "), task.direction == "maximize", min(max(decimals, 0), 6))

    @property
    def percent(self) -> bool:
        """Whether the values lie in 0..1 and are shown in per cent."""
        return self.name == "accuracy"

    def shown(self, value: float) -> float:
        """The value in the unit of the page."""
        return 100 * value if self.percent else value

    @property
    def label(self) -> str:
        """Its name, with the unit of the page."""
        return f"{self.name}, %" if self.percent else self.name

    def plain(self, value: float) -> str:
        """The value in the unit of the page, without that."""
        return self._written(self.shown(value))

    def text(self, value: float | None) -> str:
        """The value with its unit, a dash for None."""
        if value is None:
            return "–"
        return self._written(self.shown(value)) + (f"{_SPACE}%" if self.percent else "")

    def reach(self, row: Row) -> list[float]:
        """Mean and ends of a row's interval in the unit of the page; per cents cut to 0..100, beyond which none is."""
        return [self._cut(self.shown(value)) for value in row.reach()]

    def cuts(self, row: Row) -> bool:
        """Whether a row's interval is written shorter than it is, because it runs over the ends of the per cents."""
        values = [] if row.failed else [self.shown(value) for value in row.reach()]
        return any(self._written(value) != self._written(self._cut(value)) for value in values)

    def interval(self, row: Row) -> str:
        """The interval of a row in brackets, empty where there is none."""
        if row.test_low is None or row.test_high is None:
            return ""
        return self._between(min(self.reach(row)), max(self.reach(row)))

    def signed(self, difference: float | None) -> str:
        """A difference of two values with its sign, and a digit more than they have, as it is smaller."""
        if difference is None:
            return "–"
        shown = self.shown(difference)
        if abs(shown) < 1e6:
            return signed(shown, self.decimals + 1)
        return f"{'−' if shown < 0 else '+'}{number(abs(shown))}"

    def signed_interval(self, low: float | None, high: float | None) -> str:
        """The interval of a difference in brackets; a dash where there is none."""
        return "–" if low is None or high is None else f"[{self.signed(low)}, {self.signed(high)}]"

    def score(self, score: Score | None) -> str:
        """A mean and its interval: `97.8 % [97.1, 98.5]`; a dash where it was not measured."""
        if score is None or score.mean is None:
            return "–"
        if score.low is None or score.high is None:
            return self.text(score.mean)
        low, high = (self._cut(self.shown(end)) for end in (score.low, score.high))
        return f"{self.text(score.mean)}{_SPACE}{self._between(low, high)}"

    def gain(self, score: Score | None) -> str:
        """A paired difference and its interval: `+0.32 [+0.10, +0.54]`; a dash where it was not measured."""
        if score is None or score.mean is None:
            return "–"
        said = self.signed(score.mean)
        return said if score.low is None else f"{said}{_SPACE}{self.signed_interval(score.low, score.high)}"

    def mean(self, row: Row) -> str:
        """Mean and interval on test data: `97.8 % [97.1, 98.5]`."""
        return f"{self.text(row.test_mean)}{_SPACE}{self.interval(row)}".rstrip(_SPACE)

    def _between(self, low: float, high: float) -> str:
        return f"[{self._written(low)},{_SPACE}{self._written(high)}]"

    def _cut(self, shown: float) -> float:
        return min(max(shown, 0.0), 100.0) if self.percent else shown

    def _written(self, shown: float) -> str:
        return f"{shown:,.{self.decimals}f}" if abs(shown) < 1e6 else number(shown)


def number(value: float | None) -> str:
    """Four significant digits, trailing zeros kept so that a column lines up; a dash for None."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    if abs(value) >= 1e15 or abs(value) < 1e-3:
        return _short_exponent(f"{value:.3e}")
    if abs(value) >= 1e4:
        return f"{value:,.0f}"
    return f"{value:#.4g}".rstrip(".")


def signed(value: float, decimals: int) -> str:
    """A difference with its sign, a true minus; one that rounds to 0 has none."""
    text = f"{abs(value):,.{decimals}f}"
    return text if float(text.replace(",", "")) == 0 else f"{'−' if value < 0 else '+'}{text}"


def rate(value: float | None) -> str:
    """A rate in three significant digits, as one would type it: 0.001, 3.16e-5."""
    return "–" if value is None else _short_exponent(f"{value:.3g}")


def short_rate(value: float) -> str:
    """A rate as `rate` has it, where that is short; else in the form with an exponent: 0.001, 3.16e-4."""
    text = rate(value)
    if len(text) <= 6:
        return text
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def plain(value: Any) -> str:
    """A value of a JSON file in words: a list by its members, a float without idle digits."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ", ".join(map(plain, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items()) or "none"
    if isinstance(value, float):
        return _short_exponent(f"{value:.6g}")
    return "none" if value is None else str(value).lower()


def label(key: str) -> str:
    """A key of a JSON file in words, its unit after a comma: `memory_gib` is memory, GiB."""
    name, _, unit = key.rpartition("_")
    return f"{name.replace('_', ' ')}, {_UNITS[unit]}" if unit in _UNITS else key.replace("_", " ")


def filled(values: dict[str, Any]) -> dict[str, Any]:
    """The entries of a JSON object that hold something."""
    return {key: value for key, value in values.items() if value is not None and value not in ("", [], {})}


def _short_exponent(text: str) -> str:
    mantissa, mark, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if mark else mantissa


def milliseconds(value: float | None) -> str:
    """A time in three significant digits."""
    return "–" if value is None else f"{value:#.3g}".rstrip(".") if value < 1000 else f"{value:,.0f}"


def state(row: Row) -> str:
    """The bytes of state of a row's optimizer; a dash where it took no step, and so has not made any."""
    took_none = row.state_bytes == 0 and row.ms_per_step is None
    return "–" if row.state_bytes is None or took_none else memory(row.state_bytes)


def memory(count: int) -> str:
    """A number of bytes with a binary unit."""
    size, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.0f}{_SPACE}{unit}" if unit == "B" or size >= 100 else f"{size:.1f}{_SPACE}{unit}"


def steps(value: float | None) -> str:
    """A number of steps, or that the target was not reached."""
    return "not reached" if value is None else f"{value:,.0f}"


def edge(entry: Optimizer | Row) -> str:
    """What to say of a best rate at the end of its grid; empty where it lies inside."""
    return "" if entry.edge is None else f"{'lowest' if entry.edge == 'low' else 'highest'} rate of its grid"


def count(n: int, noun: str) -> str:
    """A count in words up to ten: `three seeds`, `one seed`, `12 seeds`."""
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return f"{words[n] if n < len(words) else n} {noun}{'' if n == 1 else 's'}"


def listing(names: list[str]) -> str:
    """`A`, `A and B`, `A, B and C`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
