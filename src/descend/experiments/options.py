"""What a comparison is asked to do."""

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from descend import optim
from descend.experiments.defaults import FULL, OPTIMIZERS, QUICK, Thoroughness
from descend.experiments.errors import UsageError
from descend.tasks import Task
from descend.tasks.registry import is_file_reference

TUNING_SEED = 0

FEWEST_STEPS = 2
"""One to warm up, one to decay."""


@dataclass(frozen=True)
class Options:
    """What decides a comparison's numbers.

    Attributes:
        task: name of a task, or path of its file.
        task_sha256: hash of the file, None for a built-in task.
        optimizers: names of the rules.
        trials: rates per optimizer.
        seeds: fresh seeds per optimizer.
        steps: optimizer steps per trial.
        quick: whether it is a screening.
    """

    task: str
    task_sha256: str | None
    optimizers: tuple[str, ...]
    trials: int
    seeds: int
    steps: int
    quick: bool

    def as_dict(self) -> dict[str, Any]:
        """Return the options as JSON holds them."""
        return {**asdict(self), "optimizers": list(self.optimizers)}

    def directory_name(self) -> str:
        """Return the run directory's name: the task, and a hash of the options."""
        digest = hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()
        return f"compare-{Path(self.task).stem}-{digest[:8]}"

    def final_seeds(self) -> list[int]:
        """Return the seeds of the final runs; the one that tuned is not among them."""
        return list(range(TUNING_SEED + 1, TUNING_SEED + 1 + self.seeds))


def resolve(
    name: str,
    task: Task,
    optimizers: Sequence[str] | None,
    trials: int | None,
    seeds: int | None,
    steps: int | None,
    quick: bool,
) -> Options:
    """Return complete options, with defaults where None was given.

    Args:
        name: the task's name or file, as given.
        task: what it names.
        optimizers: names of rules; by default the eight of `defaults.OPTIMIZERS`.
        trials: rates per optimizer, 1 or more.
        seeds: fresh seeds per optimizer, 1 or more.
        steps: steps per trial, 2 or more.
        quick: take the smaller defaults and call the result a screening.

    Raises:
        UsageError: an optimizer is unknown or named twice, or a number is too small.
    """
    names = _rule_names(OPTIMIZERS if optimizers is None else optimizers)
    default = _numbers(QUICK if quick else FULL, task)
    return Options(
        task=Path(name).as_posix() if is_file_reference(name) else name,
        task_sha256=hashlib.sha256(Path(name).read_bytes()).hexdigest() if is_file_reference(name) else None,
        optimizers=names,
        trials=_at_least("trials", 1, default["trials"] if trials is None else trials),
        seeds=_at_least("seeds", 1, default["seeds"] if seeds is None else seeds),
        steps=_at_least("steps", FEWEST_STEPS, default["steps"] if steps is None else steps),
        quick=quick,
    )


def smallest_honest(task: Task) -> dict[str, int]:
    """Return trials, seeds and steps of the smallest run that says anything about a task: those of --quick."""
    return _numbers(QUICK, task)


def rule_name(name: str) -> str:
    """Return the name of the rule that a name or a class's name, in any case, stands for.

    Raises:
        UsageError: there is none; the message names the nearest, or where else it is.
    """
    try:
        return optim.by_name(name).rule.name
    except ValueError as error:
        raise UsageError(str(error)) from None


def command_line(given: Mapping[str, object]) -> str:
    """Return the command that asks for a comparison, from the options that were given (None and False were not)."""
    words = ["descend", "compare"]
    for name, value in given.items():
        if value is True:
            words.append(f"--{name}")
        elif value is not None and value is not False:
            words += [f"--{name}", shlex.quote(str(value))]
    return " ".join(words)


def _rule_names(given: Sequence[str]) -> tuple[str, ...]:
    if isinstance(given, str):
        raise UsageError(f"optimizers is the word {given!r}; give a list of names, such as ['adam', 'sgd']")
    if not given:
        raise UsageError("no optimizer named; give one or more, separated by commas, such as adam,sgd")
    names = tuple(map(rule_name, given))
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"optimizer '{name}' is named twice; name it once")
    return names


def _numbers(thoroughness: Thoroughness, task: Task) -> dict[str, int]:
    steps = max(FEWEST_STEPS, task.steps // thoroughness.steps_share)
    return {"trials": thoroughness.trials, "seeds": thoroughness.seeds, "steps": steps}


def _at_least(name: str, least: int, value: int) -> int:
    if value < least:
        raise UsageError(f"{name} is {value}; give {least} or more")
    return value
