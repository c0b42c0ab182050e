"""Rounds, the store of results and the evaluator: nothing is trained twice, and a search is played again exactly."""

import json
import math
import sqlite3
from random import Random

import numpy as np
import pytest

from descend.experiments.errors import RunError
from descend.experiments.workers import Here, Pool
from descend.search import children
from descend.search.evaluation import RUNGS, Evaluator, Outcome, Recipe, chunks
from descend.search.nos import Nos
from descend.search.policies import Evolution, RandomSearch
from descend.search.rounds import rounds
from descend.search.screening import Screening
from descend.search.space import SearchError
from descend.search.store import Store
from descend.search.training import Trained

SPACE = Nos(1)
BRIEF = Recipe("digits", rungs=((3, 7), (5, 2)))


class Scripted:
    """A policy that proposes what it was given, and remembers what it was told."""

    name = "scripted"

    def __init__(self, proposals):
        self.proposals, self.told = list(proposals), []

    def ask(self, count):
        asked, self.proposals = self.proposals[:count], self.proposals[count:]
        return asked or ["-"] * count

    def tell(self, members, results):
        self.told += [(member, result.reward, result.repeat) for member, result in zip(members, results, strict=True)]


def search(proposals, **options):
    evaluated = []

    def evaluate(wanted):
        evaluated.append([member for _, member in wanted])
        return [ord(key) / 200 for key, _ in wanted]

    policy = Scripted(proposals)
    identify = lambda member: None if member == "-" else member[0]  # noqa: E731
    return policy, list(rounds(policy, identify, evaluate, **options)), evaluated


def test_a_class_is_evaluated_once_and_told_in_the_order_of_asking():
    policy, found, evaluated = search(["a1", "b1", "-", "a2", "b1", "c1", "a1", "d1"], size=4, limit=4)
    assert evaluated == [["a1", "b1"], ["c1", "d1"]]
    a, b, c, d = (ord(letter) / 200 for letter in "abcd")
    assert policy.told == [
        ("a1", a, False),
        ("b1", b, False),
        ("-", None, False),
        ("a2", a, True),
        ("b1", b, True),
        ("c1", c, False),
        ("a1", a, True),
        ("d1", d, False),
    ]
    assert [one.new for one in found] == [("a", "b"), ("c", "d")]
    assert [one.number for one in found] == [0, 1]


def test_a_limit_is_exact():
    policy, found, evaluated = search(["a1", "b1", "c1", "d1", "e1"], size=5, limit=3)
    assert evaluated == [["a1", "b1", "c1"]]
    assert [member for member, *_ in policy.told] == ["a1", "b1", "c1"]
    assert len(found) == 1


def test_a_policy_that_repeats_itself_for_ever_ends():
    _, found, evaluated = search(["a1"], size=1, limit=5)
    assert evaluated == [["a1"]]
    assert 200 < len(found) < 1000


def test_a_search_is_played_again():
    screening = Screening(SPACE)
    rewards = {}

    def reward(wanted):
        for key, _ in wanted:
            rewards.setdefault(key, Random(key).random())
        return [rewards[key] for key, _ in wanted]

    def played(limit):
        policy = Evolution(SPACE, seed=5, identify=screening.identify, population=8, tournament=3)
        return [
            (proposal.member, proposal.result)
            for one in rounds(policy, screening.identify, reward, size=8, limit=limit)
            for proposal in one.proposals
        ]

    whole = played(60)
    assert whole[: len(played(30))] == played(30)
    assert played(60) == whole


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "search.db")
    yield made
    made.close()


def members(count, seed=0):
    random, screening, found = Random(seed), Screening(SPACE), {}
    while len(found) < count:
        member = SPACE.random(random)
        if (key := screening.identify(member)) is not None:
            found.setdefault(key, member)
    return list(found.items())


def test_results_are_kept_in_one_transaction(store, tmp_path):
    store.add("search", [("k", "g g x x left", {"rate": 0.1})])
    store.add_round(0, 1.5)
    store.add_round(0, 9.0)  # a round that is played again keeps its time
    other = Store(tmp_path / "search.db")
    assert other.results("search") == {"k": {"rate": 0.1}}
    assert other.members("search") == {"k": "g g x x left"}
    assert other.results("fresh") == {}
    assert other.seconds() == {0: 1.5}
    other.close()


