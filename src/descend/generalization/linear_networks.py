"""Linear networks have no poor local minima: the theorem, the global minimum in closed form, and a check by numbers.

Baldi & Hornik 1989, Neural Networks and Principal Component Analysis, for one hidden layer; Kawaguchi 2016,
arXiv:1605.07110, theorem 2.3, for any number.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from descend.generalization.krylov import accuracy, generator, whole
from descend.generalization.linear_loss import GlobalMinimum, Kind, LinearLoss, Stationary, checked_widths

WHAT_IS_PROVED = {
    "Baldi & Hornik 1989": (
        "Linear networks with one hidden layer and squared loss, on data of full rank with distinct eigenvalues: every "
        "local minimum is global, every other critical point is a saddle. The same of more layers was conjectured."
    ),
    "Kawaguchi 2016, arXiv:1605.07110, theorem 2.3 and corollary 2.4": (
        "Deep linear networks of any depth and widths with squared loss, where X X' and X Y' have full rank, targets "
        "have no more dimensions than inputs, and Y X' (X X')^-1 X Y' has distinct eigenvalues: every local minimum is "
        "global, and every other critical point is a saddle. With one hidden layer (two layers of weights) the Hessian "
        "at each saddle has a negative eigenvalue; with more there are saddles without one, such as the origin, where "
        "the Hessian is 0."
    ),
    "Kawaguchi 2016, on nonlinear networks": (
        "The same, only of the expected loss of a model in which each path is active at random, independently of the "
        "inputs and of other paths (Choromanska et al. 2015, arXiv:1412.0233): assumptions that no network in use "
        "meets. Nothing is proved there of ReLU networks as they are."
    ),
    "Not in Kawaguchi 2016": (
        "That the number of local minima grows exponentially with the number of parameters: the paper is often cited "
        "for it, and does not say so. What can be shown is that symmetries make copies of any minimum, n! for a hidden "
        "layer of n units: see `equivalent_minima`."
    ),
    "Kawaguchi, Kaelbling & Bengio 2017, arXiv:1710.05468": (
        "A study of why networks generalize. It does not prove that networks in use have no poor local minima."
    ),
    "Yun, Sra & Jadbabaie 2019, arXiv:1802.03487": (
        "The other side: with one hidden layer and ReLU-like nonlinearities, there are poor local minima for almost "
        "all data sets. That there are none is a property of linear networks."
    ),
}
"""What is proved about poor local minima, and what is only quoted as such, by source."""


@dataclass(frozen=True)
class PoorMinima:
    """A search for local minima above the global one, from random starts.

    That none was found is evidence; the theorem is the proof. A search by gradients hardly ever ends at a saddle:
    `critical_points` has those that are known.

    Attributes:
        found: where each start ended.
        origin: the point where all weights are 0: a saddle, strict with one hidden layer; with more its Hessian is 0.
        minimum: the global one, with what the theorem assumes.
        widths: of the hidden layers.
        seed: of the starts.
        scale: of the starts: weights from N(0, scale^2 / inputs of the layer).
        rtol: what counts as 0, for gradients and losses.
    """

    found: list[Stationary]
    origin: Stationary
    minimum: GlobalMinimum
    widths: tuple[int, ...]
    seed: int
    scale: float
    rtol: float

    @property
    def counts(self) -> dict[Kind, int]:
        """How many ended at what."""
        kinds: tuple[Kind, ...] = ("global", "strict saddle", "saddle", "poor", "unfinished")
        return {kind: sum(one.kind == kind for one in self.found) for kind in kinds}

    @property
    def poor(self) -> int:
        """How many ended at a local minimum above the global one; the theorem says 0."""
        return self.counts["poor"]

    @property
    def share_bound(self) -> float:
        """Upper end of the one-sided 95 % interval of the share of starts that end at a poor one (Clopper-Pearson).

        Of those that ended anywhere; 1 where none did, and about 3 / starts for none poor.
        """
        return _upper(self.poor, len(self.found) - self.counts["unfinished"])


def critical_points(inputs: Tensor, targets: Tensor, widths: Sequence[int], *, seed: int = 0) -> list[Stationary]:
    """Return a critical point for each choice of at most p principal directions that the network keeps.

    The product of its weights is the least-squares fit, projected on these (Baldi & Hornik 1989); each layer
    has their number as its rank. The origin keeps none, the global minimum the p strongest. With one hidden layer all
    others are strict saddles; with more, those that keep the strongest ones, only fewer than p, are not strict.

    Args:
        inputs: X, (examples, inputs).
        targets: Y, (examples, targets).
        widths: of the hidden layers.
        seed: of the searches for a lower loss near by, where no eigenvalue is negative.

    Raises:
        ValueError: an argument makes no sense, or there are more than 200 choices.
    """
    network = LinearLoss(inputs, targets, widths, rtol=1e-8, seed=seed)
    x, y = network.data
    fit = torch.linalg.lstsq(x, y, driver="gelsd").solution
    directions = torch.linalg.svd(x @ fit, full_matrices=False)[2]
    known = sum(one > network.rtol * network.minimum.strengths[0] for one in network.minimum.strengths)
    most = min(network.minimum.rank, known)
    choices = [kept for count in range(most + 1) for kept in itertools.combinations(range(known), count)]
    if len(choices) > 200:
        raise ValueError(f"there are {len(choices)} choices of directions; give fewer targets, or smaller widths")
    points = []
    for kept in choices:
        chosen = directions[list(kept)]
        weights = [torch.zeros(shape, dtype=torch.float64) for shape in network.shapes]
        for weight in weights:
            weight[: len(kept), : len(kept)] = torch.eye(len(kept), dtype=torch.float64)
        weights[0][: len(kept)] = chosen @ fit.T
        weights[-1][:, : len(kept)] = chosen.T
        points.append(network.looked_at(torch.cat([weight.flatten() for weight in weights])))
    return points


def poor_minima(
    inputs: Tensor,
    targets: Tensor,
    widths: Sequence[int],
    *,
    starts: int = 20,
    scale: float = 1.0,
    iterations: int = 2000,
    rtol: float = 1e-8,
    seed: int = 0,
) -> PoorMinima:
    """Search for local minima of a linear network above the global one, on all data, from random starts.

    Searches are L-BFGS, and, where that stalls, Newton's method in a trust region.

    Args:
        inputs: X, (examples, inputs).
        targets: Y, (examples, targets).
        widths: of the hidden layers, so that there are at most 1000 weights: the whole Hessian is computed.
        starts: how many.
        scale: of the starts: weights from N(0, scale^2 / inputs of the layer). Small ones begin near the origin,
            which is flat where there are many layers: searches then take long.
        iterations: of each search, at most.
        rtol: a gradient of at most so much of |X'Y| / examples, and an excess of at most so much of the loss at the
            origin, count as 0.
        seed: of the starts.

    Raises:
        ValueError: an argument makes no sense, or there are too many weights.
    """
    whole("starts", starts, 1)
    whole("iterations", iterations, 1)
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < scale < math.inf:
        raise ValueError(f"scale is {scale!r}; give a finite number above 0")
    network = LinearLoss(inputs, targets, widths, rtol=accuracy("rtol", rtol), seed=seed)
    source = generator(seed)
    found = [network.looked_at(network.searched(network.start(source, scale), iterations)) for _ in range(starts)]
    origin = network.looked_at(torch.zeros(network.size, dtype=torch.float64))
    return PoorMinima(found, origin, network.minimum, checked_widths(widths), seed, scale, rtol)


def _upper(hits: int, count: int) -> float:
    """Return the share with which so few hits, or fewer, have a probability of 5 %, by bisection."""
    low, high = 0.0, 1.0
    if hits >= count:
        return high
    for _ in range(60):
        middle = (low + high) / 2
        below = math.fsum(math.comb(count, k) * middle**k * (1 - middle) ** (count - k) for k in range(hits + 1))
        low, high = (middle, high) if below > 0.05 else (low, middle)
    return high
