"""A step under torch.compile: one stated break of the graph, or, with `fullgraph=True`, the eager backend inside it.

Dynamo traces `step`, and so guards the parameters, gradients, state and whatever chooses a formula. Two functions it
does not look into:

- `begin_step`, an operator that runs as ordinary Python at the head of every step in a graph. It checks the numbers in
  force, gives them to the graph as one tensor, follows the schedules and advances the clock. So neither a rate that
  changes nor the clock compiles anything anew; a number that the rule asks `active` of (a decay, a momentum) may, when
  it is written while no schedule drives it.
- `new_values` maps tensors to tensors by the eager backend. Dynamo takes it as one call; AOTAutograd traces into it.

The first step, which creates the state, is a graph of its own. Step counts keep their type: those in float32 stand
still at 2^24, as torch's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

import numpy as np
import torch
import torch._dynamo
from torch import Tensor
from torch._dynamo.symbolic_convert import InstructionTranslator

from descend import hyper_parameters as hyper
from descend import state as states
from descend.arguments import FLAGS
from descend.backends import eager, storage
from descend.backends.eager import pick
from descend.backends.operations import Value
from descend.options import AVERAGE_SLOT, clip_coefficient, incoming_gradient
from descend.rule import Rule
from descend.tracing import Trace, activity, is_structural

if TYPE_CHECKING:
    from descend.optimizer import Optimizer

REASON: Final = "descend steps outside of graphs, in its own kernels; fullgraph=True traces the eager backend instead"

_known: WeakValueDictionary[int, Optimizer] = WeakValueDictionary()
_numbering = count()


def step(optimizer: Optimizer, closure: Callable[[], Any] | None) -> Any:
    """`Optimizer.step` as dynamo traces it."""
    if _may_break():
        return _outside(optimizer, closure)
    refusal = _refusal(optimizer)
    if refusal:
        torch._dynamo.graph_break(msg=refusal)
    loss = None
    if closure is not None:
        with torch.enable_grad():
            loss = closure()
    handle, size, reads = _enter(optimizer)
    handle += 0  # a sum is a number like any other to dynamo, what _enter returns is not
    for group, (flags, asked, _) in zip(optimizer._known_groups, reads, strict=True):
        _guard(group, flags, asked)
    # all gradients before any state: dynamo guards the identity of a gradient that it finds by a key of `state`
    params = [(place, p) for place, group in enumerate(optimizer._known_groups) for p in group["params"]]
    stepped = [(place, ordinal, p, p.grad) for ordinal, (place, p) in enumerate(params) if p.grad is not None]
    entries = [optimizer.state.get(p, {}) for _, _, p, _ in stepped]
    held = [
        {key: entry[key] for key in reads[place][2] if key in entry}
        for (place, *_), entry in zip(stepped, entries, strict=True)
    ]
    # what raises in a graph must do so before no_grad, which would stay in force
    numbers = torch.ops.descend.begin_step(optimizer._ticket, size)  # type: ignore[attr-defined]
    with torch.no_grad():
        new_params, new_held = new_values(handle, stepped, held, numbers)
        for (_, _, p, _), entry, new, values in zip(stepped, held, new_params, new_held, strict=True):
            _write(p, new)
            for key, value in values.items():
                if key in entry:
                    _write(entry[key], value)
                else:
                    optimizer.state[p][key] = value
    return loss


def _guard(group: dict[str, Any], flags: tuple[str, ...], asked: tuple[tuple[str, int | None], ...]) -> None:
    """Read what chooses a group's formula, so that dynamo guards it: flags by value, of numbers whether they are 0."""
    for name in flags:
        if group[name]:
            pass
    for name, index in asked:
        value = group[name] if index is None else group[name][index]
        if not isinstance(value, Tensor) and value == 0:
            pass


def _write(target: Tensor, value: Tensor) -> None:
    """Copy a value in place.

    By a view where it is one number: torch 2.13 forgets what a graph writes into such a float64 tensor on the CPU.
    """
    if target.ndim == 0:
        target.view(1).copy_(value.view(1))
    else:
        target.copy_(value)


