"""Compiling C++ and keeping the result: what can go wrong with compilers, disks, other users and other processes."""

import ctypes
import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections import namedtuple
from pathlib import Path

import pytest

from descend.backends import compiler, kernel_cache

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("g++"), reason="needs Linux and the compiler g++"
)

EXPORTED = 'extern "C" __attribute__((visibility("default")))'


def source(number=42):
    return f"// number: always {number}\n{EXPORTED} int number() {{ return {number}; }}\n"


LOAD = f"from descend.backends import compiler\nassert compiler.load({source()!r}).number() == 42\n"


class Machine:
    """A user's cache directory, directory for temporary files, and compiler that counts its runs."""

    def __init__(self, root, monkeypatch):
        self.root, self.monkeypatch = root, monkeypatch
        self.cache, self.temporary, self.log = root / "cache", root / "tmp", root / "compilations"
        for folder in (self.cache, self.temporary):
            folder.mkdir(mode=0o700)
        monkeypatch.setenv("XDG_CACHE_HOME", str(self.cache))
        monkeypatch.setattr(tempfile, "tempdir", str(self.temporary))
        monkeypatch.setenv("TMPDIR", str(self.temporary))
        self.use_compiler('exec g++ "$@"')
        self.new_process()

    def use_compiler(self, script):
        path = self.root / "compiler"
        path.write_text(f"#!/bin/sh\necho >> '{self.log}'\n{script}\n")
        path.chmod(0o755)
        self.monkeypatch.setenv("CXX", str(path))
        return path

    def new_process(self):
        """Forget what a process remembers."""
        for name in ("_libraries", "_refused", "_broken"):
            self.monkeypatch.setattr(compiler, name, {})
        self.monkeypatch.setattr(kernel_cache, "_warned", False)

    def load(self, number=42):
        """Load as a new process does."""
        self.new_process()
        assert compiler.load(source(number)).number() == number

    def load_without_keeping(self, reason, number=42):
        """Load as a new process that warns, once, that nothing can be kept."""
        with pytest.warns(UserWarning, match=f"^kernels are compiled anew in every process, as {reason}") as caught:
            self.load(number)
        assert len(caught) == 1
        assert caught[0].filename == __file__

    @property
    def compilations(self):
        return self.log.read_text().count("\n") if self.log.exists() else 0

    @property
    def kernels(self):
        return self.cache / "descend" / "kernels"

    def file(self):
        (path,) = self.kernels.glob("*.so")
        return path

    def leftovers(self):
        """Everything but finished kernels."""
        found = [*self.kernels.glob("*"), *self.kernels.glob(".*")] if self.kernels.is_dir() else []
        return [*self.temporary.iterdir(), *(path for path in found if path.suffix != ".so" and path.name != ".lock")]


@pytest.fixture
def machine(tmp_path, monkeypatch):
    return Machine(tmp_path, monkeypatch)


def test_a_kernel_is_compiled_once_per_machine(machine):
    assert compiler.unavailable() is None
    library = compiler.load(source())
    assert library.number() == 42
    assert compiler.load(source()) is library
    machine.load()
    assert machine.compilations == 1
    machine.load(43)
    assert machine.compilations == 2
    assert machine.leftovers() == []


def test_nobody_else_may_write_what_is_kept(machine):
    before = os.umask(0)
    try:
        machine.load()
    finally:
        os.umask(before)
    for path in (machine.file(), machine.kernels, machine.kernels.parent, machine.kernels / ".lock"):
        assert not path.stat().st_mode & 0o077


@pytest.mark.parametrize("what", ["source", "compiler", "arguments", "flags", "processor", "format"])
def test_a_kernel_made_otherwise_is_another_one(machine, monkeypatch, what):
    machine.load()
    if what == "compiler":
        os.utime(machine.root / "compiler", (1, 1))
    elif what == "arguments":
        monkeypatch.setenv("CXX", f"{machine.root / 'compiler'} -DOTHER")
    elif what == "flags":
        monkeypatch.setattr(compiler, "FLAGS", (*compiler.FLAGS, "-O2"))
    elif what == "processor":
        monkeypatch.setattr(compiler, "_processor", lambda: "another")
    elif what == "format":
        monkeypatch.setattr(kernel_cache, "FORMAT", kernel_cache.FORMAT + 1)
    machine.load(43 if what == "source" else 42)
    assert machine.compilations == 2
    assert len(list(machine.kernels.glob("*.so"))) == 2


