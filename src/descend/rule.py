"""An optimizer as a formula: `@rule` turns a short function into a traced update rule.

    @rule
    def momentum_sgd(p, g, m=Slot("momentum_buffer"), *, lr=0.1, momentum=0.9):
        m = momentum * m + g
        return dict(p=p - lr * m, m=m)

The signature is the declaration. `p`, `g` and `t` are the parameter, its gradient and the step (from 1; a rule that
names `t` keeps the count under the key "step"); a `Slot` default is optimizer state under that key; keyword-only
arguments are hyper-parameters with their defaults. The returned dict assigns its values simultaneously. The function is
called once per variant with expressions in place of numbers: numbers never change a formula, but `bool`, `str` and
`None` hyper-parameters, `active(x)` and `p.ndim` are ordinary Python values while tracing and choose the variant.
"""

from __future__ import annotations

import difflib
import inspect
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NoReturn

from descend.expr import FormulaError
from descend.formula import Formula, Slot
from descend.tracing import INPUTS, Trace, active, activity, is_number, is_structural, is_tuple_of_numbers

if TYPE_CHECKING:
    from torch import Tensor

    from descend.render import Cost

__all__ = ["Formula", "Rule", "Slot", "active", "rule"]

RESERVED: Final = frozenset(
    [
        "params",
        "rule",
        "maximize",
        "foreach",
        "fused",
        "capturable",
        "differentiable",
        "backend",
        "state_dtype",
        "stochastic_rounding",
        "clip_norm",
        "clip_value",
        "clip_agc",
        "ema_decay",
        "seed",
        "step",
        "param_names",
        "gradient_scale",
        "clip_coefficient",
    ]
)
"""Names that every optimizer takes itself or adds to formulas, so that no rule may declare them as hyper-parameters."""