def test_a_file_that_is_no_store_says_so(tmp_path):
    (tmp_path / "search.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(RunError, match=r"search\.db cannot be opened .* start over with --fresh"):
        Store(tmp_path / "search.db")


def test_a_full_disk_says_so(store):
    store._connection.execute("PRAGMA max_page_count = 8")
    with pytest.raises(RunError, match="make room"):
        store.add("search", [(str(k), "x" * 2000, {}) for k in range(100)])
    assert store.results("search") == {}


def test_an_outcome_is_kept_as_json():
    outcome = Outcome(0.1, (0.5, math.inf), (0.9, 0.0))
    assert Outcome.of(json.loads(json.dumps(outcome.as_dict()))) == outcome
    assert outcome.reward("loss") == 0
    assert outcome.reward("accuracy") == 0.45
    assert Outcome(0.1, (0.5, 0.7), (1, 1)).reward("loss") == pytest.approx(math.exp(-0.6))


def test_a_recipe_knows_its_rewards():
    with pytest.raises(SearchError, match="loss or accuracy"):
        Recipe("digits", reward="speed")


def test_rewards_do_not_depend_on_the_hands_or_on_what_was_kept(tmp_path):
    wanted = members(11)
    found = {}
    for name in ("here", "pool", "kept"):
        store = Store(tmp_path / f"{name}.db")
        if name == "kept":  # some of them were trained by an earlier process
            Evaluator(SPACE, Screening(SPACE), BRIEF, store, Here(None))(wanted[:5])
        with Pool("digits", {}, 2) if name == "pool" else Here(None) as hands:
            evaluator = Evaluator(SPACE, Screening(SPACE), BRIEF, store, hands)
            rewards = evaluator(wanted)
        found[name] = rewards, store.results("search")
        store.close()
    assert found["here"] == found["pool"]
    assert found["kept"][0] == found["here"][0]
    assert any(reward > 0 for reward in found["here"][0])


def test_what_is_kept_is_not_trained(store, monkeypatch):
    wanted = members(3)
    evaluator = Evaluator(SPACE, Screening(SPACE), BRIEF, store, Here(None))
    rewards = evaluator(wanted)
    monkeypatch.setattr("descend.search.evaluation.train", None)
    assert Evaluator(SPACE, Screening(SPACE), BRIEF, store, Here(None))(wanted) == rewards
    with pytest.raises(TypeError):
        evaluator(members(4))


def test_chunks_are_cut_alike_and_whole():
    wanted = [member for _, member in members(20)]
    cut = chunks(SPACE, wanted, [[0.1] * 7] * 20, Recipe("digits"))
    assert [len(chunk.members) for chunk in cut] == [8, 8, 4]
    assert [member for chunk in cut for member in chunk.members] == wanted
    assert [chunk.number for chunk in cut] == [0, 1, 2]


def test_the_outcome_is_that_of_the_best_rate(store, monkeypatch):
    losses = np.full((1, 7, 2, 1), 2.0)
    losses[0, 3] = [[0.1], [0.3]]
    losses[0, 4] = [[0.0], [math.inf]]  # one seed diverged
    fake = Trained(np.arange(1.0, 8.0)[None], losses, np.exp(-losses))
    monkeypatch.setattr("descend.search.evaluation.train", lambda *args, **options: fake)
    [(key, member)] = members(1)
    (reward,) = Evaluator(SPACE, Screening(SPACE), Recipe("digits"), store, Here(None))([(key, member)])
    assert reward == pytest.approx(math.exp(-0.2))
    assert store.results("search")[key]["rate"] == 4.0


def test_rates_are_relative_to_the_size(store, monkeypatch):
    seen = []

    def train(child, rules, rates, seeds, **options):
        seen.extend(rates)
        shape = (len(rules), 7, 2, 1)
        return Trained(np.array(rates), np.ones(shape), np.ones(shape))

    monkeypatch.setattr("descend.search.evaluation.train", train)
    screening, wanted = Screening(SPACE), members(3)
    Evaluator(SPACE, screening, Recipe("digits"), store, Here(None))(wanted)
    for (_, member), rates in zip(wanted, seen, strict=True):
        np.testing.assert_allclose(np.array(rates) * screening.examine(member).size, Recipe("digits").rates)


def test_every_child_has_its_rungs():
    assert set(RUNGS) == set(children.names())
    for child in RUNGS:
        recipe = Recipe.of(child, "accuracy")
        assert recipe.rungs[0][1] == len(recipe.rates)
        assert recipe.reward == "accuracy"
    # five epochs of 10,000 examples in batches of 100, after a sweep over one
    assert [step * 100 for step, _ in Recipe.of("cifar10").rungs] == [10_000, 50_000]


def test_random_search_is_the_space_s_own_draw():
    random = Random(3)
    expected = [SPACE.random(random) for _ in range(5)]
    assert RandomSearch(SPACE, seed=3).ask(5) == expected


def test_the_database_survives_a_killed_writer(store, tmp_path):
    store.add("search", [("a", "text", {"rate": 1.0})])
    half = sqlite3.connect(tmp_path / "search.db")
    half.execute("INSERT INTO results VALUES ('search', 'b', 'text', '{}')")  # never committed
    half.close()
    assert set(Store(tmp_path / "search.db").results("search")) == {"a"}
