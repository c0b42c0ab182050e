"""`compare` and `range_test`: what trains on tasks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from descend.commands.needs import FOR_COMPARISONS, check_writable, require

if TYPE_CHECKING:
    from descend.experiments.compare import Progress
    from descend.experiments.run_directory import RunDirectory
    from descend.rate_range import RangeTest
    from descend.schedules import Schedule
    from descend.tasks import Problem


@dataclass(frozen=True)
class Comparison:
    """A finished comparison.

    Attributes:
        directory: where everything of it is.
        results: the content of its `results.json`.
        report: its HTML page.
        note: what could not be done, such as writing the report of a read-only run anew; else empty.
    """

    directory: Path
    results: Mapping[str, Any]
    report: Path
    note: str = ""


def compare(
    task: str = "digits",
    optimizers: Sequence[str] | None = None,
    *,
    trials: int | None = None,
    seeds: int | None = None,
    steps: int | None = None,
    quick: bool = False,
    subset: int | None = None,
    model: str | None = None,
    data: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    grid: Mapping[str, Sequence[float]] | None = None,
    schedule: str | Schedule | None = None,
    snapshots: int | None = None,
    workers: int | None = None,
    out: str | Path | None = None,
    fresh: bool = False,
    progress: Callable[[Problem], Progress] | None = None,
) -> Comparison:
    """Compare optimizers on a task: tune each one's rate equally, then run fresh seeds and test once.

    `descend.experiments.compare` states the protocol. Killed and started again with the same arguments, it continues; a
    finished comparison is read, not repeated; its report is written anew.

    Args:
        task: name of a built-in task, or path of a Python file: one with a task, or a training script that asks for
            its trial with `descend.trial`.
        optimizers: names of rules, or paths of Python files with one rule each; by default eight of ours.
        trials: rates per optimizer (9; quick: 7).
        seeds: fresh seeds per optimizer (6; quick: 3).
        steps: optimizer steps per trial (the task's; quick: a quarter of them).
        quick: the smallest honest comparison, labelled as a screening that supports no claim; a large task takes a
            subset of its data.
        subset: training examples to take, the other splits in proportion, of a task that can.
        model: which model, of a task with several.
        data: a file or folder with the task's data, in place of the usual one.
        settings: other arguments of the task's constructor, such as {"variable_length": True} for char-lm.
        grid: one more hyper-parameter to tune, such as {"weight_decay": [0, 1e-4, 1e-3]}; every rate meets each value.
        schedule: the shape that rates follow, such as "warmup(50) >> warm_restarts(100, mult=2)", or a schedule that
            prints so; by default a warm-up over a tenth of the steps, then a cosine to 0.
        snapshots: how many snapshots each final run takes, under a cosine for each in place of the shared schedule
            (`schedules.snapshot(steps, snapshots)`; rates are tuned with it). The results add their ensemble. Without
            `steps` the task's budget is rounded up to a multiple. `descend.ensemble` goes on from there.
        workers: trials at a time, each in a process of one thread; by default as many as there are cores. 1 runs them
            in this process.
        out: the run directory; by default one under `runs/`, named after the options.
        fresh: start over.
        progress: makes, for the task, the object that is told how it goes on.

    Raises:
        ModuleNotFoundError: a package of the lab extra is missing.
        TaskError: the task is unknown or incomplete, its data are missing or damaged, or it gives no number.
        UsageError: an optimizer is unknown, a number too small, or a setting given twice.
        RunError: the run directory holds something else, is in use, damaged, or cannot be written.
        Interrupted: stopped by Ctrl-C; the message says how to go on.
    """
    require(FOR_COMPARISONS)
    from descend import tasks
    from descend.experiments import compare as protocol
    from descend.experiments import options, run_directory
    from descend.experiments import workers as processes
    from descend.experiments.errors import Interrupted
    from descend.experiments.keeping import check_averages
    from descend.experiments.manifest import hardware, manifest
    from descend.experiments.results import results
    from descend.experiments.store import TrialStore
    from descend.tasks.data import noted

    found = tasks.find(task)
    asked = {"subset": subset, "model": model, "data": data}
    chosen = options.settings(options.all_settings(asked, settings), found.quick if quick else {})
    problem, quick_steps = found.make(chosen), found.quick.get("steps")
    with noted() as files:
        problem.sizes  # noqa: B018 (loads the data: what is missing or damaged is said before anything is written)
    numbers = {"trials": trials, "seeds": seeds, "steps": steps}
    wanted = options.resolve(
        task,
        problem,
        optimizers,
        **numbers,
        quick=quick,
        settings=chosen,
        quick_steps=quick_steps,
        grid=grid,
        data_files=files,
        schedule=None if schedule is None else str(schedule),
        snapshots=snapshots,
    )
    at_a_time = options.processes(workers, processes.available(), wanted)
    given = {
        "task": task,
        **asked,
        "setting": settings,
        "optimizers": optimizers and ",".join(optimizers),
        **numbers,
        "grid": grid,
    }
    asked_of_the_run = {"schedule": schedule, "snapshots": snapshots, "quick": quick, "workers": workers, "out": out}
    command = options.command_line({**given, **asked_of_the_run})
    directory = Path(out) if out is not None else Path("runs") / wanted.directory_name()
    if snapshots is not None and not (directory / run_directory.RESULTS).exists():
        check_averages(cast(tasks.Task, problem))
    with run_directory.opened(directory, manifest(wanted, command, at_a_time), fresh) as run:
        document = run.results()
        if document is None:
            observer = progress(problem) if progress else protocol.Silence()
            with contextlib.ExitStack() as stack:
                store = stack.enter_context(
                    contextlib.closing(TrialStore(run.trials, wanted.optimizers, problem.direction))
                )
                hands = stack.enter_context(processes.hands(task, chosen, problem, at_a_time))
                runner = processes.Runner(wanted.conditions(run.logs, run.snapshots))
                try:
                    records = protocol.run(problem, wanted, store, observer, partial(hands.run, runner))
                except Interrupted as stop:
                    stop.command = command
                    raise
            document = results(problem, wanted, run.manifest, records, hardware(at_a_time), quick_steps)
            run.write_results(document)
        return Comparison(directory, document, run.report, _write_report(run))


def range_test(
    task: str = "digits",
    optimizer: str = "sgd",
    *,
    form: str = "exponential",
    low: float | None = None,
    high: float | None = None,
    steps: int | None = None,
    seeds: int | None = None,
    subset: int | None = None,
    model: str | None = None,
    data: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    quick: bool = False,
    out: str | Path | None = None,
) -> RangeTest:
    """Train on a task under a rising rate, once per seed, and return where the loss falls.

    `descend.range_test` does the same for any model. Every seed has its own initial weights and order of the data.

    Args:
        task: name of a built-in task, or path of a Python file with one.
        optimizer: name of a rule, or path of a Python file with one; momentum and the like as in comparisons.
        form: "exponential" or "linear".
        low: the first rate; by default a ten-thousandth of the rule's known rate, and 0 where the form is linear.
        high: the last rate; by default 100 times the known rate, and 30 times where the form is linear.
        steps: updates per seed (200; quick: 60).
        seeds: how many (5; quick: 3).
        subset: training examples to take, of a task that can.
        model: which model, of a task with several.
        data: a file or folder with the task's data.
        settings: other arguments of the task's constructor, such as {"variable_length": True} for char-lm.
        quick: the smallest honest run, a screening.
        out: a file for the picture: .svg, .png or .html.

    Raises:
        TaskError: the task is unknown or incomplete, or its data are missing.
        UsageError: another argument makes no sense.
        RunError: the picture cannot be written.
    """
    require(FOR_COMPARISONS)
    from descend.experiments import options, task_range
    from descend.experiments.errors import UsageError
    from descend.tasks import TaskError

    if out is not None and Path(out).suffix not in (".svg", ".png", ".html"):
        raise UsageError(f"out is {str(out)!r}; give a file that ends in .svg, .png or .html")
    check_writable(out)
    try:
        found = task_range.run(
            task,
            optimizer,
            form=form,
            low=low,
            high=high,
            steps=(60 if quick else 200) if steps is None else steps,
            seeds=(3 if quick else 5) if seeds is None else seeds,
            settings=options.all_settings({"subset": subset, "model": model, "data": data}, settings),
        )
    except (TaskError, UsageError):
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error
    if out is not None:
        task_range.save_picture(found, Path(out))
    return found


def _write_report(run: RunDirectory) -> str:
    """Write the report of a finished run; where the one that is there had to be left, return a sentence on it."""
    from descend import report
    from descend.experiments.errors import RunError
    from descend.experiments.run_directory import unwritable

    try:
        report.write(run.path)
    except ValueError as error:
        raise RunError(str(error)) from error
    except OSError as error:
        if not run.report.exists():
            raise unwritable(run.report, error) from error
        return f"the report was left as it was, as it cannot be written ({error.strerror})"
    return ""
