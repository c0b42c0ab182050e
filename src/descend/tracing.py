"""Tracing: a rule's function is run once on expressions, and what it returns is verified and kept as a `Formula`."""

from __future__ import annotations

import difflib
import dis
import linecache
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, Final, NoReturn

from descend.expr import (
    OPERATIONS,
    SLOT_RANKS,
    Expr,
    FormulaError,
    Rank,
    Shape,
    ask_ndim,
    call_site,
    hyper_of,
    leaf,
    on_new_node,
    operand,
    rebuild,
    slot_of,
    slot_rank,
    walk,
)
from descend.expr import g as gradient
from descend.expr import p as parameter
from descend.expr import t as step

if TYPE_CHECKING:
    from descend.rule import Rule

INPUTS: Final = {"p": parameter, "g": gradient, "t": step}


CallPlace = tuple[int, int]
STORAGE_TYPES: Final = ("float64", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Slot:
    """Optimizer state: a value that a rule keeps from step to step.

    Args:
        key: the name under which it stands in `optimizer.state[p]` (torch's own where torch has the slot).
        init: its first value: a number, the name of a hyper-parameter, or "p" (a copy of the parameter).
        shape: "like" the parameter, "scalar" (one value per parameter tensor), "optimizer" (one per optimizer), or
            ("optimizer", n): a window of the last n values of one number, empty at first, for push, lowest and highest.
        dtype: the name of a storage type such as "float32"; None keeps the parameter's (float32 for scalars).

    Raises:
        ValueError: for another shape or an init that is neither a number nor a name.
    """

    key: str
    init: float | str = 0
    shape: Shape = "like"
    dtype: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.key, str) or not self.key or self.key == "step":
            raise ValueError(f"Slot key must be a name other than 'step', which is the count t: {self.key!r}")
        if not (self.is_window or (isinstance(self.shape, str) and self.shape in SLOT_RANKS)):
            raise ValueError(
                f"Slot({self.key!r}) has shape {self.shape!r}; choose one of {', '.join(SLOT_RANKS)}, or "
                '("optimizer", n) for a window of n values'
            )
        if self.is_window and self.init != 0:
            raise ValueError(f"Slot({self.key!r}) is a window, which begins empty; leave init={self.init!r} away")
        if isinstance(self.init, bool) or not isinstance(self.init, (int, float, str)):
            raise ValueError(f"Slot({self.key!r}) starts from a number, a hyper-parameter's name or 'p': {self.init!r}")
        if self.dtype is not None and self.dtype not in STORAGE_TYPES:
            raise ValueError(
                f"Slot({self.key!r}) has dtype {self.dtype!r}; choose one of {', '.join(map(repr, STORAGE_TYPES))}"
            )
        if self.init == "p" and self.shape != "like":
            raise ValueError(f"Slot({self.key!r}) starts from the parameter, so its shape must be 'like'")

    @property
    def is_window(self) -> bool:
        """Whether it holds the last values of one number."""
        match self.shape:
            case ("optimizer", int() as length):
                return not isinstance(length, bool) and length >= 1
        return False

    @property
    def is_shared(self) -> bool:
        """Whether it exists once per optimizer."""
        return self.shape == "optimizer" or self.is_window


