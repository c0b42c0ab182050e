"""Ctrl-C falls between steps: while values are written it is held back, and acts as soon as the step is whole."""

from __future__ import annotations

# _signal is what signal wraps: the conversions to enumerations there would take ten times as long, at every step
import _signal  # type: ignore[import-not-found]
import threading
from collections.abc import Callable
from signal import SIGINT
from types import FrameType, TracebackType
from typing import Any


class HeldBack:
    """A context in which SIGINT waits; what Python does on it, or a handler of the user's, is done at its end.

    Python handles signals in the main thread only, so that elsewhere there is nothing to hold back.
    """

    def __init__(self) -> None:
        self._handler: Callable[[int, FrameType | None], Any] | None = None
        self._received: tuple[int, FrameType | None] | None = None

    def __enter__(self) -> None:
        if threading.get_ident() == threading.main_thread().ident:
            handler = _signal.getsignal(SIGINT)
            if callable(handler):
                _signal.signal(SIGINT, self._note)
                self._handler = handler

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = number, frame

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._handler is not None:
            _signal.signal(SIGINT, self._handler)
            if self._received is not None:
                self._handler(*self._received)
