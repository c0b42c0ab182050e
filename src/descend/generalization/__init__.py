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

from descend.generalization.ablation import (
    Robustness,
    accuracy,
    cumulative_ablation,
    noise_robustness,
    unit_importance,
)
from descend.generalization.alignment import AlignedPaths, Alignment, align, aligned_paths
from descend.generalization.box import BoxSharpness, box_sharpness
from descend.generalization.chains import HiddenLayer, hidden_layers
from descend.generalization.corruption import (
    CorruptedLabels,
    GaussianPixels,
    RandomPixels,
    ShuffledPixels,
    corrupted_labels,
    expected_wrong_share,
)
from descend.generalization.curvature import GaussNewton, Hessian, Preconditioned
from descend.generalization.density import SpectralDensity, spectral_density
from descend.generalization.eigenvalues import Eigenvalues, top_eigenvalues
from descend.generalization.fitting import FittingNetwork, Kernel, MinimumNorm, fitting_network, minimum_norm
from descend.generalization.interpolation import Barriers, Evaluate, Measured, Path, barriers, interpolate, path
from descend.generalization.linear import Conditions, NotConverged, SymmetricMap
from descend.generalization.linear_loss import GlobalMinimum, Stationary, global_minimum
from descend.generalization.linear_networks import WHAT_IS_PROVED, PoorMinima, critical_points, poor_minima
from descend.generalization.losses import supervised, unit_logits
from descend.generalization.margins import Margin, margin, margins
from descend.generalization.measures import MEASURES, Measure, measures
from descend.generalization.memorization import LearningTimes, Ranking
from descend.generalization.monitor import Monitor, Reading
from descend.generalization.norms import path_norm
from descend.generalization.objective import Objective
from descend.generalization.pac_bayes import Flatness, Reach, flatness, reach
from descend.generalization.planes import Plane, Surface, surface
from descend.generalization.preconditioning import preconditioner, stability_threshold
from descend.generalization.ranking import Axis, Granulated, granulated_kendall, rank_correlation, rank_interval
from descend.generalization.rescaling import function_change, reparameterize, rescalable
from descend.generalization.selectivity import class_selectivity, mutual_information
from descend.generalization.sharpness import Average, WorstCase, average, worst_case
from descend.generalization.slices import Slice, amounts, random_directions, slice_line, slice_plane, slice_row
from descend.generalization.symmetry import (
    WHAT_IS_COUNTED,
    Equivalents,
    equivalent_minima,
    log10_equivalents,
    permuted,
    sign_flipped,
)
from descend.generalization.traces import Trace, trace
from descend.generalization.trajectory import Trajectory, project_trajectory
from descend.generalization.units import Activations, Layer, activations
from descend.model_states import State

__all__ = [
    "MEASURES",
    "WHAT_IS_COUNTED",
    "WHAT_IS_PROVED",
    "Activations",
    "AlignedPaths",
    "Alignment",
    "Average",
    "Axis",
    "Barriers",
    "BoxSharpness",
    "Conditions",
    "CorruptedLabels",
    "Eigenvalues",
    "Equivalents",
    "Evaluate",
    "FittingNetwork",
    "Flatness",
    "GaussNewton",
    "GaussianPixels",
    "GlobalMinimum",
    "Granulated",
    "Hessian",
    "HiddenLayer",
    "Kernel",
    "Layer",
    "LearningTimes",
    "Margin",
    "Measure",
    "Measured",
    "MinimumNorm",
    "Monitor",
    "NotConverged",
    "Objective",
    "Path",
    "Plane",
    "PoorMinima",
    "Preconditioned",
    "RandomPixels",
    "Ranking",
    "Reach",
    "Reading",
    "Robustness",
    "ShuffledPixels",
    "Slice",
    "SpectralDensity",
    "State",
    "Stationary",
    "Surface",
    "SymmetricMap",
    "Trace",
    "Trajectory",
    "WorstCase",
    "accuracy",
    "activations",
    "align",
    "aligned_paths",
    "amounts",
    "average",
    "barriers",
    "box_sharpness",
    "class_selectivity",
    "corrupted_labels",
    "critical_points",
    "cumulative_ablation",
    "equivalent_minima",
    "expected_wrong_share",
    "fitting_network",
    "flatness",
    "function_change",
    "global_minimum",
    "granulated_kendall",
    "hidden_layers",
    "interpolate",
    "log10_equivalents",
    "margin",
    "margins",
    "measures",
    "minimum_norm",
    "mutual_information",
    "noise_robustness",
    "path",
    "path_norm",
    "permuted",
    "poor_minima",
    "preconditioner",
    "project_trajectory",
    "random_directions",
    "rank_correlation",
    "rank_interval",
    "reach",
    "reparameterize",
    "rescalable",
    "sign_flipped",
    "slice_line",
    "slice_plane",
    "slice_row",
    "spectral_density",
    "stability_threshold",
    "supervised",
    "surface",
    "top_eigenvalues",
    "trace",
    "unit_importance",
    "unit_logits",
    "worst_case",
]
