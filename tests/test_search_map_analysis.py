"""What is read off a map, on tables made by hand; and the sample and correlations of the transfer."""

import math
from dataclasses import replace

import numpy as np
import pytest

from descend.search.evaluation import RELATIVE_RATES
from descend.search.map import analysis, page, statistics, transfer
from descend.search.map.enumeration import SPACE, place_of
from descend.search.map.stages import Results
from descend.search.map.table import Table
from descend.search.map.transfer import KNOWN, Target, Transfer
from descend.search.space import SearchError

RULES = (
    "g g x x left",  # sgd
    "m m x x left",  # momentum
    "ADAM g x x left",  # adam
    "sign(g) g x x left",
    "sign(m) g x x left",
    "RMSProp g x x left",
    "g ADAM x exp +",
    "ADAM g drop(0.5) x *",
)
LOSSES = (0.9, 0.8, 0.4, 1.0, 0.7, 1.1, 0.43, 0.3)


def results(classes, losses, rates=RELATIVE_RATES, accuracies=None):
    losses = np.asarray(losses, dtype=np.float64)
    accuracies = np.full(losses.shape, 0.9) if accuracies is None else np.asarray(accuracies, dtype=np.float64)
    return Results(np.asarray(classes), np.tile(rates, (len(losses), 1)), losses, accuracies)


def swept(losses, worse=2.0):
    """Losses at 7 rates and 2 seeds: the one given at the middle rate, so many times worse elsewhere."""
    factors = np.full(7, worse)
    factors[3] = 1
    return np.asarray(losses)[:, None, None] * factors[None, :, None] * np.ones(2)


@pytest.fixture
def toy():
    sentences = np.array([SPACE.decode(text) for text in RULES] + [SPACE.decode("2 2 x x left")])
    of_sentence = np.full(SPACE.count, -1, dtype=np.int32)
    for number, sentence in enumerate(sentences.tolist()):
        of_sentence[place_of(tuple(sentence))] = number
    trained = np.arange(len(RULES))
    brief = results(trained, swept(LOSSES))
    one = (1e-2,)
    fresh = np.array([0.20, 0.21, 0.30, 0.31])[:, None, None] + 0.01 * np.array([1, -1] * 4)
    fresh[1, 0] += 0.02 * np.array([1, 1, -1, -1] * 2)
    return Table(
        {"forms": 20, "dropped": [1, 2], "child": "digits", "steps": [30, 200], "transfers": {}},
        of_sentence,
        sentences.astype(np.uint8),
        np.array([0] * len(RULES) + [1], dtype=np.uint8),
        np.zeros(9, dtype=np.float32),
        np.ones(9, dtype=np.float32),
        brief,
        results(
            trained[[2, 6, 7]], np.array([0.2, 0.25, 0.15])[:, None, None] * np.ones((3, 3, 2)), (1e-3, 3e-3, 1e-2)
        ),
        results(trained[[7, 2, 6, 1]], fresh, one),
        results(trained[:6], swept([0.5, 0.4, 0.2, 0.6, 0.45, 0.7])),
        results(trained[:6], np.array([0.5, 0.4, 0.2, 0.6, 0.45, 0.7])[:, None, None] + 0.01 * np.arange(8), one),
        {},
    )


# ---- statistics


def test_correlations_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(0)
    for _ in range(20):
        x, y = random.integers(0, 6, 30), random.integers(0, 6, 30)
        assert statistics.spearman(x, y) == pytest.approx(stats.spearmanr(x, y)[0])
        np.testing.assert_allclose(statistics.ranks(x), stats.rankdata(x))


def test_a_weight_counts_as_so_many_of_its_kind():
    random = np.random.default_rng(1)
    x, y, weights = random.normal(size=12), random.normal(size=12), random.integers(1, 5, 12)
    expected = statistics.spearman(np.repeat(x, weights), np.repeat(y, weights))
    assert statistics.spearman(x, y, weights) == pytest.approx(expected)
    assert statistics.spearman(x, y, weights / 100) == pytest.approx(expected)


def test_what_has_no_spread_has_no_correlation():
    assert math.isnan(statistics.spearman([1, 1, 1], [1, 2, 3]))


