"""`SnapshotStore`: the snapshots of one model in a folder, with an index, and a budget that they keep to."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, overload

from torch import Tensor, nn

from descend.model_states import State, unwrapped
from descend.snapshots import files
from descend.snapshots.files import Shapes, SnapshotError

if sys.platform != "win32":
    import fcntl

INDEX = "index.json"
FORMAT = 1
_LOCK = ".lock"
_FILES = "snapshot-*.safetensors"


@dataclass(frozen=True)
class Snapshot:
    """One snapshot, as the index has it.

    Attributes:
        step: how many steps had been applied.
        cycle: which end of a cycle it was, from 1; None where that is not known.
        metric: what it was judged by; None where it was not.
        file: its name in the folder.
        bytes: the size of the file.
        sha256: of the file.
    """

    step: int
    cycle: int | None
    metric: float | None
    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class _Index:
    """What `index.json` holds."""

    model: str
    tensors: Shapes
    snapshots: list[Snapshot] = field(default_factory=list)


class SnapshotStore:
    """The snapshots of one model in a folder.

    Each is a safetensors file that any reader of safetensors opens; `index.json` lists them with their hashes. Files
    are written under another name and renamed, so a kill or a full disk at any moment leaves what was stored before.

    Args:
        folder: made when the first snapshot is stored.
        keep: how many snapshots to keep at most; None for all.
        max_bytes: how many bytes their files may take; None for no limit.
        best: which to keep where that is too many: those whose metric is highest ("max") or lowest ("min"); None keeps
            the last ones. While a snapshot is being written there is one more.

    Raises:
        ValueError: an argument makes no sense.
        SnapshotError: the folder is a file, or holds an index that cannot be read.
        ModuleNotFoundError: safetensors, which the extra descend[lab] has, is not installed.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        keep: int | None = None,
        max_bytes: int | None = None,
        best: Literal["max", "min"] | None = None,
    ) -> None:
        _require_safetensors()
        for name, value in (("keep", keep), ("max_bytes", max_bytes)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} is {value!r}; give a whole number, 1 or more, or None for no limit")
        if best not in (None, "max", "min"):
            raise ValueError(f"best is {best!r}; give 'max' or 'min', or None to keep the last ones")
        if best is not None and keep is None and max_bytes is None:
            raise ValueError(f"best is {best!r}, but nothing limits the snapshots; give keep or max_bytes too")
        self.folder = Path(folder)
        self.keep, self.max_bytes, self.best_is = keep, max_bytes, best
        if self.folder.exists() and not self.folder.is_dir():
            raise SnapshotError(f"{self.folder} is a file; give a folder for the snapshots")
        self._read()

    def __len__(self) -> int:
        return len(self.snapshots())

    def __iter__(self) -> Iterator[Snapshot]:
        return iter(self.snapshots())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.folder)!r}, steps {[one.step for one in self]})"

    def snapshots(self) -> list[Snapshot]:
        """Return what is stored, by step."""
        index = self._read()
        return sorted(index.snapshots, key=lambda one: one.step) if index else []

    def check(self, model: nn.Module) -> None:
        """Refuse a model of another architecture than the snapshots that are stored.

        Raises:
            SnapshotError: names the tensors that differ, or that no snapshot can hold.
        """
        self._check(self._read(), files.shapes_of(files.state_of(model)), type(unwrapped(model)).__name__)

    def add(
        self, model: nn.Module, *, step: int, cycle: int | None = None, metric: float | None = None
    ) -> Snapshot | None:
        """Store the model as it is now. A snapshot of the same step is replaced.

        Args:
            model: its parameters and buffers are written; the statistics of batch normalization are among them.
            step: how many steps have been applied.
            cycle: which end of a cycle this is, from 1.
            metric: what the model is judged by, on validation data; one that is not finite counts as the worst.

        Returns:
            The snapshot; None if the budget has no place for it, because all that is kept is better.

        Raises:
            ValueError: the budget keeps the best, and there is no metric.
            SnapshotError: the model is of another architecture, one snapshot exceeds `max_bytes`, or the disk is full
                or cannot be written. What was stored before is as it was.
        """
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise ValueError(f"step is {step!r}; give how many steps have been applied, a whole number")
        if self.best_is is not None and metric is None:
            raise ValueError("the store keeps the best snapshots; give the metric of this one")
        metric = None if metric is None or not math.isfinite(metric) else float(metric)
        state, whose = files.state_of(model), type(unwrapped(model)).__name__
        shapes = files.shapes_of(state)
        self._check(self._read(), shapes, whose)
        header = {"step": step, "cycle": cycle, "metric": metric, "model": whose}
        content = files.packed(state, header)
        if self.max_bytes is not None and len(content) > self.max_bytes:
            raise SnapshotError(f"max_bytes is {self.max_bytes:,}, but one snapshot takes {len(content):,}; allow more")
        digest = hashlib.sha256(content).hexdigest()
        name = _FILES.replace("*", f"{step:08d}-{digest[:8]}")
        taken = Snapshot(step, cycle, metric, name, len(content), digest)
        with self.locked():
            index = self._read() or _Index(whose, shapes)
            self._check(index, shapes, whose)  # again, as another process may have been the first meanwhile
            files.write(self.folder / name, lambda file: file.write(content))
            others = [one for one in index.snapshots if one.step != step]
            kept = self._within_budget([*others, taken])
            self._write(_Index(index.model, index.tensors, kept))
        return taken if taken in kept else None

    def load(self, step: int) -> dict[str, Tensor]:
        """Return the tensors of the snapshot taken after `step` steps, whose hash is checked first.

        `model.load_state_dict` takes them; `restore` does that.

        Raises:
            SnapshotError: there is none, or its file is missing or damaged.
        """
        return self._load(self._find(step))

    def restore(self, model: nn.Module, step: int) -> None:
        """Put a snapshot into a model.

        Raises:
            SnapshotError: as `load`, and if the model is of another architecture, which leaves it as it was.
        """
        self.check(model)
        files.load_into(model, self.load(step), f"snapshot {step} in {self.folder}")

    def last(self, count: int | None = None) -> Members:
        """Return the last snapshots' tensors, oldest first, each read when it is asked for.

        Args:
            count: how many; None for all.

        Raises:
            ValueError: there are not so many.
        """
        every = self.snapshots()
        if count is None and every:
            return Members(self, every)
        if not every:
            raise ValueError(f"{self.folder} holds no snapshot; train to the end of a cycle first")
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= len(every):
            raise ValueError(f"last: {count!r} snapshots of {len(every)} in {self.folder}; give 1 to {len(every)}")
        return Members(self, every[-count:])

    def damaged(self) -> dict[int, str]:
        """Read every file, and return what is wrong with those that cannot be used, by step."""
        wrong = {}
        for one in self.snapshots():
            try:
                self._check_file(one)
            except SnapshotError as error:
                wrong[one.step] = str(error)
        return wrong

    def discard(self, step: int) -> None:
        """Remove the snapshot taken after `step` steps, damaged or not.

        Raises:
            SnapshotError: there is none.
        """
        wanted = self._find(step)
        with self.locked():
            index = self._read()
            if index is not None:
                kept = [one for one in index.snapshots if one != wanted]
                self._write(_Index(index.model, index.tensors, kept))

    def clear(self) -> None:
        """Remove every snapshot, and what is known of the architecture."""
        if not self.folder.is_dir():
            return
        with self.locked():
            (self.folder / INDEX).unlink(missing_ok=True)
            self._sweep([])

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder, and keep other processes from changing what is in it meanwhile.

        Raises:
            SnapshotError: it cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self.folder / _LOCK, "a", encoding="utf-8") as lock:
                if sys.platform != "win32":
                    fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise SnapshotError(f"{self.folder} cannot be written ({error.strerror}); take another folder") from error

    # ---- the index ---------------------------------------------------------------------------------------------------

    def _check(self, index: _Index | None, shapes: Shapes, whose: str) -> None:
        if index is not None:
            files.check_architecture(index.tensors, shapes, f"what {self.folder} holds ({index.model})", whose)

    def _find(self, step: int) -> Snapshot:
        every = self.snapshots()
        found = next((one for one in every if one.step == step), None)
        if found is None:
            steps = ", ".join(str(one.step) for one in every) or "none"
            raise SnapshotError(f"{self.folder} holds no snapshot of step {step}; it holds {steps}")
        return found

    def _load(self, one: Snapshot) -> dict[str, Tensor]:
        self._check_file(one)
        return files.read(self.folder / one.file)[0]

    def _check_file(self, one: Snapshot) -> None:
        path = self.folder / one.file
        try:
            size = path.stat().st_size
            if size != one.bytes:
                wrong = f"it has {size:,} bytes, not {one.bytes:,}"
            elif files.sha256(path) != one.sha256:
                wrong = "its SHA-256 is another than the index has"
            else:
                return
        except OSError as error:
            wrong = error.strerror or str(error)
        if one not in self.snapshots():
            raise SnapshotError(f"{path} has been removed or replaced since it was asked for; ask for snapshots anew")
        raise SnapshotError(
            f"{path} is damaged ({wrong}); the other {len(self) - 1} snapshots are usable once it is left out: "
            f"SnapshotStore({str(self.folder)!r}).discard({one.step})"
        )

    def _read(self) -> _Index | None:
        path = self.folder / INDEX
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise SnapshotError(
                    f"{path} has format {content['format']}, and this version of descend reads {FORMAT}; take the "
                    "version that wrote it, or another folder"
                )
            snapshots = [Snapshot(**one) for one in content["snapshots"]]
            return _Index(content["model"], dict(content["tensors"]), snapshots)
        except FileNotFoundError:
            return self._from_files()
        except OSError as error:
            raise SnapshotError(f"{path} cannot be read ({error.strerror}); take another folder") from error
        except (ValueError, KeyError, TypeError) as error:
            raise SnapshotError(
                f"{path} cannot be read ({error}); remove it, and it is made anew from the snapshots beside it"
            ) from error

    def _from_files(self) -> _Index | None:
        """What the index must have said, from the headers of the files; one that cannot be read is left out."""
        index = None
        for path in sorted(self.folder.glob(_FILES)):
            try:
                state, header = files.read(path)
            except SnapshotError:
                continue
            index = index or _Index(header["model"], files.shapes_of(state))
            known = {name: header[name] for name in ("step", "cycle", "metric")}
            index.snapshots.append(
                Snapshot(**known, file=path.name, bytes=path.stat().st_size, sha256=files.sha256(path))
            )
        return index

    def _write(self, index: _Index) -> None:
        content = {"format": FORMAT, "kind": "snapshots", **asdict(index)}
        text = json.dumps(content, indent=1, allow_nan=False) + "\n"
        files.write(self.folder / INDEX, lambda file: file.write(text.encode()))
        self._sweep([one.file for one in index.snapshots])

    def _sweep(self, kept: Sequence[str]) -> None:
        """Remove the files of snapshots that are not in the index, and what a kill left of unfinished ones."""
        for path in [*self.folder.glob(_FILES), *self.folder.glob(f".{_FILES}.new")]:
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def _within_budget(self, snapshots: list[Snapshot]) -> list[Snapshot]:
        kept = sorted(snapshots, key=self._worth)
        while (self.keep is not None and len(kept) > self.keep) or (
            self.max_bytes is not None and sum(one.bytes for one in kept) > self.max_bytes
        ):
            del kept[0]
        return sorted(kept, key=lambda one: one.step)

    def _worth(self, one: Snapshot) -> tuple[float, int]:
        """What decides who goes first: the least metric, and of equals the oldest."""
        if self.best_is is None:
            return 0.0, one.step
        if one.metric is None:
            return -math.inf, one.step
        return (one.metric if self.best_is == "max" else -one.metric), one.step


class Members(Sequence[State]):
    """Snapshots' tensors, each read from its file, and checked, when it is asked for: no more than one is held.

    Args:
        store: where they are.
        snapshots: which, in order.
    """

    def __init__(self, store: SnapshotStore, snapshots: Sequence[Snapshot]) -> None:
        self._store, self.snapshots = store, tuple(snapshots)

    def __len__(self) -> int:
        return len(self.snapshots)

    @overload
    def __getitem__(self, place: int) -> State: ...

    @overload
    def __getitem__(self, place: slice) -> Members: ...

    def __getitem__(self, place: int | slice) -> State | Members:
        if isinstance(place, slice):
            return Members(self._store, self.snapshots[place])
        return self._store._load(self.snapshots[place])


def _require_safetensors() -> None:
    try:
        import safetensors.torch  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "snapshots need safetensors: pip install 'descend[lab]'", name=error.name or "safetensors"
        ) from None
