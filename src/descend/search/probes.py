"""Formulas on probes: which are the same, which descend, and how large their steps are, before anything is trained.

A probe is a short stream of gradients, noise around a direction, and a weight vector that stays. A formula is run on
probes of three magnitudes in float64, its averages from zero; what it gives at two steps of the stream is its
fingerprint, up to a positive factor, which a rate makes up for. Logarithms of magnitudes are rounded rather than
values, or small updates would all be the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from descend.backends.operations import HOST
from descend.expr import Expr, hyper_of, slot_of, walk
from descend.schedules import Schedule
from descend.search.source import RANDOM

Array = npt.NDArray[np.float64]

SCALES: Final = (1e-3, 0.05, 1.0)
"""Root mean squares of the probes' gradients; the second is that of the networks which are trained."""
MIDDLE: Final = 1
STEPS: Final = 8
HORIZON: Final = 13
"""The steps of the training that schedules are taken of: at what is observed no two of them agree, and none stands."""
_OBSERVED: Final = (3, 7)
"""The steps (from 0) at which updates are compared."""
PROBES, WIDTH = 16, 16
DECIMALS: Final = 5
DESCENDS: Final = 0.05
"""The least mean cosine between update and gradient of what is worth training."""
_KEPT: Final = 256  # averages of so many sets of slots, 50 kB a slot


@dataclass(frozen=True)
class Examined:
    """What probes say of a formula.

    Attributes:
        verdict: "descends", or why it is not trained: "not finite", "zero", "constant" (its elements have one sign) or
            "ascends" (also where it is at right angles to the gradient).
        key: its fingerprint, the same for formulas that differ by a positive factor; empty if it is not finite or zero.
        cosine: between update and gradient at the middle magnitude, the mean over probes.
        size: the root mean square of the update there; a rate is relative to it.
    """

    verdict: str
    key: str = ""
    cosine: float = 0.0
    size: float = 0.0

    @property
    def descends(self) -> bool:
        """Whether it is worth training."""
        return self.verdict == "descends"


def examine(update: Expr, slots: Mapping[str, Expr], schedules: Mapping[str, Schedule] = {}) -> Examined:
    """Run a formula on the probes.

    Args:
        update: its step at rate 1.
        slots: what is assigned to each slot that it reads.
        schedules: of its hyper-parameters beside the rate.
    """
    values = np.broadcast_to(_run(update, slots, schedules), _shape(len(_OBSERVED)))
    if not np.isfinite(values).all():
        return Examined("not finite")
    middle = values[:, MIDDLE]
    if not values.any() or not middle.any():
        return Examined("zero")
    with np.errstate(over="ignore"):
        size = float(np.sqrt(np.mean(middle * middle)))
    if not np.isfinite(size):  # its square overflows
        return Examined("not finite")
    cosine = _cosine(middle, _stream().gradients[list(_OBSERVED), MIDDLE])
    verdict = "descends"
    if middle.min() >= 0 or middle.max() <= 0:
        verdict = "constant"
    elif cosine <= DESCENDS:
        verdict = "ascends"
    return Examined(verdict, _fingerprint(values), cosine, size)


def _fingerprint(values: Array) -> str:
    """The signs of the updates and the logarithms of their magnitudes, less the mean of these."""
    magnitudes = np.abs(values.reshape(-1))
    moves = magnitudes > 0
    logs = np.log(magnitudes[moves])
    rounded = np.round(logs - logs.mean(), DECIMALS) + 0.0  # of -0.0 and 0.0 one
    signs = np.sign(values.reshape(-1)).astype(np.int8)
    return blake2b(signs.tobytes() + rounded.tobytes(), digest_size=12).hexdigest()


def _cosine(updates: Array, gradients: Array) -> float:
    products = (updates * gradients).sum(-1)
    norms = np.sqrt((updates * updates).sum(-1) * (gradients * gradients).sum(-1))
    with np.errstate(all="ignore"):
        cosines = np.where(norms > 0, products / norms, 0.0)
    return float(cosines.mean())


@dataclass(frozen=True)
class _Stream:
    """Gradients of all steps, and weights."""

    gradients: Array
    weights: Array


def _shape(steps: int) -> tuple[int, int, int, int]:
    return steps, len(SCALES), PROBES, WIDTH


