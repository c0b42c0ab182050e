"""A formula as Python: a file with one rule, which reads back to the identical formula."""

from __future__ import annotations

import inspect
import itertools
import json
import keyword
import math
import re
import textwrap
from collections.abc import Iterator
from typing import Final

from descend.expr import Expr, hyper_of
from descend.expr import p as parameter
from descend.formula import Formula, Slot
from descend.render.names import RESERVED, Names
from descend.render.program import Program, as_ema, call_site, number, numbered
from descend.tracing import is_number, is_tuple_of_numbers

_WIDTH: Final = 120

_COMPARISON, _SUM, _PRODUCT, _UNARY, _POWER, _ATOM = range(6)
_INFIX: Final = {
    # the sign, how tightly it binds, and how tightly its left and right arguments bind that stand without parentheses
    "add": ("+", _SUM, _SUM, _PRODUCT),
    "sub": ("-", _SUM, _SUM, _PRODUCT),
    "mul": ("*", _PRODUCT, _PRODUCT, _UNARY),
    "div": ("/", _PRODUCT, _PRODUCT, _UNARY),
    "pow": ("**", _POWER, _ATOM, _UNARY),
    "lt": ("<", _COMPARISON, _SUM, _SUM),
    "le": ("<=", _COMPARISON, _SUM, _SUM),
    "gt": (">", _COMPARISON, _SUM, _SUM),
    "ge": (">=", _COMPARISON, _SUM, _SUM),
    "eq": ("==", _COMPARISON, _SUM, _SUM),
    "ne": ("!=", _COMPARISON, _SUM, _SUM),
}


def python(formula: Formula) -> str:
    """The formula as a Python file: the rule with its docstring, the author's names and the values in force.

    Only what this variant uses is declared. Run, the file gives a rule whose formula is identical, node by node.
    """
    return _File(formula).text()


