"""Rules to go over: every variant of the shipped ones, and arbitrary programs over the whole vocabulary."""

import itertools
import math
import textwrap

import hypothesis.strategies as st
from hypothesis import reject

from descend import Slot, expr, vocabulary
from descend.expr import FormulaError
from descend.rule import Rule


def variants(rule):
    """Every bool, with and without momentum and decay, either direction."""
    choices = {name: [False, True] for name, value in rule.hyper_parameters.items() if isinstance(value, bool)}
    choices |= {name: [0.0, 0.9] for name in ("momentum", "weight_decay") if name in rule.hyper_parameters}
    for values in itertools.product(*choices.values(), [False, True]):
        yield dict(zip([*choices, "maximize"], values, strict=True))


UNARY = ["neg", "abs", "sign", "sqrt", "exp", "log", "tanh"]
BINARY = ["add", "sub", "mul", "div", "pow", "minimum", "maximum"]
COMPARISONS = ["lt", "le", "gt", "ge", "eq", "ne"]
REDUCTIONS = ["sum", "mean", "norm", "global_sum", "global_mean", "global_norm"]
NUMBERS = [
    "0",
    "1",
    "2",
    "3",
    "0.5",
    "0.25",
    "2.5",
    "-1",
    "-2.0",
    "-0.0",
    "1e-8",
    "1e20",
    "2.5e-7",
    "inf",
    "-inf",
    "nan",
]
NAMES = [
    "p",
    "g",
    "t",
    "m",
    "n",
    "s",
    "lr",
    "rates",
    "beta1",
    "x",
    "y",
    "x1",
    "sqrt",
    "norm",
    "sum",
    "ema",
    "dict",
    "rule",
]
HEADER = """
def random_rule(p, g, t, m=Slot("m"), n=Slot("n", init="lr", dtype="float64"), s=Slot("s", init=0.5, shape="scalar"),
                o=Slot("o", shape="optimizer"), *, lr=0.1, betas=(0.5, 0.25), rates=(1, 2), sign=1.0):
    beta1, beta2 = betas
"""


@st.composite
def programs(draw):
    """A rule's text: statements that bind and rebind names, over the whole vocabulary."""
    elements, numbers, conditions = {"p", "g", "m", "n"}, {"t", "s", "lr", "beta1", "beta2", "sign"}, set()
    lines = []
    for _ in range(draw(st.integers(0, 6))):
        name = draw(st.sampled_from(NAMES))
        kind = draw(st.sampled_from(["element", "element", "number", "condition"]))
        value = draw(expressions(3, kind, sorted(elements), sorted(numbers), sorted(conditions)))
        lines.append(f"{name} = operand({value})")
        for names in (elements, numbers, conditions):
            names.discard(name)
        {"element": elements, "number": numbers, "condition": conditions}[kind].add(name)
    pools = sorted(elements), sorted(numbers), sorted(conditions)
    values = {name: draw(expressions(3, "element", *pools)) for name in ("p", "m", "n")}
    values["s"] = draw(expressions(2, "number", *pools))
    values["o"] = "apply('add', leaf('slot', ('o', 'optimizer')), leaf('t'))"
    lines.append("return {" + ", ".join(f"{name!r}: {value}" for name, value in values.items()) + "}")
    return HEADER + textwrap.indent("\n".join(lines), "    ")


@st.composite
def expressions(draw, depth, kind, elements, numbers, conditions):
    """An expression of the kind: an element of a tensor, one number per tensor, or a condition."""

    def part(kind):
        return draw(expressions(depth - 1, kind, elements, numbers, conditions))

    if kind == "condition":
        if conditions and draw(st.booleans()):
            return draw(st.sampled_from(conditions))
        if depth < 1 or draw(st.integers(0, 4)) == 0:
            return "leaf('fresh', 'm')"
        return f"apply({draw(st.sampled_from(COMPARISONS))!r}, {part('element')}, {part('number')})"
    if depth < 1 or draw(st.integers(0, 3)) == 0:
        if kind == "element":
            return draw(st.sampled_from([*elements, "leaf('g')", "leaf('slot', ('m', 'like'))"]))
        leaves = [*numbers, "leaf('hyper', ('rates', 0))", "leaf('hyper', ('rates', 1))", "leaf('numel')"]
        return draw(st.sampled_from(leaves) | st.sampled_from(NUMBERS).map("constant({})".format))
    form = draw(st.sampled_from(["unary", "binary", "binary", "binary", "ema", "clip", "where", "reduction"]))
    first, second = draw(st.permutations([kind, draw(st.sampled_from([kind, "number"]))]))
    if form == "unary":
        return f"apply({draw(st.sampled_from(UNARY))!r}, {part(kind)})"
    if form == "ema":
        return f"ema_({part(first)}, {part(second)}, {draw(st.sampled_from(['0.5', '1', part('number')]))})"
    if form == "clip":
        return f"apply('clip', {part(first)}, {part(second)}, {part('number')})"
    if form == "where":
        condition = part("condition") if kind == "element" else f"apply('gt', {part('number')}, {part('number')})"
        return f"apply('where', {condition}, {part(first)}, {part(second)})"
    if form == "reduction" and kind == "number":
        return f"{draw(st.sampled_from(REDUCTIONS))}_({part('element')})"
    return f"apply({draw(st.sampled_from(BINARY))!r}, {part(first)}, {part(second)})"


def made_of(program):
    names = {f"{name}_": getattr(vocabulary, name) for name in [*REDUCTIONS, "ema"]}
    names |= {"Slot": Slot, "inf": math.inf, "nan": math.nan}
    names |= {name: getattr(expr, name) for name in ("apply", "constant", "leaf", "operand")}
    exec(compile(program, "<program>", "exec"), names)
    try:
        return Rule(names["random_rule"]).formula()
    except FormulaError as error:
        if "never assigns it" not in str(error):
            raise
        reject()  # it hands a slot on as it is, and reads it elsewhere