@lru_cache(1)
def _stream() -> _Stream:
    random = np.random.default_rng(1709_07417)
    direction = random.standard_normal((PROBES, WIDTH))
    noise = random.standard_normal((STEPS, PROBES, WIDTH))
    spread = np.exp(0.5 * random.standard_normal((PROBES, WIDTH)))  # weights have gradients of unlike size
    raw = spread * (direction + noise)
    raw /= np.sqrt(np.mean(raw * raw))
    scales = np.array(SCALES).reshape(1, -1, 1, 1)
    weights = 0.1 * random.standard_normal((PROBES, WIDTH))
    for step in (*_OBSERVED, *_OBSERVED):  # twice: the two directions are not orthogonal
        weights = _across(weights, raw[step])
    return _Stream(scales * raw[:, None], np.broadcast_to(weights, _shape(1)).copy())


def _across(x: Array, gradients: Array) -> Array:
    """What is left of each probe's vector at right angles to its gradient: chance must not look like descent."""
    rest: Array = x - gradients * (
        (x * gradients).sum(-1, keepdims=True) / (gradients * gradients).sum(-1, keepdims=True)
    )
    return rest


@lru_cache(256)
def _draws(op: str, site: int) -> Array:
    """What a random operation draws at a call site, at all steps; the same at every magnitude."""
    random = np.random.default_rng((23, site, RANDOM.index(op)))
    size = (STEPS, 1, PROBES, WIDTH)
    return random.random(size) if op == "keep" else _across(random.standard_normal(size), _stream().gradients[:, :1])


def _run(update: Expr, slots: Mapping[str, Expr], schedules: Mapping[str, Schedule]) -> Array:
    """The updates at the observed steps."""
    hypers = {name: np.array([schedule(s) for s in range(STEPS)]) for name, schedule in schedules.items()}
    before = _averages(slots, hypers)
    observed = _Values(list(_OBSERVED), before, hypers)
    with np.errstate(all="ignore"):
        return observed.of(update)


_kept: dict[tuple[Any, ...], dict[str, Array]] = {}


def _averages(slots: Mapping[str, Expr], hypers: Mapping[str, Array]) -> dict[str, Array]:
    """The values of the slots before each step."""
    if not slots:
        return {}
    key = (*slots.items(), *((name, values.tobytes()) for name, values in hypers.items()))
    if key not in _kept:
        if len(_kept) >= _KEPT:
            _kept.clear()
        held = {name: np.zeros(_shape(1)) for name in slots}
        history: dict[str, list[Array]] = {name: [] for name in slots}
        with np.errstate(all="ignore"):
            for step in range(STEPS):
                for name, value in held.items():
                    history[name].append(value)
                values = _Values([step], held, hypers, whole=False)
                held = {name: np.broadcast_to(values.of(root), _shape(1)) for name, root in slots.items()}
        _kept[key] = {name: np.concatenate(of) for name, of in history.items()}
    return _kept[key]


class _Values:
    """The values of expressions at some steps of the stream.

    Args:
        steps: which, from 0.
        slots: the values of slots before each step of the stream (`whole`), or before these steps.
        hypers: of hyper-parameters, at each step of the stream.
        whole: what `slots` holds.
    """

    def __init__(
        self, steps: list[int], slots: Mapping[str, Array], hypers: Mapping[str, Array], whole: bool = True
    ) -> None:
        self.steps, self.hypers = steps, hypers
        self.slots = {name: value[steps] if whole else value for name, value in slots.items()}
        self.known: dict[Expr, Array] = {}

    def of(self, root: Expr) -> Array:
        """The value of an expression."""
        for node in walk([root]):
            if node not in self.known:
                self.known[node] = self._value(node)
        return self.known[root]

    def _value(self, node: Expr) -> Any:
        if node.op in RANDOM:
            drawn = _draws(node.op, int(node.value))[self.steps]  # type: ignore[call-overload]
            x = self.known[node.args[0]]
            return np.where(drawn < self.known[node.args[1]], x, 0.0) if node.op == "keep" else x * drawn
        if node.args:
            return HOST[node.op](*(self.known[arg] for arg in node.args))
        return self._leaf(node)

    def _leaf(self, node: Expr) -> Any:
        if node.op == "constant":
            return np.float64(node.value)  # type: ignore[arg-type]
        if node.op == "t":
            return np.array(self.steps, dtype=np.float64).reshape(-1, 1, 1, 1) + 1
        if node.op == "g":
            return _stream().gradients[self.steps]
        if node.op == "p":
            return _stream().weights
        if node.op == "slot":
            return self.slots[slot_of(node)[0]]
        if node.op == "hyper":
            return self.hypers[hyper_of(node)[0]][self.steps].reshape(-1, 1, 1, 1)
        raise ValueError(f"a probe has no {node.op}; a rule of a search space is elementwise")
