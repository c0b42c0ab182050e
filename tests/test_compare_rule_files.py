"""Rules from files in comparisons: held to ours under another name, refused in words, kept by the run."""

import json
from pathlib import Path

import pytest

from comparisons import prepare, small, without_times
from descend import commands, report, rules, tasks
from descend.cli import main
from descend.experiments import compare as protocol
from descend.experiments import rule_files, search_space
from descend.experiments.ensemble_study import study
from descend.experiments.errors import Interrupted, RunError, UsageError
from descend.experiments.options import resolve
from descend.experiments.trial import Trial
from descend.report import mathml

WRITE = report.write
FOUND = '''
from descend import Slot, ema, rule, sign


@rule
def found(p, g, m=Slot("m"), *, lr=0.02, beta=0.9):
    """AdamW. The words of a docstring are no name."""
    m = ema(m, g, beta)
    return dict(p=p - lr * (m + 0.1 * sign(g)), m=m)
'''
SCRIPT = """
import torch
from torch import nn
import descend

trial = descend.trial("accuracy", steps=8, worst=0.0)
y = torch.arange(30) % 3
x = torch.eye(3)[y]
model = nn.Linear(3, 3)
optimizer = trial.optimizer(model.parameters(), beta=0.5)
for step in range(1, trial.steps + 1):
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    if step % 4 == 0:
        trial.report(step, loss=loss, accuracy=(model(x).argmax(1) == y).double().mean())
if trial.is_final:
    trial.report(trial.steps, test_loss=loss, test_accuracy=1.0)
"""


@pytest.fixture(autouse=True)
def prepared(tmp_path, monkeypatch):
    prepare(tmp_path, monkeypatch)


def written(text=FOUND, name="found.py"):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)
    return name


def source(name, function, **hyper_parameters):
    """The text of one of ours, its function under another name."""
    return rules.catalog()[name].source(**hyper_parameters).replace(f"def {name}(", f"def {function}(")


def compared(*optimizers, out="run", **changes):
    return small(out, optimizers=list(optimizers), **{"trials": 2, "seeds": 1, "steps": 8, **changes})


def ended(words):
    with pytest.raises(SystemExit) as end:
        main(words)
    return end.value.code


class StopAfter(protocol.Silence):
    def __init__(self, count):
        self.left = count

    def finished(self, record):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


# ---- what is compared ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ours", "given"), [("adam", {}), ("sgdw", {"momentum": 0.9, "lr": 0.1})])
def test_one_of_ours_in_a_file_trains_bit_for_bit_as_ours(ours, given):
    results = compared(ours, written(source(ours, "mine", **given), "mine.py")).results
    mine, theirs = ([t for t in results["trials"] if t["optimizer"] == name] for name in ("mine", ours))
    assert len(mine) == 3
    assert [{**t, "optimizer": ours} for t in without_times(mine)] == without_times(theirs)


def test_a_rule_goes_by_its_function_s_name_and_its_rates_lie_around_its_own():
    results = compared("adamw", written(), trials=3).results
    ours, own = results["optimizers"]
    assert (ours["name"], ours["title"]) == ("adamw", "AdamW")
    assert (own["name"], own["title"]) == ("found", "found"), "not that of its docstring"
    assert own["rates"] == search_space.rates(rule_files.named("found.py"), 3)
    assert own["rates"][1] == pytest.approx(0.02)
    assert own["hyper_parameters"] == {"beta": 0.9}
    assert own["text"] == rule_files.named("found.py").text(lr=own["best_rate"], beta=0.9)
    assert {t["optimizer"] for t in results["trials"]} == {"adamw", "found"}
    assert results["manifest"]["options"]["rules"] == {"found": FOUND}
    assert "--optimizers adamw,found.py" in results["manifest"]["command"]


def test_processes_make_the_rule_of_its_text():
    one = compared("adamw", written(), out="one").results
    two = compared("adamw", "./found.py", out="two", workers=2).results
    for key in ("trials", "summary", "optimizers"):
        by_place = [sorted(without_times(document[key]), key=repr) for document in (one, two)]
        assert by_place[0] == by_place[1]


def test_two_texts_of_one_name_in_one_process_are_two_rules():
    first = compared(written(), out="first").results
    second = compared(written(FOUND.replace("beta=0.9", "beta=0.1")), out="second").results
    assert first["trials"][0]["curve"][-1] != second["trials"][0]["curve"][-1]


def test_a_hyper_parameter_of_its_own_is_tuned_beside_the_rate():
    results = compared(written(), grid={"beta": [0.5, 0.9]}).results
    assert sorted({t["values"]["beta"] for t in results["trials"]}) == [0.5, 0.9]
    with pytest.raises(UsageError, match=r"grid: adamw has no hyper-parameter 'beta' .* it has eps, weight_decay"):
        compared("adamw", "found.py", out="other", grid={"beta": [0.5, 0.9]})


