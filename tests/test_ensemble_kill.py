"""A comparison with snapshots and its study are killed in earnest, again and again, and end with the same bits."""

import json
import random
import shutil
import subprocess

import pytest

from descend.snapshots import SnapshotStore
from test_compare_kill import DESCEND, SLOW_TASK

COMPARE = ["compare", "--task", "slow.py", "--optimizers", "sgd", "--trials", "2", "--seeds", "2", "--steps", "12"]
COMPARE += ["--snapshots", "3", "--quick", "--out", "run"]
ENSEMBLE = ["ensemble", "run"]
TIMES = ("seconds", "seconds_to_target", "ms_per_step", "optimizer_ms_per_step")


def start(folder, words):
    return subprocess.Popen([DESCEND, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(folder, words):
    process = start(folder, words)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def outcome(folder):
    """The numbers of both, and the hashes of all snapshots."""

    def clean(value):
        if isinstance(value, dict):
            return {key: clean(entry) for key, entry in value.items() if key not in TIMES}
        return [clean(entry) for entry in value] if isinstance(value, list) else value

    stores = sorted(path.parent for path in (folder / "run").rglob("index.json"))
    hashes = {str(path.relative_to(folder)): [one.sha256 for one in SnapshotStore(path)] for path in stores}
    return [
        clean(json.loads((folder / "run" / name).read_text())) for name in ("results.json", "ensemble.json")
    ], hashes


@pytest.mark.long
def test_killed_at_random_moments(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        (folder / "slow.py").write_text(SLOW_TASK)
    moments, kills = random.Random(1704), 0
    for words in (COMPARE, ENSEMBLE):
        finish(whole, words)
        for _ in range(6):
            process = start(killed, words)
            try:
                process.wait(timeout=moments.uniform(2, 9))
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
            process.communicate()
        finish(killed, words)
    assert kills >= 3
    assert outcome(killed) == outcome(whole)
    assert not list((killed / "run").rglob(".*.new"))
    shutil.rmtree(killed / "run" / "ensemble")
    finish(killed, ENSEMBLE)
    assert outcome(killed) == outcome(whole)
