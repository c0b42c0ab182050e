"""What the charts draw: curves with their bands, sensitivity to the rate, and the span of an axis."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression

from descend.report import charts, formats
from descend.report.curves import Answer, answers, curves
from descend.report.span import Span, spread
from report_examples import drawings, example, load, page, trial

finite = st.floats(1e-6, 1e6)


class TestCurves:
    def test_mean_and_band_end_where_a_seed_diverges(self, tmp_path):
        results = load(tmp_path, example({"adam": [0.8, 0.6], "sgd": [0.8, None], "lion": []}))
        adam, sgd, lion = curves(results, lambda point: point.train_loss)
        assert adam.steps == [10, 20, 30, 40]
        assert adam.low == pytest.approx([2 / step + 0.01 for step in adam.steps])
        assert adam.mean == pytest.approx([2 / step + 0.015 for step in adam.steps])
        assert adam.high == pytest.approx([2 / step + 0.02 for step in adam.steps])
        assert not adam.broken
        assert sgd.steps == [10, 20]
        assert sgd.broken
        assert lion.steps == []
        assert lion.broken

    def test_long_curves_keep_their_ends(self, tmp_path):
        data = example({"adam": [0.8]}, steps=5000)
        point = data["trials"][-1]["curve"][0]
        data["trials"][-1]["curve"] = [{**point, "step": step} for step in range(1, 5001)]
        (curve,) = curves(load(tmp_path, data), lambda point: point.train_loss)
        assert len(curve.steps) == 150
        assert (curve.steps[0], curve.steps[-1]) == (1, 5000)

    @pytest.mark.parametrize("by_time", [False, True])
    def test_dots_stand_where_several_cycles_end(self, tmp_path, by_time):
        def drawn(*ends):
            data = example({"adam": [0.8, 0.6], "sgd": [0.7, 0.7]})
            data["schedule"]["cycle_ends"] = list(ends)
            results = load(tmp_path, data)
            found = curves(results, lambda point: point.train_loss)
            return charts.learning(results, found, "Loss", higher_is_better=False, by_time=by_time).count("<path")

        assert drawn() == drawn(40)  # the end of the run is one anyway
        assert drawn(20, 40) == drawn() + 4
        assert drawn(10, 20, 40) == drawn() + 6
        assert drawn(15, 40) == drawn() + 2  # nothing was measured at 15

    def test_a_rate_at_which_one_seed_diverged_counts_as_diverged(self, tmp_path):
        data = example({"adam": [0.8]})
        data["trials"] += [trial("adam", 1e-4, 5, 0.8), trial("adam", 1e-3, 5, None)]
        assert answers(load(tmp_path, data)) == {
            "adam": [Answer(1e-4, pytest.approx(0.85), 0), Answer(1e-3, None, 1), Answer(1e-2, 0.8, 2)]
        }

    def test_a_rate_with_several_values_has_the_best(self, tmp_path):
        data = example({"adam": [0.8]})
        data["trials"] = [
            {**trial("adam", 0.1, 0, value), "values": {"weight_decay": decay}}
            for decay, value in ((0.0, 0.5), (0.1, None), (1.0, 0.7))
        ]
        assert answers(load(tmp_path, data)) == {"adam": [Answer(0.1, 0.7, 2)]}


class TestSensitivity:
    def rows(self, folder: Path, values: list[float | None], **task: object) -> list[dict]:
        """The rows of one optimizer whose chosen rate is the first, beside another whose chosen rate gives 2."""
        data = example({"adam": [0.9], "sgd": [0.9]}, **task)
        tuned = {"adam": values, "sgd": [2.0]}
        data["trials"] = [
            trial(name, 10.0**place, 0, value) for name, own in tuned.items() for place, value in enumerate(own)
        ]
        for optimizer in data["optimizers"]:
            optimizer["best_rate"] = 1.0
        results = load(folder, data)
        metric, given = formats.Metric.of(results), answers(results)
        limit = charts._limit(results, given, metric)
        return charts._rows(results.optimizers[0], given["adam"], metric, limit)

    def test_lines_break_where_a_rate_diverged(self, tmp_path):
        rows = self.rows(tmp_path, [0.9, 0.8, None, 0.7, 0.6], metric="score")
        assert [row["kind"] for row in rows] == ["best", "tried", "lost", "tried", "tried"]
        assert rows[0]["stretch"] == rows[1]["stretch"] != rows[3]["stretch"] == rows[4]["stretch"]

    def test_drawn_lines_break_in_front_and_behind(self, tmp_path):
        data = example({"adam": [0.9], "powersign": [0.9]})
        for one, value in zip([t for t in data["trials"] if t["phase"] == "tuning"][3:], [0.9, None, 0.8], strict=True):
            one.update(validation_metric=value, diverged=value is None)
        adam, powersign = drawings(page(tmp_path, data))[-3:-1]
        assert powersign.get("aria-label").startswith("PowerSign")
        for panel, hue in ((adam, "--faint"), (powersign, "--series-1")):
            strokes = [path for path in panel.iter("path") if hue in path.get("stroke", "")]
            lines = [path.get("d") for path in strokes if path.get("transform") is None]  # marks are moved to a place
            assert len(lines) == 2
            assert not any("L" in line for line in lines)

    def test_a_blow_up_is_beyond_the_axis(self, tmp_path):
        rows = self.rows(tmp_path, [1.5, 190.0, 210.0, 1e18], metric="loss", direction="minimize")
        assert [row["kind"] for row in rows] == ["best", "tried", "lost", "lost"]
        assert rows[3]["said"] == "1e3: 1.000e18"

    def test_what_is_maximized_may_blow_up_too(self, tmp_path):
        rows = self.rows(tmp_path, [0.5, 0.0, -3.0, -5.0], metric="r2")
        assert [row["kind"] for row in rows] == ["best", "tried", "tried", "lost"]

    def test_without_a_scale_everything_is_drawn(self, tmp_path):
        rows = self.rows(tmp_path, [None, 5.0, 1e9], metric="r2")
        assert [row["kind"] for row in rows] == ["lost", "tried", "tried"]


class TestSpan:
    @given(st.lists(finite, min_size=1, max_size=9), st.booleans())
    def test_holds_its_values_and_inverts(self, values, log):
        span = Span.around(values, log=log)
        for value in values:
            assert span.low <= value <= span.high
            assert span.value(span.fraction(value)) == pytest.approx(value, rel=1e-6, abs=1e-6 * (span.high - span.low))

    @given(finite, finite, st.integers(1, 9))
    def test_ticks_lie_inside(self, one, other, at_most):
        span = Span(min(one, other), max(one, other) * 1.5, log=True)
        ticks = span.ticks(at_most)
        assert len(ticks) <= at_most
        assert all(span.low <= tick <= span.high for tick in ticks)

    def test_ticks_of_decades(self):
        assert Span(0.05, 20, log=True).ticks(4) == [0.1, 1, 10]
        assert Span(0.9, 6, log=True).ticks(4) == [1, 2, 5]
        assert Span(1e-7, 10, log=True).ticks(3) == pytest.approx([1e-7, 1e-4, 1e-1])

    @given(st.lists(st.floats(0, 1), max_size=12), st.floats(0.001, 0.08))
    def test_spread_is_the_nearest_arrangement(self, wanted, gap):
        """A gap apart in order is isotonic regression once multiples of the gap are taken off; bounds then clip it."""
        placed = np.array(spread(wanted, gap))
        order = np.argsort(wanted, kind="stable")
        if len(wanted):
            offsets = gap * np.arange(len(wanted))
            nearest = isotonic_regression(np.array(wanted)[order] - offsets).x
            expected = np.clip(nearest, 0, 1 - offsets[-1]) + offsets
            np.testing.assert_allclose(placed[order], expected, atol=1e-9)
