"""Whatever is damaged or in the way: an error says what to do, and what was stored stays usable."""

import errno
import json
import os
import re
import resource
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from torch import nn

from descend.snapshots import Members, SnapshotError, SnapshotStore, files
from snapshot_training import content, filled, numbered, steps_of


def truncate(path):
    path.write_bytes(path.read_bytes()[:-3])


def flip(path):
    held = bytearray(path.read_bytes())
    held[-1] ^= 1
    path.write_bytes(held)


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (truncate, r"it has [0-9]+ bytes, not [0-9]+"),
        (flip, "its SHA-256 is another than the index has"),
        (Path.unlink, "No such file or directory"),
    ],
)
def test_a_damaged_file_can_be_left_out(tmp_path, damage, what):
    store = filled(tmp_path)
    members = store.last()
    damage(tmp_path / store.snapshots()[1].file)
    message = rf"is damaged \({what}\); the other 2 snapshots are usable once it is left out: SnapshotStore\('.*'\)"
    assert list(store.damaged()) == [2]
    for read in (lambda: store.load(2), lambda: members[1], lambda: store.restore(numbered(0), 2)):
        with pytest.raises(SnapshotError, match=message) as caught:
            read()
    assert members[0]["weight"][0, 0] == 1
    eval(str(caught.value).split("left out: ")[1])  # the remedy, as it is printed
    assert [state["weight"][0, 0].item() for state in store.last()] == [1, 3]
    assert store.damaged() == {}
    with pytest.raises(SnapshotError, match="holds no snapshot of step 2; it holds 1, 3"):
        store.load(2)


def test_what_the_budget_has_removed_is_not_called_damaged(tmp_path):
    store = filled(tmp_path, keep=2)
    members = store.last(2)
    assert isinstance(members[1:], Members)
    store.add(numbered(4), step=4)
    with pytest.raises(SnapshotError, match="has been removed or replaced since it was asked for; ask"):
        members[0]
    assert members[1]["weight"][0, 0] == 3


BROKEN = ["", "{", "[]", "{}", '{"format": 1}', '{"format": 1, "snapshots": [{"step": 1}]}', "\0"]


@pytest.mark.parametrize("text", BROKEN)
def test_a_damaged_index_is_made_anew_once_it_is_removed(tmp_path, text):
    store = filled(tmp_path)
    before = store.snapshots()
    (tmp_path / "index.json").write_text(text)
    model, held = numbered(9), content(tmp_path)
    for call in (lambda: SnapshotStore(tmp_path), store.snapshots, lambda: store.add(model, step=9)):
        with pytest.raises(SnapshotError, match=r"index.json cannot be read .*; remove it, and it is made anew"):
            call()
    assert content(tmp_path) == held
    (tmp_path / "index.json").unlink()
    assert SnapshotStore(tmp_path).snapshots() == before
    store.add(model, step=9)
    assert json.loads((tmp_path / "index.json").read_text())["snapshots"][0]["step"] == 1
    assert steps_of(store) == [1, 2, 3, 9]


def test_an_index_of_a_newer_format_is_left_alone(tmp_path):
    store = filled(tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps({**index, "format": 2}))
    before = content(tmp_path)
    with pytest.raises(SnapshotError, match="has format 2, and this version of descend reads 1; take the version that"):
        store.add(numbered(4), step=4)
    assert content(tmp_path) == before


def test_a_lost_index_leaves_out_what_cannot_be_read(tmp_path):
    store = filled(tmp_path)
    truncate(tmp_path / store.snapshots()[0].file)
    (tmp_path / "snapshot-00000009-12345678.safetensors").write_bytes(b"nothing")
    (tmp_path / "index.json").unlink()
    assert steps_of(store) == [2, 3]


def test_what_a_kill_has_left_goes(tmp_path):
    store = filled(tmp_path)
    for name in (".snapshot-00000004-12345678.safetensors.new", ".index.json.new"):
        (tmp_path / name).write_bytes(b"unfinished")
    (tmp_path / "snapshot-00000004-12345678.safetensors").write_bytes(b"not yet in the index")
    (tmp_path / "notes.txt").write_text("mine")
    assert steps_of(store) == [1, 2, 3]
    store.add(numbered(5), step=5)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {".lock", "index.json", "notes.txt", *(one.file for one in store)}
    store.clear()
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "notes.txt"}
    store.add(nn.Linear(5, 5), step=1)


# ---- disks -----------------------------------------------------------------------------------------------------------


def usable(store, before):
    assert content(store.folder) == before
    assert not list(store.folder.glob(".*.new"))
    assert [state["weight"][0, 0].item() for state in store.last()] == [1, 2, 3]


def test_a_file_that_may_not_grow(tmp_path):
    store = filled(tmp_path)
    before, limits = content(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        message = r"cannot be written \(File too large\); what was stored before is as it was. Make room, or"
        with pytest.raises(SnapshotError, match=message):
            store.add(numbered(4), step=4)  # the snapshot fits, the index does not
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    written = [path for path in content(tmp_path) if path not in before]
    for name in written:  # what is not in the index goes with the next snapshot
        (tmp_path / name).unlink()
    usable(store, before)
    store.add(numbered(4), step=4)
    assert steps_of(store) == [1, 2, 3, 4]


@pytest.mark.parametrize("place", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_fails(tmp_path, monkeypatch, place, code):
    store = filled(tmp_path)
    before = content(tmp_path)

    def fail(*_):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(files.os, place, fail)
        with pytest.raises(SnapshotError, match=re.escape(f"cannot be written ({os.strerror(code)})")):
            store.add(numbered(4), step=4)
    usable(store, before)


@pytest.fixture
def mounted(tmp_path):
    """A file system of 256 KiB, where one may be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=256k", "none", folder]).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_and_a_read_only_disk(mounted):
    store = filled(mounted / "store")
    with suppress(OSError), (mounted / "fill").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    before = content(store.folder)
    with pytest.raises(SnapshotError, match=r"cannot be written \(No space left on device\); what was stored before"):
        store.add(numbered(4), step=4)
    usable(store, before)
    (mounted / "fill").unlink()
    store.add(numbered(4), step=4)
    before = content(store.folder)
    subprocess.run(["mount", "-o", "remount,ro", mounted], check=True)
    for call in (lambda: store.add(numbered(5), step=5), lambda: store.discard(4), store.clear):
        with pytest.raises(SnapshotError, match=r"cannot be written \(Read-only file system\)"):
            call()
    assert content(store.folder) == before
    assert store.last()[0]["weight"][0, 0] == 1


def test_a_folder_that_cannot_be_made_or_locked(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(SnapshotError, match=r"cannot be read \(Not a directory\); take another folder"):
        SnapshotStore(tmp_path / "file" / "store")
    store = SnapshotStore(tmp_path / "new" / "store")
    (tmp_path / "new").write_text("")
    with pytest.raises(SnapshotError, match=r"(Not a directory|File exists)\); take another folder"):
        store.add(numbered(1), step=1)
    store = filled(tmp_path / "store")

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", refuse)
        with pytest.raises(SnapshotError, match=r"cannot be written \(Permission denied\); take another folder"):
            store.add(numbered(4), step=4)
    assert steps_of(store) == [1, 2, 3]
