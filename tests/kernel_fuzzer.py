"""Random formulas over the whole vocabulary, as the text of rules, and random tensors to run them on.

A case is a text file: a rule's source under a line of settings, so that a failure can be read, stored and run again.
Programs are drawn word by word, with a range of every value, so that most of what is computed stays far from overflow
and inside the domains of its functions; the rest is left to chance, and a few tensors hold zeros, infinities, NaN or
subnormals.

    python tests/kernel_fuzzer.py 17      prints case 17
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any

import descend
from descend.expr import OPERATIONS
from descend.rule import Rule
from descend.search import source as language
from descend.search.words import Kind
from language_words import LANGUAGE, PLAIN, Range, Ranged


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
        names = dict(language.WORDS)
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


CAREFUL = 0.95
"""How often an argument is brought to where a word asks for it."""
TAME = Range(-1e4, 1e4)
"""Values that may leave this are brought back."""
_E, _N = Kind.ELEMENT, Kind.NUMBER


@dataclass(frozen=True)
class Value:
    """What stands in a statement: a name, or a number."""

    text: str | float
    kind: Kind
    range: Range


class Program:
    """Draws one rule, statement by statement.

    Args:
        random: decides.
        words: the grammar.
    """

    def __init__(self, random: Random, words: Mapping[str, Ranged] = PLAIN) -> None:
        self.random, self.words = random, words
        self.lines: list[str] = []
        self.read: set[str | float] = set()
        self.conditions: list[Value] = []
        self.elements = [Value("p", _E, Range(-4, 4)), Value("g", _E, Range(-4, 4))]
        self.scalars = [
            Value("lr", _N, Range(0.01, 0.5)),
            Value("beta1", _N, Range(0.3, 0.99)),
            Value("beta2", _N, Range(0.99, 0.999)),
            Value("eps", _N, Range(1e-3, 1e-3)),
            Value("scale", _N, Range(-1.5, -1.5)),
            Value("t", _N, Range(1, 1002)),
            Value("p.numel", _N, Range(1, 300)),
        ]
        self.slots: dict[Value, str] = {}
        self.outputs: dict[str, str] = {}

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def draw(self) -> str:
        """The rule's source."""
        self._declare_slots()
        for _ in range(self.random.randint(2, 5)):
            self.value(self.random.choice([_E, _E, _N]), self.random.randint(1, 3))
        for slot in self.slots:
            self.outputs[str(slot.text)] = self._new_value_of(slot)
        new = str(self.value(_E, 2).text)
        form = self.random.choice(["p - lr * {}", "p - lr * {}", "{}", "ema(p, p - lr * {}, beta1)"])
        self.outputs["p"] = form.format(new)
        slots = "".join(f", {slot.text}={declared}" for slot, declared in self.slots.items())
        head = f"def fuzzed(p, g, t{slots}, *, lr=0.1, betas=(0.9, 0.99), eps=1e-3, scale=-1.5):\n"
        returned = ", ".join(f"{name}={value}" for name, value in self.outputs.items())
        body = ["beta1, beta2 = betas", *self.lines, f"return dict({returned})"]
        return head + "".join(f"    {line}\n" for line in body)

    # ---- slots

    def _declare_slots(self) -> None:
        kinds = self.random.choices(["like", "scalar", "fresh"], [6, 3, 2], k=self.random.randint(0, 3))
        for number, kind in enumerate(kinds):
            init = self.random.choice(["", ", init=0.5", ', init="lr"', *([', init="p"'] if kind == "like" else [])])
            dtypes = ["", "", "float64"] if kind == "scalar" else ["", "", "", "float32", "float64", "bfloat16"]
            dtype = self.random.choice(dtypes)
            options = ("" if kind == "fresh" else init) + (', shape="scalar"' if kind == "scalar" else "")
            slot = Value(f"{kind[0]}{number}", _N if kind == "scalar" else _E, Range(-16, 16))
            self.slots[slot] = f'Slot("{slot.text}"{options}{f", dtype={dtype!r}" if dtype else ""})'
            if kind != "fresh":
                self._known(slot.kind).append(slot)

    def _new_value_of(self, slot: Value) -> str:
        if slot not in self._known(slot.kind):
            first = self.value(slot.kind, 1, slot.range)
            known = self.conditions[:], self.scalars[:], self.elements[:]
            later = self._brought(self._applied(slot.kind, 1, slot), slot.range)
            self.conditions, self.scalars, self.elements = known  # what reads the slot has no value at first
            return f"where(fresh({slot.text}), {first.text}, {later.text})"
        new = self._applied(slot.kind, 1, slot if self.chance(0.7) else None)
        return str(self._brought(new, slot.range).text)

    # ---- values

    def value(self, kind: Kind, depth: int, within: Range = TAME) -> Value:
        """A value of a kind in a range, with at most so many words above what was there before."""
        if (depth > 0 and self.chance(0.9)) or not self._known(kind):
            return self._brought(self._applied(kind, depth), within)
        if kind is _N and self.chance(0.3):
            return self._number(within)
        return self._brought(self._picked(self._known(kind)), within)

    def _known(self, kind: Kind) -> list[Value]:
        return (self.conditions, self.scalars, self.elements)[kind]

    def _picked(self, known: Sequence[Value]) -> Value:
        """One of the names, rather one that nothing has read yet."""
        return self.random.choices(known, [1 if x.text in self.read else 4 for x in known])[0]

    def _number(self, within: Range) -> Value:
        usual = [x for x in (2.0, 3.0, 0.5, 0.1, 1.25, -0.7, 0.75, 1.0, 0.0, -2.0) if within.holds(Range(x, x))]
        drawn = round(self.random.uniform(max(within.low, -3), min(within.high, 3)), 4)
        number = self.random.choice([*usual, drawn])
        return Value(number, _N, Range(number, number))

    def _applied(self, kind: Kind, depth: int, first: Value | None = None) -> Value:
        """A word of arguments, the first of which may be given: what it is to be a function of."""
        fit = {name: row for name, row in self.words.items() if row.may_give(kind) and (not first or row.gives is None)}
        word = self.random.choices(list(fit), [row.weight for row in fit.values()])[0]
        kinds = self.words[word].kinds(kind, self.random)
        if first:
            kinds[0] = first.kind
        if kind is Kind.CONDITION and self.chance(0.8):
            depth = 1  # between names there are ties
        asked = [x if self.chance(CAREFUL) else TAME for x in self.words[word].asked]
        asked = [x.clamp(TAME) for x in asked]
        args = [self.value(*each) for each in zip(kinds, itertools.repeat(depth - 1), asked)]
        if first:
            args[0] = self._brought(first, asked[0])
        elif len({x.text for x in args}) < len(args):
            args[-1] = self.value(kinds[-1], depth - 1, asked[-1])
        return self._brought(self._stated(word, args), TAME)

    def _brought(self, x: Value, within: Range) -> Value:
        """The value, or a function of it that lies in a range."""
        if x.kind is Kind.CONDITION or within.holds(x.range):
            return x
        ways: list[tuple[str, list[Value]]] = [
            (name, [x])
            for name, word in self.words.items()
            if len(word.takes) == 1 and word.gives is None and word.asked[0].holds(x.range)
            if within.holds(word.range(x.range))
        ]
        bound = self.random.choice([2.0, 50.0, TAME.high])
        ends = within.clamp(Range(-bound, bound))
        ways.append(("clip", [x, *(Value(end, _N, Range(end, end)) for end in (ends.low, ends.high))]))
        return self._stated(*self.random.choice(ways))

    def _stated(self, word: str, args: Sequence[Value]) -> Value:
        """The value of a statement, which is written down."""
        row, name = self.words[word], f"x{len(self.lines)}"
        kind = row.kind(tuple(x.kind for x in args))
        assert kind is not None, f"{word} does not take {args}"
        shown = [x.text for x in args]
        if row.gives is _N:  # Python would compare two numbers
            shown = [f"constant({x})" if isinstance(x, float) else x for x in shown]
        self.lines.append(f"{name} = {row.written(shown)}")
        self.read.update(x.text for x in args)
        value = Value(name, kind, row.range(*(x.range for x in args)))
        self._known(kind).append(value)
        return value


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
        source = Program(random, LANGUAGE).draw()
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