def test_the_processor_is_told_by_its_model_and_what_it_can_do():
    told = compiler._processor()
    assert os.uname().machine in told
    for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines():
        if line.startswith(("flags", "Features", "model name", "CPU part")):
            assert line in told
        assert not line.startswith(("cpu MHz", "processor", "apicid")) or line not in told


def test_arithmetic_is_ieee(machine):
    """No -ffast-math: NaN compares as NaN, sums keep their order, subnormals stay, also in the process at large."""
    text = f"""// arithmetic
    {EXPORTED} int is_nan(double x) {{ return x != x; }}
    {EXPORTED} double rest(double x, double y) {{ return (x + y) - x; }}
    {EXPORTED} double half(double x) {{ return x * 0.5; }}
    """
    library = compiler.load(text)
    library.is_nan.argtypes = library.half.argtypes = [ctypes.c_double]
    library.rest.argtypes = [ctypes.c_double] * 2
    library.rest.restype = library.half.restype = ctypes.c_double
    assert library.is_nan(float("nan"))
    assert library.rest(1e16, 1.0) == 0
    assert library.half(1e-323) == 5e-324
    assert float("1e-323") * 0.5 == 5e-324


def test_only_c_s_own_libraries_are_needed(machine):
    machine.load()
    content = machine.file().read_bytes()
    assert not any(name in content for name in (b"libstdc++", b"libgomp", b"libgcc"))


def test_importing_and_loading_need_no_torch(machine):
    subprocess.run([sys.executable, "-c", LOAD + "import sys; assert 'torch' not in sys.modules"], check=True)
    assert machine.compilations == 1


# --- other processes and threads ---


def test_ten_processes_at_once_compile_once(machine):
    machine.use_compiler('sleep 0.3; exec g++ "$@"')
    started = [
        subprocess.Popen([sys.executable, "-c", "input()\n" + LOAD], stdin=subprocess.PIPE, text=True)
        for _ in range(10)
    ]
    for process in started:
        process.stdin.write("\n")
        process.stdin.close()
    assert [process.wait() for process in started] == [0] * 10
    assert machine.compilations == 1
    assert machine.leftovers() == []


