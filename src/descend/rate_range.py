"""The learning-rate range test: a short run whose rate rises, on any model, and everything as it was afterwards.

    found = descend.range_test(model, optimizer, loss, loader)       # loss(model, batch) -> scalar
    print(found)                                                     # where the loss falls, over several seeds
    found.plot()

Smith 2017, arXiv:1506.01186, section 3.3, raises the rate linearly and reads two bounds off the accuracy; fastai raises
it exponentially and reads the loss. Both forms are here, both read the training loss. What is found is an interval in
which training moves, under a rising rate and for a few steps; it is no tuned rate.
"""

from __future__ import annotations

import itertools
import math
import statistics
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from descend.accumulation import scalar_loss
from descend.applied_steps import AppliedSteps
from descend.restoring import check_pair, generators, restored, seeded
from descend.schedules.arguments import whole

Loss = Callable[[nn.Module, Any], Tensor]

FORMS = ("exponential", "linear")
_WINDOW_SHARE = 20  # the loss is a mean over a twentieth of the steps, centred
_SHARE_OF_FALL = 0.1  # of the whole fall, after which the loss is said to fall
_NO_FALL = 0.02  # a fall by less than this share of the loss is none
_ATTEMPTS = 10  # batches per step that a gradient scaler may skip


@dataclass(frozen=True)
class Interval:
    """Where the loss of one run fell.

    Attributes:
        low: the rate from which on it falls: a tenth of its whole fall is behind it.
        steepest: the rate at which it falls fastest, by decades of the rate (linear form: by the rate).
        high: the rate at which it is least; beyond, it rises.
    """

    low: float
    steepest: float
    high: float


