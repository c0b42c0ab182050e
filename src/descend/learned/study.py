"""A whole meta-training: training from several seeds, tuning of what it is compared with, tests, and the document."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any, Final

from descend import tasks
from descend.experiments import workers as processes
from descend.experiments.errors import Interrupted
from descend.experiments.jobs import KeptJob, Progress, Silence, carry_out, kept_results
from descend.experiments.run_directory import Kind, RunDirectory
from descend.learned.baselines import BASELINES
from descend.learned.document import document
from descend.learned.files import save
from descend.learned.jobs import Stretch, Testing, Tuning
from descend.learned.recipes import MetaTask

PARTS, RESULTS, REPORT, WEIGHTS = "parts", "meta-train.json", "meta-train.html", "network.safetensors"
META_TRAIN = Kind("meta-train", None, "episodes", RESULTS, REPORT, 1, (WEIGHTS,), (PARTS,))
_WITHOUT_DATA: Final = "digits"
"""What processes load where a task has no data: it costs nothing unless it is asked."""


def studied(
    run: RunDirectory,
    whole: MetaTask,
    name: str,
    network: str,
    seeds: int,
    quick: bool,
    workers: int,
    manifest: Mapping[str, Any],
    progress: Progress | None,
    command: str,
) -> dict[str, Any]:
    """Do what is not done yet, write the weights of the best network, and return the document.

    Args:
        run: the open directory.
        whole: the meta-task.
        name: of it.
        network: kind of network.
        seeds: number of trainings.
        quick: whether it is a screening.
        workers: processes at a time.
        manifest: of the run.
        progress: is told how it goes on.
        command: that goes on after an interruption.

    Raises:
        RunError: something cannot be written.
        Interrupted: by the keyboard.
    """
    folder = (run.path / PARTS).absolute()
    stretches = _stretches(folder, whole, name, network, seeds, quick)
    places = range(len(whole.targets))
    tunings = [
        [KeptJob(folder, Tuning(name, quick, place, baseline)) for baseline in range(len(BASELINES))]
        for place in places
    ]
    last = stretches[-1]
    tests = [[KeptJob(folder, Testing(name, quick, place, one)) for one in last] for place in places]
    waves = [*stretches, [job for jobs in (*tests, *tunings) for job in jobs]]
    reference = whole.data or _WITHOUT_DATA
    try:
        with processes.hands(reference, {}, tasks.load(reference), workers) as hands:
            carry_out(waves, hands.run, progress or Silence(), "jobs")
    except Interrupted as stop:
        stop.command = command
        raise
    trained = [(one.job, result) for one, result in zip(last, kept_results(last), strict=True)]
    found = document(
        manifest,
        whole,
        name,
        network,
        [(job, result) for job, result in trained if isinstance(job, Stretch)],
        [kept_results(jobs) for jobs in tests],
        [kept_results(jobs) for jobs in tunings],
        quick,
    )
    job, result = trained[found["network"]["seed"]]
    assert isinstance(job, Stretch)
    card = {key: found[key] for key in ("task", "recipe", "findings", "caveats")}
    words = ["descend", "meta-train", "--task", name, "--network", network, "--seeds", str(seeds)]
    repeat = " ".join([*words, "--quick"] if quick else words)  # wherever it goes, and however many work at it
    about = {"command": repeat, "versions": manifest["versions"], "seed": found["network"]["seed"]}
    save(job.best(result), run.path / WEIGHTS, {**card, **about})
    return found


def _stretches(folder: Any, whole: MetaTask, name: str, network: str, seeds: int, quick: bool) -> list[list[KeptJob]]:
    """Return the stretches of training, those of one number and all seeds together."""
    recipe = whole.recipes[network]
    found: list[list[KeptJob]] = []
    before: list[KeptJob | None] = [None] * seeds
    for number in count():
        if number * recipe.validate_every >= recipe.episodes:
            return found
        found.append(
            [KeptJob(folder, Stretch(name, quick, network, seed, number, before[seed])) for seed in range(seeds)]
        )
        before = list(found[-1])
    raise AssertionError