class _File:
    def __init__(self, formula: Formula) -> None:
        self.formula, self.rule = formula, formula.rule
        # A reduction over all parameters and a draw are known by the places of their calls: each has a line of its own.
        self.program = Program(formula, frozenset(filter(numbered, formula.nodes)))
        self.names = Names(self.program)
        is_name = self.rule.name.isidentifier() and not keyword.iskeyword(self.rule.name)
        self.function_name = self.rule.name if is_name and self.rule.name not in RESERVED else "update_rule"
        self.used_words: set[str] = {"rule"}
        self.uses_math = False

    def text(self) -> str:
        body = [*self._docstring(), *self._statements(), *self._return()]
        head = ["@rule", *self._signature()]
        lines = [*self._imports(), "", "", *head, *(f"    {line}" if line else "" for line in body)]
        return "\n".join(lines) + "\n"

    def _imports(self) -> list[str]:
        words = [f"{w} as {w}_" if w in self._hidden else w for w in sorted(self.used_words - {"constant"})]
        lines = ["import math", ""] if self.uses_math else []
        line = f"from descend import {', '.join(words)}"
        if len(line) > _WIDTH:
            line = "\n".join(["from descend import (", *(f"    {word}," for word in words), ")"])
        constant = ["from descend.expr import constant"] if "constant" in self.used_words else []
        return [*lines, line, *constant]

    @property
    def _hidden(self) -> set[str]:
        """What is named in the file, so that a word of the vocabulary with that name is imported under another."""
        return {self.function_name, *self.names.of.values(), *self.program.signature.values()} - RESERVED

    def _word(self, name: str) -> str:
        self.used_words.add(name)
        return f"{name}_" if name in self._hidden else name

    def _signature(self) -> list[str]:
        state = [name for name in self.rule.inputs if name != "g" or any(n.op == "g" for n in self.formula.nodes)]
        state += [f"{name}={self._slot(slot)}" for name, slot in self.formula.slots.items()]
        used: set[object] = {hyper_of(node)[0] for node in self.formula.nodes if node.op == "hyper"}
        used |= {slot.init for slot in self.formula.slots.values()}
        numbers = [f"{name}={self._value(name)}" for name in self.rule.hyper_parameters if name in used]
        start = f"def {self.function_name}("
        arguments = ", ".join([*state, *(["*"] if numbers else []), *numbers])
        if len(f"{start}{arguments}):") <= _WIDTH:
            return [f"{start}{arguments}):"]
        rows = [_wrapped(part, _WIDTH - len(start) - 2) for part in (state, ["*", *numbers]) if part != ["*"]]
        lines = textwrap.indent(",\n".join(itertools.chain(*rows)), " " * len(start)).splitlines()
        return [start + lines[0].lstrip(), *lines[1:-1], lines[-1] + "):"]

    def _slot(self, slot: Slot) -> str:
        self.used_words.add("Slot")
        options = [("init", slot.init, 0), ("shape", slot.shape, "like"), ("dtype", slot.dtype, None)]
        given = [f"{name}={self._literal(value)}" for name, value, default in options if value != default]
        return f"Slot({', '.join([self._literal(slot.key), *given])})"

    def _value(self, name: str) -> str:
        value = self.formula.hyper_parameters[name]
        if not (is_number(value) or is_tuple_of_numbers(value)):  # a schedule or a tensor cannot be written down
            value = self.rule.hyper_parameters[name]
        return self._literal(value)

    def _literal(self, value: object) -> str:
        if isinstance(value, (tuple, list)):
            inside = ", ".join(map(self._literal, value))
            return f"({inside},)" if len(value) == 1 else f"({inside})"
        if isinstance(value, str):
            return json.dumps(value, ensure_ascii=False)
        if not isinstance(value, float):
            return repr(value)
        if math.isfinite(value):
            return re.sub(r"e\+?(-?)0*", r"e\1", float.__repr__(value))
        self.uses_math = True
        return "math.nan" if math.isnan(value) else f"{'-' * (value < 0)}math.inf"

    def _docstring(self) -> list[str]:
        words = inspect.cleandoc(self.rule.__doc__ or "")
        if not words:
            return []
        words = words.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
        if "\n" in words:
            return [*f'"""{words}'.splitlines(), '"""']
        return [f'"""{words[:-1]}\\""""' if words.endswith('"') else f'"""{words}"""']

    def _statements(self) -> Iterator[str]:
        for name, targets in self.names.unpacked.items():
            yield f"{targets[0]}, = {name}" if len(targets) == 1 else f"{', '.join(targets)} = {name}"
        for leaf, name in self.names.kept.items():
            yield f"{name} = {self.program.signature[leaf]}"
        calls = {"global": 0, "random": 0}
        for node in self.program.defined:
            of = numbered(node)
            if of is not None:
                for _ in range(calls[of], call_site(node)):  # a call that the author did not use
                    yield self._unused_call(of, node)
                calls[of] = call_site(node) + 1
            yield f"{self.names.of[node]} = {self._expression(node)[0]}"

    def _unused_call(self, of: str, node: Expr) -> str:
        """A call that only takes the number before that of `node`."""
        if of == "random":
            return f"{self._word('normal')}(0)"
        return f"{self._word('global_sum')}({self._written(node.args[0], _COMPARISON)})"

    def _return(self) -> list[str]:
        values = [f"{name}={self._written(root, _COMPARISON)}" for name, root in self.formula.outputs.items()]
        line = f"return dict({', '.join(values)})"
        return [line] if len(line) <= _WIDTH - 4 else ["return dict(", *(f"    {value}," for value in values), ")"]

    def _written(self, node: Expr, binding: int) -> str:
        """The node as it stands among others, in parentheses if it binds less tightly than `binding`."""
        if node in self.names.of:
            return self.names.of[node]
        text, tightness = self._expression(node)
        return text if tightness >= binding else f"({text})"

    def _expression(self, node: Expr) -> tuple[str, int]:
        """The node written out, and how tightly it binds."""
        if node.op == "constant":
            value = number(node)
            if value.is_integer() and abs(value) < 1e16 and math.copysign(1, value) == (-1 if value < 0 else 1):
                value = int(value)
            text = self._literal(value)
            return text, _UNARY if text.startswith("-") else _ATOM
        if node.op in _INFIX:
            return self._infix(node)
        if node.op == "neg":
            return f"-{self._operand(node.args[0], _POWER)}", _UNARY
        if node.op in ("numel", "rows"):
            return f"{self._written(parameter, _ATOM)}.{node.op}", _ATOM
        arguments = [self._written(a, _COMPARISON) for a in self.program.arguments(node)]
        if node.op == "abs":
            arguments = [self._operand(a, _COMPARISON) for a in node.args]
        name = node.op if node.op == "abs" else self._word(node.op)
        return f"{name}({', '.join(arguments)})", _ATOM

    def _infix(self, node: Expr) -> tuple[str, int]:
        average = as_ema(node)
        if average is not None:
            return f"{self._word('ema')}({', '.join(self._written(a, _COMPARISON) for a in average)})", _ATOM
        sign, tightness, left_binding, right_binding = _INFIX[node.op]
        left, right = node.args
        # Python would calculate with two numbers itself, and would turn `1 < x` round
        if right.op == "constant" or tightness == _COMPARISON:
            first = self._operand(left, left_binding)
        else:
            first = self._written(left, left_binding)
        second = self._written(right, right_binding)
        if sign == "**" and re.fullmatch(r"-?[\w.]+", first) and re.fullmatch(r"-?[\w.]+", second):
            return f"{first}**{second}", tightness
        return f"{first} {sign} {second}", tightness

    def _operand(self, node: Expr, binding: int) -> str:
        """As `_written`, but a number is made a node."""
        if node.op == "constant":
            return f"{self._word('constant')}({self._expression(node)[0]})"
        return self._written(node, binding)


def _wrapped(parts: list[str], width: int) -> list[str]:
    """The parts on lines of at most `width` characters, commas between those on one line."""
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + len(part) + 2 <= width:
            lines[-1] += f", {part}"
        else:
            lines.append(part)
    return lines
