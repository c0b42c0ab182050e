"""A run that is killed in mid-cycle and resumed goes on to the same snapshots and predictions, bit for bit."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import descend
from descend.schedules import snapshot
from descend.snapshots import SnapshotError, Snapshots, SnapshotStore, files
from snapshot_runs import CYCLES, INPUTS, STEPS, Run
from snapshot_training import content, copied, made, same, train_step

KINDS = ["sgd", "adamw", "torch"]


def whole(kind, folder):
    run = Run(kind, folder)
    run.train(STEPS)
    return run


def agree(first, second):
    assert [(one.step, one.cycle, one.metric, one.sha256) for one in first.snapshots.store] == [
        (one.step, one.cycle, one.metric, one.sha256) for one in second.snapshots.store
    ]
    assert torch.equal(first.predictions(), second.predictions())
    assert same(copied(first.model), copied(second.model))
    states = [one.optimizer.state_dict()["state"] for one in (first, second)]
    torch.testing.assert_close(*states, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_dropped_and_built_anew_it_goes_on_to_the_bit(tmp_path, kind):
    expected = whole(kind, tmp_path / "whole")
    assert len(expected.snapshots.store) == CYCLES
    for until in (3, 7, 8, 13, 14, 16, 24):  # before the first `save`, after one, at the end of a cycle, in the middle
        run = Run(kind, tmp_path / "killed")
        run.train(until)
    agree(run, expected)


def test_all_generators_and_the_clock_are_put_back(tmp_path):
    run = Run("sgd", tmp_path)
    run.train(10, every=10)
    after = (
        random.random(),
        np.random.rand(),
        torch.rand(3),
        torch.rand(3, generator=run.noise),
        run.batches.following(),
    )
    again = Run("sgd", tmp_path)
    assert again.snapshots.resume() == again.optimizer.applied_steps == 10
    assert again.snapshots.step() is None
    found = random.random(), np.random.rand(), torch.rand(3), torch.rand(3, generator=again.noise)
    assert found[:2] == after[:2]
    assert torch.equal(found[2], after[2])
    assert torch.equal(found[3], after[3])
    assert again.batches.following() == after[4]
    assert copied(again.model).keys() == copied(run.model).keys()


def test_nothing_saved_is_0_and_changes_nothing(tmp_path):
    run = Run("sgd", tmp_path / "new")
    before, drawn = copied(run.model), torch.get_rng_state()
    assert run.snapshots.resume() == 0
    assert same(copied(run.model), before)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert not (tmp_path / "new").exists()


def test_a_kill_between_the_first_snapshot_and_its_progress(tmp_path, monkeypatch):
    expected = whole("sgd", tmp_path / "whole")
    run = Run("sgd", tmp_path / "killed")
    monkeypatch.setattr(run.snapshots, "save", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run.train(STEPS, every=100)
    assert {path.name for path in (tmp_path / "killed").iterdir()} >= {"index.json"}
    assert not (tmp_path / "killed" / "progress.pt").exists()
    again = Run("sgd", tmp_path / "killed")
    again.train(STEPS)
    agree(again, expected)
    (tmp_path / "killed" / "progress.pt").unlink()
    with pytest.raises(SnapshotError, match="holds 3 snapshots and no progress to go on from; take another folder, or"):
        again.snapshots.resume()


# ---- what cannot be resumed ------------------------------------------------------------------------------------------


def everything(run):
    states = str(run.optimizer.state_dict()), run.batches.state_dict(), run.noise.get_state().tolist()
    return states, random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()


def refused(run, message):
    before, weights, held = everything(run), copied(run.model), content(run.snapshots.store.folder)
    with pytest.raises(SnapshotError, match=message):
        run.snapshots.resume()
    assert everything(run) == before
    assert same(copied(run.model), weights)
    assert content(run.snapshots.store.folder) == held
    assert run.snapshots.ensemble().predict([INPUTS]).shape == (40, 3)


@pytest.fixture(scope="module")
def nine_steps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nine")
    Run("sgd", folder).train(10, every=9)
    return folder


def begun(folder, held, kind="sgd"):
    """A run in a copy of a folder, which has not been resumed."""
    for path in held.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return Run(kind, folder)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_progress_that_is_cut_off(tmp_path, nine_steps, share):
    run = begun(tmp_path, nine_steps)
    path = tmp_path / "progress.pt"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refused(run, "progress.pt cannot be read .*; without it training starts over, in another folder. The snapshots are")


@settings(max_examples=60)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed_or_of_no_account(tmp_path_factory, nine_steps, place, bit):
    folder = tmp_path_factory.mktemp("flipped")
    run = begun(folder, nine_steps)
    expected = torch.load(nine_steps / "progress.pt", weights_only=True)
    held = bytearray((folder / "progress.pt").read_bytes())
    held[int(place * len(held))] ^= 1 << bit
    (folder / "progress.pt").write_bytes(held)
    before = copied(run.model)
    try:
        run.snapshots.resume()
    except SnapshotError:
        assert same(copied(run.model), before)
    else:  # between the parts of the file
        assert same(copied(run.model), expected["model"])
        assert str(run.optimizer.state_dict()) == str(expected["optimizer"])


def changed(path, **entries):
    torch.save({**torch.load(path, weights_only=True), **entries}, path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"model": nn.Linear(2, 2).state_dict()}, r"the progress in .* is of another architecture than Net: it has no"),
        (
            {"optimizer": {"param_groups": [], "state": {}}},
            "is of another optimizer .*; build it as it was. Nothing has",
        ),
        ({"optimizer type": "AdamW"}, "is of another optimizer, AdamW, and this is SGD; build it as it was"),
        ({"also": {}}, r"was saved with also=\[\], and this has \['batches', 'noise'\]; give the same names"),
        ({"also": {"batches": {}, "noise": torch.ones(3)}}, "is of another batches .'epoch'.; build it as it was"),
        ({"also": {"batches": {"epoch": 5, "done": 0}, "noise": torch.ones(3)}}, "is of another noise .*; build it as"),
        ({"random": {}}, "is of another machine .'python'.; build it as it was"),
        ({"format": 2}, "has format 2, and this version of descend reads 1; take the one that wrote it"),
    ],
)
def test_progress_of_something_else(tmp_path, nine_steps, entries, message):
    run = begun(tmp_path, nine_steps)
    changed(tmp_path / "progress.pt", **entries)
    refused(run, message)


def test_torch_s_optimizers_are_told_apart(tmp_path):
    run = Run("torch", tmp_path)
    run.train(3, every=3)
    other = torch.optim.AdamW(run.model.parameters(), lr=0.1)
    snapshots = Snapshots(tmp_path, run.model, other, schedule=snapshot(4, 2), also={"noise": run.noise})
    with pytest.raises(SnapshotError, match="is of another optimizer, SGD, and this is AdamW"):
        snapshots.resume()


def test_code_in_a_file_is_not_run(tmp_path):
    run = Run("sgd", tmp_path)
    torch.save({"format": 1, "also": Path("x"), "steps": random.Random(0)}, tmp_path / "progress.pt")
    with pytest.raises(SnapshotError, match=r"cannot be read .*Weights only load failed"):
        run.snapshots.resume()


class Holder:
    def __init__(self, state):
        self.state = state

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


@pytest.mark.parametrize(
    "state", [{"path": Path("x")}, {"number": np.float64(1.0)}, {"function": lambda: 0}, [object()]]
)
def test_what_could_not_be_loaded_safely_is_not_saved(tmp_path, state):
    model, holder = made(), Holder({"fine": 1})
    optimizer = descend.SGD(model.parameters(), lr=0.1 * snapshot(8, 2))
    snapshots = Snapshots(tmp_path, model, optimizer, also={"fine": Holder({}), "mine": holder})
    snapshots.save()
    before, holder.state = content(tmp_path), state
    with pytest.raises(
        SnapshotError, match="the state of mine holds more than numbers, texts, lists, dicts and tensors"
    ):
        snapshots.save()
    assert content(tmp_path) == before
    assert not list(tmp_path.glob(".*.new"))


def test_a_group_s_own_key_that_could_not_be_loaded_safely(tmp_path):
    model = made()
    optimizer = torch.optim.SGD([{"params": list(model.parameters()), "name": Path("x")}], lr=0.1)
    snapshots = Snapshots(tmp_path, model, optimizer, schedule=snapshot(8, 2))
    with pytest.raises(SnapshotError, match="the state of optimizer holds more than"):
        snapshots.save()


def test_a_disk_that_fills_up_keeps_the_progress_before(tmp_path, monkeypatch, nine_steps):
    run = begun(tmp_path, nine_steps)
    run.snapshots.resume()
    before = content(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    for place, name in ((files.os, "fsync"), (files.os, "replace"), (torch, "save")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, full)
            with pytest.raises(SnapshotError, match=r"progress.pt cannot be written \(No space left on device\)"):
                run.snapshots.save()
        assert content(tmp_path) == before
    run.snapshots.save()
    assert run.snapshots.resume() == 9


# ---- in earnest ------------------------------------------------------------------------------------------------------

SCRIPT = """
import sys, time
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from snapshot_runs import Run, STEPS
run = Run(sys.argv[2], sys.argv[3])

