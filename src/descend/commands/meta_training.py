"""`meta-train`: learning an optimizer that is a network."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from descend.commands.needs import FOR_META_TRAINING, require

if TYPE_CHECKING:
    from descend.experiments.jobs import Progress


@dataclass(frozen=True)
class MetaTrained:
    """A finished meta-training.

    Attributes:
        directory: where everything of it is.
        results: the content of its `meta-train.json`.
        weights: the file of the network, for `descend.learned.load`.
        report: its HTML page.
    """

    directory: Path
    results: Mapping[str, Any]
    weights: Path
    report: Path


def meta_train(
    task: str = "quadratics",
    *,
    network: str = "lstm",
    seeds: int | None = None,
    quick: bool = False,
    workers: int | None = None,
    out: str | Path | None = None,
    fresh: bool = False,
    progress: Callable[[], Progress] | None = None,
) -> MetaTrained:
    """Learn an optimizer that is a network, and compare it with rules that are tuned on the same problems.

    Weights that validate best are kept. Killed and started again with the same arguments, it goes on; a finished run
    is read, not repeated.

    Args:
        task: "quadratics", "digits-mlp" or "mnist-mlp": what it is learned on.
        network: "lstm", by backpropagation through unrolls, or "mlp", by persistent evolution strategies.
        seeds: trainings, each by itself (3; quick: 1).
        quick: a few episodes and problems, a screening.
        workers: jobs at a time, each in a process of one thread; by default as many as there are cores.
        out: the run directory; by default one under `runs/`, named after the options.
        fresh: start over.
        progress: makes the object that is told how it goes on.

    Raises:
        ModuleNotFoundError: a package of the lab extra is missing.
        TaskError: the data are missing or damaged.
        UsageError: an argument makes no sense.
        RunError: the run directory holds something else, is in use, damaged, or cannot be written.
        Interrupted: stopped by Ctrl-C; the message says how to go on.
    """
    require(FOR_META_TRAINING)
    from descend.experiments import options, run_directory
    from descend.experiments import workers as processes
    from descend.experiments.errors import UsageError
    from descend.learned.jobs import meta_task
    from descend.learned.recipes import META_TASKS
    from descend.learned.study import META_TRAIN, WEIGHTS, studied

    if task not in META_TASKS:
        raise UsageError(f"task is {task!r}; give one of {', '.join(META_TASKS)}")
    whole = meta_task(task, quick)
    if network not in whole.recipes:
        raise UsageError(f"network is {network!r}; give one of {', '.join(whole.recipes)}")
    count = options.at_least("seeds", 1, (1 if quick else 3) if seeds is None else seeds)
    at_a_time = options.at_least("workers", 1, processes.available() if workers is None else workers)
    told = {"task": task, "network": network, "seeds": count, "recipe": whole.recipes[network].digest(), "quick": quick}
    given = {"network": network if network != "lstm" else None, "seeds": seeds, "workers": workers, "out": out}
    command = _command(task, given, quick)
    manifest = _manifest(told, command, at_a_time, count)
    directory = Path(out) if out is not None else Path("runs") / _directory_name(told)
    with run_directory.opened(directory, manifest, fresh, META_TRAIN) as run:
        results = run.results()
        if results is None:
            results = studied(
                run, whole, task, network, count, quick, at_a_time, manifest, progress() if progress else None, command
            )
            run.write_results(results)
        from descend import report

        return MetaTrained(directory, results, run.path / WEIGHTS, report.write_meta_training(run.path))


def _manifest(told: Mapping[str, Any], command: str, workers: int, seeds: int) -> dict[str, Any]:
    from descend.experiments.manifest import hardware, versions

    return {
        "format": 1,
        "kind": "meta-train",
        "options": dict(told),
        "versions": versions(),
        "hardware": hardware(workers),
        "seeds": {"trainings": list(range(seeds))},
        "command": command,
    }


def _directory_name(told: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    return f"meta-train-{told['task']}-{digest[:8]}"


def _command(task: str, given: Mapping[str, Any], quick: bool) -> str:
    words = ["descend", "meta-train", "--task", task]
    for name, value in given.items():
        if value is not None:
            words += [f"--{name}", str(value)]
    return shlex.join([*words, "--quick"] if quick else words)