@dataclass(frozen=True, eq=False)
class Formula:
    """One variant of a rule, traced.

    Attributes:
        rule: where it comes from.
        outputs: the expression that is assigned to "p" and to each slot that this variant keeps.
        bindings: the author's intermediate names in the order in which they were assigned.
        hyper_parameters: the values that chose the variant.
        call_places: where the function calls each global reduction, by the call's number in this variant: the place in
            the code and how often it was reached before. The same place in two variants is the same reduction.
        own_slots: slots that an optimizer's options add to the rule's or store in another type, by name.
    """

    rule: Rule
    outputs: Mapping[str, Expr]
    bindings: tuple[tuple[str, Expr], ...]
    hyper_parameters: Mapping[str, object]
    call_places: tuple[CallPlace, ...]
    own_slots: Mapping[str, Slot] = field(default_factory=dict)

    @cached_property
    def slots(self) -> dict[str, Slot]:
        """The slots that this variant keeps, by their names in the signature."""
        declared = {**self.rule.slots, **self.own_slots}
        return {name: declared[name] for name in self.outputs if name != "p"}

    @cached_property
    def nodes(self) -> tuple[Expr, ...]:
        """Every node of the formula, arguments before what uses them."""
        return tuple(walk(self.outputs.values()))

    @cached_property
    def uses(self) -> Counter[Expr]:
        """How often each node is read, by other nodes and by what is assigned."""
        counted = Counter(arg for node in self.nodes for arg in node.args)
        counted.update(self.outputs.values())
        return counted

    @cached_property
    def global_reductions(self) -> dict[int, Expr]:
        """The calls of global reductions that the outputs need, by their numbers."""
        return {
            int(node.value): node  # type: ignore[call-overload]
            for node in self.nodes
            if node.op in OPERATIONS and OPERATIONS[node.op].reduces is Rank.OPTIMIZER
        }

    @cached_property
    def is_elementwise(self) -> bool:
        """Whether each element is updated from its own values and scalars alone, without a reduction."""
        reduces = any(node.op in OPERATIONS and OPERATIONS[node.op].reduces is not None for node in self.nodes)
        return not reduces and not self.shared_outputs and not self.opaque_calls

    @cached_property
    def opaque_calls(self) -> tuple[str, ...]:
        """The operations that torch computes of whole tensors."""
        return tuple(dict.fromkeys(n.op for n in self.nodes if n.op in OPERATIONS and OPERATIONS[n.op].whole))

    @cached_property
    def shared_outputs(self) -> dict[str, Expr]:
        """What is assigned to the slots that exist once per optimizer, by their names."""
        return {name: self.outputs[name] for name, slot in self.slots.items() if slot.is_shared}

    @cached_property
    def common_hyper_parameters(self) -> tuple[str, ...]:
        """The hyper-parameters that reach a slot which exists once per optimizer: all groups must agree on them.

        What stands below a global reduction reaches it as a sum over all groups, and may differ.
        """
        found: dict[str, None] = {}
        seen: set[Expr] = set()
        waiting = list(self.shared_outputs.values())
        while waiting:
            node = waiting.pop()
            if node in seen or (node.op in OPERATIONS and OPERATIONS[node.op].reduces is not None):
                continue
            seen.add(node)
            waiting += node.args
            if node.op == "hyper":
                found[hyper_of(node)[0]] = None
        return tuple(found)

    def is_same_as(self, other: Formula) -> bool:
        """Whether both assign identical expressions to the same names."""
        mine, theirs = self.outputs, other.outputs
        return mine.keys() == theirs.keys() and all(mine[name] is theirs[name] for name in mine)

    def settle(self, fresh: frozenset[str]) -> Formula:
        """The formula for parameters whose slots named in `fresh` have no value yet, and all others have one."""
        relevant = fresh & self.asks_fresh
        if not self.asks_fresh:
            return self
        if relevant not in self._settled:
            self._settled[relevant] = self._choose(relevant)
        return self._settled[relevant]

    def _choose(self, fresh: frozenset[str]) -> Formula:
        def chosen(node: Expr, args: tuple[Expr, ...]) -> Expr:
            if node.op == "where" and node.args[0].op == "fresh":
                return args[1 if node.args[0].value in fresh else 2]
            return rebuild(node, args)

        return self.rewritten(chosen)

    def rewritten(self, change: Callable[[Expr, tuple[Expr, ...]], Expr]) -> Formula:
        """The formula with every node, in its outputs and its named intermediates, changed.

        Args:
            change: gives a node anew from the node and its arguments, which are changed already.
        """
        changed: dict[Expr, Expr] = {}
        for node in walk([*self.outputs.values(), *(node for _, node in self.bindings)]):
            changed[node] = change(node, tuple(changed[a] for a in node.args))
        outputs = {name: changed[root] for name, root in self.outputs.items()}
        return replace(self, outputs=outputs, bindings=tuple((name, changed[node]) for name, node in self.bindings))

    @cached_property
    def _settled(self) -> dict[frozenset[str], Formula]:
        return {}

    @cached_property
    def derived(self) -> dict[object, Any]:
        """What others have made of this formula, kept as long as it lives: extended formulas, kernels."""
        return {}

    @cached_property
    def asks_fresh(self) -> frozenset[str]:
        """The slots whose first value the formula itself gives, by `fresh`."""
        return frozenset(str(node.value) for node in self.nodes if node.op == "fresh")


