"""Kendall's coefficients of measures and gaps, against a double loop over pairs, and what the intervals cover."""

import importlib.util
import itertools
import math

import numpy as np
import pytest

from descend.generalization.ranking import granulated_kendall, rank_correlation, rank_interval


def grid(*sizes, seeds=1):
    """All settings of some hyper-parameters, and as many seeds of each."""
    names = ("depth", "width", "rate")
    return [
        {**dict(zip(names, places, strict=False)), "seed": seed}
        for seed in range(seeds)
        for places in itertools.product(*map(range, sizes))
    ]


def sign(number):
    return int(number > 0) - int(number < 0)


def by_hand(values, gaps, settings, replicates):
    """The definition, straight from the paper: for each axis, each setting of all others, each pair."""
    axes = {}
    for axis in settings[0]:
        if axis == replicates:
            continue
        fixed = [name for name in settings[0] if name != axis]
        taus = []
        for others in dict.fromkeys(tuple(one[name] for name in fixed) for one in settings):
            group = [i for i, one in enumerate(settings) if tuple(one[name] for name in fixed) == others]
            agreed = [
                sign(values[i] - values[j]) * sign(gaps[i] - gaps[j])
                for i in group
                for j in group
                if settings[i][axis] != settings[j][axis]
            ]
            if agreed:
                taus.append(sum(agreed) / len(agreed))
        if taus:
            axes[axis] = sum(taus) / len(taus)
    return axes


@pytest.mark.parametrize(("sizes", "seeds"), [((3, 3, 3), 1), ((2, 4), 3), ((3, 2, 2), 7), ((8,), 1)])
@pytest.mark.parametrize("levels", [3, 1000])
def test_the_definition(sizes, seeds, levels):
    """With many ties, and with hardly any."""
    source = np.random.default_rng(len(sizes) + levels)
    settings = grid(*sizes, seeds=seeds)
    values = source.integers(levels, size=len(settings)).astype(float)
    gaps = source.integers(levels, size=len(settings)).astype(float)
    found = granulated_kendall(values, gaps, settings, replicates="seed", resamples=100)
    wanted = by_hand(values, gaps, settings, "seed")
    assert {name: axis.tau for name, axis in found.axes.items()} == pytest.approx(wanted)
    assert found.psi == pytest.approx(sum(wanted.values()) / len(wanted))
    assert found.robust == pytest.approx(min(wanted.values()))
    assert wanted[found.worst] == pytest.approx(found.robust)
    assert found.networks == len(settings)


def test_holes_in_the_grid():
    """Groups of other sizes, one of them alone, count as the definition says."""
    source = np.random.default_rng(3)
    settings = [one for one in grid(4, 3, 2) if (one["depth"], one["width"]) not in {(0, 0), (1, 1), (2, 1), (3, 1)}]
    values, gaps = source.normal(size=(2, len(settings)))
    found = granulated_kendall(values, gaps, settings, replicates="seed", resamples=100)
    wanted = by_hand(values, gaps, settings, "seed")
    assert {name: axis.tau for name, axis in found.axes.items()} == pytest.approx(wanted)


def test_repetitions_without_a_name_are_compared_across_settings_only():
    settings = [{"depth": depth} for depth in (0, 0, 0, 0, 1, 1, 1, 1)]
    values = [3, 1, 4, 2, 13, 11, 14, 12]
    gaps = [1, 3, 2, 4, 11, 13, 12, 14]
    found = granulated_kendall(values, gaps, settings)
    assert (found.psi, found.axes["depth"].pairs, found.axes["depth"].groups) == (1.0, 16, 1)


def test_counts_of_what_was_compared():
    found = granulated_kendall(np.arange(24.0), np.arange(24.0), grid(3, 2, 2, seeds=2), replicates="seed")
    assert {name: (axis.groups, axis.pairs) for name, axis in found.axes.items()} == {
        "depth": (8, 24),
        "width": (12, 12),
        "rate": (12, 12),
    }
    assert (found.resampled, found.units) == ("networks", 24)
    many = granulated_kendall(np.arange(48.0), np.arange(48.0), grid(2, 2, 2, seeds=6), replicates="seed")
    assert (many.resampled, many.units) == ("replicates", 6)


def test_an_axis_that_does_not_vary_is_none():
    settings = [{"depth": place, "width": 1} for place in range(8)]
    assert list(granulated_kendall(range(8), range(8), settings).axes) == ["depth"]


# ---- what is said ----------------------------------------------------------------------------------------------------


def gaps_of(settings, noise=0.0, seed=0):
    source = np.random.default_rng(seed)
    return np.array([sum(v for k, v in one.items() if k != "seed") for one in settings]) + noise * source.normal(
        size=len(settings)
    )


