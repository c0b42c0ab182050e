"""How long tasks take: seconds per epoch, and trials in processes of one thread beside one process with all threads.

    python -m descend.benchmarks.tasks [TASK ...] [--write]

Writes Markdown to the standard output; with --write into docs/task-times.md, and the seconds per epoch into the
package, where `descend list tasks` reads them. Tasks whose data are not at hand are left out and keep their numbers.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

import torch

from descend import tasks
from descend.benchmarks import page
from descend.experiments import search_space, trial
from descend.experiments.conditions import Conditions
from descend.experiments.loop import UNTIMED_STEPS, Training, step
from descend.experiments.trial import Trial
from descend.experiments.workers import Pool, Runner, available
from descend.tasks import Task, TaskError
from descend.tasks.times import TIMES, epoch_steps

_PAGE = Path("docs/task-times.md")
_TIMED_STEPS = 30
_ROUNDS = 3
_SECONDS_PER_TRIAL = 1.5
_TRIALS_PER_CORE = 2
_BESIDE = ("digits", "fashion-mnist", "translation")
"""Tasks whose trials are timed both ways: tiny, convolutions, a Transformer."""


def epoch_seconds(task: Task, threads: int) -> float:
    """Return the time of an epoch: a median training step with AdamW, as often as an epoch has steps."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return epoch_steps(task) * _step_seconds(task)
    finally:
        torch.set_num_threads(before)


def _step_seconds(task: Task) -> float:
    from descend.optim import by_name

    model = task.model(0)
    optimizer = by_name("adamw")(model.parameters(), lr=search_space.space("adamw").rate)
    batches, training = task.batches(0), Training()
    model.train()
    for _ in range(UNTIMED_STEPS + _TIMED_STEPS):
        step(task, model, optimizer, batches, training)
    return statistics.median(training.step_seconds[UNTIMED_STEPS:])


def processes(name: str) -> tuple[int, int, float, float]:
    """Time the same trials in two ways, in turns.

    Returns:
        The trials, their steps, and the medians of the seconds they take: in as many processes of one thread as there
        are cores, started beforehand, and in this process with torch's default number of threads.
    """
    found = tasks.find(name)
    settings = {key: value for key, value in found.quick.items() if key != "steps"}
    task = found.make(settings)
    steps = max(15, min(200, round(_SECONDS_PER_TRIAL / _seconds_of_step(task))))
    trials = [Trial("tuning", "adamw", 1e-3, seed) for seed in range(_TRIALS_PER_CORE * available())]
    runner = Runner(Conditions(steps))
    pooled: list[float] = []
    alone: list[float] = []
    with Pool(name, settings, available()) as pool:
        # The processes start, load the task and warm up.
        list(pool.run(runner, trials[: available()], lambda trial: None))
        with _all_threads():
            runner(task, trials[0])
        for _ in range(_ROUNDS):
            began = time.perf_counter()
            list(pool.run(runner, trials, lambda trial: None))
            pooled.append(time.perf_counter() - began)
            began = time.perf_counter()
            with _all_threads():
                for wanted in trials:
                    runner(task, wanted)
            alone.append(time.perf_counter() - began)
    return len(trials), steps, statistics.median(pooled), statistics.median(alone)


def _seconds_of_step(task: tasks.Problem) -> float:
    assert not isinstance(task, tasks.Script)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _step_seconds(task)
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _all_threads() -> Iterator[None]:
    """Let trials in this process take torch's default number of threads, which no run of ours does."""
    with mock.patch.object(trial, "one_thread", contextlib.nullcontext):
        yield


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print or write the tables."""
    parser = argparse.ArgumentParser(prog="python -m descend.benchmarks.tasks", description=__doc__)
    parser.add_argument("tasks", nargs="*", help="names; by default all")
    parser.add_argument("--write", action="store_true", help=f"write {_PAGE} and the package's times")
    asked = parser.parse_args(arguments)
    threads = (1, torch.get_num_threads())
    times: dict[str, dict[str, float]] = {}
    lines = [f"{page.machine()}", ""]
    lines += [
        f"| task | training examples | batch | steps per epoch | s per epoch, 1 thread | {threads[1]} threads |",
        "|---|---|---|---|---|---|",
    ]
    beside = [
        f"| task | trials | steps | {available()} processes of 1 thread, s | 1 process of {threads[1]} threads, s "
        "| ratio |",
        "|---|---|---|---|---|---|",
    ]
    for name in asked.tasks or tasks.catalog():
        print(f"measuring {name}", file=sys.stderr, flush=True)
        try:
            task = tasks.load(name)
            assert not isinstance(task, tasks.Script)
            size = task.sizes["train"]
        except TaskError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        one, several = (f"{epoch_seconds(task, count):.2g}" for count in threads)
        times[name] = {"examples": size, "seconds": float(one)}
        lines.append(f"| {name} | {size:,} | {task.batch_size} | {epoch_steps(task):,} | {one} | {several} |")
        if name not in _BESIDE:
            continue
        trials, steps, pooled, alone = processes(name)
        beside.append(f"| {name} | {trials} | {steps} | {pooled:.1f} | {alone:.1f} | {pooled / alone:.2f} |")
    text = _HEADING.format(first="\n".join(lines), second="\n".join(beside), rounds=_ROUNDS, steps=_TIMED_STEPS)
    if not asked.write:
        print(text)
        return
    _PAGE.write_text(text, encoding="utf-8")
    kept = json.loads(TIMES.read_text(encoding="utf-8")) if TIMES.exists() else {}
    TIMES.write_text(json.dumps({**kept, **times}, indent=1, sort_keys=True) + "\n", encoding="utf-8")


_HEADING = """# How long tasks take

Written by `python -m descend.benchmarks.tasks --write`, on {first}

Seconds per epoch are the median of {steps} training steps with AdamW, from fetching the batch to the updated weights,
times the steps of an epoch; evaluation is not in them. `descend list tasks` shows those of one thread: trials run so.

## Processes of one thread, or one process with all threads

The same trials (training and validation, no loading), in processes of one thread as `descend compare` runs them, and
one after the other in one process with torch's default number of threads; in turns, medians of {rounds} rounds. Below 1
the processes are faster; that is why they are the default (`--workers` changes it).

{second}
"""


if __name__ == "__main__":
    main()