def test_intervals_of_paired_differences_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(2).normal(1, 2, 8)
    mean, low, high = statistics.paired(values)
    expected = stats.t.interval(0.95, 7, loc=values.mean(), scale=stats.sem(values))
    assert (low, high) == pytest.approx(expected, rel=1e-3)
    assert mean == pytest.approx(values.mean())
    with pytest.raises(ValueError, match="2 to 10 seeds"):
        statistics.paired([1.0])


def test_a_bootstrap_resamples_within_groups():
    values = np.array([0.0, 0, 0, 10, 10, 10])
    middle, low, high = statistics.bootstrap(
        lambda places: float(values[places].mean()), [np.arange(3), np.arange(3, 6)]
    )
    assert (middle, low, high) == (5, 5, 5)
    middle, low, high = statistics.bootstrap(lambda places: float(values[places].mean()), [np.arange(6)])
    assert low < 3 < middle < 7 < high


# ---- what rules are made of


def test_counts(toy):
    assert analysis.counts(toy) == {
        "sentences": 249_696,
        "sentences without class": 249_696 - 9,
        "forms": 20,
        "classes": 9,
        "classes: descends": 8,
        "classes: constant": 1,
        "trained": 8,
        "learned": 8,
        "trained longer": 3,
        "trained with fresh seeds": 4,
    }
    lazy = replace(
        toy, brief=replace(toy.brief, accuracies=np.where(np.arange(8) < 3, 0.9, 0.4)[:, None, None] * np.ones((7, 2)))
    )
    assert analysis.counts(lazy)["learned"] == 3


def test_a_leg_that_is_not_read_does_not_count(toy):
    rows = {row["name"]: row for row in analysis.by_operand(toy)}
    assert rows["g"]["rules"] == 3  # sgd, and the last two; not what stands behind `left`
    assert rows["ADAM"]["rules"] == 3
    assert rows["2"] == {"name": "2", "rules": 0}
    assert rows["g"]["best"] == pytest.approx(math.exp(-0.3))
    assert rows["ADAM"]["median"] == pytest.approx(math.exp(-0.4))
    assert rows["ADAM"]["near Adam"] == 1  # 0.43 is within 10 % of 0.4
    assert rows["ADAM"]["above Adam"] == pytest.approx(1 / 3)
    assert rows["m"]["near Adam"] == 0


def test_functions_count_once_per_rule(toy):
    unary = {row["name"]: row["rules"] for row in analysis.by_unary(toy)}
    assert unary == {**dict.fromkeys(unary, 0), "x": 8, "exp": 1, "drop(0.5)": 1}
    binary = {row["name"]: row["rules"] for row in analysis.by_binary(toy)}
    assert binary == {"+": 1, "-": 0, "*": 1, "/": 0, "^": 0, "left": 6}


def test_pairs_have_no_order_and_families_gather_them(toy):
    pairs = {(row["first"], row["second"]): row["rules"] for row in analysis.by_pair(toy)}
    assert pairs[("g", "ADAM")] == 2
    assert pairs[("ADAM", analysis.ALONE)] == 1
    assert ("ADAM", "g") not in pairs
    families = {row["name"]: row["rules"] for row in analysis.by_family(toy)}
    assert families == {
        "gradient alone": 1,
        "gradient & adaptive": 2,
        "average alone": 1,
        "sign alone": 2,
        "adaptive alone": 2,
    }


def test_legs(toy):
    legs = {(row["operand"], row["unary"]): row["rules"] for row in analysis.by_leg(toy)}
    assert legs[("ADAM", "drop(0.5)")] == legs[("ADAM", "exp")] == legs[("ADAM", "x")] == 1
    assert legs[("g", "x")] == 3


def test_every_operand_has_one_family():
    assert sorted(name for names in analysis.FAMILIES.values() for name in names) == sorted(analysis.NAMES)


# ---- known optimizers, rates, luck


def test_the_known_optimizers(toy):
    rows = {row["name"]: row for row in analysis.known(toy)}
    assert list(rows) == ["adam", "signum", "momentum", "sgd", "signsgd", "rmsprop"]
    adam = rows["adam"]
    assert (adam["rank"], adam["loss"], adam["rate"]) == (2, pytest.approx(0.4), 1e-2)
    assert (adam["long rank"], adam["long loss"], adam["long rate"]) == (2, pytest.approx(0.2), 1e-2)
    assert rows["momentum"]["long rank"] == 4  # worse than all three that were trained longer
    assert adam["fresh loss"] == pytest.approx(0.235)
    assert adam["fresh interval"][0] < 0.235 < adam["fresh interval"][1]
    assert adam["wide"] == adam["long wide"] == 1


