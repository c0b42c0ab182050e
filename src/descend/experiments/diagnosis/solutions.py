"""The weights that are looked at: trained here, or read from a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from descend import optim
from descend.experiments import loop, rule_files, search_space
from descend.experiments.errors import UsageError
from descend.experiments.jobs import KeptJob, Result
from descend.generalization import Monitor, preconditioner, stability_threshold
from descend.generalization.monitor import NOISE_SCALE, PRECONDITIONED, TOP_EIGENVALUE, UPDATE_RATIO
from descend.generalization.preconditioning import DENOMINATORS
from descend.model_states import State, copied
from descend.restoring import seeded
from descend.snapshots import SnapshotError, files
from descend.tasks import Task

FORMAT = 1
WAY_POINTS = 40
"""Of the way of training, evenly spread over its steps."""


class Solution(Protocol):
    """Weights that are looked at."""

    @property
    def name(self) -> str:
        """What instruments call it."""

    @property
    def depends(self) -> Mapping[str, Any]:
        """All that decides the weights, as JSON holds it."""

    def state(self) -> State:
        """Return them."""


@dataclass(frozen=True)
class Checkpoint:
    """Weights that were read from a file.

    Attributes:
        path: of the file.
        sha256: of its content.
        name: what instruments call it.
    """

    path: Path
    sha256: str
    name: str

    @property
    def depends(self) -> Mapping[str, Any]:
        """What the file holds."""
        return {"sha256": self.sha256}

    def state(self) -> State:
        """Read them again."""
        return read_checkpoint(self.path)


@dataclass(frozen=True)
class Training:
    """The job of training a solution.

    Attributes:
        optimizer: name of the rule.
        source: the rule's text, where it is a file's.
        rate: its peak rate.
        steps: of the training.
        seed: of the weights and of the order of the data.
        ceiling: of the time of measurements over that of the training; None to measure nothing.
    """

    optimizer: str
    source: str | None
    rate: float
    steps: int
    seed: int
    ceiling: float | None

    @property
    def name(self) -> str:
        """What it is called while it runs."""
        return f"training of seed {self.seed}"

    @property
    def depends(self) -> Mapping[str, Any]:
        """All that decides the weights."""
        return {"format": FORMAT, **asdict(self)}

    def holds(self, result: Result) -> bool:
        """Tell that there is nothing beside the result."""
        return True

    def run(self, task: Task) -> Result:
        """Train, and keep the start, the way and the end, with what was measured."""
        rule, shape = rule_files.rule(self.optimizer, self.source), search_space.schedule(self.steps)
        with seeded(self.seed):
            model = task.model(self.seed)
            arguments = search_space.arguments(rule, self.rate, shape)
            optimizer = optim.of(rule)(search_space.params(rule, model), **arguments)
            factor = _threshold(optimizer)
            start = {name: copied(value) for name, value in model.state_dict().items()}
            way, losses = [(0, flat(model))], []
            watch = self._monitor(task, model, optimizer)
            batches, training = _Remembering(task.batches(self.seed)), loop.Training()
            model.train()
            every = max(1, self.steps // WAY_POINTS)
            for step in range(1, self.steps + 1):
                losses.append([float(step), loop.step(task, model, optimizer, batches, training)])
                if training.diverged:
                    raise UsageError(
                        f"training with {self.optimizer} at a rate of {self.rate:g} diverged at step {step}; give a "
                        "lower rate"
                    )
                if watch is not None:
                    watch.step(batches.last)
                if step % every == 0 or step == self.steps:
                    way.append((step, flat(model)))
        return {
            "state": {name: copied(value) for name, value in model.state_dict().items()},
            "start": start,
            "way": [list(point) for point in way],
            "losses": losses[:: max(1, len(losses) // 400)],
            "readings": [] if watch is None else [asdict(one) for one in watch.records],
            "overhead": None if watch is None else watch.overhead,
            "scale": _scale(optimizer, model) if has_preconditioner(self.optimizer) else None,
            "threshold": factor,
        }

    def _monitor(self, task: Task, model: nn.Module, optimizer: torch.optim.Optimizer) -> Monitor | None:
        if self.ceiling is None:
            return None
        names = [UPDATE_RATIO, NOISE_SCALE, TOP_EIGENVALUE]
        if has_preconditioner(self.optimizer):
            names.append(PRECONDITIONED)
        return Monitor(model, optimizer, task.loss, ceiling=self.ceiling, quantities=names)


@dataclass(frozen=True)
class Trained:
    """A solution that was trained here, or where it began.

    Attributes:
        kept: the job that trained it.
        is_start: whether the weights before the first step are meant.
    """

    kept: KeptJob
    is_start: bool = False

    @property
    def name(self) -> str:
        """By the seed."""
        training = self.kept.job
        assert isinstance(training, Training)
        return f"{'start of ' if self.is_start else ''}seed {training.seed}"

    @property
    def depends(self) -> Mapping[str, Any]:
        """What decides its training."""
        return {**self.kept.job.depends, "is_start": self.is_start}

    def state(self) -> State:
        """Read what the job has kept."""
        state: State = self.result()["start" if self.is_start else "state"]
        return state

    def result(self) -> Result:
        """Return all that the job has kept."""
        result = self.kept.result()
        assert result is not None, self.kept.job.name
        return result


class _Remembering:
    """An iterator that remembers what it gave last."""

    def __init__(self, batches: Iterator[Any]) -> None:
        self._batches = batches
        self.last: Any = None

    def __iter__(self) -> _Remembering:
        return self

    def __next__(self) -> Any:
        self.last = next(self._batches)
        return self.last


def flat(model: nn.Module) -> Tensor:
    """Return the weights that require gradients as one vector, in float32 or what they are in."""
    return torch.cat([one.detach().flatten() for one in model.parameters() if one.requires_grad])


def read_checkpoint(path: Path) -> State:
    """Return the state in a file: a snapshot of ours, safetensors, or what `torch.save` wrote of a state dict.

    A dict that holds it as "model", "state_dict" or "model_state_dict" will do.

    Raises:
        UsageError: the file is missing, damaged, or holds no state.
    """
    if not path.is_file():
        raise UsageError(f"checkpoint {path} is no file; give one that a training saved")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of pickle, zip and torch: what is no checkpoint has many ways to fail
        raise UsageError(
            f"checkpoint {path} cannot be read as tensors alone: it is damaged, or holds other objects too, such as a "
            "whole model; save it with torch.save(model.state_dict(), path)"
        ) from error
    for key in ("model", "state_dict", "model_state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise UsageError(f"checkpoint {path} holds no state dict; save it with torch.save(model.state_dict(), path)")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _read_safetensors(path: Path) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return files.read(path)[0]
    except SnapshotError:
        pass
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise UsageError(f"checkpoint {path} cannot be read ({error}); give another file") from error


def named(paths: Sequence[Path]) -> dict[str, Path]:
    """Return files by name, with as many of the folders above them as tell them apart.

    Raises:
        UsageError: a file is given twice.
    """
    whole = [path.absolute() for path in paths]
    for path in whole:
        if whole.count(path) > 1:
            raise UsageError(f"checkpoint {path} is given twice; give it once")
    for depth in range(1, 1 + max((len(path.parts) for path in whole), default=0)):
        names = ["/".join(path.parts[-depth:]) for path in whole]
        if len({name.replace("/", "-").replace(" ", "-") for name in names}) == len(names):  # as in names of files
            return dict(zip(names, paths, strict=True))
    if whole:
        raise UsageError(f"checkpoints {', '.join(map(str, whole))} have names that are too alike; rename one")
    return {}


def checked(name: str, path: Path, model: nn.Module) -> Checkpoint:
    """Return a checkpoint that fits a model.

    Args:
        name: what instruments call it.
        path: of the file.
        model: of the task.

    Raises:
        UsageError: it cannot be read, is of another architecture, or has weights that are not finite.
    """
    state = read_checkpoint(path)
    here = model.state_dict()
    for key in [*here, *state]:
        if key not in state or key not in here:
            where = "has no" if key not in state else "has"
            raise UsageError(
                f"checkpoint {path} {where} {key!r}, {'which' if key in state else 'and'} the task's model has"
                f"{' not' if key in state else ''}; give one of this task and its --model"
            )
        if state[key].shape != here[key].shape:
            raise UsageError(
                f"checkpoint {path} has {key!r} of shape {tuple(state[key].shape)}, the task's model of "
                f"{tuple(here[key].shape)}; give one of this task and its --model"
            )
        if state[key].is_floating_point() and not state[key].isfinite().all():
            raise UsageError(f"checkpoint {path} has values in {key!r} that are not finite; give weights that trained")
    return Checkpoint(path.absolute(), files.sha256(path), name)


def _threshold(optimizer: torch.optim.Optimizer) -> float | None:
    """The threshold of stability times the rate; None where none is known."""
    try:
        threshold = stability_threshold(optimizer) * float(optimizer.param_groups[0]["lr"])
    except ValueError:
        return None
    return threshold if math.isfinite(threshold) else None


def _scale(optimizer: torch.optim.Optimizer, model: nn.Module) -> Tensor:
    """What steps are divided by; 1 for parameters that the loss does not use, where any scale of zeros will do."""
    parts = [
        preconditioner(optimizer, [one]) if optimizer.state.get(one) else torch.ones(one.numel(), dtype=torch.float64)
        for one in model.parameters()
        if one.requires_grad
    ]
    return torch.cat(parts)


def has_preconditioner(optimizer: str) -> bool:
    """Tell whether a rule divides its steps by what can be read from its state."""
    return optimizer in DENOMINATORS
