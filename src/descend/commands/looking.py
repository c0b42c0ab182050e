"""`show`, `list_`, `cache`: what there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from descend.backends.kernel_cache import Entry


@dataclass(frozen=True)
class Cache:
    """The cache of compiled kernels.

    Attributes:
        directory: where it is.
        kernels: what it holds, the last used first.
        removed: how many kernels have just been removed.
    """

    directory: Path
    kernels: Sequence[Entry]
    removed: int = 0


def show(name: str, /, *, source: str | None = None, **hyper_parameters: Any) -> str:
    """Describe an optimizer: formula, LaTeX, state, cost, and the variants of its rule; or give its source code.

    Args:
        name: of the rule or the class, such as "adamw" or "AdamW"; or the path of a Python file with one rule.
        source: the language of the source code, "cpp" (the fused kernel) or "python"; by default the description.
        hyper_parameters: choose the variant, such as momentum=0.9; the others have their defaults.

    Raises:
        UsageError: the name, a hyper-parameter or the language is unknown, or a value is impossible.
    """
    from descend import description

    return description.describe(name, source, hyper_parameters)


def list_(kind: str | None = None) -> dict[str, dict[str, str]]:
    """Name what there is, a line each.

    Args:
        kind: "optimizers", "schedules" or "tasks"; by default all three.

    Returns:
        For each kind the names, each with its line.

    Raises:
        UsageError: there is no such kind.
    """
    from descend import listing

    return listing.listed(kind)


def cache(*, clear: bool = False) -> Cache:
    """List the compiled kernels that are kept on disk, or remove them.

    A kernel is compiled again when it is needed; processes that have loaded it run on. One that was not loaded for
    90 days is removed when another one is stored.

    Args:
        clear: remove them all.

    Raises:
        RunError: there is no home directory, or a file cannot be removed.
    """
    from descend.backends import kernel_cache
    from descend.experiments.errors import RunError

    try:
        removed = kernel_cache.clear() if clear else 0
        return Cache(kernel_cache.directory(), kernel_cache.entries(), removed)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise RunError(f"{where}{error.strerror}") from error
