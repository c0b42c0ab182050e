"""The open space of programs: statements that compute an update, and what is remembered for the next step.

    m = interp(g, m, 0.99)
    update = sign(m)

Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms", arXiv:2302.06675, section 3: a program reads the
weights p, the gradient g, the step t and auxiliary variables, which start at zero and keep what it assigns to them; the
weights become p - lr * update. A mutation inserts a statement, deletes one or changes an argument; every program is run
abstractly, and one that reads what is not there, or an update that does not depend on the gradient, is mutated anew.
Statements that do not reach the update are allowed, as stepping stones, and left out of the rule.

Where we differ: the rate is outside of the program; the functions are those of `descend.search.words`.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Final

from descend.expr import Expr, constant, leaf
from descend.rule import Rule
from descend.schedules import Schedule
from descend.search.source import WORDS as LANGUAGE
from descend.search.source import Namespace, as_file, rule_of
from descend.search.space import SearchError
from descend.search.words import WORDS, Kind, Word

Argument = str | float
INPUTS: Final[Mapping[str, Kind]] = {"p": Kind.ELEMENT, "g": Kind.ELEMENT, "t": Kind.NUMBER}
UPDATE: Final = "update"
_NUMBERS: Final = (0.1, 0.5, 0.9, 0.99, 0.999, 1.0, 2.0, 1e-8, 1e-3)
_LARGEST: Final = 1e10
_INSERTS: Final = range(4, 13)
"""How many statements a program that is drawn at random has been given."""


@dataclass(frozen=True)
class Statement:
    """One assignment: a name, a word of the grammar, and its arguments, names or numbers."""

    target: str
    word: str
    args: tuple[Argument, ...]

    @property
    def reads(self) -> list[str]:
        """The names that it reads."""
        return [arg for arg in self.args if isinstance(arg, str)]

    def __str__(self) -> str:
        return f"{self.target} = {self.word}({', '.join(map(_written, self.args))})"


Program = tuple[Statement, ...]


def _written(arg: Argument) -> str:
    return arg if isinstance(arg, str) else repr(float(arg))


@dataclass(frozen=True)
class Programs:
    """The space of programs.

    Args:
        memory: names of the auxiliary variables, as large as the parameter.
        start: what evolution starts from; by default AdamW's program, or gradient descent's where memory lacks m or v.
        longest: the most statements.
        words: the grammar.

    Raises:
        SearchError: if `start` is no program of the space.
    """

    memory: tuple[str, ...] = ("m", "v")
    start: Program = field(default=(), repr=False)
    longest: int = 30
    words: Mapping[str, Word] = field(default_factory=lambda: WORDS, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.start:
            object.__setattr__(self, "start", parse(ADAMW if {"m", "v"} <= {*self.memory} else GRADIENT))
        for name in self.memory:
            if not _is_free(name):
                raise SearchError(f"memory {name!r} cannot be assigned to; give another name")
        fault = self.fault(self.start)
        if fault:
            raise SearchError(f"start is no program: {fault}")

    @property
    def name(self) -> str:
        """What the command line calls it."""
        return "programs"

    def random(self, random: Random) -> Program:
        """Draw a program: statements inserted one by one around `update = g`."""
        program = parse(GRADIENT)
        for _ in range(min(random.choice(_INSERTS), self.longest - 1)):
            program = self._changed(program, random, [self._insert])
        return program

    def mutate(self, member: Program, random: Random) -> Program:
        """Return the program with a statement inserted, deleted or changed in one argument, each equally likely."""
        kinds = [self._delete, self._modify]
        if len(member) < self.longest:
            kinds.append(self._insert)
        return self._changed(member, random, kinds)

    def _changed(
        self, program: Program, random: Random, kinds: Sequence[Callable[[Program, Random], Program]]
    ) -> Program:
        while True:
            changed = random.choice(kinds)(program, random)
            if changed != program and not self.fault(changed):
                return changed

    def _insert(self, program: Program, random: Random) -> Program:
        place = random.randint(0, len(program))
        known = [*INPUTS, *self.memory, *dict.fromkeys(statement.target for statement in program[:place])]
        word = random.choice(list(self.words))
        args = tuple(self._argument(known, random) for _ in self.words[word].takes)
        free = next(f"x{k}" for k in range(1, len(program) + 2) if all(s.target != f"x{k}" for s in program))
        targets = [free, UPDATE, *self.memory, *dict.fromkeys(statement.target for statement in program)]
        return (*program[:place], Statement(random.choice(targets), word, args), *program[place:])

    def _argument(self, known: Sequence[str], random: Random) -> Argument:
        if random.random() < 0.75:
            return random.choice(known)
        return random.choice(_NUMBERS) if random.random() < 0.5 else random.gauss(0, 1)

    def _delete(self, program: Program, random: Random) -> Program:
        place = random.randrange(len(program))
        return (*program[:place], *program[place + 1 :])

    def _modify(self, program: Program, random: Random) -> Program:
        place = random.randrange(len(program))
        statement = program[place]
        number = random.randrange(len(statement.args))
        arg = statement.args[number]
        known = [*INPUTS, *self.memory, *dict.fromkeys(earlier.target for earlier in program[:place])]
        if isinstance(arg, float) and random.random() < 0.75:
            new: Argument = random.gauss(0, 1) if random.random() < 0.5 else arg * 2 ** random.gauss(0, 1)
        else:
            new = self._argument(known, random)
        args = (*statement.args[:number], new, *statement.args[number + 1 :])
        return (*program[:place], replace(statement, args=args), *program[place + 1 :])

    # ---- what a program says

    def fault(self, program: Program) -> str:
        """What is wrong with a program, by running it abstractly; "" for one that is right."""
        if not 0 < len(program) <= self.longest:
            return f"it has {len(program)} statements; give 1 to {self.longest}"
        kinds = {**INPUTS, **dict.fromkeys(self.memory, Kind.ELEMENT)}
        for statement in program:
            fault = self._check(statement, kinds)
            if fault:
                return f"{statement}: {fault}"
        if UPDATE not in kinds:
            return f"it does not assign {UPDATE}"
        if not any("g" in statement.reads for statement in self.pruned(program)):
            return f"{UPDATE} does not depend on g"
        return ""

    def _check(self, statement: Statement, kinds: dict[str, Kind]) -> str:
        if statement.word not in self.words:
            return f"{statement.word} is none of {', '.join(self.words)}"
        if not _is_free(statement.target):
            return f"{statement.target} cannot be assigned to"
        for arg in statement.args:
            if isinstance(arg, str) and arg not in kinds:
                return f"{arg} has no value there"
            if isinstance(arg, float) and not abs(arg) <= _LARGEST:
                return f"{arg} is not within {_LARGEST:g}"
        word = self.words[statement.word]
        if len(word.takes) != len(statement.args):
            return f"{statement.word} takes {len(word.takes)} arguments"
        given = tuple(kinds[arg] if isinstance(arg, str) else Kind.NUMBER for arg in statement.args)
        kind = word.kind(given)
        if kind is None:
            return f"{statement.word} does not take arguments of these kinds"
        kinds[statement.target] = kind
        return ""

    def pruned(self, program: Program) -> Program:
        """The statements that reach the update, in this step or through memory in a later one."""
        remembered: set[str] = set()
        while True:
            wanted, kept = {UPDATE, *remembered}, []
            for statement in reversed(program):
                if statement.target in wanted:
                    wanted.discard(statement.target)
                    wanted.update(statement.reads)
                    kept.append(statement)
            read = remembered | (wanted & set(self.memory))
            if read == remembered:
                return tuple(reversed(kept))
            remembered = read

    def essence(self, member: Program) -> Program:
        """Return the statements that reach the update."""
        return self.pruned(member)

    def remembered(self, program: Program) -> list[str]:
        """The memory that a pruned program needs: what it assigns to, and reads before."""
        assigned: set[str] = set()
        read: set[str] = set()
        for statement in program:
            read.update(name for name in statement.reads if name not in assigned)
            assigned.add(statement.target)
        return [name for name in self.memory if name in read & assigned]

    def update(self, member: Program) -> tuple[Expr, Mapping[str, Expr]]:
        """Return the update at rate 1, and what is assigned to each slot that it needs."""
        names, program = Namespace(), self.pruned(member)
        memory = self.remembered(program)
        values: dict[str, Any] = {name: leaf(name) for name in INPUTS}
        # memory that nothing writes stays at zero
        values |= {name: leaf("slot", (name, "like")) if name in memory else constant(0) for name in self.memory}
        for statement in program:
            args = [values[arg] if isinstance(arg, str) else arg for arg in statement.args]
            if all(isinstance(arg, float) for arg in args):
                args = list(map(constant, args))
            values[statement.target] = _function(names, self.words[statement.word])(*args)
        return values[UPDATE], {name: values[name] for name in memory}

    def source(self, member: Program, name: str = "found", doc: str = "") -> str:
        """Return the program as a Python file with one rule."""
        return as_file(self._text(member, name, doc))

    def rule(self, member: Program, name: str = "found") -> Rule:
        """Return the program as a rule: p - lr * update."""
        return rule_of(self._text(member, name, ""), name)

    def schedules(self, steps: int) -> dict[str, Schedule]:
        """Return nothing: a program has no hyper-parameter but the rate."""
        return {}

    def encode(self, member: Program) -> str:
        """Return the program as one line of statements between semicolons."""
        return "; ".join(map(str, member))

    def decode(self, text: str) -> Program:
        """Return the program of such a line.

        Raises:
            SearchError: it is no program of the space.
        """
        program = parse(text)
        fault = self.fault(program)
        if fault:
            raise SearchError(f"no program: {fault}")
        return program

    def _text(self, member: Program, name: str, doc: str) -> str:
        fault = self.fault(member)
        if fault:
            raise SearchError(f"no program: {fault}")
        program = self.pruned(member)
        memory = self.remembered(program)
        slots = [f'{name}=Slot("{name}")' for name in memory]
        lines = [f"{name} = constant(0)" for name in self._unwritten(program, memory)]
        lines += [f"{statement.target} = {self.words[statement.word].written(statement.args)}" for statement in program]
        assigned = "".join(f", {name}={name}" for name in memory)
        lines.append(f"return dict(p=p - lr * {UPDATE}{assigned})")
        head = f"def {name}({', '.join(['p', 'g', 't', *slots, '*', 'lr=0.001'])}):"
        return "\n".join([head, *(f"    {line}" for line in [*([f'"""{doc}"""'] if doc else []), *lines])]) + "\n"

    def _unwritten(self, program: Program, memory: Sequence[str]) -> list[str]:
        read = {name for statement in program for name in statement.reads}
        return [
            name for name in self.memory if name in read and name not in memory and self._reads_first(program, name)
        ]

    def _reads_first(self, program: Program, name: str) -> bool:
        for statement in program:
            if name in statement.reads:
                return True
            if statement.target == name:
                return False
        return False


_TAKEN: Final = frozenset([*INPUTS, *LANGUAGE, "lr", "dict", "abs", "rule"])
"""What a rule's text needs itself."""


