"""Training scripts as they are: what they declare, what a trial of theirs leaves behind, and what they do wrong."""

import math
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import descend
from comparisons import prepare, without_times
from descend import commands, tasks
from descend.experiments import search_space, trial
from descend.experiments.handle import Diverged
from descend.experiments.trial import Trial
from descend.tasks import Script, TaskError

SCRIPT = """
import torch
from torch import nn
import descend

trial = descend.trial("accuracy", steps=24, target=0.8, worst=0.0)

generator = torch.Generator().manual_seed(0)
y = torch.arange(90) % 3
x = torch.eye(3)[y][:, :2] + 0.3 * torch.randn(90, 2, generator=generator)
model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3))
optimizer = trial.optimizer(model.parameters())

def judge(part):
    outputs = model(x[part])
    return nn.functional.cross_entropy(outputs, y[part]).item(), (outputs.argmax(1) == y[part]).double().mean().item()

for step in range(1, trial.steps + 1):
    batch = torch.randint(48, (8,))
    optimizer.zero_grad()
    train_loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
    train_loss.backward()
    optimizer.step()
    if step % 4 == 0 or step == trial.steps:
        loss, accuracy = judge(slice(48, 69))
        trial.report(step, train_loss=train_loss, loss=loss, accuracy=accuracy)
print("the script is at its end")
if trial.is_final:
    test_loss, test_accuracy = judge(slice(69, None))
    trial.report(trial.steps, test_loss=test_loss, test_accuracy=test_accuracy)
"""


@pytest.fixture(autouse=True)
def prepared(tmp_path, monkeypatch):
    prepare(tmp_path, monkeypatch)


def written(text=SCRIPT, name="train.py"):
    Path(name).write_text(text)
    return name


def small(**changes):
    asked = dict(optimizers=["sgd", "adam"], trials=3, seeds=2, steps=12, workers=1, out="run")
    return commands.compare(written(), **{**asked, **changes})


class Noted:
    def __init__(self):
        self.lines = []

    def log(self, values, step):
        self.lines.append((step, dict(values)))


def test_a_script_is_known_by_what_it_declares():
    problem = tasks.load(written())
    assert isinstance(problem, Script)
    assert (problem.name, problem.title, problem.metric, problem.direction) == (
        "train",
        "train",
        "accuracy",
        "maximize",
    )
    assert (problem.steps, problem.target, problem.worst, problem.sizes) == (24, 0.8, 0.0, {})


def test_probing_a_script_trains_nothing(monkeypatch):
    monkeypatch.setattr(torch.optim.Optimizer, "step", lambda *a: pytest.fail("a step was taken"))
    tasks.load(written())


def test_a_comparison_of_a_script_has_everything_that_one_of_a_task_has():
    found = small().results
    assert [row["optimizer"] for row in found["summary"]]
    assert found["task"]["batch_size"] is None
    assert found["task"]["sizes"] == {}
    for record in found["trials"]:
        assert [point["step"] for point in record["curve"]] == [4, 8, 12]
        assert record["ms_per_step"] > 0
        assert record["state_bytes"] > 0
        assert (record["test_metric"] is not None) == (record["phase"] == "final")
    assert any("test examples" in caveat for caveat in found["caveats"])


def test_a_trial_of_a_script_equals_its_loop_by_hand():
    record = trial.run(tasks.load(written()), Trial("tuning", "sgd", 0.1, 3), 12)
    torch.manual_seed(3)
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(90) % 3
    x = torch.eye(3)[y][:, :2] + 0.3 * torch.randn(90, 2, generator=generator)
    model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for step in range(12):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * (min(1.0, step + 1) if step < 1 else (1 + math.cos(math.pi * (step - 1) / 11)) / 2)
        batch = torch.randint(48, (8,))
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x[batch]), y[batch])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    shown = [point["train_loss"] for point in record.curve]
    assert shown == pytest.approx([losses[3], losses[7], losses[11]], rel=1e-5)


@pytest.mark.long
def test_several_processes_give_the_numbers_of_one():
    one, two = small(), small(workers=2, out="two")
    assert without_times(two.results["trials"]) == without_times(one.results["trials"])
    assert without_times(two.results["summary"]) == without_times(one.results["summary"])


def test_what_a_script_reports_is_logged_while_it_runs():
    log = Noted()
    trial.run(tasks.load(written()), Trial("final", "sgd", 0.1, 1), 12, log)
    assert [step for step, _ in log.lines] == [4, 8, 12, 12]
    assert set(log.lines[0][1]) == {"train_loss", "loss", "accuracy"}
    assert set(log.lines[-1][1]) == {"test_loss", "test_accuracy"}


def test_a_diverging_script_ends_early_and_counts_as_the_worst():
    spoilt = SCRIPT.replace("accuracy=accuracy)", "accuracy=accuracy if step < 8 else float('nan'))", 1)
    record = trial.run(tasks.load(written(spoilt)), Trial("tuning", "sgd", 0.1, 1), 12)
    assert record.diverged
    assert record.validation_metric == 0.0
    assert [point["step"] for point in record.curve] == [4]


