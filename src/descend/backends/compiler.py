"""C++ source to functions that can be called: `load` compiles it once per machine and keeps the result on disk.

    library = load('''// twice: the double of a number
    extern "C" __attribute__((visibility("default"))) double twice(double x) { return 2 * x; }
    ''')

The first line of a source is a comment, under which `descend cache` lists it. What is loaded needs C's own library and
its mathematics, no C++ library and no OpenMP. Linux only; where nothing can be compiled, `unavailable` says why, and
everything runs on the eager backend.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from descend.backends import kernel_cache

FLAGS = (
    *("-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"),
    *("-std=c++17", "-fPIC", "-shared", "-fno-exceptions", "-fno-rtti", "-fvisibility=hidden", "-fno-plt"),
    *("-nostdlib", "-pipe", "-w"),
)
"""What every kernel is compiled with; never -ffast-math, under which NaN, infinity and the order of sums are lost."""

PROCESSOR = {"x86_64": "-march=native", "aarch64": "-mcpu=native", "ppc64le": "-mcpu=native"}
"""By machine, the flag that asks for all instructions of its processor; without one the common ones are used."""

LIBRARIES = ("-lm", "-lc")

_NAMES = ("g++", "c++", "clang++")
_ROOM = 2**24  # bytes that a compilation may need on disk
_LIMIT = 600.0  # seconds; a compiler that takes longer hangs
_SHOWN = 8  # lines of the compiler's complaints

# what /proc/cpuinfo calls that which tells processors with different instructions apart, on one machine or another
_TELLING = {"vendor_id", "cpu family", "model", "model name", "stepping", "flags", "cpu", "isa", "features"}
_TELLING |= {"Features", "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision"}

_libraries: dict[str, ctypes.CDLL] = {}  # by source
_one_at_a_time = threading.Lock()


class CompilationError(RuntimeError):
    """A kernel could not be compiled or loaded; the message says why.

    Args:
        summary: the reason and the remedy in one line, kept as an attribute.
        said: what the compiler complained of, line by line.
    """

    def __init__(self, summary: str, said: Sequence[str] = ()) -> None:
        self.summary = summary
        super().__init__("\n".join([f"{summary}; meanwhile the eager backend works", *said]))


@dataclass(frozen=True)
class _Failure:
    """A compilation that made nothing: what `CompilationError` takes, and whether any other source would fail too."""

    summary: str
    said: tuple[str, ...] = ()
    is_general: bool = False


_refused: dict[str, _Failure] = {}  # by key
_broken: dict[tuple[str, ...], _Failure] = {}  # by the compiler's words: what fails whatever the source


def unavailable() -> str | None:
    """Why no kernel can be compiled here, with the remedy; None if kernels can."""
    try:
        _command()
    except LookupError as error:
        return str(error)
    return None


def version() -> str | None:
    """What the compiler calls itself, such as "g++ (GCC) 14.2.0"; None if there is none."""
    try:
        said = subprocess.run([*_command(), "--version"], capture_output=True, text=True, check=True).stdout
    except (LookupError, OSError, subprocess.CalledProcessError):
        return None
    return said.partition("\n")[0].strip() or None


def load(source: str) -> ctypes.CDLL:
    """Return the compiled source: from this process, else from the cache on disk, else from the compiler.

    Args:
        source: C++17, with a comment as its first line; what is to be called is `extern "C"`, with default visibility.

    Raises:
        CompilationError: there is no compiler, it refuses the source, or what it made cannot be loaded.
    """
    library = _libraries.get(source)
    if library is None:
        with _one_at_a_time:
            library = _libraries.get(source) or _find_or_compile(source)
            _libraries[source] = library
    return library


def _find_or_compile(source: str) -> ctypes.CDLL:
    try:
        command = _command()
    except LookupError as error:
        raise CompilationError(str(error)) from None
    words = (*command, *_flags())
    key = _key(words, source)
    library = None if key in _refused else _cached(key)
    if library is None:
        with kernel_cache.turn(key):
            library = _cached(key) or _compile_and_keep(key, words, source)  # another process may have made it
    return library


def _command() -> tuple[str, ...]:
    """The words that start the compiler: those of CXX, as in "ccache g++", or else the first of the usual names.

    Raises:
        LookupError: there is none that can be started; the message gives the remedy.
    """
    if sys.platform != "linux":
        raise LookupError(f"kernels are compiled on Linux only, and this is {platform.system()}")
    given = os.environ.get("CXX", "")
    try:
        words = shlex.split(given)
    except ValueError as error:
        raise LookupError(f"CXX={given} cannot be read ({error}); set CXX to a C++ compiler, or unset it") from None
    place = next(filter(None, map(shutil.which, words[:1] or _NAMES)), None)
    if place is None and words:
        raise LookupError(f"CXX names the compiler {words[0]}, which was not found; set CXX to another, or unset it")
    if place is None:
        raise LookupError(f"no C++ compiler was found ({', '.join(_NAMES)}); install g++, or set CXX to a compiler")
    return place, *words[1:]


def _flags() -> tuple[str, ...]:
    processor = PROCESSOR.get(platform.machine())
    return (*FLAGS, processor) if processor else FLAGS


def _key(words: tuple[str, ...], source: str) -> str:
    """What a kernel is made from, in 64 digits: format, source, compiler, flags and processor."""
    made_from = (kernel_cache.FORMAT, source, words, [_identity(word) for word in words], LIBRARIES, _processor())
    return hashlib.sha256(repr(made_from).encode()).hexdigest()


def _identity(word: str) -> tuple[str, int, int] | None:
    """The file that a word of the command names, if it does: asking a compiler for its version would take too long."""
    place = None if word.startswith("-") else shutil.which(word)
    if place is None:
        return None
    status = os.stat(place)
    return os.path.realpath(place), status.st_size, status.st_mtime_ns


@functools.cache
def _processor() -> str:
    """The machine, and what it says of its first processor: the model and what it can do."""
    said = [platform.machine()]
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if not line.strip():
                break
            if line.partition(":")[0].strip() in _TELLING:
                said.append(line)
    return "".join(said)


def _cached(key: str) -> ctypes.CDLL | None:
    path = kernel_cache.find(key)
    with suppress(OSError):  # removed meanwhile; on a disk that nothing runs from; made for a newer C library
        return ctypes.CDLL(str(path)) if path else None
    return None


def _compile_and_keep(key: str, words: tuple[str, ...], source: str) -> ctypes.CDLL:
    known = _refused.get(key) or _broken.get(words)
    if known:
        raise CompilationError(known.summary, known.said)
    with _workplace() as folder:
        shared_object = folder / "kernel.so"
        failure = _compile(words, source, shared_object)
        if failure:
            if failure.is_general:
                _broken[words] = failure
            else:
                _refused[key] = failure
            raise CompilationError(failure.summary, failure.said)
        content = shared_object.read_bytes()
        kept = kernel_cache.store(key, content, _title(source))
        for path in filter(None, (kept, shared_object)):
            with suppress(OSError):
                return ctypes.CDLL(str(path))  # once loaded, the file may go
        if kept:
            kernel_cache.discard(kept)
        return _load_from_memory(content)


@contextmanager
def _workplace() -> Iterator[Path]:
    """Make a directory of our own with room for a compilation, removed at the end."""
    folder = next(filter(None, map(_own_directory, _temporary_directories())), None)
    if folder is None:
        raise CompilationError("there is no directory to compile in that is writable and has room; set TMPDIR to one")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _temporary_directories() -> Iterator[str]:
    with suppress(OSError):
        yield tempfile.gettempdir()
    yield "/dev/shm"


def _own_directory(parent: str) -> Path | None:
    with suppress(OSError):
        status = os.statvfs(parent)
        if status.f_blocks and status.f_bavail * status.f_frsize < _ROOM:
            return None
        kernel_cache.sweep(Path(parent))
        folder = Path(tempfile.mkdtemp(prefix=kernel_cache.TEMPORARY, dir=os.path.realpath(parent)))
        if kernel_cache.exposure(folder) is None:
            return folder
        folder.rmdir()
    return None


def _compile(words: tuple[str, ...], source: str, shared_object: Path) -> _Failure | None:
    """Compile into a file; return what went wrong if the compiler made none."""
    try:
        process = subprocess.Popen(
            [*words, "-x", "c++", "-", "-o", str(shared_object), *LIBRARIES],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "TMPDIR": str(shared_object.parent), "LC_ALL": "C"},
            process_group=0,  # so that all that it starts can be ended, and Ctrl-C is ours to handle
        )
    except OSError as error:
        return _Failure(f"the compiler {words[0]} does not start ({error.strerror}); {_remedy(words)}", is_general=True)
    with process:
        try:
            said = process.communicate(source.encode(), timeout=_LIMIT)[1]
        except subprocess.TimeoutExpired:
            _end(process)
            return _Failure(
                f"the compiler {words[0]} was stopped after {_LIMIT:g} s, in '{_title(source)}'; {_remedy(words)}"
            )
        except BaseException:
            _end(process)
            raise
    if process.returncode == 0 and shared_object.exists():
        return None
    lines = said.decode(errors="replace").strip().splitlines()
    status = f"the compiler {words[0]} failed with exit status {process.returncode}"
    # without a word about the source it is the compiler that is at fault, unless it was killed, as for want of memory
    is_general = process.returncode >= 0 and not any("<stdin>" in line or "Killed" in line for line in lines)
    where = "" if is_general else f", in '{_title(source)}'"
    return _Failure(f"{status}{where}; {_remedy(words)}", tuple(lines[:_SHOWN]), is_general)


def _remedy(words: tuple[str, ...]) -> str:
    given = os.environ.get("CXX")
    return f"check or unset CXX (now '{given}')" if given else f"check that {words[0]} can compile"


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _title(source: str) -> str:
    first = source.lstrip().partition("\n")[0]
    return first.removeprefix("//").strip() if first.startswith("//") else "untitled"


def _load_from_memory(content: bytes) -> ctypes.CDLL:
    """Load a shared object where there is no directory that programs may be loaded from.

    Raises:
        CompilationError: it cannot be loaded.
    """
    try:
        # never closed: the loader takes a name that it knows for the file that it knows
        with open(os.memfd_create("kernel"), "wb", buffering=0, closefd=False) as file:
            file.write(content)
            return ctypes.CDLL(f"/proc/self/fd/{file.fileno()}")
    except OSError as error:
        raise CompilationError(f"the compiled kernel cannot be loaded ({error})") from error


def _renew_lock() -> None:
    """In a forked child, the thread that holds the lock does not exist."""
    global _one_at_a_time
    _one_at_a_time = threading.Lock()


if sys.platform == "linux":
    os.register_at_fork(after_in_child=_renew_lock)
