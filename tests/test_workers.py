"""Trials in processes of their own: the numbers of one process, errors that arrive whole, no process left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import descend
from comparisons import SMALL_TASK, prepare, small, without_times
from descend.experiments import workers
from descend.experiments.errors import RunError, UsageError
from descend.experiments.options import processes
from descend.experiments.trial import Trial


@pytest.fixture(autouse=True)
def prepared(tmp_path, monkeypatch):
    prepare(tmp_path, monkeypatch)


def test_two_processes_give_the_numbers_of_one():
    one, two = small("one"), small("two", workers=2)
    assert without_times(two.results["trials"]) == without_times(one.results["trials"])
    assert without_times(two.results["differences"]) == without_times(one.results["differences"])
    assert two.results["manifest"]["hardware"]["trials_at_a_time"] == 2
    assert any("2 trials at a time" in caveat for caveat in two.results["caveats"])


def test_an_error_in_a_process_keeps_its_type_and_names_the_trial():
    Path("blobs.py").write_text(SMALL_TASK.replace("nn.Linear(4, 3)", "nn.Linear(5, 3)"))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        small(workers=2)
    assert "in tuning trial of" in " ".join(caught.value.__notes__)


@pytest.mark.long
def test_a_process_that_dies_is_said_and_nothing_is_lost():
    dying = SMALL_TASK.replace(
        "    def network(self):",
        "    def network(self):\n        Path('died').exists() or Path('died').touch() or os._exit(9)",
    )
    Path("blobs.py").write_text("import os\nfrom pathlib import Path\n" + dying)
    with pytest.raises(RunError, match=r"a trial process died .*take fewer processes with --workers"):
        small(workers=2)
    assert len(small(workers=2).results["trials"]) == 10


def test_each_process_runs_on_one_thread():
    asking = SMALL_TASK.replace(
        "    def network(self):",
        "    def network(self):\n        import os, threadpoolctl\n"
        "        pools = {pool['num_threads'] for pool in threadpoolctl.threadpool_info()}\n"
        "        assert torch.get_num_threads() == 1 and pools <= {1}, (torch.get_num_threads(), pools)\n"
        "        assert os.environ['OMP_NUM_THREADS'] == '1'",
    )
    Path("blobs.py").write_text(asking)
    small(workers=2)


@pytest.mark.long
def test_processes_are_spawned_so_that_kernels_run_in_them():
    # a forked process steps eagerly; the first step would otherwise say so
    asking = SMALL_TASK.replace(
        "    def network(self):",
        "    def network(self):\n        from descend import eligibility\n        assert not eligibility.is_forked()",
    )
    Path("blobs.py").write_text(asking)
    small(workers=2)


@pytest.mark.long
def test_no_guard_is_needed_in_a_program_that_compares(tmp_path):
    Path("program.py").write_text(
        "import descend\n"
        "found = descend.compare('blobs.py', ['sgd'], trials=2, seeds=1, steps=4, workers=2, out='unguarded')\n"
        "print(len(found.results['trials']))\n"
    )
    ran = subprocess.run([sys.executable, "program.py"], capture_output=True, text=True, check=False, timeout=120)
    assert (ran.returncode, ran.stdout) == (0, "3\n"), ran.stderr


def children(pid):
    """Processes whose parent is this one."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(word) for word in listed.stdout.split()]


def is_gone(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state in "ZX"


SLOW = SMALL_TASK.replace(
    "    def network(self):",
    "    def loss(self, model, batch):\n        time.sleep(0.05)\n"
    "        return super().loss(model, batch)\n\n    def network(self):",
).replace("import torch", "import time\nimport torch", 1)


def started():
    Path("blobs.py").write_text(SLOW)
    descend_command = str(Path(sys.executable).parent / "descend")
    words = ["compare", "--task", "blobs.py", "--optimizers", "sgd", "--workers", "2", "--out", "slow", "--steps", "40"]
    process = subprocess.Popen([descend_command, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()  # the first trial is finished
    return process


@pytest.mark.parametrize(
    "how",
    [
        signal.SIGTERM,
        *(pytest.param(how, marks=pytest.mark.long) for how in (signal.SIGKILL, signal.SIGINT)),
    ],
)
def test_no_process_outlives_the_comparison(how):
    process = started()
    workers_ = children(process.pid)
    assert len(workers_) >= 2
    process.send_signal(how)
    _, errors = process.communicate(timeout=60)
    limit = time.monotonic() + 15
    while not all(map(is_gone, workers_)) and time.monotonic() < limit:
        time.sleep(0.05)
    assert all(map(is_gone, workers_))
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "which are kept. The same command goes on" in errors
        assert "Traceback" not in errors


@pytest.mark.long
def test_ctrl_c_in_the_terminal_reaches_every_process_and_only_one_answers():
    Path("blobs.py").write_text(SLOW)
    command = str(Path(sys.executable).parent / "descend")
    process = subprocess.Popen(
        [command, "compare", "--task", "blobs.py", "--optimizers", "sgd", "--workers", "2", "--out", "slow"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert errors.startswith("descend: stopped after ")


@pytest.mark.parametrize(("asked", "cores", "expected"), [(None, 4, 4), (None, 64, 10), (3, 64, 3), (1, 8, 1)])
def test_how_many_processes(asked, cores, expected):
    class Asked:
        optimizers = ("sgd", "adam")

        def trials_in_all(self):
            return 10

    assert processes(asked, cores, Asked()) == expected


def test_fewer_than_one_process_is_refused():
    with pytest.raises(UsageError, match="workers is 0; give 1 or more"):
        small(workers=0)


def test_trials_are_logged_while_they_run():
    small(workers=2)
    folder = Path("run/logs")
    names = sorted(path.name for path in folder.glob("*.jsonl"))
    assert len(names) == 10
    name = Trial("tuning", "sgd", 0.1, 0).file_name() + ".jsonl"
    assert name in names
    lines = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert set(lines[0]) == {"step", "train_loss", "validation_loss", "accuracy", "seconds", "lr"}
    assert lines[-1]["lr"] == 0.0


def test_starting_over_removes_the_logs():
    small()
    kept = Path("run/logs/other.txt")
    kept.write_text("of an earlier run")
    small(fresh=True)
    assert not kept.exists()


def test_available_cores_are_those_of_this_process():
    assert workers.available() == len(os.sched_getaffinity(0))


def test_the_exported_function_takes_all_of_it():
    found = descend.compare("blobs.py", ["sgd"], trials=1, seeds=1, steps=4, workers=1, out="exported")
    assert found.results["manifest"]["options"]["settings"] == {}


def test_trials_of_values_that_print_alike_have_logs_of_their_own():
    names = {Trial("tuning", "sgd", 0.1, 0, (("weight_decay", value),)).file_name() for value in (0.1, 0.1000001)}
    assert len(names) == 2
