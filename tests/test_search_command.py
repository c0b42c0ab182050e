"""`descend search`: the same leaderboard for any number of workers, however often it is stopped; and its exports.

Run as a script, this file writes the schema in docs anew.
"""

import copy
import hashlib
import importlib.util
import json
import math
import re
from functools import partial
from pathlib import Path
from random import Random

import jsonschema
import pytest
import scipy.stats
import torch

import descend as package
import descend.report
from descend import cli, commands
from descend.backends import compiler
from descend.commands import searching
from descend.experiments.errors import Interrupted, RunError, UsageError
from descend.report.decoding import decode
from descend.report.search_results import SearchResults
from descend.search import budget, children, evaluation, leaderboard, probes, run, shipped
from descend.search.budget import Budget
from descend.search.evaluation import Outcome, Recipe
from descend.search.leaderboard import Candidate, Row
from descend.search.nos import Nos
from descend.search.policies import RandomSearch
from descend.search.programs import Programs
from descend.search.progress import Silence
from descend.search.screening import Screening
from descend.search.shipped import Shipped
from descend.search.store import Store
from descend.tasks import TaskError
from search_results import numbers

ROOT = Path(__file__).parents[1]
EXAMPLE = Path(__file__).parent / "search_example.json"
SCHEMA = ROOT / "docs" / "search.schema.json"
TINY = {"rungs": [(2, 7), (4, 2)], "quick": True, "held_out": [], "workers": 1, "budget": 40}
needs_compiler = pytest.mark.skipif(compiler.unavailable() is not None, reason="no kernels here")


def schema_text():
    return json.dumps(descend.report.schema("search"), indent=1) + "\n"


