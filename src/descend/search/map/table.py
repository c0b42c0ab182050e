"""The map as a table in one file: every class of depth one, and what training it came to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from descend.search.evaluation import RELATIVE_RATES
from descend.search.map.enumeration import SPACE, VERDICTS, Classes, place_of
from descend.search.map.stages import Results
from descend.search.map.transfer import Transfer
from descend.search.sentences import Sentence
from descend.search.space import SearchError

FILE: Final = "depth_one.npz"
STAGES: Final = ("brief", "long", "fresh", "known", "known_fresh")
_SHARES: Final = 10_000  # accuracies are kept as whole numbers of these parts


@dataclass(frozen=True, eq=False)
class Table:
    """The map of depth one.

    Attributes:
        facts: how it was made: child, steps, seeds, software, counts.
        of_sentence: the class of each sentence, in the order of tokens; -1 without one.
        sentences: of each class the simplest, classes x 5.
        verdicts: of each class, places in `VERDICTS`.
        cosines, sizes: of each class on probes.
        brief: all that descend, 7 relative rates, 2 seeds.
        long: the best quarter, 3 rates, 2 seeds, more steps.
        fresh: the top of these, 1 rate, 8 further seeds.
        known: the known optimizers as `long`, but at 7 rates.
        known_fresh: the known optimizers as `fresh`.
        transfers: samples on other children, by child.
    """

    facts: Mapping[str, Any]
    of_sentence: npt.NDArray[np.int32]
    sentences: npt.NDArray[np.uint8]
    verdicts: npt.NDArray[np.uint8]
    cosines: npt.NDArray[np.float32]
    sizes: npt.NDArray[np.float32]
    brief: Results
    long: Results
    fresh: Results
    known: Results
    known_fresh: Results
    transfers: Mapping[str, Transfer]

    def class_of(self, sentence: Sentence) -> int | None:
        """The class of a sentence; None if it was not trained, not being finite or not descending."""
        number = int(self.of_sentence[place_of(sentence)])
        return number if number >= 0 and self.verdicts[number] == VERDICTS.index("descends") else None

    def sentence(self, number: int) -> Sentence:
        """The simplest sentence of a class."""
        return tuple(map(int, self.sentences[number]))

    def name(self, number: int) -> str:
        """The simplest sentence of a class, in words."""
        return SPACE.encode(self.sentence(number))

    @cached_property
    def rewards(self) -> npt.NDArray[np.float64]:
        """exp(-loss) of each class at its best rate in the brief training, the mean over seeds; NaN where untrained."""
        found = np.full(len(self.sentences), np.nan)
        found[self.brief.classes] = np.exp(-self.brief.best)
        return found

    @cached_property
    def ranks(self) -> npt.NDArray[np.int64]:
        """The place of each class by reward, 1 being the best; 0 where untrained. Equal ones share the best place."""
        ranks = np.zeros(len(self.sentences), dtype=np.int64)
        trained = self.brief.classes
        ranks[trained] = 1 + np.searchsorted(np.sort(-self.rewards[trained]), -self.rewards[trained], side="left")
        return ranks


def of_results(
    classes: Classes, results: Mapping[str, Results], transfers: Mapping[str, Transfer], facts: Mapping[str, Any]
) -> Table:
    """Put the map together; the results by the names in `STAGES`."""
    return Table(
        {**facts, "forms": classes.forms, "dropped": list(classes.dropped)},
        classes.of_sentence,
        classes.sentences,
        classes.verdicts,
        classes.cosines,
        classes.sizes,
        **results,
        transfers=transfers,
    )


def save(table: Table, path: Path) -> None:
    """Write a table to a file, in one step; losses with three to four digits."""
    arrays: dict[str, Any] = {"facts": np.array(json.dumps(dict(table.facts)))}
    for name in ("of_sentence", "sentences", "verdicts", "sizes"):
        arrays[name] = getattr(table, name)
    arrays["cosines"] = table.cosines.astype(np.float16)
    for name in STAGES:
        arrays |= _arrays(name, getattr(table, name))
    for name, transfer in table.transfers.items():
        arrays |= _arrays(name, transfer.results)
        arrays[f"{name}_strata"] = transfer.strata
    temporary = path.with_name(path.name + ".new")
    with open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)
    temporary.replace(path)


def _arrays(name: str, found: Results) -> dict[str, Any]:
    with np.errstate(over="ignore"):
        losses = found.losses.astype(np.float16)
    return {
        f"{name}_classes": found.classes.astype(np.int32),
        f"{name}_rates": np.searchsorted(RELATIVE_RATES, found.rates * (1 - 1e-9)).astype(np.uint8),
        f"{name}_losses": losses,
        f"{name}_accuracies": np.rint(found.accuracies * _SHARES).astype(np.uint16),
    }


def read(path: Path) -> Table:
    """Read a table.

    Raises:
        SearchError: the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
        facts = json.loads(str(arrays["facts"]))
        stages = {name: _stage(arrays, name) for name in STAGES}
        transfers = {name: Transfer(_stage(arrays, name), arrays[f"{name}_strata"]) for name in facts["transfers"]}
        return Table(
            facts,
            arrays["of_sentence"],
            arrays["sentences"],
            arrays["verdicts"],
            arrays["cosines"].astype(np.float32),
            arrays["sizes"],
            **stages,
            transfers=transfers,
        )
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise SearchError(f"{path} is no map ({error}); make one with `descend search --map`") from error


def _stage(arrays: Mapping[str, Any], name: str) -> Results:
    return Results(
        arrays[f"{name}_classes"].astype(np.int64),
        np.array(RELATIVE_RATES)[arrays[f"{name}_rates"]],
        arrays[f"{name}_losses"].astype(np.float64),
        arrays[f"{name}_accuracies"] / _SHARES,
    )


@lru_cache(1)
def published() -> Table:
    """The map that comes with the library, on the child `digits`."""
    with as_file(files("descend.search.map") / FILE) as path:
        return read(path)
