"""The protocol of a diagnosis: solutions first, then measurements, each kept as soon as it is done."""

from __future__ import annotations

from collections.abc import Sequence

from descend.experiments.diagnosis.plan import Plan
from descend.experiments.jobs import KeptJob, Progress, Result, Run, carry_out, kept_results
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
    carry_out(waves, run, progress, "measurements")
    return {name: kept_results(jobs) for name, jobs in parts.items()}