def find(out, **options):
    return package.find_rules(**{**TINY, "out": out, **options})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A search that nothing stopped."""
    return find(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def example(tmp_path):
    """The directory of a finished search."""
    found = json.loads(EXAMPLE.read_text())
    folder = tmp_path / "example"
    folder.mkdir()
    (folder / "search.json").write_text(EXAMPLE.read_text())
    (folder / "manifest.json").write_text(json.dumps(found["manifest"]))
    return folder


class Stopping(Silence):
    """Stops a search as Ctrl-C does: after some rounds, or within a stage of the leaderboard."""

    def __init__(self, rounds=math.inf, stage=None):
        self.left, self.stage = rounds, stage

    def searched(self, done, counts, best):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt

    def training(self, what, total):
        def finished(count):
            if what == self.stage and count:
                raise KeyboardInterrupt

        return finished


# ---- the same numbers


def test_two_workers_find_the_same(whole, tmp_path):
    assert numbers(find(tmp_path / "run", workers=2).results) == numbers(whole.results)


@pytest.mark.parametrize("stop", [{"rounds": 1}, {"rounds": 2}, {"stage": "grid"}, {"stage": "fresh"}], ids=str)
def test_a_search_that_was_stopped_ends_with_the_same_numbers(whole, tmp_path, stop):
    with pytest.raises(Interrupted) as caught:
        find(tmp_path / "run", progress=lambda: Stopping(**stop))
    said = str(caught.value)
    assert re.match(r"stopped after \d+ of \d+ (evaluations|rules in the stage \w+ of the leaderboard), which", said)
    assert said.splitlines()[-1].strip().startswith("descend search --space nos --policy evolution --task digits")
    assert "--held-out none" in said
    assert not (tmp_path / "run" / "search.json").exists()
    assert numbers(find(tmp_path / "run").results) == numbers(whole.results)


def test_nothing_is_trained_twice(whole, tmp_path, monkeypatch):
    for progress in (partial(Stopping, rounds=2), partial(Stopping, stage="fresh")):
        with pytest.raises(Interrupted):
            find(tmp_path / "run", progress=progress)
    trained, before = [], evaluation.work
    monkeypatch.setattr(
        "descend.search.evaluation.work", lambda task, chunk: trained.append(chunk) or before(task, chunk)
    )
    find(tmp_path / "run")
    rules = sum(len(chunk.members) for chunk in trained)
    assert {chunk.recipe.seeds for chunk in trained} == {(2, 3, 4)}  # what the last stage lacked
    assert 0 < rules < len(whole.results["leaderboard"])


def test_a_finished_search_is_read(whole, monkeypatch):
    monkeypatch.setattr("descend.search.evaluation.work", None)
    assert find(whole.directory).results == whole.results


def test_other_options_are_refused(whole):
    with pytest.raises(RunError, match=r"\(seed: 0 there, 1 now\); start over with --fresh"):
        find(whole.directory, seed=1)


def test_fresh_starts_over(tmp_path):
    find(tmp_path / "run", budget=3)
    (tmp_path / "run" / "rules").mkdir()
    found = find(tmp_path / "run", budget=4, fresh=True)
    assert found.results["counts"]["evaluated"] == 4
    assert not (tmp_path / "run" / "rules").exists()


@pytest.mark.parametrize("options", [{"space": "programs"}, {"policy": "controller", "depth": 2}, {"policy": "random"}])
def test_other_searches(tmp_path, options):
    found = find(tmp_path / "run", budget=6, reward="accuracy", **options)
    assert found.results["counts"]["evaluated"] == 6
    assert found.results["best_rewards"] == sorted(found.results["best_rewards"])
    if "space" in options:
        assert found.results["improvements"][0]["member"] == Programs().encode(Programs().start)


def test_test_examples_are_not_seen(whole, tmp_path, monkeypatch):
    kind = type(package.tasks.load("digits"))
    tensors = kind.tensors

    def spoilt(task):
        found = tensors(task)
        x, y = found["test"]
        return {**found, "test": (torch.full_like(x.double(), math.nan).to(x.dtype), torch.zeros_like(y))}

    monkeypatch.setattr(kind, "tensors", spoilt)
    children.load.cache_clear()
    try:
        assert numbers(find(tmp_path / "run").results) == numbers(whole.results)
    finally:
        children.load.cache_clear()


# ---- budgets


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("90s", Budget(seconds=90)),
        ("20m", Budget(seconds=1200)),
        ("1.5h", Budget(seconds=5400)),
        (" 2000 ", Budget(evaluations=2000)),
        (7, Budget(evaluations=7)),
    ],
)
def test_budgets(given, wanted):
    assert budget.parse(given) == wanted


@pytest.mark.parametrize(
    "given", ["20 minutes", "-3", "0", "0s", "", "2.5", "1d", "nan", "inf", True, "1e3", None, "m"]
)
def test_no_budgets(given):
    with pytest.raises(UsageError, match=r"90s, 20m or 1\.5h, or a number of distinct evaluations, such as 2000"):
        budget.parse(given)


class Clock:
    """A clock that stands until work is done."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def timed(folder, per_evaluation, spent=Budget(seconds=10), rounds=math.inf):  # noqa: B008 (frozen)
    """A search with made-up rewards, each of which takes so long; what is kept is for nothing."""
    space, clock, store = Nos(1), Clock(), Store(folder / "store.db")
    screening = Screening(space)
    kept = store.results("search")

    def evaluate(wanted):
        found = []
        for key, member in wanted:
            if key not in kept:
                clock.now += per_evaluation
                kept[key] = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 2**32
                store.add("search", [(key, space.encode(member), kept[key])])
            found.append(kept[key])
        return found

    policy = RandomSearch(space, seed=5)
    try:
        return run.search(policy, space, screening, evaluate, store, spent, Stopping(rounds), clock=clock)
    finally:
        store.close()


def test_a_budget_of_time_ends_with_the_round_that_spends_it(tmp_path):
    found = timed(tmp_path, 0.25)
    assert found.counts.seconds >= 10
    assert found.counts.seconds == 0.25 * found.counts.evaluated
    assert found.counts.proposals == 32 * found.counts.rounds
    last = timed(tmp_path, 1e9)  # played again: all is kept, and rounds keep their time
    assert last.counts == found.counts
    assert list(last.members.items()) == list(found.members.items())


def test_a_budget_of_time_is_spent_once(tmp_path):
    whole = timed(tmp_path, 0.125, Budget(evaluations=200))
    folder = tmp_path / "stopped"
    folder.mkdir()
    with pytest.raises(KeyboardInterrupt):
        timed(folder, 0.25, rounds=1)
    found = timed(folder, 2.0)  # on a slower machine now
    first = next(iter(Store(folder / "store.db").seconds().values()))
    assert found.counts.rounds == 2
    assert first < 10 <= found.counts.seconds
    assert list(found.members) == list(whole.members)[: found.counts.evaluated]  # the same proposals, if fewer


