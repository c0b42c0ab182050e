"""How much the members of an ensemble differ, and what averaging them gains."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from descend.ensembles.scores import checked


@dataclass(frozen=True)
class Diversity:
    """The diversity of an ensemble of K members that averages their probabilities.

    Args:
        members: K.
        disagreement: the share of examples that two members classify differently, the mean over all pairs; 0 for one
            member.
        pairwise: that share for each pair, K rows of K.
        error_correlation: Pearson's correlation of two members' errors (1 for a wrong class, else 0), the mean over the
            pairs where both have some errors and some hits; None where there is no such pair.
        mutual_information: the entropy of the averaged probabilities less the mean entropy of the members', in nats, a
            mean over the examples: the generalized Jensen-Shannon divergence of the members (J. Lin, IEEE Transactions
            on Information Theory 37, 1991).
        ambiguity: the members' mean NLL less the NLL of their averaged probabilities, in nats, 0 or more by Jensen's
            inequality. An example whose right class has probability 0 for all members adds 0; one where that is so for
            some of them makes it inf.
        mean_accuracy: the mean of the members' accuracies.
        ensemble_accuracy: the accuracy of the averaged probabilities.
    """

    members: int
    disagreement: float
    pairwise: list[list[float]]
    error_correlation: float | None
    mutual_information: float
    ambiguity: float
    mean_accuracy: float
    ensemble_accuracy: float


@dataclass(frozen=True, eq=False)
class ByExample:
    """What the diversity of K members is a mean of, for each of n examples.

    Attributes:
        choices: the class that each member chose, shape (K, n).
        errors: whether that is wrong, shape (K, n), bool.
        disagreement: the share of pairs of members that chose differently, shape (n,).
        mutual_information: as of `Diversity`, shape (n,).
        ambiguity: as of `Diversity`, shape (n,).
        hits: whether the averaged probabilities choose right, shape (n,), bool.
    """

    choices: Tensor
    errors: Tensor
    disagreement: Tensor
    mutual_information: Tensor
    ambiguity: Tensor
    hits: Tensor


def diversity(members: Iterable[Tensor], targets: Tensor) -> Diversity:
    """Return the diversity of an ensemble's members, of whose predictions only one at a time is held.

    Args:
        members: each member's log-probabilities, normalised natural logs of one shape (examples, classes); read once.
        targets: the right classes, int64, shape (examples,).

    Raises:
        ValueError: without members, for members of different shapes, or for a wrong shape, type or value.
    """
    return summarized(by_example(members, targets))


def by_example(members: Iterable[Tensor], targets: Tensor) -> ByExample:
    """Return what `diversity` is made of, for each example; arguments and errors are its."""
    sums = _Sums(targets)
    for member in members:
        sums.add(member)
        del member  # before the next is made
    return sums.by_example()


def summarized(found: ByExample) -> Diversity:
    """Return the diversity that the examples together have."""
    pairwise = torch.stack([(found.choices != choice).double().mean(1) for choice in found.choices])
    return Diversity(
        members=len(found.choices),
        disagreement=found.disagreement.mean().item(),
        pairwise=pairwise.tolist(),
        error_correlation=_error_correlation(found.errors),
        mutual_information=max(0.0, found.mutual_information.mean().item()),  # rounding can fall below
        ambiguity=max(0.0, found.ambiguity.mean().item()),
        mean_accuracy=1 - found.errors.double().mean().item(),
        ensemble_accuracy=found.hits.double().mean().item(),
    )


class _Sums:
    """What is kept of the members: sums over them, and the class that each chose for each example."""

    def __init__(self, targets: Tensor) -> None:
        self.targets = targets
        self.choices: list[Tensor] = []

    def add(self, log_probabilities: Tensor) -> None:
        logs = checked(log_probabilities, self.targets)
        probabilities = logs.exp()
        right = logs.gather(1, self.targets.unsqueeze(1)).squeeze(1)
        if not self.choices:
            self.probabilities = torch.zeros_like(probabilities)
            self.nll, self.entropy = torch.zeros_like(right), torch.zeros_like(right)
            self.right = torch.full_like(right, -torch.inf)
        if probabilities.shape != self.probabilities.shape:
            raise ValueError(
                f"members: need log-probabilities of one shape, got {tuple(self.probabilities.shape)} and, from member "
                f"{len(self.choices)}, {tuple(probabilities.shape)}; let all predict the same classes"
            )
        self.probabilities += probabilities
        self.nll -= right
        self.right = torch.logaddexp(self.right, right)  # of the logs, as probabilities below e^-745 round to 0
        self.entropy += _entropy(probabilities)
        self.choices.append(logs.argmax(1))

    def by_example(self) -> ByExample:
        if not self.choices:
            raise ValueError("members: need at least one, got none; an iterator can be read only once")
        choices = torch.stack(self.choices)
        members = len(choices)
        mean = self.probabilities / members
        nll = math.log(members) - self.right
        differing = torch.stack([(choices != choice).sum(0) for choice in choices]).sum(0)
        return ByExample(
            choices=choices,
            errors=choices != self.targets,
            disagreement=differing.double() / max(1, members * (members - 1)),
            mutual_information=_entropy(mean) - self.entropy / members,
            ambiguity=torch.where(nll.isinf(), 0.0, self.nll / members - nll),
            hits=mean.argmax(1) == self.targets,
        )


def _entropy(probabilities: Tensor) -> Tensor:
    """Return the entropy of each example in nats."""
    entropy: Tensor = torch.special.entr(probabilities).sum(1)
    return entropy


def _error_correlation(errors: Tensor) -> float | None:
    """Return the mean correlation of the pairs that have one; from whole counts, so that no variance is nearly 0."""
    counts = errors.sum(1)
    varied = errors[(counts > 0) & (counts < errors.shape[1])].double()
    if len(varied) < 2:
        return None
    counts = varied.sum(1)
    examples = varied.shape[1]
    covariances = examples * (varied @ varied.T) - torch.outer(counts, counts)
    deviations = covariances.diagonal().sqrt()
    first, second = torch.triu_indices(len(varied), len(varied), offset=1)
    correlations = covariances / torch.outer(deviations, deviations)
    return float(correlations[first, second].mean())
