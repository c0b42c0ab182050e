"""Writes `optim.pyi`, the constructors of the drop-in classes for editors: `python -m descend.stubs`."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Final

from descend.optim import DropIn, classes
from descend.options import Options

PATH: Final = Path(__file__).with_name("optim.pyi")

_OPTION_TYPES: Final = {field.name: str(field.type) for field in fields(Options)}

_HEAD: Final = """\
# Written by `python -m descend.stubs` (`make stubs`) from the rules; a test holds it to them.
from collections.abc import Callable
from inspect import Signature
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from descend.optimizer import Optimizer as Optimizer
from descend.rule import Rule
from descend.schedules import Schedule

_Number = float | Tensor | Schedule

__all__: list[str]
classes: dict[str, type[DropIn]]

def by_name(name: str) -> type[DropIn]: ...
def of(rule: Rule) -> Callable[..., Optimizer]: ...
def make(rule: Rule) -> type[DropIn]: ...
def twin(name: str) -> type[torch.optim.Optimizer] | None: ...

class DropIn(Optimizer):
    rule: ClassVar[Rule]
    __signature__: ClassVar[Signature]
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
"""


def _annotation(name: str, default: object) -> str:
    if name == "params":
        return "ParamsT"
    if name in _OPTION_TYPES:
        return _OPTION_TYPES[name]
    if default is None:
        return "bool | None"
    if isinstance(default, (bool, str)) or name == "step":
        return type(default).__name__
    if isinstance(default, tuple):
        return f"tuple[{', '.join(['_Number'] * len(default))}]"
    return "_Number"


def _literal(value: object) -> str:
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _class(cls: type[DropIn]) -> str:
    lines, keyword_only = [f"class {cls.__name__}(DropIn):", "    def __init__(", "        self,"], False
    for argument in cls.__signature__.parameters.values():
        if argument.kind is argument.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            lines.append("        *,")
        default = "" if argument.default is argument.empty else f" = {_literal(argument.default)}"
        lines.append(f"        {argument.name}: {_annotation(argument.name, argument.default)}{default},")
    return "\n".join([*lines, "    ) -> None: ...\n"])


def text() -> str:
    """The stub file's text."""
    return "\n".join([_HEAD, *(_class(cls) for _, cls in sorted(classes.items()))])


if __name__ == "__main__":
    PATH.write_text(text())
