"""`compare --snapshots`: what final runs keep, what their ensemble says, and which combinations are refused."""

import shutil
from pathlib import Path

import pytest
import torch

from comparisons import SMALL_TASK, finished_in, prepare, small, trials_of, without_times
from descend import commands, tasks
from descend.experiments import compare as protocol
from descend.experiments.errors import Interrupted, RunError, UsageError
from descend.snapshots import SnapshotError, SnapshotStore, files
from descend.tasks import TaskError

COUNT, STEPS = 3, 12
SCRIPT = """
import descend
trial = descend.trial("accuracy", steps=20)
"""
NO_OUTPUTS = """
import torch
from torch import nn
from descend.tasks import task

@task
class Bare:
    name = title = "bare"
    description, metric, direction, target, worst, steps, batch_size = "", "error", "minimize", None, 1.0, 8, 1
    sizes = {}
    def model(self, seed): return nn.Linear(1, 1)
    def batches(self, seed): yield torch.zeros(1, 1)
    def loss(self, model, batch): return model(batch).sum()
    def evaluate(self, model, split): return {"loss": 0.0, "error": 0.0}
"""


@pytest.fixture(autouse=True)
def prepared(tmp_path, monkeypatch):
    prepare(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return finished_in(tmp_path_factory.mktemp("snapshots"), snapshots=COUNT, optimizers=["sgd"], trials=2)


def store_of(comparison, trial):
    return SnapshotStore(comparison.directory / "snapshots" / f"final-sgd-{trial['rate']:g}-seed{trial['seed']}")


def test_every_final_run_keeps_a_snapshot_per_cycle_with_its_validation_metric(finished):
    assert finished.results["schedule"]["text"] == f"snapshot({STEPS}, {COUNT})"
    assert len(list((finished.directory / "snapshots").iterdir())) == 2
    for trial in trials_of(finished, "final"):
        kept = store_of(finished, trial).snapshots()
        assert [(one.step, one.cycle) for one in kept] == [(4, 1), (8, 2), (12, 3)]
        measured = {point["step"]: point["validation_metric"] for point in trial["curve"]}
        assert [one.metric for one in kept] == [measured[one.step] for one in kept]


def test_the_ensemble_is_the_mean_of_the_softmax_outputs(finished):
    task = tasks.load("blobs.py")
    x, y = task._splits["test"]
    for trial in trials_of(finished, "final"):
        model, probabilities = task.model(0).eval(), []
        for state in store_of(finished, trial).last():
            model.load_state_dict(state)
            probabilities.append(torch.softmax(model(x).double(), 1))
        mean = torch.stack(probabilities).mean(0)
        assert trial["ensemble_metric"] == (mean.argmax(1) == y).double().mean().item()
        assert trial["ensemble_loss"] == pytest.approx(-mean[range(len(y)), y].log().mean().item(), rel=1e-5)
    [row] = finished.results["summary"]
    each = [trial["ensemble_metric"] for trial in trials_of(finished, "final")]
    gains = [trial["ensemble_metric"] - trial["test_metric"] for trial in trials_of(finished, "final")]
    assert row["ensemble"]["mean"] == pytest.approx(sum(each) / 2)
    assert row["ensemble_gain"]["mean"] == pytest.approx(sum(gains) / 2)


def test_snapshots_change_nothing_of_the_training(finished):
    plain = small("plain", optimizers=["sgd"], trials=2, schedule=f"snapshot({STEPS}, {COUNT})")
    ours = ("ensemble_loss", "ensemble_metric")
    for one, other in zip(finished.results["trials"], plain.results["trials"], strict=True):
        without = [{key: value for key, value in trial.items() if key not in ours} for trial in (one, other)]
        assert without_times(without[0]) == without_times(without[1])
        assert other["ensemble_metric"] is None
    assert "ensemble" not in plain.results["summary"][0]


def test_a_run_that_is_stopped_keeps_the_same_snapshots(finished):
    class Stop(protocol.Silence):
        def __init__(self):
            self.left = 3

        def finished(self, record):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt

    asked = dict(snapshots=COUNT, optimizers=["sgd"], trials=2)
    with pytest.raises(Interrupted, match="after 3 of 4 trials") as caught:
        small("stopped", progress=lambda task: Stop(), **asked)
    assert "--snapshots 3" in str(caught.value)
    shutil.rmtree("stopped/snapshots")  # what is not there for a finished trial is not missed before it is needed
    again = small("stopped", **asked)
    assert [t["ensemble_loss"] for t in again.results["trials"]] == [
        t["ensemble_loss"] for t in finished.results["trials"]
    ]
    last = trials_of(finished, "final")[-1]
    hashes = [[one.sha256 for one in store_of(run, last)] for run in (again, finished)]
    assert hashes[0] == hashes[1]


def test_starting_over_removes_the_snapshots():
    small(snapshots=COUNT, optimizers=["sgd"], trials=1)
    small(optimizers=["sgd"], trials=1, fresh=True)
    assert not Path("run/snapshots").exists()


def test_a_killed_trials_leftovers_are_no_members():
    first = small(snapshots=COUNT, optimizers=["sgd"], trials=1, seeds=1)
    [trial] = trials_of(first, "final")
    store = store_of(first, trial)
    store.add(tasks.load("blobs.py").model(5), step=1)  # as a trial would leave it that was killed later
    (first.directory / "trials.db").unlink()
    (first.directory / "results.json").unlink()
    again = small(snapshots=COUNT, optimizers=["sgd"], trials=1, seeds=1)
    assert [one.step for one in store_of(again, trial)] == [4, 8, 12]


@pytest.mark.parametrize(("steps", "taken"), [(None, 24), (12, 12)])
def test_the_default_budget_is_rounded_up(steps, taken):
    comparison = small(snapshots=4, optimizers=["sgd"], trials=1, seeds=1, steps=steps)
    assert comparison.results["task"]["steps"] == taken
    with_five = small("five", snapshots=5, optimizers=["sgd"], trials=1, seeds=1, steps=None)
    assert with_five.results["task"]["steps"] == 25


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(snapshots=5), "steps is 12, which 5 snapshots do not divide into cycles; give 10 or 15"),
        (dict(snapshots=5, steps=13), "give 10 or 15"),
        (dict(snapshots=1), "snapshots is 1; give 2 or more"),
        (dict(snapshots=2.5), "snapshots is 2.5; give a whole number"),
        (dict(snapshots=7), "a cycle takes 2 steps or more, and there are 12; take fewer"),
        (dict(snapshots=3, schedule="cosine(12)"), "leave schedule out, or snapshots"),
        (dict(snapshots=3, optimizers=["rprop"]), "rprop follows no schedule"),
        (dict(snapshots=3, optimizers=["yellowfin"]), "yellowfin follows no schedule"),
    ],
)
def test_what_does_not_go_with_snapshots_is_said_before_anything_is_written(tmp_path, changes, said):
    with pytest.raises(UsageError, match=said):
        small(**changes)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SCRIPT, "this is a training script; take them in it with descend.snapshots"),
        (NO_OUTPUTS, "task bare has no predictions to average; give it outputs, judge, targets and averages"),
    ],
)
def test_a_problem_without_predictions_is_refused(tmp_path, text, said):
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(UsageError, match=said):
        commands.compare("own.py", ["sgd"], snapshots=2, out="run")
    assert not (tmp_path / "run").exists()


