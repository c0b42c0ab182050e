"""What the numbers of `memorizing` say: claims of Zhang et al. 2017 and Morcos et al. 2018, with intervals over seeds.

python -m descend.experiments.memorizing_findings memorizing/memorizing.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from descend.generalization import rank_correlation
from descend.generalization.estimates import interval, mean_and_error

Networks = Sequence[Mapping[str, Any]]
Number = Callable[[Mapping[str, Any]], float]


def findings(networks: Networks, data: str) -> dict[str, Any]:
    """Return what is found on a data set; each number is a mean over seeds, with its 95 % interval by Student's t."""
    own = [one for one in networks if one["data"] == data]
    shares = sorted({one["share"] for one in own})
    disturbed = ("zero", "mean", "noise")

    def area(how: str) -> Number:
        return lambda one: float(one["curves"][how]["area"])

    def at(amount: float) -> Number:
        return lambda one: _at(one["curves"]["zero"], amount)

    return {
        "epochs to fit by share": {share: _mean(_of(own, share=share), _epochs) for share in shares},
        "epochs to fit by corruption": {
            kind: _mean(_of(own, corruption=kind), _epochs) for kind in ("shuffled pixels", "random pixels", "gaussian")
        },
        "test accuracy by share": {
            share: _mean(_of(own, share=share), lambda one: float(one["test_accuracy"])) for share in shares
        },
        "fitted": {
            "least training accuracy": min(one["train_accuracy"] for one in own),
            "networks": len(own),
            "not to 100 %": sum(one["train_accuracy"] < 1 for one in own),
        },
        "area by share": {
            how: {share: _mean(_of(own, share=share), area(how)) for share in shares} for how in disturbed
        },
        "area, true minus random labels": {
            how: _difference(_of(own, share=0.0), _of(own, share=1.0), area(how)) for how in disturbed
        },
        "area, normalized minus plain": {
            how: {
                share: _difference(_of(own, share=share, normalized=True), _of(own, share=share), area(how))
                for share in (0.0, 0.5, 1.0)
            }
            for how in disturbed
        },
        "accuracy at a clamped share, dropout minus none, random labels": {
            rate: {
                amount: _difference(_of(own, share=1.0, dropout=rate), _of(own, share=1.0), at(amount))
                for amount in (0.1, 0.3, 0.5, 0.7, 0.9)
            }
            for rate in (0.1, 0.3)
        },
        "tau of selectivity and importance": {
            share: _by_layer(_of(own, share=share), _tau) for share in (0.0, 0.5, 1.0)
        },
        "selectivity": _normalized(own, "selectivity"),
        "information": _normalized(own, "information"),
    }


def _normalized(own: Networks, what: str) -> dict[str, Any]:
    def mean(layer: Mapping[str, Any]) -> float:
        known: list[float] = [value for value in layer[what] if value == value]
        return sum(known) / len(known)

    return {
        f"{'normalized' if normalized else 'plain'}, share {share}": _by_layer(
            _of(own, share=share, normalized=normalized), mean
        )
        for share in (0.0, 1.0)
        for normalized in (False, True)
    }


def _of(networks: Networks, **wanted: Any) -> list[Mapping[str, Any]]:
    """Return the networks of one variant, in the order of their seeds: plain, with labels, unless asked otherwise."""
    asked = {"corruption": "labels", "share": 0.0, "normalized": False, "dropout": 0.0} | wanted
    found = [one for one in networks if all(one[name] == value for name, value in asked.items())]
    return sorted(found, key=lambda one: int(one["seed"]))


def _mean(networks: Networks, number: Number) -> dict[str, Any]:
    return _described([number(one) for one in networks])


def _difference(first: Networks, second: Networks, number: Number) -> dict[str, Any]:
    """The difference of two variants, seed by seed."""
    return _described([number(a) - number(b) for a, b in zip(first, second, strict=True)])


def _described(values: Sequence[float]) -> dict[str, Any]:
    known = [value for value in values if value == value]
    if not known:
        return {"mean": None, "interval": None, "n": 0}
    mean, error = mean_and_error(known)
    return {"mean": mean, "interval": interval(mean, error, len(known)) if len(known) > 1 else None, "n": len(known)}


def _by_layer(networks: Networks, number: Number) -> dict[str, Any]:
    names = [layer["layer"] for layer in networks[0]["layers"]]
    return {name: _described([number(one["layers"][place]) for one in networks]) for place, name in enumerate(names)}


def _tau(layer: Mapping[str, Any]) -> float:
    pairs = [
        (selective, matters)
        for selective, matters in zip(layer["selectivity"], layer["importance"], strict=True)
        if selective == selective
    ]
    return rank_correlation(*map(list, zip(*pairs, strict=True)))


def _epochs(one: Mapping[str, Any]) -> float:
    return float("nan") if one["epochs_to_fit"] is None else float(one["epochs_to_fit"])


def _at(curve: Mapping[str, Any], amount: float) -> float:
    """The accuracy at the amount that is nearest."""
    place = min(range(len(curve["amounts"])), key=lambda one: abs(float(curve["amounts"][one]) - amount))
    return float(curve["means"][place])


if __name__ == "__main__":
    document = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps({data: findings(document["networks"], data) for data in document["examples"]}, indent=1))
