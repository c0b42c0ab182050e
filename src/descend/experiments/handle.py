"""The handle that a training script holds: `descend.trial(...)`.

    import descend

    trial = descend.trial("accuracy", steps=300)             # before the training, once: what decides, and how long
    optimizer = trial.optimizer(model.parameters())          # in place of an optimizer and its schedule
    for step in range(1, trial.steps + 1):
        ...
        optimizer.step()
        if step % 20 == 0 or step == trial.steps:
            trial.report(step, train_loss=loss, accuracy=accuracy_on_validation_data)
    if trial.is_final:
        trial.report(trial.steps, test_accuracy=accuracy_on_test_data)

Run by Python the script trains with a default optimizer and prints what it reports; `descend compare --task train.py`
runs it once per trial.
"""

import contextlib
import difflib
import gc
import io
import math
import random
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from descend import optim, rules
from descend.experiments import rule_files, search_space
from descend.experiments.logs import Log, Printed
from descend.experiments.loop import Checkpoint, Training
from descend.rule import Rule
from descend.tasks import Script, TaskError, script

if TYPE_CHECKING:
    from descend.experiments.trial import Trial

_LINES_SHOWN = 20


class Diverged(RuntimeError):
    """A loss or the metric that a script reported is not finite. It ends the script's trial; do not catch it."""


@dataclass(frozen=True)
class Ran:
    """What a script's trial left behind.

    Attributes:
        training: its curve and times.
        test: what was reported on test data, without the prefix.
        optimizer: the one it used.
        fixed: hyper-parameters that the script gave it.
    """

    training: Training
    test: Mapping[str, float]
    optimizer: torch.optim.Optimizer
    fixed: Mapping[str, Any]


