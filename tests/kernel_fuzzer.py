"""Random formulas over the whole vocabulary, as the text of rules, and random tensors to run them on.

A case is a text file: a rule's source under a line of settings, so that a failure can be read, stored and run again.
Programs are drawn with a rough size of every value, so that most of what is computed stays far from overflow and inside
the domains of its functions; the rest is left to chance, and a few tensors hold zeros, infinities, NaN or subnormals.

    python tests/kernel_fuzzer.py 17      prints case 17
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any

import descend
from descend import Slot, vocabulary
from descend.expr import OPERATIONS, WINDOWS, constant
from descend.rule import Rule

LARGEST = 1e4
"""Values that may grow beyond this are brought down again."""


@dataclass(frozen=True)
class Settings:
    """What a rule runs on.

    Attributes:
        seed: draws the numbers in the tensors.
        shapes: of the parameters.
        second: from which parameter on they stand in a second group.
        rates: hyper-parameters of the second group.
        start: steps applied before the first one.
        absent: the parameters without a gradient in the first step.
        special: a kind of unusual numbers in some of the tensors: "", "zeros" or "infinities".
        transposed: whether matrices are stored column by column.
        low: a low storage type that the case runs in beside float32 and float64, or "".
    """

    seed: int
    shapes: tuple[tuple[int, ...], ...]
    second: int = 1
    rates: dict[str, Any] = field(default_factory=dict)
    start: int = 0
    absent: tuple[int, ...] = ()
    special: str = ""
    transposed: bool = False
    low: str = ""


@dataclass(frozen=True)
class Case:
    """A rule's source and what it runs on."""

    settings: Settings
    source: str

    @property
    def text(self) -> str:
        return f"# {json.dumps(asdict(self.settings))}\n{self.source}"

    @property
    def dtypes(self) -> list[str]:
        return ["float32", "float64", *([self.settings.low] if self.settings.low else [])]

    def rule(self) -> Rule:
        """The rule, made anew."""
        names = {name: getattr(vocabulary, name) for name in (*_CALLABLE, "ema", "fresh")}
        names |= {"constant": constant, "Slot": Slot}
        exec(compile(self.source, f"<case {self.settings.seed}>", "exec"), names)
        return descend.rule(names["fuzzed"])


def read(text: str) -> Case:
    """The case that a text stands for; comment lines before the settings are skipped."""
    lines = text.splitlines(keepends=True)
    while not lines[0].startswith("# {"):
        lines.pop(0)
    raw = json.loads(lines[0][2:])
    raw["shapes"] = tuple(tuple(shape) for shape in raw["shapes"])
    raw["absent"] = tuple(raw.get("absent", ()))
    return Case(Settings(**raw), "".join(lines[1:]))


_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "pow": "**"}
_COMPARISONS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
NOT_DRAWN = WINDOWS | {name for name, row in OPERATIONS.items() if row.whole}  # they have tests of their own
_CALLABLE = [name for name in OPERATIONS if name not in (*_INFIX, *_COMPARISONS, *NOT_DRAWN, "neg", "abs")]


@dataclass(frozen=True)
class Drawn:
    """An expression, a magnitude that its values hardly exceed, and whether they are >= 0 and elements."""

    text: str
    size: float
    positive: bool = False
    elements: bool = True

    def __str__(self) -> str:
        return self.text


