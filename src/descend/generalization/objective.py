"""The loss of a model over a whole data set as a function of its weights, read without leaving a trace.

Curvature, sharpness and landscape all look at one function: L(w), the mean loss over the examples of some batches.
`Objective` is that function. It weighs batches by their size, so that a short last batch counts for what it holds; it
is deterministic; and the weights, buffers, gradients and modes of the model, and all random generators, are afterwards
what they were, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

from descend.generalization.holding import Holding, held
from descend.generalization.linear import Conditions
from descend.generalization.losses import Loss, examples
from descend.model_states import unwrapped

Mode = Literal["eval", "train"]
Built = TypeVar("Built")


class Objective:
    """The mean loss of a model over the examples of all batches, as a function of its weights.

        objective = Objective(model, supervised(nn.functional.cross_entropy), loader)
        objective.value()
        top_eigenvalues(Hessian(objective), 5)

    Weights are flat vectors of float64, the parameters one after the other; a tied parameter is there once, and one
    that the loss does not use has zeros in every gradient and product.

    Args:
        model: any; a compiled one runs as it is written, one inside of DistributedDataParallel as on one process.
        loss: from the model and a batch to the mean loss over the batch; see `supervised`.
        batches: read from the beginning for every pass: a list, a DataLoader; no iterator. A loader that shuffles draws
            the same order for every pass.
        mode: "eval", or "train", in which batch normalization takes the statistics of each batch, so that the function
            depends on the batches, and dropout needs a `seed`. A module that stands in evaluation mode within a model
            in training mode was frozen, and stays so.
        seed: of what a forward pass draws, such as masks of dropout: one draw for each batch, the same in every pass.
            Without one, drawing is an error.
        count: examples of a batch, by which it is weighed; by default the length of the first tensor found in it.
        parameters: names, or the parameters themselves; by default all that require gradients. Others are constants.
        weight_decay: adds weight_decay / 2 |w|^2, as the optimizer of a training with such a decay minimises.
        outputs: applied to what the model returns, before the loss sees it; see `unit_logits`.
        recompute: training batches over which the statistics of batch normalization are computed anew for each vector
            of weights that is asked about; by default they are the model's own, which belong to its own weights.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: it makes no sense, a parameter is unknown, complex, or not initialised, or there is no example.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        batches: Iterable[Any],
        *,
        mode: Mode = "eval",
        seed: int | None = None,
        count: Callable[[Any], int] | None = None,
        parameters: Iterable[str | Tensor] | None = None,
        weight_decay: float = 0.0,
        outputs: Callable[[Any], Any] | None = None,
        recompute: Iterable[Any] | None = None,
    ) -> None:
        _check(model, loss, batches, mode, seed, weight_decay)
        if mode == "train" and recompute is not None:
            raise ValueError('recompute is of mode="eval"; in mode="train" each batch has statistics of its own')
        self.model = unwrapped(model)
        self.batches = batches
        self.mode: Mode = mode
        self.seed = seed
        self.weight_decay = float(weight_decay)
        self._parameters = _chosen(self.model, parameters)
        self._loss, self._count, self.outputs = loss, count or examples, outputs
        self._recompute = recompute
        self._holding: Holding | None = None
        self._own: list[Tensor] = []  # copies of the weights while other ones are in their place
        self._graphs: dict[Any, Any] = {}
        self._counts: list[int] = []
        self._losses: list[float | None] = []
        self.notes: list[str] = []

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that vary, by name, in the order of the flat vectors."""
        return dict(self._parameters)

    @property
    def size(self) -> int:
        """Number of weights."""
        return sum(value.numel() for value in self._parameters.values())

    @property
    def device(self) -> torch.device:
        """Where flat vectors lie."""
        device = next(iter(self._parameters.values())).device
        return torch.device("cpu") if device.type == "mps" else device  # which has no float64

    @property
    def conditions(self) -> Conditions:
        """What is measured; counts the examples, if no pass has yet."""
        if not self._counts:
            self._counts = [self._counted(batch) for batch in self.batches]
            _check_some(self._counts)
        return Conditions(
            mode=self.mode,
            examples=sum(self._counts),
            batches=len(self._counts),
            parameters=self.size,
            seed=self.seed,
            weight_decay=self.weight_decay,
            notes=tuple(self.notes),
        )

    def with_loss(self, loss: Loss, count: Callable[[Any], int] | None = None) -> Objective:
        """Return an objective of the same model, batches and conditions with another loss, without weight decay.

        Args:
            loss: from the model and a batch to a mean over the batch, such as `supervised(accuracy)`.
            count: examples of a batch; by default as here.
        """
        return Objective(
            self.model,
            loss,
            self.batches,
            mode=self.mode,
            seed=self.seed,
            count=count or self._count,
            parameters=self.parameters,
            outputs=self.outputs,
            recompute=self._recompute,
        )

    @property
    def statistics(self) -> Literal["none", "fixed", "recomputed", "batch"]:
        """Which statistics batch normalization has where weights vary; "none" where no layer keeps any."""
        layers = (one for one in self.model.modules() if isinstance(one, _NormBase))
        if all(one.running_mean is None for one in layers):
            return "none"
        if self.mode == "train":
            return "batch"
        return "fixed" if self._recompute is None else "recomputed"

    def weights(self) -> Tensor:
        """Return the weights of the model, a new vector."""
        return self.flat(self._parameters)

    def flat(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return tensors by parameters' names as one vector."""
        return self.joined([values[name] for name in self._parameters])

    def joined(self, values: Iterable[Tensor]) -> Tensor:
        """Return tensors in the order of the parameters as one vector."""
        return torch.cat([value.detach().to(self.device, torch.float64).flatten() for value in values])

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        """Return a vector as tensors in the parameters' shapes, by name, in float64."""
        if vector.shape != (self.size,):
            raise ValueError(f"the vector has the shape {tuple(vector.shape)}; give one of ({self.size},)")
        parts = torch.split(vector, [value.numel() for value in self._parameters.values()])
        return {
            name: part.view(value.shape) for part, (name, value) in zip(parts, self._parameters.items(), strict=True)
        }

    def as_parameters(self, vector: Tensor) -> list[Tensor]:
        """Return a vector as tensors with the parameters' shapes, types and devices, in their order."""
        parts = self.split(vector)
        return [parts[name].to(value) for name, value in self._parameters.items()]

    def value(self, at: Tensor | None = None) -> float:
        """Return the loss, of the model's weights or of others: a flat vector, rounded to the parameters' types."""
        with self.held(), self._moved(at), torch.no_grad():
            total = 0.0
            for place, count, batch in self._pass():
                total += count * self.loss_on(place, batch, is_moved=at is not None).item()
            return total / sum(self._counts) + self._decay(at)

    def gradient(self, at: Tensor | None = None) -> Tensor:
        """Return the gradient of the loss, a flat vector."""
        return self.value_and_gradient(at)[1]

    def value_and_gradient(self, at: Tensor | None = None) -> tuple[float, Tensor]:
        """Return both, for one pass over the batches."""
        parameters = list(self._parameters.values())
        total, gradient = 0.0, torch.zeros(self.size, dtype=torch.float64, device=self.device)
        with self.held(), self._moved(at):
            for place, count, batch in self._pass():
                loss = self.loss_on(place, batch, is_moved=at is not None)
                total += count * loss.item()
                if loss.requires_grad:
                    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
                    gradient.add_(self.joined(gradients), alpha=count)
            examples = sum(self._counts)
            gradient /= examples
            if self.weight_decay:
                gradient.add_(self.weights(), alpha=self.weight_decay)  # those that it was moved to
            return total / examples + self._decay(at), gradient

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the model as it is measured between calls, which makes many in a row cheaper; it is put back at the end.

        Between calls neither weights nor data may change. The graph of a data set of one batch is kept.
        """
        if self._holding is not None:
            yield
            return
        with held(self.model, self.batches, training=self.mode == "train", outputs=self.outputs) as self._holding:
            try:
                yield
            finally:
                self._holding = None
                self._graphs.clear()
                self._losses.clear()
                self._own.clear()

    @contextmanager
    def repeating(self) -> Iterator[None]:
        """Hold the model, and refuse data or a model that change between passes, also where all passes move weights.

        For that it takes a forward pass at the model's own weights before and after.
        """
        with self.held():
            self.value()
            yield
            self.value()

    def visits(self, build: Callable[[int, Any], Built]) -> Iterator[tuple[int, Built]]:
        """Yield the size of each batch, and what is built of its place and it; within `held` only.

        What was built of a single batch is kept: the data set is then read once.
        """
        if build in self._graphs:
            yield self._counts[0], self._graphs[build]
            return
        for place, count, batch in self._pass():
            built = build(place, batch)
            if place == 0:
                first = built
            yield count, built
        if len(self._counts) == 1:
            self._graphs[build] = first

    def loss_on(self, place: int, batch: Any, *, is_moved: bool = False) -> Tensor:
        """Return the loss on one batch, with what it was computed by; within `held` only.

        Args:
            place: of the batch in its pass.
            batch: itself.
            is_moved: whether the weights are others than the model's.

        Raises:
            ValueError: it draws random numbers without a seed, is no scalar, or differs from that of an earlier pass.
        """
        assert self._holding is not None
        before = self._holding.prepare(place, None if self.seed is None else self.seed + place)
        try:
            loss = self._loss(self.model, batch)
        except Exception as error:
            error.add_note("in loss(model, batch); a criterion of outputs and targets is given as supervised(it)")
            raise
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise ValueError(f"loss returned {_described(loss)}; let it return the mean over the batch, a scalar")
        if self._holding.drew(place, before):
            raise ValueError(
                "the loss draws random numbers (dropout, say); give seed= to fix them for each batch, or measure in "
                'mode="eval"'
            )
        if not is_moved:
            self._check_repeats(place, loss.item())
        return loss.reshape(())

    def _pass(self) -> Iterator[tuple[int, int, Any]]:
        """Yield place, size and content of each batch, in the same order as ever."""
        assert self._holding is not None
        counts = []
        for place, batch in enumerate(self._holding.read(self.batches)):
            counts.append(self._counted(batch))
            yield place, counts[-1], batch
        _check_some(counts)
        if self._losses and len(self._losses) != len(counts):
            raise ValueError(f"batches gave {len(counts)} in this pass and {len(self._losses)} before; {_SAME}")
        self._counts = counts

    def _check_repeats(self, place: int, loss: float) -> None:
        """Refuse data or a model that change from pass to pass."""
        self._losses += [None] * (place + 1 - len(self._losses))
        before = self._losses[place]
        if before is None:
            self._losses[place] = loss
        elif math.isnan(loss) and math.isnan(before):
            return
        elif loss != before and not abs(loss - before) <= self._rounding * max(1.0, abs(before)):
            raise ValueError(f"the loss of batch {place} was {before:.7g} and is now {loss:.7g}; {_SAME}")

    @property
    def _rounding(self) -> float:
        """By how much of itself a loss may change where sums have no fixed order, as on a GPU."""
        return 64 * max(torch.finfo(value.dtype).eps for value in self._parameters.values())

    def _counted(self, batch: Any) -> int:
        count = self._count(batch)
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ValueError(f"count gave {count!r} for a batch; let it return the number of its examples")
        return count

    def _decay(self, at: Tensor | None) -> float:
        if not self.weight_decay:
            return 0.0
        return self.weight_decay / 2 * float((self.weights() if at is None else at).square().sum())

    @contextmanager
    def _moved(self, at: Tensor | None) -> Iterator[None]:
        """Write other weights into the model for a block; its own come back as they were."""
        if at is None:
            yield
            return
        assert self._holding is not None
        moved = self.as_parameters(at)
        self._own = self._own or [value.detach().clone() for value in self._parameters.values()]
        try:
            for value, other in zip(self._parameters.values(), moved, strict=True):
                value.data.copy_(other)  # of .data: a graph of the user's that waits for its backward stays valid
            renewed = self._recompute is not None and self.mode == "eval"
            with self._holding.renewed(self._recompute or [], self._loss) if renewed else nullcontext():
                yield
        finally:
            for value, own in zip(self._parameters.values(), self._own, strict=True):
                value.data.copy_(own)


_SAME = "give batches and a model that do the same in every pass, for example a list of batches"


def _chosen(model: nn.Module, parameters: Iterable[str | Tensor] | None) -> dict[str, nn.Parameter]:
    """Return the parameters that vary, by their first names, in the model's order."""
    every = dict(model.named_parameters())
    if any(map(is_lazy, every.values())):
        raise ValueError("model has parameters without a size yet; pass a batch through it first")
    if parameters is None:
        chosen = {name: value for name, value in every.items() if value.requires_grad}
    else:
        if isinstance(parameters, (str, Tensor)):
            raise TypeError("parameters is one; give a list of names or parameters")
        by_name = dict(model.named_parameters(remove_duplicate=False))
        wanted = {id(_one(each, by_name)) for each in parameters}
        chosen = {name: value for name, value in every.items() if id(value) in wanted}
    if not chosen:
        raise ValueError("there is no parameter that requires gradients; give parameters= some that do")
    for name, value in chosen.items():
        if not value.requires_grad:
            raise ValueError(f"parameter {name!r} is frozen; call requires_grad_() on it, or leave it out")
        if not value.is_floating_point():
            raise ValueError(f"parameter {name!r} is of {value.dtype}; leave out what is not of real floating numbers")
    return chosen


