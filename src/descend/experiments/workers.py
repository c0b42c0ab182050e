"""Doing the jobs of a run, such as its trials: here, or in processes of their own, one thread each.

The processes are spawned, never forked, and started without the program that asks for them, so that a script or a
notebook needs no guard. They end with their parent, whatever ends it.
"""

import itertools
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from descend import tasks
from descend.experiments import logs, trial
from descend.experiments.conditions import Conditions
from descend.experiments.errors import RunError
from descend.experiments.trial import Record, Trial
from descend.rule import Rule
from descend.snapshots import SnapshotError
from descend.tasks import Problem

_WATCH_SECONDS = 0.5
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def available() -> int:
    """Return how many cores this process may use: the default number of trial processes."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


Work = Callable[[Problem, Any], Any]
"""What is done for one job, given the problem; it must be possible to pickle it."""


@dataclass(frozen=True)
class Runner:
    """The work of running trials: from one to its record.

    Attributes:
        conditions: of the trials.
    """

    conditions: Conditions

    def __call__(self, task: Problem, wanted: Trial) -> Record:
        """Run a trial; before the first of an optimizer, a step that pays for loading its code."""
        with _named(wanted):
            if (task.name, wanted.rule) not in _warm:
                trial.warm_up(task, wanted)
                _warm.add((task.name, wanted.rule))
            with logs.opened(self.conditions.logs, wanted.file_name()) as log:
                try:
                    return trial.run(
                        task, wanted, self.conditions.steps, log, self.conditions.shape, self.conditions.kept
                    )
                except SnapshotError as error:
                    raise RunError(f"{error}. The same command goes on") from error


_warm: set[tuple[str, Rule]] = set()
"""Of which problem, by name, which rule has taken a step in this process."""


class Here:
    """Does jobs in this process, one after the other.

    Args:
        task: the problem.
    """

    def __init__(self, task: Problem) -> None:
        self._task = task

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def run(self, work: Work, jobs: Iterable[Any], started: Callable[[Any], None]) -> Iterator[Any]:
        """Do jobs; yield what each gives."""
        for job in jobs:
            started(job)
            yield work(self._task, job)


def hands(
    reference: str, settings: Mapping[str, Any], task: Problem, count: int
) -> AbstractContextManager["Here | Pool"]:
    """Return what does the jobs of a run, a context: this process for a count of 1, else so many of their own.

    Args:
        reference: the task's name or file.
        settings: of the task.
        task: it itself.
        count: of processes.
    """
    return Here(task) if count == 1 else Pool(reference, settings, count)


class Pool:
    """Processes that do jobs for a task; a context that ends them.

    Args:
        reference: the task's name or file.
        settings: of the task.
        count: of processes, 1 or more.
    """

    def __init__(self, reference: str, settings: Mapping[str, Any], count: int) -> None:
        from loky import ProcessPoolExecutor

        self._problem = (reference, dict(settings))
        self._count = count
        self._executor: Any = ProcessPoolExecutor(
            max_workers=count, initializer=_begin, initargs=(os.getpid(),), env=_ONE_THREAD
        )

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *error: object) -> None:
        self._executor.shutdown(wait=True, kill_workers=True)

    def run(self, work: Work, jobs: Iterable[Any], started: Callable[[Any], None]) -> Iterator[Any]:
        """Do jobs, as many at a time as there are processes; yield what each gives when it is finished.

        Raises:
            RunError: a process died.
        """
        from loky.process_executor import BrokenProcessPool

        waiting = iter(jobs)
        running: set[Any] = set()
        try:
            while True:
                for job in itertools.islice(waiting, self._count - len(running)):
                    started(job)
                    with _interrupts_held():
                        running.add(self._executor.submit(_do, *self._problem, work, job))
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except BrokenProcessPool as error:
            raise RunError(
                f"a trial process died ({str(error).splitlines()[0]}); if memory was short, take fewer processes with "
                "--workers. The same command goes on"
            ) from error


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back while processes start: they inherit that, and leave it to their parent."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


# ---- in a trial process ----------------------------------------------------------------------------------------------

_problems: dict[str, Problem] = {}


def _begin(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The platform's own way of starting processes again: loky's is no use to the DataLoader of a task or script.
    multiprocessing.set_start_method(None, force=True)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when its parent has ended, killed perhaps, and nobody waits for the trial any more."""
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os._exit(1)


def _do(reference: str, settings: Mapping[str, Any], work: Work, job: Any) -> Any:
    try:
        if reference not in _problems:
            _problems[reference] = tasks.load(reference, **settings)
        return work(_problems[reference], job)
    except Exception as error:
        raise _sendable(error) from error


def _sendable(error: Exception) -> Exception:
    """Return an error that arrives in the parent: itself, or its words where it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        plain = RuntimeError(f"{type(error).__name__}: {error}")
        for note in getattr(error, "__notes__", []):
            plain.add_note(note)
        return plain


@contextmanager
def _named(wanted: Trial) -> Iterator[None]:
    """Let an error of the task's own code keep its type and traceback, and say in which trial it happened."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in {wanted.phase} trial of {wanted.optimizer}, rate {wanted.rate:g}, seed {wanted.seed}")
        raise
