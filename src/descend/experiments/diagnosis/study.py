"""The protocol of a diagnosis: solutions first, then measurements, each kept as soon as it is done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from descend.experiments.diagnosis.plan import Plan
from descend.experiments.errors import Interrupted
from descend.experiments.jobs import KeptJob, Progress, Result, Run, work
from descend.experiments.run_directory import Kind

RESULTS, REPORT, PARTS = "diagnosis.json", "diagnosis.html", "parts"
DIAGNOSE = Kind("diagnose", None, "measurements", RESULTS, REPORT, 1, (), (PARTS,))


def study(trainings: Sequence[KeptJob], plan: Plan, run: Run, progress: Progress) -> dict[str, list[Result]]:
    """Do what is not done yet, and return what each job gave, by the part of the document that it makes.

    Raises:
        RunError: something cannot be written.
        Interrupted: by the keyboard; the running jobs are lost.
    """
    parts = plan.jobs()
    waves: list[list[KeptJob]] = [list(trainings), [kept for jobs in parts.values() for kept in jobs]]
    total = sum(map(len, waves))
    done = sum(kept.result() is not None for kept in waves[0])
    if done == len(waves[0]):
        done += sum(kept.result() is not None for kept in waves[1])
    progress.begin(total, done)
    try:
        for wave in waves:
            missing = [kept for kept in wave if kept.result() is None]
            for kept in run(work, missing, lambda kept: progress.running(kept.job.name)):
                done += 1
                progress.finished(kept.job.name)
    except KeyboardInterrupt:
        raise Interrupted(done, total, "measurements") from None
    finally:
        progress.end()
    return {name: [_result(kept) for kept in jobs] for name, jobs in parts.items()}


def _result(kept: KeptJob) -> dict[str, Any]:
    result = kept.result()
    assert result is not None, kept.job.name
    return result
