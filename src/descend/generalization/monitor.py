"""Watching a training: curvature, gradient noise and step sizes, for a stated share of its time.

    watch = Monitor(model, optimizer, loss)                  # loss(model, batch), as in Objective
    for batch in batches:
        loss(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        watch.step(batch)
    watch.records, watch.overhead

Training is bit for bit the same with it and without. Every quantity has an equal share of the ceiling, and is measured
when what it cost the last time fits into what is left of its share.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from descend.generalization.curvature import Hessian, Preconditioned
from descend.generalization.eigenvalues import top_eigenvalues
from descend.generalization.linear import NotConverged, NotFinite
from descend.generalization.losses import Loss, examples
from descend.generalization.objective import Objective
from descend.generalization.preconditioning import preconditioner, stability_threshold

UPDATE_RATIO, NOISE_SCALE = "update_ratio", "noise_scale"
TOP_EIGENVALUE, PRECONDITIONED = "top_eigenvalue", "preconditioned_eigenvalue"

_MARGIN = 1.25
"""What a measurement is expected to cost, as a multiple of what it last did."""
_EXPECTED = {UPDATE_RATIO: 0.5, NOISE_SCALE: 3.0, TOP_EIGENVALUE: 20.0, PRECONDITIONED: 30.0}
"""In steps of the training, before anything is known."""
_PLANNED = 0.8
"""Of the ceiling: training is slowed by more than the time in here, as it finds the caches full of other things."""
_PARTS = 4
_WINDOW = 20
_RTOL = 0.05
_PRODUCTS = 40


@dataclass(frozen=True)
class Reading:
    """One measurement.

    Attributes:
        step: calls of `Monitor.step` up to it.
        quantity: its name.
        value: NaN where the loss or its derivatives are not finite.
        error: residual of an eigenvalue, standard error of a noise scale; None where there is none.
        converged: whether an eigenvalue is as accurate as it should be.
        seconds: that it took.
        threshold: largest eigenvalue at which steps are stable; None where none is known.
    """

    step: int
    quantity: str
    value: float
    error: float | None
    converged: bool
    seconds: float
    threshold: float | None = None


@dataclass
class _Account:
    """What a quantity has cost, and is expected to."""

    spent: float = 0.0
    expected: float | None = None
    pending: float = 0.0


@dataclass(frozen=True)
class _Found:
    value: float
    error: float | None = None
    converged: bool = True
    threshold: float | None = None


@dataclass
class _Noise:
    """Estimates of tr(S) and |G|^2, and their ratio over the last of them."""

    pairs: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_WINDOW))

    def add(self, whole: float, part: float, size: float) -> _Found:
        """Add squared norms of the gradients of a batch and, on average, of its parts; McCandlish et al., equation A.2.

        Args:
            whole: of the whole batch of this size.
            part: of its parts.
            size: of the batch, in examples.
        """
        small = size / _PARTS
        signal = (size * whole - small * part) / (size - small)
        noise = (part - whole) / (1 / small - 1 / size)
        self.pairs.append((noise, signal))
        value = self._ratio(range(len(self.pairs)))
        count = len(self.pairs)
        if count < 3:
            return _Found(value, None, False)
        without = [self._ratio(other for other in range(count) if other != left) for left in range(count)]
        mean = math.fsum(without) / count
        return _Found(value, math.sqrt((count - 1) / count * math.fsum((one - mean) ** 2 for one in without)))

    def _ratio(self, places: Iterable[int]) -> float:
        noise, signal = map(math.fsum, zip(*(self.pairs[place] for place in places), strict=True))
        return noise / signal if signal else math.inf


class Monitor:
    """Measures quantities of a training as often as a share of its time allows.

    - "update_ratio": |w_new - w| / |w| of a step, over all weights.
    - "noise_scale": B_simple = tr(S) / |G|^2, the batch size, in examples, at which noise and signal of the gradient
      are alike: McCandlish et al. 2018, arXiv:1812.06162, appendix A.1, from four parts of the batch. The ratio of
      sums over the last twenty measurements; its error is their jackknife's. It is negative where noise drowns |G|^2.
    - "top_eigenvalue": of the Hessian on a fixed batch, in evaluation mode, from the last eigenvector on.
    - "preconditioned_eigenvalue": of P^-1 H, for Adam and its kin (`preconditioner`).

    Args:
        model: in training.
        optimizer: that trains it.
        loss: from model and batch to the mean loss over the batch.
        ceiling: of the time of measurements over the time of the training without them. A measurement that costs more
            than the last one can pass it; then none follows until training has caught up.
        probe: the batch of the eigenvalues; by default the first that is seen.
        quantities: some of the four; by default the first three.
        clock: tells seconds.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: it makes no sense.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        *,
        ceiling: float = 0.03,
        probe: Any = None,
        quantities: Iterable[str] = (UPDATE_RATIO, NOISE_SCALE, TOP_EIGENVALUE),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        Objective(model, loss, [])  # checks both
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"optimizer is {type(optimizer).__name__}; give one of torch's kind")
        if isinstance(ceiling, bool) or not isinstance(ceiling, (int, float)) or not 0 < ceiling < math.inf:
            raise ValueError(f"ceiling is {ceiling!r}; give a share of the training's time above 0, such as 0.03")
        names = [quantities] if isinstance(quantities, str) else list(dict.fromkeys(quantities))
        for name in names:
            if name not in _EXPECTED:
                raise ValueError(f"quantities has {name!r}; there are {', '.join(_EXPECTED)}")
        if not names:
            raise ValueError(f"quantities is empty; choose some of {', '.join(_EXPECTED)}")
        self.ceiling = float(ceiling)
        self.records: list[Reading] = []
        self._model, self._optimizer, self._loss, self._probe, self._clock = model, optimizer, loss, probe, clock
        self._accounts = {name: _Account() for name in names}
        self._noise = _Noise()
        self._starts: dict[str, Tensor] = {}
        self._before: list[Tensor] | None = None  # the weights, where the next call measures how far they moved
        self._steps, self._own, self._training = 0, 0.0, 0.0
        self._left: float | None = None

    @property
    def overhead(self) -> float:
        """Time of all calls so far over the time between them."""
        return self._own / self._training if self._training else 0.0

    def step(self, batch: Any) -> None:
        """Measure what is due; call it once per step of the optimizer, after it.

        Args:
            batch: that the step was taken on.
        """
        entered = self._clock()
        if self._left is not None:
            self._training += entered - self._left
        self._steps += 1
        if self._probe is None:
            self._probe = batch
        own = self._own
        try:
            if self._before is not None:
                self._finish_update()
            for name in self._accounts:
                self._own = own + self._clock() - entered
                if self._is_due(name):
                    self._measure(name, batch)
        finally:
            self._left = self._clock()
            self._own = own + self._left - entered

    def _is_due(self, name: str) -> bool:
        """Whether what a measurement is expected to cost is left of its share, and of the whole."""
        account = self._accounts[name]
        if name == UPDATE_RATIO and self._before is not None:
            return False
        if not self._training:
            return False
        usual = account.expected
        expected = _EXPECTED[name] * self._training / max(self._steps - 1, 1) if usual is None else _MARGIN * usual
        planned = _PLANNED * self.ceiling * self._training
        of_whole, of_share = planned - self._own, planned / len(self._accounts) - account.spent
        return expected <= min(of_whole, of_share)

    def _measure(self, name: str, batch: Any) -> None:
        if name == UPDATE_RATIO:
            with self._timed(name) as account:
                self._before = [one.detach().clone() for one in self._weights()]
            account.pending = account.expected or 0.0
            return
        with self._timed(name) as account:
            try:
                found = self._noise_scale(batch) if name == NOISE_SCALE else self._eigenvalue(name)
            except NotFinite:
                found = _Found(math.nan, None, False)
        if found is not None:
            self._note(name, found, account.expected or 0.0)

    def _finish_update(self) -> None:
        assert self._before is not None
        with self._timed(UPDATE_RATIO) as account:
            pairs = list(zip(self._weights(), self._before, strict=True))
            moved = math.hypot(*(float(torch.linalg.vector_norm(now.detach() - then)) for now, then in pairs))
            size = math.hypot(*(float(torch.linalg.vector_norm(then)) for _, then in pairs))
            self._before = None
        account.expected = (account.expected or 0.0) + account.pending
        self._note(UPDATE_RATIO, _Found(moved / size if size else math.nan), account.expected)

    def _note(self, name: str, found: _Found, seconds: float) -> None:
        self.records.append(
            Reading(self._steps, name, found.value, found.error, found.converged, seconds, found.threshold)
        )

    @contextmanager
    def _timed(self, name: str) -> Iterator[_Account]:
        """Charge a measurement to its account, whatever ends it."""
        account = self._accounts[name]
        self._synchronize()
        start = self._clock()
        try:
            yield account
        finally:
            self._synchronize()
            account.expected = self._clock() - start
            account.spent += account.expected

    def _noise_scale(self, batch: Any) -> _Found | None:
        size = examples(batch)
        if size < 2 * _PARTS:
            return None
        kept = size // _PARTS * _PARTS
        mode, seed = ("train", self._steps) if self._model.training else ("eval", None)
        parts = [_rows(batch, size, start, start + kept // _PARTS) for start in range(0, kept, kept // _PARTS)]
        gradients = [
            Objective(self._model, self._loss, [part], mode=mode, seed=seed).gradient()  # type: ignore[arg-type]
            for part in parts
        ]
        whole = torch.stack(gradients).mean(0)
        squares = [float(one.square().sum()) for one in (whole, *gradients)]
        if not all(map(math.isfinite, squares)):
            raise NotFinite("the gradient is not finite")
        return self._noise.add(squares[0], math.fsum(squares[1:]) / _PARTS, kept)

    def _eigenvalue(self, name: str) -> _Found:
        objective = Objective(self._model, self._loss, [self._probe])
        matrix: Any = Hessian(objective)
        if name == PRECONDITIONED:
            matrix = Preconditioned(matrix, preconditioner(self._optimizer, objective.parameters.values()))
        try:
            found = top_eigenvalues(matrix, rtol=_RTOL, max_products=_PRODUCTS, start=self._starts.get(name))
        except NotConverged as error:
            found = error.result
        self._starts[name] = found.vectors[:, 0]
        return _Found(found.values[0], found.residuals[0], found.converged, self._threshold(name))

    def _threshold(self, name: str) -> float | None:
        """The threshold of stability, where the eigenvalue is that of the optimizer's own preconditioner."""
        try:
            threshold = stability_threshold(self._optimizer)
        except ValueError:
            return None
        is_plain = not any("exp_avg" in state or "square_avg" in state for state in self._optimizer.state.values())
        return threshold if is_plain == (name == TOP_EIGENVALUE) else None

    def _weights(self) -> Iterator[Tensor]:
        return (one for one in self._model.parameters() if one.requires_grad)

    def _synchronize(self) -> None:
        if any(one.is_cuda for one in self._weights()):
            torch.cuda.synchronize()


def _rows(batch: Any, size: int, start: int, end: int) -> Any:
    """Return some rows of all tensors in a batch that have a row for each example."""
    if isinstance(batch, Tensor):
        return batch[start:end] if batch.ndim and len(batch) == size else batch
    if isinstance(batch, Mapping):
        return {name: _rows(value, size, start, end) for name, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return [_rows(value, size, start, end) for value in batch]
    return batch