def test_a_file_with_one_of_ours_as_comparisons_take_it_is_that():
    written(source("adamw", "adamw"), "adamw.py")
    written(source("sgd", "sgd", momentum=0.9), "sgd.py")
    options = resolve("blobs.py", tasks.load("blobs.py"), ["adamw.py", "./sgd.py", "adam"])
    assert (options.optimizers, options.rules) == (("adamw", "sgd", "adam"), {})
    assert "rules" not in options.as_dict(), "the run would have another directory than before"


def test_a_training_script_takes_the_rule_and_fixes_its_hyper_parameters(capsys):
    written(SCRIPT, "train.py")
    results = commands.compare("train.py", [written()], trials=2, seeds=1, workers=1, out="run").results
    assert results["optimizers"][0]["hyper_parameters"] == {"beta": 0.5}
    assert all(t["fixed"] == {"beta": 0.5} and not t["diverged"] for t in results["trials"])
    alone = SCRIPT.replace("steps=8", "steps=8, optimizer='./found.py'")
    exec(compile(alone, "train.py", "exec"), {"__name__": "__main__"})
    assert "accuracy" in capsys.readouterr().out


def test_a_trial_of_ours_is_written_down_as_ever():
    """What is kept in a run is known by a hash of this."""
    ours = Trial("final", "sgd", 0.1, 1)
    assert ours.as_dict() == {"phase": "final", "optimizer": "sgd", "rate": 0.1, "seed": 1, "values": ()}
    own = Trial("final", "found", 0.1, 1, source=FOUND)
    assert own.as_dict()["source"] == FOUND
    assert own == Trial("final", "found", 0.1, 1), "so that records, which lack it, are found"


# ---- looking ---------------------------------------------------------------------------------------------------------