def active(x: Expr | float) -> bool:
    """Whether hyper-parameter `x` is anything but the number 0: a Python bool while a rule is traced.

    A schedule or a tensor is active. `if active(weight_decay):` branches as torch does and keeps 0 * inf from NaN.
    """
    if isinstance(x, (int, float)):
        return x != 0
    answers = _active_hyper_parameters.get()
    if answers is None or not isinstance(x, Expr) or x.op != "hyper":
        raise FormulaError("active takes a hyper-parameter of the rule being traced, as in active(weight_decay)")
    return answers[hyper_of(x)]


_active_hyper_parameters: ContextVar[Mapping[tuple[str, int | None], bool] | None] = ContextVar("active", default=None)


def is_structural(value: object) -> bool:
    """Whether a hyper-parameter's value is an ordinary Python value while tracing, and chooses the variant."""
    return value is None or isinstance(value, (bool, str))


def is_number(value: object) -> bool:
    """Whether `value` is an int or a float, and no bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_tuple_of_numbers(value: object) -> bool:
    """Whether `value` is a tuple such as betas."""
    return isinstance(value, (tuple, list)) and len(value) > 0 and all(is_number(v) for v in value)


def activity(values: Mapping[str, Any], scheduled: frozenset[str]) -> dict[tuple[str, int | None], bool]:
    """What `active` answers for each hyper-parameter; those named in `scheduled` are active whatever their value."""

    def is_active(name: str, value: object) -> bool:
        return name in scheduled or not is_number(value) or value != 0

    answers: dict[tuple[str, int | None], bool] = {}
    for name, value in values.items():
        if isinstance(value, (tuple, list)):
            answers.update({(name, i): is_active(name, v) for i, v in enumerate(value)})
        elif not is_structural(value):
            answers[name, None] = is_active(name, value)
    return answers


def _instruction(frame: FrameType) -> int:
    """Where the instruction begins that a frame is in.

    While a function is called, `f_lasti` stands at the instruction or, where the interpreter calls it without a frame
    of C in between, at the end of its caches: which of the two changes when torch.compile comes into the process.
    """
    begins = [instruction.offset for instruction in dis.get_instructions(frame.f_code)]
    return begins[bisect_right(begins, frame.f_lasti) - 1]


@dataclass
class Trace:
    """One run of a rule's function on expressions, watching the names that the author gives them."""

    rule: Rule
    values: Mapping[str, Any]
    activity: Mapping[tuple[str, int | None], bool]
    ndim: int
    maximize: bool
    bindings: list[tuple[str, Expr]] = field(default_factory=list)
    places: list[CallPlace] = field(default_factory=list)
    frame: FrameType | None = None

    def run(self) -> Formula:
        """Call the function and verify what it returns."""
        function, gradient_seen = self.rule.function, -gradient if self.maximize else gradient
        inputs = {name: gradient_seen if name == "g" else INPUTS[name] for name in self.rule.inputs}
        slots = {name: leaf("slot", (name, slot.shape)) for name, slot in self.rule.slots.items()}
        arguments = {**inputs, **slots, **{name: self._hyper_parameter(name) for name in self.rule.hyper_parameters}}
        contexts: list[tuple[ContextVar[Any], object]] = [
            (on_new_node, self._note_names),
            (ask_ndim, self._answer_ndim),
            (call_site, self._number_call),
            (_active_hyper_parameters, self.activity),
        ]
        tokens = [(variable, variable.set(value)) for variable, value in contexts]
        try:
            returned = function(**arguments)
            if self.frame is not None:
                self._note(self.frame)
        except TypeError as error:  # ours, or Python's for what formulas cannot do
            self._explain(error)
        finally:
            self.frame = None
            for variable, token in tokens:
                variable.reset(token)
        outputs = self._outputs(returned)
        return Formula(self.rule, outputs, tuple(self.bindings), dict(self.values), tuple(self.places))

    def _hyper_parameter(self, name: str) -> object:
        value = self.values[name]
        if isinstance(value, (tuple, list)):
            return tuple(leaf("hyper", (name, i)) for i in range(len(value)))
        return value if is_structural(value) else leaf("hyper", (name, None))

    def _answer_ndim(self) -> int:
        self.rule.reads_ndim = True
        return self.ndim

    def _author_s_frame(self) -> FrameType | None:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code is not self._code:
            frame = frame.f_back
        return frame

    def _number_call(self) -> int:
        frame = self._author_s_frame()
        offset = -1 if frame is None else _instruction(frame)
        self.places.append((offset, sum(place[0] == offset for place in self.places)))
        return len(self.places) - 1

    def _note_names(self) -> None:
        frame = self._author_s_frame()
        if frame is not None:
            self.frame = frame  # outlives the call, so that the last names are read after the function has returned
            self._note(frame)

    @property
    def _code(self) -> CodeType:
        return self.rule.function.__code__

    def _note(self, frame: FrameType) -> None:
        for name, value in frame.f_locals.items():
            if isinstance(value, Expr) and not any(n == name and e is value for n, e in self.bindings):
                self.bindings.append((name, value))

    def _explain(self, error: TypeError) -> NoReturn:
        line, traceback = None, error.__traceback__
        while traceback is not None:
            if traceback.tb_frame.f_code is self._code:
                line = traceback.tb_lineno
            traceback = traceback.tb_next
        written = linecache.getline(self._code.co_filename, line).strip() if line else ""
        message = str(error)
        if "Expr" in message and "operand" not in message:  # a function that is none of ours, such as torch.sign
            message += "; use descend.sign and the other functions of the vocabulary; torch's cannot read a formula"
        self.rule.refuse(message, line, written)

    def _outputs(self, returned: object) -> dict[str, Expr]:
        rule = self.rule
        if not isinstance(returned, Mapping):
            rule.refuse(f"it returns {type(returned).__name__}; return a dict of what is assigned: dict(p=..., m=m)")
        for name in returned:
            if name != "p" and name not in rule.slots:
                near = difflib.get_close_matches(str(name), ["p", *rule.slots], n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                rule.refuse(f"it assigns {name!r}, which is not in the signature; declare {name}=Slot({name!r}){hint}")
        if "p" not in returned:
            rule.refuse("it does not assign p; return dict(p=...) with the new parameter")
        outputs: dict[str, Expr] = {}
        for name in ["p", *rule.slots]:
            if name in returned:
                try:
                    root = operand(returned[name])
                except FormulaError as error:
                    rule.refuse(f"what it assigns to {name!r} is no formula: {error}")
                if not (root.op == "slot" and slot_of(root)[0] == name):  # a slot kept as it is
                    outputs[name] = root
        self._verify(outputs)
        return outputs

    def _verify(self, outputs: Mapping[str, Expr]) -> None:
        for name, root in outputs.items():
            slot = Slot(name) if name == "p" else self.rule.slots[name]
            shape, highest = slot.shape, Rank.BUCKET if slot.is_shared else slot_rank(slot.shape)
            if root.window != slot.is_window or (slot.is_window and slot_of(root.args[0])[0] != name):
                self.rule.refuse(
                    f"it assigns {'a window' if root.window else 'a number'} to {name!r}, whose shape is {shape!r}; "
                    + (f"assign push({name}, x)" if slot.is_window else "assign lowest or highest of the window")
                )
            if slot.is_shared and any(node.op == "fresh" for node in walk([root])):
                self.rule.refuse(f"fresh reaches {name!r}, which exists once per optimizer; give the slot an init")
            if root.condition:
                self.rule.refuse(
                    f"it assigns a condition to {name!r}; turn it into a number with where(condition, 1, 0)"
                )
            if root.rank > highest:
                self.rule.refuse(
                    f"it assigns one value per {root.rank.name.lower()} to {name!r}, whose shape is {shape!r}; "
                    f"reduce it with sum, mean or norm" + (" (the global_ ones)" if slot.is_shared else "")
                )
        for node in walk(outputs.values()):
            if node.op in ("slot", "fresh"):
                name = str(node.value) if node.op == "fresh" else slot_of(node)[0]
                if name not in outputs:
                    self.rule.refuse(
                        f"it reads slot {name!r} but never assigns it; return it: dict(..., {name}={name})"
                    )
