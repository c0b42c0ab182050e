"""Jobs whose results are kept in the run: each whole or not at all, and anew when what it depends on changes."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from descend.experiments.errors import Interrupted, RunError
from descend.experiments.trial import one_thread
from descend.snapshots import SnapshotError, files
from descend.tasks import Problem

Result = dict[str, Any]
"""Plain values and tensors."""


class Job(Protocol):
    """One job: what is done, and where its result is kept."""

    @property
    def name(self) -> str:
        """What it is called while it runs; its place is decided by it."""

    @property
    def depends(self) -> Mapping[str, Any]:
        """All that decides the result, as JSON holds it."""

    def holds(self, result: Result) -> bool:
        """Tell whether what the job made beside its result is there and whole."""

    def run(self, task: Any) -> Result:
        """Do it."""


class Progress(Protocol):
    """Who is told how a study goes on."""

    def begin(self, total: int, done: int) -> None:
        """A study of `total` jobs starts or goes on, `done` of them being finished already."""

    def running(self, name: str) -> None:
        """A job starts."""

    def finished(self, name: str) -> None:
        """A job is finished, and its result kept."""

    def end(self) -> None:
        """No job follows."""


class Silence:
    """Progress that nobody is told about."""

    def begin(self, total: int, done: int) -> None:
        """Say nothing."""

    def running(self, name: str) -> None:
        """Say nothing."""

    def finished(self, name: str) -> None:
        """Say nothing."""

    def end(self) -> None:
        """Say nothing."""


Run = Callable[
    [Callable[[Problem, "KeptJob"], "KeptJob"], Iterable["KeptJob"], Callable[["KeptJob"], None]], Iterator["KeptJob"]
]
"""Does work for jobs, tells when each starts, and yields what each gives."""


@dataclass(frozen=True)
class KeptJob:
    """A job, and the folder that keeps its result.

    Attributes:
        folder: of all results.
        job: what is done.
    """

    folder: Path
    job: Job

    @property
    def path(self) -> Path:
        """The file of the result."""
        return self.folder / f"{self.job.name.replace(' ', '-')}.pt"

    def result(self) -> Result | None:
        """Return the result that is kept; None where there is none, or what it depended on has changed."""
        try:
            content = torch.load(self.path, weights_only=True)
            fits = content["depends"] == self._digest()
        except Exception:  # a damaged file has many ways to fail; the job is done again
            return None
        result: Result = content["result"]
        return result if fits and self.job.holds(result) else None

    def do(self, task: Problem) -> None:
        """Do the job and keep its result, in one step.

        Raises:
            RunError: the result cannot be written.
        """
        content = {"depends": self._digest(), "result": self.job.run(task)}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            files.write(self.path, partial(torch.save, content))
        except OSError as error:
            raise RunError(f"{self.folder} cannot be written ({error.strerror}); make room, and start again") from error
        except SnapshotError as error:
            raise RunError(str(error)) from error

    def _digest(self) -> str:
        return hashlib.sha256(json.dumps(self.job.depends, sort_keys=True).encode()).hexdigest()


def work(task: Problem, kept: KeptJob) -> KeptJob:
    """Do a kept job; what is sent to processes."""
    try:
        with one_thread():
            kept.do(task)
    except Exception as error:
        error.add_note(f"in the job {kept.job.name}")
        raise
    return kept


def carry_out(waves: Sequence[Sequence[KeptJob]], run: Run, progress: Progress, what: str) -> None:
    """Do the jobs of each wave that are not done yet, before those of the next, which need their results.

    Args:
        waves: of jobs.
        run: does work for jobs.
        progress: is told how it goes on.
        what: the jobs are called, in the plural.

    Raises:
        RunError: something is missing, damaged, or cannot be written.
        Interrupted: by the keyboard; the running jobs are lost.
    """
    total, done = sum(map(len, waves)), 0
    for wave in waves:
        kept = sum(one.result() is not None for one in wave)
        done += kept
        if kept < len(wave):  # what depends on it is done anew
            break
    progress.begin(total, done)
    done = 0
    try:
        for wave in waves:
            missing = [one for one in wave if one.result() is None]
            done += len(wave) - len(missing)
            for kept_job in run(work, missing, lambda one: progress.running(one.job.name)):
                done += 1
                progress.finished(kept_job.job.name)
    except KeyboardInterrupt:
        raise Interrupted(done, total, what) from None
    except SnapshotError as error:
        raise RunError(str(error)) from error
    finally:
        progress.end()


def kept_results(jobs: Iterable[KeptJob]) -> list[Result]:
    """Return the results of jobs that are done."""
    found = []
    for kept in jobs:
        result = kept.result()
        assert result is not None, kept.job.name
        found.append(result)
    return found
