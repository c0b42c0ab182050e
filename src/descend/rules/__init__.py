"""The optimizers, as formulas: one function each, a file per family.

`descend.rules.adamw` is a rule; `catalog()` finds all of them, so that a new function in one of these files is an
optimizer, a command-line name, a row of every test table and a page of the docs without being listed anywhere.
"""

from __future__ import annotations

import importlib
import pkgutil

from descend.rule import Rule

_catalog: dict[str, Rule] = {}
for _module in pkgutil.iter_modules(__path__):
    for _value in vars(importlib.import_module(f"{__name__}.{_module.name}")).values():
        if isinstance(_value, Rule):
            _catalog[_value.name] = _value
globals().update(_catalog)


def catalog() -> dict[str, Rule]:
    """Every rule that the library ships, by name, in alphabetical order."""
    return dict(sorted(_catalog.items()))


def __getattr__(name: str) -> Rule:  # for type checkers: what is found above is not written down
    raise AttributeError(f"there is no rule {name!r}; descend.rules.catalog() holds {', '.join(catalog())}")
