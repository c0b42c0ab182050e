"""Bootstrap intervals of results that vary with the seed and with the test examples."""

from collections.abc import Iterator

import torch
from torch import Tensor

from descend.ensembles.scores import check_bins, width_bins

_CHUNK = 2_000_000
"""Weights that are held at a time: 16 MB in float64, and as much for the draws they count and for a transposed copy."""


class Resamples:
    """Bootstrap samples of seeds and test examples, both drawn with replacement, the same for all that is computed.

    A replicate draws as many seeds as there are and, for all of them alike, as many examples as there are; the product
    of how often a seed and an example were drawn weighs that seed's result on that example. As every method and metric
    is computed on the same draws, replicates of two of them are paired and can be subtracted. With one seed, examples
    alone are resampled. The spread between seeds comes out too small by (seeds - 1) / seeds in variance, and what is
    independent noise in every result counts about three times: intervals are wide rather than narrow.

    Source: B. Efron & R. J. Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13; both ways at once: A. B.
    Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1, 2007, https://arxiv.org/abs/0712.1111.

    Args:
        seeds: number of seeds.
        examples: number of test examples.
        count: number of replicates.
        generator_seed: decides the draws. They are made anew for each computation, as all of them fill gigabytes.
        block: how many successive examples depend on each other, such as the characters of a window; they are drawn
            together, the last block being what is left.

    Raises:
        ValueError: for a number below 1, or a negative generator_seed.
    """

    def __init__(
        self, seeds: int, examples: int, count: int = 2000, generator_seed: int = 0, *, block: int = 1
    ) -> None:
        for name, value, least in (
            ("seeds", seeds, 1),
            ("examples", examples, 1),
            ("count", count, 1),
            ("generator_seed", generator_seed, 0),
            ("block", block, 1),
        ):
            if value < least:
                raise ValueError(f"{name}: need {least} or more, got {value}")
        self.seeds = seeds
        self.examples = examples
        self.count = count
        self.generator_seed = generator_seed
        self._places = torch.arange(examples) // block
        self._sizes = torch.bincount(self._places).double()

    def weights(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield for some replicates at a time how often each seed and each block of examples was drawn.

        The shapes are (replicates, seeds) and (replicates, blocks), the type float64.
        """
        generator = torch.Generator().manual_seed(self.generator_seed)
        blocks = len(self._sizes)
        rows = max(1, _CHUNK // blocks)
        for start in range(0, self.count, rows):
            chunk = min(rows, self.count - start)
            yield _draws(chunk, self.seeds, generator), _draws(chunk, blocks, generator)

    def mean(self, values: Tensor) -> Tensor:
        """Return replicates of the mean over seeds and examples, shape (count,), float64.

        Args:
            values: a result of each seed on each example, shape (seeds, examples).

        Raises:
            ValueError: for another shape, or values that are not finite.
        """
        by_example = self._checked("values", values).T
        table = torch.zeros(len(self._sizes), self.seeds, dtype=torch.float64).index_add_(0, self._places, by_example)
        return (
            torch.cat([((blocks @ table) * seeds).sum(1) / (blocks @ self._sizes) for seeds, blocks in self.weights()])
            / self.seeds
        )

    def calibration_error(self, confidences: Tensor, correct: Tensor, bins: int = 15) -> Tensor:
        """Return replicates of the calibration error with bins of equal width, shape (count,), float64.

        That is `scores.calibration_error` of each seed on the examples drawn, and its mean over the seeds drawn.

        Args:
            confidences: the probability of each seed's chosen class, shape (seeds, examples).
            correct: whether that class is right, shape (seeds, examples).
            bins: how many.

        Raises:
            ValueError: for another shape, a value outside of 0 to 1, or fewer bins than one.
        """
        check_bins(bins)
        probabilities = self._checked("confidences", confidences)
        hits = self._checked("correct", correct)
        for name, values in (("confidences", probabilities), ("correct", hits)):
            if values.min() < 0 or values.max() > 1 + 1e-6:  # an exponential may round to above 1
                raise ValueError(f"{name}: need values from 0 to 1, got {values.min():.6g} to {values.max():.6g}")
        gaps = _gaps_by_bin(width_bins(probabilities, bins), probabilities - hits, self._places, bins)
        replicates = []
        for seeds, blocks in self.weights():
            sums = torch.sparse.mm(gaps, blocks.T.contiguous()).view(self.seeds, bins, len(seeds))
            replicates.append((sums.abs().sum(1) * seeds.T).sum(0) / (blocks @ self._sizes))
        return torch.cat(replicates) / self.seeds

    def _checked(self, name: str, values: Tensor) -> Tensor:
        if values.shape != (self.seeds, self.examples):
            raise ValueError(
                f"{name}: need shape (seeds, examples), which is {(self.seeds, self.examples)}, "
                f"got {tuple(values.shape)}"
            )
        values = values.detach().double().cpu()
        if not bool(values.isfinite().all()):
            raise ValueError(f"{name}: need finite numbers, got inf or NaN; no interval follows from them")
        return values


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


def _gaps_by_bin(places: Tensor, gaps: Tensor, blocks: Tensor, bins: int) -> Tensor:
    """Return the matrix, of shape (seeds * bins, blocks), that sums weighted gaps by seed and bin; mostly zeros."""
    seeds = len(gaps)
    rows = places + bins * torch.arange(seeds).unsqueeze(1)
    indices = torch.stack([rows.flatten(), blocks.expand_as(rows).flatten()])
    size = (seeds * bins, int(blocks[-1]) + 1)
    return torch.sparse_coo_tensor(indices, gaps.flatten(), size, check_invariants=True).coalesce()
