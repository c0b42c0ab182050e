"""Finished trials, kept in an Optuna study in one SQLite file."""

import math
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from descend.experiments.errors import RunError
from descend.experiments.trial import Record, Trial
from descend.tasks import Direction

_STUDY = "compare"

_MISFITS = (TypeError, ValueError)
"""What reading raises where the file holds something else; in writing they would be mistakes of ours."""


class TrialStore:
    """The records of a comparison; a trial is in it completely or not at all.

    Only finished trials are added, each in one transaction, so a process may be killed at any moment and the file needs
    no repair. `optuna` and its dashboard read it as any other study.

    Args:
        path: the SQLite file; made if it does not exist.
        optimizers: the names compared, in order.
        direction: of the task's metric.

    Raises:
        RunError: the file is damaged or belongs to something else, or the disk is full.
    """

    def __init__(self, path: Path, optimizers: Sequence[str], direction: Direction) -> None:
        self._path = path
        self._optimizers = tuple(optimizers)
        self._direction = direction
        with self._errors("opened", *_MISFITS):
            if not path.exists():
                # The tables are made under another name, so that a kill never leaves half of them.
                fresh = path.with_name(path.name + ".new")
                fresh.unlink(missing_ok=True)
                _connect(fresh, direction)[1].engine.dispose()
                os.replace(fresh, path)
            self._study, self._storage = _connect(path, direction)

    def records(self) -> dict[Trial, Record]:
        """Return everything stored so far."""
        with self._errors("read", *_MISFITS):
            trials = self._study.get_trials(deepcopy=False)
            records = [Record(**trial.params, **trial.user_attrs) for trial in trials]
        return {record.trial: record for record in records}

    def add(self, record: Record) -> None:
        """Store a finished trial."""
        import optuna
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        fields = record.as_dict()
        distributions = {
            "phase": CategoricalDistribution(("tuning", "final")),
            "optimizer": CategoricalDistribution(self._optimizers),
            "rate": FloatDistribution(1e-300, 1e300, log=True),
            "seed": IntDistribution(0, 2**31),
        }
        params = {name: fields.pop(name) for name in distributions}
        value = record.validation_metric
        if value is None:  # a diverged trial of a metric without a finite worst value
            value = math.inf if self._direction == "minimize" else -math.inf
        finished = optuna.trial.create_trial(params=params, distributions=distributions, user_attrs=fields, value=value)
        with self._errors("written"):
            self._study.add_trial(finished)

    def close(self) -> None:
        """Close the file."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    @contextmanager
    def _errors(self, what: str, *more: type[Exception]) -> Iterator[None]:
        from optuna.exceptions import OptunaError
        from sqlalchemy.exc import SQLAlchemyError

        family: tuple[type[Exception], ...] = (OptunaError, SQLAlchemyError, RuntimeError, LookupError, *more)
        try:
            yield
        except family as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise RunError(
                f"{self._path} cannot be {what} ({reason}). If the disk is full, make room and start the same command "
                "again; if the file is damaged, start over with --fresh, or choose another --out"
            ) from error


def _connect(path: Path, direction: Direction) -> tuple[Any, Any]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # Opened by path: in a URL a folder's name with ? or % would mean something else.
    engine = {"creator": lambda: sqlite3.connect(path, check_same_thread=False)}
    storage = optuna.storages.RDBStorage("sqlite:///trials.db", engine_kwargs=engine)
    study = optuna.create_study(study_name=_STUDY, storage=storage, direction=direction, load_if_exists=True)
    return study, storage