class Handle:
    """One trial, as the training script sees it.

    Attributes:
        steps: optimizer steps to take; the schedule ends there.
        seed: of this trial; the global generators of Python, NumPy and torch stand at it already.
        is_final: whether the test metric is wanted at the end. While rates are tuned it is not: leave the test set.
    """

    def __init__(
        self,
        declared: Script,
        rule: Rule,
        arguments: Mapping[str, Any],
        log: Log,
        *,
        steps: int,
        seed: int,
        is_final: bool,
        tuned: Iterable[str] = (),
    ) -> None:
        self.steps, self.seed, self.is_final = steps, seed, is_final
        self._declared, self._log = declared, log
        self._rule, self._arguments = rule, arguments
        self._decided = {"lr", search_space.space(rule).scheduled or "lr", *tuned}
        self._fixed: dict[str, Any] = {}
        self._optimizer: torch.optim.Optimizer | None = None
        self._training = Training()
        self._test: dict[str, float] = {}
        self._step, self._reported = 0, dict[str, float]()  # the last step that was reported, and what of it
        self._begun = self._stepping = 0.0

    def optimizer(self, params: Iterable[Any], **hyper_parameters: Any) -> torch.optim.Optimizer:
        """Return the optimizer to train with, its rate under the comparison's schedule; add no schedule of your own.

        Args:
            params: parameters, names with parameters, or param groups, as for any optimizer of torch.
            hyper_parameters: what the script fixes, such as weight_decay=0.1. An optimizer that does not have one is
                not given it, and what the comparison tunes, such as the rate, goes before.

        Raises:
            TaskError: it was called before, no optimizer has such a hyper-parameter or takes such a value, or a param
                group brings its own value of what the comparison tunes.
        """
        if self._optimizer is not None:
            raise TaskError(
                "trial.optimizer was called twice; one optimizer takes all parameters, in groups if need be"
            )
        own = self._own(hyper_parameters)
        decided = {name: value for name, value in self._arguments.items() if name in self._decided or name not in own}
        try:
            self._optimizer = optim.of(self._rule)(self._checked(params), **{**own, **decided})
        except (TypeError, ValueError) as error:
            raise TaskError(f"trial.optimizer: {error}") from error
        self._fixed = {name: value for name, value in own.items() if name not in decided}
        self._optimizer.register_step_pre_hook(self._before_step)
        self._optimizer.register_step_post_hook(self._after_step)
        self._begun = time.perf_counter()
        return self._optimizer

    def _own(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What the script fixes of this optimizer's hyper-parameters."""
        has = self._rule.hyper_parameters
        known = {name for rule in rules.catalog().values() for name in rule.hyper_parameters}.union(has)
        if unknown := sorted(set(given) - known):
            near = difflib.get_close_matches(unknown[0], known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else "correct its name"
            raise TaskError(f"trial.optimizer: no optimizer has a hyper-parameter '{unknown[0]}'; {hint}")
        return {name: value for name, value in given.items() if name in has}

    def _checked(self, params: Iterable[Any]) -> list[Any]:
        groups = list(params)
        for group in groups:
            if isinstance(group, dict) and (taken := sorted(self._decided & set(group))):
                raise TaskError(
                    f"trial.optimizer: a param group has {taken[0]} of its own, which the comparison decides; "
                    "leave it out"
                )
        return groups

    def report(self, step: int, **metrics: float) -> None:
        """Note numbers measured after a step: for the curve, for the choice of the rate, and in the log.

        Args:
            step: optimizer steps taken so far; it never falls. Reports of one step are taken together.
            metrics: `train_loss`; on validation data `loss`, and the declared metric under its name; on test data
                `test_loss`, and `test_` with the metric's name, which are dropped but in final runs. Others are only
                logged.

        Raises:
            TaskError: the step is none, or a value is no number.
            Diverged: a loss or the metric is not finite.
        """
        step = _whole(step)
        if step < self._step:
            raise TaskError(f"trial.report: step is {step} after {self._step}; give the number of steps taken so far")
        if self._optimizer is not None and step > (taken := len(self._training.step_seconds)):
            raise TaskError(f"trial.report: step is {step}, but the optimizer has taken {taken}; count its steps")
        numbers = {name: _number(name, value) for name, value in metrics.items()}
        if step > self._step:
            self._end_point()
            self._step = step
        self._reported |= {name: value for name, value in numbers.items() if not name.startswith("test_")}
        if self.is_final:
            self._test |= {n.removeprefix("test_"): value for n, value in numbers.items() if n.startswith("test_")}
        else:  # what a tuning trial says of the test set stands nowhere
            numbers = {name: value for name, value in numbers.items() if not name.startswith("test_")}
        self._log.log(numbers, step)
        watched = (numbers.get(name, 0.0) for name in ("train_loss", "loss", self._declared.metric))
        if not all(map(math.isfinite, watched)):
            self._training.diverged = True
            raise Diverged(f"at step {step}: {numbers}")
        self._begun = time.perf_counter()  # evaluation is no part of the next step

    def finish(self) -> Ran:
        """Return what the trial left behind, once the script has ended.

        Raises:
            TaskError: the script did not do what a trial needs; the message says what.
        """
        metric, taken = self._declared.metric, len(self._training.step_seconds)
        if self._optimizer is None:
            raise TaskError("the script never called trial.optimizer(...); train with what it returns")
        if not self._training.diverged:
            self._end_point()
            if taken != self.steps:
                raise TaskError(f"the script took {taken} optimizer steps of {self.steps}; take trial.steps of them")
            if not self._training.curve or self._training.curve[-1].step != self.steps:
                raise TaskError(
                    f"the script ended without the metric after its last step; call trial.report({self.steps}, "
                    f"{metric}=...), counting steps from 1"
                )
            if self.is_final and metric not in self._test:
                raise TaskError(
                    f"the script ended a final run without a test metric; call trial.report({self.steps}, "
                    f"test_{metric}=...) where trial.is_final"
                )
            self._training.diverged = not all(map(math.isfinite, self._test.values()))
        return Ran(self._training, self._test, self._optimizer, self._fixed)

    def _end_point(self) -> None:
        """Make a point of the curve of what was reported at a step, if the metric is among it."""
        said, self._reported = self._reported, {}
        if self._declared.metric in said:
            self._training.curve.append(
                Checkpoint(
                    step=self._step,
                    seconds=sum(self._training.step_seconds),
                    train_loss=said.get("train_loss", math.nan),
                    validation_loss=said.get("loss", math.nan),
                    validation_metric=said[self._declared.metric],
                )
            )

    def _before_step(self, *_: Any) -> None:
        self._stepping = time.perf_counter()

    def _after_step(self, *_: Any) -> None:
        now = time.perf_counter()
        self._training.step_seconds.append(now - self._begun)
        self._training.optimizer_seconds.append(now - self._stepping)
        self._begun = now


def trial(
    metric: str,
    *,
    steps: int,
    direction: str = "maximize",
    target: float | None = None,
    worst: float | None = None,
    title: str = "",
    description: str = "",
    optimizer: str = "adamw",
    rate: float | None = None,
    seed: int = 0,
) -> Handle:
    """Return this run's trial: the comparison's, or where Python runs the script itself, one with a default optimizer.

    Call it once, before models are made: it puts the global generators of Python, NumPy and torch at the trial's seed.

    Args:
        metric: name of what decides, measured on validation data, such as "accuracy".
        steps: the default budget: optimizer steps of one run.
        direction: "maximize" or "minimize".
        target: the validation metric that counts as reached.
        worst: the metric's worst value, 0 for an accuracy; without, diverged runs have no metric.
        title: what tables and reports call the script; by default its file's name.
        description: a line on model and data.
        optimizer: name of the rule, or path of a file with one, where Python runs the script itself.
        rate: its peak rate there; by default the rule's known one.
        seed: there.

    Raises:
        TaskError: names the argument and the remedy.
    """
    declared = script.declaration(metric, direction, steps, target, worst, title, description)
    receive = script.receiver()
    if receive is not None:
        handle: Handle = receive(declared)
        return handle
    rule = rule_files.named(optimizer)
    peak = search_space.space(rule).rate if rate is None else rate
    arguments = search_space.arguments(rule, peak, search_space.schedule(steps), {})
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return Handle(declared, rule, arguments, Printed(), steps=steps, seed=seed, is_final=True)


def run(task: Script, wanted: "Trial", steps: int, arguments: Mapping[str, Any], log: Log) -> Ran:
    """Run a script for one trial; what it prints is dropped, but for its last lines if it fails.

    Args:
        task: the script.
        wanted: the trial.
        steps: optimizer steps.
        arguments: that make the optimizer.
        log: is told what the script reports.

    Raises:
        TaskError: the script did not do what a trial needs.
    """
    handed: list[Handle] = []

    def receive(declared: Script) -> Handle:
        if handed:
            raise TaskError("descend.trial was called twice; call it once, before the training")
        made = Handle(
            declared,
            wanted.rule,
            arguments,
            log,
            steps=steps,
            seed=wanted.seed,
            is_final=wanted.phase == "final",
            tuned=dict(wanted.values),
        )
        handed.append(made)
        return made

    assert task.path is not None
    # Bytes below, as standard output has them: a script may write to sys.stdout.buffer.
    printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="replace", write_through=True)
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(Diverged), _settings_kept():
            _run_to_its_end(task, receive)
        if not handed:
            raise TaskError("the script ended without descend.trial(...); let it ask for its trial in every run")
        return handed[0].finish()
    except Exception as error:
        if last := _text(printed).splitlines()[-_LINES_SHOWN:]:
            error.add_note("the script printed last:\n" + "\n".join(last))
        raise


@contextlib.contextmanager
def _settings_kept() -> Iterator[None]:
    """Put torch's settings back after a script, and let go of what its functions hold."""
    gradients, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    try:
        yield
    finally:
        torch.set_grad_enabled(gradients)
        torch.set_default_dtype(dtype)
        gc.collect()


def _run_to_its_end(task: Script, receive: script.Receiver) -> None:
    assert task.path is not None
    try:
        script.run(task.path, receive)
    except SystemExit as stop:
        if stop.code:
            raise TaskError(f"{task.path}: the script ended with {stop.code!r}") from None


def _whole(step: object) -> int:
    if isinstance(step, bool) or not isinstance(step, Integral):  # NumPy's are whole numbers as well
        raise TaskError(f"trial.report: step is {step!r}, no whole number; give the number of steps taken so far")
    return int(step)


def _text(printed: io.TextIOWrapper) -> str:
    printed.seek(0)
    return printed.read()


def _number(name: str, value: Any) -> float:
    try:
        return float(value.detach() if isinstance(value, torch.Tensor) else value)
    except (TypeError, ValueError, RuntimeError):  # the last for a tensor of several elements
        raise TaskError(
            f"trial.report: {name} is a {type(value).__name__} that is no single number; give a float"
        ) from None
