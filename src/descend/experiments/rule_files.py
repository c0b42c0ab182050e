"""Rules of the user's: a Python file with one `@descend.rule`, wherever an optimizer can be named.

A run keeps the text of such a file and makes the rule of it: in the processes of its trials, and in a study of its
snapshots when the file is gone.
"""

import functools
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from descend import optim, rules
from descend.experiments import search_space
from descend.experiments.errors import UsageError
from descend.rule import Rule
from descend.tasks.neighbours import modules_beside
from descend.tasks.registry import is_file_reference

_MODULE = "descend_rule_file"
_HOLDS = "give the path of a Python file with one @descend.rule, such as `descend show lion --source python` prints"


@dataclass(frozen=True)
class RuleFile:
    """A rule that was found in a file.

    Attributes:
        rule: it.
        source: the text of the file.
    """

    rule: Rule
    source: str


def load(path: str) -> RuleFile:
    """Run a file and return the rule in it.

    Raises:
        UsageError: the file cannot be read or run, does not stand alone, or holds no rule or several.
    """
    source = _read(path)
    if beside := [name for name in modules_beside(Path(path)) if not name.startswith("descend/")]:
        raise UsageError(f"{path} imports {beside[0]} beside it, which a run does not keep; put all into one file")
    try:
        found = _run(source, path)
    except (Exception, SystemExit) as error:
        raise UsageError(f"{path}: running the file failed with {type(error).__name__}: {error}") from error
    if not found:
        raise UsageError(f"{path}: no rule in this file; {_HOLDS}")
    if len(found) > 1:
        names = ", ".join(rule.name for rule in found)
        raise UsageError(f"{path}: {len(found)} rules in this file ({names}); keep @rule on one, give others own files")
    return RuleFile(found[0], source)


def rule(name: str, source: str | None = None) -> Rule:
    """Return a run's rule: one of ours by its name, or the one that a text of the user's makes."""
    return rules.catalog()[name] if source is None else _made(source)


def named(name_or_file: str) -> Rule:
    """Return the rule that a name, a class's name in any case, or a path stands for.

    Args:
        name_or_file: the name, or a path that ends in .py or contains a slash.

    Raises:
        UsageError: there is none; the message names the nearest, where else it is, or what is wrong with the file.
    """
    if is_file_reference(name_or_file):
        return load(name_or_file).rule
    try:
        return optim.by_name(name_or_file).rule
    except ValueError as error:
        raise UsageError(str(error)) from None


def chosen(given: Sequence[str]) -> dict[str, str | None]:
    """Return the rules to compare by name, each with the text of its file; None for one of ours.

    A file's rule goes by the name of its function. It may have the name of one of ours if it is that, as comparisons
    take it.

    Raises:
        UsageError: there is none, one is unknown, or cannot be compared, or two have one name.
    """
    if isinstance(given, str):
        raise UsageError(f"optimizers is the word {given!r}; give a list of names, such as ['adam', 'sgd']")
    if not given:
        raise UsageError("no optimizer named; give one or more, separated by commas, such as adam,sgd")
    found: dict[str, str | None] = {}
    for word in given:
        name, source = _of_file(word) if is_file_reference(word) else (named(word).name, None)
        if name in found and found[name] == source:
            raise UsageError(f"optimizer '{name}' is named twice; name it once")
        if name in found:
            raise UsageError(f"{word}: another file holds a rule '{name}' too; rename the function in one of them")
        found[name] = source
    return found


def check_accepted(optimizer: Rule, values: Mapping[str, float] | None = None) -> None:
    """Refuse what an optimizer of this rule cannot be made with: its defaults, and values of hyper-parameters.

    Raises:
        UsageError: says why.
    """
    shape = search_space.schedule(2)
    arguments: dict[str, Any] = search_space.arguments(optimizer, 1e-3, shape, values)
    try:
        optim.of(optimizer)([torch.zeros(1, 1, requires_grad=True)], **arguments)
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from None


def _of_file(path: str) -> tuple[str, str | None]:
    loaded = load(path)
    try:
        check_accepted(loaded.rule)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    name = loaded.rule.name
    ours = rules.catalog().get(name.lower())
    if ours is None:
        return name, loaded.source
    if _is_as_compared(loaded.rule, ours):
        return ours.name, None
    raise UsageError(f"{path}: '{name}' is the name of one of ours, with another formula; rename the function")


def _is_as_compared(own: Rule, ours: Rule) -> bool:
    """Tell whether a rule is one of ours with the hyper-parameters at which that is compared."""
    fixed = search_space.space(ours).fixed
    mine, theirs = own.formula(), ours.formula(**fixed)
    values = ours.merged(fixed)
    is_same_formula = mine.is_same_as(theirs) and mine.slots == theirs.slots
    return is_same_formula and all(
        name in values and values[name] == value for name, value in own.hyper_parameters.items()
    )


def _read(path: str) -> str:
    try:
        return importlib.util.decode_source(Path(path).read_bytes())
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; {_HOLDS}") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); {_HOLDS}") from None
    except (SyntaxError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error}); {_HOLDS}") from None


@functools.cache
def _made(source: str) -> Rule:
    """The rule of a text that was loaded before; one for each text, as kernels are kept by rule."""
    return _run(source, "<a rule's file>")[0]


def _run(source: str, where: str) -> list[Rule]:
    namespace: dict[str, Any] = {"__name__": _MODULE}
    exec(compile(source, where, "exec", dont_inherit=True), namespace)
    found = [thing for thing in namespace.values() if isinstance(thing, Rule) and thing.__module__ == _MODULE]
    return list(dict.fromkeys(found))
