"""What goes wrong in a run, in words that Typer leaves as they are."""

from collections.abc import Iterator
from contextlib import contextmanager


class Stopped(Exception):
    """A run was stopped by Ctrl-C, in words that Typer would swallow."""


@contextmanager
def in_words() -> Iterator[None]:
    """Have what a run says of its task, and of Ctrl-C, printed as a line."""
    from descend.experiments.errors import Interrupted, UsageError
    from descend.tasks import TaskError

    try:
        yield
    except TaskError as error:
        raise UsageError("\n".join([str(error), *getattr(error, "__notes__", [])])) from error
    except Interrupted as stop:
        raise Stopped(str(stop)) from None
