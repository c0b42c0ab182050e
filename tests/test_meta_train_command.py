"""`descend meta-train`: a whole small run, its files and pages, interruptions, and what it refuses."""

import copy
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import jsonschema
import pytest
import torch

import descend
import report_pages
from descend import cli, learned
from descend.experiments.errors import Interrupted, UsageError
from descend.experiments.jobs import Silence
from descend.learned import recipes
from descend.report import schema
from report_pages import table, words

HOSTILE = "</style><script>alert(1)</script>\"'&<b onclick='x'>"


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """Tasks that take seconds: the quick ones, of fewer and shorter episodes."""
    whole = dict(recipes.META_TASKS)
    small = {}
    for name, one in whole.items():
        quick = one.quick
        short = {
            kind: replace(recipe, episodes=4, steps=8, unroll=4, problems=3, validate_every=2, validated=4)
            for kind, recipe in quick.recipes.items()
        }
        targets = tuple(replace(target, marks=(4, 8), tested=6, tuned=2) for target in quick.targets)
        networks = {"lstm": {"hidden": 3}, "mlp": {"hidden": 3, "step_scale": 0.1}}
        small[name] = replace(one, quick=replace(quick, recipes=short, targets=targets, networks=networks))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "META_TASKS", small)
        patch.setattr("descend.learned.jobs.META_TASKS", small)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return learn(tmp_path_factory.mktemp("run"))


def learn(out, task="quadratics", **options):
    return descend.meta_train(task, **{"seeds": 2, "quick": True, "workers": 1, "out": out, **options})


def timeless(results):
    return {name: value for name, value in results.items() if name != "manifest"}


def test_a_run_has_results_a_page_and_weights(whole):
    results = whole.results
    assert results == json.loads((whole.directory / "meta-train.json").read_text())
    jsonschema.validate(results, schema("meta-train"))
    assert [curve["seed"] for curve in results["curves"]] == [0, 1]
    assert [point[0] for point in results["curves"][0]["points"]] == [0, 2, 4]
    assert [(one["steps"], one["metric"]) for one in results["comparisons"]] == [
        (steps, metric) for steps in (4, 8) for metric in ("mean of log10", "log10 of mean")
    ]
    network = learned.load(whole.weights)
    assert network.digest() == results["network"]["digest"]
    assert results["network"]["kind"] == "lstm"
    assert learned.card(whole.weights)["findings"] == results["findings"]
    for one in results["comparisons"]:
        names = [row["name"] for row in one["rows"]]
        assert names == ["learned, seed 0", "learned, seed 1", "SGD", "momentum", "Nesterov", "RMSprop", "Adam"]
        for row in one["rows"][2:]:
            assert [difference["seed"] for difference in row["differences"]] == [0, 1]


def test_the_best_seed_is_the_one_that_validated_best(whole):
    best = {curve["seed"]: min(point[1] for point in curve["points"]) for curve in whole.results["curves"]}
    assert whole.results["network"]["seed"] == min(best, key=best.get)


def test_scores_are_those_of_the_weights(whole):
    from descend.learned.baselines import losses_at, metric

    target = recipes.META_TASKS["quadratics"].quick.targets[0]
    problems = target.family.draw(target.tested, 3_000_000)
    found = losses_at(learned.load(whole.weights), problems, target.marks)
    seed = whole.results["network"]["seed"]
    for one in whole.results["comparisons"]:
        [row] = [row for row in one["rows"] if row["seed"] == seed]
        own = found[target.marks.index(one["steps"])]
        assert row["score"] == pytest.approx(metric(own, one["metric"]))
        for rule in one["rows"][2:]:
            [difference] = [each for each in rule["differences"] if each["seed"] == seed]
            assert difference["mean"] == pytest.approx(row["score"] - rule["score"], abs=1e-9)
            assert difference["low"] <= difference["mean"] <= difference["high"]


def test_a_finished_run_is_read_and_not_repeated(whole):
    def busy():
        raise AssertionError("a finished run needs no progress")

    again = learn(whole.directory, progress=busy)
    assert again.results == whole.results


class StopAfter(Silence):
    """Progress that is interrupted after so many jobs."""

    def __init__(self, count):
        self.count = count

    def finished(self, name):
        self.count -= 1
        if self.count == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("jobs", [1, 3, 6])
def test_interrupted_it_ends_with_the_same_numbers(whole, tmp_path, jobs):
    with pytest.raises(Interrupted, match="same command"):
        learn(tmp_path / "run", progress=lambda: StopAfter(jobs))
    assert timeless(learn(tmp_path / "run").results) == timeless(whole.results)