def test_sensitivity_counts_rates_near_the_best(toy):
    flat = swept(LOSSES)
    flat[:2] = np.asarray(LOSSES)[:2, None, None]
    flat[2, 4] = 0.4 * 1.05
    rows = analysis.sensitivity(replace(toy, brief=results(np.arange(8), flat)))
    assert [row["n"] for row in rows] == [8, 8]
    assert (rows[0]["7"], rows[0]["2"], rows[0]["1"], rows[0]["3"]) == (2 / 8, 1 / 8, 5 / 8, 0)
    assert rows[0]["median"] == 1


def test_agreement_is_between_seeds_at_the_best_rate(toy):
    losses = swept(LOSSES)
    losses[:, :, 1] = losses[::-1, :, 0].copy()  # the other seed says the contrary
    losses[:, 0] = 0.01  # best on both seeds, but of no spread
    losses[:, 0, 0] += np.arange(8) * 1e-4
    losses[:, 0, 1] += np.arange(8) * 1e-4
    rows = analysis.agreement(replace(toy, brief=results(np.arange(8), losses)))
    by = {(row["of"], row["by"], row["rules"]): row["spearman"][0] for row in rows}
    assert by[("two seeds, brief", "loss", "all")] == pytest.approx(1)
    assert by[("brief and long", "loss", "the best quarter")] == pytest.approx(-0.5)


def test_tiers_end_where_the_interval_leaves_0(toy):
    rows = analysis.tiers(toy)
    found = [(row["name"], row["tier"], row["known"]) for row in rows]
    assert found[:4] == [
        (RULES[7], 1, None),
        (RULES[2], 1, "adam"),  # 0.01 worse, but uncertain
        (RULES[6], 2, None),
        (RULES[1], 3, "momentum"),  # 0.01 worse on every seed
    ]
    assert len(rows) == 8  # the four other known ones are behind; momentum and adam are not there twice
    assert rows[0]["loss"] == pytest.approx(0.2)
    assert rows[0]["behind"] == (0, 0, 0)
    assert rows[2]["behind"] == (0, 0, 0)


def test_what_diverges_is_the_last_tier(toy):
    fresh = toy.fresh.losses.copy()
    fresh[:2, 0, 3] = np.inf
    rows = analysis.tiers(replace(toy, fresh=replace(toy.fresh, losses=fresh)))
    assert [row["loss"] for row in rows[-2:]] == [np.inf, np.inf]
    assert rows[-1]["tier"] == rows[-2]["tier"] == rows[-3]["tier"] + 1


def test_optimism(toy):
    fresh = results([7, 2, 6], np.array([0.3, 0.2, 0.25])[:, None, None] * np.ones(8), (1e-2,))
    rows = analysis.optimism(replace(toy, fresh=fresh), (2, 3))
    assert rows[0]["selected"] == pytest.approx((0.15 + 0.2) / 2)
    assert rows[0]["fresh"] == pytest.approx((0.3 + 0.2) / 2)
    assert rows[1]["spearman"][0] == pytest.approx(-0.5)


# ---- transfer


@pytest.fixture
def many():
    random = np.random.default_rng(3)
    losses = random.permutation(np.linspace(0.2, 2, 1000))
    return results(np.arange(1000) * 2, swept(losses))


def test_strata_are_parts_of_the_ranking(many):
    strata = transfer.strata_of(many)
    assert np.bincount(strata).tolist() == [10, 40, 200, 250, 250, 250]
    for stratum in range(5):
        assert many.best[strata == stratum].max() < many.best[strata == stratum + 1].min()


def test_a_sample_has_equal_numbers_of_each_stratum_and_a_smaller_one_is_part_of_it(many, monkeypatch):
    monkeypatch.setattr(
        transfer, "TARGETS", {"large": Target(8, 5, (0,), 7, 0, 2), "small": Target(3, 5, (0, 1), 3, 1, 1)}
    )
    outside = int(many.classes[np.argsort(many.best)[500]])
    large, strata = transfer.stage("large", many, (outside,))
    small, fewer = transfer.stage("small", many, (outside,))
    assert np.bincount(strata[strata != KNOWN]).tolist() == [8] * 6
    assert np.bincount(fewer[fewer != KNOWN]).tolist() == [3] * 6
    assert set(small.classes) <= set(large.classes)
    assert large.classes[-1] == outside
    assert strata[-1] == KNOWN
    assert set(large.rates) == {RELATIVE_RATES}
    assert set(small.rates) == {RELATIVE_RATES[2:5]}
    assert small.recipe.rungs == ((5, 3),)


