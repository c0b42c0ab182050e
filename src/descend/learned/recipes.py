"""What `descend meta-train` knows: problems, how an optimizer is learned on each, and what it is then held to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from descend.learned.lstm import CoordinatewiseLSTM
from descend.learned.mlp import PerParameterMLP
from descend.learned.network import Network
from descend.learned.problems import Classifiers, Family, Quadratics
from descend.learned.training import Recipe


@dataclass(frozen=True)
class Target:
    """Problems that optimizers are compared on; baselines are tuned on each anew.

    Attributes:
        name: in tables.
        family: of problems.
        marks: numbers of steps after which losses are compared.
        tested: number of problems.
        tuned: number of other problems that baselines are tuned on.
    """

    name: str
    family: Family
    marks: tuple[int, ...] = (100,)
    tested: int = 100
    tuned: int = 20


@dataclass(frozen=True)
class MetaTask:
    """Something to learn an optimizer for.

    Attributes:
        title: in tables.
        description: a sentence.
        data: the task whose data are used; None where there are none.
        networks: settings of each kind of network that can be trained.
        recipes: of each.
        targets: the first is what is trained on; others show what transfers.
        quick: the same in the smallest honest run.
    """

    title: str
    description: str
    data: str | None
    networks: Mapping[str, Mapping[str, Any]]
    recipes: Mapping[str, Recipe]
    targets: tuple[Target, ...]
    quick: MetaTask | None = None


_KINDS: Final[Mapping[str, type[Network]]] = {one.kind: one for one in (CoordinatewiseLSTM, PerParameterMLP)}


def new_network(task: MetaTask, kind: str, seed: int) -> Network:
    """Return the network that a task trains, before training.

    Args:
        task: which.
        kind: "lstm" or "mlp".
        seed: of its weights.
    """
    return _KINDS[kind](**task.networks[kind], seed=seed)


def _with_quick(whole: MetaTask, recipes: Mapping[str, Recipe], targets: tuple[Target, ...]) -> MetaTask:
    return replace(whole, quick=replace(whole, recipes=recipes, targets=targets))


def _quadratics() -> MetaTask:
    family = Quadratics()
    lstm = Recipe(family, 800, problems=128, rate=1e-2, validate_every=20, validated=128)
    mlp = Recipe(family, 400, problems=64, method="evolution", rate=3e-3, validate_every=10, validated=128)
    whole = MetaTask(
        "Quadratics",
        "Random quadratics of 10 dimensions, 100 steps",
        None,
        {"lstm": {}, "mlp": {"hidden": 8, "step_scale": 0.1}},
        {"lstm": lstm, "mlp": mlp},
        (Target("Quadratics", family, (100,), 1000, 100), Target("1,000 steps", family, (1000,), 1000, 100)),
    )
    short = {name: replace(one, episodes=20, validate_every=5, validated=32) for name, one in whole.recipes.items()}
    return _with_quick(whole, short, (Target("Quadratics", family, (100,), 50, 20),))


def _perceptrons(data: str, title: str, episodes: int, problems: int) -> MetaTask:
    family = Classifiers(data)
    lstm = Recipe(family, episodes, problems=problems, rate=3e-3, last=0.1, validate_every=4, validated=8)
    mlp = Recipe(family, episodes, problems=16, method="evolution", rate=3e-3, last=0.1, validate_every=4, validated=8)
    whole = MetaTask(
        f"Perceptrons on {title}",
        f"Perceptrons of 20 sigmoid units on {title}, batches of 128, 100 steps",
        data,
        {"lstm": {}, "mlp": {"hidden": 8, "step_scale": 0.1}},
        {"lstm": lstm, "mlp": mlp},
        (
            Target(f"20 sigmoid units on {title}", family, (100, 200), 40, 10),
            Target("40 sigmoid units", replace(family, widths=(40,)), (100,), 40, 10),
            Target("20 ReLU units", replace(family, activations=("relu",)), (100,), 40, 10),
            Target("1,000 steps", family, (1000,), 20, 4),
        ),
    )
    short = {
        name: replace(one, episodes=2, problems=2, validate_every=1, validated=4) for name, one in whole.recipes.items()
    }
    return _with_quick(whole, short, (Target(f"20 sigmoid units on {title}", family, (100,), 5, 3),))


META_TASKS: Final[Mapping[str, MetaTask]] = MappingProxyType(
    {
        "quadratics": _quadratics(),
        "digits-mlp": _perceptrons("digits", "digits", 100, 4),
        "mnist-mlp": _perceptrons("mnist", "MNIST", 80, 1),
    }
)