def test_python_runs_the_script_with_a_default_optimizer(tmp_path):
    ran = subprocess.run(
        [sys.executable, "-W", "error", written()], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert [line.partition(":")[0] for line in ran.stdout.splitlines()] == [
        *(f"step {step}" for step in range(4, 25, 4)),
        "the script is at its end",
        "step 24",
    ]


def test_a_script_with_a_main_guard_and_its_own_name_for_the_handle():
    body = SCRIPT.replace("import descend\n", "from descend import trial as ask\n").replace("descend.trial(", "ask(")
    lines = "\n".join("    " + line for line in body.splitlines())
    guarded = f"def main():\n{lines}\n\nif __name__ == '__main__':\n    main()\n"
    assert small_of(written(guarded)).results["summary"]


def small_of(name):
    return commands.compare(name, ["sgd"], trials=1, seeds=1, steps=8, workers=1, out="other")


def test_hyper_parameters_of_the_script_go_to_whom_they_belong():
    text = SCRIPT.replace("model.parameters())", "model.parameters(), weight_decay=0.5, betas=(0.5, 0.6), lr=7.0)")
    problem = tasks.load(written(text))
    for name in ("sgd", "adamw", "powersign"):
        assert not trial.run(problem, Trial("tuning", name, search_space.rates(name, 1)[0], 0), 8).diverged


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("range(1, trial.steps + 1)", "range(1, 6)"), "took 5 optimizer steps of 12; take trial.steps"),
        (
            ("trial.report(step, train", "pass; dict(step=step, train"),
            r"without the metric after its last step.*report\(12",
        ),
        (("trial.report(step,", "trial.report(step - 1,"), "counting steps from 1"),
        (("optimizer = trial.optimizer(", "optimizer = torch.optim.SGD("), "never called trial.optimizer"),
        (("y = torch", "trial.optimizer([torch.ones(1)]); y = torch"), "trial.optimizer was called twice"),
        (("trial.report(step, ", "trial.report(24 - step, "), "step is 20, but the optimizer has taken 4"),
        (("trial.report(step, ", "trial.report(8 - step, "), "give the number of steps taken so far"),
        (("train_loss=train_loss", "train_loss=[1]"), "train_loss is a list that is no single number"),
        (("y = torch", "import sys; sys.exit('no data'); y = torch"), "ended with 'no data'"),
        (("y = torch", "descend.trial('accuracy', steps=3); y = torch"), "called twice; call it once"),
    ],
)
def test_what_a_script_does_wrong_is_said(change, message):
    problem = tasks.load(written(SCRIPT.replace(*change, 1)))
    with pytest.raises(TaskError, match=message):
        trial.run(problem, Trial("tuning", "sgd", 0.1, 1), 12)


def test_a_final_run_without_a_test_metric_is_said():
    problem = tasks.load(written(SCRIPT.replace("trial.is_final", "False")))
    with pytest.raises(TaskError, match="without a test metric"):
        trial.run(problem, Trial("final", "sgd", 0.1, 1), 12)


def test_an_error_of_the_script_keeps_its_type_and_shows_what_was_printed():
    problem = tasks.load(written(SCRIPT.replace("if trial.is_final:", "print('before the end'); 1 / 0\nif True:")))
    with pytest.raises(ZeroDivisionError) as caught:
        trial.run(problem, Trial("tuning", "sgd", 0.1, 1), 12)
    assert "before the end" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("''", "metric is ''; give the name"),
        ("'loss', steps=3", "metric is 'loss', which is reported beside it"),
        ("'a', steps=1", "steps is 1; give the number of optimizer steps, 2 or more"),
        ("'a', steps=9, direction='up'", "direction is 'up'"),
        ("'a', steps=9, target=float('nan')", "target is nan"),
        ("'a', steps=9, target='0.9'", "target is '0.9'; give a number"),
        ("'a', steps=9, worst='bad'", "worst is 'bad'; give a number"),
        ("'a', steps=9, title=5", "title is 5; give a text"),
        ("'a', steps=9, target=0.5, worst=1.0", "worst .1.0. is not worse than target"),
    ],
)
def test_a_declaration_that_makes_no_sense(call, message):
    call = call if "steps" in call else f"{call}, steps=9"
    with pytest.raises(TaskError, match=message):
        tasks.load(written(f"import descend\ntrial = descend.trial({call})\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import descend\nif False:\n    descend.trial('a', steps=3)\n", "ended without descend.trial"),
        ("import descend\n1 / 0\ndescend.trial('a', steps=3)\n", "failed with ZeroDivisionError"),
        ("import descend, sys\nsys.exit(3)\ndescend.trial('a', steps=3)\n", "ended with 3 before"),
    ],
)
def test_a_script_that_does_not_get_to_its_declaration(text, message):
    with pytest.raises(TaskError, match=message):
        tasks.load(written(text))


def test_a_script_takes_no_settings():
    with pytest.raises(TaskError, match=r"train.py takes no setting 'subset' \(none\)"):
        commands.compare(written(), subset=10)


def test_alone_a_report_that_is_not_finite_raises():
    handle = descend.trial("accuracy", steps=4)
    handle.optimizer([torch.ones(1, requires_grad=True)])
    with pytest.raises(Diverged, match="at step 0"):
        handle.report(0, train_loss=math.inf)


def test_a_script_may_ask_for_its_trial_in_a_module_beside_it():
    written("def main():\n" + textwrap.indent(SCRIPT, "    "), "core_of_script.py")
    written("from core_of_script import main\nmain()\n")
    assert isinstance(tasks.load("train.py"), Script)


def test_another_object_s_trial_is_not_ours():
    other = "import types\nstudy = types.SimpleNamespace(trial=abs)\nstudy.trial(3)\n"
    assert isinstance(tasks.load(written(other + SCRIPT)), Script)


def test_steps_may_be_numpy_s():
    text = "import numpy as np\n" + SCRIPT.replace("trial.report(step,", "trial.report(np.int64(step),")
    assert len(trial.run(tasks.load(written(text)), Trial("tuning", "sgd", 0.1, 1), 12).curve) == 3


def test_a_wrong_value_for_the_optimizer_is_said_in_a_line():
    text = SCRIPT.replace("model.parameters())", "model.parameters(), weight_decay='x')")
    with pytest.raises(TaskError, match=r"trial.optimizer: weight_decay"):
        trial.run(tasks.load(written(text)), Trial("tuning", "sgd", 0.1, 1), 12)
