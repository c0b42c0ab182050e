"""Checking the arguments of schedules, and printing the calls that make them."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields
from numbers import Real
from typing import Any


def call(instance: Any) -> str:
    """Return the call that makes a dataclass's instance: names only where there is a default, defaults left out."""
    arguments = []
    for index, argument in enumerate(fields(instance)):
        value = getattr(instance, argument.name)
        if argument.default is not MISSING and value == argument.default:
            continue
        # A function reads back by its name.
        text = getattr(value, "__qualname__", None) or repr(value)
        positional = index == 0 or argument.default is MISSING
        arguments.append(text if positional else f"{argument.name}={text}")
    return f"{type(instance).__name__}({', '.join(arguments)})"


def convert(schedule: object, **converters: Callable[[str, object], object]) -> None:
    """Check the named arguments of a frozen schedule and store them in their canonical type."""
    for name, converter in converters.items():
        value = converter(f"{type(schedule).__name__}: {name}", getattr(schedule, name))
        object.__setattr__(schedule, name, value)


def finite(where: str, value: object) -> float:
    """Return a finite number as a float."""
    return float(_number(f"{where} must be a finite number", value))


def positive(where: str, value: object) -> float:
    """Return a finite number above 0 as a float."""
    wanted = f"{where} must be a finite number above 0"
    if _number(wanted, value) <= 0:
        raise ValueError(f"{wanted}; got {value!r}")
    return finite(where, value)


def at_least_0(where: str, value: object) -> float:
    """Return a finite number from 0 up as a float."""
    wanted = f"{where} must be a finite number from 0 up"
    if _number(wanted, value) < 0:
        raise ValueError(f"{wanted}; got {value!r}")
    return finite(where, value)


def share(where: str, value: object) -> float:
    """Return a number between 0 and 1, both excluded, as a float."""
    wanted = f"{where} must be a number between 0 and 1"
    if not 0 < _number(wanted, value) < 1:
        raise ValueError(f"{wanted}; got {value!r}")
    return finite(where, value)


def below_1(where: str, value: object) -> float:
    """Return a number from 0 up and below 1 as a float."""
    wanted = f"{where} must be a number from 0 up and below 1"
    if not 0 <= _number(wanted, value) < 1:
        raise ValueError(f"{wanted}; got {value!r}")
    return finite(where, value)


def factor(where: str, value: object) -> float:
    """Return a number above 0 and at most 1 as a float."""
    wanted = f"{where} must be a number above 0, at most 1"
    if not 0 < _number(wanted, value) <= 1:
        raise ValueError(f"{wanted}; got {value!r}")
    return finite(where, value)


def whole(where: str, value: object, least: int = 1) -> int:
    """Return a whole number of at least so much as an int."""
    wanted = f"{where} must be a whole number from {least} up"
    number = _number(wanted, value)
    if number < least or number != int(number):
        raise ValueError(f"{wanted}; got {value!r}")
    return int(number)


def flag(where: str, value: object) -> bool:
    """Return True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{where} must be True or False; got {value!r}")
    return value


def _number(wanted: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{wanted}; got {value!r} ({type(value).__name__})")
    try:
        is_finite = math.isfinite(value)
    except OverflowError:  # a whole number beyond the largest float
        raise ValueError(f"{wanted}; got a number beyond {sys.float_info.max:.2g}") from None
    if not is_finite:
        raise ValueError(f"{wanted}; got {value!r}")
    return value
