"""`descend diagnose`: what it measures, keeps, and refuses."""

import dataclasses
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

import descend
import diagnosis_task
from descend import cli, tasks
from descend.experiments.diagnosis import plan
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
    check_memorization_and_directions(found)
    check_symmetry_and_measures(found)
    assert found["label"] == "screening"
    assert found["training"][0]["ceiling"] == 0.03
    assert whole.report.name == "diagnosis.html"
    assert len(list(whole.directory.glob("diagnosis-*.html"))) == 13
    assert any("fewer than three solutions" in line for line in found["caveats"]["interpolation"])


def check_memorization_and_directions(found):
    """Shares, ways of disturbing and layers, and that those of the solution agree with each other."""
    trained = found["memorization"]
    assert [one["share"] for one in trained] == [0.0, 0.05, 1.0]
    assert [one["expected_wrong_share"] for one in trained] == [0.0, 0.025, 0.5]
    assert [bool(one["precision"]) for one in trained] == [False, True, True]
    assert all(len(one["way"]) == one["epochs"] for one in trained)
    assert trained[0]["wrong_share"] == 0.0
    disturbed = found["directions"]
    assert [one["how"] for one in disturbed] == ["clamped to zero", "clamped to the mean", "noise"]
    assert {one["units"] + one["dead"] for one in disturbed} == {8}
    assert {one["means"][0] for one in disturbed} == {found["measures"][0]["train_accuracy"]}
    [layer] = found["units"]
    assert layer["layer"] == "1"
    assert len(layer["selectivity"]) == len(layer["importance"]) == 8 - layer["dead"]


def check_symmetry_and_measures(found):
    """The count by its closed form, and ends of lines that are the solutions."""
    assert found["symmetry"]["log10"] == pytest.approx(math.log10(math.factorial(8)))
    assert [one["how"] for one in found["symmetry"]["twins"]] == ["permuted"]
    assert [one["method"] for one in found["alignments"]] == ["weights", "activations"]
    losses = [one["validation_loss"] for one in found["solutions"]]
    for one in found["alignments"]:
        assert one["ends"] == ["seed 0", "seed 1"]
        for name in ("losses_before", "losses_after"):
            assert [one[name][0], one[name][-1]] == pytest.approx(losses, rel=1e-5)
    first, second = found["measures"]
    assert [first["setting"]["solution"], second["setting"]["solution"]] == ["seed 0", "seed 1"]
    for one in (first, second):
        assert one["gap"] == one["train_accuracy"] - one["test_accuracy"]
        assert one["measures"]["parameters"] == found["subject"]["weights"]
    assert found["rankings"] == []


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
    assert "validation accuracy, seed 0" in said.out
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
    with pytest.raises(UsageError, match="optimizer is of trainings"):
        descend.diagnose(moons, [tmp_path / "good.pt"], optimizer="adam", out=tmp_path / "run")
    torch.save(tasks.load(moons).model(0), tmp_path / "whole.pt")
    with pytest.raises(UsageError, match="holds other objects too, such as a whole model"):
        descend.diagnose(moons, [tmp_path / "whole.pt"], out=tmp_path / "run")
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


