"""What the words of a command line mean; UsageError where one cannot be read."""

from typing import Any

from descend.experiments.errors import UsageError


def grid(text: str) -> dict[str, list[float]]:
    """Read "name=values": a hyper-parameter and the numbers to try."""
    name, equals, values = text.partition("=")
    try:
        if not equals or not name.strip().isidentifier():
            raise ValueError
        return {name.strip(): [float(value) for value in values.split(",") if value.strip()]}
    except ValueError:
        raise UsageError(f"grid is '{text}'; write name=values, such as weight_decay=0,1e-4,1e-3") from None


def names(text: str | None) -> list[str] | None:
    """Read names that commas separate; None stays None."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def counts(text: str) -> list[int]:
    """Read numbers of threads that commas separate."""
    try:
        return [int(word) for word in text.split(",") if word.strip()]
    except ValueError:
        raise UsageError(f"threads is '{text}'; give numbers from 1, such as 1,2") from None


def assignments(words: list[str]) -> dict[str, object]:
    """Read words such as "momentum=0.9": hyper-parameters with their values."""
    return _assignments(words, "hyper-parameter", "momentum=0.9")


def settings(words: list[str] | None) -> dict[str, object] | None:
    """Read words such as "variable_length=true": settings of a task with their values; None stays None."""
    return _assignments(words, "setting", "variable_length=true") if words else None


def _assignments(words: list[str], what: str, example: str) -> dict[str, object]:
    found: dict[str, object] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"'{word}' is no {what}; write name=value, such as {example}")
        if name in found:
            raise UsageError(f"{name} is given twice; give it once")
        found[name] = _value(text)
    return found


def _value(text: str) -> Any:
    """Read a value: true, false, none, a number, numbers separated by commas, or else a word."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    if "," in text:
        return tuple(_value(part) for part in text.split(",") if part)
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
