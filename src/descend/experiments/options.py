"""What a comparison is asked to do."""

import hashlib
import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from descend import schedules
from descend.experiments import rule_files, search_space
from descend.experiments.conditions import Conditions, Kept
from descend.experiments.defaults import FULL, OPTIMIZERS, QUICK, Thoroughness
from descend.experiments.errors import UsageError
from descend.experiments.keeping import averageable
from descend.rule import Rule
from descend.schedules import Schedule
from descend.tasks import Problem, Script, TaskError
from descend.tasks.neighbours import modules_beside
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
        modules_sha256: hashes of the modules beside the file that it imports, by relative path.
        settings: of the task, such as its subset.
        data_sha256: hash of the data files that the task reads, None where it is not known to read any.
        optimizers: names of the rules.
        trials: rates per optimizer.
        seeds: fresh seeds per optimizer.
        steps: optimizer steps per trial.
        quick: whether it is a screening.
        grid: name and values of the hyper-parameter that is tuned beside the rate; empty for none.
        schedule: the shape that rates follow, as text; None for the usual one.
        snapshots: how many snapshots each final trial takes, the schedule being theirs; None for none.
        rules: the text of each rule that is the user's, by name.
    """

    task: str
    task_sha256: str | None
    modules_sha256: Mapping[str, str]
    settings: Mapping[str, Any]
    data_sha256: str | None
    optimizers: tuple[str, ...]
    trials: int
    seeds: int
    steps: int
    quick: bool
    grid: Mapping[str, Sequence[float]]
    schedule: str | None = None
    snapshots: int | None = None
    rules: Mapping[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the options as JSON holds them."""
        listed = {**asdict(self), "optimizers": list(self.optimizers)}
        if not self.rules:  # so that a run of ours has the name that it had before there were any
            del listed["rules"]
        return listed

    def rule(self, name: str) -> Rule:
        """Return the rule of one of its optimizers."""
        return rule_files.rule(name, self.rules.get(name))

    def trials_in_all(self) -> int:
        """Return how many trials there are: every rate meets every value of the grid, then fresh seeds."""
        rates = sum(len(search_space.rates(self.rule(name), self.trials)) for name in self.optimizers)
        return rates * math.prod(map(len, self.grid.values())) + self.seeds * len(self.optimizers)

    def directory_name(self) -> str:
        """Return the run directory's name: the task, and a hash of the options."""
        digest = hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()
        return f"compare-{Path(self.task).stem}-{digest[:8]}"

    def shape(self) -> Schedule:
        """Return the schedule that rates follow."""
        return search_space.schedule(self.steps) if self.schedule is None else schedules.parse(self.schedule)

    def conditions(self, logs: Path, snapshots: Path) -> Conditions:
        """Return what the trials share.

        Args:
            logs: the folder of their logs.
            snapshots: the folder of what they keep of their weights.
        """
        kept = None
        if self.snapshots is not None:
            kept = Kept(snapshots.absolute(), tuple(self.shape().cycles()))
        return Conditions(self.steps, self.shape(), logs.absolute(), kept)

    def final_seeds(self) -> list[int]:
        """Return the seeds of the final runs; the one that tuned is not among them."""
        return list(range(TUNING_SEED + 1, TUNING_SEED + 1 + self.seeds))


