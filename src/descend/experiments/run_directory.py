"""The directory of a run: who may use it, what is in it, and how its files are written."""

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from descend.experiments.errors import RunError
from descend.experiments.manifest import FORMAT

if sys.platform != "win32":
    import fcntl

MANIFEST, TRIALS, RESULTS, REPORT = "manifest.json", "trials.db", "results.json", "report.html"
LOGS, SNAPSHOTS, ENSEMBLE = "logs", "snapshots", "ensemble"
ENSEMBLE_RESULTS, ENSEMBLE_REPORT = "ensemble.json", "ensemble.html"
MARKER = ".descend-run"
"""Tells that the directory is a run's, and is locked while a process works in it."""


@dataclass(frozen=True)
class Kind:
    """What a command keeps in its run directories.

    Attributes:
        command: its name, which the manifest has as its kind.
        store: the file of what is paid for; None where that is in its folders alone.
        content: what is in that, in the plural.
        results: the file that marks a run as finished.
        report: its page.
        format: of the results.
        added: files that other commands add.
        folders: what it keeps in folders.
    """

    command: str
    store: str | None
    content: str
    results: str
    report: str
    format: int
    added: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()

    @property
    def written(self) -> tuple[str, ...]:
        """Its files in the order of deletion: the manifest goes last, as a store without it means nothing."""
        store = () if self.store is None else (self.store,)
        return *self.added, self.report, self.results, *store, MANIFEST


COMPARE = Kind(
    "compare",
    TRIALS,
    "trials",
    RESULTS,
    REPORT,
    FORMAT,
    (ENSEMBLE_REPORT, ENSEMBLE_RESULTS),
    (LOGS, SNAPSHOTS, ENSEMBLE),
)