@dataclass(frozen=True)
class Sweep:
    """One run under a rising rate.

    Attributes:
        seed: of it.
        rates: of the updates that were applied, rising.
        losses: on the batch after each update.
        form: how the rate rose.
    """

    seed: int
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    form: str

    def smoothed(self) -> list[float]:
        """Return the losses, each a mean over the steps around it, at the ends over fewer."""
        half = max(1, len(self.losses) // (2 * _WINDOW_SHARE))
        return [
            statistics.fmean(self.losses[max(0, place - half) : place + half + 1]) for place in range(len(self.losses))
        ]

    def interval(self) -> Interval | None:
        """Return where the loss fell; None where it did not."""
        if len(self.losses) < 3:
            return None
        loss = np.array(self.smoothed())
        least = int(loss.argmin())
        fall = loss[0] - loss[least]
        if least == 0 or fall <= _NO_FALL * abs(loss[0]):
            return None
        begins = int(np.argmax(loss <= loss[0] - _SHARE_OF_FALL * fall))
        way = np.array(self.rates) if self.form == "linear" else np.log10(self.rates)
        slopes = np.gradient(loss[: least + 1], way[: least + 1]) if least > 1 else np.zeros(2)
        steepest = max(begins, int(slopes.argmin()))
        return Interval(*(self.rates[place] for place in (begins, min(steepest, least), least)))


@dataclass(frozen=True)
class RangeTest:
    """Runs under a rising rate, one per seed.

    Attributes:
        sweeps: the runs.
    """

    sweeps: tuple[Sweep, ...]

    @property
    def intervals(self) -> list[Interval]:
        """Where the loss fell, for each seed under which it did."""
        return [interval for sweep in self.sweeps if (interval := sweep.interval()) is not None]

    @property
    def interval(self) -> Interval | None:
        """The medians over the seeds; None if the loss fell under fewer than half of them."""
        found = self.intervals
        if not found or 2 * len(found) < len(self.sweeps):
            return None
        return Interval(
            *(statistics.median(getattr(one, name) for one in found) for name in ("low", "steepest", "high"))
        )

    def __str__(self) -> str:
        found, middle = self.intervals, self.interval
        if not any(sweep.losses for sweep in self.sweeps):
            return "the loss was no finite number from the start: look at the model and its data"
        if middle is None:
            return f"the loss fell under {len(found)} of {len(self.sweeps)} seeds: try lower or higher rates"
        ends = {name: [getattr(one, name) for one in found] for name in ("low", "steepest", "high")}
        parts = (f"{name} {getattr(middle, name):.2g} [{min(ends[name]):.2g}, {max(ends[name]):.2g}]" for name in ends)
        notes = [f"medians and extremes, n = {len(found)}"]
        if len(found) < len(self.sweeps):
            notes.append(f"it did not fall under {len(self.sweeps) - len(found)} of {len(self.sweeps)} seeds")
        if len(self.sweeps) > 1 and len({sweep.losses for sweep in self.sweeps}) == 1:
            notes.append("every seed gave the same run: let the order of the data depend on it, as a DataLoader's does")
        return f"the loss falls from low to high: {', '.join(parts)} ({'; '.join(notes)})"

    def as_dict(self) -> dict[str, Any]:
        """Return rates, losses and intervals as JSON holds them."""
        middle = self.interval
        return {
            "interval": vars(middle) if middle else None,
            "sweeps": [
                {
                    "seed": sweep.seed,
                    "form": sweep.form,
                    "rates": list(sweep.rates),
                    "losses": list(sweep.losses),
                    "interval": vars(interval) if (interval := sweep.interval()) else None,
                }
                for sweep in self.sweeps
            ],
        }

    def plot(self) -> Any:
        """Return a picture, an Altair chart: each seed's loss against the rate, the interval shaded.

        ModuleNotFoundError if Altair, which the extra descend[lab] has, is not installed.
        """
        try:
            import altair as alt
        except ModuleNotFoundError:
            raise ModuleNotFoundError("RangeTest.plot needs altair: pip install 'descend[lab]'") from None
        scale = alt.Scale(type="linear" if self.sweeps[0].form == "linear" else "log", nice=False)
        drawn = [sweep for sweep in self.sweeps if sweep.losses]  # a run may diverge before it has one
        first = max((sweep.smoothed()[0] for sweep in drawn), default=1.0)
        least = min((min(sweep.smoothed()) for sweep in drawn), default=0.0)
        rows = [
            {"rate": rate, "loss": loss, "seed": str(sweep.seed)}
            for sweep in drawn
            for rate, loss in zip(sweep.rates, sweep.smoothed(), strict=True)
        ]
        heights = alt.Scale(domain=[least - 0.05 * (first - least), first + 0.5 * (first - least)], clamp=True)
        x = alt.X("rate:Q", scale=scale, title="learning rate", axis=alt.Axis(format="~e"))
        y = alt.Y("loss:Q", scale=heights, title="training loss")
        lines = alt.Chart(alt.InlineData(values=rows)).mark_line(clip=True).encode(x=x, y=y, detail="seed:N")
        middle = self.interval
        if middle is None:
            return lines
        shade = alt.Chart(alt.InlineData(values=[vars(middle)])).mark_rect(opacity=0.15)
        return shade.encode(x=alt.X("low:Q", scale=scale), x2="high:Q") + lines


def range_test(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    batches: Iterable[Any],
    *,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 100,
    form: str = "exponential",
    seeds: Sequence[int] = (0, 1, 2),
    scaler: torch.amp.GradScaler | None = None,
) -> RangeTest:
    """Train a few steps under a rising rate, once per seed, and put everything back.

    Parameters, buffers, extra state, gradients, modes, the optimizer's state and groups, the scaler, the generators of
    Python, NumPy, torch and the loader are afterwards what they were, bit for bit, also after an error or Ctrl-C. Out
    of reach are generators inside of a data set, and what hooks on steps or on modules do. Groups keep the ratios
    between their rates: `low` and `high` are rates of the group that has the largest.

    Args:
        model: in the mode in which it is to be tested.
        optimizer: of its parameters; any of torch's kind that steps without a closure.
        loss: takes model and batch, returns the scalar to call backward on.
        batches: what can be iterated anew, such as a DataLoader; begun again where it ends.
        low: the first rate, above 0; 0 too where the form is linear.
        high: the last rate.
        steps: updates per seed, 10 or more; those that a gradient scaler skips are not counted.
        form: "exponential" (fastai) or "linear" (Smith 2017).
        seeds: of the random generators, one run each: order of the data, dropout.
        scaler: the gradient scaler in use.

    Raises:
        TypeError, ValueError: an argument makes no sense, batches can be iterated only once, the optimizer needs a
            closure, or every group's rate is 0, so that their ratios are not known.
    """
    rates = rising(low, high, steps, form)
    check_pair(model, optimizer)
    if isinstance(optimizer, torch.optim.LBFGS):
        raise TypeError("range_test: optimizer is LBFGS, which searches along a line by itself; give one with a rate")
    if isinstance(batches, Iterator):  # beginning to iterate would already draw from the loader's generator
        raise TypeError("range_test: batches can be iterated only once; give a DataLoader or a list of batches")
    if not isinstance(seeds, Sequence) or not seeds:
        raise TypeError(f"range_test: seeds is {seeds!r}; give one whole number or more, such as (0, 1, 2)")
    seeds = [whole("range_test: a seed", seed, least=0) for seed in seeds]
    _shares(optimizer)
    sweeps = []
    for seed in seeds:
        with restored(model, optimizer, batches, scaler), seeded(seed):
            _reseed(batches, seed)
            sweeps.append(sweep(model, optimizer, loss, _endless(batches), rates, form=form, seed=seed, scaler=scaler))
    return RangeTest(tuple(sweeps))


def rising(low: float, high: float, steps: int, form: str) -> list[float]:
    """Return the rates of a range test.

    Raises:
        ValueError: an argument makes no sense.
    """
    if form not in FORMS:
        raise ValueError(f"range_test: form is {form!r}; choose {' or '.join(FORMS)}")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 10:
        raise ValueError(f"range_test: steps is {steps!r}; give a whole number, 10 or more")
    if not (math.isfinite(high) and (0 < low < high or (low == 0 and high > 0 and form == "linear"))):
        raise ValueError(f"range_test: low is {low!r} and high is {high!r}; give 0 < low < high (linear: 0 <= low)")
    places = [step / (steps - 1) for step in range(steps)]
    if form == "linear":
        return [low + (high - low) * place for place in places]
    return [low * (high / low) ** place for place in places]


def sweep(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    batches: Iterator[Any],
    rates: Sequence[float],
    *,
    form: str,
    seed: int,
    scaler: torch.amp.GradScaler | None = None,
    share: Callable[[Any], float] = lambda batch: 1.0,
) -> Sweep:
    """Train under rising rates until they end or the loss is far above where it began, and leave it so.

    Args:
        model: trained in place.
        optimizer: of its parameters.
        loss: takes model and batch.
        batches: without end.
        rates: of the updates.
        form: how they rise, to be noted.
        seed: to be noted.
        scaler: the gradient scaler in use.
        share: what the rate is multiplied by for a batch.
    """
    shares = _shares(optimizer)
    losses: list[float] = []
    applied = 0
    with closing(AppliedSteps(optimizer)) as steps, warnings.catch_warnings():
        before = steps.count
        warnings.filterwarnings("ignore", message=r"param_groups\[")  # a schedule's rate is overwritten on purpose
        for batch in itertools.islice(batches, _ATTEMPTS * len(rates)):
            value = scalar_loss(loss(model, batch))
            number = value.item()
            if len(losses) == applied:
                losses.append(number)
            if applied == len(rates) or not math.isfinite(number) or _is_lost(losses):
                break
            _set_rates(optimizer, rates[applied] * share(batch), shares)
            optimizer.zero_grad()
            _backward_and_step(value, optimizer, scaler)
            applied = steps.count - before
    after = [number for number in losses[1:] if math.isfinite(number)]
    return Sweep(seed, tuple(rates[: len(after)]), tuple(after), form)


def _is_lost(losses: Sequence[float]) -> bool:
    """Whether the loss is far above where it began: by more than it fell, and more than its own size."""
    recent = statistics.fmean(losses[-3:])
    return len(losses) > 3 and recent - losses[0] > losses[0] - min(losses) + abs(losses[0])


def _backward_and_step(value: Tensor, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None) -> None:
    if scaler is None:
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    else:
        scaler.scale(value).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()


def _shares(optimizer: torch.optim.Optimizer) -> list[float]:
    """Each group's rate as a share of the largest; where all are 0, as in a warm-up of torch, of their initial ones."""
    for key in ("lr", "initial_lr"):
        rates = [float(group.get(key, 0.0)) for group in optimizer.param_groups]
        if (largest := max(rates)) > 0:
            return [rate / largest for rate in rates]
    if len(rates) > 1:
        raise ValueError("range_test: every group's lr is 0, so their ratios are not known; give one of them a rate")
    return [1.0]


def _set_rates(optimizer: torch.optim.Optimizer, rate: float, shares: Sequence[float]) -> None:
    for group, share in zip(optimizer.param_groups, shares, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate * share)
        else:
            group["lr"] = rate * share


def _endless(batches: Iterable[Any]) -> Iterator[Any]:
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield batch
        if empty:
            raise ValueError("range_test: batches has none; give one or more")


def _reseed(batches: Any, seed: int) -> None:
    for generator in generators(batches):
        generator.manual_seed(seed)
