"""`diagnose`: curvature, sharpness and landscape of trained weights."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from descend.commands.needs import FOR_DIAGNOSES, require

if TYPE_CHECKING:
    from descend.experiments.diagnosis.plan import Plan
    from descend.experiments.diagnosis.population import Population
    from descend.experiments.diagnosis.solutions import Training
    from descend.experiments.jobs import KeptJob, Progress
    from descend.tasks import Task

_OPTIMIZER, _CEILING = "sgd", 0.03


@dataclass(frozen=True)
class Diagnosed:
    """A finished diagnosis.

    Attributes:
        directory: where everything of it is.
        results: the content of its `diagnosis.json`.
        report: its HTML page; the pages of the instruments lie beside it.
    """

    directory: Path
    results: Mapping[str, Any]
    report: Path


def diagnose(
    task: str = "digits",
    checkpoints: Sequence[str | Path] = (),
    *,
    population: str | Path | None = None,
    optimizer: str = _OPTIMIZER,
    rate: float | None = None,
    steps: int | None = None,
    seeds: int | None = None,
    examples: int | None = None,
    ceiling: float = _CEILING,
    instruments: Sequence[str] | None = None,
    quick: bool = False,
    subset: int | None = None,
    model: str | None = None,
    data: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    workers: int | None = None,
    out: str | Path | None = None,
    fresh: bool = False,
    progress: Callable[[], Progress] | None = None,
) -> Diagnosed:
    """Measure trained weights: curvature, landscape, memorization, single directions, symmetry; a page for each.

    Without checkpoints it trains solutions of its own, and watches the first training. Killed and started again with
    the same arguments, it goes on; a finished diagnosis is read, not repeated.

    Args:
        task: name of a built-in task, or path of a Python file with one.
        checkpoints: files with weights of the task's model, in place of solutions trained here: snapshots, safetensors,
            or what `torch.save` wrote of a state dict. Instruments look at the first, interpolations at the first two,
            a plane at three.
        population: in place of checkpoints a table of them, comma-separated values: a column `checkpoint`, paths
            relative to the table, and one for each hyper-parameter that networks were trained with, `seed` for
            repetitions. Measures of generalization are then held to the test gaps of all of them.
        optimizer: name of a rule, or a file with one, that trains solutions.
        rate: its peak rate (the known one), under warm-up and cosine.
        steps: of a training (the task's; quick: a quarter).
        seeds: solutions that are trained (3; quick: 2).
        examples: of the training data that instruments see (2,000; quick: 500).
        ceiling: of the time of watching the first training, over that of the training itself.
        instruments: some of eigenvalues, trace, density, sharpness, rescaling, slices, interpolation, trajectory,
            memorization, directions, symmetry, measures, training; by default all.
        quick: coarse grids and few examples, a screening.
        subset: training examples to take, the other splits in proportion, of a task that can.
        model: which model, of a task with several.
        data: a file or folder with the task's data, in place of the usual one.
        settings: other arguments of the task's constructor.
        workers: jobs at a time, each in a process of one thread; by default as many as there are cores. Results do not
            depend on it.
        out: the run directory; by default one under `runs/`, named after the options.
        fresh: start over.
        progress: makes the object that is told how it goes on.

    Raises:
        ModuleNotFoundError: a package of the lab extra is missing.
        TaskError: the task is unknown or incomplete, or its data are missing or damaged; a training script is none.
        UsageError: a checkpoint does not fit, or another argument makes no sense.
        RunError: the run directory holds something else, is in use, damaged, or cannot be written.
        Interrupted: stopped by Ctrl-C; the message says how to go on.
    """
    require(FOR_DIAGNOSES)
    from descend import tasks
    from descend.experiments import jobs, options, run_directory
    from descend.experiments import workers as processes
    from descend.experiments.diagnosis import plan
    from descend.experiments.diagnosis.solutions import Solution, Trained, checked, named
    from descend.experiments.diagnosis.study import DIAGNOSE, PARTS
    from descend.experiments.diagnosis.subject import has_statistics
    from descend.generalization import rescalable
    from descend.tasks import Script, TaskError
    from descend.tasks.data import noted

    found = tasks.find(task)
    asked = {"subset": subset, "model": model, "data": data}
    chosen = options.settings(options.all_settings(asked, settings), found.quick if quick else {})
    problem = found.make(chosen)
    if isinstance(problem, Script):
        raise TaskError(
            f"{task}: a training script has no loss to call; save its weights and give the file of a task with "
            "--checkpoint, or use descend.generalization in the script itself"
        )
    with noted() as files:
        problem.sizes  # noqa: B018 (loads the data: what is missing is said before anything is written)
    extent = plan.QUICK if quick else plan.FULL
    wanted = plan.chosen(instruments)
    taken = options.at_least("examples", 2, extent.examples if examples is None else examples)
    at_a_time = options.at_least("workers", 1, processes.available() if workers is None else workers)
    if isinstance(checkpoints, (str, Path)):
        checkpoints = [checkpoints]
    if isinstance(instruments, str):
        instruments = [instruments]
    members = _members(population, checkpoints)
    if members is not None:
        checkpoints = members.checkpoints
    files_of = named([Path(path) for path in checkpoints])
    read: list[Solution] = [checked(name, path, problem.model(0)) for name, path in files_of.items()]
    trained: list[Training] = []
    if read:
        _refuse_trainings({"optimizer": optimizer, "rate": rate, "steps": steps, "seeds": seeds})
    else:
        usual_steps = int(found.quick.get("steps", max(10, problem.steps // 4))) if quick else problem.steps
        trained = _trainings(
            optimizer,
            rate,
            usual_steps if steps is None else steps,
            extent.seeds if seeds is None else seeds,
            ceiling if "training" in wanted else None,
        )
    told = {
        "task": Path(task).as_posix() if task.endswith(".py") else task,
        "settings": chosen,
        **options.hashes(task, chosen, files),
        "checkpoints": [f"{one.name} (sha256 {one.depends['sha256']})" for one in read],
        **_told(trained),
        **({} if members is None else {"population": [dict(one) for one in members.settings]}),
        "instruments": list(wanted),
        "examples": taken,
        "quick": quick,
    }
    given: dict[str, Any] = {
        "checkpoint": checkpoints if members is None else [],
        "population": population,
        "optimizer": optimizer if optimizer != _OPTIMIZER else None,
        "rate": rate,
        "steps": steps,
        "seeds": seeds,
        "examples": examples,
        "instruments": instruments,
        **asked,
        "ceiling": ceiling if ceiling != _CEILING else None,
        "workers": workers,
        "out": out,
    }
    command = _command(task, given, settings, quick)
    manifest = _manifest(told, command, at_a_time, [one.seed for one in trained])
    directory = Path(out) if out is not None else Path("runs") / _directory_name(told)
    with run_directory.opened(directory, manifest, fresh, DIAGNOSE) as run:
        results = run.results()
        if results is None:
            folder = (run.path / PARTS).absolute()
            kept = [jobs.KeptJob(folder, one) for one in trained]
            network = problem.model(0)
            whole = plan.Plan(
                tuple(read or [Trained(one) for one in kept]),
                wanted,
                extent,
                min(taken, problem.sizes["train"]),
                has_statistics(network),
                bool(rescalable(network)),
                folder,
                () if members is None else members.settings,
            )
            results = _carried_out(kept, whole, task, chosen, problem, at_a_time, manifest, progress, command)
            run.write_results(results)
        from descend import report

        return Diagnosed(directory, results, report.write_diagnosis(run.path))


def _members(population: str | Path | None, checkpoints: Sequence[str | Path]) -> Population | None:
    from descend.experiments.diagnosis.population import read
    from descend.experiments.errors import UsageError

    if population is None:
        return None
    if checkpoints:
        raise UsageError("population is a table of checkpoints, and checkpoints are given too; leave one out")
    return read(Path(population))


def _refuse_trainings(given: Mapping[str, Any]) -> None:
    from descend.experiments.errors import UsageError

    for name, value in given.items():
        if value is not None and value != _OPTIMIZER:
            raise UsageError(f"{name} is of trainings, and checkpoints are looked at as they are; leave one out")


def _trainings(optimizer: str, rate: float | None, steps: int, seeds: int, ceiling: float | None) -> list[Training]:
    """Return the trainings of solutions; the first is watched, where a ceiling of its time is given."""
    from descend.experiments import options, rule_files, search_space
    from descend.experiments.diagnosis.solutions import Training

    rule = rule_files.named(optimizer)
    source = rule_files.chosen([optimizer])[rule.name]
    peak = search_space.space(rule).rate if rate is None else _above_0("rate", rate)
    length, count = options.at_least("steps", 10, steps), options.at_least("seeds", 1, seeds)
    watched = None if ceiling is None else _above_0("ceiling", ceiling)
    return [Training(rule.name, source, peak, length, seed, watched if seed == 0 else None) for seed in range(count)]


def _carried_out(
    kept: Sequence[KeptJob],
    plan: Plan,
    task: str,
    settings: Mapping[str, Any],
    problem: Task,
    workers: int,
    manifest: Mapping[str, Any],
    progress: Callable[[], Progress] | None,
    command: str,
) -> dict[str, Any]:
    """Train and measure what is missing, and return the whole document."""
    from descend.experiments import jobs
    from descend.experiments import workers as processes
    from descend.experiments.diagnosis.document import document
    from descend.experiments.diagnosis.study import study
    from descend.experiments.errors import Interrupted

    observer = progress() if progress else jobs.Silence()
    try:
        with processes.hands(task, settings, problem, workers) as hands:
            parts = study(kept, plan, hands.run, observer)
    except Interrupted as stop:
        stop.command = command
        raise
    return document(manifest, problem, plan, parts)


def _told(trainings: Sequence[Training]) -> dict[str, Any]:
    """Return what is asked of trainings, as options that a reader compares."""
    if not trainings:
        return {}
    first = trainings[0]
    own = {"optimizer": first.optimizer, "rate": first.rate, "steps": first.steps, "seeds": len(trainings)}
    return {**own, "ceiling": first.ceiling, "rules": {} if first.source is None else {first.optimizer: first.source}}


def _above_0(name: str, value: float) -> float:
    import math

    from descend.experiments.errors import UsageError

    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise UsageError(f"{name} is {value!r}; give a finite number above 0")
    return float(value)


def _manifest(asked: Mapping[str, Any], command: str, workers: int, seeds: list[int]) -> dict[str, Any]:
    from descend.experiments.diagnosis.subject import SEED
    from descend.experiments.manifest import hardware, versions

    return {
        "format": 1,
        "kind": "diagnose",
        "options": dict(asked),
        "versions": versions(),
        "hardware": hardware(workers),
        "seeds": {"solutions": seeds, "instruments": [SEED]},
        "command": command,
    }


def _directory_name(asked: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    return f"diagnose-{Path(asked['task']).stem}-{digest[:8]}"


def _command(task: str, given: Mapping[str, Any], settings: Mapping[str, Any] | None, quick: bool) -> str:
    words = ["descend", "diagnose", "--task", task]
    for name, value in given.items():
        if value is None or value in ((), []):
            continue
        several = value if name == "checkpoint" else [",".join(value) if name == "instruments" else value]
        for one in several:
            words += [f"--{name}", str(one)]
    for name, value in (settings or {}).items():
        words += ["--setting", f"{name}={value}"]
    return shlex.join([*words, "--quick"] if quick else words)
