"""Tracing: a rule's function is run once on expressions, and what it returns is verified and kept as a `Formula`."""

from __future__ import annotations

import difflib
import dis
import linecache
import sys
from bisect import bisect_right
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, Final, NoReturn

from descend.expr import (
    Expr,
    FormulaError,
    Rank,
    ask_ndim,
    call_site,
    draw_site,
    hyper_of,
    is_random,
    leaf,
    on_new_node,
    operand,
    slot_of,
    slot_rank,
    walk,
)
from descend.expr import g as gradient
from descend.expr import p as parameter
from descend.expr import t as step
from descend.formula import CallPlace, Formula, Slot

if TYPE_CHECKING:
    from descend.rule import Rule

INPUTS: Final = {"p": parameter, "g": gradient, "t": step}
_NO_STEP: Final = "declare t in the signature, def name(p, g, t, ...): random numbers are a function of the step"


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
    draws: int = 0
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
            (draw_site, self._number_draw),
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

    def _number_draw(self) -> int:
        if "t" not in self.rule.inputs:
            raise FormulaError(_NO_STEP)
        self.draws += 1
        return self.draws - 1

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
        self._verify_draws(outputs)
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

    def _verify_draws(self, outputs: Mapping[str, Expr]) -> None:
        """Refuse what only expressions that no vocabulary function made can hold: no step, or two draws of one site."""
        sites: dict[object, Expr] = {}
        for node in filter(is_random, walk(outputs.values())):
            if "t" not in self.rule.inputs:
                self.rule.refuse(_NO_STEP)
            if sites.setdefault(node.value, node) is not node:
                self.rule.refuse(f"two random operations have site {node.value}; give each call of apply its own")
