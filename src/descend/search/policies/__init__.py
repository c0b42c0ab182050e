"""How a search chooses what to try next: one policy per file, found by its `@register`.

A policy is asked for proposals and told what became of them, in the order of asking:

    policy = Evolution(space, seed=0, identify=identify)
    members = policy.ask(16)
    policy.tell(members, [Result(reward, repeat) for reward, repeat in evaluate(members)])

It is a function of its arguments and of what it was told, so a search resumes by asking and telling again: no policy
has a state to save.
"""

import importlib
import pkgutil

from descend.search.policies.base import Policy, Result, catalog, register
from descend.search.policies.controller import Controller
from descend.search.policies.evolution import Evolution
from descend.search.policies.random_search import RandomSearch

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["Controller", "Evolution", "Policy", "RandomSearch", "Result", "catalog", "register"]
