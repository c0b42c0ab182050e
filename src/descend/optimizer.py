"""The one optimizer: it steps parameters by rules, keeps their state and param groups, and follows schedules.

It takes any rule; the drop-in classes of `descend.optim` are it with the rule filled in and torch's constructor. An
error in a step is found before the first parameter is written, and leaves parameters, state and clock as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from copy import copy
from functools import partial
from operator import is_, itemgetter
from typing import Any, ClassVar

import torch

from descend import arguments, loading, options, stepping
from descend import hyper_parameters as hyper
from descend import state as states
from descend.buckets import Step
from descend.eligibility import check_demands
from descend.fused import FusedStep
from descend.initialization import Initialization
from descend.interrupts import HeldBack
from descend.options import Options, extended
from descend.rule import Formula, Rule
from descend.scheduling import Schedules
from descend.stepping import Work


class Optimizer(torch.optim.Optimizer):
    """Steps parameters by a rule.

    Args:
        params: parameters, named parameters, or dicts of them with a group's own hyper-parameters. A group may name
            another rule (`{"params": ..., "rule": adamw}`) and then takes that rule's defaults.
        rule: the update rule.
        backend, state_dtype and so on up to seed: see descend.options.Options.
        step: where the schedules start: the number of steps applied before. Sets the clock alone.
        maximize: ascend instead of descend.
        foreach: True steps eagerly by torch's multi-tensor functions, which False forbids there.
        capturable: keep step counts and the rate (`group["lr"]`) in tensors on the parameter's device, and read none
            of them in a step, for capture in a graph. Replays advance no clock and no schedule; write rates by fill_.
        differentiable: let gradients flow through the step (parameters must then not be leaves).
        fused: True demands a fused kernel and raises, saying why, where there can be none; False forbids it.
        hyper_parameters: values in place of the rules' defaults: numbers, schedules or 1-element tensors. Each applies
            to every group whose rule declares it.

    Raises:
        TypeError: for a name that no rule declares, or parameters that are no tensors.
        ValueError: for a value outside its limits, an empty list of parameters, a non-leaf tensor, a parameter in two
            groups.
        RuntimeError: for flags that contradict each other.

    The numbers in force for the next step stand in `param_groups`; schedules live beside them and are not saved. The
    clock, `applied_steps` in every group, counts the steps that schedules follow; each parameter counts its own steps.
    """

    _step_supports_amp_scaling: ClassVar[bool] = True  # torch's GradScaler sets grad_scale and found_inf for step()
    _holds_averages = False
    _fused: FusedStep
    _seen: hyper.Seen
    _constants: ClassVar[dict[str, Any]] = {}  # what torch's class of this name keeps in its groups and never reads

    def __init__(
        self,
        params: Any,
        rule: Rule,
        *,
        backend: str = "auto",
        state_dtype: torch.dtype | None = None,
        stochastic_rounding: bool = False,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        clip_agc: float | None = None,
        ema_decay: float | None = None,
        seed: int = 0,
        step: int = 0,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **hyper_parameters: Any,
    ) -> None:
        if not isinstance(rule, Rule):
            raise TypeError(
                "rule must be an update rule such as descend.rules.adamw or a function under @rule, not a "
                f"{type(rule).__name__}; the order is Optimizer(params, rule)"
            )
        self.options = Options(
            backend, state_dtype, stochastic_rounding, clip_norm, clip_value, clip_agc, ema_decay, seed
        )
        if not arguments.is_count(step):
            raise ValueError(f"step must be the number of steps applied before, an int from 0, not {step!r}")
        flags = dict(
            maximize=maximize, foreach=foreach, capturable=capturable, differentiable=differentiable, fused=fused
        )
        arguments.check_flags(flags)
        self._given = hyper_parameters
        hyper.check_scheduled(rule, self._values(rule))
        numbers = {name: hyper.at(value, step) for name, value in self._values(rule).items()}
        hyper.check(rule, numbers)
        self._check_combination({**numbers, **flags})
        params = arguments.listed(params)
        self._rule = rule
        self._known_groups: list[dict[str, Any]] = []  # those that rules and schedules stand beside, in their order
        self._rules: list[Rule] = []
        self._schedules = Schedules()
        self._forget_tables()
        self._start = int(step)
        self._initialization = Initialization()
        hyper.check_names(hyper_parameters, rule, params)
        try:
            super().__init__(params, {**self._values(rule), **flags, **self._constants})
        except (TypeError, ValueError) as error:
            raise arguments.with_remedy(error) from None
        self.defaults.update({name: hyper.at(value, step) for name, value in self.defaults.items()})

    def _values(self, rule: Rule) -> dict[str, Any]:
        """The rule's defaults, with what was given to the constructor over them."""
        return {**rule.hyper_parameters, **{k: v for k, v in self._given.items() if k in rule.hyper_parameters}}

    def _check_combination(self, values: dict[str, Any]) -> None:
        """Refuse what a class cannot be built with although each value alone is good; for classes to override."""

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rule of each param group."""
        return tuple(self._rules)

    @property
    def applied_steps(self) -> int:
        """The clock of the schedules: how many steps have been applied."""
        return int(self.param_groups[0]["applied_steps"]) if self.param_groups else self._start

    @property
    def at_cycle_end(self) -> bool:
        """Whether a cycle of its schedules has just ended: these are weights to keep (`Schedule.cycles`)."""
        return self._schedules.end_cycle(self.applied_steps)

    @torch._disable_dynamo  # type: ignore[attr-defined]
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, with torch's keys and optionally a `rule`; raises as the constructor does."""
        arguments.check_group(param_group)
        self._follow_groups()
        group = dict(param_group)
        rule = group.pop("rule", self._rule)
        if not isinstance(rule, Rule):
            raise TypeError(f"rule of a param group must be an update rule such as descend.rules.adamw: {rule!r}")
        flags = {name: bool(group.get(name, self.defaults[name])) for name in ("differentiable", "capturable")}
        self.options.check_rule(rule, **flags)
        clock, count, constructor_defaults = self.applied_steps, len(self.param_groups), self.defaults
        values = {**self._values(rule), **{k: v for k, v in group.items() if k in rule.hyper_parameters}}
        hyper.check_scheduled(rule, values)
        numbers = self._schedules.add_group(values, clock)
        self._rules.append(rule)
        shared = arguments.FLAGS if rule is not self._rule else {**arguments.FLAGS, **self._constants}
        self.defaults = {name: constructor_defaults[name] for name in shared}
        try:
            hyper.check(rule, numbers)
            super().add_param_group({**group, **numbers, **({"rule": rule.name} if rule is not self._rule else {})})
            hyper.check_shapes(rule, self.param_groups[count], partial(self._formula, count))
            check_demands(self.param_groups[count:], self.options.backend, first=count)
        except BaseException as error:
            self._schedules.drop_last_group()
            del self._rules[-1], self.param_groups[count:]
            raise (arguments.with_remedy(error) if isinstance(error, (TypeError, ValueError)) else error) from None
        finally:
            self.defaults = constructor_defaults
        hyper.note_unread(rule, group, self._constants)
        added = self.param_groups[-1]
        added["applied_steps"], added["state_format"] = clock, states.FORMAT
        hyper.keep_rate_on_device(added)
        alike = [known for known, its in zip(self._known_groups, self._rules, strict=False) if its is rule]
        added.update(states.shared_slots(rule, numbers, alike))
        self._known_groups.append(added)
        self._initialization.note_rates(self.param_groups)

    def _follow_groups(self) -> None:
        """Keep rules and schedules beside their groups where somebody has taken groups out of `param_groups`."""
        groups, known = self.param_groups, self._known_groups
        if len(groups) == len(known) and all(map(is_, groups, known)):
            return
        places = {id(group): place for place, group in enumerate(known)}
        if any(id(group) not in places for group in groups):
            raise RuntimeError("param_groups holds a group of unknown rule; add groups by opt.add_param_group({...})")
        kept = [places[id(group)] for group in groups]
        self._rules = [self._rules[place] for place in kept]
        self._schedules.keep(kept)
        self._known_groups = list(groups)
        self._forget_tables()
        self._initialization.note_rates(self.param_groups)

    def set_schedule(self, name: str, value: Any, group: int | None = None) -> None:
        """Put a number or a schedule in force from the next step on; groups added later take the constructor's.

        Args:
            name: the hyper-parameter.
            value: a number, a schedule, or a tuple of them for such as betas.
            group: the index of one param group; None for every group whose rule has the hyper-parameter.

        Raises:
            TypeError: if no group has the hyper-parameter.
            IndexError: if there is no such group.
            ValueError: if the value is outside its limits at the current step.
        """
        self._follow_groups()
        indices = arguments.chosen_groups(group, len(self.param_groups))
        chosen = [i for i in indices if name in self._rules[i].hyper_parameters]
        if not chosen:
            self._rules[indices[0]].merged({name: value})
        number = hyper.at(value, self.applied_steps)
        for i in chosen:
            hyper.check_scheduled(self._rules[i], {**self.param_groups[i], name: value})
            hyper.check(self._rules[i], {**self.param_groups[i], name: number})
        for i in chosen:
            self._schedules.replace(i, self.param_groups[i], name, value, self.applied_steps)
            hyper.keep_rate_on_device(self.param_groups[i])
        self._forget_tables()  # what is scheduled is active even where its number is 0, and so stays the same
        self._initialization.note_rates(self.param_groups)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Args:
            closure: reevaluates the model and returns the loss.

        Returns:
            What the closure returned, or None.

        Raises:
            ValueError: for a hyper-parameter in force that is outside its limits, a schedule's NaN included.
            RuntimeError: for sparse gradients.

        Nothing has changed when it raises, nor when a gradient scaler has found an infinity or NaN. Under torch.compile
        it breaks the graph once; where none may break (`fullgraph=True`), the eager backend goes into the graph.
        """
        if torch.compiler.is_dynamo_compiling():
            from descend import traced

            return traced.step(self, closure)
        return self._uncompiled_step(closure)

    @torch._disable_dynamo  # type: ignore[attr-defined]
    def _uncompiled_step(self, closure: Callable[[], Any] | None) -> Any:
        if self._holds_averages:
            raise RuntimeError("the averaged weights are in place; leave `with opt.averaged():`, then step")
        if closure is not None and not callable(closure):
            raise TypeError(f"closure takes a function that returns the loss, not {closure!r}")
        loss = None
        if closure is None and self._initialization.take_if_asked(
            self.param_groups, self._rules, self.state, self._formula
        ):
            return None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if bool(getattr(self, "found_inf", None)):
            return loss
        try:
            self._step()
        except BaseException:
            self._forget_tables()  # they may know what this step was to be taken with, and the next one is not
            raise
        return loss

    def _step(self) -> None:
        self._follow_groups()
        self._initialization.drop_placeholders()
        driven = self._schedules.settle(self.param_groups, self.applied_steps)
        changed = self._seen.changed(self._rules, self.param_groups)
        for i in changed:
            hyper.check(self._rules[i], self.param_groups[i])
        differentiable = any(map(itemgetter("differentiable"), self.param_groups))
        with torch.set_grad_enabled(differentiable):
            keeps_tensors = differentiable or any(map(itemgetter("capturable"), self.param_groups))
            numbers = self.options.numbers(getattr(self, "grad_scale", None), keeps_tensors=keeps_tensors)
            step = Step(self.options, numbers, self.applied_steps)
            work = Work(self._rules, self.param_groups, self.state, step, partial(self._formula, names=numbers))
            restructured = self._seen.restructured(changed)
            fused, buckets = stepping.prepare(work, self._fused, changed, restructured)
            if self.options.clip_norm is not None:
                stepping.clip_norm(work, fused, buckets, self.options.clip_norm)
            results = stepping.compute_first(work, fused, buckets)
            upcoming = self._schedules.upcoming(driven, self.applied_steps + 1)
            with HeldBack():
                stepping.write(work, fused, buckets, results)
                self._fused = fused
                self._seen.accept(changed)
                for group in self.param_groups:
                    group["applied_steps"] += 1
                self._schedules.put(self.param_groups, upcoming)
                if not self.state:
                    self._initialization.note_rates(self.param_groups)

    def _formula(self, index: int, ndim: int, names: Collection[str] | None = None) -> Formula:
        """The variant of a group; without `names`, of a step whose gradients hold no scale."""
        names = self.options.numbers(None, keeps_tensors=False) if names is None else names
        rule, group = self._rules[index], self.param_groups[index]
        values = {name: group[name] for name in rule.hyper_parameters}
        maximize = bool(group["maximize"])
        formula = rule.formula(ndim=ndim, maximize=maximize, scheduled=self._schedules[index], **values)
        return extended(formula, options.taken_by(group, names), self.options.state_dtype)

    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True) -> loading.Mismatch:  # type: ignore[override]
        """Load a state dict of this class or of torch's class of the same name.

        Where both sides have names (`Optimizer(model.named_parameters())`) parameters are matched by name, else by
        place as in torch. State keeps the type it was saved in, or the slot's own where that is wider; torch casts it
        to the parameter's. Schedules are not in the dict: the constructor's hold, at the loaded clock. A dict without a
        clock (torch's) sets it to the largest step found, or, if it has none, to the constructor's `step`.

        Args:
            state_dict: what `state_dict()` returned.
            strict: raise where anything does not match; False loads what matches.

        Returns:
            The names of what did not match: missing, unexpected, reshaped; all empty if strict.

        Raises:
            ValueError: if names, groups, shapes or rules do not match, or the format is a later one; nothing has
                changed then.
        """
        state_dict = copy(state_dict)
        for pre_hook in self._optimizer_load_state_dict_pre_hooks.values():
            replaced = pre_hook(self, state_dict)
            if replaced is not None:
                state_dict = replaced
        self._follow_groups()
        dtype = self.options.state_dtype
        loaded = loading.load(state_dict, self.param_groups, self._rules, self._rule, dtype, strict)
        clock = loading.clock(loaded.groups, loaded.state)
        scheduled = self._schedules.upcoming(self._schedules.keys(), self._start if clock is None else clock)
        hyper.check_loaded(self._rules, self.param_groups, loaded.groups, scheduled)
        self.__setstate__({"state": loaded.state, "param_groups": loaded.groups})
        if clock is None:
            self._schedules.note_start(self._start)
        loading.note_widening(loaded.widened)
        loading.note_lacking(self.param_groups, self.state, self._formula)
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)
        return loaded.mismatch

    def __getstate__(self) -> dict[str, Any]:
        if self._holds_averages:
            raise RuntimeError("a copy would take averages for weights; leave `with opt.averaged():`, then copy")
        ours = ("_rule", "options", "_given", "_known_groups", "_rules", "_schedules", "_start")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in ours}}

    def _forget_tables(self) -> None:
        self._fused, self._seen = FusedStep(), hyper.Seen()

    def __setstate__(self, state: dict[str, Any]) -> None:
        previous = None if "_rules" in state else self.param_groups  # pickle and deepcopy bring all that there is
        super().__setstate__(state)
        self._forget_tables()
        self._initialization = Initialization()
        if previous is not None:
            self._take_over(previous)
        self._initialization.note_rates(self.param_groups)

    def _take_over(self, previous: list[dict[str, Any]]) -> None:
        """Complete what was loaded, set the clock, and put the schedules in force."""
        self._known_groups = list(self.param_groups)
        clock = loading.clock(self.param_groups, self.state)
        clock = self._start if clock is None else clock
        loading.complete(self.param_groups, previous, self._rules, arguments.FLAGS, self._constants, self.state)
        for group in self.param_groups:
            group["applied_steps"] = clock
            hyper.keep_rate_on_device(group)
        self._schedules.restart(self.param_groups, clock)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averages of the weights in their place, and the weights back at the end: bit for bit, come what may.

        A parameter that has no average yet, since it never had a gradient, keeps its weights.

        Raises:
            RuntimeError: without `ema_decay`, and inside another `averaged()`.
        """
        if self.options.ema_decay is None:
            raise RuntimeError("this optimizer keeps no average of the weights; build it with ema_decay=0.999, say")
        if self._holds_averages:
            raise RuntimeError("the averaged weights are in place already; leave the outer `with opt.averaged():`")
        self._holds_averages = True
        try:
            with options.averaged([p for group in self.param_groups for p in group["params"]], self.state):
                yield
        finally:
            self._holds_averages = False

    def explain(self) -> str:
        """Per param group: the rule, the numbers in force, the backend that runs and why, state and cost.

        Named parameters are listed under what steps them, those of numbered modules together (blocks.{0-11}.weight).
        A backend is called "expected" for parameters that have not been stepped yet.
        """
        from descend import explanation

        return explanation.explain(self)
