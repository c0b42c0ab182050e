"""What `descend show` says of an optimizer: its formula, state, cost and variants, or its source code."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from descend.formula import Formula
    from descend.rule import Rule, Slot


def describe(name: str, source: str | None, hyper_parameters: Mapping[str, Any]) -> str:
    """See `descend.commands.show`."""
    rule = _rule(name)
    if hyper_parameters:
        _check(rule, hyper_parameters)
    if source is not None:
        return _source(rule, source, hyper_parameters)
    formula = rule.formula(**hyper_parameters)
    slots = [
        f"{slot.key}: {_slot_size(slot)}, "
        + ("unset until the first step" if name in formula.asks_fresh else f"starts at {slot.init}")
        for name, slot in formula.slots.items()
    ]
    if rule.counts_steps:
        slots.append("step: one number per parameter tensor")
    sections = {
        f"{rule.name}  {_words(rule.merged(hyper_parameters))}": inspect.cleandoc(rule.__doc__ or ""),
        "symbols": "; ".join(f"{name}: {symbol}" for name, symbol in rule.symbols(**hyper_parameters).items())
        or "none",
        "formula": rule.text(**hyper_parameters),
        "LaTeX": rule.latex(**hyper_parameters),
        "state": "\n".join(slots) or "none",
        "cost": str(rule.cost(**hyper_parameters)),
        "variants (each changes the formula)": "\n".join(map(_words, _variants(rule, formula))) or "none",
    }
    return "\n\n".join(f"{title}\n{_indented(text)}" for title, text in sections.items())


def _rule(name: str) -> Rule:
    from descend import rules

    known = rules.catalog()
    if name.lower() not in known:
        from descend.experiments.rule_files import named  # needs torch, whose import takes a second

        return named(name)
    return known[name.lower()]


def _source(rule: Rule, language: str, hyper_parameters: Mapping[str, Any]) -> str:
    from descend.experiments.errors import UsageError

    try:
        return rule.source(language, **hyper_parameters).rstrip()
    except ValueError as error:
        raise UsageError(str(error)) from None


def _check(rule: Rule, hyper_parameters: Mapping[str, Any]) -> None:
    """Refuse names that the rule does not have, values of another kind than the defaults, and impossible ones."""
    from descend.experiments.errors import UsageError
    from descend.hyper_parameters import check  # needs torch, as above

    try:
        values = rule.merged(hyper_parameters)
        for name, value in hyper_parameters.items():
            default = rule.hyper_parameters[name]
            if default is not None and _kind(value) != _kind(default):  # None is one of several words
                raise UsageError(f"{name} is {_kind(default)} such as {_literal(default)}, not {_literal(value)}")
        check(rule, values)
        rule.formula(**hyper_parameters)
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from None


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, (tuple, list)) and {_kind(element) for element in value} == {"a number"}:
        return f"{len(value)} numbers"
    return type(value).__name__


def _literal(value: object) -> str:
    """Write a hyper-parameter's value as the command line takes it."""
    if isinstance(value, (tuple, list)):
        return ",".join(map(_literal, value))
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _words(hyper_parameters: Mapping[str, object]) -> str:
    """Write hyper-parameters as the command line takes them."""
    return " ".join(f"{name}={_literal(value)}" for name, value in hyper_parameters.items())


def _variants(rule: Rule, shown: Formula) -> list[dict[str, Any]]:
    """Return the hyper-parameters that choose another formula than the default's, those of the shown one excepted.

    A bool turned over, and a number put from 0 or to 0, count where they change the formula; one that does so only
    together with another (Nesterov's with momentum) is named with it.
    """
    turned = {name: _turned(name, value) for name, value in rule.hyper_parameters.items()}
    choices: dict[str, Any] = {name: value for name, value in turned.items() if value is not None}
    default = rule.formula()
    alone = [name for name, value in choices.items() if not rule.formula(**{name: value}).is_same_as(default)]
    found = [{name: choices[name]} for name in alone]
    for name in (name for name in choices if name not in alone):
        for other in alone:
            pair = {other: choices[other], name: choices[name]}
            if not rule.formula(**pair).is_same_as(rule.formula(**{other: choices[other]})):
                found.append(pair)
    return [choice for choice in found if not rule.formula(**choice).is_same_as(shown)]


def _turned(name: str, value: object) -> object:
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return 0.0 if value else 0.01 if "decay" in name else 0.9
    return None


def _slot_size(slot: Slot) -> str:
    match slot.shape:
        case "like":
            return "the parameter's size"
        case "scalar":
            return "one number per parameter tensor"
        case (_, length):
            return f"the last {length} values, once per optimizer"
    return "one per optimizer"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())
