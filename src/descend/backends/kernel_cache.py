"""Compiled kernels on disk: in the user's cache directory, one file each, named after what it was made from.

A file is the shared object, then a trailer that the loader ignores: the kernel's title, the title's length, and the
SHA-256 of the name and of all that precedes. It is read and verified before it is loaded, so a file that is cut off,
damaged or under a wrong name counts as absent. Only a file that no other user could have written is loaded at all, as
a kernel may do whatever its process may.

A load notes the time in its file, where the disk allows it; a file that was not loaded for 90 days is removed when
another one is stored.

Whatever goes wrong with the disk is no error: `find` returns None, `store` returns None, `turn` does not wait. What
keeps kernels from being kept is said in a warning, once.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from descend.caution import warn

if sys.platform != "win32":
    import fcntl

FORMAT = 1
"""Changes with the layout of a file, and thereby every name."""

TEMPORARY = "descend-new-"
"""How the names of unfinished files and directories begin."""

_DIGEST = hashlib.sha256().digest_size
_LENGTH = 4  # bytes that hold the title's length
_NAME = re.compile(r"[0-9a-f]{64}\.so")
_LOCK = ".lock"
_PATIENCE = 120.0  # seconds to wait for another process; one that was killed holds no lock
_POLL = 0.01  # seconds
_ABANDONED = 3600.0  # seconds after which an unfinished file has no process left that works on it
_UNUSED = 90 * 86400.0  # seconds without a load after which a kernel goes

_warned = False


class UnusableError(OSError):
    """There is no directory for kernels that only its user can write to; `strerror` says why, with the remedy."""


@dataclass(frozen=True)
class Entry:
    """A kernel in the cache.

    Attributes:
        title: the first line of its source; of a file that is never loaded, why.
        name: of its file.
        bytes: the file's size.
        created: when it was compiled, in seconds since 1970.
        used: when it was loaded last, in seconds since 1970.
    """

    title: str
    name: str
    bytes: int
    created: float
    used: float


def directory() -> Path:
    """Where kernels are kept: `kernels` in `$XDG_CACHE_HOME/descend`, or else in `~/.cache/descend`.

    Raises:
        UnusableError: the user has no home directory, and XDG_CACHE_HOME is not set to an absolute path.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):  # the specification has others ignored
        return Path(given, "descend", "kernels")
    try:
        return Path.home() / ".cache" / "descend" / "kernels"
    except RuntimeError:
        raise UnusableError(
            errno.ENOENT, "there is no home directory to cache kernels in; set XDG_CACHE_HOME to a directory"
        ) from None


def find(key: str) -> Path | None:
    """The file of a kernel, verified and noted as used; None if there is none that may be loaded.

    Args:
        key: the kernel's, 64 hexadecimal digits.
    """
    try:
        path = _file(_safe(directory()), key)
        content = _read_own(path)
        if _title(key, content) is None:
            return None
        with suppress(OSError):  # a read-only disk keeps no time of use
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
        return path
    except UnusableError as error:
        _warn_once(str(error.strerror))
    except OSError:  # most often, it is not there
        pass
    return None


def store(key: str, shared_object: bytes, title: str) -> Path | None:
    """Keep a kernel, in the place of any older file; return its file, or None if it cannot be kept.

    Other processes see the whole file or none.

    Args:
        key: the kernel's, 64 hexadecimal digits.
        shared_object: what the compiler made.
        title: what `entries` calls it, one line.
    """
    try:
        folder = _made(directory())
        sweep(folder)
        path = _file(folder, key)
        _write(path, _sealed(key, shared_object, title))
        _remove_unused()
        return path
    except UnusableError as error:
        _warn_once(str(error.strerror))
    except OSError as error:
        _warn_once(f"{directory()} cannot be written ({error.strerror}); set XDG_CACHE_HOME to a directory of your own")
    return None


