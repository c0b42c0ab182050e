"""Which mathematical symbol stands for a name of the author's."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

GREEK: Final = {
    "alpha": "α",
    "beta": "β",
    "gamma": "γ",
    "delta": "δ",
    "epsilon": "ε",
    "zeta": "ζ",
    "eta": "η",
    "theta": "θ",
    "iota": "ι",
    "kappa": "κ",
    "lambda": "λ",
    "mu": "μ",
    "nu": "ν",
    "xi": "ξ",
    "pi": "π",
    "rho": "ρ",
    "sigma": "σ",
    "tau": "τ",
    "upsilon": "υ",
    "phi": "φ",
    "chi": "χ",
    "psi": "ψ",
    "omega": "ω",
    "Delta": "Δ",
}
"""The Greek letters by their names."""

CUSTOMARY: Final = {
    "p": "θ",
    "lr": "γ",
    "lambd": "λ",
    "weight_decay": "λ",
    "momentum": "μ",
    "dampening": "τ",
    "momentum_decay": "ψ",
    "eps": "ε",
    "trust_coefficient": "η",
    "trust_eps": "δ",
    "norm_limit": "κ",
    "buf": "b",
    "ns_steps": "n",
}
"""Letters that the field gives to names that are not spelled like them."""

SPOKEN: Final = {"lr": "lr"}
"""Names that plain text keeps, being better known than their letter."""

ACCENTS: Final = ("hat", "bar", "tilde")
SIGNS: Final = {"plus": "+", "minus": "−"}


@dataclass(frozen=True)
class Symbol:
    """A symbol of a formula.

    Attributes:
        letter: a letter, or a word, which is set upright.
        accent: hat, bar or tilde over the letter.
        index: digits below.
        label: a word or a sign above, as in v^max.
        primes: the number of primes.
        time: "t", "t-1" or nothing: the step whose value is meant.
        spoken: what plain text says in place of the letter.
    """

    letter: str
    accent: str = ""
    index: str = ""
    label: str = ""
    primes: int = 0
    time: str = ""
    spoken: str = ""

    @property
    def is_word(self) -> bool:
        """Whether the letter is a word."""
        return len(self.letter) > 1

    @property
    def is_raised(self) -> bool:
        """Whether there is something where an exponent would stand."""
        return bool(self.label or self.primes)

    def at(self, time: str) -> Symbol:
        """The symbol's value at a step."""
        return replace(self, time=time)

    def rebound(self, taken: Iterable[Symbol]) -> Symbol:
        """A symbol for the next value under the same name: with a tilde, then with primes, until it is not taken."""
        new, taken = self, set(taken)
        if not (self.is_word or self.accent or self.spoken):
            new = replace(self, accent="tilde")
        while new in taken:
            new = replace(new, primes=new.primes + 1)
        return new


def spelled(name: str) -> Symbol:
    """The symbol that a name spells: β₁ for beta1, m̂ for m_hat, v^max for v_max; other words stand for themselves.

    An element of a tuple, written `betas[0]`, is betas₀.
    """
    element = re.fullmatch(r"(\w+)\[(\d+)\]", name)
    if element:
        return replace(spelled(element[1]), index=element[2])
    parts = re.fullmatch(r"([^\W\d_]+)(?:_?(\d+))?((?:_[^\W\d_]+)*)_?", name)
    if parts is None:
        return Symbol(name)
    stem, index, suffixes = parts[1], parts[2] or "", parts[3].split("_")[1:]
    symbol = Symbol("θ" if stem == "p" else GREEK.get(stem, stem), index=index)
    for suffix in suffixes:
        if suffix in ACCENTS and not symbol.accent:
            symbol = replace(symbol, accent=suffix)
        elif len(suffix) > 1 and not symbol.label:
            symbol = replace(symbol, label=SIGNS.get(suffix, suffix))
        else:
            return Symbol(name)
    return Symbol(name) if symbol.is_word else symbol


def symbols(names: Iterable[str]) -> dict[str, Symbol]:
    """A symbol of its own for each name: the letter it spells, else the customary one, else the word itself."""
    unique = list(dict.fromkeys(names))
    by_custom = [name for name in CUSTOMARY if name in unique]
    by_spelling = [name for name in unique if name not in CUSTOMARY]
    found: dict[str, Symbol] = {}
    for name in sorted([*by_spelling, *by_custom], key=lambda name: name != "p"):
        if name in CUSTOMARY:
            symbol = Symbol(CUSTOMARY[name], spoken=SPOKEN.get(name, ""))
        else:
            symbol = spelled(name)
        found[name] = Symbol(name) if symbol in found.values() else symbol
    return found
