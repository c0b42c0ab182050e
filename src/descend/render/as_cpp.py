"""A formula as C++: the kernel that the C++ backend compiles for it."""

from __future__ import annotations

from descend.formula import Formula

_ABOUT = """\
// The fused kernel of {name}: all float32 tensors of an optimizer in one call.
// Other storage types, and the options of an optimizer, make kernels of their own.{fresh}
//
// It is compiled behind two files of descend/backends: prelude.hpp has the storage types (load, store), the elementary
// functions and random bits; driver.hpp has Tensor and Call (a row for each tensor, and tables of the scalars that the
// host computes in float64) and for_each_chunk, which takes tensors apart into chunks and shares these among threads.
//
"""
_FRESH = """
// This one takes every step but the first: {slots} {has} no value then, and another kernel gives {it} the first."""


def cpp(formula: Formula) -> str:
    """The kernel of a formula for float32 tensors, without the prelude and the driver that it is compiled with.

    Where the formula gives a slot its first value, the kernel is that of all further steps.
    """
    from descend.backends.cpp import Storage, kernel
    from descend.backends.plan import plan

    name = formula.rule.name if formula.rule.name.isidentifier() else "update_rule"
    planned = plan(formula.settle(frozenset()))
    types = {"p": "float32", "g": "float32", **{name: slot.dtype or "float32" for name, slot in formula.slots.items()}}
    fresh = sorted(formula.asks_fresh)
    return _ABOUT.format(name=name, fresh=_of_fresh(fresh)) + kernel(planned, Storage(tuple(types.items())), name)


def _of_fresh(slots: list[str]) -> str:
    if not slots:
        return ""
    many = len(slots) > 1
    return _FRESH.format(slots=" and ".join(slots), has="have" if many else "has", it="them" if many else "it")