def _one(each: str | Tensor, by_name: Mapping[str, nn.Parameter]) -> Tensor:
    if isinstance(each, str):
        if each not in by_name:
            raise ValueError(f"parameters has {each!r}, which the model has not; it has {', '.join(by_name)}")
        return by_name[each]
    if not isinstance(each, Tensor) or all(each is not value for value in by_name.values()):
        raise ValueError("parameters has something that is no parameter of the model; give names or its parameters")
    return each


def _check(model: object, loss: object, batches: object, mode: object, seed: object, weight_decay: object) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is {type(model).__name__}; give a torch.nn.Module")
    if isinstance(loss, nn.Module) or not callable(loss):
        raise TypeError(f"loss is {type(loss).__name__}; give loss(model, batch), say supervised(cross_entropy)")
    if not isinstance(batches, Iterable):
        raise TypeError(f"batches is {type(batches).__name__}; give a list of batches or a loader")
    if isinstance(batches, Iterator):
        raise TypeError("batches is an iterator, which can be read only once; give a list of batches or a loader")
    if isinstance(batches, Tensor):
        raise TypeError("batches is a tensor; give a list of batches, say [(inputs, targets)]")
    if mode not in ("eval", "train"):
        raise ValueError(f'mode is {mode!r}; give "eval" or "train"')
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise ValueError(f"seed is {seed!r}; give a whole number, or None")
    if isinstance(weight_decay, bool) or not isinstance(weight_decay, (int, float)) or not 0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay is {weight_decay!r}; give a finite number from 0 up")


def _check_some(counts: Sequence[int]) -> None:
    if not sum(counts):
        raise ValueError("batches has no example; give one batch or more")


def _described(loss: Any) -> str:
    return f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
