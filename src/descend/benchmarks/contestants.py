"""What is timed: steps of ours, of torch's implementations of the same rule, and of other libraries where installed."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from descend import optim
from descend.benchmarks.targets import Shapes
from descend.benchmarks.timing import Step

OURS: Final = "ours"
IMPLEMENTATIONS: Final[Mapping[str, Mapping[str, bool]]] = {
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "loop": {"foreach": False},
}
"""torch's implementations, and the flags that ask for them."""
PEERS: Final = ("pytorch_optimizer", "heavyball")
CLIP: Final = 1.0
DECAY: Final = 0.999


def is_fused_in_torch(name: str) -> bool:
    """Whether torch has a fused implementation of the rule."""
    return "fused" in inspect.signature(_twin(name).__init__).parameters


def comparable() -> list[str]:
    """The rules, by their classes' names, that both torch and we have, for tensors of any shape."""
    ours = [name for name in optim.classes if optim.twin(name) is not None]
    return [name for name in ours if not getattr(optim, name).rule.formula().opaque_calls]


def _twin(name: str) -> type[torch.optim.Optimizer]:
    found = optim.twin(name)
    if found is None:
        raise ValueError(f"torch has no {name} to compare with; choose from {', '.join(comparable())}")
    return found


def parameters(shapes: Shapes, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    """Parameters of these shapes, each with a gradient."""
    made = [nn.Parameter(torch.randn(shape).to(dtype)) for shape in shapes]
    for p in made:
        p.grad = torch.randn_like(p)
    return made


def in_groups(params: list[nn.Parameter]) -> list[dict[str, Any]]:
    """Param groups of one parameter each."""
    return [{"params": [p]} for p in params]


def steps(name: str, shapes: Shapes, arrange: Callable[[list[nn.Parameter]], Any] = list) -> dict[str, Step]:
    """A step of ours and of each of torch's implementations, with their defaults.

    Args:
        name: the rule's class.
        shapes: of the parameters; every contestant has its own.
        arrange: what the constructor is given for a list of parameters.
    """
    made: dict[str, Step] = {OURS: getattr(optim, name)(arrange(parameters(shapes))).step}
    for implementation, flags in IMPLEMENTATIONS.items():
        if implementation == "fused" and not is_fused_in_torch(name):
            continue
        twin: Any = _twin(name)
        made[implementation] = twin(arrange(parameters(shapes)), **flags).step
    return made


class Peers:
    """Other libraries, where they are installed.

    Args:
        wanted: their names.

    Attributes:
        notes: why something of them is not in the tables.
    """

    def __init__(self, wanted: tuple[str, ...]) -> None:
        self._modules: dict[str, ModuleType] = {}
        self.notes: list[str] = []
        for package in wanted:
            if importlib.util.find_spec(package) is None:
                self.notes.append(f"{package} is not installed, and was not measured")
            else:
                self._modules[package] = importlib.import_module(package)

    def steps(self, name: str, shapes: Shapes, arrange: Callable[[list[nn.Parameter]], Any] = list) -> dict[str, Step]:
        """A step of each library that has the rule; what fails at its first step is left out, with a note."""
        made: dict[str, Step] = {}
        for package, module in self._modules.items():
            theirs = _class_of(module, name)
            if theirs is None:
                continue
            try:
                optimizer = theirs(arrange(parameters(shapes)))
                optimizer.step()
            except Exception as error:  # another's code, on our parameters: whatever it raises is a note
                self._note(f"{package}'s {name} was not measured: {type(error).__name__}")
                continue
            made[package] = optimizer.step
        return made

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


def _class_of(module: ModuleType, name: str) -> Any:
    """The library's class of this name, in any case; none where it is torch's own."""
    found = next((key for key in dir(module) if key.lower() == name.lower()), None)
    cls = getattr(module, found) if found else None
    return cls if inspect.isclass(cls) and not cls.__module__.startswith("torch.") else None


def clipped_and_averaged(name: str, shapes: Shapes) -> dict[str, Step]:
    """A step with the gradients clipped by their norm and the weights averaged: ours in one call, torch's in three."""
    ours = getattr(optim, name)(parameters(shapes), clip_norm=CLIP, ema_decay=DECAY)
    made: dict[str, Step] = {OURS: ours.step}
    for implementation, flags in IMPLEMENTATIONS.items():
        if implementation == "fused" and not is_fused_in_torch(name):
            continue
        made[implementation] = _torch_clipped_and_averaged(_twin(name), shapes, flags)
    return made


def _torch_clipped_and_averaged(twin: Any, shapes: Shapes, flags: Mapping[str, bool]) -> Step:
    params = parameters(shapes)
    model = nn.Module()
    model.weights = nn.ParameterList(params)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY))  # type: ignore[no-untyped-call]
    optimizer = twin(params, **flags)

    def step() -> None:
        nn.utils.clip_grad_norm_(params, CLIP)
        optimizer.step()
        averaged.update_parameters(model)

    return step


def in_bfloat16(name: str, size: int) -> dict[str, Step]:
    """Our step on one tensor in float32, and in bfloat16 with state of either type; torch's best in bfloat16 beside."""
    cls: Any = getattr(optim, name)

    def one(dtype: torch.dtype) -> list[Tensor]:
        return list(parameters([(size,)], dtype))

    made: dict[str, Step] = {
        "float32": cls(one(torch.float32)).step,
        "bfloat16, float32 state": cls(one(torch.bfloat16), state_dtype=torch.float32).step,
        "bfloat16, bfloat16 state": cls(one(torch.bfloat16)).step,
        "bfloat16, bfloat16 state, stochastic rounding": cls(one(torch.bfloat16), stochastic_rounding=True).step,
    }
    twin: Any = _twin(name)
    implementation = "fused" if is_fused_in_torch(name) else "foreach"
    made[f"torch {implementation}, bfloat16"] = twin(one(torch.bfloat16), **IMPLEMENTATIONS[implementation]).step
    return made
