"""The store keeps every bit, keeps to its budget, and to one architecture, also when several add at once."""

import copy
import math
import multiprocessing
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from descend.snapshots import SnapshotError, SnapshotStore, files
from snapshot_training import Net, Tied, content, copied, filled, made, numbered, same, same_bits, steps_of


class Odd(nn.Module):
    """Tensors of all kinds, several in one memory."""

    def __init__(self):
        super().__init__()
        base, wave = torch.randn(12), torch.randn(6, dtype=torch.complex64)
        self.w = nn.Parameter(torch.randn(3, 4).bfloat16())
        self.again, self.image = self.w, nn.Parameter(torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last))
        buffers = {
            "transposed": base.view(3, 4).T,
            "slice": base[3:7],
            "overlapping": base[5:9],
            "reshaped": base.view(3, 4),
            "bits": base.view(torch.int32),
            "base": base,
            "spread": torch.ones(1).expand(5),
            "wave": wave,
            "conjugate": wave.conj(),
            "imaginary": wave.conj().imag,
            "short": torch.randn(3).half(),
            "eighth": torch.randn(3).to(torch.float8_e4m3fn),
            "flags": torch.tensor([True, False]),
            "octets": torch.arange(5, dtype=torch.uint8),
            "count": torch.tensor(3),
            "nans": torch.tensor([math.nan, -math.inf, -0.0, 1e-45]),
            "empty": torch.empty(0, 3),
            "none": torch.empty(0),
        }
        for name, value in buffers.items():
            self.register_buffer(name, value)
        self.register_buffer("unsaved", torch.ones(2), persistent=False)


@pytest.mark.parametrize("model", [Odd, Tied, Net, lambda: nn.Sequential(*[nn.Linear(2, 2)] * 3)])
def test_every_bit_survives(tmp_path, model):
    model = made(model)
    held = {name: value.resolve_conj().resolve_neg() for name, value in model.state_dict().items()}
    taken = SnapshotStore(tmp_path).add(model, step=7)
    store = SnapshotStore(tmp_path)
    assert same(store.load(7), held)
    assert store.snapshots() == [taken]
    plain = load_file(tmp_path / taken.file)
    assert plain
    assert all(same_bits(value, held[name]) for name, value in plain.items())
    fresh = copy.deepcopy(model)
    with torch.no_grad():
        for value in {id(one): one for one in fresh.state_dict().values()}.values():
            if value.stride() != (0,):
                value.zero_()
    if "spread" in held:  # torch itself copies into no tensor that is spread over one number
        fresh.spread = fresh.spread.clone()
    store.restore(fresh, 7)
    assert same({name: value.resolve_conj().resolve_neg() for name, value in fresh.state_dict().items()}, held)
    assert sum(path.stat().st_size for path in tmp_path.glob("*.safetensors")) == taken.bytes


def test_the_class_is_all_that_loading_needs(tmp_path):
    model = made()
    SnapshotStore(tmp_path).add(model, step=1)
    fresh = Net()
    assert str(fresh.load_state_dict(SnapshotStore(tmp_path).load(1))) == "<All keys matched successfully>"
    assert same(copied(fresh), copied(model))
    tied = made(Tied)
    SnapshotStore(tmp_path / "tied").add(tied, step=1)
    loaded = SnapshotStore(tmp_path / "tied").load(1)
    assert loaded["words.weight"] is loaded["out.weight"]


def kept_by_hand(entries, keep, best):
    """The steps that a budget of `keep` leaves, by looking for the worst again and again."""
    kept = {}
    for step, metric in entries:
        kept[step] = -math.inf if metric is None or not math.isfinite(metric) else metric * (-1 if best == "min" else 1)
        if len(kept) > keep:
            del kept[min(kept, key=lambda one: (kept[one], one) if best else one)]
    return sorted(kept)


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from([0.0, 1.0, 2.0, -1.0, math.nan, math.inf])), max_size=8),
    st.integers(1, 4),
    st.sampled_from([None, "max", "min"]),
)
def test_the_budget_is_kept(tmp_path_factory, entries, keep, best):
    folder = tmp_path_factory.mktemp("store")
    store = SnapshotStore(folder, keep=keep, best=best)
    for place, (step, metric) in enumerate(entries):
        taken = store.add(numbered(step), step=step, metric=metric)
        assert steps_of(store) == kept_by_hand(entries[: place + 1], keep, best)
        assert (taken is not None) == (step in steps_of(store))
        assert len(list(folder.glob("*.safetensors"))) == len(steps_of(store))
    assert all(store.load(step)["weight"][0, 0] == step for step in steps_of(store))
    shutil.rmtree(folder)


