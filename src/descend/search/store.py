"""What a search has paid for, kept in one SQLite file: each result is in it completely or not at all."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from descend.experiments.errors import RunError

_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS results (stage TEXT, key TEXT, member TEXT, value TEXT, PRIMARY KEY (stage, key))",
    "CREATE TABLE IF NOT EXISTS rounds (number INTEGER PRIMARY KEY, seconds REAL)",
)


class Store:
    """Results of trainings by stage and fingerprint, and how long the rounds of a search took.

    Every call of `add` and `add_round` is one transaction, so a process may be killed at any moment and the file needs
    no repair.

    Args:
        path: the file; made if it does not exist.

    Raises:
        RunError: the file is damaged or something else, or the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._errors("opened"):
            self._connection = sqlite3.connect(path, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            with self._connection:
                for table in _TABLES:
                    self._connection.execute(table)

    def results(self, stage: str) -> dict[str, Any]:
        """Return everything stored in a stage, by fingerprint, in the order of storing."""
        with self._errors("read"):
            rows = self._connection.execute("SELECT key, value FROM results WHERE stage = ? ORDER BY rowid", (stage,))
            return {key: json.loads(value) for key, value in rows}

    def members(self, stage: str) -> dict[str, str]:
        """Return the text of the member that stands for each fingerprint."""
        with self._errors("read"):
            return dict(self._connection.execute("SELECT key, member FROM results WHERE stage = ?", (stage,)))

    def add(self, stage: str, results: Iterable[tuple[str, str, Mapping[str, Any]]]) -> None:
        """Store results: triples of a fingerprint, a member's text and plain values."""
        rows = [(stage, key, member, json.dumps(value)) for key, member, value in results]
        with self._errors("written"), self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?)", rows)

    def seconds(self) -> dict[int, float]:
        """Return how long each finished round took."""
        with self._errors("read"):
            return dict(self._connection.execute("SELECT number, seconds FROM rounds"))

    def add_round(self, number: int, seconds: float) -> None:
        """Store how long a round took that was finished just now; one that is known keeps its time."""
        with self._errors("written"), self._connection:
            self._connection.execute("INSERT OR IGNORE INTO rounds VALUES (?, ?)", (number, seconds))

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValueError) as error:
            raise RunError(
                f"{self._path} cannot be {what} ({error}). If the disk is full, make room and start the same command "
                "again; if the file is damaged, start over with --fresh, or choose another --out"
            ) from error