class RunDirectory:
    """A run's directory, with its manifest checked and its lock held; made by `opened`."""

    def __init__(self, path: Path, manifest: dict[str, Any], kind: Kind = COMPARE) -> None:
        self.path = path
        self.manifest = manifest
        self.kind = kind

    @property
    def trials(self) -> Path:
        """The file of finished trials, or whatever else is paid for."""
        assert self.kind.store is not None
        return self.path / self.kind.store

    @property
    def logs(self) -> Path:
        """The folder of the trials' logs."""
        return self.path / LOGS

    @property
    def snapshots(self) -> Path:
        """The folder of what final trials keep of their weights."""
        return self.path / SNAPSHOTS

    @property
    def ensemble(self) -> Path:
        """The folder of what `descend ensemble` adds to the run."""
        return self.path / ENSEMBLE

    @property
    def report(self) -> Path:
        """The report, which a finished run has."""
        return self.path / self.kind.report

    def results(self) -> dict[str, Any] | None:
        """Return the results of a finished run; None if it is not finished, or they must be summed up anew."""
        try:
            results = json.loads((self.path / self.kind.results).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return results if isinstance(results, dict) and results.get("format") == self.kind.format else None

    def ensemble_results(self) -> dict[str, Any] | None:
        """Return the results of a study of its snapshots; None if there are none that can be read."""
        try:
            results = json.loads((self.path / ENSEMBLE_RESULTS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return results if isinstance(results, dict) else None

    def forget_ensemble(self) -> None:
        """Remove a study of its snapshots, with all that it kept."""
        for name in (ENSEMBLE_REPORT, ENSEMBLE_RESULTS):
            (self.path / name).unlink(missing_ok=True)
        if self.ensemble.is_dir():
            shutil.rmtree(self.ensemble)

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Write the results, which marks the run as finished; a report of older results goes first."""
        self.report.unlink(missing_ok=True)
        write_json(self.path / self.kind.results, results)


@contextmanager
def opened(path: Path, manifest: dict[str, Any], fresh: bool = False, kind: Kind = COMPARE) -> Iterator[RunDirectory]:
    """Open a run directory for the run that a manifest describes: a new one, or one that began with the same options.

    While it is open no other process can open it; the lock dies with its process. A finished run that may only be read
    is opened without one.

    Args:
        path: the directory; made if it does not exist.
        manifest: of the run that is asked for.
        fresh: delete what an earlier run wrote there first.
        kind: of the run.

    Raises:
        RunError: the directory is not a run's, is in use, holds another run, is damaged, or cannot be written.
    """
    with ExitStack() as stack:
        try:
            _refuse_foreign(path, kind)
            path.mkdir(parents=True, exist_ok=True)
            _lock(stack.enter_context(open(path / MARKER, "a+", encoding="utf-8")), path)
            if fresh:
                _delete(path, kind)
        except OSError as error:
            if fresh or not (path / kind.results).exists():
                raise unwritable(path, error) from error
        yield RunDirectory(path, _agreed(path, manifest, kind), kind)


@contextmanager
def reopened(path: Path) -> Iterator[RunDirectory]:
    """Open the directory of a finished comparison, to add to it; while it is open no other process can open it.

    Raises:
        RunError: there is no finished comparison, it is damaged or in use, or it cannot be written.
    """
    manifest = _manifest_of(path, COMPARE)
    with ExitStack() as stack:
        try:
            marker = stack.enter_context(open(path / MARKER, "a+", encoding="utf-8"))
        except OSError as error:
            raise RunError(f"{path} cannot be written ({error.strerror}); work on a copy that can be") from error
        _lock(marker, path, "wait for it")
        run = RunDirectory(path, manifest)
        _finished(run)
        yield run


def read_results(path: Path, kind: Kind) -> dict[str, Any]:
    """Return the results of a finished run.

    Raises:
        RunError: there is no finished run of this kind, or it is damaged.
    """
    return _finished(RunDirectory(path, _manifest_of(path, kind), kind))


def _manifest_of(path: Path, kind: Kind) -> dict[str, Any]:
    if not path.is_dir() or not _is_run(path, kind):
        raise RunError(f"{path} is no run of `descend {kind.command}`; give the directory of one")
    try:
        manifest = _read_manifest(path)
        manifest["command"]
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{path / MANIFEST} cannot be read ({error}); give the directory of another run") from error
    return manifest


def _finished(run: RunDirectory) -> dict[str, Any]:
    results = run.results()
    if results is None:
        command = run.manifest["command"]
        raise RunError(f"{run.path} holds a run that is not finished; finish it with:\n  {command}")
    return results


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file so that a reader sees the old one or the new one, never a part.

    Raises:
        RunError: the file cannot be written, for example because the disk is full.
        ValueError: a number in it is not finite.
    """
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old one or the new one, never a part.

    Raises:
        RunError: the file cannot be written, for example because the disk is full.
    """
    temporary = path.with_name(path.name + ".new")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise unwritable(path, error) from error


def _refuse_foreign(path: Path, kind: Kind) -> None:
    if path.exists() and not path.is_dir():
        raise RunError(f"{path} is a file, not a run directory; choose another --out")
    if path.is_dir() and any(path.iterdir()) and not _is_run(path, kind):
        raise RunError(
            f"{path} exists and is not a run of `descend {kind.command}`; choose another --out, or an empty directory"
        )


def _is_run(path: Path, kind: Kind) -> bool:
    try:
        stored = _read_manifest(path).get("kind")
    except (OSError, ValueError):
        stored = None  # it has none yet, or a damaged one
    # a copy may have lost the hidden file
    return (path / MARKER).exists() if stored is None else bool(stored == kind.command)


def _lock(marker: TextIO, path: Path, remedy: str = "wait for it, or choose another --out") -> None:
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        marker.seek(0)
        holder = marker.read().strip() or "another process"
        raise RunError(f"{path} is in use by {holder}; {remedy}") from None
    marker.truncate(0)
    marker.write(f"process {os.getpid()}\n")
    marker.flush()


def _delete(path: Path, kind: Kind) -> None:
    for name in kind.written:
        for ending in ("", ".new", "-journal", "-wal", "-shm"):
            (path / (name + ending)).unlink(missing_ok=True)
    for folder in kind.folders:
        if (path / folder).is_dir():
            shutil.rmtree(path / folder)


def _agreed(path: Path, wanted: dict[str, Any], kind: Kind) -> dict[str, Any]:
    """Return the stored manifest, if what is wanted agrees with it; write a new one where there is none."""
    remedy = "start over with --fresh, or choose another --out"
    if not (path / MANIFEST).exists():
        if kind.store is not None and (path / kind.store).exists():
            raise RunError(f"{path} holds {kind.content} without their manifest.json; {remedy}")
        write_json(path / MANIFEST, wanted)
        return wanted
    try:
        stored = _read_manifest(path)
        options, versions = dict(stored["options"]), dict(stored["versions"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path / MANIFEST} cannot be read ({error}); {remedy}") from error
    if found := _differences(options, wanted["options"]):
        raise RunError(f"{path} holds a run with other options ({found}); {remedy}")
    finished = (path / kind.results).exists()
    if not finished and (found := _differences(versions, wanted["versions"])):
        raise RunError(f"{path} holds a run begun with other software ({found}); {remedy}")
    return stored


def _read_manifest(path: Path) -> dict[str, Any]:
    manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    if not isinstance(manifest, dict):
        raise ValueError("not a manifest")
    return manifest


def _differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    changed = {
        name: f"{name}: {_shown(stored.get(name))} there, {_shown(wanted.get(name))} now"
        for name in {**stored, **wanted}
        if (stored.get(name) or None) != (wanted.get(name) or None)  # an older run lacks what was not asked for
    }
    if "data_sha256" in changed:
        changed["data_sha256"] = "the data have changed"
    if "modules_sha256" in changed:
        changed["modules_sha256"] = "a module beside the task file has changed"
    if "task_sha256" in changed:
        changed["task_sha256"] = "the task file has changed"
        if "task" in changed:  # another file, which says all
            changed = {name: what for name, what in changed.items() if name not in ("task_sha256", "modules_sha256")}
    if "rules" in changed:
        there, now = stored.get("rules") or {}, wanted.get("rules") or {}
        names = [name for name in there if name in now and there[name] != now[name]]
        del changed["rules"]  # who has rules that the other has not is said by the optimizers
        changed |= {f"rules.{name}": f"the file of rule {name} has changed" for name in names}
    return "; ".join(changed.values())


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def unwritable(path: Path, error: OSError) -> RunError:
    """Return what to say of a file or directory that cannot be written."""
    return RunError(f"{path} cannot be written ({error.strerror}); make room or choose another --out, and start again")