class Program:
    """Draws one rule, statement by statement."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.lines: list[str] = []
        self.read: set[str] = set()
        self.elements = [Drawn("p", 4), Drawn("g", 4)]
        self.scalars = [
            Drawn("lr", 0.5, True, False),
            Drawn("beta1", 1, True, False),
            Drawn("beta2", 1, True, False),
            Drawn("eps", 0.1, True, False),
            Drawn("scale", 2, False, False),
            Drawn("t", 20, True, False),
            Drawn("p.numel", 300, True, False),
        ]
        self.slots: dict[str, str] = {}
        self.outputs: dict[str, str] = {}

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def draw(self) -> str:
        """The rule's source."""
        self._declare_slots()
        for number in range(self.random.randint(2, 6)):
            self._state(f"x{number}", self.expression(self.random.randint(1, 3), elements=self.chance(0.75)))
        self._assign_slots()
        step = self.expression(2)
        self.outputs["p"] = f"p - lr * {step}" if self.chance(0.7) else str(self._tamed(step))
        if self.chance(0.2):
            self.outputs["p"] = f"ema(p, {self.outputs['p']}, beta1)"
        slots = "".join(f", {name}={declared}" for name, declared in self.slots.items())
        head = f"def fuzzed(p, g, t{slots}, *, lr=0.1, betas=(0.9, 0.99), eps=1e-3, scale=-1.5):\n"
        returned = ", ".join(f"{name}={value}" for name, value in self.outputs.items())
        body = ["beta1, beta2 = betas", *self.lines, f"return dict({returned})"]
        return head + "".join(f"    {line}\n" for line in body)

    def _declare_slots(self) -> None:
        kinds = self.random.choices(["like", "scalar", "fresh"], [6, 3, 2], k=self.random.randint(0, 3))
        for number, kind in enumerate(kinds):
            name = f"{kind[0]}{number}"
            init = self.random.choice(["", ", init=0.5", ', init="lr"'])
            dtype = self.random.choice(["", "", "", ', dtype="float32"', ', dtype="float64"', ', dtype="bfloat16"'])
            if kind == "scalar":
                dtype = self.random.choice(["", "", ', dtype="float64"'])
                self.slots[name] = f'Slot("{name}"{init}, shape="scalar"{dtype})'
                self.scalars.append(Drawn(name, 2, bool(init), False))
            elif kind == "fresh":
                self.slots[name] = f'Slot("{name}"{dtype})'
            else:
                init = init or self.random.choice(["", ', init="p"'])
                self.slots[name] = f'Slot("{name}"{init}{dtype})'
                self.elements.append(Drawn(name, 4))

    def _assign_slots(self) -> None:
        for name in self.slots:
            if name.startswith("f"):
                first, later = self.expression(1), self.expression(1)
                average = self.random.choice([f"ema({name}, {later}, beta2)", f"beta1 * {name} + {later}"])
                self._state(f"{name}_new", Drawn(f"where(fresh({name}), {first}, {average})", 10))
            elif name.startswith("s"):
                value = self._tamed(self.expression(2, elements=False), 2)
                forms = [
                    f"{name} * beta1 + {value} * {self._number(False)}",
                    f"ema({name}, {value}, beta2)",
                    f"{value}",
                ]
                self._state(f"{name}_new", Drawn(self.random.choice(forms), 2, False, False))
            else:
                x = self._tamed(self.expression(2), 4)
                forms = [f"ema({name}, {x}, beta1)", f"ema({name}, {x} * {x}, beta2)", f"maximum({name}, abs({x}))"]
                self._state(f"{name}_new", Drawn(self.random.choice([*forms, f"{x}"]), 16))
            self.outputs[name] = f"{name}_new"

    def _state(self, name: str, value: Drawn) -> None:
        value = self._tamed(value)
        self.lines.append(f"{name} = {value}")
        known = self.elements if value.elements else self.scalars
        known.append(Drawn(name, value.size, value.positive, value.elements))

    def _tamed(self, x: Drawn, largest: float = LARGEST) -> Drawn:
        if x.size <= largest:
            return x
        form = self.random.choice(["tanh", "clip", "ratio"])
        if form == "tanh":
            return Drawn(f"tanh({x})", 1, x.positive, x.elements)
        if form == "ratio":
            return Drawn(f"({x} / (abs({x}) + 1))", 1, x.positive, x.elements)
        bound = min(largest, 50)
        return Drawn(f"clip({x}, {-bound:g}, {bound:g})", bound, x.positive, x.elements)

    def _number(self, positive: bool) -> str:
        number = self.random.choice(["2", "3", "0.5", "0.1", "1.25", "0.7", f"{self.random.uniform(0.05, 3):.4g}"])
        return number if positive or self.chance(0.7) else f"-{number}"

    def leaf(self, elements: bool) -> Drawn:
        if elements:
            return self._pick(self.elements)
        if self.chance(0.3):
            return Drawn(f"constant({self._number(True)})", 3, True, False)
        return self._pick(self.scalars)

    def _pick(self, known: list[Drawn]) -> Drawn:
        """One of the names, rather one that nothing has read yet."""
        chosen = self.random.choices(known, [1 if x.text in self.read else 4 for x in known])[0]
        self.read.add(chosen.text)
        return chosen

    def expression(self, depth: int, elements: bool = True) -> Drawn:
        """An expression of elements, or of one value per tensor."""
        if depth < 1:
            return self.leaf(elements)
        if not elements and self.chance(0.3):
            return self._reduction(depth)
        return self._tamed(self.random.choice(_FORMS)(self, depth, elements))

    def mixed(self, depth: int, elements: bool) -> tuple[Drawn, Drawn]:
        """Two expressions, at least one of which has elements if the result is to have them."""
        first = self.expression(depth - 1, elements)
        second = self.expression(depth - 1, elements and self.chance(0.6))
        if first == second:
            second = self.expression(depth - 1, elements and self.chance(0.6))
        return (first, second) if self.chance(0.5) else (second, first)

    def positive(self, x: Drawn, guard: float = 0.9) -> Drawn:
        """`x` made not negative, most of the time."""
        if x.positive or not self.chance(guard):
            return x
        if self.chance(0.3) and x.size < 100:
            return Drawn(f"({x}) * ({x})", x.size**2, True, x.elements)
        return Drawn(f"abs({x})", x.size, True, x.elements)

    def _reduction(self, depth: int) -> Drawn:
        x = self.expression(min(depth - 1, 1))
        op = self.random.choice(["sum", "mean", "norm", "global_sum", "global_mean", "global_norm"])
        growth = {"sum": 100, "mean": 1, "norm": 20}[op.removeprefix("global_")]
        return Drawn(f"{op}({x})", x.size * growth, op.endswith("norm") or x.positive, False)

    def condition(self, depth: int, elements: bool) -> str:
        """A comparison; of equality only between leaves, since what is computed twice is seldom equal for sure."""
        sign = self.random.choice(list(_COMPARISONS.values()))
        if sign in ("==", "!="):
            return f"{self.leaf(elements)} {sign} {self.leaf(elements and self.chance(0.5))}"
        a, b = self.mixed(depth, elements)
        return f"({a}) {sign} ({b})"


