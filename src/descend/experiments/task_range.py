"""The learning-rate range test on a task: every seed has its own model and order of the data."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from descend import optim, tasks
from descend.experiments import rule_files, search_space
from descend.experiments.errors import RunError
from descend.rate_range import RangeTest, rising, sweep
from descend.tasks import Script, TaskError, rate_share, seeded

_LOW, _HIGH = 1e-4, 1e2  # of the rule's known rate
_HIGH_LINEAR = 30.0


def run(
    name: str,
    optimizer: str,
    *,
    form: str,
    low: float | None,
    high: float | None,
    steps: int,
    seeds: int,
    settings: Mapping[str, Any],
) -> RangeTest:
    """Train on a task under a rising rate, once per seed.

    Args:
        name: of a task, or path of its file.
        optimizer: name of a rule, or path of a file with one.
        form: how the rate rises.
        low: the first rate; None for a ten-thousandth of the known one (linear: 0).
        high: the last rate; None for 100 times the known one (linear: 30 times).
        steps: updates per seed.
        seeds: how many.
        settings: of the task.

    Raises:
        TaskError: the task cannot be used; a training script is none.
        ValueError: an argument makes no sense.
    """
    rule = rule_files.named(optimizer)
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise ValueError(f"seeds is {seeds!r}; give a whole number, 1 or more")
    known, linear = search_space.space(rule).rate, form == "linear"
    first = (0.0 if linear else _LOW * known) if low is None else low
    last = (_HIGH_LINEAR if linear else _HIGH) * known if high is None else high
    rates = rising(first, last, steps, form)
    task = tasks.load(name, **settings)
    if isinstance(task, Script):
        raise TaskError(f"{name}: a training script has no loss to call; use descend.range_test in the script itself")
    sweeps = []
    for seed in range(seeds):
        with seeded(seed):
            model = task.model(seed)
            model.train()
            made = optim.of(rule)(search_space.params(rule, model), lr=known, **search_space.space(rule).fixed)
            share = partial(rate_share, task)
            sweeps.append(sweep(model, made, task.loss, task.batches(seed), rates, form=form, seed=seed, share=share))
    return RangeTest(tuple(sweeps))


def save_picture(found: RangeTest, path: Path) -> None:
    """Write the picture, so that a reader sees all of it or what was there before.

    Raises:
        RunError: it cannot be written.
    """
    temporary = path.with_name(f".{path.stem}.new{path.suffix}")
    try:
        found.plot().save(str(temporary))
        temporary.replace(path)
    except OSError as error:
        raise RunError(f"{path} cannot be written ({error.strerror or error}); --out names another file") from error
    finally:
        temporary.unlink(missing_ok=True)
