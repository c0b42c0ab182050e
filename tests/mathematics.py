"""Reads printed mathematics back and evaluates it, so that what is printed can be held against the formula.

All is calculated in the integers modulo a prime: sums, products, quotients and whole powers are exact there, whatever
the order, and everything else (roots, comparisons, reductions) is an unknown function: equal where its arguments are.
LaTeX and MathML are first turned into the tokens of the plain text.
"""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator
from fractions import Fraction

PRIME = 2**61 - 1
RELATIONS = {"<": "lt", "≤": "le", ">": "gt", "≥": "ge", "=": "eq", "≠": "ne"}


def unknown(name, *arguments):
    return hash((name, *arguments)) % PRIME


def number(digits):
    if not digits[0].isdigit():
        return unknown(digits)
    return divide(*Fraction(digits).as_integer_ratio())


def divide(a, b):
    return a * pow(b, -1, PRIME) % PRIME if b % PRIME else unknown("div", a)


def power(base, exponent):
    for whole in range(65):
        if exponent == whole:
            return pow(base, whole, PRIME)
        if base and exponent == PRIME - whole:
            return pow(base, -whole, PRIME)
    return unknown("pow", base, exponent)


def value_of(node, leaves, memory):
    """The value of an expression, whose leaves have the given values: by "p", "m" or ("betas", 0)."""
    if node not in memory:
        memory[node] = _value(node, leaves, [value_of(a, leaves, memory) for a in node.args]) % PRIME
    return memory[node]


def _value(node, leaves, a):
    match node.op:
        case "constant":
            digits = repr(abs(node.value)).replace("inf", "∞").replace("nan", "NaN")
            return number(digits) * (-1 if repr(node.value).startswith("-") else 1)
        case "slot":
            return leaves[node.value[0]]
        case "hyper":
            return leaves[node.value[0] if node.value[1] is None else node.value]
        case "p" | "g" | "t":
            return leaves[node.op]
        case "fresh":
            return unknown("unset", leaves[node.value])
        case "add":
            return a[0] + a[1]
        case "sub":
            return a[0] - a[1]
        case "neg":
            return -a[0]
        case "mul":
            return a[0] * a[1]
        case "div":
            return divide(*a)
        case "pow":
            return power(*a)
        case op:
            return unknown(op, *a)


LETTER = "[A-Za-zα-ωΔ]"
TEXT = re.compile(
    rf"""(?P<space>\ +) | (?P<number>\d+(\.\d+)?|∞|NaN) | (?P<word>(if|otherwise|is\ unset)\b) | (?P<call>\w+(?=\())
    | (?P<name>({LETTER}[\u0302-\u0304]|{LETTER}+)[₀-₉]*′*([⁺⁻](?![⁰¹²³⁴⁵⁶⁷⁸⁹]))?(_[A-Za-z0-9]+)*(ₜ₋₁)?)
    | (?P<raised>⁻?[⁰¹²³⁴⁵⁶⁷⁸⁹]+|ᵗ) | (?P<sign>‖_all|.)""",
    re.VERBOSE,
)
RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻ᵗ", "0123456789−t")


def text_tokens(text: str) -> Iterator[str]:
    for found in TEXT.finditer(text):
        kind, token = found.lastgroup, found[0]
        if found["raised"]:
            yield from ["^", "(", *text_tokens(token.translate(RAISED)), ")"]
        elif not found["space"]:
            yield {"name": "$", "call": "@"}.get(str(kind), "") + token


COMMANDS = (
    r"frac|sqrt|left|right|begin|end|text|cdot|operatorname|[lr]vert|[lr]Vert|(?:le|ge|ne|max|min|exp|log|tanh|infty)\b"
)
LATEX = re.compile(
    rf"""(?P<group>(?P<command>\\frac|\\sqrt|\^)(?={{)) | (?P<space>\ +|\\left|\\right|&)
    | (?P<number>\d+(\.\d+)?|\\mathrm{{NaN}})
    | \\operatorname{{(?P<call>\w+)}}(?P<all>_{{\\text{{all}}}})? | \\(?P<known>max|min|exp|log|tanh)\b
    | (?P<name>(\\(hat|bar|tilde){{(\\?[a-zA-Z]+)}}|\\mathrm{{[^{{}}]+}}|\\(?!{COMMANDS})[a-zA-Z]+|[a-zA-Z])
        (_({{[^{{}}]*}}|\w))?(\^({{(\\prime)*(\\max|\\mathrm{{\w+}})?}}|\\max|\\prime|[+-]))?)
    | (?P<raised>\^.) | (?P<text>\\text{{([^{{}}]*)}}) | (?P<sign>_{{\\text{{all}}}}|\\[a-zA-Z]+({{cases}})?|\\\\|.)""",
    re.VERBOSE,
)
LATEX_SIGNS = {
    "-": "−", "\\le": "≤", "\\ge": "≥", "\\ne": "≠", "\\cdot": "·", "\\infty": "∞", "\\begin{cases}": "{",
    "\\end{cases}": "}", "\\\\": ";", "\\lvert": "|", "\\rvert": "|", "\\lVert": "‖", "\\rVert": "‖",
    "_{\\text{all}}": "_all", "\\mathrm{NaN}": "NaN",
}  # fmt: skip