def test_bytes_are_kept_to(tmp_path):
    size = filled(tmp_path / "one", [1]).snapshots()[0].bytes
    store = filled(tmp_path / "two", range(5), max_bytes=2 * size + 50)
    assert steps_of(store) == [3, 4]
    before = content(store.folder)
    with pytest.raises(SnapshotError, match=r"max_bytes is [0-9]+, but one snapshot takes [0-9,]+; allow more"):
        SnapshotStore(tmp_path / "two", max_bytes=size - 1).add(numbered(9), step=9)
    assert content(store.folder) == before
    assert SnapshotStore(tmp_path / "new", max_bytes=size + 9).add(numbered(9), step=9) is not None


class Named(nn.Module):
    def __init__(self, **tensors):
        super().__init__()
        for name, value in tensors.items():
            self.register_buffer(name, value)


A, B = torch.ones(2), torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"a": A}, r"Named\) is of another architecture than Named: it has 'b', which Named has not. Build"),
        ({"a": A, "b": B, "c": A, "d": A}, "it has no 'c', 'd'. Build the model as it was, or take another folder"),
        ({"a": A, "b": B.T}, r"'b' is float32 \(2, 3\) there and float32 \(3, 2\) in Named"),
        ({"a": A.int(), "b": B}, r"'a' is float32 \(2,\) there and int32 \(2,\) in Named"),
    ],
)
def test_another_architecture_is_refused_by_name(tmp_path, other, message):
    store = SnapshotStore(tmp_path)
    store.add(Named(a=A, b=B), step=1)
    model = Named(**{name: value.clone() + 1 for name, value in other.items()})
    before, files_before = copied(model), content(tmp_path)
    for call in (store.check, lambda one: store.add(one, step=2), lambda one: store.restore(one, 1)):
        with pytest.raises(SnapshotError, match=message):
            call(model)
    assert same(copied(model), before)
    assert content(tmp_path) == files_before


def test_the_order_of_names_is_no_architecture(tmp_path):
    store = SnapshotStore(tmp_path)
    store.add(Named(a=A, b=B), step=1)
    store.add(Named(b=B, a=A), step=2)
    assert steps_of(store) == [1, 2]


def add_many(folder, steps):
    for step in steps:
        SnapshotStore(folder).add(numbered(step), step=step)


def test_threads_that_add_at_once_lose_nothing(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda first: add_many(tmp_path, range(first, 40, 4)), range(4)))
    assert [state["weight"][0, 0].item() for state in SnapshotStore(tmp_path).last()] == list(range(40))


@pytest.mark.long
def test_processes_that_add_at_once_lose_nothing(tmp_path):
    start = multiprocessing.get_context("spawn")
    workers = [start.Process(target=add_many, args=(tmp_path, range(first, 60, 3))) for first in range(3)]
    for one in workers:
        one.start()
    for one in workers:
        one.join()
    assert [one.exitcode for one in workers] == [0, 0, 0]
    assert [state["weight"][0, 0].item() for state in SnapshotStore(tmp_path).last()] == list(range(60))


def test_another_architecture_that_comes_meanwhile(tmp_path, monkeypatch):
    store, packed = SnapshotStore(tmp_path), files.packed

    def other_first(*given):
        monkeypatch.setattr(files, "packed", packed)
        SnapshotStore(tmp_path).add(nn.Linear(3, 3), step=1)
        return packed(*given)

    monkeypatch.setattr(files, "packed", other_first)
    with pytest.raises(SnapshotError, match="is of another architecture than Linear"):
        store.add(numbered(2), step=2)
    assert steps_of(store) == [1]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda store: store.add(Net(), step=-1), ValueError, "step is -1; give how many steps have been applied"),
        (lambda store: store.add(Net(), step=True), ValueError, "step is True; give how many"),
        (lambda store: store.add(Net(), step=1.0), ValueError, "step is 1.0; give how many"),
        (lambda store: store.add(Net(), step=1), ValueError, "keeps the best snapshots; give the metric of this one"),
        (lambda store: store.load(1), SnapshotError, "holds no snapshot of step 1; it holds none"),
        (lambda store: store.discard(1), SnapshotError, "holds no snapshot of step 1; it holds none"),
        (lambda store: store.last(), ValueError, "holds no snapshot; train to the end of a cycle first"),
    ],
)
def test_calls_that_make_no_sense(tmp_path, call, error, message):
    store = SnapshotStore(tmp_path / "new", keep=2, best="max")
    with pytest.raises(error, match=message):
        call(store)
    store.clear()
    assert not (tmp_path / "new").exists()