def _is_free(name: str) -> bool:
    """Whether a value may be called so."""
    return name.isidentifier() and not keyword.iskeyword(name) and name not in _TAKEN


_STATEMENT: Final = re.compile(r"\s*(\w+)\s*=\s*(\w+)\(([^()]*)\)\s*")


def parse(text: str) -> Program:
    """Return the statements of a line or of several.

    Raises:
        SearchError: a statement does not have the form `name = word(argument, ...)`.
    """
    return tuple(_parsed(part) for part in re.split(r"[;\n]", text) if part.strip())


def _parsed(part: str) -> Statement:
    found = _STATEMENT.fullmatch(part)
    if not found:
        raise SearchError(f"{part.strip()!r} is no statement; write name = word(argument, ...)")
    target, word, inside = found.groups()
    args = tuple(_read(arg.strip()) for arg in inside.split(",")) if inside.strip() else ()
    return Statement(target, word, args)


def _read(text: str) -> Argument:
    if text.isidentifier():
        return text
    try:
        return float(text)
    except ValueError:
        raise SearchError(f"{text!r} is neither a name nor a number") from None


def _function(names: Namespace, word: Word) -> Any:
    holes = tuple(f"a{number}" for number in range(len(word.takes)))
    return names.function(word.text.replace("{", "{a"), *holes)


GRADIENT: Final = "update = mul(g, 1.0)"
ADAMW: Final = """
m = interp(g, m, 0.9)
x1 = square(g)
v = interp(x1, v, 0.999)
x2 = pow(0.9, t)
x2 = sub(1.0, x2)
x3 = div(m, x2)
x4 = pow(0.999, t)
x4 = sub(1.0, x4)
x5 = div(v, x4)
x5 = sqrt(x5)
x5 = add(x5, 1e-08)
update = div(x3, x5)
x6 = mul(p, 0.01)
update = add(update, x6)
"""
"""AdamW, Loshchilov and Hutter 2019, arXiv:1711.05101, Algorithm 2, with a decay of 0.01."""

LION: Final = """
x1 = interp(g, m, 0.9)
m = interp(g, m, 0.99)
update = sign(x1)
"""
"""Lion, Chen et al. 2023, Algorithm 2, without decay."""