def test_show_and_range_test_take_a_file(capsys):
    assert ended(["show", f"./{written()}", "beta=0.5"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("found  lr=0.02 beta=0.5\n")
    assert "θ ← θ − lr · (m + 0.1 sign(g))" in shown
    written(source("adam", "mine"), "mine.py")
    asked = dict(steps=12, seeds=1, low=1e-4, high=1.0)
    mine, ours = (commands.range_test("blobs.py", name, **asked) for name in ("./mine.py", "adam"))
    assert mine.sweeps[0].losses == ours.sweeps[0].losses


# ---- what is refused -------------------------------------------------------------------------------------------------

TWO = FOUND + FOUND.replace("def found", "def other").replace("from descend import Slot, ema, rule, sign", "")
WRONG = {
    "from descend.rules import adamw": r"no rule in this file; give the path of a Python file with one @descend.rule",
    TWO: r"2 rules in this file \(found, other\); keep @rule on one, give others own files",
    "1 / 0": "running the file failed with ZeroDivisionError: division by zero",
    "def broken(": "running the file failed with SyntaxError",
    "raise SystemExit(3)": "running the file failed with SystemExit: 3",
    FOUND.replace("beta=0.9", "beta"): "failed with FormulaError: .*'beta' has no default",
    FOUND.replace("lr=0.02, ", "").replace("lr * ", "0.1 * "): "rule 'found' has no rate to tune; declare .* lr=",
    FOUND.replace("lr=0.02", "lr=0.0"): "rule 'found' has no rate to tune",
    FOUND.replace("found", "lion"): "'lion' is the name of one of ours, with another formula; rename the function",
    FOUND.replace("found", "AdamW"): "'AdamW' is the name of one of ours",
    source("sgd", "sgd"): "'sgd' is the name of one of ours",  # compared with momentum
    source("adam", "adam", lr=0.5): "'adam' is the name of one of ours",  # whose rates lie around another
    source("adam", "adam", betas=(0.5, 0.9)): "'adam' is the name of one of ours",
    source("adam", "adam").replace('"exp_avg"', '"exp_avg", init=1.0'): "'adam' is the name of one of ours",
    source("adam", "mine", eps=-1.0): "found.py: .*eps",
    "import blobs" + FOUND: "imports blobs.py beside it, which a run does not keep; put all into one file",
}


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_a_file_that_is_no_rule_to_compare_is_refused_in_words(text):
    with pytest.raises(UsageError, match=WRONG[text]) as caught:
        compared("rmsprop", written(text))
    assert str(caught.value).startswith("found.py")
    assert not Path("run").exists()


def test_a_file_that_cannot_be_read_is_refused_in_words(capsys):
    Path("latin.py").write_bytes(b"# \xe9\n")
    Path("folder.py").mkdir()
    for name, why in [("away.py", "no such file"), ("folder.py", "cannot be read"), ("latin.py", "cannot be read")]:
        with pytest.raises(UsageError, match=rf"^\./{name}: {why}.*; give the path of a Python file"):
            compared(f"./{name}")
    assert ended(["show", "./away.py"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_names_that_clash_are_refused():
    written()
    with pytest.raises(UsageError, match="optimizer 'found' is named twice; name it once"):
        compared("found.py", "./found.py")
    written(FOUND.replace("0.9", "0.8"), "there/found.py")
    with pytest.raises(UsageError, match=r"there/found.py: another file holds a rule 'found' too; rename the function"):
        compared("found.py", "there/found.py")
    written(source("adam", "adam"), "adam.py")
    with pytest.raises(UsageError, match="optimizer 'adam' is named twice"):
        compared("adam.py", "adam")


# ---- what a run keeps ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stopped_run_goes_on_with_a_file_of_the_same_content(workers):
    whole = compared("adamw", written(), out="whole").results
    with pytest.raises(Interrupted):
        compared("adamw", "found.py", workers=workers, progress=lambda task: StopAfter(3))
    Path("found.py").rename("moved.py")
    again = compared("adamw", "moved.py", workers=workers).results
    for key in ("trials", "summary", "optimizers"):
        assert without_times(again[key]) == without_times(whole[key])


def test_a_changed_file_is_another_run():
    written(FOUND.replace("def found", "def steady"), "steady.py")
    finished = compared("steady.py", written())
    written(FOUND + "# changed\n")
    with pytest.raises(RunError, match=r"\(the file of rule found has changed\); start over with --fresh, or .* --out"):
        compared("steady.py", "found.py")
    written(FOUND.replace("def found", "def another"))
    with pytest.raises(RunError, match=r"\(optimizers: steady,found there, steady,another now\); start over"):
        compared("steady.py", "found.py")
    assert compared("steady.py", written()) == finished
    written(FOUND + "# changed\n")
    assert (
        compared("steady.py", "found.py", fresh=True).results["manifest"]["options"]["rules"]["found"].endswith("ed\n")
    )


def test_the_text_names_the_directory():
    problem = tasks.load("blobs.py")
    names = set()
    for text in (FOUND, FOUND + "\n"):
        names.add(resolve("blobs.py", problem, [written(text)]).directory_name())
        assert resolve("blobs.py", problem, [written(text, "other.py")]).directory_name() in names
    assert len(names) == 2


def test_the_report_has_formula_and_text_without_the_file(monkeypatch):
    monkeypatch.setattr("descend.report.write", WRITE)
    run = compared("adamw", written())
    formula = run.results["optimizers"][1]["mathml"]
    Path("found.py").unlink()
    run.report.unlink()
    commands.report([run.directory])
    page = run.report.read_text(encoding="utf-8")
    assert formula == rule_files.rule("found", FOUND).mathml(lr=run.results["optimizers"][1]["best_rate"], beta=0.9)
    assert mathml.trusted(formula) in page
    assert "<h3>Rule found, from a file</h3>" in page
    assert "return dict(p=p - lr * (m + 0.1 * sign(g)), m=m)" in page


def test_joined_runs_tell_the_formulas_apart(monkeypatch):
    monkeypatch.setattr("descend.report.write", WRITE)
    one = compared(written(), out="one").directory
    two = compared(written(FOUND.replace("0.1 *", "0.2 *")), out="two").directory
    commands.report([one, two], out="joined.html")
    changes = json.loads(Path("joined.json").read_text())["changes"]
    assert [c["entry"] for c in changes if c["group"] == "found"] == ["formula"]
    assert not any(c["entry"].startswith("rules") for c in changes)


def test_a_study_of_snapshots_needs_no_file(monkeypatch):
    monkeypatch.setattr(study, "FULL", study.Fineness(line=3, plane=3))
    run = compared("sgd", written(), snapshots=3, steps=12)
    Path("found.py").unlink()
    found = commands.ensemble(run.directory, optimizers=["found"], workers=1)
    (own,) = found.results["optimizers"]
    assert (own["name"], own["title"]) == ("found", "found")
    assert own["plane"]["repeats"], "the final run was repeated with another rule"
    assert "Rule found, from a file" in found.report.read_text(encoding="utf-8")
    with pytest.raises(UsageError, match="optimizer adam is not in the run; it has sgd, found"):
        commands.ensemble(run.directory, optimizers=["adam"])


def test_a_rule_is_made_once_for_each_text():
    """Its kernels are kept by rule."""
    assert Trial("final", "found", 0.1, 1, source=FOUND).rule is Trial("tuning", "found", 0.2, 0, source=FOUND).rule
    assert Trial("final", "adam", 0.1, 1).rule is rules.catalog()["adam"]
