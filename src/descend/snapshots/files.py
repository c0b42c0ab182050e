"""One snapshot, one file: the tensors of a model in safetensors, and what they are in the file's header."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import torch
from torch import Tensor, nn

from descend.model_states import State, unwrapped

Shapes: TypeAlias = dict[str, list[Any]]
"""Type and shape of each tensor by name: what an architecture is known by."""

_HEADER = "descend"
_SHOWN = 3


class SnapshotError(RuntimeError):
    """A snapshot or its store cannot be written, read or used; the message says what to do."""


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a model as they are now, by the names that its class knows.

    Raises:
        SnapshotError: the model keeps something in its state that is no plain tensor, or of a type that safetensors
            does not know.
    """
    model = unwrapped(model)
    state = model.state_dict()
    for name, value in state.items():
        if (what := _unfit(value)) is not None:
            raise SnapshotError(
                f"'{name}' of {type(model).__name__} is {what}, which a snapshot cannot hold; plain tensors can be "
                "kept: gather what is sharded, convert what is of another type"
            )
    return dict(state)


def shapes_of(state: State) -> Shapes:
    """Return type and shape of each tensor of a state."""
    return {name: [str(value.dtype).removeprefix("torch."), list(value.shape)] for name, value in state.items()}


def check_architecture(there: Mapping[str, Any], here: Mapping[str, Any], where: str, whose: str) -> None:
    """Refuse tensors of other names, shapes or types than a model has.

    Raises:
        SnapshotError: names the first of them.
    """
    lacking = [f"'{name}'" for name in here if name not in there]
    further = [f"'{name}'" for name in there if name not in here]
    other = [
        f"'{name}' is {_shown(shape)} there and {_shown(here[name])} in {whose}"
        for name, shape in there.items()
        if name in here and list(here[name]) != list(shape)
    ]
    found = [
        *([f"it has no {_listed(lacking)}"] if lacking else []),
        *([f"it has {_listed(further)}, which {whose} has not"] if further else []),
        *([_listed(other)] if other else []),
    ]
    if found:
        raise SnapshotError(
            f"{where} is of another architecture than {whose}: {'; '.join(found)}. Build the model as it was, or take "
            "another folder"
        )


def load_into(model: nn.Module, state: State, where: str) -> None:
    """Put a state into a model.

    Raises:
        SnapshotError: the model has other tensors; it is left as it was.
    """
    bare = unwrapped(model)
    check_architecture(shapes_of(state), shapes_of(state_of(bare)), where, type(bare).__name__)
    bare.load_state_dict(dict(state))


def packed(state: State, header: Mapping[str, Any]) -> bytes:
    """Return the content of a snapshot's file.

    Args:
        state: plain tensors by name.
        header: what JSON can hold, kept in the file beside them.
    """
    from safetensors.torch import save

    aliases = _aliases(state)
    memory: set[int] = set()
    held = {name: _alone(value, memory) for name, value in state.items() if name not in aliases}
    metadata = {_HEADER: json.dumps({**header, "aliases": aliases, "order": list(state)}, sort_keys=True)}
    return save(held, metadata)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state in a file, and its header.

    Raises:
        SnapshotError: the file is missing, damaged, or none of ours.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_HEADER])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
            aliases, order = header.pop("aliases"), header.pop("order")
            return {name: tensors[aliases.get(name, name)] for name in order}, header
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise SnapshotError(f"{path} cannot be read as a snapshot ({error})") from error


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(path: Path, write_to: Callable[[BinaryIO], object]) -> None:
    """Write a file in one step: a reader sees the old one or the new one, never a part.

    One process at a time may write it. What a kill left of an unfinished one is overwritten.

    Args:
        path: of the file.
        write_to: is given a file to write to.

    Raises:
        SnapshotError: the disk is full or cannot be written; nothing is left of the new file.
    """
    unfinished = path.with_name(f".{path.name}.new")
    try:
        with unfinished.open("w+b") as file:
            write_to(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except SnapshotError:
        raise
    except (OSError, RuntimeError) as error:  # torch.save raises the latter on a full disk
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise SnapshotError(
            f"{path} cannot be written ({reason}); what was stored before is as it was. Make room, or take another "
            "folder"
        ) from error
    finally:
        with suppress(OSError):  # it is not there, or there is an error already
            unfinished.unlink()


def _aliases(state: State) -> dict[str, str]:
    """Of tensors that are one and the same, as tied weights are, the name of the first for each further name."""
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, value in state.items():
        view = value.dtype, value.shape, value.stride(), value.is_conj(), value.is_neg()
        place = (value.device, value.data_ptr(), *view)
        if value.numel() and seen.setdefault(place, name) != name:
            aliases[name] = seen[place]
    return aliases


def _alone(value: Tensor, memory: set[int]) -> Tensor:
    """A tensor as safetensors takes it: on the CPU, dense, and in memory of its own; adds this to what is taken."""
    value = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
    storage = value.untyped_storage()
    if storage.data_ptr() in memory or storage.nbytes() != value.nbytes:
        return value.clone()
    memory.add(storage.data_ptr())
    return value


def _unfit(value: Any) -> str | None:
    """What it is about a value of a model's state that no file of safetensors can hold."""
    if type(value) not in (Tensor, nn.Parameter):
        return f"a {type(value).__name__}"
    if value.layout is not torch.strided:
        return "sparse"
    if value.is_meta:
        return "on the meta device, without numbers"
    return None if _is_known(value.dtype) else f"of type {str(value.dtype).removeprefix('torch.')}"


@cache
def _is_known(dtype: torch.dtype) -> bool:
    from safetensors.torch import save

    try:
        save({"": torch.empty(0, dtype=dtype)})
    except (KeyError, RuntimeError):
        return False
    return True


def _shown(shape: Any) -> str:
    return f"{shape[0]} {tuple(shape[1])}"


def _listed(names: list[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest
