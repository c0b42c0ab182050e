"""What lies between solutions: the loss on lines and planes through trained weights.

    def evaluate(state):                                     # on held-out data, say
        model.load_state_dict(state)
        recompute_batch_norm(model, loader)                  # of descend.averaging, where the model has such layers
        return Measured(loss(model), error(model))

    line = path(first, second, evaluate)                     # line.losses, line.barrier
    between = barriers([first, second, third], evaluate)     # between.matrix: which of them can be averaged
    seen = surface(Plane.through(first, second, third), evaluate)

States are what `model.state_dict()` gives. Where the barrier between two is near 0, their average is a solution too.
"""

from __future__ import annotations

from descend.generalization.box import BoxSharpness, box_sharpness
from descend.generalization.curvature import GaussNewton, Hessian, Preconditioned
from descend.generalization.density import SpectralDensity, spectral_density
from descend.generalization.eigenvalues import Eigenvalues, top_eigenvalues
from descend.generalization.interpolation import Barriers, Evaluate, Measured, Path, barriers, interpolate, path
from descend.generalization.linear import Conditions, NotConverged, SymmetricMap
from descend.generalization.losses import supervised, unit_logits
from descend.generalization.monitor import Monitor, Reading
from descend.generalization.objective import Objective
from descend.generalization.planes import Plane, Surface, surface
from descend.generalization.preconditioning import preconditioner, stability_threshold
from descend.generalization.rescaling import function_change, reparameterize, rescalable
from descend.generalization.sharpness import Average, WorstCase, average, worst_case
from descend.generalization.slices import Slice, amounts, random_directions, slice_line, slice_plane, slice_row
from descend.generalization.traces import Trace, trace
from descend.generalization.trajectory import Trajectory, project_trajectory
from descend.model_states import State

__all__ = [
    "Average",
    "Barriers",
    "BoxSharpness",
    "Conditions",
    "Eigenvalues",
    "Evaluate",
    "GaussNewton",
    "Hessian",
    "Measured",
    "Monitor",
    "NotConverged",
    "Objective",
    "Path",
    "Plane",
    "Preconditioned",
    "Reading",
    "Slice",
    "SpectralDensity",
    "State",
    "Surface",
    "SymmetricMap",
    "Trace",
    "Trajectory",
    "WorstCase",
    "amounts",
    "average",
    "barriers",
    "box_sharpness",
    "function_change",
    "interpolate",
    "path",
    "preconditioner",
    "project_trajectory",
    "random_directions",
    "reparameterize",
    "rescalable",
    "slice_line",
    "slice_plane",
    "slice_row",
    "spectral_density",
    "stability_threshold",
    "supervised",
    "surface",
    "top_eigenvalues",
    "trace",
    "unit_logits",
    "worst_case",
]
