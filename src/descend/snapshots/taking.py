"""`Snapshots`: takes them in a training loop, and resumes that loop in mid-cycle."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
import random
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
import torch
from torch import nn

from descend.applied_steps import AppliedSteps
from descend.model_states import unwrapped
from descend.optimizer import Optimizer
from descend.restoring import check_pair, evaluating
from descend.schedules import Schedule
from descend.snapshots import files
from descend.snapshots.files import SnapshotError
from descend.snapshots.store import Snapshot, SnapshotStore

if TYPE_CHECKING:
    from descend.ensembles import Ensemble

PROGRESS = "progress.pt"
FORMAT = 1


class Snapshots:
    """Takes a snapshot at the end of every cycle of a schedule, and resumes training between them.

    Call `step` after every `optimizer.step()`; one that a gradient scaler skipped, or that only accumulated gradients,
    ends no cycle. Each snapshot also saves the progress, so that `resume` never goes back behind it. A folder that
    holds a run is gone on with by `resume`, and refused without.

    Args:
        folder: of the store, one for each training run.
        model: the one that is trained; DistributedDataParallel and torch.compile around it are seen through.
        optimizer: that trains it: one of descend's, whose schedules say where cycles end, or any other of torch's kind
            with `schedule`.
        schedule: where cycles end, for other optimizers; the number of their steps is counted by `step`.
        metric: judges the model when a snapshot is taken, on validation data; called in evaluation mode without
            gradients.
        keep: how many snapshots to keep at most, the last ones; None for all.
        max_bytes: how many bytes they may take.
        best: keep those whose metric is highest ("max") or lowest ("min") instead.
        also: what else `save` and `resume` hold: a torch.Generator, or anything with `state_dict` and
            `load_state_dict`, such as a gradient scaler, a resumable sampler or a scheduler of torch.

    Raises:
        ValueError: no schedule has cycles, the optimizer is not the model's, or an option makes no sense.
        SnapshotError: the folder holds snapshots of another architecture, or cannot be read.
    """

    def __init__(
        self,
        folder: str | Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        schedule: Schedule | None = None,
        metric: Callable[[nn.Module], float] | None = None,
        keep: int | None = None,
        max_bytes: int | None = None,
        best: Literal["max", "min"] | None = None,
        also: Mapping[str, Any] | None = None,
    ) -> None:
        check_pair(model, optimizer)
        if best is not None and metric is None:
            raise ValueError(f"best is {best!r}; give metric, a function of the model, by which snapshots are judged")
        if metric is not None and not callable(metric):
            raise ValueError(f"metric is {metric!r}; give a function of the model that returns a number")
        _check_cycles(optimizer, schedule)
        self._also = _checked_also(also)
        self.store = SnapshotStore(folder, keep=keep, max_bytes=max_bytes, best=best)
        self.store.check(model)
        self._model, self._optimizer, self._schedule, self._metric = model, optimizer, schedule, metric
        self._applied = AppliedSteps(optimizer)
        self._seen = self._applied.count
        self._goes_on = not len(self.store) and not (self.store.folder / PROGRESS).exists()

    def step(self) -> Snapshot | None:
        """Take a snapshot if a cycle has just ended; call it after `optimizer.step()`.

        Returns:
            The snapshot, if one was taken and the budget keeps it.

        Raises:
            SnapshotError: it cannot be written; training may go on, and what was stored before is as it was. Or the
                folder holds another run, which was not gone on with.
        """
        self._check_goes_on()
        steps = self._applied.count
        if steps == self._seen:  # a step that was skipped, or one of several for one batch
            return None
        self._seen = steps
        if (
            not any(one.ends_cycle(steps) for one in _schedules(self._optimizer, self._schedule))
            or not _is_first_process()
        ):
            return None
        taken = self.store.add(self._model, step=steps, cycle=self._cycle(steps), metric=self._judged())
        if not _has_other_processes():
            self.save()
        return taken

    def save(self) -> None:
        """Save the progress: model, optimizer, clock, the global random generators, and what is in `also`.

        Raises:
            SnapshotError: it cannot be written, or something in it cannot be loaded safely; the one before is kept.
            RuntimeError: there are several processes.
        """
        _refuse_other_processes()
        self._check_goes_on()
        progress = self._progress()
        with self.store.locked():
            files.write(self.store.folder / PROGRESS, partial(_write, progress))

    def resume(self) -> int:
        """Put everything back as it was when the progress was last saved, bit for bit.

        Returns:
            The number of applied steps; 0 where nothing was saved, which changes nothing.

        Raises:
            SnapshotError: the progress is damaged, or of another model, optimizer or `also`; nothing has changed.
            RuntimeError: there are several processes.
        """
        _refuse_other_processes()
        path = self.store.folder / PROGRESS
        if not path.exists():
            first = min(next(one.cycles()) for one in _schedules(self._optimizer, self._schedule) if _has_cycles(one))
            if any(one.step != first for one in self.store):  # the first is there alone after a kill, before its `save`
                raise SnapshotError(
                    f"{self.store.folder} holds {len(self.store)} snapshots and no progress to go on from; take "
                    "another folder, or remove them with store.clear()"
                )
            self._goes_on = True
            return 0
        progress, before = self._loaded(path), copy.deepcopy(self._progress())
        for what, put in self._parts(progress):
            try:
                put()
            except Exception as error:
                for _, put_back in self._parts(before):
                    put_back()
                if isinstance(error, SnapshotError):
                    raise
                raise SnapshotError(
                    f"{path} is of another {what} ({_reason(error)}); build it as it was. Nothing has changed"
                ) from error
        self._applied.go_on_from(progress["steps"])
        self._seen, self._goes_on = self._applied.count, True
        return self._seen

    def ensemble(self, last: int | None = None, **options: Any) -> Ensemble:
        """Return the ensemble of the last snapshots.

        Args:
            last: how many; None for all that are kept.
            options: of `descend.Ensemble`.
        """
        from descend.ensembles import Ensemble

        return Ensemble(unwrapped(self._model), self.store.last(last), **options)

    def _check_goes_on(self) -> None:
        """Refuse to mix two runs in one folder."""
        if not self._goes_on and not _has_other_processes():  # which cannot resume here
            raise SnapshotError(
                f"{self.store.folder} holds a run with {len(self.store)} snapshots; go on with it by resume() before "
                "the loop, or take another folder for a new one"
            )

    def _ends(self, steps: int) -> list[int]:
        """Where cycles end up to a step, and the end after it: what two schedules must agree on, to go on there."""
        schedules = _schedules(self._optimizer, self._schedule)
        past = {end for one in schedules for end in _until(one, steps)}
        ahead = [next(itertools.dropwhile(lambda end: end <= steps, one.cycles()), None) for one in schedules]
        return sorted(past) + sorted({end for end in ahead if end is not None})[:1]

    def _cycle(self, steps: int) -> int:
        """How many cycles have ended after so many steps."""
        return len({end for one in _schedules(self._optimizer, self._schedule) for end in _until(one, steps)})

    def _judged(self) -> float | None:
        if self._metric is None:
            return None
        with evaluating(self._model):
            return float(self._metric(self._model))

    def _progress(self) -> dict[str, Any]:
        """All that training goes on from, as it is now."""
        return {
            "format": FORMAT,
            "steps": self._applied.count,
            "model": unwrapped(self._model).state_dict(),
            "cycles end": self._ends(self._applied.count),
            "optimizer type": type(self._optimizer).__name__,
            "optimizer": self._optimizer.state_dict(),
            "also": {name: _state(value) for name, value in self._also.items()},
            "random": _random_state(),
        }

    def _parts(self, progress: Mapping[str, Any]) -> Iterator[tuple[str, Callable[[], object]]]:
        """What puts each part of the progress into its place, and what the part is called."""
        where = f"the progress in {self.store.folder / PROGRESS}"
        yield "model", partial(files.load_into, self._model, progress["model"], where)
        yield "optimizer", partial(self._optimizer.load_state_dict, progress["optimizer"])
        for name, value in self._also.items():
            yield name, partial(_put_back, value, progress["also"][name])
        yield "machine", partial(_restore_random, progress["random"])

    def _loaded(self, path: Path) -> dict[str, Any]:
        """The progress in a file, whose checksums are looked at, as torch does not."""
        try:
            with zipfile.ZipFile(path) as file:
                if (damaged := file.testzip()) is not None:
                    raise ValueError(f"{damaged} in it is damaged")
            progress: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
            version, kind, names = progress["format"], progress["optimizer type"], set(progress["also"])
            ends = self._ends(progress["steps"])
        except Exception as error:  # of many types, according to what is damaged
            raise SnapshotError(
                f"{path} cannot be read ({_reason(error)}); without it training starts over, in another folder. The "
                "snapshots are usable"
            ) from error
        if version != FORMAT:
            raise SnapshotError(
                f"{path} has format {version}, and this version of descend reads {FORMAT}; take the one that wrote it"
            )
        if kind != type(self._optimizer).__name__:
            raise SnapshotError(
                f"{path} is of another optimizer, {kind}, and this is {type(self._optimizer).__name__}; build it as it "
                "was"
            )
        if progress["cycles end"] != ends:
            there, here = (", ".join(map(str, each)) for each in (progress["cycles end"], ends))
            raise SnapshotError(
                f"{path} is of a run whose cycles end at {there}, and with this schedule they end at {here}; give the "
                "schedule that it began with, or take another folder"
            )
        if names != set(self._also):
            raise SnapshotError(
                f"{path} was saved with also={sorted(names)}, and this has {sorted(self._also)}; give the same names"
            )
        return progress


def _write(progress: Mapping[str, Any], file: BinaryIO) -> None:
    """Write the progress, and see that it loads without running code that a file brings."""
    try:
        torch.save(progress, file)
        file.seek(0)
        torch.load(file, weights_only=True, map_location="meta")
    except (pickle.PickleError, AttributeError, TypeError) as error:
        held = {"model": progress["model"], "optimizer": progress["optimizer"], **progress["also"]}
        whose = next((name for name, state in held.items() if not _is_plain(state)), "training")
        raise SnapshotError(
            f"the state of {whose} holds more than numbers, texts, lists, dicts and tensors, and could not be loaded "
            "safely; leave it out, and resume it yourself"
        ) from error


def _is_plain(state: Any) -> bool:
    content = io.BytesIO()
    try:
        torch.save(state, content)
        content.seek(0)
        torch.load(content, weights_only=True)
    except (pickle.PickleError, AttributeError, TypeError):
        return False
    return True


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _schedules(optimizer: torch.optim.Optimizer, given: Schedule | None) -> list[Schedule]:
    """The schedules at whose ends of cycles there is a snapshot: what is given, else the optimizer's own."""
    if given is not None:
        return [given]
    return optimizer._schedules.every() if isinstance(optimizer, Optimizer) else []


