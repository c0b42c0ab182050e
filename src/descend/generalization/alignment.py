"""Aligning two networks: the hidden units of one in the order that makes it most like the other.

Two trainings find weights whose units stand in different orders, so that the straight line between them leads over a
barrier that says nothing of their functions. Entezari et al. 2022, arXiv:2110.06296, conjecture that most of it is
order alone. Matching of weights is algorithm 1 of Ainsworth, Hayase & Srinivasa 2023 (Git Re-Basin), arXiv:2209.04836;
matching of activations is section 3.1 there, after Li et al. 2016, arXiv:1511.07543.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from descend.generalization.chains import HiddenLayer
from descend.generalization.interpolation import Evaluate, Path, check_alike, measured, path
from descend.generalization.krylov import generator, whole
from descend.generalization.likeness import ActivationLikeness, Likeness, Match, WeightLikeness, identity
from descend.generalization.symmetry import known_layers, rearranged
from descend.model_states import copied, unwrapped

Method = Literal["weights", "activations"]
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Alignment:
    """A network with its hidden units in the order of another's.

    Attributes:
        model: a copy of the second network, the same function.
        permutations: by hidden layer, for each place the place in the second network of the unit that came there.
        signs: by hidden layer, 1 or -1 for each place; all 1 unless they were asked for.
        method: what was matched.
        before: likeness of the first and the second: by weights, the cosine between all their parameters; by
            activations, the mean correlation of units in the same place, constant ones counted as 0.
        after: the same of the first and the copy; never less.
        rounds: over all layers, of the best start; the last one of a search that converged changed nothing.
        converged: whether the last round changed nothing. That is a local optimum: matching several layers is NP-hard.
            With one hidden layer, and with activations, it is the best there is.
        starts: that were tried.
        fixed: layers with parameters of their own whose outputs keep their order: the last one, and any of which
            nothing is known.
    """

    model: nn.Module
    permutations: dict[str, list[int]]
    signs: dict[str, list[int]]
    method: Method
    before: float
    after: float
    rounds: int
    converged: bool
    starts: int
    fixed: tuple[str, ...]


@dataclass(frozen=True)
class AlignedPaths:
    """Straight lines from one network to another, before and after alignment.

    Attributes:
        before: to the second network.
        after: to its aligned copy.
    """

    before: Path
    after: Path

    @property
    def end_change(self) -> float:
        """How far the losses at the second ends are apart: 0 but for rounding, as both are one function."""
        return abs(self.after.losses[-1] - self.before.losses[-1])


def align(
    first: nn.Module,
    second: nn.Module,
    *,
    method: Method = "weights",
    inputs: Any = None,
    signs: bool = False,
    starts: int = 1,
    max_rounds: int = 100,
    seed: int = 0,
) -> Alignment:
    """Return a copy of the second network whose hidden units are permuted so that it resembles the first.

    Args:
        first: stays as it is.
        second: of the same architecture; stays as it is, too. Hidden layers must be known to `hidden_layers`.
        method: "weights" permutes layer after layer, in random order, to the largest inner product of all parameters
            (not of running statistics), until none changes; "activations" to the largest sum of correlations, over
            examples and positions, of what the next layer reads.
        inputs: a batch. Activations are taken on it, and with both methods the copy is checked to be the same function.
        signs: whether units with free signs may be flipped too; not in the papers.
        starts: of the matching of weights: the first from the order as it is, as in the paper, others from random
            orders. The best is returned.
        max_rounds: of each start.
        seed: of the order of layers, and of random starts.

    Raises:
        ModuleNotFoundError: without SciPy.
        ValueError: an argument makes no sense, the architectures differ, no hidden layer is known, or parameters or
            activations are not finite, or not real.
    """
    if importlib.util.find_spec("scipy") is None:
        raise ModuleNotFoundError("align needs scipy, of the lab extra: pip install 'descend[lab]'", name="scipy")
    if method not in ("weights", "activations"):
        raise ValueError(f'method is {method!r}; give "weights" or "activations"')
    if method == "activations" and inputs is None:
        raise ValueError("activations need inputs=, a batch on which they are taken")
    whole("starts", starts, 1)
    whole("max_rounds", max_rounds, 1)
    source = generator(seed)
    first, second = unwrapped(first), unwrapped(second)
    layers = _shared_layers(first, second)
    if method == "weights":
        likeness: Likeness = WeightLikeness(first, second, layers)
    else:
        likeness, starts = ActivationLikeness(first, second, layers, inputs), 1
    found = max(
        (_matched(likeness, layers, signs, max_rounds, source, start > 0) for start in range(starts)),
        key=lambda one: one.value,
    )
    return Alignment(
        model=rearranged(second, layers, found.match, inputs),
        permutations={name: order.tolist() for name, (order, _) in found.match.items()},
        signs={name: flips.tolist() for name, (_, flips) in found.match.items()},
        method=method,
        before=likeness.value(identity(layers)),
        after=found.value,
        rounds=found.rounds,
        converged=found.converged,
        starts=starts,
        fixed=tuple(_fixed(second, layers)),
    )


def aligned_paths(
    first: nn.Module, second: nn.Module, alignment: Alignment, evaluate: Evaluate, *, points: int = 11
) -> AlignedPaths:
    """Measure the straight lines from the first network to the second, and to its aligned copy: their `barrier`.

    Args:
        first: as it was given to `align`.
        second: the same.
        alignment: what `align` returned.
        evaluate: takes a state, as `model.state_dict()` gives it, and returns its loss and perhaps its error; see
            `path`. Where the model has batch normalization it must call `descend.averaging.recompute_batch_norm` after
            loading the state: between two networks, mixed statistics are not those of the mixed weights, and the
            barrier measured without is one of the statistics.
        points: of each line, with both ends; each end is evaluated once.

    Raises:
        TypeError: an evaluation returns neither Measured nor a mapping.
        ValueError: points are too few, an evaluation has no loss, or names or shapes differ.
    """
    start, *ends = (
        {name: copied(value) for name, value in unwrapped(model).state_dict().items()}
        for model in (first, second, alignment.model)
    )  # copies: an evaluation may well load states into these models
    for end in ends:
        check_alike(start, end)
    height = measured(evaluate(start))
    before, after = (path(start, end, evaluate, points=points, ends=(height, measured(evaluate(end)))) for end in ends)
    return AlignedPaths(before, after)


@dataclass(frozen=True)
class _Found:
    match: Match
    value: float
    rounds: int
    converged: bool


def _matched(
    likeness: Likeness,
    layers: Mapping[str, HiddenLayer],
    signs: bool,
    max_rounds: int,
    source: torch.Generator,
    is_random: bool,
) -> _Found:
    """Permute layer after layer to the best match with the others as they are, until nothing changes."""
    match = identity(layers)
    if is_random:
        match = {name: (torch.randperm(len(order), generator=source), flips) for name, (order, flips) in match.items()}
    names, is_done, rounds = list(layers), False, 0
    while not is_done and rounds < max_rounds:
        rounds, is_done = rounds + 1, True
        for place in torch.randperm(len(names), generator=source).tolist():
            layer = layers[names[place]]
            plain, signed = likeness.gains(layer, match)
            better = _assigned(plain, signed, signs and layer.signs)
            least = _ROUNDING * float(plain.abs().max() + signed.abs().max()) * layer.units
            if _gain(plain, signed, better) > _gain(plain, signed, match[layer.name]) + least:
                match[layer.name], is_done = better, False
    return _Found(match, likeness.value(match), rounds, is_done)


def _assigned(plain: Tensor, signed: Tensor, signs: bool) -> tuple[Tensor, Tensor]:
    """Return the order, and signs, of the largest total gain: a linear assignment problem, solved exactly."""
    from scipy.optimize import linear_sum_assignment

    gains = plain + (signed.abs() if signs else signed)
    order = torch.from_numpy(linear_sum_assignment(gains.numpy(), maximize=True)[1])
    flips = torch.ones_like(order)
    if signs:
        flips[signed[torch.arange(len(order)), order] < 0] = -1
    return order, flips


def _gain(plain: Tensor, signed: Tensor, match: tuple[Tensor, Tensor]) -> float:
    order, signs = match
    rows = torch.arange(len(order))
    return float((plain[rows, order] + signs * signed[rows, order]).sum())


def _shared_layers(first: nn.Module, second: nn.Module) -> dict[str, HiddenLayer]:
    """Return the hidden layers of two networks of one architecture."""
    kinds = [{name: type(module).__name__ for name, module in one.named_modules()} for one in (first, second)]
    for name in {**kinds[0], **kinds[1]}:
        if kinds[0].get(name) != kinds[1].get(name):
            raise ValueError(
                f"module {name!r} is {kinds[0].get(name)} in first and {kinds[1].get(name)} in second; give networks "
                "of one architecture"
            )
    check_alike(first.state_dict(), second.state_dict())
    layers = known_layers(first)
    if layers != known_layers(second):
        raise ValueError(
            "first and second have other hidden layers: in one of them layers are tied or have hooks, or "
            "nonlinearities have other options; give networks of one architecture"
        )
    return layers


def _fixed(model: nn.Module, layers: Mapping[str, HiddenLayer]) -> Iterator[str]:
    """Yield the names of modules with parameters of which none has its own outputs permuted."""
    moving = {axis.tensor for layer in layers.values() for axis in layer.axes[:-1]}  # the last is of what is read
    for name, module in model.named_modules():
        own = {f"{name}.{kind}".lstrip(".") for kind, _ in module.named_parameters(recurse=False)}
        if own and not own & moving:
            yield name