def test_a_perfect_measure():
    settings = grid(3, 3, 3, seeds=2)
    gaps = gaps_of(settings, 0.3)
    found = granulated_kendall(np.exp(gaps), gaps, settings, replicates="seed")
    assert (found.psi, found.interval, found.robust, found.fails_in) == (1.0, (1.0, 1.0), 1.0, ())
    assert found.is_predictive
    assert found.sentence.startswith("orders the gaps in each of depth, width, rate (Psi = 1.00")


def test_an_inverted_measure():
    settings = grid(3, 3, 3)
    gaps = gaps_of(settings, 0.3)
    found = granulated_kendall(-gaps, gaps, settings, replicates="seed")
    assert (found.psi, found.interval) == (-1.0, (-1.0, -1.0))
    assert found.sentence.startswith("no predictive value on these runs: it orders the gaps the wrong way round")


def test_a_constant_measure():
    settings = grid(3, 3, 3)
    found = granulated_kendall([2.0] * 27, gaps_of(settings), settings, replicates="seed")
    assert (found.psi, found.interval) == (0.0, (0.0, 0.0))
    assert found.sentence.startswith("no predictive value on these runs (")


def test_a_random_measure():
    settings = grid(3, 3, 3)
    gaps = gaps_of(settings, 0.5)
    for seed in range(5):
        found = granulated_kendall(np.random.default_rng(seed).normal(size=27), gaps, settings, replicates="seed")
        assert found.interval[0] <= 0 <= found.interval[1]
        assert not found.is_predictive
        assert found.sentence.startswith("no predictive value on these runs (")


def test_a_measure_that_follows_one_hyper_parameter_only():
    """Depth moves the gap most, and the measure follows it: all networks are ordered well, by depth alone."""
    settings = grid(3, 3, 3, seeds=3)
    gaps = np.array([20 * one["depth"] + one["width"] + one["rate"] for one in settings]) + 0.1 * gaps_of(settings, 1)
    source = np.random.default_rng(0)
    values = np.array([10 * one["depth"] - one["width"] - one["rate"] for one in settings]) + source.normal(size=81) / 9
    plain, found = rank_correlation(values, gaps), granulated_kendall(values, gaps, settings, replicates="seed")
    assert plain > 0.4
    assert found.psi == pytest.approx(-1 / 3)
    assert {name: axis.tau for name, axis in found.axes.items()} == {"depth": 1.0, "width": -1.0, "rate": -1.0}
    assert found.sentence.startswith("no predictive value on these runs")


def test_an_average_above_0_does_not_hide_the_axis_that_fails():
    settings = grid(3, 3, 3, seeds=3)
    gaps = gaps_of(settings, 0.1)
    values = np.array([one["depth"] + one["width"] - one["rate"] for one in settings], dtype=float)
    found = granulated_kendall(values, gaps, settings, replicates="seed")
    assert found.is_predictive
    assert (found.worst, found.fails_in) == ("rate", ("rate",))
    assert found.robust < -0.9
    assert found.sentence.startswith("orders the gaps in depth, width (Psi = 0.3")
    assert "but fails in rate (tau = -1.00" in found.sentence


def test_only_the_order_counts():
    settings = grid(3, 3, 3)
    gaps, values = gaps_of(settings, 1.0), gaps_of(settings, 1.0, seed=1)
    found = granulated_kendall(values, gaps, settings, replicates="seed", seed=4)
    assert granulated_kendall(np.exp(values), gaps**3 + 5, settings, replicates="seed", seed=4) == found
    assert granulated_kendall(-values, gaps, settings, replicates="seed", seed=4).psi == -found.psi
    assert granulated_kendall(gaps, values, settings, replicates="seed", seed=4) == found
    assert granulated_kendall(values, gaps, settings, replicates="seed", seed=5).interval != found.interval


# ---- intervals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seeds", "shared"), [(1, 0.0), (3, 0.5), (8, 0.5)])
def test_intervals_cover_the_truth(seeds, shared):
    """Of populations drawn anew with the same settings; what all networks of a seed have in common included."""
    settings = grid(3, 3, 2, seeds=seeds)
    places = np.array([[one["depth"], one["width"], one["rate"]] for one in settings], dtype=float)
    number = np.array([one["seed"] for one in settings])
    source = np.random.default_rng(0)

    def drawn(resamples):
        slopes = np.array([0.6, 0.3, -0.2]) + shared * source.normal(size=(seeds, 3))
        values = (places * slopes[number]).sum(1) + source.normal(size=len(settings))
        gaps = places.sum(1) + source.normal(size=len(settings))
        return granulated_kendall(values, gaps, settings, replicates="seed", resamples=resamples)

    truth = np.mean([drawn(100).psi for _ in range(200)])
    found = [drawn(200) for _ in range(100)]
    covered = sum(one.interval[0] <= truth <= one.interval[1] for one in found)
    assert covered >= 88
    assert np.mean([one.interval[1] - one.interval[0] for one in found]) < 7 * np.std([one.psi for one in found])