def test_a_budget_of_evaluations_is_exact(tmp_path):
    found = timed(tmp_path, 0.1, Budget(evaluations=45))
    assert found.counts.evaluated == len(found.members) == len(found.best_rewards) == 45
    invalid = sum(found.counts.invalid.values())
    assert found.counts.proposals == 45 + found.counts.repeats + invalid
    for number, key in found.improvements:
        assert found.best_rewards[number - 1] == found.members[key][1]
        assert number == 1 or found.best_rewards[number - 2] < found.best_rewards[number - 1]


# ---- the leaderboard


def row(name, losses):
    outcome = Outcome(0.1, tuple(losses), (0.5,) * len(losses))
    mean, low, high = leaderboard.mean_interval(losses)
    return Row(Candidate(name, Shipped(), name, 1.0), outcome, outcome, mean, low, high)


def test_tiers_part_where_a_paired_t_test_does():
    random = Random(0)
    shared = [random.gauss(0, 1) for _ in range(8)]
    rows = [row(str(k), [k * 0.05 + luck + random.gauss(0, 0.1) for luck in shared]) for k in range(12)]
    random.shuffle(rows)
    found = leaderboard.ranked(rows)
    assert [one.mean for one in found] == sorted(one.mean for one in rows)
    assert 2 < found[-1].tier < 8
    best, tier = found[0], 1
    for one in found[1:]:
        tested = scipy.stats.ttest_rel(one.fresh.losses, best.fresh.losses)
        if tested.pvalue < 0.05:
            best, tier = one, tier + 1
            assert one.difference is None
        else:
            mean, low, high = one.difference
            assert (low, high) == pytest.approx(tuple(tested.confidence_interval(0.95)))
            assert low <= 0 <= high
            assert mean == pytest.approx(one.mean - best.mean)
        assert one.tier == tier


def test_what_diverges_is_last_and_together():
    inf = math.inf
    found = leaderboard.ranked([row("a", [1, inf]), row("b", [0.1, 0.2]), row("c", [inf, inf]), row("d", [0.1, 0.2])])
    assert [(one.candidate.key, one.tier) for one in found] == [("b", 1), ("d", 1), ("a", 2), ("c", 2)]


def test_known_rules_are_on_it_and_trained_alike(whole):
    rows = whole.results["leaderboard"]
    assert {one["name"] for one in rows if one["is_known"]} == set(shipped.NAMES)
    assert len(rows) == len(shipped.NAMES) + 8
    for one in rows:
        assert len(one["selection_losses"]) == 2
        assert len(one["fresh_losses"]) == 3
        quarter = math.log10(one["relative_rate"] / 3e-4) * 4
        assert min(abs(quarter - k) for k in (-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13)) < 0.1
        assert one["relative_rate"] == pytest.approx(one["rate"] * one["size"])


def test_the_fresh_losses_are_those_of_trainings(whole):
    for one in whole.results["leaderboard"][:3]:
        rule = package.rules.catalog()[one["name"]] if one["is_known"] else Nos(1).rule(Nos(1).decode(one["member"]))
        trained = package.search.training.train(
            "digits", [rule], [one["rate"]], [2, 3, 4], rungs=((4, 1),), hyper_parameters=one["hyper_parameters"]
        )
        assert trained.losses[0, 0, :, 0].tolist() == one["fresh_losses"]


@pytest.mark.parametrize("name", shipped.NAMES)
def test_sizes_of_known_rules_are_those_of_their_updates(name):
    """Against the rule itself, stepped on the stream of the probes."""
    stream, steps = probes._stream(), max(probes._OBSERVED) + 1
    rule, fixed = package.rules.catalog()[name], shipped.fixed(name)
    params = {"p": torch.tensor(stream.weights[0, probes.MIDDLE])}
    state, squares = rule.init(params, **fixed), []
    for step in range(steps):
        gradients = {"p": torch.tensor(stream.gradients[step, probes.MIDDLE])}
        new, state = rule.update(params, gradients, state, lr=1.0, **fixed)
        if step in probes._OBSERVED:
            squares.append(((new["p"] - params["p"]) ** 2).mean())
    assert shipped.examined(name).size == pytest.approx(float(sum(squares) / len(squares)) ** 0.5, rel=1e-4)