def resolve(
    name: str,
    task: Problem,
    optimizers: Sequence[str] | None = None,
    trials: int | None = None,
    seeds: int | None = None,
    steps: int | None = None,
    quick: bool = False,
    *,
    settings: Mapping[str, Any] | None = None,
    quick_steps: int | None = None,
    grid: Mapping[str, Sequence[float]] | None = None,
    data_files: Iterable[Path] = (),
    schedule: str | None = None,
    snapshots: int | None = None,
) -> Options:
    """Return complete options, with defaults where None was given.

    Args:
        name: the task's name or file, as given.
        task: what it names.
        optimizers: names of rules, or paths of files with one; by default the eight of `defaults.OPTIMIZERS`.
        trials: rates per optimizer, 1 or more.
        seeds: fresh seeds per optimizer, 1 or more.
        steps: steps per trial, 2 or more.
        quick: take the smaller defaults and call the result a screening.
        settings: with which the task was made.
        quick_steps: the task's own steps of a quick run; None for a quarter of its steps.
        grid: one hyper-parameter to tune beside the rate, with its values.
        data_files: that the task reads; without, all that its setting `data` names.
        schedule: the shape that rates follow, in the grammar of `schedules.parse`.
        snapshots: how many each final trial takes, 2 or more; the rate follows `snapshot(steps, snapshots)`. Steps that
            were not given are rounded up to a multiple of it.

    Raises:
        UsageError: an optimizer is unknown or named twice, a number is too small, the grid does not fit, the schedule
            cannot be read, or snapshots do not go with the task, an optimizer, the steps or a schedule.
    """
    chosen = rule_files.chosen(OPTIMIZERS if optimizers is None else optimizers)
    names = tuple(chosen)
    compared = [rule_files.rule(name, source) for name, source in chosen.items()]
    default = smallest_honest(task, quick_steps) if quick else _numbers(FULL, task.steps)
    settings = settings or {}
    taken = at_least("steps", FEWEST_STEPS, default["steps"] if steps is None else steps)
    if snapshots is not None:
        taken = _divided(at_least("snapshots", 2, snapshots), taken, steps is not None)
        _check_snapshots(task, compared, schedule)
        schedule = f"snapshot({taken}, {snapshots})"
    return Options(
        task=Path(name).as_posix() if is_file_reference(name) else name,
        settings=settings,
        **hashes(name, settings, data_files),
        optimizers=names,
        trials=at_least("trials", 1, default["trials"] if trials is None else trials),
        seeds=at_least("seeds", 1, default["seeds"] if seeds is None else seeds),
        steps=taken,
        quick=quick,
        grid=_grid(grid or {}, compared),
        schedule=None if schedule is None else _schedule(schedule, taken),
        snapshots=snapshots,
        rules={name: source for name, source in chosen.items() if source is not None},
    )


def hashes(name: str, settings: Mapping[str, Any], data_files: Iterable[Path]) -> dict[str, Any]:
    """Return the hashes by which a run knows its task's file, the modules beside that, and its data.

    Args:
        name: the task's name or file.
        settings: of the task.
        data_files: that it reads; without, all that its setting `data` names.
    """
    file = Path(name) if is_file_reference(name) else None
    return {
        "task_sha256": _hash_of_file(file) if file else None,
        "modules_sha256": {name: _hash_of_file(path) for name, path in modules_beside(file).items()} if file else {},
        "data_sha256": _hash_of_data(list(data_files) or _files(settings.get("data"))),
    }


def smallest_honest(task: Problem, quick_steps: int | None = None) -> dict[str, int]:
    """Return trials, seeds and steps of the smallest run that says anything about a task: those of --quick."""
    numbers = _numbers(QUICK, task.steps)
    return numbers if quick_steps is None else {**numbers, "steps": quick_steps}


