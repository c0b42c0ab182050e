"""Warnings that point at the line of the user's program from which they came."""

from __future__ import annotations

import sys
import warnings
from types import FrameType
from typing import Final

_INNER: Final = frozenset({"descend", "torch", "contextlib"})  # packages that stand between the user and the warning


def warn(message: str) -> None:
    """Warn at the innermost frame outside of this package, torch and contextlib."""
    level = 1
    frame: FrameType | None = sys._getframe()
    while frame is not None and _package(frame) in _INNER:
        frame = frame.f_back
        level += 1
    warnings.warn(message, stacklevel=level)


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
