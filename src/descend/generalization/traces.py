"""The trace of a matrix that is known by its products, with a standard error.

Hutchinson 1990: the mean of z' A z over vectors z of random signs. Hutch++ of Meyer, Musco, Musco & Woodruff 2021,
arXiv:2010.09649, algorithm 1, takes the trace on a subspace exactly and draws only what is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from descend.generalization.estimates import interval, mean_and_error
from descend.generalization.krylov import accuracy, generator, product, signs, whole
from descend.generalization.linear import Conditions, NotConverged, SymmetricMap

Method = Literal["hutchinson", "hutch++", "exact"]

_LEAST = 30
"""Samples without which a standard error says little: stopping earlier is the usual mistake."""
_BLOCK = 10
_RANK = 10


@dataclass(frozen=True)
class Trace:
    """An estimate of a trace.

    Attributes:
        value: the estimate.
        standard_error: of it; 0 where nothing was drawn.
        interval: 95 %, by Student's t over the samples.
        samples: that were drawn; 0 where nothing was.
        method: that was taken.
        rtol: accuracy that was asked for; None where a number of probes was.
        converged: whether the standard error is that small.
        products: of the matrix with a vector.
        conditions: what was measured.
    """

    value: float
    standard_error: float
    interval: tuple[float, float]
    samples: int
    method: Method
    rtol: float | None
    converged: bool
    products: int
    conditions: Conditions


def trace(
    matrix: SymmetricMap,
    method: Method = "hutchinson",
    *,
    probes: int | None = None,
    rtol: float = 0.05,
    max_products: int = 1000,
    seed: int = 0,
) -> Trace:
    """Return the trace of a symmetric matrix.

    Args:
        matrix: a `Hessian`, say.
        method: "hutchinson", "hutch++", or "exact", which multiplies a whole basis. Hutch++ gains where few eigenvalues
            hold most of the trace, which Hessians of networks need not have.
        probes: products with random vectors, and no accuracy is asked; 2 or more (Hutch++: 6, a third of which span
            the subspace and a third multiply it). By default as many as it takes, from 30 samples on.
        rtol: the standard error is at most so much of the value.
        max_products: with vectors.
        seed: of the vectors.

    Raises:
        ValueError: an argument makes no sense, or products are not finite.
        NotConverged: the standard error is larger after max_products; its `result` is what was reached. A trace near 0,
            of an indefinite matrix, has no relative accuracy: ask for probes.
    """
    accuracy("rtol", rtol)
    whole("max_products", max_products, 1)
    if method not in ("hutchinson", "hutch++", "exact"):
        raise ValueError(f'method is {method!r}; give "hutchinson", "hutch++" or "exact"')
    if method == "exact":
        return _exact(matrix)
    if probes is not None:
        whole("probes", probes, 2 if method == "hutchinson" else 6)
    source = generator(seed)
    with matrix.held():
        if method == "hutchinson":
            basis, known, spent = None, 0.0, 0
        else:
            rank = min(matrix.size, _RANK if probes is None else probes // 3)
            basis, known = _subspace(matrix, rank, source)
            spent = 2 * rank
            if rank == matrix.size:
                return _result(matrix, "hutch++", known, [], None, spent)
        samples: list[float] = []
        left = max_products - spent if probes is None else probes - spent
        while len(samples) < left:
            count = min(_BLOCK, left - len(samples))
            samples += _drawn(matrix, count, basis, source)
            result = _result(matrix, method, known, samples, None if probes is not None else rtol, spent + len(samples))
            if probes is None and len(samples) >= _LEAST and result.converged:
                return result
    if len(samples) < 2:
        raise ValueError(f"max_products is {max_products}, which leaves less than 2 samples; give more")
    if not result.converged:
        raise NotConverged(
            f"after {result.products} products the trace is {result.value:.4g} with a standard error of "
            f"{result.standard_error:.2g}, more than {rtol:g} of it; give more max_products or a larger rtol, or take "
            "error.result as it is",
            result,
        )
    return result


def _exact(matrix: SymmetricMap) -> Trace:
    total = 0.0
    with matrix.held():
        for start in range(0, matrix.size, _BLOCK):
            count = min(_BLOCK, matrix.size - start)
            units = torch.zeros(matrix.size, count, dtype=torch.float64, device=matrix.device)
            units[torch.arange(start, start + count), torch.arange(count)] = 1
            total += float((units * product(matrix, units)).sum())
    return _result(matrix, "exact", total, [], None, matrix.size)


def _subspace(matrix: SymmetricMap, rank: int, source: torch.Generator) -> tuple[Tensor, float]:
    """Return a basis of a random image of the matrix, (size, rank), and the trace on it."""
    basis, _ = torch.linalg.qr(product(matrix, signs(matrix, rank, source)))
    return basis, float((basis * product(matrix, basis)).sum())


def _drawn(matrix: SymmetricMap, count: int, basis: Tensor | None, source: torch.Generator) -> list[float]:
    vectors = signs(matrix, count, source)
    if basis is not None:
        vectors = vectors - basis @ (basis.T @ vectors)
    found: list[float] = (vectors * product(matrix, vectors)).sum(0).tolist()
    return found


def _result(
    matrix: SymmetricMap, method: Method, known: float, samples: list[float], rtol: float | None, products: int
) -> Trace:
    count = len(samples)
    mean, error = mean_and_error(samples) if samples else (0.0, 0.0)
    value = known + mean
    is_done = rtol is None or error <= rtol * abs(value)
    return Trace(value, error, interval(value, error, count), count, method, rtol, is_done, products, matrix.conditions)