def slowly(*_):
    print("stepped", flush=True)
    time.sleep(0.05)

run.optimizer.register_step_post_hook(slowly)
run.train(STEPS, every=2)
"""


def start(kind, folder):
    command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), kind, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stdout.readline() in ("stepped\n", "")  # the last one may have nothing left to do
    return process


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_killed_again_and_again(tmp_path, kind):
    expected, moments, kills = whole(kind, tmp_path / "whole"), random.Random(kind), 0
    while True:
        with start(kind, tmp_path / "killed") as process:
            try:
                process.wait(timeout=moments.uniform(0.1, 0.5) if kills < 5 else 60)
                break
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
    assert process.returncode == 0
    assert kills >= 3
    run = Run(kind, tmp_path / "killed")
    assert run.snapshots.resume() == STEPS
    agree(run, expected)
    assert json.loads((tmp_path / "killed" / "index.json").read_text())["kind"] == "snapshots"
    assert SnapshotStore(tmp_path / "killed").damaged() == {}


# what is no continuation


def trained(folder, steps, shape, *, resumes=True):
    model = made()
    optimizer = descend.SGD(model.parameters(), lr=0.1 * shape)
    snapshots = Snapshots(folder, model, optimizer)
    for step in range(snapshots.resume() if resumes else 0, steps):
        train_step(model, optimizer, step)
        snapshots.step()
    snapshots.save()
    return snapshots


def test_a_second_run_in_the_same_folder_is_refused_before_it_adds_to_the_first(tmp_path):
    first = trained(tmp_path, 12, snapshot(12, 3))
    kept = content(tmp_path)
    with pytest.raises(SnapshotError, match=r"holds a run with 3 snapshots; go on with it by resume\(\)"):
        trained(tmp_path, 12, snapshot(12, 3), resumes=False)
    assert content(tmp_path) == kept
    assert trained(tmp_path, 12, snapshot(12, 3)).store.snapshots() == first.store.snapshots()


@pytest.mark.parametrize("other", [snapshot(12, 4), snapshot(16, 2), descend.schedules.warm_restarts(3)])
def test_another_schedule_does_not_go_on(tmp_path, other):
    trained(tmp_path, 5, snapshot(12, 3))
    with pytest.raises(SnapshotError, match="is of a run whose cycles end at 4, 8, and with this schedule they end at"):
        trained(tmp_path, 12, other)


def test_a_longer_run_of_the_same_cycles_goes_on(tmp_path):
    trained(tmp_path, 12, snapshot(16, 4))
    assert [one.step for one in trained(tmp_path, 20, snapshot(24, 6)).store] == [4, 8, 12, 16, 20]
