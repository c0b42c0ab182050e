"""The instruments of a diagnosis: what each measures, how to read it, where it is from, and what its page shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from descend.report import diagnosis_foretold as foretold
from descend.report import diagnosis_landscapes as landscapes
from descend.report import diagnosis_numbers as numbers
from descend.report import diagnosis_understood as understood
from descend.report.diagnosis_parts import Part
from descend.report.diagnosis_results import Diagnosis


@dataclass(frozen=True)
class Instrument:
    """An instrument.

    Attributes:
        title: of its page.
        measures: what, in a sentence.
        reading: how to read it.
        source: papers.
        parts: what its page shows; nothing where nothing was measured.
    """

    title: str
    measures: str
    reading: str
    source: str
    parts: Callable[[Diagnosis], list[Part]]


INSTRUMENTS: Mapping[str, Instrument] = {
    "eigenvalues": Instrument(
        "Eigenvalues",
        "The curvature of the loss along its steepest directions.",
        "Along an eigenvector of the Hessian with the value c the loss rises by c/2 times the squared distance; "
        "gradient descent at the rate r is stable along it while c is below 2/r. Gauss-Newton is the part of the "
        "Hessian that comes from the curvature of the loss in the outputs.",
        "Lanczos 1950; Cohen et al. 2021, arXiv:2103.00065; 2022, arXiv:2207.14484",
        numbers.eigenvalues,
    ),
    "trace": Instrument(
        "Trace",
        "The sum of all eigenvalues.",
        "Noise of the same small size in every weight lifts the loss on average by half the trace times the noise's "
        "variance. Hutch++ takes the largest eigenvalues out first, and estimates only the rest.",
        "Hutchinson 1990; Meyer et al. 2021, arXiv:2010.09649",
        numbers.trace,
    ),
    "density": Instrument(
        "Spectral density",
        "How many directions have which curvature.",
        "Most directions of a trained network have hardly any, which is the peak at 0; a few stand out at the right. "
        "The scale is logarithmic, so that these can be seen.",
        "Ghorbani, Krishnan & Xiao 2019, arXiv:1901.10159",
        numbers.density,
    ),
    "sharpness": Instrument(
        "Sharpness",
        "How far the loss rises near the solution: at worst in a box or a ball, or on average under noise.",
        "Adaptive measures move each weight in proportion to its size. With unit logits a network cannot look flat by "
        "being sure of itself.",
        "Keskar et al. 2017, arXiv:1609.04836; Kwon et al. 2021, arXiv:2102.11600; Andriushchenko et al. 2023, "
        "arXiv:2302.07011",
        numbers.sharpness,
    ),
    "rescaling": Instrument(
        "Rescaling",
        "Measures of the same function at other weights: one layer is multiplied by alpha, the next one divided by it.",
        "What a measure does here, it does without any change of what the network computes.",
        "Dinh et al. 2017, arXiv:1703.04933",
        numbers.rescaling,
    ),
    "slices": Instrument(
        "Slices",
        "The training loss on a line and on a plane of random directions through the solution, which is at 0.",
        "At an amount of 1 every filter has moved by its own length, so that solutions of different scale can be "
        "compared.",
        "Li et al. 2018, arXiv:1712.09913",
        landscapes.slices,
    ),
    "interpolation": Instrument(
        "Interpolation",
        "The loss on straight lines between weights, and on the plane through three.",
        "A barrier is how far the loss rises above the line between its ends: where there is none, the two can be "
        "averaged.",
        "Goodfellow et al. 2015, arXiv:1412.6544; Frankle et al. 2020, arXiv:1912.05671; Garipov et al. 2018, "
        "arXiv:1802.10026",
        landscapes.interpolation,
    ),
    "trajectory": Instrument(
        "Trajectory",
        "The way of training, on the plane of its two principal directions through its end, over the loss there.",
        "The way itself lies off the plane: what it met is the loss shown only where its distance from the plane is "
        "small.",
        "Li et al. 2018, arXiv:1712.09913, section 7",
        landscapes.trajectory,
    ),
    "memorization": Instrument(
        "Memorization",
        "How long a new network takes to fit labels some of which are drawn anew, and which of them it learns last.",
        "A network that fits random labels can fit anything: that it fits the true ones proves nothing by itself. Most "
        "wrong labels are learned after the right ones, so that a high loss over the epochs makes an example suspect.",
        "Zhang et al. 2017, arXiv:1611.03530; Arpit et al. 2017, arXiv:1706.05394",
        understood.memorization,
    ),
    "directions": Instrument(
        "Single directions",
        "How the training accuracy falls while units are clamped or made noisy, and what single units know of classes.",
        "Networks that have memorized were found to lean on single units more than others: their curves fall "
        "earlier. A unit is selective if it is active for one class alone, and important if the loss rises "
        "without it.",
        "Morcos et al. 2018, arXiv:1803.06959",
        understood.directions,
    ),
    "symmetry": Instrument(
        "Symmetry",
        "How many other weights are the same function, and how much of the barrier between two solutions is the "
        "order of their units.",
        "Hidden units have no order: each can stand in the place of any other. Two trainings find different orders, "
        "and the straight line between them leads over a barrier that may vanish once they are aligned.",
        "Hecht-Nielsen 1990; Entezari et al. 2022, arXiv:2110.06296; Ainsworth et al. 2023, arXiv:2209.04836",
        understood.symmetry,
    ),
    "measures": Instrument(
        "Measures of generalization",
        "What is said to foretell the gap between training and test, beside the gap.",
        "A measure is worth something if it orders the gaps of networks that differ in one hyper-parameter alone, and "
        "in each of these: Psi is the mean of Kendall's tau over them, and the worst one counts.",
        "Jiang et al. 2020, arXiv:1912.02178; Dziugaite et al. 2020, arXiv:2010.11924",
        foretold.measures,
    ),
    "training": Instrument(
        "In training",
        "What was measured while a solution was trained, as often as a share of its time allowed.",
        "Steps become unstable where the eigenvalue passes the threshold. Batches far larger than the noise scale "
        "waste examples.",
        "McCandlish et al. 2018, arXiv:1812.06162; Cohen et al. 2021, arXiv:2103.00065",
        landscapes.training,
    ),
}
"""By the names that caveats and pages have."""