@torch._dynamo.assume_constant_result  # type: ignore[untyped-decorator]
def _may_break() -> bool:
    """Whether the compilation in progress may break its graph."""
    tx = InstructionTranslator.current_tx()
    return not (tx.one_graph or tx.error_on_graph_break)


@torch._dynamo.disable(reason=REASON)  # type: ignore[no-untyped-call, untyped-decorator]
def _outside(optimizer: Optimizer, closure: Callable[[], Any] | None) -> Any:
    return optimizer._uncompiled_step(closure)


@torch._dynamo.assume_constant_result  # type: ignore[untyped-decorator]
def _refusal(optimizer: Optimizer) -> str | None:
    """Why an optimizer cannot step in a graph, or None."""
    options, groups = optimizer.options, optimizer._known_groups
    if options.backend == "cpp" or any(group["fused"] for group in groups):
        return (
            "fused=True and backend='cpp' ask for kernels, which run outside of graphs; compile without fullgraph=True"
        )
    if any(group["differentiable"] for group in groups):
        return "differentiable=True is not traced; compile without fullgraph=True"
    if options.stochastic_rounding:
        return "stochastic_rounding draws by the clock, which no graph holds; compile without fullgraph=True"
    for index, rule in enumerate(optimizer._rules):
        for param in groups[index]["params"][:1]:
            calls = optimizer._formula(index, param.ndim).opaque_calls
            if calls:
                is_clipped = options.clip_agc is not None and calls == ("clip_units",)
                what = "clip_agc" if is_clipped else f"rule {rule.name!r} calls {calls[0]}, which"
                return f"{what} is not traced; compile without fullgraph=True"
        for slot in rule.slots.values():
            if slot.is_shared:
                return (
                    f"rule {rule.name!r} keeps {slot.key!r} once per optimizer, as a number in the param groups, which "
                    "no graph can write; compile without fullgraph=True"
                )
    return None


_Reads = tuple[tuple[str, ...], tuple[tuple[str, int | None], ...], tuple[str, ...]]


@torch._dynamo.assume_constant_result  # type: ignore[untyped-decorator]
def _enter(optimizer: Optimizer) -> tuple[int, int, tuple[_Reads, ...]]:
    """Make an optimizer known to the two functions that dynamo does not look into.

    Returns:
        Its handle, how many numbers its groups hold, and of each group what a step reads: flags, numbers that it asks
        `active` of, and keys of the state.
    """
    if not hasattr(optimizer, "_ticket"):
        ticket = torch.tensor([next(_numbering), 0])  # the second is what begin_step is seen to change
        optimizer._ticket = ticket  # type: ignore[attr-defined]  # where dynamo finds it as the graph's input
    handle = int(optimizer._ticket[0])  # type: ignore[attr-defined]
    _known[handle] = optimizer
    return handle, len(list(_numbers(optimizer))), tuple(_reads(optimizer, i) for i in range(len(optimizer._rules)))


def _reads(optimizer: Optimizer, index: int) -> _Reads:
    rule, group = optimizer._rules[index], optimizer._known_groups[index]
    values = {name: group[name] for name in rule.hyper_parameters}
    flags = [name for name, value in values.items() if is_structural(value)]
    asked: dict[tuple[str, int | None], bool] = {}
    for ndim in {p.ndim for p in group["params"]}:
        answers = _Answers(activity(values, frozenset(optimizer._schedules[index])))
        Trace(rule, values, answers, ndim, bool(group["maximize"])).run()
        asked |= {key: True for key in answers.asked if key[0] not in optimizer._schedules[index]}
    keys = ("step", AVERAGE_SLOT.key, *(slot.key for slot in rule.slots.values()))
    return (*flags, *FLAGS), tuple(asked), keys


class _Answers(dict[tuple[str, int | None], bool]):
    """What `active` answers, and what it has been asked."""

    def __init__(self, answers: Mapping[tuple[str, int | None], bool]) -> None:
        super().__init__(answers)
        self.asked: list[tuple[str, int | None]] = []

    def __getitem__(self, key: tuple[str, int | None]) -> bool:
        self.asked.append(key)
        return super().__getitem__(key)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (tuple, list)):
        for element in value:
            yield from _leaves(element)
    else:
        yield value


