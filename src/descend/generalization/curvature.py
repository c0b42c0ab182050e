"""The curvature of a loss as a linear map: products with vectors, never the matrix.

The Hessian by double backward (Pearlmutter 1994), the Gauss-Newton matrix J' H_z J by the same (Schraudolph 2002). A
block of vectors costs one visit of the data: each batch's graph is built once, and multiplies all of them. On a CPU the
loop over vectors is faster than their `vmap`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from descend.generalization.holding import has_fused_attention, plain_attention
from descend.generalization.linear import Conditions, SymmetricMap
from descend.generalization.losses import tensors_in
from descend.generalization.objective import Objective

_ATTENTION = "attention ran in its plain form, as its fused kernels have no second derivatives"
_ROUNDED = "products are rounded to {}; what is smaller than its rounding cannot be resolved"


class Product(ABC):
    """One batch's share of a curvature, with the graph that multiplies vectors."""

    def __init__(self, loss: Tensor, parameters: list[Tensor]) -> None:
        self.loss, self._parameters = loss, parameters

    @abstractmethod
    def __call__(self, vector: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the product with a vector in the parts of the parameters."""


class Curvature(ABC):
    """A symmetric map of a model's weights: `curvature @ vectors`, one (size,) or several (size, k), in float64.

    Args:
        objective: the loss, and the weights at which its curvature is taken: those of its model.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self._plain: bool | None = None  # whether attention must run in its plain form; not known yet
        kinds = {value.dtype for value in objective.parameters.values()}
        low = min(kinds, key=lambda kind: torch.finfo(kind).bits)
        if torch.finfo(low).bits < 32:
            _note(objective, _ROUNDED.format(str(low).removeprefix("torch.")))

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.objective.size

    @property
    def device(self) -> torch.device:
        """Where vectors lie."""
        return self.objective.device

    @property
    def conditions(self) -> Conditions:
        """What is measured."""
        return self.objective.conditions

    def held(self) -> AbstractContextManager[None]:
        """Make many products in a row cheaper; the weights must not change inside."""
        return self.objective.held()

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """Return the products with one vector or several, for one visit of the data.

        Raises:
            ValueError: their shape does not fit, or the loss cannot be differentiated so.
        """
        if vectors.ndim not in (1, 2) or vectors.shape[0] != self.size:
            raise ValueError(
                f"vectors have the shape {tuple(vectors.shape)}; give ({self.size},), or ({self.size}, k) for k of them"
            )
        block = vectors.to(self.device, torch.float64).reshape(self.size, -1)
        columns = [self.objective.as_parameters(column) for column in block.unbind(1)]
        total, examples = torch.zeros_like(block), 0
        with self.held():
            for count, product in self.objective.visits(self._built):
                examples += count
                for place, column in enumerate(columns):
                    total[:, place].add_(self.objective.joined(product(column)), alpha=count)
        total /= examples
        if self.objective.weight_decay:
            total.add_(block, alpha=self.objective.weight_decay)
        return total.reshape(vectors.shape)

    def _built(self, place: int, batch: Any) -> Product:
        """Return what multiplies vectors on one batch, built of operations that can be differentiated twice."""
        with plain_attention() if self._plain else nullcontext():
            product = self._of(place, batch)
        if self._plain is None:
            self._plain = has_fused_attention(product.loss)
            if self._plain:
                _note(self.objective, _ATTENTION)
                return self._built(place, batch)
        return product

    @abstractmethod
    def _of(self, place: int, batch: Any) -> Product:
        """Build what multiplies vectors on one batch."""


class Hessian(Curvature):
    """The Hessian of the loss.

    Args:
        objective: the loss, and the weights at which its curvature is taken: those of its model.
    """

    def _of(self, place: int, batch: Any) -> Product:
        return _HessianProduct(self.objective.loss_on(place, batch), list(self.objective.parameters.values()))


class _HessianProduct(Product):
    """Products by the derivative of the gradient, whose graph is kept."""

    def __init__(self, loss: Tensor, parameters: list[Tensor]) -> None:
        super().__init__(loss, parameters)
        gradients: Sequence[Tensor] = ()
        if loss.requires_grad:
            gradients = torch.autograd.grad(
                loss, parameters, create_graph=True, allow_unused=True, materialize_grads=True
            )
        self._curved = [(place, one) for place, one in enumerate(gradients) if one.requires_grad]

    def __call__(self, vector: Sequence[Tensor]) -> Sequence[Tensor]:
        if not self._curved:  # the loss is linear
            return [torch.zeros_like(one) for one in self._parameters]
        along = [vector[place] for place, _ in self._curved]
        return _pulled([one for _, one in self._curved], self._parameters, along)


class GaussNewton(Curvature):
    """The Gauss-Newton matrix of the loss: J' H J, with J of the model's output, H of the loss as a function of it.

    Positive semi-definite where the loss is convex in the output, as cross-entropy and squares are. What the loss takes
    from the weights on other ways than the model's output, such as a penalty, is no part of it.

    Args:
        objective: the loss, and the weights at which its curvature is taken: those of its model. Its loss must call the
            model once.
    """

    def _of(self, place: int, batch: Any) -> Product:
        outputs: list[Any] = []
        hook = self.objective.model.register_forward_hook(lambda _, __, output: outputs.append(output))
        try:
            loss = self.objective.loss_on(place, batch)
        finally:
            hook.remove()
        if len(outputs) != 1:
            raise ValueError(
                f"the loss calls the model {len(outputs)} times for a batch; Gauss-Newton needs it called once, as "
                "model(inputs), with all its work in it"
            )
        outputs = [one for one in tensors_in(outputs) if one.requires_grad]
        return _GaussNewtonProduct(loss, outputs, list(self.objective.parameters.values()))


class _GaussNewtonProduct(Product):
    """Products through the output: forward by the derivative of a backward pass, which is linear in what it gets."""

    def __init__(self, loss: Tensor, outputs: list[Tensor], parameters: list[Tensor]) -> None:
        super().__init__(loss, parameters)
        slopes: Sequence[Tensor] = ()
        if outputs and loss.requires_grad:
            slopes = torch.autograd.grad(loss, outputs, create_graph=True, allow_unused=True, materialize_grads=True)
        self._outputs = outputs if any(slope.requires_grad for slope in slopes) else []
        if not self._outputs:  # the loss is linear in the output
            return
        self._slopes = [(place, slope) for place, slope in enumerate(slopes) if slope.requires_grad]
        self._seeds = [torch.zeros_like(output, requires_grad=True) for output in outputs]
        pulled = torch.autograd.grad(
            outputs, parameters, self._seeds, create_graph=True, allow_unused=True, materialize_grads=True
        )
        self._pulled = [(place, one) for place, one in enumerate(pulled) if one.requires_grad]

    def __call__(self, vector: Sequence[Tensor]) -> Sequence[Tensor]:
        if not self._outputs or not self._pulled:
            return [torch.zeros_like(one) for one in self._parameters]
        along = [vector[place] for place, _ in self._pulled]
        moved = _pulled([one for _, one in self._pulled], self._seeds, along)
        bent = _pulled([slope for _, slope in self._slopes], self._outputs, [moved[place] for place, _ in self._slopes])
        return _pulled(self._outputs, self._parameters, bent)


class Preconditioned:
    """A curvature as an optimizer with a diagonal preconditioner P sees it: P^-1/2 A P^-1/2.

    It has the eigenvalues of P^-1 A, which decide whether a step of length lr is stable: Cohen et al. 2022,
    arXiv:2207.14484.

    Args:
        curvature: the map A.
        scale: the diagonal of P, a flat vector with values above 0; see `preconditioner`.
    """

    def __init__(self, curvature: SymmetricMap, scale: Tensor) -> None:
        if scale.shape != (curvature.size,):
            raise ValueError(f"scale has the shape {tuple(scale.shape)}; give a vector of ({curvature.size},)")
        scale = scale.detach().to(curvature.device, torch.float64)
        if not (scale.isfinite().all() and (scale > 0).all()):
            raise ValueError("scale has values that are not finite and above 0; a preconditioner divides by them")
        self._curvature, self._root = curvature, scale.sqrt()
        self.size, self.device = curvature.size, curvature.device

    @property
    def conditions(self) -> Conditions:
        """What is measured."""
        return self._curvature.conditions

    def held(self) -> AbstractContextManager[None]:
        """Make many products in a row cheaper."""
        return self._curvature.held()

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """Return the products with one vector or several."""
        root = self._root if vectors.ndim == 1 else self._root[:, None]
        product: Tensor = (self._curvature @ (vectors / root)) / root
        return product


def _pulled(of: Sequence[Tensor], to: Sequence[Tensor], along: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the derivative along a direction, and keep the graph."""
    return torch.autograd.grad(of, to, along, retain_graph=True, allow_unused=True, materialize_grads=True)


def _note(objective: Objective, note: str) -> None:
    if note not in objective.notes:
        objective.notes.append(note)