def test_threads_compile_once(machine):
    found = []
    threads = [threading.Thread(target=lambda: found.append(compiler.load(source()))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(map(id, found))) == 1
    assert machine.compilations == 1


HOLD = """
import sys, time
from descend.backends import kernel_cache
with kernel_cache.turn(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


class Clock:
    """The time module, with another way to sleep: for the cache alone, as others sleep too."""

    def __init__(self, sleep):
        self.sleep = sleep

    def __getattr__(self, name):
        return getattr(time, name)


@pytest.fixture
def holder(machine, monkeypatch):
    """A process that compiles the same kernel, and does not come to an end."""
    monkeypatch.setattr(compiler, "_key", lambda *_: "0" * 64)
    with subprocess.Popen([sys.executable, "-c", HOLD, "0" * 64], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_killed_process_holds_nobody_up(machine, holder, monkeypatch):
    waits = []

    def sleep(_):
        waits.append(True)
        holder.kill()
        holder.wait()

    monkeypatch.setattr(kernel_cache, "time", Clock(sleep))
    machine.load()
    assert waits == [True]
    assert machine.compilations == 1


def test_a_process_that_hangs_is_not_waited_for_forever(machine, holder, monkeypatch):
    monkeypatch.setattr(kernel_cache, "_PATIENCE", 0.05)
    machine.load()
    assert holder.poll() is None
    assert machine.compilations == 1


def test_other_kernels_are_not_waited_for(machine, holder, monkeypatch):
    monkeypatch.setattr(compiler, "_key", lambda *_: "1" * 64)
    monkeypatch.setattr(kernel_cache, "time", Clock(lambda _: pytest.fail("it waits")))
    machine.load()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks(machine, monkeypatch, code):
    def lockf(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(kernel_cache.fcntl, "lockf", lockf)
    machine.load()
    machine.load()
    assert machine.compilations == 1


def test_a_child_forked_during_a_compilation(machine):
    forked = """
import os
compiler._one_at_a_time.acquire()  # as another thread
child = os.fork()
if child:
    _, status = os.waitpid(child, 0)
    os._exit(os.waitstatus_to_exitcode(status))
assert compiler.load(SOURCE).number() == 43
os._exit(0)
"""
    code = LOAD + forked.replace("SOURCE", repr(source(43)))
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def is_running(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_ctrl_c_ends_the_compiler_and_leaves_nothing(machine):
    """What the compiler has started, in its turn, ends too."""
    note = machine.root / "note"
    machine.use_compiler(
        f"touch \"$TMPDIR/half\"; sleep 600 & echo $$ $! > '{note}.new'; mv '{note}.new' '{note}'; wait"
    )
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # not so in the background
    process = subprocess.Popen([sys.executable, "-c", heeding + LOAD], stderr=subprocess.PIPE, text=True)
    while not note.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=60)[1]
    started = [int(word) for word in note.read_text().split()]
    for _ in range(1000):  # what is killed takes a moment to go
        time.sleep(0.01 * any(map(is_running, started)))
    running = list(filter(is_running, started))
    for process_id in running:
        os.kill(process_id, signal.SIGKILL)
    assert not running
    assert machine.leftovers() == []
    assert kernel_cache.entries() == []


def test_a_compiler_that_hangs_is_ended(machine, monkeypatch):
    machine.use_compiler("sleep 60")
    monkeypatch.setattr(compiler, "_LIMIT", 0.05)
    with pytest.raises(compiler.CompilationError, match=r"was stopped after 0.05 s, in 'number: always 42'"):
        compiler.load(source())
    assert machine.leftovers() == []


def test_what_killed_processes_left_is_removed_when_it_is_old(machine):
    machine.load()
    left = []
    for folder in (machine.kernels, machine.temporary):
        for age in ("ancient", "young"):
            inside = folder / f"{kernel_cache.TEMPORARY}{age}-folder"
            inside.mkdir()
            (inside / "kernel.so").touch()
            file = folder / f"{kernel_cache.TEMPORARY}{age}-file"
            file.touch()
            left += [inside, file]
    for path in left:
        if "ancient" in path.name:
            os.utime(path, (time.time() - 7200,) * 2)
    other = machine.temporary / "others-old"
    other.touch()
    os.utime(other, (1, 1))
    machine.load(43)
    assert {path for path in left if path.exists()} == {path for path in left if "young" in path.name}
    assert other.exists()


# --- disks ---


def replace(path, content):
    """Write a new file: the old one may be loaded."""
    path.unlink()
    path.write_bytes(content)
    path.chmod(0o600)


def damaged(how, content):
    if how == "flipped":
        return content[:1000] + bytes([content[1000] ^ 1]) + content[1001:]
    return {"empty": b"", "short": content[:20], "cut": content[:-1], "long": content + b"\0", "other": b"x" * 5000}[
        how
    ]


@pytest.mark.parametrize("how", ["empty", "short", "cut", "long", "flipped", "other"])
def test_a_damaged_file_is_replaced_and_never_loaded(machine, monkeypatch, how):
    machine.load()
    path = machine.file()
    content = path.read_bytes()
    replace(path, damaged(how, content))
    assert [entry.title for entry in kernel_cache.entries()] == ["damaged"]
    machine.load()
    assert machine.compilations == 2
    assert machine.file() == path
    assert [entry.title for entry in kernel_cache.entries()] == ["number: always 42"]
    machine.load()
    assert machine.compilations == 2


def test_another_kernel_under_this_name_is_not_loaded(machine):
    machine.load(43)
    other = machine.file().read_bytes()
    kernel_cache.clear()
    machine.load(42)
    replace(machine.file(), other)
    machine.load(42)
    assert machine.compilations == 3


@pytest.mark.parametrize("place", ["file", "file/deeper", "/proc/nowhere", "/sys/nowhere"])
def test_a_cache_directory_that_cannot_be_made(machine, monkeypatch, place):
    (machine.root / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(machine.root / place))
    where = f"{machine.root / place}/descend/kernels cannot be written \\(.*\\); set XDG_CACHE_HOME to a directory"
    machine.load_without_keeping(where)
    assert compiler.load(source(43)).number() == 43  # without another warning
    assert machine.compilations == 2
    assert machine.leftovers() == []
    assert kernel_cache.entries() == []
    assert kernel_cache.clear() == 0


def test_a_user_without_a_home_directory(machine, monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    with pytest.raises(OSError, match="set XDG_CACHE_HOME"):
        kernel_cache.directory()
    machine.load_without_keeping("there is no home directory to cache kernels in; set XDG_CACHE_HOME to a directory")
    assert kernel_cache.entries() == []
    assert machine.leftovers() == []


def test_the_cache_is_in_the_home_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert kernel_cache.directory() == tmp_path / ".cache" / "descend" / "kernels"


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_cache_directory_that_takes_no_file(machine, monkeypatch, code):
    original = tempfile.mkstemp

    def mkstemp(*args, dir=None, **options):
        if dir == machine.kernels:
            raise OSError(code, os.strerror(code))
        return original(*args, dir=dir, **options)

    monkeypatch.setattr(tempfile, "mkstemp", mkstemp)
    machine.load_without_keeping(f"{machine.kernels} cannot be written \\({os.strerror(code)}\\); set XDG_CACHE_HOME")
    assert list(machine.kernels.glob("*.so")) == []
    assert machine.leftovers() == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(machine, monkeypatch):
    def open_on_full_disk(file, mode):
        if mode == "wb":
            os.write(file, b"a part")
            os.dup2(os.open("/dev/full", os.O_WRONLY), file)
        return open(file, mode)

    monkeypatch.setattr(kernel_cache, "open", open_on_full_disk, raising=False)
    machine.load_without_keeping(f"{machine.kernels} cannot be written \\(No space left on device\\)")
    assert list(machine.kernels.glob("*.so")) == []
    assert machine.leftovers() == []
    monkeypatch.delattr(kernel_cache, "open")
    machine.load()
    machine.load()
    assert machine.compilations == 2


Room = namedtuple("Room", "f_blocks f_bavail f_frsize")


def test_no_room_for_temporary_files(machine, monkeypatch):
    monkeypatch.setattr(os, "statvfs", lambda place: Room(1, 0 if place == str(machine.temporary) else 2**20, 2**10))
    made = []
    original = tempfile.mkdtemp
    monkeypatch.setattr(tempfile, "mkdtemp", lambda **options: made.append(original(**options)) or made[-1])
    machine.load()
    assert [os.path.dirname(path) for path in made] == ["/dev/shm"]
    assert not os.path.exists(made[0])
    monkeypatch.setattr(os, "statvfs", lambda place: Room(1, 0, 2**10))
    with pytest.raises(compiler.CompilationError, match=r"no directory to compile in .* set TMPDIR"):
        compiler.load(source(43))


def test_a_directory_for_temporary_files_that_others_write_to_is_not_used(machine, monkeypatch):
    machine.temporary.chmod(0o777)
    monkeypatch.setattr(compiler, "_temporary_directories", lambda: [str(machine.temporary)])
    with pytest.raises(compiler.CompilationError, match="no directory to compile in"):
        compiler.load(source())
    machine.temporary.chmod(0o1777)
    machine.load()
    assert machine.leftovers() == []


def test_disks_from_which_nothing_may_be_loaded(machine, monkeypatch):
    original = ctypes.CDLL

    def load_library(path):
        if not path.startswith("/proc/self/fd/"):
            raise OSError(f"{path}: failed to map segment from shared object")
        return original(path)

    monkeypatch.setattr(ctypes, "CDLL", load_library)
    first, second = compiler.load(source(1)), compiler.load(source(2))
    assert (first.number(), second.number()) == (1, 2)
    assert kernel_cache.entries() == []
    monkeypatch.setattr(ctypes, "CDLL", lambda path: original("/nowhere"))
    with pytest.raises(compiler.CompilationError, match=r"cannot be loaded \(/nowhere: cannot open"):
        compiler.load(source(3))


# --- other users ---


def opened_up(machine, how):
    """Give another user a way to change what is loaded; return the path that the warning names."""
    if how in ("writable", "group"):
        machine.kernels.chmod(0o777 if how == "writable" else 0o770)
        return machine.kernels
    if how == "above":
        machine.cache.chmod(0o777)
        return machine.cache
    if how == "sticky":
        machine.kernels.chmod(0o1777)
        return machine.kernels
    if how == "link":
        machine.kernels.rename(machine.root / "elsewhere")
        machine.kernels.symlink_to(machine.root / "elsewhere")
        (machine.root / "elsewhere").chmod(0o777)
        return machine.root / "elsewhere"
    place = machine.kernels if how == "owner" else machine.cache
    os.chown(place, 12345, 12345)
    return place


OPEN = ["writable", "group", "above", "sticky", "link", "owner", "owner above"]


@pytest.mark.parametrize("how", OPEN)
def test_a_directory_that_others_can_write_to_is_not_used(machine, how):
    if how.startswith("owner") and os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    machine.load()
    place = opened_up(machine, how)
    with pytest.warns(UserWarning, match="compiled anew in every process, as .*XDG_CACHE_HOME") as caught:
        machine.load()
    assert str(place) in str(caught[0].message)
    assert len(caught) == 1
    assert machine.compilations == 2
    assert compiler.load(source(43)).number() == 43  # without another warning
    assert len(list(machine.kernels.glob("*.so"))) == 1
    assert machine.leftovers() == []


def test_the_remedy_that_is_named_helps(machine):
    machine.load()
    machine.kernels.chmod(0o777)
    with pytest.warns(UserWarning, match=f"run `chmod go-w {machine.kernels}`"):
        machine.load()
    subprocess.run(["chmod", "go-w", machine.kernels], check=True)
    machine.load()
    assert machine.compilations == 2


def test_nothing_is_made_where_others_can_write(machine):
    machine.cache.chmod(0o777)
    with pytest.warns(UserWarning, match="compiled anew"):
        machine.load()
    assert not list(machine.cache.iterdir())


def test_a_sticky_directory_above_and_links_are_fine(machine, monkeypatch):
    machine.cache.chmod(0o1777)
    (machine.root / "link").symlink_to(machine.cache)
    monkeypatch.setenv("XDG_CACHE_HOME", str(machine.root / "link"))
    machine.load()
    machine.load()
    assert machine.compilations == 1


NEVER_LOADED = {
    "owner": "never loaded, as it belongs to another user",
    "group": "never loaded, as other users may write to it",
    "others": "never loaded, as other users may write to it",
}


@pytest.mark.parametrize("how", ["owner", "group", "others", "link", "folder"])
def test_a_file_that_another_user_could_have_written_is_replaced(machine, how):
    machine.load()
    path = machine.file()
    if how == "owner":
        if os.geteuid() != 0:
            pytest.skip("only root can give a file away")
        os.chown(path, 12345, 12345)
    elif how == "link":
        path.rename(machine.root / "elsewhere.so")
        path.symlink_to(machine.root / "elsewhere.so")
    elif how == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.chmod(0o666 if how == "others" else 0o660)
    if how in NEVER_LOADED:
        assert [entry.title for entry in kernel_cache.entries()] == [NEVER_LOADED[how]]
    if how == "folder":
        machine.load_without_keeping(f"{machine.kernels} cannot be written \\(Is a directory\\)")
    else:
        machine.load()
    assert machine.compilations == 2
    if how != "folder":
        status = path.lstat()
        assert stat.S_ISREG(status.st_mode)
        assert (status.st_uid, status.st_mode & 0o022) == (os.geteuid(), 0)


# --- compilers ---


def test_no_compiler(machine, monkeypatch):
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    reason = compiler.unavailable()
    assert reason == "no C++ compiler was found (g++, c++, clang++); install g++, or set CXX to a compiler"
    with pytest.raises(compiler.CompilationError) as caught:
        compiler.load(source())
    assert str(caught.value) == f"{reason}; meanwhile the eager backend works"


def test_the_first_compiler_on_the_path_is_taken(machine, monkeypatch):
    folder = machine.root / "bin"
    folder.mkdir()
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    (folder / "g++").symlink_to(machine.root / "compiler")
    machine.use_compiler(f'exec {shutil.which("c++")} "$@"')
    monkeypatch.delenv("CXX")
    machine.load()
    assert machine.compilations == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nonsense --fast", "CXX names the compiler nonsense, which was not found; set CXX to another, or unset it"),
        ("g++ 'x", "CXX=g++ 'x cannot be read (No closing quotation); set CXX to a C++ compiler, or unset it"),
    ],
)
def test_a_wrong_cxx(machine, monkeypatch, given, message):
    monkeypatch.setenv("CXX", given)
    assert compiler.unavailable() == message
    with pytest.raises(compiler.CompilationError, match="eager backend"):
        compiler.load(source())


def test_cxx_with_a_launcher(machine, monkeypatch):
    monkeypatch.setenv("CXX", f"env 'A=b c' {machine.root / 'compiler'}")
    assert compiler.unavailable() is None
    machine.load()
    assert machine.compilations == 1
    os.utime(machine.root / "compiler", (1, 1))  # what the launcher starts counts too
    machine.load()
    assert machine.compilations == 2


def test_a_compiler_that_does_not_start(machine, monkeypatch):
    path = machine.root / "program"
    path.write_bytes(b"\0nothing")
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))
    said = f"the compiler {path} does not start (Exec format error); check or unset CXX (now '{path}')"
    for number in (42, 43):
        with pytest.raises(compiler.CompilationError) as caught:
            compiler.load(source(number))
        assert str(caught.value) == f"{said}; meanwhile the eager backend works"
        assert caught.value.summary == said
    machine.use_compiler('exec g++ "$@"')
    assert compiler.load(source()).number() == 42
    assert machine.leftovers() == []


def test_elsewhere_than_on_linux(machine, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert compiler.unavailable() == "kernels are compiled on Linux only, and this is Darwin"
    with pytest.raises(compiler.CompilationError):
        compiler.load(source())


def test_a_source_that_the_compiler_refuses(machine):
    text = "// wrong\n" + "int number( { return 1; }\n" * 30
    for _ in range(2):  # the second time it is not tried
        with pytest.raises(compiler.CompilationError) as caught:
            compiler.load(text)
    lines = str(caught.value).splitlines()
    path = machine.root / "compiler"
    summary = f"the compiler {path} failed with exit status 1, in 'wrong'; check or unset CXX (now '{path}')"
    assert caught.value.summary == summary
    assert lines[0] == f"{summary}; meanwhile the eager backend works"
    assert "<stdin>:2:" in lines[1]
    assert "error" in str(caught.value)
    assert len(lines) <= 12
    assert machine.compilations == 1
    assert machine.leftovers() == []
    machine.load()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 3", "failed with exit status 3; check or unset CXX"),
        ("kill -9 $$", "exit status -9, in 'number: always 42'; check or unset CXX"),
        ("true", "exit status 0; check or unset CXX"),
    ],
)
def test_a_compiler_that_makes_nothing(machine, script, message):
    machine.use_compiler(script)
    with pytest.raises(compiler.CompilationError, match=message):
        compiler.load(source())
    assert machine.leftovers() == []


def test_a_compiler_that_fails_whatever_the_source_is_asked_and_told_of_once(machine, monkeypatch):
    machine.load()
    machine.new_process()
    monkeypatch.setenv("CXX", f"{machine.root / 'compiler'} -bogus")
    said = set()
    for number in (1, 2, 3):
        with pytest.raises(compiler.CompilationError) as caught:
            compiler.load(source(number))
        said.add(str(caught.value))
    (message,) = said
    assert f"exit status 1; check or unset CXX (now '{machine.root / 'compiler'} -bogus')" in message
    assert "-bogus" in message.splitlines()[1]
    assert machine.compilations == 2
    machine.use_compiler('exec g++ "$@"')
    assert compiler.load(source(1)).number() == 1


def test_kept_kernels_are_loaded_whatever_became_of_the_compiler(machine, monkeypatch):
    machine.load(1)
    monkeypatch.setattr(compiler, "_identity", lambda word: None)
    machine.load(2)
    machine.new_process()
    machine.use_compiler("exit 1")
    with pytest.raises(compiler.CompilationError):
        compiler.load(source(3))
    assert compiler.load(source(2)).number() == 2


def test_a_compiler_that_was_found_is_named_in_the_remedy(machine, monkeypatch):
    machine.use_compiler("exit 1").rename(machine.root / "g++")
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", f"{machine.root}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(
        compiler.CompilationError, match=f"; check that {machine.root / 'g'}[+]+ can compile; meanwhile"
    ):
        compiler.load(source())


def test_what_cannot_be_loaded_is_not_kept(machine):
    text = f"// unknown\nextern int nowhere();\n{EXPORTED} int number() {{ return nowhere(); }}\n"
    with pytest.raises(compiler.CompilationError, match=r"cannot be loaded .*undefined symbol"):
        compiler.load(text)
    assert kernel_cache.entries() == []
    assert machine.leftovers() == []


def test_a_kept_file_that_cannot_be_loaded_is_made_anew(machine, monkeypatch):
    """As where a home directory is shared with a machine that has a newer C library."""
    monkeypatch.setattr(compiler, "_key", lambda *_: "0" * 64)
    kernel_cache.store("0" * 64, b"\x7fELF of another kind", "number")
    machine.load()
    machine.load()
    assert machine.compilations == 1


# --- what is kept ---


def test_entries_tell_title_size_and_times_without_loading(machine, monkeypatch):
    started = time.time()
    for number in (1, 2):
        machine.load(number)
    for path in machine.kernels.glob("*.so"):
        os.utime(path, (1e9, 1e9))
    machine.load(1)
    assert machine.compilations == 2
    monkeypatch.setattr(ctypes, "CDLL", None)
    last, other = kernel_cache.entries()
    assert (last.title, other.title) == ("number: always 1", "number: always 2")
    assert last.bytes == (machine.kernels / last.name).stat().st_size
    assert last.created == other.created == other.used == 1e9
    assert started - 1 < last.used < time.time() + 1


def test_a_source_without_a_comment_has_no_title(machine):
    compiler.load(source().partition("\n")[2])
    assert [entry.title for entry in kernel_cache.entries()] == ["untitled"]


def test_what_was_not_loaded_for_long_goes_when_another_kernel_is_stored(machine):
    day = 86400
    for number, days in ((1, 91), (2, 89), (3, 91)):
        machine.load(number)
        newest = max(machine.kernels.glob("*.so"), key=lambda path: path.stat().st_mtime_ns)
        then = time.time() - days * day
        os.utime(newest, (then, then))
    machine.load(3)  # which notes the use
    machine.load(4)
    assert {entry.title for entry in kernel_cache.entries()} == {f"number: always {number}" for number in (2, 3, 4)}


def test_clearing_removes_kernels_only(machine):
    library = compiler.load(source())
    machine.load(43)
    own = machine.kernels / "notes.so"
    own.touch()
    assert kernel_cache.clear() == 2
    assert own.exists()
    assert kernel_cache.entries() == []
    assert library.number() == 42  # still there for those who have it
    machine.load()
    assert machine.compilations == 3