def _numbers(optimizer: Optimizer) -> Iterator[float]:
    """The numbers in force of all groups, in order."""
    for rule, group in zip(optimizer._rules, optimizer._known_groups, strict=True):
        for name in rule.hyper_parameters:
            for leaf in _leaves(group[name]):
                if not is_structural(leaf):
                    yield float(leaf)


@torch.library.custom_op(
    "descend::begin_step", mutates_args=("ticket",), schema="(Tensor(a!) ticket, int size) -> Tensor"
)
def begin_step(ticket: Tensor, size: int) -> Tensor:
    """Check and return the numbers of this step, put those of the next in force and advance the clock."""
    optimizer = _known[int(ticket[0])]
    if optimizer._holds_averages:
        raise RuntimeError("the averaged weights are in place; leave `with opt.averaged():`, then step")
    if getattr(optimizer, "grad_scale", None) is not None or getattr(optimizer, "found_inf", None) is not None:
        raise RuntimeError("a gradient scaler's step is not traced; call scaler.step(opt) outside of the graph")
    groups = len(optimizer._known_groups)
    optimizer._follow_groups()
    if len(optimizer._known_groups) != groups:
        raise RuntimeError("param_groups lacks a group that the graph steps; step again, and another graph is made")
    clock = optimizer.applied_steps
    driven = optimizer._schedules.settle(optimizer.param_groups, clock)
    for rule, group in zip(optimizer._rules, optimizer.param_groups, strict=True):
        hyper.check(rule, group)
    numbers = torch.tensor(list(_numbers(optimizer)), dtype=torch.float64)
    upcoming = optimizer._schedules.upcoming(driven, clock + 1)
    optimizer._forget_tables()  # a step outside of graphs begins anew with this one's results
    for group in optimizer.param_groups:
        group["applied_steps"] += 1
    optimizer._schedules.put(optimizer.param_groups, upcoming)
    if not optimizer.state:
        optimizer._initialization.note_rates(optimizer.param_groups)
    ticket[1] += 1
    return numbers


@begin_step.register_fake
def _(ticket: Tensor, size: int) -> Tensor:
    return torch.empty(size, dtype=torch.float64)


@torch._dynamo.nonstrict_trace
def new_values(
    handle: int,
    stepped: list[tuple[int, int, Tensor, Tensor]],
    held: list[dict[str, Tensor]],
    numbers: Tensor,
) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """What a step makes of parameters and their state; nothing is written.

    Args:
        handle: the optimizer's, from `_enter`.
        stepped: the parameters that have a gradient: the index of the group, the place in the optimizer, the parameter,
            the gradient.
        held: of each of them the state that it has.
        numbers: the numbers in force, as `begin_step` gives them.

    Returns:
        The new parameters, and of each the new value of every entry of its state.
    """
    optimizer = _known[handle]
    with torch.no_grad():
        values = _values(optimizer, numbers)
        work = _Gathered(optimizer, values)
        for (place, ordinal, param, grad), entries in zip(stepped, held, strict=True):
            work.add(ordinal, place, param, grad, entries)
        return work.results()