def test_a_known_rule_that_is_found_is_listed_once():
    space = Nos(1)
    screening = Screening(space)
    members = [space.decode(text) for text in ("ADAM g x x left", "g g x x left", "sign(g) sign(m) exp x *")]
    found = {screening.identify(member): (member, 0.5 + 0.1 * k) for k, member in enumerate(members)}
    among = leaderboard.candidates(space, screening, found, 30)
    assert {one.name: one.reward for one in among if one.name}["adam"] == 0.5
    assert [one.member for one in among if not one.name] == members[:0:-1]
    assert shipped.names_of_classes()[among[1].key] == "sgd without momentum"


def test_the_schema_in_docs_is_current():
    assert SCHEMA.read_text() == schema_text(), "renew it: python tests/test_search_command.py"


def test_the_schema_holds_for_what_is_written_and_names_all_of_it(whole):
    schema = descend.report.schema("search")
    jsonschema.Draft202012Validator.check_schema(schema)
    strict = copy.deepcopy(schema)
    for kind in (strict, *strict["$defs"].values()):
        kind["additionalProperties"] = False
    for document in (whole.results, json.loads(EXAMPLE.read_text())):
        jsonschema.validate(document, strict)
        assert decode(SearchResults, document).format == 1


# ---- held-out tasks


def test_finalists_go_to_a_comparison(tmp_path, monkeypatch):
    asked = []

    def brief(task, optimizers, **options):
        asked.append((task, optimizers))
        return commands.compare(task, optimizers, trials=1, seeds=2, steps=2, **options)

    monkeypatch.setattr(searching, "compare", brief)
    found = find(tmp_path / "run", budget=12, held_out=["digits"])
    ((task, optimizers),) = asked
    first = next(one for one in found.results["leaderboard"] if not one["is_known"] and one["known_as"] is None)
    assert task == "digits"
    assert optimizers == [*searching.KNOWN, str(tmp_path / "run" / "rules" / f"{first['name']}.py")]
    (held_out,) = found.results["held_out"]
    assert {one["name"]: one["rank"] for one in held_out["rows"]} == {
        **dict.fromkeys(searching.KNOWN),
        first["name"]: first["rank"],
    }
    assert (held_out["steps"], held_out["seeds"], held_out["directory"]) == (2, 2, "held-out/digits")
    assert (tmp_path / "run" / held_out["directory"] / "results.json").exists()
    jsonschema.validate(found.results, descend.report.schema("search"))


# ---- exports


def imported(path, name):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def rows_found():
    return [one for one in json.loads(EXAMPLE.read_text())["leaderboard"] if not one["is_known"]]


@pytest.mark.parametrize("found", rows_found(), ids=lambda found: found["member"])
def test_an_exported_rule_is_the_member(example, tmp_path, found):
    exported = commands.export_rule(example, found["rank"], out=tmp_path / "mine.py", name="mine")
    rule, space = imported(exported.path, "mine"), Nos(1, decays=True)
    member = space.rule(space.decode(found["member"]))
    assert rule.formula().is_same_as(member.formula())
    assert rule.hyper_parameters == {**member.hyper_parameters, "lr": float(f"{found['rate']:.3g}")}
    assert found["formula"] in rule.function.__doc__.replace("\n    ", " ")
    steps, model = 5, torch.nn.Linear(2, 2)
    names = {"steps": steps, "model": model}
    lines = [line for line in exported.usage.splitlines() if "import" not in line and "steps = ..." not in line]
    exec("import descend\nfrom descend import schedules\n" + "\n".join(lines), {**names, "mine": rule})
    assert ("schedules" in exported.usage) == bool(found["schedules"])
    assert "from mine import mine" in exported.usage


