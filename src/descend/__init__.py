"""Optimizers for PyTorch, each written once as a formula.

    import descend
    from descend import rule, Slot, ema

    opt = descend.AdamW(model.parameters(), lr=3e-4, weight_decay=0.1)   # in place of torch.optim.AdamW

    @rule
    def momentum_sgd(p, g, m=Slot("momentum_buffer"), *, lr=0.1, momentum=0.9):
        m = momentum * m + g
        return dict(p=p - lr * m, m=m)

    opt = descend.Optimizer(model.parameters(), momentum_sgd, lr=0.1 * descend.schedules.cosine(1000))

The optimizer classes, `Optimizer` and the modules are loaded when first used, so that `import descend` is quick.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

from descend.expr import FormulaError
from descend.rule import Rule, Slot, active, rule
from descend.vocabulary import (
    clip,
    clip_units,
    ema,
    exp,
    fresh,
    global_mean,
    global_norm,
    global_sum,
    highest,
    keep,
    log,
    lowest,
    maximum,
    mean,
    minimum,
    norm,
    normal,
    orthogonalize,
    push,
    sign,
    sqrt,
    tanh,
    where,
)
from descend.vocabulary import sum as sum  # not in __all__: a star import must not hide the built-in

if TYPE_CHECKING:
    from descend import accumulation, averaging, batching, checkpoint, ensembles, generalization, groups, nt_asgd, optim
    from descend import learned as learned
    from descend import plateau as plateau
    from descend import presets as presets
    from descend import rate_scaling as rate_scaling
    from descend import rules as rules
    from descend import schedules as schedules
    from descend import search as search
    from descend import sequences as sequences
    from descend import snapshots as snapshots
    from descend import tasks as tasks
    from descend.commands import compare, diagnose, find_rules, meta_train, show
    from descend.ensembles import Ensemble
    from descend.experiments.handle import trial
    from descend.optim import *  # noqa: F403
    from descend.optimizer import Optimizer
    from descend.rate_range import range_test

__version__ = "0.1.0"

__all__ = [
    "Ensemble",
    "FormulaError",
    "Optimizer",
    "Rule",
    "Slot",
    "accumulation",
    "active",
    "averaging",
    "batching",
    "checkpoint",
    "clip",
    "clip_units",
    "compare",
    "diagnose",
    "ema",
    "ensembles",
    "exp",
    "find_rules",
    "fresh",
    "generalization",
    "global_mean",
    "global_norm",
    "global_sum",
    "groups",
    "highest",
    "keep",
    "learned",
    "log",
    "lowest",
    "maximum",
    "mean",
    "meta_train",
    "minimum",
    "norm",
    "normal",
    "nt_asgd",
    "optim",
    "orthogonalize",
    "plateau",
    "presets",
    "push",
    "range_test",
    "rate_scaling",
    "rule",
    "rules",
    "schedules",
    "search",
    "sequences",
    "show",
    "sign",
    "snapshots",
    "sqrt",
    "tanh",
    "tasks",
    "trial",
    "where",
]


_MODULES = frozenset(module.name for module in pkgutil.iter_modules(__path__))  # noqa: F405
_HOMES = {
    "Ensemble": "descend.ensembles",
    "Optimizer": "descend.optimizer",
    "compare": "descend.commands",
    "diagnose": "descend.commands",
    "find_rules": "descend.commands",
    "meta_train": "descend.commands",
    "range_test": "descend.rate_range",
    "show": "descend.commands",
    "trial": "descend.experiments.handle",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"descend.{name}")
    if name.startswith("_"):
        raise AttributeError(f"module 'descend' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES.get(name, "descend.optim")), name)


def __dir__() -> list[str]:
    from descend import optim

    return sorted({*__all__, *optim.__all__, "__version__"})