class Rule:
    """An update rule: a function of the parameter, its gradient and the state, traced into formulas.

    Made by `@rule`. `init` and `update` apply it; `latex`, `mathml`, `text`, `source` and `cost` describe it, each for
    the variant that the given hyper-parameters choose.
    """

    def __init__(self, function: Callable[..., Mapping[str, Any]]) -> None:
        self.function = function
        self.name: str = function.__name__
        self.__name__, self.__qualname__ = function.__name__, function.__qualname__
        self.__module__, self.__doc__ = function.__module__, function.__doc__
        self.inputs: list[str] = []
        self.slots: dict[str, Slot] = {}
        self.hyper_parameters: dict[str, Any] = {}
        self._read_signature()
        self._formulas: dict[object, Formula] = {}
        self.reads_ndim = False
        self._lock = threading.RLock()

    @property
    def title(self) -> str:
        """The name in print: the first sentence of the docstring where it is one word (AdamW), else the rule's name."""
        first = (self.__doc__ or "").strip().split(".")[0]
        return first if first.isidentifier() else self.name

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return (self.__doc__ or self.name).strip().splitlines()[0]

    @property
    def counts_steps(self) -> bool:
        """Whether each parameter keeps the number of its applied steps."""
        return "t" in self.inputs

    def _read_signature(self) -> None:
        for name, argument in inspect.signature(self.function).parameters.items():
            if argument.kind in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD):
                self.refuse(f"*{name} cannot be declared; name every slot and hyper-parameter")
            if argument.kind is argument.KEYWORD_ONLY:
                self._declare_hyper_parameter(name, argument.default)
            elif name in INPUTS and argument.default is argument.empty:
                self.inputs.append(name)
            elif isinstance(argument.default, Slot):
                self.slots[name] = argument.default
            else:
                self.refuse(
                    f"{name!r} is neither p, g or t nor a slot; write {name}=Slot({name!r}) for state, or put it "
                    f"behind `*` with a default for a hyper-parameter"
                )
        if "p" not in self.inputs:
            self.refuse("the signature has no p; a rule begins `def name(p, g, ...)`")
        keys = [slot.key for slot in self.slots.values()]
        for key in keys:
            if keys.count(key) > 1:
                self.refuse(f"two slots share the key {key!r}; give each its own")
        for name, slot in self.slots.items():
            if isinstance(slot.init, str) and slot.init != "p" and not is_number(self.hyper_parameters.get(slot.init)):
                self.refuse(f"slot {name!r} starts from {slot.init!r}, which is no numeric hyper-parameter of the rule")

    def _declare_hyper_parameter(self, name: str, default: object) -> None:
        if default is inspect.Parameter.empty:
            self.refuse(
                f"hyper-parameter {name!r} has no default; write {name}=..., since a rule runs without arguments"
            )
        if isinstance(default, Slot):
            self.refuse(f"slot {name!r} stands behind `*`; move it before, where state is declared")
        if name in RESERVED:
            self.refuse(f"{name!r} is an option of every optimizer; choose another name for the hyper-parameter")
        if not (is_structural(default) or is_number(default) or is_tuple_of_numbers(default)):
            self.refuse(
                f"hyper-parameter {name!r} must be a number, a tuple of numbers, a bool, a str or None: {default!r}"
            )
        self.hyper_parameters[name] = default

    def refuse(self, message: str, line: int | None = None, written: str = "") -> NoReturn:
        """Raise FormulaError with the rule, the place and the remedy."""
        code = getattr(self.function, "__code__", None)
        where = f" ({code.co_filename}, line {line or code.co_firstlineno})" if code else ""
        quoted = f"\n    {written}\n" if written else " "
        raise FormulaError(f"rule {self.name!r}{where}:{quoted}{message}")

    def merged(self, given: Mapping[str, object]) -> dict[str, Any]:
        """The defaults with `given` over them.

        Raises:
            TypeError: for a name that the rule does not declare.
        """
        for name in given:
            if name not in self.hyper_parameters:
                near = difflib.get_close_matches(name, self.hyper_parameters, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(self.hyper_parameters)}"
                raise TypeError(f"rule {self.name!r} has no hyper-parameter {name!r}; {hint}")
        return {**self.hyper_parameters, **given}

    def formula(
        self, *, ndim: int = 2, maximize: bool = False, scheduled: Iterable[str] = (), **hyper_parameters: object
    ) -> Formula:
        """The variant that the hyper-parameters choose, traced once.

        Args:
            ndim: the parameter's number of dimensions, for rules that read `p.ndim`.
            maximize: ascend: the rule sees the negated gradient.
            scheduled: hyper-parameters that change in time, and so are active even while they are 0.
            hyper_parameters: values in place of the defaults.

        Raises:
            FormulaError: where the function leaves the language; it names the rule, the line and the remedy.
            TypeError: for a hyper-parameter that the rule does not declare.
        """
        values = self.merged(hyper_parameters)
        for name, default in self.hyper_parameters.items():
            if isinstance(default, bool):
                values[name] = bool(values[name])
        choices = {name: value for name, value in values.items() if is_structural(value)}
        active_ones = activity(values, frozenset(scheduled))
        key = (maximize, tuple(choices.items()), tuple(active_ones.items()), ndim if self.reads_ndim else None)
        with self._lock:
            if key not in self._formulas:
                traced = Trace(self, values, active_ones, ndim, maximize).run()
                if self.reads_ndim:
                    key = (*key[:3], ndim)
                same = (f for f in self._formulas.values() if f.is_same_as(traced))
                self._formulas[key] = next(same, traced)
            return self._formulas[key]

    def init(self, params: Mapping[str, Tensor], **hyper_parameters: object) -> dict[str, dict[str, Tensor]]:
        """The state before the first step, a dict of tensors per parameter name.

        A slot whose first value the formula gives itself (by `fresh`) is absent until the first update.
        """
        from descend.backends import pure

        return pure.init(self, params, **hyper_parameters)

    def update(
        self,
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        state: Mapping[str, Mapping[str, Tensor]],
        *,
        maximize: bool = False,
        seed: int = 0,
        **hyper_parameters: object,
    ) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
        """One step as a pure function: new parameters and new state; the arguments stay as they are.

        Differentiable in every tensor given, hyper-parameters included, and fit for `torch.func.grad` and `vmap`.
        A parameter without an entry in `grads` is passed on unchanged. Under vmap the gradient of a `where` whose
        condition is batched is that of both sides. `seed` chooses the random numbers of a rule that draws some: they
        are those of an optimizer with this seed and the same parameters in this order.
        """
        from descend.backends import pure

        return pure.update(self, params, grads, state, maximize, seed, **hyper_parameters)

    def latex(self, **hyper_parameters: Any) -> str:
        """The variant's mathematics as LaTeX, an aligned environment."""
        from descend import render

        return render.latex(self.formula(**hyper_parameters))

    def mathml(self, **hyper_parameters: Any) -> str:
        """The variant's mathematics as MathML, a <math> element."""
        from descend import render

        return render.mathml(self.formula(**hyper_parameters))

    def text(self, **hyper_parameters: Any) -> str:
        """The variant's mathematics as plain text, a line per assignment."""
        from descend import render

        return render.text(self.formula(**hyper_parameters))

    def symbols(self, **hyper_parameters: Any) -> dict[str, str]:
        """The symbols that the mathematics writes for hyper-parameters, such as {"lr": "γ"}."""
        from descend import render

        return render.key(self.formula(**hyper_parameters))

    def source(self, language: str = "python", **hyper_parameters: Any) -> str:
        """The variant as source code.

        Args:
            language: "python" reads back to the identical formula, its defaults the values given; "cpp" is the fused
                kernel.
            hyper_parameters: choose the variant.

        Raises:
            ValueError: for another language, or a rule that no kernel can be made of.
        """
        from descend import render

        formula = self.formula(**hyper_parameters)
        given = {name: hyper_parameters[name] for name in self.hyper_parameters if name in hyper_parameters}
        return render.source(replace(formula, hyper_parameters=self.merged(given)), language)

    def cost(self, **hyper_parameters: Any) -> Cost:
        """What a step costs per parameter: bytes read and written, operations, bytes of state."""
        from descend import render

        return render.cost(self.formula(**hyper_parameters))

    def _repr_latex_(self) -> str:
        return f"$\\displaystyle {self.latex()}$"

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"<rule {self.name}({', '.join(f'{k}={v!r}' for k, v in self.hyper_parameters.items())})>"

    def __call__(self, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
        """The plain function, so that one rule can be written with another."""
        return self.function(*args, **kwargs)

    def __deepcopy__(self, memo: object) -> Rule:
        return self

    def __reduce__(self) -> str | tuple[Any, ...]:
        found: object = sys.modules.get(self.__module__)
        for part in self.__qualname__.split("."):
            found = getattr(found, part, None)
        return self.__qualname__ if found is self else (Rule, (self.function,))


def rule(function: Callable[..., Mapping[str, Any]]) -> Rule:
    """Make an update rule of a function; the module docstring says how it is read.

    Raises:
        FormulaError: for a signature or a body outside the language, naming the rule, the line and the remedy.
    """
    if not inspect.isfunction(function):
        raise TypeError(f"@rule takes a function, not {type(function).__name__}; write @rule above a def")
    made = Rule(function)
    made.formula()  # what is wrong with the default variant is said here, not at the first step
    return made