def settings(asked: Mapping[str, Any], otherwise: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a task: what was asked for, else what a quick run takes; steps are none of them."""
    given = {key: _plain(value) for key, value in asked.items() if value is not None}
    return {key: value for key, value in otherwise.items() if key != "steps"} | given


def all_settings(named: Mapping[str, Any], others: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the settings that have arguments of their own together with the others.

    Args:
        named: by name; None where it was not given.
        others: of the task's constructor, by name.

    Raises:
        UsageError: one of the others was given by its own argument too, or its value cannot be kept in a manifest.
    """
    for name, value in (others or {}).items():
        if named.get(name) is not None:
            raise UsageError(f"setting {name} is given twice, by its own argument too; give it once")
        if value is not None and not isinstance(value, (bool, int, float, str, Path)):
            raise UsageError(f"setting {name} is {value!r}; give a number, a text, True or False")
    return {**named, **(others or {})}


def processes(asked: int | None, cores: int, options: Options) -> int:
    """Return how many trials run at a time: what was asked for, else the cores, and never more than there are trials.

    Raises:
        UsageError: fewer than one was asked for.
    """
    wanted = cores if asked is None else at_least("workers", 1, asked)
    return min(wanted, options.trials_in_all())


def command_line(given: Mapping[str, object]) -> str:
    """Return the command that asks for a comparison, from the options that were given (None and False were not)."""
    words = ["descend", "compare"]
    for name, value in given.items():
        if value is True:
            words.append(f"--{name}")
        elif isinstance(value, Mapping):
            for key, values in value.items():
                listed = values if isinstance(values, (list, tuple)) else [values]
                words += [f"--{name}", shlex.quote(f"{key}={','.join(map(str, listed))}")]
        elif value is not None and value is not False:
            words += [f"--{name}", shlex.quote(str(value))]
    return " ".join(words)


def _grid(grid: Mapping[str, Sequence[float]], optimizers: Sequence[Rule]) -> dict[str, list[float]]:
    if len(grid) > 1:
        raise UsageError(f"grid names {len(grid)} hyper-parameters; beside the rate one can be tuned: give one")
    for name, values in grid.items():
        _check_values(name, values)
        for optimizer in optimizers:
            if name not in (known := search_space.tunable(optimizer)):
                raise UsageError(
                    f"grid: {optimizer.name} has no hyper-parameter '{name}' that is one number and not the rate; it "
                    f"has {', '.join(known) or 'none'}. Leave it out, or tune another"
                )
            for value in values:
                _check_accepted(optimizer, name, value)
    return {name: sorted(map(float, values)) for name, values in grid.items()}


def _schedule(text: str, steps: int) -> str:
    """Return a schedule's text as it prints, after a look at its values."""
    try:
        shape = schedules.parse(text)
        values = shape.values(steps)
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from None
    if not all(map(math.isfinite, values)) or min(values) < 0 or max(values) == 0:
        wrong = next((s for s, value in enumerate(values) if not 0 <= value < math.inf), 0)
        raise UsageError(
            f"schedule '{text}' is {values[wrong]:g} at step {wrong}; give one that is finite, never below 0 and "
            "somewhere above"
        )
    return str(shape)


def _divided(snapshots: int, steps: int, was_given: bool) -> int:
    """Return steps that snapshots divide: those given, or the next multiple above a default."""
    if snapshots > steps // 2:
        raise UsageError(
            f"snapshots is {snapshots}, but a cycle takes 2 steps or more, and there are {steps}; take fewer"
        )
    above = -(-steps // snapshots) * snapshots
    if was_given and above != steps:
        below = above - snapshots
        nearest = f"{below} or {above}" if below else f"{above}"
        raise UsageError(f"steps is {steps}, which {snapshots} snapshots do not divide into cycles; give {nearest}")
    return above


def _check_snapshots(task: Problem, optimizers: Sequence[Rule], schedule: str | None) -> None:
    if schedule is not None:
        raise UsageError("snapshots bring their own schedule, a cosine for each; leave schedule out, or snapshots")
    if isinstance(task, Script):
        raise UsageError(
            "snapshots are taken of tasks, and this is a training script; take them in it with "
            "descend.snapshots.Snapshots, or make it a task (docs/tasks.md)"
        )
    try:
        averageable(task)
    except TaskError as error:
        raise UsageError(str(error)) from None
    if without := [one.name for one in optimizers if search_space.space(one).scheduled is None]:
        raise UsageError(f"{without[0]} follows no schedule, so that no cycle of it ends; leave it out, or snapshots")


def _check_values(name: str, values: Sequence[float]) -> None:
    if not isinstance(values, (list, tuple)) or not all(isinstance(value, (int, float)) for value in values):
        raise UsageError(f"grid: {name} has the values {values!r}; give a list of numbers")
    if len(set(values)) < 2 or len(set(values)) < len(values):
        shown = ",".join(f"{value:g}" for value in values)
        raise UsageError(f"grid: {name} has the values {shown or 'none'}; give two or more, each once")
    for value in values:
        if not math.isfinite(value):
            raise UsageError(f"grid: {name} has the value {value}; give numbers")


def _check_accepted(optimizer: Rule, name: str, value: float) -> None:
    try:
        rule_files.check_accepted(optimizer, {name: value})
    except UsageError as error:
        raise UsageError(f"grid: {optimizer.name} does not take {name}={value:g}: {error}") from None


def _files(given: str | None) -> list[Path]:
    """A file, or the files in a folder."""
    if given is None:
        return []
    root = Path(given).expanduser()
    return [path for path in root.rglob("*") if path.is_file()] if root.is_dir() else [root]


def _hash_of_data(files: Sequence[Path]) -> str | None:
    """Return a hash of files, wherever they lie; None for none."""
    if not files:
        return None
    digest = hashlib.sha256()
    for path in sorted(files, key=lambda path: (path.name, str(path))):
        digest.update(path.name.encode())
        digest.update(bytes.fromhex(_hash_of_file(path)))
    return digest.hexdigest()


def _hash_of_file(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _plain(value: Any) -> Any:
    return value.as_posix() if isinstance(value, Path) else value


def _numbers(thoroughness: Thoroughness, task_steps: int) -> dict[str, int]:
    steps = max(FEWEST_STEPS, task_steps // thoroughness.steps_share)
    return {"trials": thoroughness.trials, "seeds": thoroughness.seeds, "steps": steps}


def at_least(name: str, least: int, value: int) -> int:
    """Return a whole number, refused with UsageError below the least."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"{name} is {value!r}; give a whole number")
    if value < least:
        raise UsageError(f"{name} is {value}; give {least} or more")
    return value