def latex_tokens(latex: str) -> Iterator[str]:
    place = 0
    while place < len(latex):
        found = LATEX.match(latex, place)
        assert found, latex[place:]
        place = found.end()
        if found["group"]:
            first, place = _braced(latex, place)
            if found["command"] == "\\frac":
                second, place = _braced(latex, place)
                yield from ["(", "(", *latex_tokens(first), ")", "/", "(", *latex_tokens(second), ")", ")"]
            else:
                yield from [found["command"].replace("\\sqrt", "√"), "(", *latex_tokens(first), ")"]
        elif found["raised"]:
            yield from ["^", *latex_tokens(found[0][1:])]
        elif found["call"] or found["known"]:
            yield f"@{found['call'] or found['known']}{'_all' * bool(found['all'])}"
        elif found["name"]:
            yield f"${found[0]}"
        elif found["text"]:
            yield found[0][6:-1].strip()
        elif not found["space"]:
            yield LATEX_SIGNS.get(found[0], found[0])


def _braced(latex, start):
    depth = 0
    for place in range(start, len(latex)):
        depth += {"{": 1, "}": -1}.get(latex[place], 0)
        if not depth:
            return latex[start + 1 : place], place + 1
    raise ValueError(f"unbalanced: {latex}")


def mathml_tokens(elements: Iterable[ElementTree.Element]) -> Iterator[str]:
    elements = list(elements)
    for element, following in itertools.zip_longest(elements, elements[1:]):
        tag, children = _tag(element), list(element)
        words = "".join(element.itertext())
        if following is not None and following.text == "\u2061":
            yield "@" + ("_".join("".join(child.itertext()) for child in children) or words)
        elif tag == "mfrac":
            yield from ["(", "(", *mathml_tokens(children[:1]), ")", "/", "(", *mathml_tokens(children[1:]), ")", ")"]
        elif tag == "msqrt":
            yield from ["√", "(", *mathml_tokens(children), ")"]
        elif tag == "msub" and _tag(children[0]) == "mrow":  # bars, and what they go over
            yield from [*mathml_tokens(children[:1]), "_all"]
        elif tag in ("msup", "msubsup") and not _is_label(children[-1]):
            below = children[1:-1] and "_" + "".join(children[1].itertext())
            base = [*mathml_tokens(children[:1])]
            yield from [*base[:-1], base[-1] + (below or ""), "^", "(", *mathml_tokens(children[-1:]), ")"]
        elif tag in ("mi", "mover", "msub", "msup", "msubsup"):
            marks = {"msub": "_", "msup": "^", "msubsup": "_^", "mover": " "}.get(tag, "")
            parts = ["".join(child.itertext()) for child in children] or [words]
            yield "$" + parts[0] + "".join(mark.strip() + part for mark, part in zip(marks, parts[1:], strict=True))
        elif tag == "mtable":
            yield from _mathml_cases(children)
        elif tag in ("mrow", "mtd"):
            yield from mathml_tokens(children)
        elif words not in ("\u2061", "\u2062"):
            yield words.replace("\xa0", " ").strip().replace("⋅", "·")


def _mathml_cases(rows):
    for row in rows:
        yield from [*mathml_tokens(row), ";"]
    yield "}"


def _tag(element):
    return element.tag.rpartition("}")[2]


def _is_label(element):
    first = element[0].text or ""
    return first in ("+", "−", "′") or (_tag(element[0]) == "mi" and len(first) > 1)