@contextmanager
def turn(key: str) -> Iterator[None]:
    """Wait while another process is in here with the same key, so that one compiles and the others find its file.

    Where files cannot be locked, or the wait grows long, nobody waits: a kernel is then compiled more than once, and
    the last one stored stays.

    Args:
        key: the kernel's, 64 hexadecimal digits.
    """
    try:
        lock = os.open(_made(directory()) / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:  # what is wrong is said where a file is to be stored
        yield
        return
    try:
        _wait_for(lock, int(key[:15], 16))
        yield
    finally:
        os.close(lock)


def entries() -> list[Entry]:
    """The kernels in the cache, the last used first; none is loaded."""
    found = []
    for path in _files():
        with suppress(OSError):  # removed meanwhile
            status, title = path.stat(), "damaged"
            try:
                title = _title(path.stem, _read_own(path)) or title
            except PermissionError as error:
                title = str(error.strerror)
            except OSError:
                pass
            found.append(Entry(title, path.name, status.st_size, status.st_mtime, status.st_atime))
    return sorted(found, key=lambda entry: entry.used, reverse=True)


def clear() -> int:
    """Remove all kernels from the cache and return how many; processes that have loaded them run on.

    Raises:
        OSError: a file cannot be removed.
    """
    removed = 0
    for path in _files():
        path.unlink(missing_ok=True)
        removed += 1
    with suppress(OSError):
        sweep(directory())
    return removed


def discard(path: Path) -> None:
    """Remove a file that turned out to be of no use here."""
    with suppress(OSError):
        path.unlink()


def exposure(place: Path) -> str | None:
    """Say how another user could change what lies in a directory, and the remedy; None if nobody else could.

    The directory itself must be ours; those above it may be root's. None may be open for writing to group or others,
    except one above with the sticky bit, which keeps others from replacing what is not theirs (as in /tmp).

    Args:
        place: a directory, symbolic links resolved; it and some above it may not exist yet.

    Raises:
        OSError: it cannot be examined.
    """
    user = os.geteuid()
    for folder in (place, *place.parents):
        try:
            status = folder.lstat()
        except FileNotFoundError:
            continue
        if status.st_uid != user and (folder == place or status.st_uid != 0):
            return f"{folder} belongs to another user; set XDG_CACHE_HOME to a directory of your own"
        is_sticky = folder != place and status.st_mode & stat.S_ISVTX
        if _is_open_to_others(status) and not is_sticky:
            return f"other users may write to {folder}; run `chmod go-w {folder}`, or set XDG_CACHE_HOME elsewhere"
    return None


def sweep(folder: Path) -> None:
    """Remove what processes that were killed left unfinished in a directory.

    Raises:
        OSError: the directory cannot be read.
    """
    with os.scandir(folder) as found:
        left = [Path(entry.path) for entry in found if entry.name.startswith(TEMPORARY)]
    for path in left:
        with suppress(OSError):
            status = path.lstat()
            if status.st_uid != os.geteuid() or time.time() - status.st_mtime < _ABANDONED:
                continue
            if stat.S_ISDIR(status.st_mode):
                shutil.rmtree(path)
            else:
                path.unlink()


def _remove_unused() -> None:
    """Remove kernels that were not loaded for long."""
    for path in _files():
        with suppress(OSError):
            if time.time() - path.stat().st_atime > _UNUSED:
                path.unlink()


def _file(folder: Path, key: str) -> Path:
    return folder / f"{key}.so"


def _files() -> list[Path]:
    try:
        return [path for path in directory().iterdir() if _NAME.fullmatch(path.name)]
    except OSError:
        return []


def _safe(folder: Path) -> Path:
    """The directory with symbolic links resolved, if what lies in it is only ours to write."""
    resolved = Path(os.path.realpath(folder))
    reason = exposure(resolved)
    if reason:
        raise UnusableError(errno.EPERM, reason)
    return resolved


def _made(folder: Path) -> Path:
    """The same, made with its parents for this user alone where they do not exist."""
    resolved = _safe(folder)
    for place in reversed((resolved, *resolved.parents)):
        place.mkdir(mode=0o700, exist_ok=True)
    return _safe(resolved)


def _write(path: Path, content: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        os.rename(temporary, path)
    except BaseException:
        discard(Path(temporary))
        raise


def _read_own(path: Path) -> bytes:
    """The content of a regular file that only we can have written."""
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb") as file:
        status = os.fstat(file.fileno())
        reason = "it belongs to another user" if status.st_uid != os.geteuid() else ""
        reason = reason or ("other users may write to it" if _is_open_to_others(status) else "")
        if reason or not stat.S_ISREG(status.st_mode):
            raise PermissionError(errno.EPERM, f"never loaded, as {reason or 'it is no regular file'}", str(path))
        return file.read()


def _is_open_to_others(status: os.stat_result) -> bool:
    return bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def _sealed(key: str, shared_object: bytes, title: str) -> bytes:
    line = title.encode()
    content = shared_object + line + len(line).to_bytes(_LENGTH, "little")
    return content + _digest(key, content)


def _title(key: str, content: bytes) -> str | None:
    """The title in a file's trailer; None if the file is not what was stored under its name."""
    body, digest = content[:-_DIGEST], content[-_DIGEST:]
    if len(body) < _LENGTH or _digest(key, body) != digest:
        return None
    end = len(body) - _LENGTH
    return body[end - int.from_bytes(body[end:], "little") : end].decode()


def _digest(key: str, content: bytes) -> bytes:
    return hashlib.sha256(key.encode() + content).digest()


def _wait_for(lock: int, position: int) -> None:
    """Lock one byte, a key's own, of the lock file: there is one such file, and no two kernels wait for each other."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, position)
            return
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                return  # this file system has no locks
        time.sleep(_POLL)


def _warn_once(reason: str) -> None:
    global _warned
    if not _warned:
        _warned = True
        warn(f"kernels are compiled anew in every process, as {reason}")
