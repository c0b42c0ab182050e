"""Whether a measure orders the generalization gaps of a population of networks, hyper-parameter by hyper-parameter.

Jiang et al. 2020, arXiv:1912.02178, section on the granulated coefficient: a measure may follow one hyper-parameter
that moves the gap, such as depth, and order all networks well by that alone. So networks are compared only where
a single hyper-parameter differs. Dziugaite et al. 2020, arXiv:2010.11924: an average over hyper-parameters in turn
hides those in which the measure fails, so that the worst one counts.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from descend.generalization.estimates import student
from descend.generalization.krylov import whole

_LEAST_NETWORKS = 8
_LEAST_REPLICATES = 6  # of fewer, the extremes of all resamples are too close for an interval of 95 %
_CHUNK = 5_000_000  # numbers at a time

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Axis:
    """How a measure orders the gaps where one hyper-parameter alone differs.

    Attributes:
        tau: from -1, all pairs the wrong way round, to 1; the mean over groups.
        interval: 95 %, by the bootstrap.
        groups: sets of networks that are alike in all else.
        pairs: of networks that were compared.
    """

    tau: float
    interval: tuple[float, float]
    groups: int
    pairs: int


@dataclass(frozen=True)
class Granulated:
    """The granulated Kendall coefficient of a measure, and where it comes from.

    Attributes:
        psi: mean of the axes' taus.
        interval: 95 %, by the bootstrap; a single point where all pairs agree.
        axes: by hyper-parameter.
        networks: in the population.
        resampled: what was drawn anew: "networks", or "replicates" where there are 6 or more.
        units: number of those.
        resamples: number of draws.
        seed: of the draws.
    """

    psi: float
    interval: tuple[float, float]
    axes: dict[str, Axis]
    networks: int
    resampled: Literal["networks", "replicates"]
    units: int
    resamples: int
    seed: int

    @property
    def worst(self) -> str:
        """The hyper-parameter with the lowest tau, the first of several."""
        return min(self.axes, key=lambda name: self.axes[name].tau)

    @property
    def robust(self) -> float:
        """The lowest tau of all axes: what the measure is worth at worst."""
        return self.axes[self.worst].tau

    @property
    def fails_in(self) -> tuple[str, ...]:
        """The hyper-parameters whose interval contains 0 or lies below it."""
        return tuple(name for name, axis in self.axes.items() if axis.interval[0] <= 0)

    @property
    def is_predictive(self) -> bool:
        """Whether the interval of psi lies above 0."""
        return self.interval[0] > 0

    @property
    def sentence(self) -> str:
        """What this says of the measure, in a sentence."""
        shown = f"Psi = {_shown(self.psi, self.interval)}, {self.networks} networks"
        if not self.is_predictive:
            inverted = ": it orders the gaps the wrong way round" if self.interval[1] < 0 else ""
            return f"no predictive value on these runs{inverted} ({shown})"
        if not self.fails_in:
            return f"orders the gaps in each of {', '.join(self.axes)} ({shown})"
        failed = ", ".join(f"{name} (tau = {_shown(*_of(self.axes[name]))})" for name in self.fails_in)
        rest = ", ".join(name for name in self.axes if name not in self.fails_in)
        return f"orders the gaps {f'in {rest}' if rest else 'on average only'} ({shown}), but fails in {failed}"


def rank_correlation(values: Sequence[float], gaps: Sequence[float]) -> float:
    """Return Kendall's tau-b of a measure and the gaps of a population; NaN where one of them is constant.

    Args:
        values: of the measure, one of each network.
        gaps: of the same networks.

    Raises:
        ModuleNotFoundError: without SciPy.
        ValueError: lengths differ or are below 2, or a number is missing or not finite.
    """
    if importlib.util.find_spec("scipy") is None:
        raise ModuleNotFoundError(
            "rank_correlation needs scipy, of the lab extra: pip install 'descend[lab]'", name="scipy"
        )
    first, second = _numbers(values, gaps, least=2)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return math.nan
    from scipy.stats import kendalltau  # which takes a second to import

    return float(kendalltau(first, second).statistic)


def rank_interval(
    values: Sequence[float], others: Sequence[float], *, resamples: int = 1000, seed: int = 0
) -> tuple[float, float, float] | None:
    """Return Kendall's tau-b of two numbers of the same things, and its 95 % interval by the bootstrap over these.

    None where there are fewer than 8, or one of the numbers is constant.

    Args:
        values: of each.
        others: of each.
        resamples: draws of the bootstrap, 100 or more.
        seed: of the draws.

    Raises:
        ModuleNotFoundError: without SciPy.
        ValueError: lengths differ, or a number is not finite.
    """
    whole("resamples", resamples, 100)
    first, second = _numbers(values, others, least=0)
    if len(first) < _LEAST_NETWORKS or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    tau = rank_correlation(first.tolist(), second.tolist())
    from scipy.stats import kendalltau

    source = np.random.default_rng(seed)
    drawn = []
    for rows in source.integers(len(first), size=(resamples, len(first))):
        if np.ptp(first[rows]) and np.ptp(second[rows]):  # or it has no order
            drawn.append(float(kendalltau(first[rows], second[rows]).statistic))
    return tau, *_interval(np.array(drawn), len(first))


def granulated_kendall(
    values: Sequence[float],
    gaps: Sequence[float],
    settings: Sequence[Mapping[str, Hashable]],
    *,
    replicates: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Granulated:
    """Return how a measure orders the gaps of networks that differ in one hyper-parameter alone.

    For each hyper-parameter, networks that are alike in all others form a group; its tau is the mean, over pairs with
    different values of the hyper-parameter, of sign(difference of values) * sign(difference of gaps), in which a tie
    counts as 0. The mean over groups is the axis's tau, the mean over axes Psi. Networks are compared within the same
    replicate, so that what a seed does to all of them cancels; nothing is averaged beforehand. Networks of equal
    settings without a name of replicates are of one group, each compared with those of other settings.

    The interval is a bootstrap's. With 6 replicates or more these are drawn with replacement, and each brings all its
    groups. Otherwise networks are drawn, and a pair counts as often as both of its networks, so that groups that share
    a network vary together; this is cautious: in simulations intervals were 1.0 to 1.7 times as wide as need be.
    Percentiles lie farther out than 2.5 and 97.5, by sqrt(n / (n - 1)) and Student's t of n units, as few units ask for
    (Hesterberg 2015, The American Statistician 69). Nothing is said of other settings.

    Args:
        values: of the measure, one of each network; larger is claimed to mean a larger gap.
        gaps: of the same networks, test minus training error or loss.
        settings: of each, the values of its hyper-parameters by name; all have the same names.
        replicates: the name in settings that is no hyper-parameter but numbers repetitions, such as a seed that
            networks of different settings share.
        resamples: draws of the bootstrap, 100 or more.
        seed: of the draws.

    Raises:
        TypeError: a setting is no mapping, or a value in it has no equality to go by.
        ValueError: lengths differ, there are fewer than 8 networks, a number is missing or not finite, names differ,
            or no hyper-parameter varies with all others alike.
    """
    whole("resamples", resamples, 100)
    whole("seed", seed, 0)
    measured, wanted = _numbers(values, gaps, least=_LEAST_NETWORKS)
    names = _names(settings, len(measured), replicates)
    numbers = _replicates(settings, replicates)
    pairs = _Pairs.of(settings, names, numbers)
    agreement = np.sign(measured[pairs.first] - measured[pairs.second]) * np.sign(
        wanted[pairs.first] - wanted[pairs.second]
    )
    by_replicate = int(numbers.max()) + 1 >= _LEAST_REPLICATES
    units = int(numbers.max()) + 1 if by_replicate else len(measured)
    taus = pairs.taus(agreement, np.ones((1, len(agreement))))[0]
    drawn = _resampled(pairs, agreement, numbers if by_replicate else None, units, resamples, seed)
    return Granulated(
        psi=round(float(taus.mean()), 12) + 0.0,  # taus that cancel give 0, without a sign
        interval=_interval(_mean_of_known(drawn), units),
        axes={
            name: Axis(
                tau=float(taus[place]),
                interval=_interval(drawn[:, place], units),
                groups=len(np.unique(pairs.group[pairs.axis == place])),
                pairs=int((pairs.axis == place).sum()),
            )
            for place, name in enumerate(pairs.names)
        },
        networks=len(measured),
        resampled="replicates" if by_replicate else "networks",
        units=units,
        resamples=resamples,
        seed=seed,
    )


@dataclass(frozen=True)
class _Pairs:
    """The pairs of networks that differ in one hyper-parameter: both places, the axis, the group, and the share."""

    names: list[str]
    first: Places
    second: Places
    axis: Places
    group: Places
    share: Floats

    @classmethod
    def of(cls, settings: Sequence[Mapping[str, Hashable]], names: Sequence[str], numbers: Places) -> _Pairs:
        rows: list[tuple[int, int, int, int, float]] = []
        varying: list[str] = []
        count = 0
        for name in names:
            found = list(_pairs_in_groups(settings, names, name, numbers))
            for group in found:
                rows += [(i, j, len(varying), count, 1 / len(group)) for i, j in group]
                count += 1
            if found:
                varying.append(name)
        if not rows:
            raise ValueError(
                "settings have no two networks that differ in one hyper-parameter alone"
                + ("" if numbers.max() == 0 else " within a replicate; leave out of settings what no two of them share")
            )
        places = np.array([row[:4] for row in rows], dtype=np.intp).T
        first, second, axis, group = places
        return cls(varying, first, second, axis, group, np.array([row[4] for row in rows]))

    def taus(self, agreement: Floats, weights: Floats) -> Floats:
        """Return the tau of each axis, a column, for each row of the pairs' weights; NaN where all are 0."""
        belongs = (self.axis[:, None] == np.arange(len(self.names))) * self.share[:, None]
        total = weights @ belongs
        found: Floats = np.full(total.shape, np.nan)
        np.divide(weights @ (belongs * agreement[:, None]), total, out=found, where=total > 0)
        return found


