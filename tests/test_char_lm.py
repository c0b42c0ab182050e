"""The character task: splits by place, windows that follow each other, bits per character as counted by hand."""

import gzip
import itertools
import math
import random
import re
import statistics
import tracemalloc
from pathlib import Path

import pytest
import torch
from torch import nn

from descend import tasks
from descend.sequences import sequence_lengths
from descend.tasks import TaskError
from descend.tasks.times import epoch_steps
from task_data import text

REAL = Path(__file__).parents[2] / "shared" / "data" / "text" / "war_and_peace.txt"
CYCLE = "abcdefgh"
COUNTING = "".join(chr(0x4E00 + place) for place in range(1600))  # each character tells its own place


@pytest.fixture(autouse=True)
def no_usual_folder(monkeypatch):
    monkeypatch.delenv("DESCEND_DATA", raising=False)


@pytest.fixture
def of(tmp_path):
    """The task on a text, or on bytes."""

    def made(content, name="some.txt", **settings):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return tasks.load("char-lm", data=path, **settings)

    return made


class Reader(nn.Module):
    """Notes what it is given, and answers with the scores of a function of it."""

    def __init__(self, scores):
        super().__init__()
        self.scores, self.seen = scores, []

    def forward(self, characters):
        self.seen.append(characters)
        return self.scores(characters)


def equal_scores(count):
    return lambda characters: torch.zeros(*characters.shape, count)


def windows(task, split, count=2000):
    """What `evaluate` reads of a split, one row per window."""
    reader = Reader(equal_scores(count))
    task.evaluate(reader, split)
    return torch.cat(reader.seen)


def written(indices, known):
    return "".join("?" if index == 0 else known[index - 1] for index in indices.flatten().tolist())


# ---- splits ----------------------------------------------------------------------------------------------------------


def test_splits_are_the_beginning_the_next_twentieth_and_the_end(of):
    whole = text(20_000)
    task = of(whole)
    assert task.sizes == {"train": 18_000, "validation": 1000, "test": 1000}
    known = sorted(set(whole[:18_000]))
    for split, begin in {"validation": 18_000, "test": 19_000}.items():
        read = windows(task, split)
        assert read.shape == (15, 64)  # 999 characters are followed by one; what makes no window is left out
        assert written(read, known) == "".join(c if c in known else "?" for c in whole[begin : begin + 960])


def test_training_reads_every_place_and_what_follows_it(of):
    task = of(COUNTING)
    assert task.sizes["train"] == 1440
    begins = set()
    for characters, following in itertools.islice(task.batches(0), 600):
        assert characters.shape == following.shape == (32, 64)
        assert characters.dtype == following.dtype == torch.int64
        assert torch.equal(characters, characters[:, :1] + torch.arange(64))
        assert torch.equal(following, characters + 1)
        begins |= set(characters[:, 0].tolist())
    assert begins == set(range(1, 1440 - 64 + 1))  # the last one is followed by the split's last character


def test_a_character_that_training_has_not_is_unknown(of):
    task = of(CYCLE * 225 + "xaXb" * 25 + "Ωabc" * 25)
    assert task.sizes["train"] == len(CYCLE) * 225
    assert written(windows(task, "validation"), CYCLE) == "?a?b" * 16
    assert written(windows(task, "test"), CYCLE) == "?abc" * 16
    assert task.model(0).output.out_features == 9


