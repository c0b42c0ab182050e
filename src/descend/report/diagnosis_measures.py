"""Of the file `diagnosis.json`: what was measured at a solution, and on what. `diagnosis_results` has the rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Setting:
    """What an instrument measured.

    Attributes:
        solution: name of the solution.
        mode: "eval", or "train" with statistics of each batch.
        examples: of the training data.
        batches: that they came in.
        parameters: number of weights.
        weight_decay: that the loss includes; 0 for none.
        seed: of what was drawn.
        notes: what else to know.
    """

    solution: str
    mode: str
    examples: int
    batches: int
    parameters: int
    weight_decay: float = 0.0
    seed: int | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Spectrum:
    """Extreme eigenvalues of one matrix.

    Attributes:
        matrix: "Hessian", "Gauss-Newton", or "preconditioned Hessian".
        which: end of the spectrum: "largest" or "smallest".
        values: in order.
        residuals: of each: an eigenvalue is within so much of it.
        converged: whether each residual is as small as was asked.
        products: of the matrix with a vector.
        rtol: accuracy that was asked for, relative to each value.
        setting: what was measured.
        threshold: that the largest must stay below for the optimizer's steps to be stable; null without one.
    """

    matrix: str
    which: Literal["largest", "smallest", "magnitude"]
    values: list[float | None]
    residuals: list[float | None]
    converged: bool
    products: int
    rtol: float
    setting: Setting
    threshold: float | None = None


@dataclass(frozen=True)
class TraceEstimate:
    """The trace of one matrix.

    Attributes:
        matrix: as in Spectrum.
        method: "hutchinson", "hutch++" or "exact".
        value: estimate.
        standard_error: of it.
        low: lower end of its 95 % interval.
        high: its upper end.
        samples: that the standard error is of.
        products: of the matrix with a vector.
        converged: whether the standard error is as small as was asked.
        setting: what was measured.
    """

    matrix: str
    method: str
    value: float | None
    standard_error: float | None
    low: float | None
    high: float | None
    samples: int
    products: int
    converged: bool
    setting: Setting


@dataclass(frozen=True)
class Density:
    """The spectral density of one matrix, smoothed by Gaussians.

    Attributes:
        matrix: as in Spectrum.
        grid: eigenvalues, rising.
        values: density at each, mean over the draws.
        errors: its standard error.
        width: standard deviation of the Gaussians.
        draws: of starting vectors.
        steps: of Lanczos from each.
        moments: the first six, means of powers of eigenvalues.
        moment_errors: their standard errors.
        negative_share: of the eigenvalues below 0.
        products: of the matrix with a vector.
        setting: what was measured.
    """

    matrix: str
    grid: list[float]
    values: list[float | None]
    errors: list[float | None]
    width: float
    draws: int
    steps: int
    moments: list[float | None]
    moment_errors: list[float | None]
    negative_share: float | None
    products: int
    setting: Setting


@dataclass(frozen=True)
class Sharpness:
    """One measure of sharpness.

    Attributes:
        measure: its name, such as "Keskar box, full space" or "worst case, adaptive".
        size: of the neighbourhood: eps of a box, rho of a ball or of noise.
        value: percent for a box, else a rise of the loss.
        unit: "%" or "loss".
        low: lower end of its 95 % interval; null where nothing was drawn.
        high: its upper end.
        trials: that the interval is over; 1 where nothing was drawn.
        stalled: whether the search for the maximum stopped where it began.
        invariances: what leaves the measure unchanged.
        setting: what was measured.
        eta: of adaptive measures; null for plain ones.
        logits: "as they are", or "normalized".
    """

    measure: str
    size: float
    value: float | None
    unit: Literal["%", "loss"]
    low: float | None
    high: float | None
    trials: int
    stalled: bool
    invariances: list[str]
    setting: Setting
    eta: float | None = None
    logits: Literal["as they are", "normalized"] = "as they are"
