"""`ensemble`: what the snapshots of a finished comparison are worth."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from descend.commands.needs import FOR_COMPARISONS, require

if TYPE_CHECKING:
    from descend.experiments.ensemble_study.study import Fineness, Studied
    from descend.experiments.jobs import Progress
    from descend.experiments.run_directory import RunDirectory


@dataclass(frozen=True)
class Study:
    """A finished study of snapshots.

    Attributes:
        directory: the run, which has all of it.
        results: the content of its `ensemble.json`.
        report: its HTML page, `ensemble.html`.
    """

    directory: Path
    results: Mapping[str, Any]
    report: Path


def ensemble(
    run: str | Path,
    *,
    optimizers: Sequence[str] | None = None,
    quick: bool = False,
    workers: int | None = None,
    fresh: bool = False,
    progress: Callable[[], Progress] | None = None,
) -> Study:
    """Say what the snapshots of a finished comparison are worth at equal training cost, and why.

    The controls that the run does not hold (one cosine, with and without an exponential average of the weights; step
    decay with equally spaced snapshots; independent short runs) are trained with its settings and seeds, three times
    the steps of the final runs; the first of these is repeated for its trajectory. All of it is kept in the run: killed
    and started again, it goes on.

    Huang et al. 2017 (arXiv:1704.00109). Temperatures, the best snapshot and the soup are chosen on validation data.

    Args:
        run: directory of a comparison that was made with `snapshots`.
        optimizers: some of its optimizers; by default all. What was found of others before stays in the results.
        quick: measure lines and plane more coarsely, a screening of them; so it is where the comparison was quick.
        workers: jobs at a time, each in a process of one thread; by default as many as there are cores.
        fresh: throw away what an earlier study kept.
        progress: makes the object that is told how it goes on.

    Raises:
        ModuleNotFoundError: a package of the lab extra is missing.
        TaskError: the task or its data are missing or damaged.
        UsageError: an optimizer is not in the run, or workers are too few.
        RunError: the run has no snapshots, is not finished, in use or damaged, belongs to other data, or cannot be
            written.
        Interrupted: stopped by Ctrl-C; the message says how to go on.
    """
    require(FOR_COMPARISONS)
    from descend import report, tasks
    from descend.experiments import jobs, options, run_directory
    from descend.experiments import workers as processes
    from descend.experiments.ensemble_study import results, study
    from descend.experiments.errors import Interrupted
    from descend.tasks import Task
    from descend.tasks.data import noted

    with run_directory.reopened(Path(run)) as directory:
        comparison = directory.results()
        assert comparison is not None
        asked = directory.manifest["options"]
        _check_snapshots(directory, asked)
        names = _names(asked["optimizers"], optimizers)
        problem = cast(Task, tasks.load(asked["task"], **asked["settings"]))  # no script takes snapshots
        with noted() as files:
            problem.sizes  # noqa: B018 (loads the data: what is missing or damaged is said before anything is written)
        _check_same(directory, asked, options.hashes(asked["task"], asked["settings"], files))
        at_a_time = options.at_least("workers", 1, processes.available() if workers is None else workers)
        if fresh:
            directory.forget_ensemble()
        fineness = study.QUICK if quick or asked["quick"] else study.FULL
        studied = {name: _studied(name, comparison, asked, directory, fineness) for name in names}
        observer = progress() if progress else jobs.Silence()
        try:
            with processes.hands(asked["task"], asked["settings"], problem, at_a_time) as hands:
                found = study.study(studied, hands.run, observer)
        except Interrupted as stop:
            stop.command = _command(run, optimizers, quick, workers)
            raise
        document = results.results(problem, studied, found, comparison, directory.ensemble_results())
        run_directory.write_json(directory.path / run_directory.ENSEMBLE_RESULTS, document)
        return Study(directory.path, document, report.write_ensemble(directory.path))


def _check_snapshots(directory: RunDirectory, asked: Mapping[str, Any]) -> None:
    from descend.experiments.errors import RunError

    if asked.get("snapshots") is None:
        raise RunError(
            f"{directory.path} holds a comparison without snapshots; make one with `descend compare --snapshots 6`, say"
        )


def _names(there: Sequence[str], asked: Sequence[str] | None) -> list[str]:
    from descend.experiments.errors import UsageError
    from descend.experiments.rule_files import named

    names = list(there) if asked is None else [name if name in there else named(name).name for name in asked]
    for name in names:
        if name not in there:
            raise UsageError(f"optimizer {name} is not in the run; it has {', '.join(there)}")
    return names


def _check_same(directory: RunDirectory, asked: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    from descend.experiments.errors import RunError

    words = {
        "task_sha256": "the task file",
        "modules_sha256": "a module beside the task file",
        "data_sha256": "the data",
    }
    for key, what in words.items():
        if (asked.get(key) or None) != (now[key] or None):
            raise RunError(f"{directory.path} was made with other contents of {what}; make the comparison again")


def _studied(
    name: str,
    comparison: Mapping[str, Any],
    asked: Mapping[str, Any],
    directory: RunDirectory,
    fineness: Fineness,
) -> Studied:
    from descend import schedules
    from descend.experiments.ensemble_study.study import Studied
    from descend.experiments.trial import Trial

    source = asked.get("rules", {}).get(name)
    finals = [t for t in comparison["trials"] if t["phase"] == "final" and t["optimizer"] == name]
    return Studied(
        finals=tuple(
            Trial("final", name, t["rate"], t["seed"], tuple(t["values"].items()), source)
            for t in finals
            if not t["diverged"]
        ),
        lost=tuple(t["seed"] for t in finals if t["diverged"]),
        steps=asked["steps"],
        count=asked["snapshots"],
        shape=schedules.parse(asked["schedule"]),
        snapshots=directory.snapshots.absolute(),
        ensemble=directory.ensemble.absolute(),
        fineness=fineness,
    )


def _command(run: str | Path, optimizers: Sequence[str] | None, quick: bool, workers: int | None) -> str:
    words = ["descend ensemble", shlex.quote(str(run))]
    words += ["--optimizers", ",".join(optimizers)] if optimizers else []
    words += ["--quick"] if quick else []
    return " ".join([*words, "--workers", str(workers)] if workers is not None else words)