def _values(optimizer: Optimizer, numbers: Tensor) -> list[dict[str, Any]]:
    """The values of each group's hyper-parameters, every number a tensor."""
    rest = iter(numbers.unbind())

    def filled(value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return tuple(filled(element) for element in value)
        return value if is_structural(value) else next(rest)

    pairs = zip(optimizer._rules, optimizer._known_groups, strict=True)
    return [{name: filled(group[name]) for name in rule.hyper_parameters} for rule, group in pairs]


class _Gathered:
    """The parameters of one step in buckets."""

    def __init__(self, optimizer: Optimizer, values: list[dict[str, Any]]) -> None:
        self.optimizer, self.values = optimizer, values
        self.shared = optimizer.options.numbers(None, keeps_tensors=True)
        self.by_rule: dict[Rule, dict[Any, eager.Bucket]] = {}
        # by the place in the optimizer
        self.params: dict[int, Tensor] = {}
        self.entries: dict[int, dict[str, Tensor]] = {}  # what the state holds
        self.missing: dict[int, dict[str, Tensor]] = {}  # and those of it that the step creates
        self.memory: dict[int, list[Tensor]] = {}  # what a new value must not share memory with

    def add(self, ordinal: int, place: int, param: Tensor, grad: Tensor, held: Mapping[str, Tensor]) -> None:
        """Take in a parameter that has a gradient."""
        optimizer = self.optimizer
        rule, group = optimizer._rules[place], optimizer._known_groups[place]
        formula = optimizer._formula(place, param.ndim, names=self.shared)
        states.check_entries(formula, param, held)
        missing = states.missing_entries(rule, formula, storage.real(param), held, {**group, **self.values[place]})
        missing = {key: _as_stored(x, param) for key, x in missing.items()}
        entries = {**missing, **held}
        fresh = frozenset(name for name in formula.asks_fresh if rule.slots[name].key not in entries)
        key = (place, formula, fresh, param.dtype, param.device, states.stored_types(formula, entries))
        settled = formula.settle(fresh)
        buckets = self.by_rule.setdefault(rule, {})
        if key not in buckets:
            values = {**self.shared, **self.values[place]}
            seed = optimizer.options.seed
            buckets[key] = eager.Bucket(settled, [], [], {}, values, [], [], [], [], seed, reads_scalars=False)
        bucket = buckets[key]
        bucket.params.append(storage.real(param))
        bucket.grads.append(storage.real(grad))
        for name, slot in settled.slots.items():
            if slot.key in entries:
                bucket.slots.setdefault(name, []).append(storage.real(entries[slot.key]))
        bucket.t.append(entries["step"].double() + 1 if rule.counts_steps else np.float64(0))
        bucket.ordinals.append(ordinal)
        bucket.counts.append(param.numel())
        bucket.rows.append(storage.rows_of(param))
        self.params[ordinal], self.entries[ordinal], self.missing[ordinal] = param, entries, missing
        self.memory[ordinal] = [param, grad, *entries.values()]

    def results(self) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        """The new parameters, and of each the new value of every entry of its state."""
        if self.optimizer.options.clip_norm is not None:
            self._clip(self.optimizer.options.clip_norm)
        new_params, new_entries = dict(self.params), {place: dict(held) for place, held in self.missing.items()}
        for rule, buckets in self.by_rule.items():
            together = list(buckets.values())
            for bucket, result in zip(together, eager.advance(together, {}, np.float64(0)), strict=True):
                for index, ordinal in enumerate(bucket.ordinals):
                    if rule.counts_steps:
                        new_entries[ordinal]["step"] = self.entries[ordinal]["step"] + 1
                    values = {name: pick(value, index) for name, value in result.items()}
                    new_params[ordinal] = self._stored(values.pop("p"), self.params[ordinal], ordinal)
                    for name, value in values.items():
                        key = bucket.formula.slots[name].key
                        new_entries[ordinal][key] = self._stored(value, self._like(bucket, name, ordinal), ordinal)
        return list(new_params.values()), list(new_entries.values())

    def _like(self, bucket: eager.Bucket, name: str, ordinal: int) -> Tensor:
        """A tensor in the type and shape in which a slot is stored."""
        slot, param = bucket.formula.slots[name], self.params[ordinal]
        if slot.key in self.entries[ordinal]:
            return self.entries[ordinal][slot.key]
        return _as_stored(storage.first_value(slot, storage.real(param), bucket.hyper_parameters), param)

    def _stored(self, value: Value, like: Tensor, ordinal: int) -> Tensor:
        """One parameter's value as memory of its own."""
        stored = eager.stored_as(value, like, self.memory[ordinal])
        self.memory[ordinal].append(stored)
        return stored

    def _clip(self, limit: float) -> None:
        gradient = incoming_gradient(self.shared)
        buckets = [bucket for together in self.by_rule.values() for bucket in together.values()]
        squares = [dict(zip(b.ordinals, eager.squared_norms(b, gradient), strict=True)) for b in buckets]
        for bucket in buckets:
            bucket.hyper_parameters = {
                **bucket.hyper_parameters,
                "clip_coefficient": clip_coefficient(limit, squares, reads=False),
            }


def _as_stored(x: Tensor, param: Tensor) -> Tensor:
    """State of a complex parameter from its real and imaginary parts; single numbers stay."""
    return torch.view_as_complex(x) if param.is_complex() and x.ndim else x
