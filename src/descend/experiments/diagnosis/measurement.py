"""The job of one measurement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from descend.experiments.diagnosis.instruments import density, eigenvalues, rescaled, scores, sharpness, traces
from descend.experiments.diagnosis.landscapes import interpolated, line_slice, plane_row, three_row, way_row
from descend.experiments.diagnosis.solutions import Solution
from descend.experiments.diagnosis.subject import Part, Subject
from descend.experiments.diagnosis.understanding import (
    aligned,
    clamped,
    measured,
    memorized,
    noised,
    symmetric,
    units,
)
from descend.experiments.jobs import Result
from descend.tasks import Task

FORMAT = 1

INSTRUMENTS: Mapping[str, Callable[..., Part]] = {
    one.__name__: one
    for one in (
        scores,
        eigenvalues,
        traces,
        density,
        sharpness,
        rescaled,
        line_slice,
        plane_row,
        interpolated,
        three_row,
        way_row,
        memorized,
        clamped,
        noised,
        units,
        symmetric,
        aligned,
        measured,
    )
}


@dataclass(frozen=True)
class Measurement:
    """The job of one measurement.

    Attributes:
        instrument: name of its function.
        solutions: that it looks at.
        examples: of the training data.
        options: of the function.
    """

    instrument: str
    solutions: tuple[Solution, ...]
    examples: int
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """What it is called while it runs."""
        said = " ".join(str(value) for _, value in self.options)
        on = " and ".join(solution.name for solution in self.solutions)
        return f"{self.instrument.replace('_', ' ')} {said} of {on}".replace("/", " ").replace("  ", " ")

    @property
    def depends(self) -> Mapping[str, Any]:
        """The weights, the data and the options."""
        return {
            "format": FORMAT,
            "instrument": self.instrument,
            "solutions": [dict(one.depends) for one in self.solutions],
            "examples": self.examples,
            "options": dict(self.options),
        }

    def holds(self, result: Result) -> bool:
        """Tell that there is nothing beside the result."""
        return True

    def run(self, task: Task) -> Result:
        """Measure; what cannot be, of this task or of these weights, is kept as "unmeasured", with the reason."""
        subject = Subject(task, self.solutions, self.examples)
        try:
            return INSTRUMENTS[self.instrument](subject, **dict(self.options))
        except (ValueError, TypeError) as error:
            if self.instrument == scores.__name__:  # then nothing can
                raise
            return {"unmeasured": str(error), "what": self.name}