Form = Callable[[Program, int, bool], Drawn]
_FORMS: list[Form] = []


def _form(weight: int) -> Callable[[Form], Form]:
    def add(form: Form) -> Form:
        _FORMS.extend([form] * weight)
        return form

    return add


@_form(6)
def _arithmetic(program: Program, depth: int, elements: bool) -> Drawn:
    a, b = program.mixed(depth, elements)
    op = program.random.choice(["add", "sub", "mul"])
    size = a.size * b.size if op == "mul" else a.size + b.size
    positive = a.positive and b.positive and op != "sub"
    return Drawn(f"({a} {_INFIX[op]} {b})", size, positive, a.elements or b.elements)


@_form(2)
def _quotient(program: Program, depth: int, elements: bool) -> Drawn:
    a, b = program.mixed(depth, elements)
    if not program.chance(0.85):
        return Drawn(f"({a} / {b})", 1e3 * a.size, False, a.elements or b.elements)
    guard = program.random.choice(["eps", "0.5", "1"])
    size = a.size * {"eps": 1e3, "0.5": 2, "1": 1}[guard]
    b = program.positive(b, guard=1)
    return Drawn(f"({a} / ({b} + {guard}))", size, a.positive, a.elements or b.elements)


@_form(2)
def _power(program: Program, depth: int, elements: bool) -> Drawn:
    x = program.expression(depth - 1, elements)
    kind = program.random.choice(["whole", "broken", "exponent"])
    if kind == "whole":
        exponent = program.random.choice([2, 2, 3])
        return Drawn(f"({x}) ** {exponent}", x.size**exponent, exponent == 2, elements)
    if kind == "broken":
        exponent = program.random.choice(["0.5", "0.75", "1.5", "-0.5", "lr", "beta1"])
        base = program.positive(x)
        return Drawn(f"({base} + eps) ** {exponent}", max(base.size, 1) ** 1.5 + 40, True, elements)
    base = program.random.choice(["beta1", "2", "1.5", "(1 + lr)"])
    return Drawn(f"{base} ** {program._tamed(x, 5)}", 40, True, elements)


