"""Chains of layers: what is known to follow what in `nn.Sequential`, and hidden layers whose units have no order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize

from descend.generalization.units import NONLINEARITIES
from descend.model_states import unwrapped

AFFINE = (nn.Linear, _ConvNd)

_ELEMENTWISE = (
    *NONLINEARITIES,
    nn.Hardshrink,
    nn.Softshrink,
    nn.Tanhshrink,
    nn.Threshold,
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
_ODD = (
    nn.Tanh,
    nn.Softsign,
    nn.Hardshrink,
    nn.Softshrink,
    nn.Tanhshrink,
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
)
_MEANS: tuple[tuple[type[nn.Module], ...], ...] = (
    (),  # of features there is no pooling
    (nn.AvgPool1d, nn.AdaptiveAvgPool1d),
    (nn.AvgPool2d, nn.AdaptiveAvgPool2d),
    (nn.AvgPool3d, nn.AdaptiveAvgPool3d),
)
_MAXIMA: tuple[tuple[type[nn.Module], ...], ...] = (
    (),
    (nn.MaxPool1d, nn.AdaptiveMaxPool1d),
    (nn.MaxPool2d, nn.AdaptiveMaxPool2d),
    (nn.MaxPool3d, nn.AdaptiveMaxPool3d),
)


@dataclass(frozen=True)
class Axis:
    """Where a tensor has the units of a hidden layer.

    Attributes:
        tensor: its name, of a parameter or buffer.
        dim: its dimension along which the units lie.
        block: how many places each unit has there, one after the other; more than 1 behind a `Flatten`.
        flips: whether the numbers change sign with their unit.
        learned: whether it is a parameter; otherwise it is a running statistic.
    """

    tensor: str
    dim: int
    block: int
    flips: bool
    learned: bool


@dataclass(frozen=True)
class HiddenLayer:
    """Units whose order no output depends on.

    Attributes:
        name: of the layer that computes them.
        units: their number; of a convolution, feature maps.
        reader: name of the layer that reads them.
        signs: whether flipping a unit's sign leaves the function alone too.
        axes: all that is permuted: the layer's weights, what lies between, the reader's weights.
    """

    name: str
    units: int
    reader: str
    signs: bool
    axes: tuple[Axis, ...]


def chains(module: nn.Module, prefix: str = "") -> Iterator[list[tuple[str, nn.Module]]]:
    """Yield the modules, with names, of each Sequential, those of nested ones in their places."""
    if is_known(module, (nn.Sequential,)):
        inner = list(flattened(module, prefix))
        yield inner
    else:
        inner = [(f"{prefix}{name}", child) for name, child in module.named_children()]
    for name, child in inner:
        yield from chains(child, f"{name}.")


def flattened(chain: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules of a Sequential, with names, those of nested ones in their places."""
    for name, child in chain._modules.items():  # named_children() leaves out what comes a second time
        assert child is not None
        if is_known(child, (nn.Sequential,)):
            yield from flattened(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def is_known(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Tell whether a module does what torch's of these kinds do, and nothing else."""
    if not isinstance(module, kinds) or "forward" in vars(module):
        return False
    own = not type(module).forward.__module__.startswith("torch.nn.")
    return not (own or module._forward_hooks or module._forward_pre_hooks)


def is_alone(model: nn.Module, modules: Iterable[nn.Module], tensors: Iterable[object]) -> bool:
    """Tell whether modules stand once in a model, and tensors belong to one module of it only."""
    places = Counter(id(one) for _, one in model.named_modules(remove_duplicate=False))
    uses = Counter(
        id(one)
        for held in (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
        for _, one in held
    )
    return all(places[id(one)] == 1 for one in modules) and all(
        uses[id(one)] == 1 for one in tensors if isinstance(one, Tensor)
    )


def hidden_layers(model: nn.Module) -> list[HiddenLayer]:
    """Return the hidden layers whose units are known to have no order.

    Looked for in chains of `nn.Sequential`, nested ones included: a linear or convolutional layer and the next one,
    with weights of their own and one group, between them only elementwise nonlinearities, dropout, pooling, batch
    normalization, or `nn.Flatten()` before a linear layer. Layers are taken to read batches, linear ones of
    features: (examples, features).
    Modules with a forward of your own or with hooks may do anything, and end the search. A model that takes a chain
    apart is not seen through: there, give inputs to `permuted` and others.
    """
    model = unwrapped(model)
    values = tensors(model)
    return [
        found
        for chain in chains(model)
        for place, (name, layer) in enumerate(chain)
        if is_known(layer, AFFINE) and (found := _hidden(model, values, name, layer, chain[place + 1 :])) is not None
    ]


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by all their names."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def _hidden(
    model: nn.Module, values: Mapping[str, Tensor], name: str, layer: nn.Module, behind: list[tuple[str, nn.Module]]
) -> HiddenLayer | None:
    """Return the hidden layer that a layer of a chain computes; None where anything about it is not known."""
    weight, side = values.get(f"{name}.weight"), int(isinstance(layer, _ConvTransposeNd))
    if weight is None or _groups(layer) != 1:
        return None
    walk = _Walk(values, weight.shape[side], dimensions(layer))
    walk.note(name, layer, ("weight", True, side), ("bias", True, 0))
    for other, module in behind:
        if is_known(module, AFFINE):
            if not walk.ends_at(other, module):
                return None
            own = [values[axis.tensor] for axis in walk.axes]
            if any(map(parametrize.is_parametrized, walk.modules)) or not is_alone(model, walk.modules, own):
                return None
            return HiddenLayer(name, walk.units, other, walk.is_odd, tuple(walk.axes))
        if not walk.passes(other, module):
            return None
    return None


class _Walk:
    """What lies between two layers, followed module by module.

    Args:
        values: tensors of the model, by name.
        units: of the first layer.
        dimensions: of its feature maps; 0 for features.
    """

    def __init__(self, values: Mapping[str, Tensor], units: int, dimensions: int) -> None:
        self.units, self.is_odd = units, True
        self.axes: list[Axis] = []
        self.modules: list[nn.Module] = []
        self._values, self._dimensions, self._has_maps = values, dimensions, dimensions > 0

    def note(self, name: str, module: nn.Module, *places: tuple[str, bool, int]) -> None:
        """Note a module's tensors, those that are there: which, whether it flips, the dimension of the units."""
        self.modules.append(module)
        for kind, flips, dim in places:
            if (value := self._values.get(f"{name}.{kind}")) is not None:
                block = value.shape[dim] // self.units
                self.axes.append(Axis(f"{name}.{kind}", dim, block, flips, isinstance(value, nn.Parameter)))

    def passes(self, name: str, module: nn.Module) -> bool:
        """Go on over a module; tell whether units stay apart in it, all treated alike but for what was noted."""
        if is_known(module, (nn.Flatten,)):
            self._dimensions = 0
            return bool(module.start_dim == 1 and module.end_dim == -1)
        if is_known(module, (_BatchNorm,)):
            self.note(
                name,
                module,
                ("weight", False, 0),
                ("bias", True, 0),
                ("running_mean", True, 0),
                ("running_var", False, 0),
            )
            return self._fits(int(module.num_features))  # type: ignore[arg-type]
        if is_known(module, (nn.PReLU,)):
            self.is_odd = False
            if module.num_parameters == 1:
                return True
            self.note(name, module, ("weight", False, 0))
            return self._fits(int(module.num_parameters))  # type: ignore[arg-type]
        means, maxima = (_MEANS[self._dimensions], _MAXIMA[self._dimensions])
        self.is_odd &= is_known(module, (*_ODD, *means)) or _is_even_sided(module)
        return is_known(module, (*_ELEMENTWISE, *means, *maxima)) and not getattr(module, "return_indices", False)

    def ends_at(self, name: str, module: nn.Module) -> bool:
        """End at a layer with weights; tell whether it reads units one by one, each from places of its own."""
        weight, side = self._values.get(f"{name}.weight"), int(not isinstance(module, _ConvTransposeNd))
        if weight is None or _groups(module) != 1 or dimensions(module) != self._dimensions:
            return False
        if not self._fits(weight.shape[side]):
            return False
        self.note(name, module, ("weight", True, side))
        return True

    def _fits(self, size: int) -> bool:
        """Tell whether so many numbers are one for each unit, or, where feature maps were flattened, a block each."""
        is_flattened = self._has_maps and self._dimensions == 0
        return size % self.units == 0 if is_flattened else size == self.units


def dimensions(layer: nn.Module) -> int:
    """Of the feature maps of a convolution; 0 for a linear layer."""
    return len(layer.kernel_size) if isinstance(layer, _ConvNd) else 0


def _groups(layer: nn.Module) -> int:
    return layer.groups if isinstance(layer, _ConvNd) else 1


def _is_even_sided(module: nn.Module) -> bool:
    """Tell whether a module clips both sides alike."""
    return isinstance(module, nn.Hardtanh) and is_known(module, (nn.Hardtanh,)) and module.min_val == -module.max_val