@pytest.mark.parametrize("count", [1, 254, 255, 256, 257, 1000])
def test_any_number_of_characters_is_told_apart(of, count):
    known = [chr(0x1F300 + number) for number in range(count)]  # beyond 16 bits
    whole = "".join(known) * (1 + 9000 // count)
    task = of(whole)
    assert len(whole) >= 9000
    ends = task.sizes["train"], task.sizes["train"] + task.sizes["validation"]
    read = written(windows(task, "validation"), known)
    assert read == whole[ends[0] : ends[1]][: len(read)]
    assert task.model(0).embedding.num_embeddings == count + 1


def test_a_subset_is_the_beginning_of_every_split(of):
    whole = text(40_000)
    task = of(whole, subset=9000)
    assert task.sizes == {"train": 9000, "validation": 500, "test": 500}
    known = sorted(set(whole[:9000]))
    assert written(windows(task, "test"), known) == "".join(c if c in known else "?" for c in whole[38_000:38_448])
    assert task.model(0).output.out_features == len(known) + 1


def test_a_subset_larger_than_the_text_is_all_of_it(of):
    assert of(text(5000), subset=1_000_000).sizes == of(text(5000)).sizes


def test_the_least_that_is_asked_for_is_enough(of, tmp_path):
    with pytest.raises(TaskError, match=r"some.txt has 100 characters; give (\d+) or more") as caught:
        of("a" * 100).sizes  # noqa: B018
    least = int(re.search(r"give (\d+) or", str(caught.value))[1])
    with pytest.raises(TaskError, match=f"has {least - 1} characters"):
        of(text(least - 1)).sizes  # noqa: B018
    for task in (of(text(least), "least.txt"), of(text(30_000), "longer.txt", subset=least)):
        for split in ("validation", "test"):
            assert math.isfinite(task.evaluate(task.model(0), split)["loss"])
        next(task.batches(0))


def test_a_subset_below_the_least_is_refused_before_data_are_looked_for():
    for subset in (-1, 0, 1000, 2000.0, True, "all"):
        with pytest.raises(TaskError, match=rf"subset is {subset!r}; give \d+ training characters or more"):
            tasks.load("char-lm", subset=subset)


def test_what_is_no_setting_is_refused():
    with pytest.raises(TaskError, match=r"takes no setting 'model' \(only subset, data, variable_length\)"):
        tasks.load("char-lm", model="transformer")


def test_an_epoch_is_as_many_characters_as_training_has(of):
    task = of(text(100_000))
    assert epoch_steps(task) == 90_000 // (64 * 32)
    assert epoch_steps(of(text(2000))) == 1


# ---- windows of varying length ---------------------------------------------------------------------------------------


def lengths(task, seed, count=400):
    return [batch[0].shape[1] for batch in itertools.islice(task.batches(seed), count)]


def test_windows_of_varying_length_have_the_published_lengths(of):
    task = of(text(9000), variable_length=True)
    drawn = lengths(task, 3, 4000)
    assert drawn == list(itertools.islice(sequence_lengths(64, seed=3), 4000))
    short = [length for length in drawn if length < 48]
    assert len(short) / len(drawn) == pytest.approx(0.05, abs=0.012)
    assert statistics.fmean(short) == pytest.approx(31.5, abs=1.2)  # rounded down
    usual = [length for length in drawn if length >= 48]
    assert (statistics.fmean(usual), statistics.stdev(usual)) == pytest.approx((63.5, 5), abs=0.3)
    assert [task.rate_share(batch) for batch in itertools.islice(task.batches(3), 9)] == [x / 64 for x in drawn[:9]]


def test_the_seed_decides_lengths_and_windows_wherever_reading_begins(of):
    task = of(text(9000), variable_length=True)
    whole = list(itertools.islice(task.batches(1), 12))
    torch.manual_seed(7)  # neither is drawn from a global generator
    random.seed(7)
    again = list(itertools.islice(task.batches(1), 5, 12))
    for batches in zip(whole[5:], again, strict=True):
        assert all(torch.equal(*parts) for parts in zip(*batches, strict=True))
    assert lengths(task, 1) != lengths(task, 2)


def test_windows_of_varying_length_are_followed_by_what_follows_them(of):
    task = of(COUNTING, variable_length=True)
    for characters, following in itertools.islice(task.batches(0), 100):
        assert torch.equal(following, characters[:, :1] + torch.arange(1, characters.shape[1] + 1))


def test_without_the_setting_batches_and_rates_are_those_of_64(of):
    """The draws as they have always been."""
    task = of(text(9000))
    known = sorted(set(text(9000)[:8100]))
    every = torch.tensor([known.index(c) + 1 for c in text(9000)[:8100]])
    generator = torch.Generator().manual_seed(5)
    for characters, following in itertools.islice(task.batches(5), 20):
        places = torch.randint(8100 - 64, (32, 1), generator=generator) + torch.arange(65)
        assert torch.equal(torch.cat([characters, following[:, -1:]], 1), every[places])
        assert task.rate_share((characters, following)) == 1


def test_varying_lengths_change_neither_model_nor_evaluation(of):
    fixed, varying = of(text(9000)), of(text(9000), variable_length=True)
    model = fixed.model(0)
    assert varying.sizes == fixed.sizes
    assert all(torch.equal(*both) for both in zip(model.parameters(), varying.model(0).parameters(), strict=True))
    assert varying.evaluate(model, "validation") == fixed.evaluate(model, "validation")


@pytest.mark.parametrize("wrong", ["yes", 1, 0.5])
def test_what_is_neither_true_nor_false_is_refused(wrong):
    with pytest.raises(TaskError, match=f"variable_length is {wrong!r}; give True or False"):
        tasks.load("char-lm", variable_length=wrong)


# ---- loss and metric -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["validation", "test"])
def test_who_knows_nothing_needs_all_the_bits(of, split):
    scores = of(text(9000)).evaluate(Reader(equal_scores(32)), split)
    assert scores == pytest.approx({"loss": math.log(32), "bits per character": 5.0}, rel=1e-6)


def test_who_knows_the_next_character_needs_none(of):
    task = of(CYCLE * 500)

    def next_of(characters):
        return 100.0 * nn.functional.one_hot(characters % len(CYCLE) + 1, len(CYCLE) + 1)

    for split in ("validation", "test"):
        assert task.evaluate(Reader(next_of), split)["bits per character"] < 1e-6
    assert task.loss(Reader(next_of), next(task.batches(0))) < 1e-6


def test_the_metric_is_the_mean_over_all_characters_however_they_are_cut(of):
    """Among 78 windows, which are more than are read at once, and not a multiple of that."""
    whole = text(100_000)
    task = of(whole)
    known = sorted(set(whole[:90_000]))
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(len(known) + 1, generator=generator, dtype=torch.float64)
    logs = dict(zip(["?", *known], scores.log_softmax(0).tolist(), strict=True))
    followed = whole[90_001 : 90_001 + 78 * 64]
    expected = -math.fsum(logs[c if c in known else "?"] for c in followed) / len(followed)
    found = task.evaluate(Reader(lambda characters: scores.expand(*characters.shape, -1)), "validation")
    assert found["loss"] == pytest.approx(expected, rel=1e-12)
    assert found["bits per character"] == pytest.approx(expected / math.log(2), rel=1e-12)


# ---- the model -------------------------------------------------------------------------------------------------------


def test_the_model_sees_no_later_character_and_no_other_window(of):
    task = of(text(9000))
    model = task.model(0).double()
    characters = next(task.batches(0))[0][:4]
    scores = model(characters)
    changed = characters.clone()
    changed[:, 40:] = 1
    assert torch.equal(model(changed)[:, :40], scores[:, :40])
    assert not torch.equal(model(changed)[:, 40:], scores[:, 40:])
    torch.testing.assert_close(model(characters[3:4]), scores[3:4], rtol=1e-12, atol=1e-12)


def test_the_model_has_two_layers_of_128_cells(of):
    characters = len(set(text(9000)[:8100])) + 1
    layers = [4 * 128 * (inputs + 128 + 2) for inputs in (64, 128)]
    expected = characters * 64 + sum(layers) + 129 * characters
    assert sum(p.numel() for p in of(text(9000)).model(0).parameters()) == expected


def test_some_steps_teach_more_than_how_often_each_character_is(of):
    task = of(text(20_000))
    model = task.model(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for batch in itertools.islice(task.batches(0), 50):
        optimizer.zero_grad()
        task.loss(model, batch).backward()
        optimizer.step()
    held_out = text(20_000)[18_000:19_000]
    shares = [held_out.count(c) / len(held_out) for c in set(held_out)]
    assert task.evaluate(model, "validation")["bits per character"] < 0.8 * -sum(p * math.log2(p) for p in shares)


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["war_and_peace.txt", "war_and_peace.txt.gz"])
def test_the_usual_file_lies_in_the_folder_or_below_descend_data(tmp_path, monkeypatch, name):
    content = text(5000).encode()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert sum(tasks.load("char-lm", data=tmp_path / "text").sizes.values()) == 5000
    assert sum(tasks.load("char-lm", data=str(tmp_path / "text" / name)).sizes.values()) == 5000
    monkeypatch.setenv("DESCEND_DATA", str(tmp_path))
    assert sum(tasks.load("char-lm").sizes.values()) == 5000


def test_the_constructor_reads_nothing(tmp_path):
    task = tasks.load("char-lm", data=tmp_path / "nothing.txt", subset=5000)
    assert (task.metric, task.direction, task.worst) == ("bits per character", "minimize", math.inf)
    with pytest.raises(TaskError, match=r"nothing.txt does not exist; give the path"):
        task.sizes  # noqa: B018


def test_what_is_missing_is_said_with_its_place(tmp_path, monkeypatch):
    missing = r"task char-lm: war_and_peace.txt \(or war_and_peace.txt.gz\) is missing; get a UTF-8 text .*"
    with pytest.raises(TaskError, match=missing + "put it under text/.*DESCEND_DATA"):
        tasks.load("char-lm").sizes  # noqa: B018
    monkeypatch.setenv("DESCEND_DATA", str(tmp_path))
    with pytest.raises(TaskError, match=missing + re.escape(f"put it into {tmp_path / 'text'}")):
        tasks.load("char-lm").sizes  # noqa: B018
    monkeypatch.setenv("DESCEND_DATA", str(tmp_path / "absent"))
    with pytest.raises(TaskError, match=r"DESCEND_DATA names .*absent, which is no folder"):
        tasks.load("char-lm").sizes  # noqa: B018


def test_a_truncated_file_is_named_wherever_it_is_cut(of):
    content = gzip.compress(text(5000).encode())
    for cut in [*range(40), *range(40, len(content), 41), len(content) - 1]:
        with pytest.raises(TaskError, match=r"cut\.txt\.gz (is truncated or damaged|has [01] characters)"):
            of(content[:cut], "cut.txt.gz").sizes  # noqa: B018


def test_a_damaged_file_is_named(of):
    content = bytearray(gzip.compress(text(5000).encode()))
    content[len(content) // 2] ^= 0xFF
    with pytest.raises(TaskError, match=r"bad\.txt\.gz is truncated or damaged"):
        of(bytes(content), "bad.txt.gz").sizes  # noqa: B018


def test_what_is_no_utf8_is_named_with_the_byte(of):
    content = text(5000).encode() + "é".encode("latin-1")
    with pytest.raises(TaskError, match=rf"some.txt is no UTF-8 text \(byte {len(content) - 1}: .*convert it to UTF-8"):
        of(content).sizes  # noqa: B018


def test_reading_takes_little_memory(of):
    """While it is read, the text and its characters as numbers of 32 bits; afterwards a byte for each."""
    count = 2_000_000
    task = of((text(20_000) * 100).replace("á", "a"))
    tracemalloc.start()
    try:
        assert sum(task.sizes.values()) == count
        left, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert left < 1.2 * count
    assert peak < 16 * count


# ---- the real text ---------------------------------------------------------------------------------------------------


needs_the_real_text = pytest.mark.skipif(not REAL.is_file(), reason="no War and Peace beside the repository")


@needs_the_real_text
def test_war_and_peace_is_split_as_documented():
    real = tasks.load("char-lm", data=REAL)
    assert real.sizes == {"train": 2_932_403, "validation": 162_912, "test": 162_911}
    whole = REAL.read_bytes().decode()  # its lines end as on Windows, and what ends them are two characters
    known = sorted(set(whole[:2_932_403]))
    read = written(windows(real, "test", len(known) + 1), known)
    assert len(read) == 162_880
    assert read == "".join(c if c in known else "?" for c in whole[-162_911:][:162_880])
    assert sum(p.numel() for p in real.model(0).parameters()) == 247_636


@needs_the_real_text
@pytest.mark.long
def test_war_and_peace_is_learned():
    task = tasks.load("char-lm", data=REAL, subset=tasks.find("char-lm").quick["subset"])
    model = task.model(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for batch in itertools.islice(task.batches(0), 150):
        optimizer.zero_grad()
        task.loss(model, batch).backward()
        optimizer.step()
    assert task.evaluate(model, "test")["bits per character"] < 3.6  # 4.5 tell no more than each character's frequency
