"""What `descend meta-train` does, in jobs that are kept: stretches of training, tunings of baselines, and tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from descend.experiments.jobs import KeptJob, Result
from descend.learned.baselines import BASELINES, Baseline, params_at, tuned
from descend.learned.network import Network
from descend.learned.pairs import Pair
from descend.learned.recipes import META_TASKS, MetaTask, Target, new_network
from descend.learned.training import MetaTraining

FORMAT: Final = 1
_TUNED, _TESTED = 2_000_000, 3_000_000
"""Seeds of problems: those of no episode, and not those that training is validated on."""


def meta_task(name: str, quick: bool) -> MetaTask:
    """Return what to learn an optimizer for, by name."""
    whole = META_TASKS[name]
    return whole.quick if quick and whole.quick is not None else whole


@dataclass(frozen=True)
class _Of:
    """What all jobs of a run share.

    Attributes:
        task: name of the meta-task.
        quick: whether it is the smallest run.
    """

    task: str
    quick: bool

    @property
    def whole(self) -> MetaTask:
        """The meta-task."""
        return meta_task(self.task, self.quick)

    def holds(self, result: Result) -> bool:
        """Tell that there is nothing beside the result."""
        return True


@dataclass(frozen=True)
class Stretch(_Of):
    """Training from one validation to the next.

    Attributes:
        kind: of network.
        seed: of weights and episodes.
        number: of the stretch, from 0.
        before: the one that it goes on from; None for the first.
    """

    kind: str
    seed: int
    number: int
    before: KeptJob | None

    @property
    def name(self) -> str:
        """By seed and number."""
        return f"training {self.number + 1} of seed {self.seed}"

    @property
    def depends(self) -> Mapping[str, Any]:
        """The recipe, the settings, and what went before."""
        earlier = None if self.before is None else self.before.job.depends
        own = {"recipe": self.whole.recipes[self.kind].digest(), "settings": dict(self.whole.networks[self.kind])}
        return {"format": FORMAT, **own, "seed": self.seed, "number": self.number, "before": earlier is not None}

    def run(self, task: Any) -> Result:
        """Train until the next validation; keep all that going on needs."""
        training = self._training()
        if self.before is not None:
            result = self.before.result()
            assert result is not None
            training.load_state_dict(result)
        training.run((self.number + 1) * training.recipe.validate_every)
        return training.state_dict()

    def _training(self) -> MetaTraining:
        return MetaTraining(new_network(self.whole, self.kind, self.seed), self.whole.recipes[self.kind], self.seed)

    def best(self, result: Result) -> Network:
        """Return the network with the weights that validated best so far."""
        network = new_network(self.whole, self.kind, self.seed)
        network.load_state_dict(result["best"])
        return network.requires_grad_(False)


@dataclass(frozen=True)
class _OnTarget(_Of):
    """A job on problems of one target.

    Attributes:
        place: of the target.
    """

    place: int

    @property
    def target(self) -> Target:
        """What it is done on."""
        return self.whole.targets[self.place]

    def tested(self, pair: Pair) -> list[dict[str, Any]]:
        """Return what a pair comes to on the problems of the test, for each number of steps."""
        target = self.target
        problem = target.family.draw(target.tested, _TESTED + self.place)
        found = []
        for mark, params in zip(target.marks, params_at(pair, problem, target.marks), strict=True):
            accuracies = problem.accuracies(params, "test")
            own = {"steps": mark, "losses": problem.final(params).double()}
            found.append({**own, "accuracies": None if accuracies is None else accuracies.double()})
        return found


@dataclass(frozen=True)
class Tuning(_OnTarget):
    """A baseline, tuned for each metric and number of steps, and tested.

    Attributes:
        baseline: its place.
    """

    baseline: int

    @property
    def name(self) -> str:
        """By the baseline and the target."""
        return f"{self._baseline.name} on target {self.place + 1}"

    @property
    def _baseline(self) -> Baseline:
        return BASELINES[self.baseline]

    @property
    def depends(self) -> Mapping[str, Any]:
        """The target and what is tried."""
        return {"format": FORMAT, "target": repr(self.target), "tried": [str(one) for one in self._baseline.choices()]}

    def run(self, task: Any) -> Result:
        """Tune and test."""
        target = self.target
        best = tuned(self._baseline, target.family.draw(target.tuned, _TUNED + self.place), target.marks)
        tests: dict[str, list[dict[str, Any]]] = {}
        rows = []
        for (mark, metric), values in best.items():
            key = repr(values)
            if key not in tests:
                tests[key] = self.tested(self._baseline.pair(values))
            [found] = [one for one in tests[key] if one["steps"] == mark]
            rows.append({"metric": metric, "values": {name: _plain(one) for name, one in values.items()}, **found})
        return {"name": self._baseline.name, "rows": rows}


@dataclass(frozen=True)
class Testing(_OnTarget):
    """A trained network, tested.

    Attributes:
        last: the last stretch of its training.
    """

    last: KeptJob

    @property
    def name(self) -> str:
        """By the seed and the target."""
        assert isinstance(self.last.job, Stretch)
        return f"test of seed {self.last.job.seed} on target {self.place + 1}"

    @property
    def depends(self) -> Mapping[str, Any]:
        """The training and the target."""
        return {"format": FORMAT, "target": repr(self.target), "training": self.last.job.depends}

    def run(self, task: Any) -> Result:
        """Test the weights that validated best."""
        stretch, result = self.last.job, self.last.result()
        assert isinstance(stretch, Stretch)
        assert result is not None
        return {"seed": stretch.seed, "rows": self.tested(stretch.best(result))}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def paired(ours: Tensor, theirs: Tensor) -> tuple[float, float, float, float]:
    """Return the mean over problems of the difference in log10 of the loss, its 95 % interval, and the share won.

    Args:
        ours: final losses, one of each problem.
        theirs: of the same problems.
    """
    difference = ours.log10() - theirs.log10()
    error = float(difference.std() / len(difference) ** 0.5) if len(difference) > 1 else float("nan")
    mean = float(difference.mean())
    return mean, mean - 1.96 * error, mean + 1.96 * error, float((difference < 0).double().mean())


def of_mean(ours: Tensor, theirs: Tensor, resamples: int = 1000) -> tuple[float, float, float]:
    """Return the difference in log10 of the mean loss, and its 95 % interval by the bootstrap over problems.

    Args:
        ours: final losses, one of each problem.
        theirs: of the same problems.
        resamples: draws.
    """
    source = torch.Generator().manual_seed(0)
    rows = torch.randint(len(ours), (resamples, len(ours)), generator=source)
    drawn = ours[rows].mean(1).log10() - theirs[rows].mean(1).log10()
    low, high = torch.quantile(drawn, torch.tensor([0.025, 0.975], dtype=drawn.dtype)).tolist()
    return float(ours.mean().log10() - theirs.mean().log10()), low, high