def test_checkpoints_with_one_name_are_told_apart_by_their_folders(moons, tmp_path):
    task = tasks.load(moons)
    for seed, folder in enumerate(("one", "two")):
        (tmp_path / folder).mkdir()
        torch.save(task.model(seed).state_dict(), tmp_path / folder / "last.pt")
    paths = [tmp_path / folder / "last.pt" for folder in ("one", "two")]
    found = descend.diagnose(
        moons, paths, quick=True, instruments=["interpolation"], out=tmp_path / "run", workers=1
    ).results
    assert [one["name"] for one in found["solutions"]] == ["one/last.pt", "two/last.pt"]
    for seed, (one, path) in enumerate(zip(found["solutions"], paths, strict=True)):
        expected = task.evaluate(task.model(seed), "validation")
        assert one["validation_loss"] == pytest.approx(expected["loss"]), path
    with pytest.raises(UsageError, match=r"one/last\.pt is given twice"):
        descend.diagnose(moons, [paths[0], paths[0]], quick=True, out=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_weights_of_other_types_are_those_of_the_model(moons, tmp_path):
    """An interpolation of what was saved in bfloat16 is not rounded to it."""
    states = [tasks.load(moons).model(seed).state_dict() for seed in range(2)]
    rounded = [{name: value.bfloat16() for name, value in state.items()} for state in states]
    losses = []
    for kind in (torch.bfloat16, torch.float32):
        paths = [tmp_path / f"{kind}-{place}.pt" for place in range(2)]
        for path, state in zip(paths, rounded, strict=True):
            torch.save({name: value.to(kind) for name, value in state.items()}, path)
        run = descend.diagnose(
            moons, paths, quick=True, instruments=["interpolation"], out=tmp_path / str(kind), workers=1
        )
        losses.append(run.results["lines"][0]["losses"])
    assert losses[0] == losses[1]


def test_what_cannot_be_measured_is_said_and_the_rest_is_measured(tmp_path):
    """A loss that goes around the model's forward pass has no Gauss-Newton matrix here; three weights on a line have
    no plane."""
    own = """
    def loss(self, model, batch):
        inputs, targets = batch
        return nn.functional.cross_entropy(model[2](model[1](model[0](inputs))), targets)
"""
    task = diagnosis_task.written(tmp_path, "around", (diagnosis_task.SOURCE % "") + own)
    first, third = (tasks.load(task).model(seed).state_dict() for seed in range(2))
    second = {name: (value + third[name]) / 2 for name, value in first.items()}
    paths = [tmp_path / f"{name}.pt" for name in ("first", "second", "third")]
    for path, state in zip(paths, (first, second, third), strict=True):
        torch.save(state, path)
    wanted = ["eigenvalues", "interpolation"]
    found = descend.diagnose(task, paths, quick=True, instruments=wanted, out=tmp_path / "run", workers=1)
    assert [(one["matrix"], one["which"]) for one in found.results["spectra"]] == [
        ("Hessian", "largest"),
        ("Hessian", "smallest"),
    ]
    assert len(found.results["lines"]) == 1
    assert found.results["surfaces"] == []
    caveats = found.results["caveats"]
    assert "Gauss-Newton needs it called once" in caveats["eigenvalues"][-1]
    assert re.match(r"Not measured: three row 9 0 .* and 8 more \(.*on one line", caveats["interpolation"][-1])


def test_parameters_that_the_loss_does_not_use_are_no_hindrance(tmp_path):
    source = (diagnosis_task.SOURCE % "").replace(
        "        return nn.Sequential", "        chain = nn.Sequential"
    ) + "        chain.register_parameter('unused', nn.Parameter(torch.zeros(3)))\n        return chain\n"
    task = diagnosis_task.written(tmp_path, "unused", source)
    values = []
    for path in (task, diagnosis_task.plain(tmp_path)):
        found = descend.diagnose(
            path,
            optimizer="adam",
            quick=True,
            seeds=1,
            instruments=["eigenvalues"],
            out=tmp_path / f"of-{len(values)}",
            workers=1,
        ).results
        [preconditioned] = [one for one in found["spectra"] if one["matrix"] == "preconditioned Hessian"]
        values.append(preconditioned["values"][0])
    assert values[0] == pytest.approx(values[1], rel=2e-2)


def test_numbers_that_are_not_accurate_are_said(moons, tmp_path, monkeypatch):
    coarse = dataclasses.replace(plan.QUICK, trace_rtol=1e-9, trace_products=40)
    monkeypatch.setattr(plan, "QUICK", coarse)
    found = descend.diagnose(moons, quick=True, seeds=1, instruments=["trace"], out=tmp_path / "run", workers=1).results
    assert [one["converged"] for one in found["traces"]] == [False] * 4
    lines = [line for line in found["caveats"]["trace"] if "not as accurate as was asked" in line]
    assert len(lines) == 4


def test_the_words_for_other_options(whole, moons):
    for changes, words in (
        ({"seeds": 1}, r"\(seeds: 2 there, 1 now\)"),
        ({"optimizer": "adam"}, r"\(optimizer: sgd there, adam now; rate: 0\.1 there, 0\.001 now\)"),
        ({"examples": 50}, r"\(examples: 500 there, 50 now\)"),
    ):
        with pytest.raises(RunError, match=words):
            descend.diagnose(moons, quick=True, out=whole.directory, **changes)


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


def test_suspects_are_named_by_their_places_in_the_training_data(tmp_path):
    found = descend.diagnose(
        "digits", instruments=["memorization"], quick=True, steps=10, workers=1, examples=30, out=tmp_path / "run"
    ).results
    (_, classes), *_ = tasks.load("digits").ordered("train", 2000)
    true = next(one for one in found["memorization"] if one["share"] == 0)
    assert max(each["place"] for each in true["suspects"]) > 30
    for each in true["suspects"]:
        assert int(classes[each["place"]]) == each["label"]