def test_classes_bring_accuracies_and_evolution_another_network(tmp_path):
    found = learn(tmp_path / "run", "digits-mlp", network="mlp", seeds=1)
    assert found.results["network"]["kind"] == "mlp"
    rows = [row for one in found.results["comparisons"] for row in one["rows"]]
    assert all(0 <= row["accuracy"] <= 1 for row in rows)
    assert "test accuracy" in words(report_pages.read(found.report))


def test_the_command_prints_what_it_found(whole, capsys):
    with pytest.raises(SystemExit) as done:
        cli.main(["meta-train", "--quick", "--seeds", "2", "--workers", "1", "--out", str(whole.directory)])
    assert done.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Quadratics, 8 steps (screening)" in said
    assert "learned, seed 1" in said
    assert whole.results["findings"][0] in said
    assert "network.safetensors" in said


@pytest.mark.parametrize(
    ("options", "words_"),
    [
        ({"task": "cubics"}, "task is 'cubics'; give one of quadratics, digits-mlp, mnist-mlp"),
        ({"network": "gru"}, "network is 'gru'; give one of lstm, mlp"),
        ({"seeds": 0}, "seeds"),
        ({"workers": 0}, "workers"),
    ],
)
def test_wrong_arguments(tmp_path, options, words_):
    with pytest.raises(UsageError, match=words_):
        learn(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


# ---- the page


def written(folder, data):
    page = descend.report.write_meta_training(report_pages.save(folder, "meta-train.json", data))
    return report_pages.read(page)


@pytest.fixture
def data(whole):
    return copy.deepcopy(dict(whole.results))


def test_every_number_is_on_the_page(whole, data, tmp_path):
    from descend.report.formats import number

    page = written(tmp_path, data)
    shown = {cell for place, _ in enumerate(page.iter("table")) for row in table(page, place) for cell in row}
    seed = data["network"]["seed"]
    for curve in data["curves"]:
        assert {number(point[1]) for point in curve["points"]} <= shown
    for one in data["comparisons"]:
        for row in one["rows"]:
            assert number(row["score"]) in shown
            for difference in row["differences"]:
                assert {
                    number(difference["mean"]),
                    f"{number(difference['low'])} to {number(difference['high'])}",
                } <= shown
    assert f"Differences are of seed {seed}" in words(page)
    assert len(list(page.iter("svg"))) == 1 + len(data["comparisons"])


def test_the_same_results_give_the_same_bytes(whole, data, tmp_path):
    first, second = (report_pages.save(tmp_path / name, "meta-train.json", data) for name in "ab")
    pages = [descend.report.write_meta_training(run).read_bytes() for run in (first, second)]
    assert pages[0] == pages[1]


def test_hostile_strings_are_text(data, tmp_path):
    data["task"]["title"] = data["findings"][0] = data["comparisons"][0]["target"] = HOSTILE
    data["comparisons"][0]["rows"][2]["name"] = HOSTILE
    page = written(tmp_path, data)
    assert not list(page.iter("script"))
    assert HOSTILE in words(page)


def test_what_is_not_finite_is_said(data, tmp_path):
    for one in data["comparisons"]:
        for row in one["rows"]:
            row.update(score=None, median=None, differences=[])
    for curve in data["curves"]:
        curve["points"] = [[point[0], None] for point in curve["points"]]
    page = written(tmp_path, data)
    assert "not finite" in words(page)
    assert not list(page.iter("svg"))


@pytest.mark.parametrize(
    ("change", "words_"),
    [
        (lambda d: d["curves"][0]["points"].reverse(), "episodes that do not rise"),
        (lambda d: d["curves"][1].update(points=[[1.0]]), r"curves\[1\] has a point"),
        (lambda d: d["comparisons"][0].update(rows=[]), r"comparisons\[0\] has no rows"),
        (lambda d: d.pop("recipe"), "recipe"),
        (lambda d: d.update(kind="search"), "not of a meta-training"),
    ],
)
def test_damaged_files_are_named(data, tmp_path, change, words_):
    change(data)
    with pytest.raises(ValueError, match=words_):
        written(tmp_path, data)


def test_a_network_that_was_learned_steps_a_model(whole):
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 1)
    optimizer = learned.LearnedOptimizer(net.parameters(), learned.load(whole.weights))
    inputs = torch.randn(20, 3)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = net(inputs).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert all(before != after for before, after in pairwise(losses))


def test_the_schema_is_one_and_current():
    found = schema("meta-train")
    jsonschema.Draft202012Validator.check_schema(found)
    path = Path(__file__).parents[1] / "docs" / "meta-train.schema.json"
    assert path.read_text() == json.dumps(found, indent=1) + "\n"
