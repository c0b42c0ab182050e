"""Bootstrap intervals of results that vary with the seed and with the test examples."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from descend.ensembles.scores import Binned

_CHUNK = 2_000_000
"""Weights that are held at a time: 16 MB in float64, and as much for the draws they count and for a transposed copy."""
_KEPT = 50_000_000
"""Weights that are kept from one computation to the next, at most, two bytes each; more are drawn anew each time."""


class Draws:
    """Bootstrap samples of test examples, drawn with replacement, the same for all that is computed on them.

    As every method, metric and seed is computed on the same draws, replicates of two of them are paired and can be
    subtracted. `over_seeds` then draws the seeds.

    Source: B. Efron & R. J. Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.

    Args:
        examples: number of test examples, n.
        count: number of replicates.
        generator_seed: decides the draws.
        block: how many successive examples depend on each other, such as the characters of a window; they are drawn
            together, the last block being what is left.

    Raises:
        ValueError: for a number below 1, or a negative generator_seed.
    """

    def __init__(self, examples: int, count: int = 2000, generator_seed: int = 0, *, block: int = 1) -> None:
        least = {"examples": (examples, 1), "count": (count, 1), "generator_seed": (generator_seed, 0)}
        for name, (value, lowest) in {**least, "block": (block, 1)}.items():
            if value < lowest:
                raise ValueError(f"{name}: need {lowest} or more, got {value}")
        self.examples = examples
        self.count = count
        self.generator_seed = generator_seed
        self._places = torch.arange(examples) // block
        self._sizes = torch.bincount(self._places).double()
        self._drawn: list[Tensor] = []

    def weights(self) -> Iterator[Tensor]:
        """Yield for some replicates at a time how often each block was drawn: (replicates, blocks), float64."""
        if self._drawn:
            yield from (drawn.double() for drawn in self._drawn)
            return
        generator = torch.Generator().manual_seed(self.generator_seed)
        blocks = len(self._sizes)
        rows, is_kept = max(1, _CHUNK // blocks), self.count * blocks <= _KEPT
        drawn = []
        for start in range(0, self.count, rows):
            weights = _draws(min(rows, self.count - start), blocks, generator)
            drawn += [weights.short()] if is_kept else []
            yield weights
        self._drawn = drawn

    def means(self, values: Tensor) -> Tensor:
        """Return replicates of means over the examples, shape (k, count), float64.

        Args:
            values: k numbers for each example, shape (k, examples).

        Raises:
            ValueError: for another shape, or values that are not finite.
        """
        table = torch.zeros(len(self._sizes), len(values), dtype=torch.float64)
        table.index_add_(0, self._places, self._checked("values", values).T)
        return torch.cat([(blocks @ table) / (blocks @ self._sizes)[:, None] for blocks in self.weights()]).T

    def calibration_errors(self, binned: Sequence[Binned]) -> Tensor:
        """Return replicates of calibration errors, shape (k, count), float64.

        The bins are those of all examples; a replicate weighs what is in them.

        Args:
            binned: k times what falls into which bin, as `scores.binned` has it.

        Raises:
            ValueError: for another number of examples, or gaps that are not finite.
        """
        bins = max(one.bins for one in binned)
        gaps = self._checked("gaps", torch.stack([one.gaps for one in binned]))
        rows = torch.stack([one.places for one in binned]) + bins * torch.arange(len(binned)).unsqueeze(1)
        indices = torch.stack([rows.flatten(), self._places.expand_as(rows).flatten()])
        size = (len(binned) * bins, len(self._sizes))
        matrix = torch.sparse_coo_tensor(indices, gaps.flatten(), size, check_invariants=True).coalesce()
        replicates = []
        for blocks in self.weights():
            sums = torch.sparse.mm(matrix, blocks.T.contiguous()).view(len(binned), bins, len(blocks))
            replicates.append(sums.abs().sum(1) / (blocks @ self._sizes))
        return torch.cat(replicates, 1)

    def _checked(self, name: str, values: Tensor) -> Tensor:
        if values.ndim != 2 or values.shape[1] != self.examples:
            raise ValueError(f"{name}: need shape (k, {self.examples}), got {tuple(values.shape)}")
        values = values.detach().double().cpu()
        if not bool(values.isfinite().all()):
            raise ValueError(f"{name}: need finite numbers, got inf or NaN; no interval follows from them")
        return values


def over_seeds(replicates: Tensor, generator_seed: int = 0) -> Tensor:
    """Return replicates of the mean over seeds that are drawn with replacement, shape (count,), float64.

    Together with draws of examples, the same for all seeds, this is the pigeonhole bootstrap. The spread between seeds
    comes out too small by (seeds - 1) / seeds in variance, and what is independent noise in every result counts about
    three times: intervals are wide rather than narrow. With one seed, examples alone are resampled.

    Source: A. B. Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1, 2007, https://arxiv.org/abs/0712.1111.

    Args:
        replicates: of each seed, shape (seeds, count).
        generator_seed: decides the draws; the same for all methods, so that they are paired.

    Raises:
        ValueError: for another shape.
    """
    if replicates.ndim != 2 or 0 in replicates.shape:
        raise ValueError(f"replicates: need shape (seeds, count), at least one of each, got {tuple(replicates.shape)}")
    seeds, count = replicates.shape
    weights = _draws(count, seeds, torch.Generator().manual_seed(generator_seed))
    return (weights * replicates.double().T).sum(1) / seeds


def interval(replicates: Tensor, confidence: float = 0.95) -> tuple[float, float]:
    """Return the ends of the percentile interval: the quantiles at (1 - confidence) / 2 from below and from above.

    Source: B. Efron & R. J. Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3; quantiles interpolated.

    Args:
        replicates: of one number, shape (count,).
        confidence: above 0 and below 1.

    Raises:
        ValueError: for another shape, NaN, or a confidence that is none.
    """
    if replicates.ndim != 1 or len(replicates) == 0:
        raise ValueError(f"replicates: need shape (count,), at least one, got {tuple(replicates.shape)}")
    if bool(replicates.isnan().any()):
        raise ValueError("replicates: need numbers, got NaN; leave those out for which nothing can be computed")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: need a number above 0 and below 1, got {confidence}; 0.95 is usual")
    tail = (1 - confidence) / 2
    low, high = replicates.double().quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def _draws(rows: int, n: int, generator: torch.Generator) -> Tensor:
    """Return for each row how often each of n things is among n draws with replacement: a multinomial count."""
    drawn = torch.randint(n, (rows, n), generator=generator)
    ones = torch.ones((), dtype=torch.float64).expand(rows, n)
    return torch.zeros(rows, n, dtype=torch.float64).scatter_add_(1, drawn, ones)