class Reader:
    """Evaluates tokens; `names` holds the values of symbols."""

    def __init__(self, tokens: Iterable[str], names: dict[str, int]) -> None:
        self.tokens, self.names = [*tokens, ""], names
        self.tokens.reverse()
        self.open_bars = ""

    def take(self, *expected):
        token = self.tokens.pop()
        assert not expected or token in expected, (token, expected, self.tokens[::-1])
        return token

    def next_is(self, *tokens):
        return self.tokens[-1] in tokens and bool(self.tokens[-1])

    def whole(self):
        value = self.sum()
        self.take("")
        return value % PRIME

    def condition(self):
        left = self.sum()
        if self.next_is("is unset"):
            self.take()
            return unknown("unset", left % PRIME)
        if self.next_is(*RELATIONS):
            return unknown(RELATIONS[self.take()], left % PRIME, self.sum() % PRIME)
        return left

    def sum(self):
        negative = self.next_is("−") and self.take()
        value = -self.term() if negative else self.term()
        while self.next_is("+", "−"):
            value = value + self.term() if self.take() == "+" else value - self.term()
        return value % PRIME

    def term(self):
        value = self.factor()
        while True:
            if self.next_is("·"):
                self.take()
                value *= self.factor()
            elif self.next_is("/"):
                self.take()
                value = divide(value, self.factor())
                assert not self.at_factor(), "a quotient is followed by a factor"
            elif self.at_factor():
                value *= self.factor()
            else:
                return value % PRIME

    def at_factor(self):
        token = self.tokens[-1]
        bars = token in ("|", "‖") and token not in self.open_bars
        return bool(token) and (token[0] in "$@({[√∞N" or token[0].isdigit() or bars)

    def factor(self):
        if self.next_is("√"):
            self.take()
            return unknown("sqrt", self.atom() % PRIME)
        base = self.atom()
        if self.next_is("^"):
            self.take()
            assert not self.next_is("√")
            base = power(base % PRIME, self.atom() % PRIME)
            assert not self.next_is("^")
        return base

    def atom(self):
        token = self.take()
        if token.startswith("$"):
            return self.names[token[1:]]
        if token[0].isdigit() or token in ("∞", "NaN"):
            return number(token)
        if token.startswith("@"):
            return self.call(token[1:])
        if token in ("|", "‖"):
            return self.bars(token)
        if token == "{":
            return self.cases()
        outer, self.open_bars = self.open_bars, ""
        value = self.condition()
        self.take({"(": ")", "[": "]"}[token])
        self.open_bars = outer
        return value

    def bars(self, bar):
        assert bar not in self.open_bars
        outer, self.open_bars = self.open_bars, self.open_bars + bar
        value = self.sum()
        self.open_bars = outer
        closing = self.take(bar, f"{bar}_all")
        everywhere = closing.endswith("_all") or (self.next_is("_all") and self.take())
        return unknown("abs" if bar == "|" else "global_norm" if everywhere else "norm", value)

    def call(self, name):
        self.take("(")
        if name in ("numel", "rows"):  # of the parameter, whose symbol carries no step here
            self.take("$θ", "$\\theta")
            self.take(")")
            return unknown(name)
        outer, self.open_bars = self.open_bars, ""
        arguments = [self.sum()]
        while self.next_is(","):
            self.take()
            arguments.append(self.sum())
        self.take(")")
        self.open_bars = outer
        extremes = {"min": "lowest", "max": "highest"} if len(arguments) == 1 else {"min": "minimum", "max": "maximum"}
        name = extremes.get(name, name)
        return unknown(f"global_{name[:-4]}" if name.endswith("_all") else name, *arguments)

    def cases(self):
        rows = []
        outer, self.open_bars = self.open_bars, ""
        while not self.next_is("}"):
            rows.append(self.case())
            if self.next_is(";"):
                self.take()
        self.take("}")
        self.open_bars = outer
        value, _ = rows.pop()
        for other, condition in reversed(rows):
            value = unknown("where", condition % PRIME, other % PRIME, value % PRIME)
        return value

    def case(self):
        if self.next_is("otherwise"):
            self.take()
            return self.sum(), None
        value = self.sum()
        if self.take("if", "otherwise") == "otherwise":
            return value, None
        return value, self.condition()


def read_text(text: str, names: dict[str, int]) -> dict[str, int]:
    """The values of all symbols after the assignments, in order; the old ones are at hand with ₜ₋₁."""
    names = names | {f"{name}ₜ₋₁": value for name, value in names.items()}
    for line in text.splitlines():
        symbol, _, value = line.partition(" ← ")
        names[symbol] = Reader(text_tokens(value), names).whole()
    return names


def read_latex(latex: str, names: dict[str, int]) -> dict[str, int]:
    """The values of all symbols after the equations."""
    names = dict(names)
    for line in latex.removeprefix("\\begin{aligned}\n").removesuffix("\n\\end{aligned}").split(" \\\\\n"):
        symbol, _, value = line.strip().partition(" &= ")
        assert symbol not in names, symbol
        names[symbol] = Reader(latex_tokens(value), names).whole()
    return names


def read_mathml(mathml: str, names: dict[str, int]) -> dict[str, int]:
    """The values of all symbols after the equations."""
    names = dict(names)
    for left, right in ElementTree.fromstring(mathml)[0]:
        symbol = "".join(mathml_tokens(left))[1:]
        assert symbol not in names, symbol
        names[symbol] = Reader(list(mathml_tokens(right))[1:], names).whole()
    return names
