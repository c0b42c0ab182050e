"""Which measurements a diagnosis takes, and how finely."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from descend.experiments.diagnosis.measurement import Measurement
from descend.experiments.diagnosis.solutions import Solution, Trained, has_preconditioner
from descend.experiments.errors import UsageError
from descend.experiments.jobs import KeptJob

INSTRUMENTS = (
    "eigenvalues",
    "trace",
    "density",
    "sharpness",
    "rescaling",
    "slices",
    "interpolation",
    "trajectory",
    "training",
)


@dataclass(frozen=True)
class Extent:
    """How finely things are measured.

    Attributes:
        examples: of the training data that instruments see.
        seeds: of solutions that are trained.
        largest: eigenvalues.
        rtol: of eigenvalues.
        trace_rtol: of the trace.
        trace_products: at most.
        draws: of the density.
        steps: of the density.
        slice: points of a slice, in each direction.
        line: points of an interpolation.
        plane: points of other planes, in each direction.
        boxes: sizes of Keskar's box.
        radii: of balls: of the worst case plain and adaptive, and of the average plain and adaptive.
        alphas: of rescalings.
    """

    examples: int
    seeds: int
    largest: int
    rtol: float
    trace_rtol: float
    trace_products: int
    draws: int
    steps: int
    slice: int
    line: int
    plane: int
    boxes: tuple[float, ...]
    radii: tuple[float, float, float, float]
    alphas: tuple[float, ...]


FULL = Extent(
    2000, 3, 5, 1e-3, 0.05, 1000, 10, 80, 41, 31, 21, (1e-3, 5e-4), (0.05, 0.1, 0.01, 0.1), (0.1, 0.3, 1.0, 3.0, 10.0)
)
QUICK = Extent(500, 2, 3, 1e-2, 0.1, 100, 4, 30, 11, 11, 9, (1e-3,), (0.05, 0.1, 0.01, 0.1), (0.2, 1.0, 5.0))


@dataclass(frozen=True)
class Plan:
    """The measurements of a diagnosis.

    Attributes:
        solutions: that are looked at; most instruments look at the first.
        instruments: that are wanted.
        extent: how finely.
        examples: of the training data that they see.
        has_statistics: whether the model has batch normalization.
        can_rescale: whether layers can be rescaled.
        folder: of what is kept.
    """

    solutions: tuple[Solution, ...]
    instruments: tuple[str, ...]
    extent: Extent
    examples: int
    has_statistics: bool
    can_rescale: bool
    folder: Path

    def jobs(self) -> dict[str, list[KeptJob]]:
        """Return the jobs by the part of the document that they make."""
        every = {
            "scores": [self._job("scores", (one,)) for one in self.solutions],
            "spectra": self._spectra() if "eigenvalues" in self.instruments else [],
            "traces": self._traces() if "trace" in self.instruments else [],
            "densities": self._densities() if "density" in self.instruments else [],
            "sharpness": self._sharpness() if "sharpness" in self.instruments else [],
            "rescaling": self._rescaling() if "rescaling" in self.instruments else [],
            "slice": [self._first("line_slice", points=self.extent.slice, recompute=self.has_statistics)],
            "slice plane": self._rows("plane_row", self.extent.slice, recompute=self.has_statistics),
            "interpolation": self._interpolations() if "interpolation" in self.instruments else [],
            "three": self._three() if "interpolation" in self.instruments else [],
            "way": self._way() if "trajectory" in self.instruments else [],
        }
        if "slices" not in self.instruments:
            every["slice"] = every["slice plane"] = []
        return every

    def _spectra(self) -> list[KeptJob]:
        extent = self.extent
        jobs = [
            self._first("eigenvalues", matrix="Hessian", which="largest", k=extent.largest, rtol=extent.rtol),
            self._first("eigenvalues", matrix="Hessian", which="smallest", k=1, rtol=max(extent.rtol, 1e-2)),
            self._first("eigenvalues", matrix="Gauss-Newton", which="largest", k=1, rtol=extent.rtol),
        ]
        first = self.solutions[0]
        if isinstance(first, Trained) and has_preconditioner(first.kept.job.optimizer):  # type: ignore[attr-defined]
            named = "preconditioned Hessian"
            jobs.append(self._first("eigenvalues", matrix=named, which="largest", k=1, rtol=extent.rtol))
        if self.has_statistics:
            own = {"matrix": "Hessian", "which": "largest", "k": 1, "rtol": extent.rtol, "mode": "train"}
            jobs.append(self._first("eigenvalues", **own))
        return jobs

    def _traces(self) -> list[KeptJob]:
        extent = self.extent
        return [
            self._first(
                "traces", matrix=matrix, method=method, rtol=extent.trace_rtol, max_products=extent.trace_products
            )
            for matrix in ("Hessian", "Gauss-Newton")
            for method in ("hutchinson", "hutch++")
        ]

    def _densities(self) -> list[KeptJob]:
        extent = self.extent
        return [
            self._first("density", matrix=matrix, draws=extent.draws, steps=extent.steps, points=400)
            for matrix in ("Hessian", "Gauss-Newton")
        ]

    def _sharpness(self) -> list[KeptJob]:
        extent = self.extent
        boxes = [
            self._first("sharpness", measure=f"Keskar box, {space}", size=size)
            for size in extent.boxes
            for space in ("full space", "random manifold")
        ]
        plain, adaptive, mean, adaptive_mean = extent.radii
        balls = [
            self._first("sharpness", measure=measure, size=size, eta=eta, logits=logits)
            for logits in ("as they are", "normalized")
            for measure, sizes in (("worst case", (plain, adaptive)), ("average", (mean, adaptive_mean)))
            for eta, size in ((None, sizes[0]), (0.0, sizes[1]), (0.01, sizes[1]))
        ]
        return boxes + balls

    def _rescaling(self) -> list[KeptJob]:
        return [self._first("rescaled", alpha=alpha) for alpha in self.extent.alphas] if self.can_rescale else []

    def _interpolations(self) -> list[KeptJob]:
        first = self.solutions[0]
        pairs: list[tuple[Solution, ...]] = []
        if isinstance(first, Trained):
            pairs.append((Trained(first.kept, is_start=True), first))
        if len(self.solutions) > 1:
            pairs.append(self.solutions[:2])
        return [self._job("interpolated", pair, points=self.extent.line) for pair in pairs]

    def _three(self) -> list[KeptJob]:
        if len(self.solutions) < 3:
            return []
        points = self.extent.plane
        return [self._job("three_row", self.solutions[:3], points=points, row=row) for row in range(points)]

    def _way(self) -> list[KeptJob]:
        if not isinstance(self.solutions[0], Trained):
            return []
        return self._rows("way_row", self.extent.plane, recompute=self.has_statistics)

    def _rows(self, instrument: str, points: int, **options: Any) -> list[KeptJob]:
        return [self._first(instrument, points=points, row=row, **options) for row in range(points)]

    def _first(self, instrument: str, **options: Any) -> KeptJob:
        return self._job(instrument, self.solutions[:1], **options)

    def _job(self, instrument: str, solutions: Sequence[Solution], **options: Any) -> KeptJob:
        return KeptJob(
            self.folder, Measurement(instrument, tuple(solutions), self.examples, tuple(sorted(options.items())))
        )


def chosen(instruments: Iterable[str] | None) -> tuple[str, ...]:
    """Return the instruments that are wanted, in their usual order.

    Raises:
        UsageError: one is unknown.
    """
    if instruments is None:
        return INSTRUMENTS
    named = list(instruments)
    for name in named:
        if name not in INSTRUMENTS:
            raise UsageError(f"instrument {name!r} is unknown; there are {', '.join(INSTRUMENTS)}")
    if not named:
        raise UsageError(f"instruments is empty; choose some of {', '.join(INSTRUMENTS)}")
    return tuple(name for name in INSTRUMENTS if name in named)
