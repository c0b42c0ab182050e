"""Every sentence of depth one: which mean the same, and which descend."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from descend.experiments.workers import Here, Pool
from descend.search.nos import BINARY, UNARY, Nos
from descend.search.probes import Examined
from descend.search.screening import Screening
from descend.search.sentences import Sentence

SPACE: Final = Nos(1)
_LEFT: Final = tuple(BINARY).index("left")
_DROPS: Final = frozenset(place for place, name in enumerate(UNARY) if name.startswith("drop"))
VERDICTS: Final = ("descends", "constant", "ascends", "zero", "not finite")


@dataclass(frozen=True, eq=False)
class Classes:
    """The sentences of depth one by class.

    Attributes:
        of_sentence: the class of each sentence, in the order of its tokens; -1 for one that is not finite or zero.
        sentences: of each class the simplest, classes x 5.
        keys: fingerprints.
        verdicts: places in `VERDICTS`.
        cosines, sizes: as `Examined` has them.
        forms: how many canonical forms there are.
        dropped: how many canonical forms are "zero" and "not finite".
    """

    of_sentence: npt.NDArray[np.int32]
    sentences: npt.NDArray[np.uint8]
    keys: tuple[str, ...]
    verdicts: npt.NDArray[np.uint8]
    cosines: npt.NDArray[np.float32]
    sizes: npt.NDArray[np.float32]
    forms: int
    dropped: tuple[int, int]

    def sentence(self, number: int) -> Sentence:
        """The sentence that stands for a class."""
        return tuple(map(int, self.sentences[number]))

    @property
    def descending(self) -> npt.NDArray[np.int64]:
        """The classes that are worth training."""
        return np.flatnonzero(self.verdicts == VERDICTS.index("descends"))


def place_of(sentence: Sentence) -> int:
    """The place of a sentence among all, in the order of their tokens."""
    return int(np.ravel_multi_index(sentence, SPACE.sizes()))


@dataclass(frozen=True)
class _Found:
    """A sentence that stands for a class, as far as one process knows."""

    examined: Examined
    complexity: tuple[int, Sentence]


_Part = tuple[int, list[str], dict[str, _Found], dict[str, str]]


def _examine(task: object, first: int) -> _Part:
    """Examine all sentences with one first operand.

    Returns:
        The operand, each sentence's fingerprint, what is known of each fingerprint, the verdict of each canonical form.
    """
    screening = Screening(SPACE)
    keys: list[str] = []
    found: dict[str, _Found] = {}
    known = len(SPACE.operands)
    for rest in product(range(known), range(len(UNARY)), range(len(UNARY)), range(len(BINARY))):
        sentence = (first, *rest)
        examined = screening.examine(sentence)
        keys.append(examined.key)
        if not examined.key:
            continue
        complexity = (_complexity(sentence), sentence)
        if examined.key not in found or complexity < found[examined.key].complexity:
            found[examined.key] = _Found(examined, complexity)
    return first, keys, found, screening.verdicts()


def _complexity(sentence: Sentence) -> int:
    """How much a sentence says: nothing is simpler than an operand alone."""
    _, _, of_left, of_right, joint = sentence
    joined = joint != _LEFT
    return (of_left > 0) + (of_right > 0) + 2 * joined + (of_left in _DROPS) + (of_right in _DROPS)


def enumerate_classes(hands: Here | Pool, done: Callable[[], None] = lambda: None) -> Classes:
    """Examine every sentence and sort them into classes; `done` is called for each of the 17 parts."""
    parts = {}
    for part in hands.run(_examine, range(len(SPACE.operands)), lambda job: None):
        parts[part[0]] = part
        done()
    return _joined([parts[first] for first in sorted(parts)])


def _joined(parts: Iterable[_Part]) -> Classes:
    found: dict[str, _Found] = {}
    forms: dict[str, str] = {}
    all_keys: list[str] = []
    for _, keys, of_part, of_forms in parts:
        all_keys += keys
        forms |= of_forms
        for key, one in of_part.items():
            if key not in found or one.complexity < found[key].complexity:
                found[key] = one
    numbers = {key: number for number, key in enumerate(sorted(found, key=lambda key: found[key].complexity[1]))}
    kept = [found[key] for key in numbers]
    verdicts = list(forms.values())
    return Classes(
        np.array([numbers.get(key, -1) for key in all_keys], dtype=np.int32),
        np.array([one.complexity[1] for one in kept], dtype=np.uint8),
        tuple(numbers),
        np.array([VERDICTS.index(one.examined.verdict) for one in kept], dtype=np.uint8),
        np.array([one.examined.cosine for one in kept], dtype=np.float32),
        np.minimum([one.examined.size for one in kept], np.finfo(np.float32).max).astype(np.float32),
        len(forms),
        (verdicts.count("zero"), verdicts.count("not finite")),
    )


def save(classes: Classes, path: Path) -> None:
    """Write the classes to a file, in one step."""
    arrays: dict[str, Any] = dict(vars(classes))
    temporary = path.with_name(path.name + ".new")
    with open(temporary, "wb") as file:
        np.savez_compressed(file, **{**arrays, "keys": np.array(classes.keys, dtype="S24")})
    temporary.replace(path)


def read(path: Path) -> Classes | None:
    """Return the classes of a file; None where there is none that can be read."""
    try:
        with np.load(path, allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
            arrays["keys"] = tuple(key.decode() for key in arrays["keys"])
            arrays["forms"], arrays["dropped"] = int(arrays["forms"]), tuple(map(int, arrays["dropped"]))
            return Classes(**arrays)
    except (OSError, ValueError, KeyError, TypeError):
        return None
