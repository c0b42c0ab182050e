"""The run directory: stopped, started again, finished, damaged, shared, on a full disk, and not ours."""

import dataclasses
import json
import pathlib
import shutil

import pytest
import sqlalchemy
import torch

from comparisons import SMALL_TASK, finished_in, prepare, small, without_times
from descend import commands, report, tasks
from descend.experiments import compare as protocol
from descend.experiments import run_directory, trial
from descend.experiments.errors import Interrupted, RunError
from descend.experiments.store import TrialStore
from descend.experiments.trial import Trial

WRITE = report.write


@pytest.fixture(autouse=True)
def prepared(tmp_path, monkeypatch):
    prepare(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A finished run, made once."""
    return finished_in(tmp_path_factory.mktemp("original")).directory


@pytest.fixture
def finished(original, tmp_path):
    """A copy of a finished run, to damage."""
    shutil.copytree(original, tmp_path / "run")
    return small()


class StopAfter(protocol.Silence):
    """Progress that presses Ctrl-C after some finished trials."""

    def __init__(self, count):
        self.left = count

    def finished(self, record):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("count", [1, 6, 9])
def test_a_stopped_run_continues_to_the_same_numbers(finished, count):
    with pytest.raises(Interrupted, match=f"after {count} of 10 trials") as caught:
        small("stopped", progress=lambda task: StopAfter(count))
    assert "descend compare --task blobs.py --optimizers sgd,adam --trials 3" in str(caught.value)
    ran = []

    class Counting(protocol.Silence):
        def finished(self, record):
            ran.append(record.trial)

    again = small("stopped", progress=lambda task: Counting())
    assert len(ran) == 10 - count
    for key in ("trials", "summary", "optimizers", "caveats", "schedule", "task"):
        assert without_times(again.results[key]) == without_times(finished.results[key])


def test_a_finished_run_is_not_repeated(finished, monkeypatch):
    monkeypatch.setattr(trial, "run", lambda *a: pytest.fail("ran a trial again"))
    finished.report.write_text("of an older version")
    assert small() == finished
    assert finished.report.read_text() == "report"


def test_a_finished_run_that_can_only_be_read_is_shown(finished, monkeypatch):
    """Stands in for a read-only directory, as those who may do everything may write there too."""

    def refused(*_):
        raise PermissionError(13, "Permission denied")

    original = open
    refuse_writing = lambda path, mode="r", **more: refused() if "a" in mode else original(path, mode, **more)  # noqa: E731
    monkeypatch.setattr(run_directory, "open", refuse_writing, raising=False)
    monkeypatch.setattr("descend.report.write", refused)
    again = small()
    assert again.results == finished.results
    assert again.note == "the report was left as it was, as it cannot be written (Permission denied)"
    with pytest.raises(RunError, match="cannot be written"):
        small(fresh=True)
    (finished.directory / "report.html").unlink()
    with pytest.raises(RunError, match=r"report.html cannot be written \(Permission denied\)"):
        small()
    (finished.directory / "results.json").unlink()
    with pytest.raises(RunError, match=r"run cannot be written \(Permission denied\)"):
        small()


def test_results_of_the_wrong_shape_are_named(finished, monkeypatch):
    monkeypatch.setattr("descend.report.write", WRITE)
    path = finished.directory / "results.json"
    document = json.loads(path.read_text())
    del document["summary"][0]["test_mean"]
    path.write_text(json.dumps(document))
    with pytest.raises(RunError, match=r"results.json is damaged: summary\[0\].test_mean is missing.*--fresh"):
        small()


def test_a_lost_report_or_result_is_made_anew_without_trials(finished, monkeypatch):
    monkeypatch.setattr(trial, "run", lambda *a: pytest.fail("ran a trial again"))
    finished.report.unlink()
    assert small().report.exists()
    (finished.directory / "results.json").write_text("{")
    assert small().results == finished.results


def test_other_options_are_shown_and_refused(finished):
    with pytest.raises(
        RunError, match=r"other options \(seeds: 2 there, 3 now\); start over with --fresh, or .* --out"
    ):
        small(seeds=3)
    with pytest.raises(RunError, match="optimizers: sgd,adam there, lion now"):
        small(optimizers=["lion"])


def test_an_edited_task_file_is_another_task(finished, tmp_path):
    (tmp_path / "blobs.py").write_text(SMALL_TASK + "\n# edited\n")
    with pytest.raises(RunError, match=r"other options \(the task file has changed\); start over"):
        small()
    with pytest.raises(RunError, match=r"\(task: blobs.py there, digits now\)"):
        commands.compare("digits", ["sgd", "adam"], trials=3, seeds=2, steps=12, out="run")


def test_fresh_starts_over_and_deletes_only_what_a_run_writes(finished, tmp_path):
    (tmp_path / "run" / "notes.txt").write_text("mine")
    again = small(seeds=3, fresh=True)
    assert len(again.results["trials"]) == 12
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_other_software_is_refused_in_an_unfinished_run(finished):
    manifest = finished.directory / "manifest.json"
    manifest.write_text(manifest.read_text().replace(torch.__version__, "1.0"))
    assert small().results == finished.results  # finished: nothing more is computed
    (finished.directory / "results.json").unlink()
    with pytest.raises(RunError, match=r"other software \(torch: 1.0 there"):
        small()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text("{}")
    for fresh in (False, True):
        with pytest.raises(RunError, match="is not a run of `descend compare`; choose another --out"):
            small(fresh=fresh)
    assert (tmp_path / "run" / "manifest.json").read_text() == "{}"
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="is a file"):
        small("file")


def test_a_copy_without_the_hidden_file_is_still_a_run(finished, monkeypatch):
    shutil.copytree("run", "copy", ignore=shutil.ignore_patterns(".*"))
    monkeypatch.setattr(trial, "run", lambda *a: pytest.fail("ran a trial again"))
    assert small("copy").results == finished.results


@pytest.mark.parametrize("damage", ["", "{", "[1]", '{"options": 3}', "\x00\xff"])
def test_a_damaged_manifest_is_named(finished, damage):
    (finished.directory / "manifest.json").write_bytes(damage.encode("latin-1"))
    with pytest.raises(RunError, match=r"manifest.json cannot be read .* --fresh"):
        small()
    assert len(small(fresh=True).results["trials"]) == 10


def test_trials_without_a_manifest_are_refused(finished):
    (finished.directory / "manifest.json").unlink()
    with pytest.raises(RunError, match="trials without their manifest"):
        small()


@pytest.mark.parametrize("damage", [lambda data: b"no database", lambda data: data[: len(data) // 3]])
def test_a_damaged_database_is_named(finished, damage):
    (finished.directory / "results.json").unlink()
    path = finished.directory / "trials.db"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RunError, match=r"trials.db cannot be .* --fresh"):
        small()
    assert len(small(fresh=True).results["trials"]) == 10


def test_any_folder_name_will_do(finished):
    name = "a b?c=d%20#é&"
    assert without_times(small(name).results["trials"]) == without_times(finished.results["trials"])
    assert (pathlib.Path(name) / "trials.db").exists()


def test_one_process_at_a_time(finished):
    with (
        run_directory.opened(finished.directory, finished.results["manifest"]),
        pytest.raises(RunError, match=r"run is in use by process \d+; wait for it"),
    ):
        small()
    assert small().results == finished.results


def test_a_full_disk_is_reported_and_leaves_no_half_file(tmp_path, monkeypatch):
    run_directory.write_json(tmp_path / "x.json", {"old": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(RunError, match="No space left on device"):
            run_directory.write_json(tmp_path / "x.json", {"new": 2})
    assert json.loads((tmp_path / "x.json").read_text()) == {"old": 1}
    assert not list(tmp_path.glob("*.new"))


def test_a_full_disk_under_the_database_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # optuna tries five times
    store = TrialStore(tmp_path / "trials.db", ["sgd"], "maximize")
    limit = lambda connection, *_: connection.execute("PRAGMA max_page_count = 1")  # noqa: E731
    sqlalchemy.event.listen(store._storage.engine, "checkout", limit)
    record = trial.run(tasks.load("blobs.py"), Trial("tuning", "sgd", 0.1, 0), 300)
    long = dataclasses.replace(record, curve=record.curve * 100)
    with pytest.raises(RunError, match=r"trials.db cannot be written \(.*full\).*make room"):
        store.add(long)
    store.close()