def test_more_than_a_chunk_of_pairs(monkeypatch):
    settings = grid(3, 3, 3)
    gaps, values = gaps_of(settings, 1.0), gaps_of(settings, 1.0, seed=1)
    whole = granulated_kendall(values, gaps, settings, replicates="seed")
    monkeypatch.setattr("descend.generalization.ranking._CHUNK", 5000)
    assert granulated_kendall(values, gaps, settings, replicates="seed") == whole


# ---- the plain coefficient -------------------------------------------------------------------------------------------


def test_tau_b_by_hand():
    values, gaps = [1, 2, 2, 4, 5, 5], [3, 1, 2, 2, 6, 6]
    pairs = list(itertools.combinations(range(6), 2))
    agreed = sum(sign(values[i] - values[j]) * sign(gaps[i] - gaps[j]) for i, j in pairs)
    untied = [sum(one[i] != one[j] for i, j in pairs) for one in (values, gaps)]
    assert rank_correlation(values, gaps) == pytest.approx(agreed / math.sqrt(untied[0] * untied[1]))


def test_a_constant_side_has_no_order():
    assert math.isnan(rank_correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]))
    assert math.isnan(rank_correlation([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]))


def test_without_scipy_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'descend\[lab\]'"):
        rank_correlation([1, 2], [1, 2])


# ---- wrong arguments -------------------------------------------------------------------------------------------------


def test_wrong_numbers():
    for order in (rank_correlation, lambda values, gaps: granulated_kendall(values, gaps, grid(3, 3))):
        with pytest.raises(ValueError, match="values has 9 networks and gaps 8"):
            order(range(9), range(8))
        for wrong in (math.nan, math.inf, None):
            with pytest.raises(ValueError, match=f"gaps has {wrong} for network 3"):
                order(range(9), [0, 1, 2, wrong, 4, 5, 6, 7, 8])
            with pytest.raises(ValueError, match=f"values has {wrong} for network 0"):
                order([wrong, *range(8)], range(9))
    with pytest.raises(ValueError, match="there are 1 networks"):
        rank_correlation([1], [1])
    with pytest.raises(ValueError, match="there are 6 networks; give 8 or more"):
        granulated_kendall(range(6), range(6), grid(3, 2))


@pytest.mark.parametrize(
    ("settings", "options", "kind", "words"),
    [
        (grid(3, 3)[:8], {}, ValueError, "settings has 8 networks and values 9"),
        ([{"depth": 1}] * 9, {}, ValueError, "no two networks that differ in one hyper-parameter alone$"),
        ([{"a": place, "b": place} for place in range(9)], {}, ValueError, "no two networks that differ in one"),
        ([{}] * 9, {}, ValueError, "no two networks that differ in one hyper-parameter alone"),
        (
            [{"a": place, "seed": place} for place in range(9)],
            {"replicates": "seed"},
            ValueError,
            "within a replicate; leave out of settings",
        ),
        ([*grid(3, 3)[:8], {"depth": 1}], {}, ValueError, "settings of network 8 have depth, those of network 0"),
        ([*grid(3, 3)[:8], 3], {}, TypeError, "settings has int for network 8"),
        ([{"depth": [1]}] * 9, {}, TypeError, "settings has \\[1\\] as 'depth' of network 0"),
        ([{"depth": math.nan}] * 9, {}, ValueError, "settings has nan as 'depth' of network 0"),
        (grid(3, 3), {"replicates": "sed"}, ValueError, "replicates is 'sed'; settings have depth, width, seed"),
        (grid(3, 3), {"resamples": 10}, ValueError, "resamples is 10"),
        (grid(3, 3), {"seed": -1}, ValueError, "seed is -1"),
    ],
)
def test_wrong_settings(settings, options, kind, words):
    with pytest.raises(kind, match=words):
        granulated_kendall(range(9), range(9), settings, **options)


def test_an_interval_of_tau_covers_the_truth():
    """Two normal variables of correlation r have tau = 2 / pi asin(r)."""
    source = np.random.default_rng(0)
    truth = 2 / math.pi * math.asin(0.6)
    covered = 0
    for seed in range(40):
        first, noise = source.normal(size=(2, 60))
        tau, low, high = rank_interval(first, 0.6 * first + 0.8 * noise, resamples=200, seed=seed)
        assert low <= tau <= high
        covered += low <= truth <= high
    assert 34 <= covered <= 40


def test_what_has_no_order_has_no_interval():
    assert rank_interval([1.0] * 20, list(range(20))) is None
    assert rank_interval(list(range(7)), list(range(7))) is None
    assert rank_interval([], []) is None
    with pytest.raises(ValueError, match="resamples is 5"):
        rank_interval(list(range(9)), list(range(9)), resamples=5)