@_form(3)
def _function(program: Program, depth: int, elements: bool) -> Drawn:
    x = program.expression(depth - 1, elements)
    op = program.random.choice(["sqrt", "exp", "log", "tanh"])
    if op == "sqrt":
        return Drawn(f"sqrt({program.positive(x)})", max(x.size, 1), True, elements)
    if op == "log":
        return Drawn(f"log({program.positive(x)} + {program.random.choice(['0.1', '1', 'eps'])})", 10, False, elements)
    if op == "exp":
        return Drawn(f"exp({program._tamed(x, 6)})", 400, True, elements)
    return Drawn(f"tanh({x})", 1, x.positive, elements)


@_form(2)
def _unary(program: Program, depth: int, elements: bool) -> Drawn:
    x = program.expression(depth - 1, elements)
    op = program.random.choice(["neg", "abs", "sign"])
    if op == "neg":
        return Drawn(f"(-({x}))", x.size, False, elements)
    return Drawn(f"{op}({x})", 1 if op == "sign" else x.size, op == "abs", elements)


@_form(2)
def _choice(program: Program, depth: int, elements: bool) -> Drawn:
    a, b = program.mixed(depth, elements)
    condition = program.condition(depth, elements and program.chance(0.8))
    return Drawn(f"where({condition}, {a}, {b})", max(a.size, b.size), a.positive and b.positive, elements)


@_form(2)
def _bounded(program: Program, depth: int, elements: bool) -> Drawn:
    a, b = program.mixed(depth, elements)
    size = max(a.size, b.size)
    if program.chance(0.6):
        op = program.random.choice(["minimum", "maximum"])
        return Drawn(f"{op}({a}, {b})", size, a.positive and b.positive, a.elements or b.elements)
    x = a if a.elements or not elements else b
    low, high = program.random.choice([("-1", "1"), ("0", "2"), ("-lr", "lr"), ("eps", "1.5")])
    return Drawn(f"clip({x}, {low}, {high})", 2, low in ("0", "eps"), elements)


@_form(2)
def _average(program: Program, depth: int, elements: bool) -> Drawn:
    a, b = program.mixed(depth, elements)
    beta = program.random.choice(["beta1", "beta2", "0.9"])
    return Drawn(f"ema({a}, {b}, {beta})", a.size + b.size, a.positive and b.positive, a.elements or b.elements)


SIZES = [(0,), (1,), (), (63,), (64,), (65,), (7, 9), (3, 5, 2), (16, 8), (129,), (257,)]


def _settings(random: Random, seed: int, source: str) -> Settings:
    reduces = any(f"{op}(" in source for op in ("sum", "mean", "norm"))
    mixes = "global_" in source and "fresh(" in source  # a kernel reduces over all tensors only if all are alike
    shapes = [random.choice(SIZES) for _ in range(random.randint(1, 5))]
    if random.random() < 0.04:
        shapes.append((random.choice([5000, 20001]),))
    rates = {"lr": round(random.uniform(0.01, 0.5), 4), "betas": [round(random.uniform(0.3, 0.99), 4), 0.999]}
    special = random.choices(["", "zeros", "infinities"], [9, 3, 1 if reduces else 3])[0]
    absent = (random.randrange(len(shapes)),) if random.random() < 0.15 and not mixes else ()
    return Settings(
        seed,
        tuple(shapes),
        random.randint(1, len(shapes)),
        rates,
        random.choice([0, 0, 0, 9, 1000]),
        absent,
        special,
        random.random() < 0.15,
        random.choice(["", "", "", "bfloat16", "float16"]),
    )


def case(seed: int) -> Case:
    """The case of a seed: a formula of 5 to 40 operations and what it runs on."""
    random = Random(seed)
    while True:
        source = Program(random).draw()
        drawn = Case(_settings(random, seed, source), source)
        if _is_fit(drawn.rule()):
            return drawn


def _is_fit(rule: Rule) -> bool:
    """Whether the size is right, and no two scalar slots are given the same node (whose storage type would count?)."""
    formula = rule.formula()
    operations = sum(node.op in OPERATIONS for node in formula.nodes)
    roots = [root for name, root in formula.outputs.items() if name != "p" and formula.slots[name].shape == "scalar"]
    return 5 <= operations <= 40 and len(set(roots)) == len(roots)


def cases(seeds: range) -> Iterator[Case]:
    """The cases of a range of seeds."""
    return map(case, seeds)


if __name__ == "__main__":
    print(case(int(sys.argv[1])).text, end="")