def _check_cycles(optimizer: torch.optim.Optimizer, given: Schedule | None) -> None:
    if given is not None and not isinstance(given, Schedule):
        raise ValueError(f"schedule is {given!r}; give one of descend.schedules, such as snapshot(steps, 6)")
    if not isinstance(optimizer, Optimizer) and given is None:
        raise ValueError(
            f"{type(optimizer).__name__} does not say where cycles end; give schedule, such as "
            "descend.schedules.snapshot(steps, 6)"
        )
    if not any(map(_has_cycles, _schedules(optimizer, given))):
        raise ValueError(
            "no schedule has cycles; build the optimizer with lr=0.1 * descend.schedules.snapshot(steps, 6), say, or "
            "give such a schedule"
        )


def _checked_also(also: Mapping[str, Any] | None) -> dict[str, Any]:
    if also is not None and not isinstance(also, Mapping):
        raise ValueError(f"also is a {type(also).__name__}; give a dict of what to save, by names")
    for name, value in (also or {}).items():
        if isinstance(value, torch.Generator):
            continue
        if not (hasattr(value, "state_dict") and hasattr(value, "load_state_dict")):
            raise ValueError(
                f"also: {name} is a {type(value).__name__}; give a torch.Generator, or what has state_dict and "
                "load_state_dict"
            )
    return dict(also or {})


def _has_cycles(schedule: Schedule) -> bool:
    return next(schedule.cycles(), None) is not None


def _until(schedule: Schedule, steps: int) -> Iterator[int]:
    return itertools.takewhile(lambda end: end <= steps, schedule.cycles())


def _state(value: Any) -> Any:
    return value.get_state() if isinstance(value, torch.Generator) else value.state_dict()


def _put_back(value: Any, state: Any) -> None:
    if isinstance(value, torch.Generator):
        value.set_state(state)
    else:
        value.load_state_dict(state)


def _random_state() -> dict[str, Any]:
    """The states of the global generators of Python, NumPy and torch, on the devices in use, as plain values."""
    name, keys, *rest = np.random.get_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": devices,
    }


def _restore_random(states: Mapping[str, Any]) -> None:
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])


def _has_other_processes() -> bool:
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def _is_first_process() -> bool:
    return not _has_other_processes() or torch.distributed.get_rank() == 0


def _refuse_other_processes() -> None:
    if _has_other_processes():
        raise RuntimeError(
            "the progress of one process is saved, and there are several; use torch.distributed.checkpoint for it. "
            "Snapshots are taken by the first process"
        )
