"""Where the parameters of a model stand in it."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy


class Place(NamedTuple):
    """Where a parameter stands in its model, wrappers left out: each module on the way down, and its key in there."""

    modules: tuple[nn.Module, ...]
    keys: tuple[str, ...]

    @property
    def name(self) -> str:
        """The parameter's name in the model."""
        return ".".join(self.keys)


_OF_WRAPPERS: Final = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


def _is_wrapping(module: nn.Module, key: str) -> bool:
    return key in _OF_WRAPPERS or (key == "module" and isinstance(module, (DataParallel, DistributedDataParallel)))


def places_of(model: Any) -> dict[Tensor, list[Place]]:
    """The places of each parameter, in the model's order."""
    if not isinstance(model, nn.Module):
        hint = "; groups to split go into groups=" if isinstance(model, (list, tuple)) else ""
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}{hint}")
    modules = dict(model.named_modules(remove_duplicate=False))
    places: dict[Tensor, list[Place]] = {}
    for path, param in model.named_parameters(remove_duplicate=False):
        if is_lazy(param):
            raise ValueError(f"{path} has no shape yet; run a batch through the model first")
        keys = path.split(".")
        steps = [(modules[".".join(keys[:depth])], key) for depth, key in enumerate(keys)]
        kept = [(module, key) for module, key in steps if not _is_wrapping(module, key)]
        places.setdefault(param, []).append(Place(tuple(m for m, _ in kept), tuple(key for _, key in kept)))
    if not places:
        raise ValueError(f"model has no parameters: {type(model).__name__}")
    return places
