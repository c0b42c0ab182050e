"""Compiled kernels: a plan for given storage types, made once per process and kept on disk between them."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from descend.backends import compiler, cpp
from descend.backends.cpp import Storage
from descend.backends.plan import Plan, plan
from descend.tracing import Formula


@dataclass(frozen=True, eq=False)
class Kernel:
    """A compiled plan.

    Attributes:
        plan: what it computes.
        storage: the types of its tensors.
        function: what Python calls, with the address of a `Call`.
    """

    plan: Plan
    storage: Storage
    function: Callable[[Any], None]


def prepare(requests: Sequence[tuple[Formula, Storage]]) -> list[Kernel]:
    """Kernels for settled formulas; those that are new are compiled together.

    Raises:
        NotPlanned: for a formula that no kernel can be made of.
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
        titles = dict.fromkeys(f"{formula.rule.name} {storage['p']}" for formula, storage in new)
        library = compiler.load(cpp.translation_unit(sources, ", ".join(titles)))
        for planned, (formula, storage), symbol in zip(plans, new, symbols, strict=True):
            function = getattr(library, symbol)
            function.restype, function.argtypes = None, [ctypes.c_void_p]
            _known(formula)[storage] = Kernel(planned, storage, function)
    return [_known(formula)[storage] for formula, storage in requests]


def identifier(name: str) -> str:
    """A name that C++ takes, from a rule's."""
    return re.sub(r"\W", "_", name, flags=re.ASCII)


def _known(formula: Formula) -> dict[Storage, Kernel]:
    kernels: dict[Storage, Kernel] = formula.derived.setdefault("kernels", {})
    return kernels