@pytest.mark.parametrize(("best", "expected"), [(0, (0, 3)), (6, (4, 7)), (5, (4, 7)), (4, (3, 6))])
def test_rates_stay_on_the_grid(many, monkeypatch, best, expected):
    monkeypatch.setattr(transfer, "TARGETS", {"small": Target(3, 5, (0,), 3, 1, 1)})
    losses = np.roll(many.losses, best - 3, axis=1)
    small, _ = transfer.stage("small", replace(many, losses=losses), ())
    assert set(small.rates) == {RELATIVE_RATES[slice(*expected)]}


def sampled(many, target_losses):
    strata = transfer.strata_of(many)
    places = np.concatenate([np.flatnonzero(strata == stratum)[:10] for stratum in range(6)])
    found = results(many.classes[places], target_losses(many.best[places])[:, None, None], (1e-2,))
    return Transfer(found, strata[places])


def proxy_of(many):
    losses = np.full(2000, np.nan)
    losses[many.classes] = many.best
    return losses


def test_a_ranking_that_transfers_has_correlation_1(many):
    found = transfer.correlations(proxy_of(many), sampled(many, np.sqrt))
    assert list(found) == ["all", "best quarter", *map(transfer.stratum_name, range(6))]
    assert all(value == pytest.approx((1, 1, 1)) for value in found.values())


def test_strata_weigh_as_much_as_they_hold(many):
    """Reversed within the best 5 %, which hardly weighs in all."""
    edge = np.sort(many.best)[50]
    found = transfer.correlations(
        proxy_of(many), sampled(many, lambda losses: np.where(losses < edge, edge - losses, losses))
    )
    assert found["all"][0] > 0.99
    assert found["0 to 1 %"][0] == pytest.approx(-1)
    assert found["1 to 5 %"][0] == pytest.approx(-1)
    assert found["5 to 25 %"][0] == pytest.approx(1)
    assert 0.8 < found["best quarter"][0] < 0.99


def test_known_optimizers_beside_the_sample_do_not_count(many):
    whole = sampled(many, np.sqrt)
    strata = whole.strata.copy()
    strata[0] = KNOWN
    losses = whole.results.losses.copy()
    losses[0] = 99
    found = transfer.correlations(proxy_of(many), Transfer(replace(whole.results, losses=losses), strata))
    assert found["all"][0] == pytest.approx(1)


def test_transfers_of_a_table(toy):
    sample = Transfer(results([0, 2, 6, 7], np.array([0.9, 0.5, 0.6, 0.4])[:, None, None]), np.array([3, 1, 2, 0]))
    rows = analysis.transfers(replace(toy, transfers={"mnist": sample}))
    by = {(row["child"], row["proxy"], row["rules"]): row["spearman"][0] for row in rows}
    assert by == {
        ("mnist", "brief", "best quarter"): pytest.approx(1),
        ("mnist", "long", "best quarter"): pytest.approx(1),
    }  # not of all, as two strata have no rules


def test_a_target_that_is_unknown_is_refused():
    with pytest.raises(SearchError, match="nothing is known of a transfer to 'imagenet'; choose of mnist, cifar10"):
        transfer.check(["imagenet"])


# ---- the page


def test_tables_are_put_between_their_marks():
    text = "a\n<!-- table: counts -->\nold\n<!-- end -->\nb\n<!-- table: known -->\n<!-- end -->\n"
    once = page.filled(text, {"counts": "new", "known": "also"})
    assert once == "a\n<!-- table: counts -->\nnew\n<!-- end -->\nb\n<!-- table: known -->\nalso\n<!-- end -->\n"
    assert page.filled(once, {"counts": "new", "known": "also"}) == once
    with pytest.raises(SearchError, match="no table 'known'; choose of counts"):
        page.filled(text, {"counts": "new"})


def test_markdown_has_thousands_and_keeps_bars_in_cells():
    assert page.markdown(("a", "b"), [("x | y", 1234)]) == "| a | b |\n| --- | --- |\n| x \\| y | 1,234 |"
