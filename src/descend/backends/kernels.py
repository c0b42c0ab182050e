"""Compiled kernels: a plan for given storage types, made once per process and kept on disk between them."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from descend.backends import compiler, cpp
from descend.backends.cpp import Storage
from descend.backends.plan import Plan, plan
from descend.expr import hyper_of
from descend.formula import Formula
from descend.tracing import is_structural

_OPTIONS: Final = {
    "gradient_scale": "gradient scale",
    "clip_value": "clip_value",
    "clip_coefficient": "clip_norm",
    "clip_agc": "clip_agc",
    "ema_decay": "ema_decay",
}
"""What titles call the hyper-parameters that an optimizer's options add."""


@dataclass(frozen=True, eq=False)
class Kernel:
    """A compiled plan.

    Attributes:
        plan: what it computes.
        storage: the types of its tensors.
        function: what Python calls, with the address of a `Call`. Other threads of Python go on meanwhile.
    """

    plan: Plan
    storage: Storage
    function: Callable[[Any], None]


def prepare(requests: Sequence[tuple[Formula, Storage]]) -> list[Kernel]:
    """Kernels for settled formulas; those that are new are compiled together.

    Raises:
        CompilationError: if the compiler fails.
    """
    new = [(formula, storage) for formula, storage in dict.fromkeys(requests) if storage not in _known(formula)]
    if new:
        plans = [plan(formula) for formula, _ in new]
        symbols = [f"{identifier(formula.rule.name)}_{number}" for number, (formula, _) in enumerate(new, 1)]
        sources = [
            cpp.kernel(planned, storage, symbol)
            for planned, (_, storage), symbol in zip(plans, new, symbols, strict=True)
        ]
        titles = dict.fromkeys(title(formula, storage) for formula, storage in new)
        library = compiler.load(cpp.translation_unit(sources, "; ".join(titles)))
        for planned, (formula, storage), symbol in zip(plans, new, symbols, strict=True):
            function = getattr(library, symbol)
            function.restype, function.argtypes = None, [ctypes.c_void_p]
            _known(formula)[storage] = Kernel(planned, storage, function)
    return [_known(formula)[storage] for formula, storage in requests]


def title(formula: Formula, storage: Storage) -> str:
    """What tells a kernel from others: the rule with what chose its variant, the types that it stores, its options."""
    defaults = formula.rule.hyper_parameters
    chosen = {name: value for name, value in formula.hyper_parameters.items() if is_structural(defaults[name])}
    variant = [f" {name}={value}" for name, value in chosen.items() if value != defaults[name]]
    measures = formula.outputs["p"].op == "p"  # and changes nothing
    types = storage["g" if measures else "p"]
    for what, names in (("gradient", ["g"]), ("state", formula.slots)):
        others = dict.fromkeys(storage[name] for name in names if storage[name] != storage["p"])
        types += f", {what} {' and '.join(others)}" if others and not measures else ""
    read = {hyper_of(node)[0] for node in formula.nodes if node.op == "hyper"}
    options = [option for name, option in _OPTIONS.items() if name in read - set(defaults)]
    if any(map(storage.is_stochastic, ("p", *formula.slots))) and not measures:
        options.append("stochastic rounding")
    what = "norm of gradients, " if measures else ""
    return ", ".join([f"{what}{formula.rule.name}{''.join(variant)} {types}", *options])


def identifier(name: str) -> str:
    """A name that C++ takes, from a rule's."""
    return re.sub(r"\W", "_", name, flags=re.ASCII)


def _known(formula: Formula) -> dict[Storage, Kernel]:
    kernels: dict[Storage, Kernel] = formula.derived.setdefault("kernels", {})
    return kernels
