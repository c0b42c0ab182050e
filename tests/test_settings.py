"""Settings of a task that have no option of their own: given, kept, repeated by the command, refused."""

import re

import pytest

from descend import cli, commands, option_values
from descend.experiments.errors import RunError, UsageError
from descend.experiments.options import all_settings, command_line
from descend.tasks import TaskError
from task_data import text


@pytest.fixture(autouse=True)
def prepared(tmp_path, monkeypatch):
    (tmp_path / "some.txt").write_text(text(4000))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def small(out="run", settings=None, **arguments):
    sizes = {"trials": 1, "seeds": 1, "steps": 3, "workers": 1}
    return commands.compare("char-lm", ["sgd"], data="some.txt", settings=settings, out=out, **{**sizes, **arguments})


def test_a_comparison_has_its_settings_and_its_command_repeats_them():
    found = small(settings={"variable_length": True}).results
    assert found["task"]["settings"] == {"data": "some.txt", "variable_length": True}
    assert found["manifest"]["options"]["settings"] == found["task"]["settings"]
    assert "--setting variable_length=True" in found["manifest"]["command"]
    words = re.findall(r"--setting (\S+)", found["manifest"]["command"])
    assert option_values.settings(words) == {"variable_length": True}
    losses = [[trial["validation_loss"] for trial in one["trials"]] for one in (found, small("other").results)]
    assert losses[0] != losses[1]


@pytest.mark.long
def test_processes_of_their_own_have_the_settings_too():
    runs = [small(str(n), {"variable_length": True}, seeds=2, workers=n).results["trials"] for n in (1, 2)]
    assert len({str([trial["validation_loss"] for trial in trials]) for trials in runs}) == 1


def test_a_run_is_not_continued_with_other_settings():
    small()
    with pytest.raises(RunError, match="settings"):
        small(settings={"variable_length": True})


def test_a_setting_is_left_out_of_the_command_where_there_is_none():
    assert command_line({"setting": None}) == "descend compare"
    assert (
        command_line({"setting": {"size": 3, "name": "a b"}}) == "descend compare --setting size=3 --setting 'name=a b'"
    )


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"length": 3}, TaskError, r"takes no setting 'length' \(only subset, data, variable_length\)"),
        ({"variable_length": "yes"}, TaskError, "variable_length is 'yes'; give True or False"),
        ({"data": "other.txt"}, UsageError, "setting data is given twice, by its own argument too; give it once"),
        ({"subset": [1, 2]}, UsageError, r"setting subset is \[1, 2\]; give a number, a text, True or False"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, error, message):
    with pytest.raises(error, match=message):
        small(settings=settings)


def test_settings_stand_beside_those_with_arguments_of_their_own():
    named = {"subset": None, "data": "some.txt"}
    assert all_settings(named, None) == named
    assert all_settings(named, {"subset": 5}) == {"subset": 5, "data": "some.txt"}


@pytest.mark.parametrize("command", ["compare", "range-test"])
def test_the_command_line_reads_them(monkeypatch, capsys, command):
    given = {}

    def noted(*_, **words):
        given.update(words)
        raise UsageError("enough")

    monkeypatch.setattr(commands, command.replace("-", "_"), noted)
    for words, expected in [
        (["--setting", "variable_length=true", "--setting", "size=3"], {"variable_length": True, "size": 3}),
        ([], None),
    ]:
        with pytest.raises(SystemExit):
            cli.main([command, *words])
        assert given["settings"] == expected
    for words, message in [
        (["--setting", "variable_length"], "'variable_length' is no setting; write name=value, such as"),
        (["--setting", "a=1", "--setting", "a=2"], "a is given twice; give it once"),
    ]:
        capsys.readouterr()
        with pytest.raises(SystemExit):
            cli.main([command, *words])
        assert message in capsys.readouterr().err


def test_a_range_test_has_them():
    found = [
        commands.range_test("char-lm", data="some.txt", steps=10, seeds=1, settings=settings)
        for settings in (None, {"variable_length": True})
    ]
    assert found[0].sweeps[0].losses != found[1].sweeps[0].losses
