"""The space of Neural Optimizer Search: sentences of operands and functions, as data.

    u1(op1) b u2(op2)           a group: two operands, a function of each, and what joins the two

A sentence is one to three groups of five tokens (op1, op2, u1, u2, b); what a group says is an operand of the next
ones, and what the last one says is the update U of p <- p - lr * U. Bello, Zoph, Vasudevan and Le 2017,
arXiv:1709.07417, section 3 and figure 3; the decays are those of its later version.

What the paper leaves open is settled so: m_hat, v_hat and gamma_hat are bias-corrected averages of g, g^2 and g^3 with
decays 0.9, 0.999 and 0.999, each computed once per step, before anything reads it; ADAM and RMSProp are the updates of
this library's rules with their default numbers, at rate 1; drop(x, q) leaves what stays as it is (no 1/(1-q)); the
noise has standard deviation 0.01, not variance; the annealed noise has variance 1/t^0.55, t from 1 (that of
TensorFlow's noisy_linear_cosine_decay, whose t starts at 0). The two operands of a group may be the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from random import Random
from typing import Any, Final

from descend.expr import Expr, leaf, operand
from descend.rule import Rule
from descend.schedules import Schedule, cyclical, linear, restart
from descend.search.sentences import LEFT, TOKENS, Sentence, essence_of, groups_of, needed_groups
from descend.search.source import Namespace, as_file, rule_of
from descend.search.space import SearchError

SEPARATOR: Final = " | "
RESTARTS: Final = 20


@dataclass(frozen=True)
class Helper:
    """A value that operands are made of: the line that computes it, what it needs, and its slot if it is an average."""

    line: str
    needs: tuple[str, ...] = ()
    key: str | None = None


HELPERS: Final[Mapping[str, Helper]] = {
    "m": Helper("ema(m, g, 0.9)", (), "exp_avg"),
    "v": Helper("ema(v, g * g, 0.999)", (), "exp_avg_sq"),
    "gamma": Helper("ema(gamma, g * g * g, 0.999)", (), "exp_avg_cube"),
    "s": Helper("ema(s, g * g, 0.99)", (), "square_avg"),
    "m_hat": Helper("m / (1 - 0.9**t)", ("m",)),
    "v_hat": Helper("v / (1 - 0.999**t)", ("v",)),
    "gamma_hat": Helper("gamma / (1 - 0.999**t)", ("gamma",)),
    "adam": Helper("m_hat / (sqrt(v_hat) + 1e-8)", ("m_hat", "v_hat")),
    "rmsprop": Helper("g / (sqrt(s) + 1e-8)", ("s",)),
}


@dataclass(frozen=True)
class Operand:
    """A row of the table of operands: its name, its text, the helpers that it needs, the hyper-parameter that it is."""

    name: str
    text: str
    needs: tuple[str, ...] = ()
    hyper: str | None = None


OPERANDS: Final = (
    Operand("g", "g"),
    Operand("g^2", "(g * g)"),
    Operand("g^3", "(g * g * g)"),
    Operand("m", "m_hat", ("m_hat",)),
    Operand("v", "v_hat", ("v_hat",)),
    Operand("gamma", "gamma_hat", ("gamma_hat",)),
    Operand("sign(g)", "sign(g)"),
    Operand("sign(m)", "sign(m_hat)", ("m_hat",)),
    Operand("1", "1"),
    Operand("2", "2"),
    Operand("eps", "normal(0.01)"),
    Operand("1e-4w", "(1e-4 * p)"),
    Operand("1e-3w", "(1e-3 * p)"),
    Operand("1e-2w", "(1e-2 * p)"),
    Operand("1e-1w", "(1e-1 * p)"),
    Operand("ADAM", "adam", ("adam",)),
    Operand("RMSProp", "rmsprop", ("rmsprop",)),
)
DECAYS: Final = (
    Operand("ld", "linear", hyper="linear"),
    Operand("cd", "cyclical", hyper="cyclical"),
    Operand("rd", "restart", hyper="restart"),
    Operand("eps_t", "normal(t**-0.275)"),
)
UNARY: Final[Mapping[str, str]] = {
    "x": "{x}",
    "-x": "-{x}",
    "exp": "exp({x})",
    "log": "log(abs({x}))",
    "sqrt": "sqrt(abs({x}))",
    "clip(1e-5)": "clip({x}, -1e-5, 1e-5)",
    "clip(1e-4)": "clip({x}, -1e-4, 1e-4)",
    "clip(1e-3)": "clip({x}, -1e-3, 1e-3)",
    "drop(0.1)": "keep({x}, 0.9)",
    "drop(0.3)": "keep({x}, 0.7)",
    "drop(0.5)": "keep({x}, 0.5)",
    "sign": "sign({x})",
}
BINARY: Final[Mapping[str, str]] = {
    "+": "{x} + {y}",
    "-": "{x} - {y}",
    "*": "{x} * {y}",
    "/": "{x} / ({y} + 1e-8)",
    "^": "{x} ** {y}",
    "left": "{x}",
}
_UNARIES, _BINARIES = tuple(UNARY), tuple(BINARY)
assert _BINARIES.index("left") == LEFT
_ADDITION: Final = tuple(BINARY).index("+")
CONSTRAINTS: Final = ("distinct", "reuse", "no-addition")


@dataclass(frozen=True)
class Nos:
    """The space of sentences.

    Args:
        depth: groups in a sentence, 1 to 3.
        decays: whether the operands include decays over the training: linear, cyclical (half a period), restarts (20)
            and annealed noise. The first three are hyper-parameters of the rule that a schedule drives, as the f of
            PowerSign; `schedules(steps)` gives them.
        constraints: what the paper's controller may be held to: "distinct" (a group's operands differ), "reuse" (a
            group after the first has the one before it as an operand), "no-addition" (the last function is not +).

    Raises:
        SearchError: for another depth, or a constraint that is unknown.
    """

    depth: int = 1
    decays: bool = False
    constraints: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.depth not in (1, 2, 3) or isinstance(self.depth, bool):
            raise SearchError(f"depth is {self.depth!r}; a sentence has 1, 2 or 3 groups")
        for name in self.constraints:
            if name not in CONSTRAINTS:
                raise SearchError(f"constraint {name!r} is unknown; choose of {', '.join(CONSTRAINTS)}")

    @property
    def name(self) -> str:
        """What the command line calls it."""
        return "nos"

    @cached_property
    def operands(self) -> tuple[Operand, ...]:
        """The operands that every group can have."""
        return (*OPERANDS, *(DECAYS if self.decays else ()))

    # ---- sentences, token by token

    @property
    def length(self) -> int:
        """Tokens in a sentence."""
        return TOKENS * self.depth

    def sizes(self) -> tuple[int, ...]:
        """How many tokens there are to choose from at each place."""
        known = len(self.operands)
        groups = ((known + k, known + k, len(UNARY), len(UNARY), len(BINARY)) for k in range(self.depth))
        return tuple(size for group in groups for size in group)

    @property
    def count(self) -> int:
        """How many sentences there are, constraints apart."""
        total = 1
        for size in self.sizes():
            total *= size
        return total

    def allowed(self, prefix: Sequence[int]) -> list[bool]:
        """Which tokens may follow those of `prefix`."""
        size, (group, kind) = self.sizes()[len(prefix)], divmod(len(prefix), TOKENS)
        masks = [True] * size
        before = len(self.operands) + group - 1
        if kind == 1:
            first = prefix[-1]
            if "distinct" in self.constraints:
                masks[first] = False
            if "reuse" in self.constraints and group and first != before:
                masks = [token == before for token in range(size)]
        if kind == 4 and group == self.depth - 1 and "no-addition" in self.constraints:
            masks[_ADDITION] = False
        return masks

    def random(self, random: Random) -> Sentence:
        """Draw a sentence, every token uniformly among those that are allowed."""
        sentence: list[int] = []
        while len(sentence) < self.length:
            sentence.append(random.choice(_places(self.allowed(sentence))))
        return tuple(sentence)

    def mutate(self, member: Sentence, random: Random) -> Sentence:
        """Return the sentence with one token changed."""
        while True:
            place = random.randrange(self.length)
            others = [token for token in range(self.sizes()[place]) if token != member[place]]
            changed = (*member[:place], random.choice(others), *member[place + 1 :])
            if self._is_allowed(changed):
                return changed

    def _is_allowed(self, sentence: Sentence) -> bool:
        return not self.constraints or all(
            self.allowed(sentence[:place])[token] for place, token in enumerate(sentence)
        )

    def __iter__(self) -> Iterator[Sentence]:
        """Every sentence, in the order of their tokens."""
        return filter(self._is_allowed, product(*map(range, self.sizes())))

    def __contains__(self, sentence: object) -> bool:
        sizes = self.sizes()
        if not isinstance(sentence, tuple) or len(sentence) != len(sizes):
            return False
        return all(
            isinstance(token, int) and 0 <= token < size for token, size in zip(sentence, sizes, strict=True)
        ) and self._is_allowed(sentence)

    def encode(self, member: Sentence) -> str:
        """Return the sentence in words: the five tokens of each group, with a bar between groups."""
        self._check(member)
        return SEPARATOR.join(" ".join(group) for group in self._words(member))

    def decode(self, text: str) -> Sentence:
        """Return the sentence of such words.

        Raises:
            SearchError: a word is unknown at its place, or there are too few or too many.
        """
        groups = [group.split() for group in text.split(SEPARATOR)]
        if len(groups) != self.depth or any(len(group) != TOKENS for group in groups):
            raise SearchError(f"{text!r} has not {self.depth} x {TOKENS} words: two operands, two functions, one joint")
        tokens = []
        for number, group in enumerate(groups):
            for word, table in zip(group, self._tables(number), strict=True):
                if word not in table:
                    raise SearchError(f"{word!r} is unknown there; choose of {', '.join(table)}")
                tokens.append(table.index(word))
        self._check(tuple(tokens))
        return tuple(tokens)

    def _check(self, member: object) -> None:
        if member not in self:
            raise SearchError(f"{member!r} is no sentence of {self!r}")

    def _tables(self, group: int) -> tuple[tuple[str, ...], ...]:
        operands = (*(row.name for row in self.operands), *(f"x{k + 1}" for k in range(group)))
        return operands, operands, _UNARIES, _UNARIES, _BINARIES

    def _words(self, member: Sentence) -> list[list[str]]:
        return [
            [table[token] for table, token in zip(self._tables(k), group, strict=True)]
            for k, group in enumerate(groups_of(member))
        ]

    # ---- sentences as formulas

    def essence(self, member: Sentence) -> Sentence:
        """Return what of a sentence is read, the legs of sums and products in one order."""
        return essence_of(member, len(self.operands))

    def update(self, member: Sentence) -> tuple[Expr, Mapping[str, Expr]]:
        """Return the update at rate 1, and what is assigned to each slot that it needs."""
        _LANGUAGE.names.restart()
        values: list[Any] = []
        read = needed_groups(member, len(self.operands))
        for number, (left, right, of_left, of_right, joint) in enumerate(groups_of(member)):
            if number not in read:
                values.append(None)
                continue
            x = _LANGUAGE.unary[of_left](self._value(left, values))
            y = None if joint == LEFT else _LANGUAGE.unary[of_right](self._value(right, values))
            values.append(_LANGUAGE.binary[joint](x, y))
        helpers = self._helpers(member)
        return operand(values[-1]), {name: _LANGUAGE.averages[name] for name in helpers if HELPERS[name].key}

    def _value(self, token: int, values: Sequence[Any]) -> Any:
        known = len(self.operands)
        return values[token - known] if token >= known else _LANGUAGE.operands[self.operands[token].name]()

    def _operands_read(self, member: Sentence) -> list[Operand]:
        known, read = len(self.operands), needed_groups(member, len(self.operands))
        tokens = []
        for number, (left, right, _, _, joint) in enumerate(groups_of(member)):
            if number in read:
                tokens += [left] if joint == LEFT else [left, right]
        return [self.operands[token] for token in dict.fromkeys(tokens) if token < known]

    def _helpers(self, member: Sentence) -> list[str]:
        wanted: set[str] = set()
        waiting = [name for row in self._operands_read(member) for name in row.needs]
        while waiting:
            name = waiting.pop()
            wanted.add(name)
            waiting += HELPERS[name].needs
        return [name for name in HELPERS if name in wanted]

    def source(self, member: Sentence, name: str = "found", doc: str = "") -> str:
        """Return the sentence as a Python file with one rule."""
        return as_file(self._text(member, name, doc))

    def rule(self, member: Sentence, name: str = "found") -> Rule:
        """Return the sentence as a rule: p - lr * U."""
        return rule_of(self._text(member, name, ""), name)

    def schedules(self, steps: int) -> dict[str, Schedule]:
        """Return what drives the decays of a training of so many steps, by hyper-parameter."""
        if not self.decays:
            return {}
        return {"linear": linear(steps), "cyclical": cyclical(steps, 0.5), "restart": restart(steps, RESTARTS)}

    def _text(self, member: Sentence, name: str, doc: str) -> str:
        self._check(member)
        helpers = self._helpers(member)
        slots = [f'{h}=Slot("{HELPERS[h].key}")' for h in helpers if HELPERS[h].key]
        hypers = [f"{row.hyper}=1.0" for row in self._operands_read(member) if row.hyper]
        lines = [f"{h} = {HELPERS[h].line}" for h in helpers]
        texts: list[str] = []
        read, last = needed_groups(member, len(self.operands)), self.depth - 1
        for number, (left, right, of_left, of_right, joint) in enumerate(groups_of(member)):
            x = _applied(of_left, self._operand_text(left))
            y = _applied(of_right, self._operand_text(right))
            texts.append(BINARY[_BINARIES[joint]].format(x=x, y=y))
            if number in read and number < last:
                lines.append(f"x{number + 1} = {texts[-1]}")
        assigned = "".join(f", {slot.split('=')[0]}={slot.split('=')[0]}" for slot in slots)
        lines.append(f"return dict(p=p - lr * ({texts[-1]}){assigned})")
        head = f"def {name}({', '.join(['p', 'g', 't', *slots, '*', 'lr=0.001', *hypers])}):"
        body = [*([f'"""{doc}"""'] if doc else []), *lines]
        return "\n".join([head, *(f"    {line}" for line in body)]) + "\n"

    def _operand_text(self, token: int) -> str:
        known = len(self.operands)
        return f"x{token - known + 1}" if token >= known else self.operands[token].text


def _places(mask: Sequence[bool]) -> list[int]:
    return [place for place, is_allowed in enumerate(mask) if is_allowed]


def _applied(unary: int, text: str) -> str:
    applied = UNARY[_UNARIES[unary]].format(x=text)
    return f"({applied})" if applied.startswith("-") else applied


class _Language:
    """The tables as functions on expressions, made of the same texts as the source of a rule."""

    def __init__(self) -> None:
        self.names = Namespace()
        self.names.update(p=leaf("p"), g=leaf("g"), t=leaf("t"))
        self.names.update({row.hyper: leaf("hyper", (row.hyper, None)) for row in DECAYS if row.hyper})
        self.averages: dict[str, Expr] = {}
        for name, helper in HELPERS.items():
            if helper.key:
                self.names[name] = leaf("slot", (name, "like"))
            self.names[name] = eval(helper.line, self.names)
            if helper.key:
                self.averages[name] = self.names[name]
        self.operands: dict[str, Callable[[], Any]] = {
            row.name: self.names.function(row.text) for row in (*OPERANDS, *DECAYS)
        }
        self.unary = [self.names.function(text, "x") for text in UNARY.values()]
        self.binary = [self.names.function(text, "x", "y") for text in BINARY.values()]


_LANGUAGE: Final = _Language()