def _pairs_in_groups(
    settings: Sequence[Mapping[str, Hashable]], names: Sequence[str], varying: str, numbers: Places
) -> Iterable[list[tuple[int, int]]]:
    """Yield the pairs of each group of networks that are alike in all but one hyper-parameter."""
    groups: dict[Any, list[int]] = defaultdict(list)
    for place, setting in enumerate(settings):
        groups[int(numbers[place]), *(setting[name] for name in names if name != varying)].append(place)
    for members in groups.values():
        pairs = [(i, j) for i, j in itertools.combinations(members, 2) if settings[i][varying] != settings[j][varying]]
        if pairs:
            yield pairs


def _resampled(
    pairs: _Pairs, agreement: Floats, numbers: Places | None, units: int, resamples: int, seed: int
) -> Floats:
    """Return the taus of each resample, a row; NaN for an axis of which it has no pair."""
    source = np.random.default_rng(seed)
    found = []
    at_once = max(1, _CHUNK // len(agreement))
    for start in range(0, resamples, at_once):
        size = min(at_once, resamples - start)
        times = source.multinomial(units, np.full(units, 1 / units), size=size).astype(np.float64)
        if numbers is None:
            weights = times[:, pairs.first] * times[:, pairs.second]
        else:
            weights = times[:, numbers[pairs.first]]
        found.append(pairs.taus(agreement, weights))
    return np.concatenate(found)


def _mean_of_known(drawn: Floats) -> Floats:
    """Return the mean over axes, of those that a resample has; NaN where it has none."""
    known = ~np.isnan(drawn)
    found: Floats = np.full(len(drawn), np.nan)
    np.divide(np.where(known, drawn, 0).sum(1), known.sum(1), out=found, where=known.any(1))
    return found


def _interval(drawn: Floats, units: int) -> tuple[float, float]:
    """Return the expanded percentiles of a bootstrap over so many units."""
    known = drawn[~np.isnan(drawn)]
    if not len(known):
        return -1.0, 1.0
    reach = math.sqrt(units / (units - 1)) * student(units - 1)
    share = NormalDist().cdf(-reach)
    low, high = np.quantile(known, [share, 1 - share])
    return float(low), float(high)


def _numbers(values: Sequence[float], gaps: Sequence[float], least: int) -> tuple[Floats, Floats]:
    """Return both in float64, and refuse what cannot be ordered."""
    if len(values) != len(gaps):
        raise ValueError(f"values has {len(values)} networks and gaps {len(gaps)}; give one of each for each network")
    if len(values) < least:
        raise ValueError(f"there are {len(values)} networks; give {least} or more, fewer have no order to speak of")
    for name, numbers in (("values", values), ("gaps", gaps)):
        for place, value in enumerate(numbers):
            if value is None or not math.isfinite(value):
                raise ValueError(f"{name} has {value} for network {place}; leave that network out of all arguments")
    return np.array([float(one) for one in values]), np.array([float(one) for one in gaps])


def _names(settings: Sequence[Mapping[str, Hashable]], count: int, replicates: str | None) -> list[str]:
    """Return the names of hyper-parameters, those of all networks, and refuse settings of the wrong form."""
    if len(settings) != count:
        raise ValueError(f"settings has {len(settings)} networks and values {count}; give one for each network")
    for place, setting in enumerate(settings):
        if not isinstance(setting, Mapping):
            raise TypeError(f"settings has {type(setting).__name__} for network {place}; give a mapping by name")
        if setting.keys() != settings[0].keys():
            raise ValueError(
                f"settings of network {place} have {', '.join(map(str, setting))}, those of network 0 "
                f"{', '.join(map(str, settings[0]))}; give all the same names"
            )
        for name, value in setting.items():
            if not isinstance(value, Hashable):
                raise TypeError(f"settings has {value!r} as {name!r} of network {place}; give a number or a name")
            if value != value:
                raise ValueError(f"settings has {value!r} as {name!r} of network {place}; it equals not even itself")
    if replicates is not None and replicates not in settings[0]:
        raise ValueError(f"replicates is {replicates!r}; settings have {', '.join(map(str, settings[0])) or 'nothing'}")
    return [name for name in settings[0] if name != replicates]


def _replicates(settings: Sequence[Mapping[str, Hashable]], name: str | None) -> Places:
    """Return the replicate of each network, counted from 0 in the order in which they come."""
    seen: dict[Hashable, int] = {}
    return np.array([0 if name is None else seen.setdefault(one[name], len(seen)) for one in settings], dtype=np.intp)


def _of(axis: Axis) -> tuple[float, tuple[float, float]]:
    return axis.tau, axis.interval


def _shown(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.2f}, 95 % {interval[0]:.2f} to {interval[1]:.2f}"
