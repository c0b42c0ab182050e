"""Trials of a script do not leak into each other, and what it sets itself is said."""

import os
import sys
from pathlib import Path

import pytest
import torch

from comparisons import prepare
from descend import commands, tasks
from descend.experiments import trial
from descend.experiments.trial import Trial
from descend.experiments.workers import _sendable
from descend.tasks import TaskError
from test_scripts import SCRIPT


@pytest.fixture(autouse=True)
def prepared(tmp_path, monkeypatch):
    prepare(tmp_path, monkeypatch)


def ran(text, seed=1):
    Path("train.py").write_text(text)
    return trial.run(tasks.load("train.py"), Trial("tuning", "sgd", 0.1, seed), 12)


def test_a_module_beside_the_script_starts_anew_in_every_trial():
    Path("neighbour_of_script.py").write_text("import torch\nrng = torch.Generator().manual_seed(0)\n")
    text = SCRIPT.replace("import descend\n", "import descend, neighbour_of_script\n").replace(
        "torch.randint(48, (8,))", "torch.randint(48, (8,), generator=neighbour_of_script.rng)"
    )
    first, second = ran(text), ran(text)
    assert [p["train_loss"] for p in first.curve] == [p["train_loss"] for p in second.curve]
    assert "neighbour_of_script" not in sys.modules


def test_directory_arguments_and_torch_s_settings_are_put_back():
    here, arguments, ways = os.getcwd(), list(sys.argv), list(sys.path)
    ran(SCRIPT + "\nimport os, sys\nos.chdir('/')\nsys.argv.append('x')\ntorch.set_default_dtype(torch.float64)\n")
    assert (os.getcwd(), sys.argv, sys.path) == (here, arguments, ways)
    assert torch.get_default_dtype() == torch.float32


def test_what_a_script_fixes_is_used_and_reported():
    Path("train.py").write_text(SCRIPT.replace("model.parameters())", "model.parameters(), momentum=0.25)"))
    found = commands.compare("train.py", ["sgd"], trials=1, seeds=1, steps=8, workers=1, out="run").results
    assert found["optimizers"][0]["hyper_parameters"]["momentum"] == 0.25
    assert all(one["fixed"] == {"momentum": 0.25} for one in found["trials"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("model.parameters(), momentun=0.1)", "no optimizer has a hyper-parameter 'momentun'; did you mean 'momentum'"),
        ("[{'params': model.parameters(), 'lr': 0.1}])", "a param group has lr of its own"),
    ],
)
def test_what_would_silently_change_the_comparison_is_refused(given, message):
    with pytest.raises(TaskError, match=message):
        ran(SCRIPT.replace("model.parameters())", given))


def test_a_script_without_a_target_has_a_table():
    from descend.experiments.console import table

    Path("train.py").write_text(SCRIPT.replace(" target=0.8,", ""))
    found = commands.compare("train.py", ["sgd"], trials=1, seeds=1, steps=8, workers=1, out="run").results
    assert not any("steps to" in str(column.header) for column in table(found, 110).columns)


@pytest.mark.long
def test_a_script_may_use_processes_and_write_bytes():
    loader = "torch.utils.data.DataLoader(torch.arange(48), 8, shuffle=True, num_workers=1)"
    text = SCRIPT.replace(
        "for step in", f"import sys\nsys.stdout.buffer.write(b'\\xff')\nloaded = iter({loader})\nfor step in"
    )
    Path("train.py").write_text(text.replace("torch.randint(48, (8,))", "next(loaded)"))
    found = commands.compare("train.py", ["sgd"], trials=1, seeds=1, steps=4, workers=2, out="run").results
    assert len(found["trials"]) == 2


def test_what_a_tuning_trial_says_of_the_test_set_stands_nowhere():
    Path("train.py").write_text(SCRIPT.replace("if trial.is_final:", "if True:"))
    commands.compare("train.py", ["sgd"], trials=1, seeds=1, steps=4, workers=1, out="run")
    logs = {path.name.partition("-")[0]: path.read_text() for path in Path("run/logs").glob("*.jsonl")}
    assert "accuracy" in logs["tuning"]
    assert "test_accuracy" not in logs["tuning"]
    assert "test_accuracy" in logs["final"]


class TwoArguments(Exception):
    def __init__(self, one, other):
        super().__init__(f"{one} and {other}")


def test_an_error_that_cannot_be_pickled_arrives_in_words():
    assert str(_sendable(TwoArguments("this", "that"))) == "TwoArguments: this and that"
    error = ValueError("plain")
    assert _sendable(error) is error
