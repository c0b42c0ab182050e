"""`descend ensemble`: what it trains, how it judges, what it keeps, and what it refuses."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from comparisons import finished_in, prepare, small, trials_of, without_times
from descend import commands, report, tasks
from descend.ensembles.bootstrap import interval, over_seeds
from descend.experiments import jobs, trial
from descend.experiments.ensemble_study import results, scoring, study, tables, verdicts
from descend.experiments.ensemble_study.controls import controls
from descend.experiments.ensemble_study.methods import methods
from descend.experiments.errors import Interrupted, RunError, UsageError
from descend.experiments.trial import Trial
from descend.schedules import multistep, snapshot
from descend.snapshots import SnapshotStore

COUNT, STEPS, SEEDS = 3, 24, 2
COARSE = study.Fineness(line=5, plane=3)


@pytest.fixture(autouse=True)
def prepared(tmp_path, monkeypatch):
    prepare(tmp_path, monkeypatch)
    monkeypatch.setattr(study, "FULL", COARSE)
    monkeypatch.setattr("descend.report.write_ensemble", lambda run: Path(run) / "ensemble.html")


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    changes = dict(snapshots=COUNT, optimizers=["sgd", "adam"], trials=2, steps=STEPS)
    return finished_in(tmp_path_factory.mktemp("comparison"), **changes)


@pytest.fixture(scope="module")
def original(comparison):
    with pytest.MonkeyPatch.context() as patch:
        prepare(comparison.directory.parent, patch)
        patch.setattr(study, "FULL", COARSE)
        patch.setattr("descend.report.write_ensemble", lambda run: Path(run) / "ensemble.html")
        return commands.ensemble(comparison.directory, workers=1)


@pytest.fixture
def studied(original, tmp_path):
    """A copy of a finished study, to damage."""
    shutil.copytree(original.directory, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def fresh(comparison, original, tmp_path):
    """A copy of the comparison without the study."""
    shutil.copytree(comparison.directory, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "ensemble")
    (tmp_path / "run" / "ensemble.json").unlink()
    return tmp_path / "run"


def rows(original, name="sgd"):
    [optimizer] = [one for one in original.results["optimizers"] if one["name"] == name]
    return {row["method"]: row for row in optimizer["rows"]}, optimizer


def finals(comparison, name="sgd"):
    return [one for one in trials_of(comparison, "final") if one["optimizer"] == name]


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_every_method_has_a_row_and_the_comparisons_own_numbers_stand_in_it(comparison, original, name):
    table, optimizer = rows(original, name)
    assert list(table) == [one.name for one in methods(COUNT)]
    own = finals(comparison, name)
    assert table["last"]["by_seed"] == [one["test_metric"] for one in own]
    assert table[f"last-{COUNT}"]["by_seed"] == [one["ensemble_metric"] for one in own]
    losses = [one["ensemble_loss"] for one in own]
    assert table[f"last-{COUNT}"]["nll"]["mean"] == pytest.approx(sum(losses) / SEEDS, rel=1e-5)
    assert optimizer["seeds"] == [1, 2]
    for row in table.values():
        for number in ("metric", "nll", "brier", "tempered_nll"):
            assert row[number]["low"] <= row[number]["mean"] <= row[number]["high"]
        for number in ("ece", "adaptive_ece", "classwise_ece", "tempered_ece"):
            assert 0 <= row[number]["low"] < row[number]["high"]
    against = {one["against"]: one for one in optimizer["comparisons"]}
    gain = table[f"last-{COUNT}"]["metric"]["mean"] - table["cosine"]["metric"]["mean"]
    assert against["cosine"]["metric"]["mean"] == pytest.approx(gain)


def test_controls_take_the_same_steps_under_the_published_schedules(tmp_path):
    final = Trial("final", "sgd", 0.1, 7)
    nocycle, cosine, *short = controls(final, 600, 6, tmp_path)
    assert nocycle.shape == multistep(300, 450)
    assert nocycle.kept.steps == (100, 200, 300, 400, 500, 600)
    assert (cosine.shape, cosine.kept.steps, cosine.kept.ema_decay) == (None, (600,), 600 / 620)
    assert [one.length for one in short] == [100] * 6
    assert all(one.shape == snapshot(100, 1) for one in short)
    assert len({one.trial.seed for one in (nocycle, *short)}) == 7
    assert nocycle.trial == cosine.trial == replace(final, phase="control")


def test_one_cosine_is_the_run_that_a_comparison_would_have_made(original, comparison):
    task = tasks.load(str(original.directory.parent / "blobs.py"))
    for place, final in enumerate(finals(comparison)):
        record = trial.run(task, Trial("final", "sgd", final["rate"], final["seed"]), STEPS)
        assert rows(original)[0]["cosine"]["by_seed"][place] == record.test_metric


def test_choices_are_made_on_validation_data(original, comparison):
    table, optimizer = rows(original)
    task, bests = tasks.load(str(original.directory.parent / "blobs.py")), []
    for place, final in enumerate(finals(comparison)):
        store = SnapshotStore(original.directory / "snapshots" / f"final-sgd-{final['rate']:g}-seed{final['seed']}")
        best = max(store, key=lambda one: (one.metric, one.step))
        bests.append(best.metric)
        model = task.model(0)
        store.restore(model, best.step)
        assert table["best"]["by_seed"][place] == task.evaluate(model, "test")["accuracy"]
        assert set(optimizer["soup_taken"][place]) <= {one.step for one in store}
    assert table["best"]["validation_metric"] == pytest.approx(sum(bests) / SEEDS)
    assert table["soup"]["validation_metric"] >= table["best"]["validation_metric"]


def test_weights_are_averaged_over_the_last_snapshots(original, comparison):
    task = tasks.load(str(original.directory.parent / "blobs.py"))
    final = finals(comparison)[0]
    states = SnapshotStore(original.directory / "snapshots" / f"final-sgd-{final['rate']:g}-seed1").last(2)
    model = task.model(0)
    model.load_state_dict({key: (states[0][key] + states[1][key]) / 2 for key in states[0]})
    assert rows(original)[0]["average-2"]["by_seed"][0] == task.evaluate(model, "test")["accuracy"]


def test_lines_begin_and_end_at_the_snapshots(original, comparison):
    _, optimizer = rows(original)
    barriers = optimizer["barriers"]
    assert barriers["steps"] == [8, 16, 24]
    assert len(barriers["lines"]) == 3
    task = tasks.load(str(original.directory.parent / "blobs.py"))
    model = task.model(0)
    store = SnapshotStore(original.directory / "snapshots" / f"final-sgd-{optimizer['rate']:g}-seed1")
    for line in barriers["lines"]:
        for step, loss, error in zip(
            (line["first"], line["second"]), line["losses"][::4], line["errors"][::4], strict=True
        ):
            store.restore(model, step)
            scores = task.evaluate(model, "validation")
            assert loss == pytest.approx(scores["loss"], rel=1e-6)
            assert error == pytest.approx(1 - scores["accuracy"], abs=1e-6)
        middle = (line["losses"][0] + line["losses"][-1]) / 2
        assert line["barrier"] >= max(0, line["losses"][2] - middle) - 1e-9


def test_the_way_over_the_plane_passes_through_its_snapshots(original):
    plane = rows(original)[1]["plane"]
    assert plane["repeats"]
    assert (len(plane["xs"]), len(plane["ys"]), len(plane["losses"])) == (3, 3, 3)
    way = {int(step): (x, y, distance) for step, x, y, distance in plane["way"]}
    for step, (x, y) in zip(plane["steps"], plane["coordinates"], strict=True):
        assert way[step] == pytest.approx((x, y, 0), abs=1e-4)
    assert 0 in way


def test_diversity_is_of_all_three_sets_of_members(original):
    found = {one["source"]: one for one in rows(original)[1]["diversity"]}
    assert set(found) == {"snapshots", "nocycle", "singlecycle"}
    table = rows(original)[0]
    for source, method in (("snapshots", "last-3"), ("nocycle", "nocycle"), ("singlecycle", "singlecycle")):
        assert found[source]["members"] == COUNT
        accuracy = found[source]["ensemble_accuracy"]
        assert accuracy == pytest.approx(table[method]["metric"])
        for number in ("disagreement", "mutual_information", "ambiguity", "mean_accuracy"):
            one = found[source][number]
            assert one["low"] <= one["mean"] <= one["high"]


class StopAfter(jobs.Silence):
    def __init__(self, count):
        self.left = count

    def finished(self, name):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("count", [1, 9, 15])
def test_a_stopped_study_goes_on_to_the_same_results(original, fresh, count):
    with pytest.raises(Interrupted, match=rf"after {count} of \d+ jobs") as caught:
        commands.ensemble(fresh, workers=1, progress=lambda: StopAfter(count))
    assert f"descend ensemble {fresh} --workers 1" in str(caught.value)
    again = commands.ensemble(fresh, workers=1)
    assert without_times(again.results) == without_times(original.results)


def test_a_finished_study_is_not_repeated_and_a_damaged_part_is(original, studied, monkeypatch):
    done = []
    work = jobs.KeptJob.do
    monkeypatch.setattr(jobs.KeptJob, "do", lambda kept, task: (done.append(kept.job.name), work(kept, task))[1])
    assert commands.ensemble(studied, workers=1).results == original.results
    assert done == []
    part = next((studied / "ensemble" / "parts").glob("scores-of-final-adam*"))
    part.write_bytes(part.read_bytes()[:100])
    assert commands.ensemble(studied, workers=1).results == original.results
    assert len(done) == 1


def test_one_optimizer_and_a_new_start(original, studied):
    one = commands.ensemble(studied, workers=1, optimizers=["Adam"], fresh=True)
    assert [found["name"] for found in one.results["optimizers"]] == ["adam"]
    assert one.results["optimizers"][0] == original.results["optimizers"][1]


def test_processes_give_the_same_numbers(original, fresh):
    assert without_times(commands.ensemble(fresh, workers=2).results) == without_times(original.results)


def test_a_damaged_snapshot_is_named(fresh):
    file = next((fresh / "snapshots").glob("final-sgd*seed1/*00000016*.safetensors"))
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(RunError, match=rf"{file.name} is damaged \(it has .* bytes"):
        commands.ensemble(fresh, workers=1)


def test_lost_snapshots_are_named(fresh):
    shutil.rmtree(fresh / "snapshots")
    with pytest.raises(RunError, match="holds 0 of 3 snapshots; make the comparison again with --fresh"):
        commands.ensemble(fresh, workers=1)


def test_a_diverged_seed_is_left_out_and_said(fresh):
    document = json.loads((fresh / "results.json").read_text())
    lost = next(t for t in document["trials"] if t["phase"] == "final" and t["optimizer"] == "sgd" and t["seed"] == 2)
    lost["diverged"] = True
    (fresh / "results.json").write_text(json.dumps(document))
    found = commands.ensemble(fresh, workers=1, optimizers=["sgd"]).results
    assert (found["optimizers"][0]["seeds"], found["optimizers"][0]["lost_seeds"]) == ([1], [2])
    assert "SGD: seeds 2 diverged and are left out." in found["caveats"]


def test_two_snapshots_have_a_line_and_no_plane():
    small(snapshots=2, optimizers=["sgd"], trials=1, seeds=1)
    [found] = commands.ensemble("run", workers=1).results["optimizers"]
    assert len(found["barriers"]["lines"]) == 1
    assert found["plane"] is None


def test_what_cannot_be_studied_is_refused(fresh, tmp_path, monkeypatch):
    with pytest.raises(RunError, match=r"nothing is no run of `descend compare`"):
        commands.ensemble("nothing")
    small("plain", optimizers=["sgd"], trials=1, seeds=1)
    with pytest.raises(RunError, match=r"plain holds a comparison without snapshots; .*descend compare --snapshots 6"):
        commands.ensemble("plain")
    with pytest.raises(UsageError, match="optimizer lion is not in the run; it has sgd, adam"):
        commands.ensemble(fresh, optimizers=["lion"])
    with pytest.raises(UsageError, match="workers is 0; give 1 or more"):
        commands.ensemble(fresh, workers=0)
    (tmp_path / "blobs.py").write_text((tmp_path / "blobs.py").read_text() + "\n# changed\n")
    with pytest.raises(RunError, match="was made with other contents of the task file; make the comparison again"):
        commands.ensemble(fresh)
    (fresh / "results.json").unlink()
    with pytest.raises(RunError, match="holds a run that is not finished; finish it with:\n  descend compare"):
        commands.ensemble(fresh)


def test_a_temperature_is_fitted_on_validation_data_alone():
    class Fixed:
        """A task whose outputs are twice as sure as is right of its validation split; its test split is a coin."""

        metric, direction, worst, averages = "accuracy", "maximize", 0.0, "probabilities"

        def targets(self, split):
            return torch.tensor([0, 0, 0, 1] * 25 if split == "validation" else [0, 1] * 50)

        def judge(self, outputs, split):
            return {"loss": 0.0, "accuracy": 0.75}

    right = math.log(3)
    outputs = torch.tensor([[2 * right, 0.0]]).log_softmax(1).expand(100, 2)
    judge = scoring.Judge(Fixed(), Fixed())
    judge.single("one", lambda split: iter([outputs]))
    assert judge.rows["one"]["temperature"] == pytest.approx(2, rel=1e-6)
    assert judge.rows["one"]["tempered_ece"] == pytest.approx(0.25, abs=1e-6)  # three in four, and a half are right


def test_an_interval_of_a_difference_is_of_the_paired_differences():
    drawn = {
        name: torch.rand(2, 500, generator=torch.Generator().manual_seed(seed)) for name, seed in (("a", 0), ("b", 1))
    }
    scores = [
        {
            "rows": {"a": {"nll": 0.5}, "b": {"nll": 0.4}},
            "replicates": {name: {"nll": own[seed]} for name, own in drawn.items()},
        }
        for seed in range(2)
    ]
    intervals = results.Intervals(scores)
    found = intervals.difference("a", "b", "nll")
    expected = interval(over_seeds(drawn["a"] - drawn["b"]))
    assert (found["low"], found["high"]) == pytest.approx(expected, abs=1e-6)
    assert (found["mean"], found["above"], found["below"]) == (pytest.approx(0.1), 2, 0)
    nothing = intervals.difference("a", "a", "nll")
    assert (nothing["mean"], nothing["low"], nothing["high"]) == (0, 0, 0)


@pytest.mark.parametrize(("direction", "best"), [("maximize", "average-3"), ("minimize", "average-2")])
def test_the_average_of_weights_is_chosen_on_validation_data(direction, best):
    """Though the test data put the other first."""
    validation, test = (
        {"average-2": 0.7, "average-3": 0.8, "last": 0.75},
        {"average-2": 0.9, "average-3": 0.1, "last": 0.5},
    )
    rows = {name: {"validation_metric": validation[name], "metric": test[name]} for name in validation}
    known = [one for one in methods(3) if one.name in rows]
    intervals = results.Intervals([{"rows": rows, "replicates": {}}] * 2)
    found = results._best_average(SimpleNamespace(direction=direction), known, intervals)
    assert found["method"] == best
    assert found["metric"]["mean"] == pytest.approx(test[best] - test["last"])


def test_the_page_is_written(original, monkeypatch):
    monkeypatch.undo()
    assert report.write_ensemble(original.directory).name == "ensemble.html"


def test_what_was_found_of_the_other_optimizer_stays(original, studied):
    again = commands.ensemble(studied, workers=1, optimizers=["adam"])
    assert again.results == original.results


def test_a_wrong_call_throws_nothing_away(studied):
    with pytest.raises(UsageError, match="workers is 0"):
        commands.ensemble(studied, workers=0, fresh=True)
    assert (studied / "ensemble.json").exists()
    assert list((studied / "ensemble" / "parts").iterdir())


@pytest.mark.parametrize("harm", [lambda file: file.unlink(), lambda file: file.write_bytes(file.read_bytes()[:50])])
def test_weights_of_a_control_that_are_gone_are_trained_again(original, studied, monkeypatch, harm):
    for file in (studied / "ensemble" / "weights" / "cosine").rglob("*sgd*seed2/*.safetensors"):
        harm(file)
    done = []
    work = jobs.KeptJob.do
    monkeypatch.setattr(jobs.KeptJob, "do", lambda kept, task: (done.append(kept.job.name), work(kept, task))[1])
    assert commands.ensemble(studied, workers=1).results == original.results
    assert [name.split()[0] for name in done] == ["cosine"]


def test_a_run_whose_final_trials_all_diverged_says_so(fresh):
    document = json.loads((fresh / "results.json").read_text())
    for one in document["trials"]:
        one["diverged"] |= one["phase"] == "final" and one["optimizer"] == "sgd"
    (fresh / "results.json").write_text(json.dumps(document))
    found = commands.ensemble(fresh, workers=1, optimizers=["sgd"]).results
    assert found["optimizers"][0]["rows"] == []
    assert "SGD: seeds 1, 2 diverged and are left out." in found["caveats"]
    assert all(table.row_count == 0 for table in tables.tables(found, 100))


def line(barrier, ends=1.0):
    return {"barrier": barrier, "losses": [ends, ends]}


@pytest.mark.parametrize(
    ("barriers", "said"),
    [
        ([0.01, 0.02], "is 0.02, at ends of 1, which says beforehand that averaging weights may work"),
        ([0.01, 0.5], "is 0.5, at ends of 1, which says beforehand that averaging weights cannot be expected to work"),
        ([0.01, None], "a barrier between two snapshots is infinite, which says beforehand that averaging them cannot"),
    ],
)
def test_what_barriers_foretell_and_what_came_is_decided_by_its_interval(barriers, said):
    worse = {"mean": -0.004, "low": -0.006, "high": -0.002, "p": 0.25, "above": 0, "below": 3}
    optimizer = {
        "barriers": {"lines": [line(one) for one in barriers]},
        "best_average": {"method": "average-2", "metric": worse},
        "rows": [{"method": "average-2", "title": "weights of the last 2 averaged"}],
    }
    found = verdicts._of_barriers(optimizer, {"metric": "LAS"}, 1)
    assert said in found
    assert "against the last snapshot: worse (LAS -0.004, 95 % interval -0.006 to -0.002, p 0.25)." in found
