"""`descend diagnose --population`: measures held to the test gaps of networks that the user trained."""

import csv
import itertools
import json

import pytest
import torch

import descend
import diagnosis_task
from descend import cli, tasks
from descend.experiments.diagnosis.population import read
from descend.experiments.errors import UsageError
from descend.generalization import MEASURES

MEASURED = ["measures"]


@pytest.fixture(scope="module")
def moons(tmp_path_factory):
    return diagnosis_task.plain(tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="module")
def runs(moons, tmp_path_factory):
    """Networks of two rates, two numbers of steps and two seeds, and their table."""
    folder = tmp_path_factory.mktemp("runs")
    task = tasks.load(moons)
    rows = []
    for rate, steps, seed in itertools.product((0.05, 0.5), (30, 120), (0, 1)):
        model, batches = task.model(seed), task.batches(seed)
        optimizer = descend.SGD(model.parameters(), lr=rate)
        for _ in range(steps):
            task.loss(model, next(batches)).backward()
            optimizer.step()
            optimizer.zero_grad()
        name = f"{rate}-{steps}-{seed}.pt"
        torch.save(model.state_dict(), folder / name)
        rows.append({"checkpoint": name, "rate": rate, "steps": steps, "seed": seed})
    return table(folder / "runs.csv", rows)


def table(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_measures_are_held_to_the_gaps_of_the_population(moons, runs, tmp_path):
    found = descend.diagnose(
        moons, population=runs, instruments=MEASURED, quick=True, workers=1, out=tmp_path / "run"
    ).results
    assert len(found["solutions"]) == 8
    assert [one["settings"]["rate"] for one in found["measures"]] == [0.05] * 4 + [0.5] * 4
    assert [one["measure"] for one in found["rankings"]] == list(MEASURES)
    rank = {one["measure"]: one for one in found["rankings"]}
    assert {one["name"] for one in rank["squared_parameter_norm"]["axes"]} == {"rate", "steps"}
    assert rank["parameters"]["psi"] == 0
    assert rank["parameters"]["sentence"].startswith("no predictive value on these runs")
    assert rank["squared_distance"]["psi"] is None
    assert "not known" in rank["squared_distance"]["sentence"]

    # the granulated coefficient of the parameters' norm, by hand: pairs that differ in one setting, of one seed
    values = [one["measures"]["squared_parameter_norm"] for one in found["measures"]]
    gaps = [one["gap"] for one in found["measures"]]
    settings = [one["settings"] for one in found["measures"]]
    taus = {"rate": [], "steps": []}
    for i, j in itertools.combinations(range(8), 2):
        differing = [name for name in ("rate", "steps", "seed") if settings[i][name] != settings[j][name]]
        if differing in (["rate"], ["steps"]):
            agree = (values[i] - values[j]) * (gaps[i] - gaps[j])
            taus[differing[0]].append((agree > 0) - (agree < 0))
    expected = sum(sum(one) / len(one) for one in taus.values()) / 2
    assert rank["squared_parameter_norm"]["psi"] == pytest.approx(expected)

    # each gap is that of the checkpoint
    task = tasks.load(moons)
    for one in found["measures"]:
        name = one["setting"]["solution"]
        model = task.model(0)
        model.load_state_dict(torch.load(runs.parent / name, weights_only=True))
        inputs, targets = task._splits["train"]
        right = (model(inputs).argmax(1) == targets).double().mean().item()
        assert one["gap"] == pytest.approx(right - task.evaluate(model, "test")["accuracy"])


def test_the_command_repeats_with_the_table(moons, runs, tmp_path, capsys):
    arguments = ["diagnose", "--task", moons, "--population", str(runs), "--instruments", "measures", "--quick"]
    for _ in range(2):
        with pytest.raises(SystemExit) as done:
            cli.main([*arguments, "--out", str(tmp_path / "run"), "--workers", "1"])
        assert done.value.code == 0
    document = json.loads((tmp_path / "run" / "diagnosis.json").read_text())
    assert "--population" in document["manifest"]["command"]
    assert "--checkpoint" not in document["manifest"]["command"]
    said = " ".join(capsys.readouterr().out.split())
    assert "No measure has predictive value on these runs: 8 networks" in said
    assert "Psi, squared parameter norm" in said
    assert "median training loss, 8 solutions" in said
    assert "0.05-30-1.pt" not in said.split("measure value within")[-1]  # no row for each of a population


def rows(**changes):
    return [{"checkpoint": f"{i}.pt", "rate": i // 4, "width": i % 4 // 2, "seed": i % 2, **changes} for i in range(8)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "has the columns none"),
        ("checkpoint,rate,rate\n" + "a.pt,1,2\n" * 9, "has the column 'rate' twice"),
        ("path,rate\na,1\n", "has the columns path, rate; give one named 'checkpoint'"),
        ("checkpoint\n" + "a.pt\n" * 9, "one for each hyper-parameter"),
        ("checkpoint,rate\n" + "a.pt,1\n" * 7, "too few networks .7.; give 8"),
        ("checkpoint,rate\n" + "a.pt,1\n" * 8 + "b.pt\n", "in line 10"),
        ("checkpoint,rate\n" + "a.pt,1\n" * 8 + "b.pt,1,2\n", "in line 10"),
        ("checkpoint,rate\n" + "a.pt,1\n" * 8, "no two networks that differ in one"),
        (
            "checkpoint,rate,seed\n" + "".join(f"{i}.pt,{i},{i}\n" for i in range(8)),
            "no two networks that differ in one",
        ),
    ],
)
def test_tables_that_say_nothing_are_refused(tmp_path, content, words):
    path = tmp_path / "runs.csv"
    path.write_text(content)
    with pytest.raises(UsageError, match=words):
        read(path)


def test_a_table_is_read(tmp_path):
    found = read(table(tmp_path / "runs.csv", rows(optimizer="adam")))
    assert found.checkpoints[3] == tmp_path / "3.pt"
    assert found.settings[3] == {"rate": 0, "width": 1, "seed": 1, "optimizer": "adam"}
    assert [type(value) for value in found.settings[3].values()] == [int, int, int, str]


def test_wrong_arguments(moons, runs, tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        descend.diagnose(moons, population=tmp_path / "none.csv")
    with pytest.raises(UsageError, match="leave one out"):
        descend.diagnose(moons, [runs.parent / "0.05-30-0.pt"], population=runs)
    with pytest.raises(UsageError, match="steps is of trainings"):
        descend.diagnose(moons, population=runs, steps=20)
    with pytest.raises(UsageError, match=r"0\.pt is no file"):
        descend.diagnose(moons, population=table(tmp_path / "runs.csv", rows()))
    assert not (tmp_path / "runs").exists()
