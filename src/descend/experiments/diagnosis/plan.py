"""Which measurements a diagnosis takes, and how finely."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

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
    "memorization",
    "directions",
    "symmetry",
    "measures",
    "training",
)

CLAMPS, MATCHES, BINS = ("zero", "mean"), ("weights", "activations"), 30
Setting: TypeAlias = str | float | int


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
        shares: of labels that are drawn anew.
        epochs: of trainings on these, at most.
        orders: of units, and draws of noise.
        shares_clamped: of units that are clamped, how many.
        samples: of noise, of measures of flatness.
        bisections: of these.
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
    shares: tuple[float, ...]
    epochs: int
    orders: int
    shares_clamped: int
    samples: int
    bisections: int


FULL = Extent(
    examples=2000,
    seeds=3,
    largest=5,
    rtol=1e-3,
    trace_rtol=0.05,
    trace_products=1000,
    draws=10,
    steps=80,
    slice=41,
    line=31,
    plane=21,
    boxes=(1e-3, 5e-4),
    radii=(0.05, 0.1, 0.01, 0.1),
    alphas=(0.1, 0.3, 1.0, 3.0, 10.0),
    shares=(0.0, 0.05, 0.25, 0.5, 1.0),
    epochs=300,
    orders=10,
    shares_clamped=21,
    samples=10,
    bisections=15,
)
QUICK = Extent(
    examples=500,
    seeds=2,
    largest=3,
    rtol=1e-2,
    trace_rtol=0.1,
    trace_products=100,
    draws=4,
    steps=30,
    slice=11,
    line=11,
    plane=9,
    boxes=(1e-3,),
    radii=(0.05, 0.1, 0.01, 0.1),
    alphas=(0.2, 1.0, 5.0),
    shares=(0.0, 0.05, 1.0),
    epochs=150,
    orders=5,
    shares_clamped=11,
    samples=4,
    bisections=15,
)


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
        settings: hyper-parameters of each solution, where a population was given.
    """

    solutions: tuple[Solution, ...]
    instruments: tuple[str, ...]
    extent: Extent
    examples: int
    has_statistics: bool
    can_rescale: bool
    folder: Path
    settings: tuple[Mapping[str, Setting], ...] = ()

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
        return every | self._understanding()

    def _understanding(self) -> dict[str, list[KeptJob]]:
        wanted, extent = self.instruments, self.extent
        clamps = [self._first("clamped", to=to, orders=extent.orders, points=extent.shares_clamped) for to in CLAMPS]
        searches = {"samples": extent.samples, "steps": extent.bisections, "ascent_steps": extent.samples}
        pairs = [self.solutions[:2]] if len(self.solutions) > 1 else []
        found = {
            "memorization": [self._first("memorized", share=one, most_epochs=extent.epochs) for one in extent.shares],
            "directions": [*clamps, self._first("noised", draws=extent.orders)],
            "units": [self._first("units", bins=BINS)],
            "symmetry": [self._first("symmetric")],
            "alignment": [
                self._job("aligned", pair, method=one, points=extent.line) for pair in pairs for one in MATCHES
            ],
            "measures": [self._job("measured", (one,), **searches) for one in self.solutions],
        }
        of = {"units": "directions", "alignment": "symmetry"}
        return {name: jobs if of.get(name, name) in wanted else [] for name, jobs in found.items()}

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
