"""Of the file `diagnosis.json`: memorization, single directions, symmetry, and measures of generalization."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from descend.report.diagnosis_measures import Setting


@dataclass(frozen=True)
class Suspect:
    """An example that may be mislabelled.

    Attributes:
        place: in the training data that instruments see, from 0.
        label: that it has.
        predicted: the class that it was given after most epochs.
        loss: mean over the epochs.
        learned: the epoch from which on its label is predicted; null if it never is.
    """

    place: int
    label: int
    predicted: int
    loss: float | None
    learned: int | None


@dataclass(frozen=True)
class Memorized:
    """A training on labels some of which are drawn anew.

    Attributes:
        share: probability of a new label.
        wrong_share: of the labels, that are wrong.
        expected_wrong_share: of uniform draws.
        epochs: of the training.
        epochs_to_fit: after which every label was predicted; null where it did not come to that.
        train_accuracy: on the labels that were given.
        validation_accuracy: on true labels.
        way: epoch, training loss, training accuracy.
        precision: share of wrong labels among as many suspects, by how these were found; empty where none is wrong.
        suspects: the most suspicious examples, first those of the highest mean loss.
        setting: what was trained on.
    """

    share: float
    wrong_share: float
    expected_wrong_share: float
    epochs: int
    epochs_to_fit: int | None
    train_accuracy: float
    validation_accuracy: float | None
    way: list[list[float]]
    precision: dict[str, float]
    suspects: list[Suspect]
    setting: Setting


@dataclass(frozen=True)
class Disturbed:
    """Training accuracy while units are disturbed more and more.

    Attributes:
        how: "clamped to zero", "clamped to the mean" or "noise".
        amounts: share of the units that are clamped, or deviation of the noise over that of a unit.
        means: of the accuracy, over orders or draws.
        lows: lower ends of their 95 % intervals.
        highs: upper ends.
        area: mean accuracy over the amounts.
        low: lower end of its 95 % interval.
        high: upper end.
        draws: of orders or of noise.
        units: that are not dead.
        dead: number of dead units, which are left out.
        setting: what was measured.
    """

    how: Literal["clamped to zero", "clamped to the mean", "noise"]
    amounts: list[float]
    means: list[float]
    lows: list[float]
    highs: list[float]
    area: float
    low: float
    high: float
    draws: int
    units: int
    dead: int
    setting: Setting


@dataclass(frozen=True)
class UnitLayer:
    """The units of one layer, dead ones left out.

    Attributes:
        layer: name of the module.
        dead: number of dead units.
        selectivity: class selectivity of each unit; null where it is not defined.
        information: mutual information of each with the class, in nats.
        chance: mean information with shuffled labels.
        importance: by how much the training loss rises without each.
        tau: Kendall's, of selectivity and importance; null where there is none.
        low: lower end of its 95 % interval, by the bootstrap over units.
        high: upper end.
        setting: what was measured.
    """

    layer: str
    dead: int
    selectivity: list[float | None]
    information: list[float | None]
    chance: float | None
    importance: list[float | None]
    tau: float | None
    low: float | None
    high: float | None
    setting: Setting


@dataclass(frozen=True)
class Twin:
    """Other weights, the same function.

    Attributes:
        how: "permuted" or "signs flipped".
        distance: between the two weight vectors, relative to the length of the first.
        function_change: largest difference of an output, relative to the largest output.
        loss: of the solution.
        twin_loss: of the other weights.
    """

    how: Literal["permuted", "signs flipped"]
    distance: float
    function_change: float
    loss: float | None
    twin_loss: float | None


@dataclass(frozen=True)
class CountedLayer:
    """A hidden layer whose units have no order.

    Attributes:
        layer: its name.
        units: how many.
        signs: whether the sign of each is free.
    """

    layer: str
    units: int
    signs: bool


@dataclass(frozen=True)
class Symmetry:
    """How many weight vectors are the function of the solution.

    Attributes:
        layers: that are counted.
        log10: decimal logarithm of the number.
        distinct: whether all of these are different weights.
        counted: what the number is, and is not.
        twins: examples.
        widths: by how much each layer is wider, and the logarithm there.
        setting: what was measured.
    """

    layers: list[CountedLayer]
    log10: float
    distinct: bool
    counted: str
    twins: list[Twin]
    widths: list[list[float]]
    setting: Setting


@dataclass(frozen=True)
class Aligned:
    """Two solutions before and after the units of the second are put into the order of the first's.

    Attributes:
        ends: names of the two.
        method: "weights" or "activations".
        before: likeness of the two.
        after: likeness after alignment.
        converged: whether the search came to an end.
        fixed: layers that keep their order.
        amounts: from 0, the first, to 1, the second.
        losses_before: validation loss on the straight line.
        losses_after: the same to the aligned second.
        barrier_before: rise above the straight line between the ends.
        barrier_after: the same.
        statistics: of batch normalization: "none" or "recomputed".
        setting: what was measured.
    """

    ends: list[str]
    method: Literal["weights", "activations"]
    before: float
    after: float
    converged: bool
    fixed: list[str]
    amounts: list[float]
    losses_before: list[float | None]
    losses_after: list[float | None]
    barrier_before: float | None
    barrier_after: float | None
    statistics: Literal["none", "fixed", "recomputed"]
    setting: Setting


@dataclass(frozen=True)
class MeasuredNetwork:
    """What is said to foretell the gap of a solution, and its gap.

    Attributes:
        measures: by name; null where one is not defined.
        undefined: why not, by name.
        train_accuracy: on the examples that instruments see.
        test_accuracy: on the test set.
        gap: their difference.
        loss_gap: test loss minus training loss.
        setting: what was measured.
        settings: hyper-parameters of the training, where a population was given.
    """

    measures: dict[str, float | None]
    undefined: dict[str, str]
    train_accuracy: float
    test_accuracy: float
    gap: float
    loss_gap: float | None
    setting: Setting
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RankedAxis:
    """How a measure orders gaps where one hyper-parameter alone differs.

    Attributes:
        name: of the hyper-parameter.
        tau: from -1 to 1.
        low: lower end of its 95 % interval.
        high: upper end.
        pairs: of networks that were compared.
    """

    name: str
    tau: float
    low: float
    high: float
    pairs: int


@dataclass(frozen=True)
class Ranked:
    """Whether a measure orders the gaps of a population.

    Attributes:
        measure: its name.
        formula: of it.
        sentence: what came of it.
        psi: granulated Kendall coefficient; null where the measure is not defined for all networks.
        low: lower end of its 95 % interval.
        high: upper end.
        axes: by hyper-parameter.
        networks: of the population.
    """

    measure: str
    formula: str
    sentence: str
    psi: float | None
    low: float | None
    high: float | None
    axes: list[RankedAxis]
    networks: int
