"""The OpenMP runtime that torch has loaded, which kernels share: a second one in a process fights over its threads."""

from __future__ import annotations

import ctypes
import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from descend.caution import warn

_RUNTIME: Final = re.compile(r"lib(gomp|omp|iomp5)\b[^/]*\.so[^/]*$")


@dataclass(frozen=True)
class Runtime:
    """Addresses of the functions that start a team of threads."""

    parallel: int
    number: int
    size: int


def mapped() -> list[str]:
    """The files of all OpenMP runtimes in this process."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    files = {line.split(maxsplit=5)[5] for line in lines if line.count("/")}
    return sorted(file for file in files if _RUNTIME.search(file))


@functools.cache
def find() -> Runtime | str:
    """The one runtime of this process, or what is wrong; it is looked for once, so the earlier the better."""
    files = mapped()
    if len(files) != 1:
        return f"{len(files)} OpenMP runtimes are loaded ({', '.join(files) or 'none'})"
    library = ctypes.CDLL(files[0])
    names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
    try:
        return Runtime(*(ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in names))
    except AttributeError:
        return f"the OpenMP runtime {files[0]} lacks {names[0]}"


@functools.cache
def _warn(problem: str) -> None:
    warn(
        f"{problem}, so kernels run on one thread: several would fight over the cores. Import the package that "
        "brings its own after the first step, or call torch.set_num_threads(1) to say that one thread is meant"
    )


def team(threads: int) -> tuple[int, int, int, int]:
    """What a kernel needs to run on so many threads: three functions and their number.

    One thread, with a warning, where there is no runtime or more than one.
    """
    if threads > 1:
        found = find()
        if isinstance(found, Runtime):
            return found.parallel, found.number, found.size, threads
        _warn(found)
    return 0, 0, 0, 1