@needs_compiler
def test_an_exported_rule_steps_in_a_kernel_as_the_member_does(example, tmp_path):
    found = next(one for one in rows_found() if "ld" in one["member"])
    rule = imported(commands.export_rule(example, found["rank"], out=tmp_path / "mine.py").path, found["name"])
    member = Nos(1, decays=True).rule(Nos(1, decays=True).decode(found["member"]))
    weights = []
    for one, backend in ((rule, "cpp"), (member, "eager")):
        parameter = torch.nn.Parameter(torch.linspace(-1, 1, 50))
        opt = package.Optimizer([parameter], one, lr=0.1, linear=package.schedules.linear(8), backend=backend, seed=3)
        for step in range(8):
            parameter.grad = torch.sin(torch.arange(50) + step)
            opt.step()
        weights.append(parameter.detach())
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-6)
    assert not torch.equal(weights[0], torch.linspace(-1, 1, 50))


def test_what_cannot_be_exported(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = next(one for one in json.loads(EXAMPLE.read_text())["leaderboard"] if one["name"] == "sgd")
    for rank in (0, 17, -1, True):
        with pytest.raises(UsageError, match=f"rank is {rank}; the leaderboard has the ranks 1 to 16"):
            commands.export_rule(example, rank)
    with pytest.raises(UsageError, match=r"is SGD, which the library has: descend.SGD\(.*momentum=0.9\)"):
        commands.export_rule(example, known["rank"])
    for name in ("a b", "class", "sqrt", "rule", ""):
        with pytest.raises(UsageError, match=r"name is .*; give a name that Python takes"):
            commands.export_rule(example, 1, name=name)
    with pytest.raises(UsageError, match="'adam', which is one of ours"):
        commands.export_rule(example, 1, name="adam")
    with pytest.raises(RunError, match="cannot be written"):
        commands.export_rule(example, 1, out=tmp_path / "none" / "found.py")
    assert commands.export_rule(example, 1).path == Path("found1.py")
    with pytest.raises(RunError, match=r"found1\.py exists; give another file with --out"):
        commands.export_rule(example, 1)
    with pytest.raises(RunError, match="is no run of `descend search`"):
        commands.export_rule(tmp_path, 1)
    (example / "search.json").unlink()
    with pytest.raises(RunError, match="not finished; finish it with:\n  descend search --space nos"):
        commands.export_rule(example, 1)


# ---- what is refused


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"space": "words"}, UsageError, "space is 'words'; choose nos or programs"),
        ({"policy": "luck"}, UsageError, "policy is 'luck'; choose controller, evolution, random"),
        ({"task": "parsing"}, UsageError, "task is 'parsing'; there is a child network for digits"),
        ({"budget": "20 minutes"}, UsageError, "budget is '20 minutes'; give a time"),
        ({"depth": 4}, UsageError, "depth is 4; a sentence has 1, 2 or 3 groups"),
        ({"space": "programs", "depth": 1}, UsageError, "programs have no depth; leave --depth out"),
        ({"space": "programs", "decays": True}, UsageError, "programs have no decays; leave --decays out"),
        ({"space": "programs", "policy": "controller"}, UsageError, "take --policy evolution or random"),
        ({"reward": "speed"}, UsageError, "reward is 'speed'; choose loss or accuracy"),
        ({"seed": -1}, UsageError, "evolution: seed must be"),
        ({"workers": 0}, UsageError, "workers is 0; give 1 or more"),
        ({"rungs": [(30, 6)]}, UsageError, "rungs is .* with fewer and fewer of the seven rates"),
        ({"rungs": []}, UsageError, "rungs is"),
        ({"held_out": ["nothing"]}, TaskError, "nothing"),
        ({"held_out": ["mnist"]}, TaskError, "mnist"),
    ],
    ids=str,
)
def test_nothing_is_written_of_what_makes_no_sense(tmp_path, monkeypatch, options, error, said):
    monkeypatch.setenv("DESCEND_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(error, match=said):
        find(tmp_path / "run", **options)
    assert list(tmp_path.iterdir()) == []


def test_directories_of_other_commands_are_refused(whole, tmp_path):
    with pytest.raises(RunError, match="exists and is not a run of `descend compare`"):
        commands.compare("digits", ["sgd"], out=whole.directory)
    with pytest.raises(RunError, match="is no run of `descend compare`"):
        commands.ensemble(whole.directory)
    with pytest.raises(RunError, match="exists and is not a run of `descend search --map`"):
        commands.make_map(out=whole.directory)
    (tmp_path / "manifest.json").write_text('{"kind": "compare"}')
    with pytest.raises(RunError, match="exists and is not a run of `descend search`"):
        find(tmp_path)


# ---- the command


@pytest.fixture
def descend_(capsys, monkeypatch, tmp_path):
    """Run a command in an empty folder; gives its exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(searching, "_FULL", searching._QUICK)

    def run(*words):
        with pytest.raises(SystemExit) as caught:
            cli.main(list(words))
        printed = capsys.readouterr()
        return caught.value.code, printed.out, printed.err

    return run


def test_the_command_from_start_to_a_rule_s_file(descend_, tmp_path, monkeypatch):
    monkeypatch.setattr(searching, "recipe_of", lambda *given: Recipe("digits", rungs=((2, 7), (4, 2))))
    words = ["search", "--budget", "6", "--held-out", "none", "--out", "run", "--workers", "1"]
    code, out, err = descend_(*words)
    assert (code, err) == (0, "")
    assert re.search(r"^6 evaluated of \d+ proposals, \d+ duplicates? avoided$", out, re.MULTILINE)
    assert "digits, Perceptron, validation, 4 steps, 3 fresh seeds (search)" in out
    assert "AdamW" in out
    rank = re.search(r"^a rule as a Python file: descend search export run (\d+)$", out, re.MULTILINE)[1]
    assert descend_(*words)[1] == out[out.index("digits, Perceptron") :]
    code, out, err = descend_("search", "export", "run", rank, "--name", "mine")
    assert (code, err) == (0, "")
    assert out.startswith("written: mine.py\n\nimport descend\n")
    assert "opt = descend.Optimizer(model.parameters(), mine, lr=" in out
    assert (tmp_path / "mine.py").exists()
    code, out, err = descend_("search", "export", "run", "99")
    assert (code, out) == (2, "")
    assert err.startswith("descend: rank is 99; the leaderboard has the ranks 1 to ")
    code, out, err = descend_("search", "--budget", "soon")
    assert (code, out) == (2, "")
    assert err.startswith("descend: budget is 'soon'; give a time")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--map", "--budget", "3", "--depth", "2"), "--map does not go with --budget, --depth; leave them out"),
        (("--map", "--held-out", "none"), "--map does not go with --held-out; leave it out"),
        (("--quick", "export", "run", "1"), "descend search export does not go with --quick; leave it out"),
    ],
)
def test_options_that_would_be_ignored_are_refused(descend_, tmp_path, words, said):
    code, out, err = descend_("search", *words)
    assert (code, out) == (2, "")
    assert said in err
    assert not list(tmp_path.iterdir())


def test_held_out_tasks_are_named_as_on_the_command_line(tmp_path):
    with pytest.raises(package.tasks.TaskError, match="unknown task 'nothing'"):
        find(tmp_path / "run", held_out="digits, nothing")


def test_the_map_is_made_by_its_own_option(descend_, tmp_path, monkeypatch):
    def made(folder, store, hands, child, progress):
        for name, total in (("sentences", 2), ("brief", 300)):
            done = progress.stage(name, total)
            for _ in range(total):
                done(1)
        (folder / "map.npz").write_bytes(b"")

    monkeypatch.setattr("descend.search.map.making.make", made)
    code, out, err = descend_("search", "--map", "--out", "map", "--workers", "1")
    assert (code, err) == (0, "")
    assert out.endswith(f"map: {Path('map') / 'map.npz'}\n")
    assert "[300/300] brief" in out
    assert json.loads((tmp_path / "map" / "manifest.json").read_text())["kind"] == "search --map"

    def stopped(folder, store, hands, child, progress):
        progress.stage("brief", 9)(4)
        raise KeyboardInterrupt

    monkeypatch.setattr("descend.search.map.making.make", stopped)
    code, _, err = descend_("search", "--map", "--out", "map", "--workers", "1")
    assert code == 130
    assert "stopped after 4 of 9 parts of the stage brief, which are kept" in err
    assert err.endswith("descend search --map --task digits --workers 1 --out map\n")


if __name__ == "__main__":
    SCHEMA.write_text(schema_text())
