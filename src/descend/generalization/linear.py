"""What the numerics of curvature need: a symmetric linear map, and what is said of every measurement."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditions:
    """What was measured.

    Attributes:
        mode: "eval", "train", or "matrix" where there is no model.
        examples: that the loss is a mean of.
        batches: that they came in.
        parameters: number of weights that vary.
        seed: of what a forward pass draws; None where nothing is drawn.
        weight_decay: that the loss includes; 0 for none.
        notes: what else to know.
    """

    mode: str
    examples: int
    batches: int
    parameters: int
    seed: int | None = None
    weight_decay: float = 0.0
    notes: tuple[str, ...] = ()

    @classmethod
    def of_matrix(cls, size: int) -> Conditions:
        """Return the conditions of a matrix that belongs to no model."""
        return cls("matrix", 0, 0, size)


class SymmetricMap(Protocol):
    """A symmetric matrix known by its products with vectors: one (size,), or k of them, (size, k), in float64."""

    @property
    def size(self) -> int:
        """Number of rows."""

    @property
    def device(self) -> torch.device:
        """Where vectors lie."""

    @property
    def conditions(self) -> Conditions:
        """What is measured."""

    def held(self) -> AbstractContextManager[None]:
        """Make many products in a row cheaper."""

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """Return the products; k columns cost one visit of the data."""


class NotFinite(ValueError):
    """Products are infinite or NaN, as at weights that diverged."""


class NotConverged(RuntimeError):
    """The accuracy that was asked for was not reached.

    Attributes:
        result: what was reached, with its residuals or standard error.
    """

    def __init__(self, message: str, result: Any) -> None:
        super().__init__(message)
        self.result = result