def test_values_are_averaged_as_they_are(tmp_path):
    text = SMALL_TASK.replace(
        "y = torch.arange(90) % 3\n", "y = torch.arange(90) % 3\n        t = y[:, None].float()\n"
    )
    text = text.replace("x[:48], y[:48]", "x[:48], t[:48]").replace("x[48:69], y[48:69]", "x[48:69], t[48:69]")
    text = text.replace("x[69:], y[69:]", "x[69:], t[69:]").replace("nn.Linear(4, 3)", "nn.Linear(4, 1)")
    text = text.replace('"blobs", 0.8, 24, 8', '"values", None, 24, 8').replace(
        "    def network",
        '    metric, direction, worst = "error", "minimize", float("inf")\n'
        "    def criterion(self, outputs, targets): return (outputs - targets).square().mean()\n"
        "    def score(self, outputs, targets): return (outputs - targets).abs().mean().item()\n\n    def network",
    )
    (tmp_path / "values.py").write_text(text)
    comparison = commands.compare(
        "values.py", ["adam"], trials=1, seeds=1, steps=12, workers=1, snapshots=3, out="values"
    )
    task = tasks.load("values.py")
    [trial] = trials_of(comparison, "final")
    name = f"final-adam-{trial['rate']:g}-seed{trial['seed']}"
    model, outputs = task.model(0).eval(), []
    for state in SnapshotStore(comparison.directory / "snapshots" / name).last():
        model.load_state_dict(state)
        outputs.append(model(task._splits["test"][0]))
    mean = torch.stack(outputs).mean(0)
    assert trial["ensemble_metric"] == pytest.approx((mean - task._splits["test"][1]).abs().mean().item(), rel=1e-6)


def test_outputs_that_are_judged_otherwise_than_the_model_are_refused(tmp_path):
    """One score for two classes: its softmax is 1, whatever the model says."""
    text = SMALL_TASK.replace("torch.arange(90) % 3\n", "torch.arange(90) % 2\n").replace(
        "nn.Linear(4, 3)", "nn.Linear(4, 1)"
    )
    text = text.replace("torch.eye(3)[y]", "torch.eye(3)[y]").replace(
        "    def network",
        "    def criterion(self, outputs, targets):\n"
        "        return nn.functional.binary_cross_entropy_with_logits(outputs[:, 0], targets.float())\n"
        "    def score(self, outputs, targets): return ((outputs[:, 0] > 0) == targets).double().mean().item()\n\n"
        "    def network",
    )
    (tmp_path / "binary.py").write_text(text)
    with pytest.raises(TaskError, match=r"judging its outputs gives .* where evaluate\(\) gives .*log-probabilities"):
        commands.compare("binary.py", ["sgd"], trials=1, seeds=1, steps=12, snapshots=3, workers=1, out="run")
    assert not (tmp_path / "run").exists()


def test_a_disk_that_fills_up_is_one_line_and_the_run_goes_on(monkeypatch):
    def full(path, write_to):
        raise SnapshotError(f"{path} cannot be written (No space left on device)")

    asked = dict(snapshots=COUNT, optimizers=["sgd"], trials=2)
    with monkeypatch.context() as patch:
        patch.setattr(files, "write", full)
        with pytest.raises(RunError, match=r"No space left on device\). The same command goes on"):
            small(**asked)
    again = small(**asked)
    assert [one["phase"] for one in again.results["trials"]] == ["tuning"] * 2 + ["final"] * 2
