"""`descend diagnose`: what it measures, keeps, and refuses."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

import descend
import diagnosis_task
from descend import cli, tasks
from descend.experiments.errors import Interrupted, RunError, UsageError
from descend.experiments.jobs import Silence
from descend.snapshots import SnapshotStore
from descend.tasks import TaskError

CURVATURE = ["eigenvalues", "trace"]


@pytest.fixture(scope="module")
def moons(tmp_path_factory):
    return diagnosis_task.plain(tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="module")
def whole(moons, tmp_path_factory):
    """All instruments, in this process."""
    return descend.diagnose(moons, quick=True, out=tmp_path_factory.mktemp("whole") / "run", workers=1)


def document(found):
    return json.loads((found.directory / "diagnosis.json").read_text())


def timeless(results):
    """The results without what depends on the clock or on how it was run."""
    kept = {key: value for key, value in results.items() if key not in ("training", "manifest", "findings")}
    kept["caveats"] = {name: lines for name, lines in results["caveats"].items() if name != "training"}
    return {**kept, "losses": [one["losses"] for one in results["training"]]}


def test_every_instrument_measures_something(whole):
    found = document(whole)
    assert found == whole.results
    assert [one["name"] for one in found["solutions"]] == ["seed 0", "seed 1"]
    assert {(one["matrix"], one["which"]) for one in found["spectra"]} == {
        ("Hessian", "largest"),
        ("Hessian", "smallest"),
        ("Gauss-Newton", "largest"),
    }
    assert {one["method"] for one in found["traces"]} == {"hutchinson", "hutch++"}
    assert len(found["densities"]) == 2
    assert len(found["sharpness"]) == 14
    assert found["rescaling"]["layers"] == ["0", "2"]
    assert [one["ends"] for one in found["lines"]] == [[], ["start of seed 0", "seed 0"], ["seed 0", "seed 1"]]
    assert [one["kind"] for one in found["surfaces"]] == ["slice", "trajectory"]
    assert found["label"] == "screening"
    assert found["training"][0]["ceiling"] == 0.03
    assert whole.report.name == "diagnosis.html"
    assert len(list(whole.directory.glob("diagnosis-*.html"))) == 9
    assert any("fewer than three solutions" in line for line in found["caveats"]["interpolation"])


def test_numbers_are_those_of_the_solution(whole, moons):
    """The first solution's loss and largest eigenvalue, from its kept weights and exact derivatives."""
    [kept] = (whole.directory / "parts").glob("training-of-seed-0.pt")
    state = torch.load(kept, weights_only=True)["result"]["state"]
    task = tasks.load(moons)
    model = task.model(0)
    model.load_state_dict(state)
    inputs, targets = task._splits["train"]
    parameters = list(model.parameters())
    loss = torch.nn.functional.cross_entropy(model(inputs), targets)
    gradients = torch.cat([one.flatten() for one in torch.autograd.grad(loss, parameters, create_graph=True)])
    rows = [
        torch.cat([one.flatten() for one in torch.autograd.grad(each, parameters, retain_graph=True)])
        for each in gradients
    ]
    exact = torch.linalg.eigvalsh(torch.stack(rows).double())
    found = whole.results
    assert found["solutions"][0]["train_loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert found["spectra"][0]["values"] == pytest.approx(exact.flip(0)[:3].tolist(), rel=2e-2)
    assert found["spectra"][0]["setting"]["examples"] == 70
    for one in found["traces"][:2]:
        assert one["low"] - 1e-6 <= exact.sum().item() <= one["high"] + 1e-6
    rows = found["rescaling"]["rows"]
    assert [row["alpha"] for row in rows] == [0.2, 1.0, 5.0]
    assert max(row["function_change"] for row in rows) < 1e-5
    for name in found["rescaling"]["invariant"]:
        values = [row["measures"][name] for row in rows]
        assert values == pytest.approx([values[1]] * 3, rel=1e-3)
    line, plane = found["lines"][0], found["surfaces"][0]
    assert line["losses"][line["amounts"].index(0.0)] == pytest.approx(loss.item(), rel=1e-5)
    assert plane["losses"][plane["ys"].index(0.0)][plane["xs"].index(0.0)] == pytest.approx(loss.item(), rel=1e-5)


def test_it_does_not_depend_on_the_number_of_workers(whole, moons, tmp_path):
    other = descend.diagnose(moons, quick=True, out=tmp_path / "run", workers=2)
    assert timeless(document(other)) == timeless(document(whole))


def test_a_finished_diagnosis_is_read_and_not_repeated(whole, moons):
    before = (whole.directory / "diagnosis.json").stat().st_mtime_ns
    again = descend.diagnose(moons, quick=True, out=whole.directory, workers=1)
    assert again.results == whole.results
    assert (whole.directory / "diagnosis.json").stat().st_mtime_ns == before
    with pytest.raises(RunError, match="other options"):
        descend.diagnose(moons, quick=True, seeds=1, out=whole.directory)


class StopAfter(Silence):
    """Ctrl-C after so many jobs."""

    def __init__(self, count):
        self.left, self.began = count, None

    def begin(self, total, done):
        self.began = done

    def finished(self, name):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_it_goes_on_where_it_was_stopped(whole, moons, tmp_path):
    with pytest.raises(Interrupted, match=r"(?s)stopped after 5 of \d+ measurements.*descend diagnose --task") as stop:
        descend.diagnose(moons, quick=True, out=tmp_path / "run", workers=1, progress=lambda: StopAfter(5))
    assert "--quick" in str(stop.value)
    seen = StopAfter(1000)
    found = descend.diagnose(moons, quick=True, out=tmp_path / "run", workers=1, progress=lambda: seen)
    assert seen.began == 5
    assert timeless(document(found)) == timeless(document(whole))


def test_checkpoints_take_the_place_of_trainings(moons, tmp_path):
    task = tasks.load(moons)
    states = [task.model(seed).state_dict() for seed in range(3)]
    torch.save(states[0], tmp_path / "plain.pt")
    torch.save({"epoch": 3, "model": states[1]}, tmp_path / "nested.pt")
    store = SnapshotStore(tmp_path / "store")
    store.add(task.model(2), step=7)
    [snapshot] = (tmp_path / "store").glob("*.safetensors")
    checkpoints = [tmp_path / "plain.pt", tmp_path / "nested.pt", snapshot]
    wanted = ["eigenvalues", "interpolation", "trajectory", "training"]
    found = descend.diagnose(
        moons, checkpoints, quick=True, out=tmp_path / "run", instruments=wanted, workers=1
    ).results
    assert [one["source"] for one in found["solutions"]] == ["checkpoint"] * 3
    assert [one["ends"] for one in found["lines"]] == [["plain.pt", "nested.pt"]]
    [plane] = found["surfaces"]
    assert [point["name"] for point in plane["points"]] == ["plain.pt", "nested.pt", snapshot.name]
    assert found["training"] == []
    assert "no way of training" in found["caveats"]["trajectory"][0]
    assert found["spectra"][0]["threshold"] is None
    names = {path.name for path in (tmp_path / "run").glob("*.html")}
    assert names == {"diagnosis.html", "diagnosis-eigenvalues.html", "diagnosis-interpolation.html"}


def test_adam_is_diagnosed_as_it_sees_the_loss(moons, tmp_path):
    found = descend.diagnose(
        moons, optimizer="adam", quick=True, seeds=1, instruments=CURVATURE, out=tmp_path / "run", workers=1
    ).results
    named = [one for one in found["spectra"] if one["matrix"] == "preconditioned Hessian"]
    assert len(named) == 1
    assert named[0]["threshold"] == pytest.approx(38 / 1e-3)
    assert found["spectra"][0]["threshold"] is None


def test_batch_normalization_is_measured_in_both_modes(tmp_path):
    task = diagnosis_task.normalized(tmp_path)
    found = descend.diagnose(
        task, quick=True, seeds=1, instruments=["eigenvalues", "slices", "rescaling"], out=tmp_path / "run", workers=1
    ).results
    assert [one["setting"]["mode"] for one in found["spectra"]] == ["eval", "eval", "eval", "train"]
    assert {one["statistics"] for one in (*found["lines"], *found["surfaces"])} == {"recomputed"}
    assert found["rescaling"]["layers"] == ["0", "1"]


def test_a_task_without_an_order_says_so(tmp_path):
    task = diagnosis_task.unordered(tmp_path)
    found = descend.diagnose(
        task, quick=True, seeds=1, instruments=["eigenvalues", "rescaling"], out=tmp_path / "run", workers=1
    ).results
    assert any("no order" in note for note in found["spectra"][0]["setting"]["notes"])
    assert found["rescaling"] is None
    assert "No two layers" in found["caveats"]["rescaling"][0]


def run(words, capsys):
    with pytest.raises(SystemExit) as done:
        cli.main(["diagnose", *map(str, words)])
    return done.value.code, capsys.readouterr()


def test_the_command_prints_what_it_found(moons, tmp_path, capsys):
    words = ["--task", moons, "--quick", "--seeds", 1, "--instruments", "eigenvalues", "--workers", 1]
    code, said = run([*words, "--out", tmp_path / "run"], capsys)
    assert code == 0, said.err
    assert "largest eigenvalue, Hessian" in said.out
    assert f"report: {tmp_path / 'run' / 'diagnosis.html'}" in said.out
    assert "A residual says" in said.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"examples": 1}, "examples is 1"),
        ({"seeds": 0}, "seeds is 0"),
        ({"steps": 2}, "steps is 2"),
        ({"rate": -1.0}, "rate is -1"),
        ({"ceiling": 0}, "ceiling is 0"),
        ({"workers": 0}, "workers is 0"),
        ({"instruments": ["curvature"]}, "instrument 'curvature' is unknown"),
        ({"instruments": []}, "instruments is empty"),
        ({"optimizer": "adamm"}, "adamm"),
        ({"checkpoints": ["nowhere.pt"]}, "nowhere.pt is no file"),
    ],
)
def test_wrong_arguments(moons, tmp_path, options, words):
    with pytest.raises(UsageError, match=words):
        descend.diagnose(moons, out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_checkpoints_that_do_not_fit(moons, tmp_path):
    state = tasks.load(moons).model(0).state_dict()
    lacking = {name: value for name, value in state.items() if name != "2.bias"}
    wrong = {
        "lacking": (lacking, "has no '2.bias'"),
        "more": ({**state, "3.weight": torch.ones(1)}, "has '3.weight', which the task's model has not"),
        "shape": ({**state, "2.bias": torch.ones(5)}, r"'2.bias' of shape \(5,\)"),
        "infinite": ({**state, "2.bias": torch.full((2,), torch.inf)}, "not finite"),
        "numbers": ({"loss": 3.0}, "holds no state dict"),
    }
    for name, (content, words) in wrong.items():
        path = tmp_path / f"{name}.pt"
        torch.save(content, path)
        with pytest.raises(UsageError, match=words):
            descend.diagnose(moons, [path], out=tmp_path / "run")
    for name in ("broken.pt", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"root:x:0:0:root:/root:/bin/bash")
        with pytest.raises(UsageError, match="cannot be read"):
            descend.diagnose(moons, [tmp_path / name], out=tmp_path / "run")
    torch.save(state, tmp_path / "good.pt")
    with pytest.raises(UsageError, match="rate is of trainings"):
        descend.diagnose(moons, [tmp_path / "good.pt"], rate=0.1, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_diagnosed(moons, tmp_path):
    script = tmp_path / "train.py"
    script.write_text("import descend\ntrial = descend.trial('accuracy', steps=10)\n")
    with pytest.raises(TaskError, match="training script has no loss to call"):
        descend.diagnose(str(script), out=tmp_path / "run")
    with pytest.raises(TaskError, match="unknown task"):
        descend.diagnose("mooons", out=tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="is a file"):
        descend.diagnose(moons, out=tmp_path / "file", quick=True)
    with pytest.raises(UsageError, match="diverged"):
        descend.diagnose(moons, optimizer="sgd", rate=1e12, quick=True, seeds=1, out=tmp_path / "run", workers=1)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_it_ends_with_the_same_numbers(whole, moons, tmp_path, seed):
    draw = random.Random(seed)
    words = [sys.executable, "-m", "descend", "diagnose", "--task", moons, "--quick", "--out", str(tmp_path / "run")]
    for _ in range(6):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(draw.uniform(3, 9))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    found = json.loads((tmp_path / "run" / "diagnosis.json").read_text())
    assert timeless(found) == timeless(document(whole))
