"""The map of depth one: that the published table is what this code makes, and the benchmark that rests on it."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from descend import tasks
from descend.experiments.workers import Here
from descend.search import benchmark, children
from descend.search.known import SENTENCES
from descend.search.map import enumeration, making, stages, table, transfer
from descend.search.map.enumeration import SPACE, VERDICTS, Classes, place_of
from descend.search.policies import RandomSearch
from descend.search.screening import Screening
from descend.search.space import SearchError
from descend.search.store import Store
from descend.search.training import train


@pytest.fixture(scope="module")
def published():
    return table.published()


KNOWN = [SPACE.decode(SENTENCES[name]) for name in ("sgd", "adam")]


def small_classes(count=12):
    """Some classes, found the way all are, but among few sentences: two known optimizers and random ones."""
    screening, random, found = Screening(SPACE), Random(1), {}
    of_sentence = np.full(SPACE.count, -1, dtype=np.int32)
    waiting = list(KNOWN)
    while len(found) < count:
        sentence = waiting.pop() if waiting else SPACE.random(random)
        examined = screening.examine(sentence)
        if examined.key:
            found.setdefault(examined.key, (sentence, examined))
            of_sentence[place_of(sentence)] = list(found).index(examined.key)
    kept = list(found.values())
    return Classes(
        of_sentence,
        np.array([sentence for sentence, _ in kept], dtype=np.uint8),
        tuple(found),
        np.array([VERDICTS.index(examined.verdict) for _, examined in kept], dtype=np.uint8),
        np.array([examined.cosine for _, examined in kept], dtype=np.float32),
        np.array([examined.size for _, examined in kept], dtype=np.float32),
        count,
        (1, 2),
    )


@pytest.fixture
def brief_stages(monkeypatch):
    monkeypatch.setattr(stages, "STEPS", 2)
    monkeypatch.setattr(stages, "LONG_STEPS", 4)
    monkeypatch.setattr(stages, "TOP", 1)


def made(folder, monkeypatch, classes, targets=()):
    monkeypatch.setattr(enumeration, "enumerate_classes", lambda hands, done: classes)
    store = Store(folder / "map.db")
    try:
        return making.make(folder, store, Here(None), "digits", making.Silence(), targets)
    finally:
        store.close()


def test_a_map_is_made_kept_and_read(tmp_path, monkeypatch, brief_stages):
    classes = small_classes()
    one = made(tmp_path, monkeypatch, classes)
    other = table.read(tmp_path / making.TABLE)
    descending = (classes.verdicts == 0).sum()
    assert one.brief.losses.shape == (descending, 7, 2)
    assert one.long.losses.shape == (int(np.ceil(descending / 4)), 3, 2)
    assert one.fresh.losses.shape == (1, 1, 8)
    assert one.known.losses.shape == (2, 7, 2)
    assert one.known_fresh.losses.shape == (2, 1, 8)
    assert one.known_fresh.rates[:, 0].tolist() == [
        rates[means.argmin()] for rates, means in zip(one.known.rates, one.known.means, strict=True)
    ]
    for name in table.STAGES:
        ours, theirs = getattr(one, name), getattr(other, name)
        np.testing.assert_array_equal(ours.classes, theirs.classes)
        np.testing.assert_array_equal(ours.rates, theirs.rates)
        np.testing.assert_allclose(ours.losses, theirs.losses, rtol=1e-3)
        np.testing.assert_allclose(ours.accuracies, theirs.accuracies, atol=1e-4)
    np.testing.assert_array_equal(one.of_sentence, other.of_sentence)
    assert other.facts["child"] == "digits"


def test_a_map_goes_on_where_it_was_stopped(tmp_path, monkeypatch, brief_stages):
    classes = small_classes()
    whole = made(tmp_path, monkeypatch, classes)
    calls = []
    run = Here.run
    monkeypatch.setattr(Here, "run", lambda self, work, jobs, started: run(self, work, [*jobs, *calls], started))
    trained = []
    monkeypatch.setattr(
        "descend.search.evaluation.train", lambda *args, **options: trained.append(args) or train(*args, **options)
    )
    again = made(tmp_path, monkeypatch, classes)
    assert not trained
    np.testing.assert_array_equal(again.fresh.losses, whole.fresh.losses)
    # half of a stage is lost
    store = Store(tmp_path / "map.db")
    with store._connection:
        store._connection.execute("DELETE FROM results WHERE stage = 'brief' AND rowid % 2 = 0")
    store.close()
    once_more = made(tmp_path, monkeypatch, classes)
    assert trained
    np.testing.assert_array_equal(once_more.brief.losses, whole.brief.losses)
    np.testing.assert_array_equal(once_more.fresh.losses, whole.fresh.losses)


@pytest.fixture
def other_child(monkeypatch):
    """A child to which the ranking may transfer: narrower than the proxy."""
    made = children.Perceptron("other", lambda: tasks.load("digits"), (64, 8, 10), 64)
    monkeypatch.setitem(children._REGISTRY, "other", lambda: made)
    monkeypatch.setattr(transfer, "TARGETS", {"other": transfer.Target(1, 3, (4,), rates=3, below=1, together=2)})
    children.load.cache_clear()
    yield
    children.load.cache_clear()


def test_a_sample_is_trained_on_other_children_and_kept(tmp_path, monkeypatch, brief_stages, other_child):
    classes = small_classes(30)
    one = made(tmp_path, monkeypatch, classes, ["other", "digits"])
    other = table.read(tmp_path / making.TABLE)
    assert list(one.transfers) == list(other.transfers) == ["other"]  # the proxy is no target
    ours, theirs = one.transfers["other"], other.transfers["other"]
    np.testing.assert_array_equal(ours.strata, theirs.strata)
    np.testing.assert_array_equal(ours.results.classes, theirs.results.classes)
    np.testing.assert_allclose(ours.results.losses, theirs.results.losses, rtol=1e-3)
    assert set(map(int, ours.results.classes)) > {int(classes.of_sentence[place_of(sentence)]) for sentence in KNOWN}
    number, rates = ours.results.classes[0], ours.results.rates[0]
    rule = SPACE.rule(classes.sentence(int(number)))
    again = train("other", [rule], [rates / float(classes.sizes[number])], (4,), rungs=((3, 3),))
    np.testing.assert_array_equal(again.losses[0, :, :, 0], ours.results.losses[0])
    # another call has nothing left to train
    monkeypatch.setattr("descend.search.evaluation.train", lambda *args, **options: pytest.fail("trained again"))
    once_more = made(tmp_path, monkeypatch, classes, ["other"])
    np.testing.assert_array_equal(once_more.transfers["other"].results.losses, ours.results.losses)


def test_a_target_without_data_is_told_before_anything_is_done(tmp_path, monkeypatch, brief_stages, other_child):
    def missing():
        raise tasks.TaskError("no such data")

    monkeypatch.setitem(children._REGISTRY, "other", lambda: children.Perceptron("other", missing, (64, 8, 10), 64))
    with pytest.raises(tasks.TaskError, match="no such data"):
        made(tmp_path, monkeypatch, small_classes(), ["other"])
    assert not (tmp_path / "classes.npz").exists()


def test_stages_take_the_best(tmp_path, monkeypatch, brief_stages):
    found = made(tmp_path, monkeypatch, small_classes(30))
    best = found.brief.best
    chosen = np.isin(found.brief.classes, found.long.classes)
    assert best[chosen].max() <= best[~chosen].min()
    for number, rates in zip(found.long.classes, found.long.rates, strict=True):
        means = found.brief.means[list(found.brief.classes).index(number)]
        assert set(rates) == {found.brief.rates[0][k] for k in np.argsort(means, kind="stable")[:3]}
    assert found.fresh.classes[0] == found.long.classes[found.long.best.argmin()]


def test_a_damaged_file_of_classes_is_made_anew(tmp_path):
    (tmp_path / "classes.npz").write_bytes(b"PK nothing")
    assert enumeration.read(tmp_path / "classes.npz") is None
    classes = small_classes()
    enumeration.save(classes, tmp_path / "classes.npz")
    again = enumeration.read(tmp_path / "classes.npz")
    assert again.keys == classes.keys
    np.testing.assert_array_equal(again.of_sentence, classes.of_sentence)


def test_a_file_that_is_no_map_says_so(tmp_path):
    (tmp_path / "map.npz").write_bytes(b"nothing")
    with pytest.raises(SearchError, match="make one with `descend search --map`"):
        table.read(tmp_path / "map.npz")


# ---- the published map


def test_the_published_map_has_every_sentence(published):
    assert published.of_sentence.shape == (249_696,)
    assert 70_000 < len(published.sentences) < 80_000
    assert 20_000 < len(published.brief.classes) < 30_000
    assert len(published.fresh.classes) == 1000
    assert published.fresh.losses.shape[2] == 8
    for number in range(0, len(published.sentences), 1000):
        assert published.of_sentence[place_of(published.sentence(number))] == number


def test_the_published_classes_are_those_of_the_probes(published):
    screening, random = Screening(SPACE), Random(4)
    for _ in range(150):
        sentence = SPACE.random(random)
        number = int(published.of_sentence[place_of(sentence)])
        examined = screening.examine(sentence)
        assert (number < 0) == (examined.key == "")
        if number >= 0:
            simplest = screening.examine(published.sentence(number))
            assert simplest.key == examined.key
            assert VERDICTS[published.verdicts[number]] == examined.verdict == simplest.verdict
            assert published.sizes[number] == pytest.approx(simplest.size, rel=1e-5)


def test_the_published_losses_are_those_of_the_training(published):
    random = np.random.default_rng(2)
    rows = random.choice(len(published.brief.classes), 4, replace=False)
    numbers = published.brief.classes[rows]
    rates = published.brief.rates[rows] / published.sizes[numbers].astype(np.float64)[:, None]
    rules = [SPACE.rule(published.sentence(int(number))) for number in numbers]
    again = train("digits", rules, rates, (0, 1), rungs=((30, 7),))
    expected = published.brief.losses[rows]
    tame = np.isfinite(expected) & (expected < 3)  # what all but diverges is told by its last bits
    np.testing.assert_allclose(again.losses[..., 0][tame], expected[tame], rtol=5e-3)


def test_the_known_rules_stand_in_the_published_map(published):
    for name, text in SENTENCES.items():
        if "|" in text:
            continue
        number = published.class_of(SPACE.decode(text))
        assert number is not None, name
        assert published.rewards[number] > 0.5, name
        assert published.ranks[number] < len(published.brief.classes) / 2, name


@pytest.mark.long
def test_the_published_map_is_enumerated_again(published):
    classes = enumeration.enumerate_classes(Here(None))
    np.testing.assert_array_equal(classes.of_sentence, published.of_sentence)
    np.testing.assert_array_equal(classes.sentences, published.sentences)
    np.testing.assert_array_equal(classes.verdicts, published.verdicts)


# ---- the benchmark


def toy_table(published):
    """The published map with rewards that are known: the first operand decides."""
    brief = published.brief
    losses = np.full(brief.losses.shape, 2.0)
    losses[:] = (1 + published.sentences[brief.classes, 0] / 10)[:, None, None]
    return replace(published, brief=replace(brief, losses=losses))


def test_regret_and_rank_are_those_of_the_best_so_far(published):
    found = benchmark.run({"random": lambda seed: RandomSearch(SPACE, seed=seed)}, evaluations=40, seeds=(1, 2))
    curves = found["random"]
    assert curves.regrets.shape == curves.ranks.shape == (2, 40)
    for seed, regrets, ranks in zip((1, 2), curves.regrets, curves.ranks, strict=True):
        seen, best, expected = set(), 0.0, []
        policy = RandomSearch(SPACE, seed=seed)
        while len(expected) < 40:
            (sentence,) = policy.ask(1)
            number = published.class_of(sentence)
            if number is None or number in seen:
                continue
            seen.add(number)
            best = max(best, published.rewards[number])
            expected.append(np.nanmax(published.rewards) - best)
        np.testing.assert_allclose(regrets, expected)
        assert ranks[-1] == 1 + (published.rewards[published.brief.classes] > best).sum()
        assert (np.diff(regrets) <= 0).all()
    assert (curves.proposals > 40).all()


def test_the_optimum_has_no_regret_and_the_first_rank(published):
    best = int(np.nanargmax(published.rewards))

    class Oracle(RandomSearch):
        def ask(self, count):
            return [published.sentence(best)] * count

    curves = benchmark.run({"oracle": lambda seed: Oracle(SPACE, seed=seed)}, evaluations=3, seeds=(0,))["oracle"]
    assert curves.regrets.tolist() == [[0, 0, 0]]
    assert curves.ranks.tolist() == [[1, 1, 1]]


def test_the_summary_has_medians_and_differences(published):
    found = benchmark.run(
        {name: made for name, made in benchmark.policies().items() if name in ("random", "evolution")},
        evaluations=60,
        seeds=range(6),
    )
    rows = benchmark.summary(found, at=(30, 60, 100))
    assert [(row["policy"], row["evaluations"]) for row in rows] == [
        ("random", 30),
        ("random", 60),
        ("evolution", 30),
        ("evolution", 60),
    ]
    assert rows[0]["regret"][0] == np.median(found["random"].regrets[:, 29])
    assert rows[0]["regret"][1] <= rows[0]["regret"][0] <= rows[0]["regret"][2]
    assert "better by" not in rows[0]
    assert rows[2]["better by"][0] == rows[0]["regret"][0] - rows[2]["regret"][0]
    assert 0 <= rows[3]["probability"] <= 1


def test_a_policy_of_ones_own_is_measured_on_a_table_of_ones_own(published):
    toy = toy_table(published)

    class FirstOperand(RandomSearch):
        name = "first operand"

        def ask(self, count):
            return [(0, *sentence[1:]) for sentence in super().ask(count)]

    made = {
        "random": lambda seed: RandomSearch(SPACE, seed=seed),
        "mine": lambda seed: FirstOperand(SPACE, seed=seed),
    }
    rows = benchmark.summary(benchmark.run(made, evaluations=10, seeds=range(8), table=toy), at=(10,))
    assert rows[1]["regret"][0] == 0
    assert rows[1]["probability"] >= 0.5


def test_evolution_beats_random_search_on_the_map(published):
    """At 300 distinct evaluations the interval of the difference of medians is above 0, on seeds tuned on nothing."""
    found = benchmark.run(
        {name: made for name, made in benchmark.policies().items() if name in ("random", "evolution")},
        evaluations=300,
    )
    (row,) = [row for row in benchmark.summary(found, at=(300,)) if row["policy"] == "evolution"]
    assert row["better by"][1] > 0
    assert row["probability"] > 0.5


@pytest.mark.long
def test_evolution_beats_random_search_on_the_map_at_a_thousand(published):
    found = benchmark.run(
        {name: made for name, made in benchmark.policies().items() if name in ("random", "evolution")},
        evaluations=1000,
    )
    (row,) = [row for row in benchmark.summary(found, at=(1000,)) if row["policy"] == "evolution"]
    assert row["better by"][1] > 0


@pytest.mark.long
def test_the_controller_beats_random_search_on_the_map(published):
    found = benchmark.run(
        {name: made for name, made in benchmark.policies().items() if name in ("random", "controller")},
        evaluations=300,
    )
    (row,) = [row for row in benchmark.summary(found, at=(300,)) if row["policy"] == "controller"]
    assert row["better by"][1] > 0
    assert row["probability"] > 0.5
