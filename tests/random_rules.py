"""Rules to go over: every variant of the shipped ones, and arbitrary programs over the whole vocabulary."""

import itertools
import math
import re
import textwrap

import hypothesis.strategies as st
from hypothesis import reject

from descend import Slot, expr
from descend.expr import FormulaError
from descend.rule import Rule
from descend.search import source as language
from descend.search.words import Kind
from language_words import LANGUAGE


def variants(rule):
    """Every bool, with and without momentum and decay, either direction."""
    choices = {name: [False, True] for name, value in rule.hyper_parameters.items() if isinstance(value, bool)}
    choices |= {name: [0.0, 0.9] for name in ("momentum", "weight_decay") if name in rule.hyper_parameters}
    for values in itertools.product(*choices.values(), [False, True]):
        yield dict(zip([*choices, "maximize"], values, strict=True))


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


WORDS = [word for name, word in LANGUAGE.items() if name not in ("keep", "normal") and "eps" not in word.text]
"""Printed mathematics does not tell two draws apart, so random operations are left out."""


@st.composite
def programs(draw):
    """A rule's text: statements that bind and rebind names, over the whole vocabulary."""
    known = [set(), {"t", "s", "lr", "beta1", "beta2", "sign"}, {"p", "g", "m", "n"}]
    lines = []
    for _ in range(draw(st.integers(0, 6))):
        name = draw(st.sampled_from(NAMES))
        kind = draw(st.sampled_from([Kind.ELEMENT, Kind.ELEMENT, Kind.NUMBER, Kind.CONDITION]))
        value = draw(expressions(3, kind, [sorted(names) for names in known]))
        lines.append(f"{name} = operand({value})")
        for names in known:
            names.discard(name)
        known[kind].add(name)
    pools = [sorted(names) for names in known]
    values = {name: draw(expressions(3, Kind.ELEMENT, pools)) for name in ("p", "m", "n")}
    values["s"] = draw(expressions(2, Kind.NUMBER, pools))
    values["o"] = "apply('add', leaf('slot', ('o', 'optimizer')), leaf('t'))"
    lines.append("return {" + ", ".join(f"{name!r}: {value}" for name, value in values.items()) + "}")
    return HEADER + textwrap.indent("\n".join(lines), "    ")


@st.composite
def expressions(draw, depth, kind, known):
    """An expression of the kind: an element of a tensor, one number per tensor, or a condition; of names by kind."""
    if depth < 1 or draw(st.integers(0, 3)) == 0:
        return draw(leaves(kind, known[kind]))
    word = draw(st.sampled_from([word for word in WORDS if word.may_give(kind)]))
    kinds = word.kinds(kind, draw(st.randoms(use_true_random=False)))
    parts = [draw(expressions(depth - 1, wanted, known)) for wanted in kinds]
    own_names = re.sub(r"\b([a-z_]+)\(", r"\1_(", word.text)  # a rule may bind the language's
    return f"({own_names.format(*parts)})"


def leaves(kind, known):
    """What stands at the ends of an expression."""
    if kind is Kind.CONDITION:
        return st.sampled_from([*known, "leaf('fresh', 'm')"])
    if kind is Kind.ELEMENT:
        return st.sampled_from([*known, "leaf('g')", "leaf('slot', ('m', 'like'))"])
    unnamed = ["leaf('hyper', ('rates', 0))", "leaf('hyper', ('rates', 1))", "leaf('numel')"]
    return st.sampled_from([*known, *unnamed]) | st.sampled_from(NUMBERS).map("constant({})".format)


def made_of(program):
    names = {f"{name}_": value for name, value in {**language.WORDS, "abs": abs}.items()}
    names |= {"Slot": Slot, "inf": math.inf, "nan": math.nan}
    names |= {name: getattr(expr, name) for name in ("apply", "constant", "leaf", "operand")}
    exec(compile(program, "<program>", "exec"), names)
    try:
        return Rule(names["random_rule"]).formula()
    except FormulaError as error:
        if "never assigns it" not in str(error):
            raise
        reject()  # it hands a slot on as it is, and reads it elsewhere
