"""A search is killed in earnest, again and again, and ends with the same leaderboard."""

import json
import os
import random
import signal
import subprocess

import pytest

from search_results import numbers
from test_compare_kill import DESCEND

SEARCH = ["search", "--budget", "600", "--depth", "2", "--quick", "--held-out", "none", "--out", "run"]


def start(folder, *words):
    return subprocess.Popen(
        [DESCEND, *SEARCH, *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )


def finish(folder, *words):
    process = start(folder, *words)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return json.loads((folder / "run" / "search.json").read_text())


@pytest.mark.long
def test_killed_at_random_moments(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    wanted = finish(whole, "--workers", "1")
    moments, kills = random.Random(1709), 0
    for number in range(10):
        process = start(killed, "--workers", str(1 + number % 2))
        try:
            process.wait(timeout=moments.uniform(2, 12))
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
        _, errors = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), errors
    found = finish(killed, "--workers", "2")
    assert kills >= 3
    assert numbers(found) == numbers(wanted)
    assert found["counts"]["evaluated"] == 600
    assert not list((killed / "run").rglob("*.new"))


@pytest.mark.long
def test_ctrl_c_says_how_to_go_on(tmp_path):
    process = start(tmp_path, "--workers", "1")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=12)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "which are kept. The same command goes on:\n  descend search --space nos" in errors
