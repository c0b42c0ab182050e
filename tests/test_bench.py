"""The benchmarks: their statistics and tables on times that are made up, and a small run of everything. No time is held
to anything: how fast a machine is, is no property of the code.
"""

import itertools
import re
import statistics
import sys

import pytest
import torch

import descend
from descend import cli, commands
from descend.backends import compiler
from descend.backends.plan import plan
from descend.benchmarks import bandwidth, cases, contestants, footprint, run, timing
from descend.benchmarks.page import Page, Row, Table, count, milliseconds
from descend.benchmarks.settings import Settings
from descend.benchmarks.targets import LIMITS, Limits, Sizes
from descend.benchmarks.timing import Timing
from descend.experiments.errors import RunError, UsageError

TINY = Sizes(
    large=1000,
    model=((4, 3), (5,)),
    tensors=5,
    groups=3,
    width=8,
    searched=(28,),
    search_steps=2,
    loop_steps=2,
    convnets=0,
    curved_batches=(6, 4),
    curved_side=8,
)
needs_compiler = pytest.mark.skipif(compiler.unavailable() is not None, reason="no compiler")


def test_every_contestant_is_timed_once_per_round_and_begins_in_turn():
    calls = []
    now = itertools.count()
    steps = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = timing.interleaved(steps, 6, clock=lambda: float(next(now)))
    rounds = [calls[i : i + 3] for i in range(0, len(calls), 3)]
    assert len(rounds) == 6 + timing.WARM_UP
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    timed = rounds[timing.WARM_UP :]
    assert [sum(names[0] == name for names in timed) for name in "abc"] == [2, 2, 2]
    assert times == {name: Timing(1.0, 1.0, 1.0, 6) for name in "abc"}


def test_the_untimed_rounds_do_not_count():
    seconds = iter([9.0] * timing.WARM_UP + [1.0, 2.0, 5.0])
    elapsed = [0.0]

    def step():
        elapsed[0] += next(seconds)

    assert timing.interleaved({"a": step}, 3, clock=lambda: elapsed[0])["a"].median == 2.0


def test_a_warm_step_follows_one_of_the_same_contestant_that_is_not_timed():
    calls = []
    elapsed = [0.0]

    def step(name):
        elapsed[0] += 1.0 if calls[-1:] == [name] else 10.0
        calls.append(name)

    steps = {name: lambda name=name: step(name) for name in "ab"}
    assert {x.median for x in timing.interleaved(steps, 4, warm=True, clock=lambda: elapsed[0]).values()} == {1.0}
    calls.clear()
    assert timing.interleaved({**steps, "c": lambda: step("c")}, 3, clock=lambda: elapsed[0])["a"].high == 10.0


def test_a_summary_is_the_median_and_the_quartiles():
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert timing.summary(values) == Timing(3.0, 2.0, 4.0, 5)
    assert timing.summary([2.0]) == Timing(2.0, 2.0, 2.0, 1)
    assert timing.summary(values).median == statistics.median(values)


def test_the_number_of_threads_is_put_back():
    before = torch.get_num_threads()
    seen = []

    def fail():
        with timing.threads(before + 1):
            seen.append(torch.get_num_threads())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [*seen, torch.get_num_threads()] == [before + 1, before]


def times(**milliseconds):
    return {name: Timing(ms / 1e3, ms / 1e3, ms / 1e3, 3) for name, ms in milliseconds.items()}


def test_our_time_is_held_to_the_best_of_torchs_and_to_nobody_elses():
    others = ("fused", "foreach", "loop", "pytorch_optimizer")
    row = cases.comparison("AdamW", 1, "cold", times(ours=10, foreach=25, loop=20, pytorch_optimizer=5), 0.5, others)
    assert row.cells[:6] == ("AdamW", "1", "cold", "10.0 (10.0 to 10.0)", "20.0 (loop)", "0.500")
    assert row.cells[6:] == ("-", "0.40", "0.50", "2.00", "0.50")
    assert (row.held, row.slower, row.verdict) == (True, False, "met")


@pytest.mark.parametrize(
    ("ours", "limit", "verdict"),
    [
        (9, 0.75, "**missed**"),
        (11, 1.2, "met, **slower than torch**"),
        (13, 1.2, "**missed**, **slower than torch**"),
    ],
)
def test_what_is_lost_is_marked(ours, limit, verdict):
    row = cases.comparison("AdamW", 2, "cold", times(ours=ours, fused=10, loop=30), limit, ("fused",))
    assert row.verdict == verdict


def test_limits_hold_for_the_threads_they_are_listed_for_and_for_more():
    limits = Limits({1: 0.7, 2: 0.9}, {1: 0.3})
    assert [limits.of(True, n) for n in (1, 2, 8)] == [0.7, 0.9, 0.9]
    assert [limits.of(False, n) for n in (1, 2)] == [0.3, 0.3]
    assert LIMITS["large"].of(True, 2) == 1.05


def test_the_model_is_resnet18():
    assert len(Sizes().model) == 62
    assert sum(torch.Size(shape).numel() for shape in Sizes().model) == 11_689_512


def test_a_page_says_what_was_met_missed_and_left_out():
    table = Table("Title", "About.", ("rule", "ms"), [Row(("AdamW", "1"), True), Row(("SGD", "2"), False, slower=True)])
    table.rows.append(Row(("Adam", "3")))
    text = Page("a machine.", [table], ["a note"], quick=True).markdown()
    assert "on a machine." in text
    assert "Of 2 targets 1 are met and 1 are missed; 1 rows are slower" in text
    assert "A screening" in text
    assert "## Title\n\nAbout.\n\n| rule | ms | target |\n|---|---|---|\n| AdamW | 1 | met |\n" in text
    assert "| SGD | 2 | **missed**, **slower than torch** |\n| Adam | 3 | - |\n" in text
    assert text.endswith("## Left out\n\n- a note\n")
    assert "screening" not in Page("a machine.", [table]).markdown()


def test_numbers_are_written_for_readers():
    assert [milliseconds(x) for x in (0.0123456, 0.00012, 0.0254, 1.5)] == ["12.3", "0.120", "25.4", "1,500"]
    assert [count(x) for x in (5, 2000, 32_000_000, 11_689_512)] == ["5", "2,000", "32 M", "11.7 M"]


def test_the_default_rules_are_those_that_torch_has_not_fused():
    assert run.default_rules()[0] == "AdamW"
    assert {*run.default_rules()[1:]} == {"RMSprop", "NAdam", "RAdam", "Adadelta", "Adamax", "Rprop", "ASGD"}


def test_torchs_contestants_are_what_torch_has():
    assert set(contestants.steps("AdamW", TINY.model)) == {"ours", "fused", "foreach", "loop"}
    assert set(contestants.steps("RMSprop", TINY.model)) == {"ours", "foreach", "loop"}


def test_contestants_take_the_same_steps():
    for make in (contestants.steps, contestants.clipped_and_averaged):
        with torch.random.fork_rng():
            results = {}
            for name in ("ours", "fused"):
                torch.manual_seed(0)
                made, step = one_contestant(make, name)
                for _ in range(3):
                    step()
                results[name] = made
        for a, b in zip(*results.values(), strict=True):
            torch.testing.assert_close(a, b)


def one_contestant(make, name):
    """The parameters and the step of one contestant, its parameters drawn from seed 0."""
    drawn = []
    original = contestants.parameters

    def recorded(shapes, dtype=torch.float32):
        torch.manual_seed(0)
        drawn.append(original(shapes, dtype))
        return drawn[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contestants, "parameters", recorded)
        steps = make("AdamW", TINY.model)
    return drawn[list(steps).index(name)], steps[name]


def test_a_library_that_is_not_there_or_fails_is_a_note():
    peers = contestants.Peers(("no_such_library",))
    assert peers.steps("AdamW", TINY.model) == {}
    assert peers.notes == ["no_such_library is not installed, and was not measured"]


def test_a_library_that_is_there_is_a_contestant(monkeypatch, tmp_path):
    (tmp_path / "stand_in.py").write_text(
        "import torch\nfrom torch.optim import NAdam\nfrom torch.optim import SGD as _SGD\n"
        "class adamw(_SGD): pass\n"
        "class RMSprop(_SGD):\n    def step(self): raise ValueError('no')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    peers = contestants.Peers(("stand_in",))
    assert list(peers.steps("AdamW", TINY.model)) == ["stand_in"]
    assert peers.steps("NAdam", TINY.model) == {}  # torch's own under another roof
    assert peers.steps("RMSprop", TINY.model) == peers.steps("RMSprop", TINY.model) == {}
    assert peers.notes == ["stand_in's RMSprop was not measured: ValueError"]


def test_rules_with_norms_are_held_to_another_library_where_it_is(monkeypatch, tmp_path):
    settings = Settings(rules=("AdamW",), threads=(1,), rounds=1, sizes=TINY)
    (tmp_path / "pytorch_optimizer.py").write_text(
        "import time\nfrom torch.optim import SGD as _SGD\n"
        "class Lamb(_SGD):\n    def step(self): time.sleep(0.2)\n"
        "class LARS(_SGD):\n    def step(self): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pytorch_optimizer", raising=False)
    table = cases.whole_tensors("norms", settings)
    assert [(row.cells[0], row.held) for row in table.rows] == [("LAMB", True), ("LARS", False)]
    assert all(row.cells[-1] == "0.50" for row in table.rows)
    monkeypatch.setattr(cases, "PEERS", ("no_such_library",))
    table = cases.whole_tensors("norms", settings)
    assert [row.held for row in table.rows] == [None, None]
    assert settings.notes == ["no_such_library is not installed, and was not measured"]


@needs_compiler
def test_matrix_products_are_timed_and_what_is_beside_them():
    settings = Settings(rules=("AdamW",), threads=(1,), rounds=1, sizes=TINY)
    table = cases.opaque_calls("matrices", settings)
    assert [(row.cells[0], row.cells[-1]) for row in table.rows] == [
        ("Muon", "1.05"),
        ("Muon without the products", "-"),
    ]
    assert [row.held is None for row in table.rows] == [False, True]


@pytest.mark.parametrize(
    ("rule", "hyper_parameters", "streams"),
    [
        ("adamw", {}, bandwidth.Streams(1, 3)),
        ("sgd", {}, bandwidth.Streams(1, 1)),
        ("sgd", {"momentum": 0.9}, bandwidth.Streams(1, 2)),
        ("rprop", {}, bandwidth.Streams(1, 3)),
    ],
)
def test_the_loop_has_as_many_streams_as_the_plan(rule, hyper_parameters, streams):
    planned = plan(getattr(descend.rules, rule).formula(**hyper_parameters).settle(frozenset()))
    assert bandwidth.streams_of(planned) == streams
    assert streams.bytes_per_element == planned.traffic(dict.fromkeys(planned.streams, 4))


def test_what_reduces_has_no_streams_to_compare():
    @descend.rule
    def normalized(p, g, *, lr=0.1):
        return dict(p=p - lr * g / descend.norm(g))

    assert bandwidth.streams_of(plan(normalized.formula())) is None


@needs_compiler
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("streams", [bandwidth.Streams(1, 3), bandwidth.Streams(2, 0, 1), bandwidth.Streams(0, 1)])
def test_the_loop_reads_and_writes_every_element_of_its_streams(streams, threads):
    size = 40_000
    kept = bandwidth.loop(streams, size, threads)
    tensors = kept.__defaults__[0][0]
    reads = streams.read
    generator = torch.Generator().manual_seed(0)
    for x in tensors:
        x.copy_(torch.randn(size, generator=generator))
    before = [x.clone() for x in tensors]
    kept()
    expected = torch.stack(before[: reads + streams.updated]).double().mean(0).float()
    assert len(tensors) == reads + streams.updated + streams.written
    for x, old in zip(tensors[:reads], before[:reads], strict=True):
        assert torch.equal(x, old)
    for x in tensors[reads:]:
        torch.testing.assert_close(x, expected)


def test_the_rise_of_memory_during_a_call_is_seen():
    if footprint._peak_of(lambda: None) is None:
        pytest.skip("this system does not tell")
    held = torch.ones(1)
    risen = footprint._peak_of(lambda: held + torch.ones(8_000_000))
    assert risen > 30_000_000


@pytest.mark.long
def test_a_process_that_fails_is_reported():
    with pytest.raises(ChildProcessError, match=r"seconds_of_first_step failed: .*no_such_rule"):
        footprint._in_child("seconds_of_first_step", {"rule": "no_such_rule"}, {})


@needs_compiler
def test_a_quick_run_yields_every_table_of_steps(tmp_path):
    told = []
    chosen = [name for name in run.SUBJECTS if name not in ("memory", "first-step")]
    out = tmp_path / "page.md"
    page = commands.bench(
        quick=True, threads=[1], rounds=1, cases=chosen, sizes=TINY, rules=["adamw"], out=out, progress=told.append
    )
    assert out.read_text() == page
    assert page.count("\n## ") == len(chosen) + ("## Left out" in page)
    for table in re.findall(r"^## (?!Left out).*?(?=^## |\Z)", page, flags=re.MULTILINE | re.DOTALL):
        lines = [line for line in table.splitlines() if line.startswith("|")]
        assert len(lines) > 2
        assert len({line.count("|") for line in lines}) == 1
    assert page.count("| warm |") == 2
    assert "screening" in page
    assert f"torch {torch.__version__}" in page
    assert len(told) == len(chosen)


@pytest.mark.parametrize(
    ("times", "held"), [((0.9, 0.019), True), ((1.1, 0.019), False), ((0.9, 0.021), False), ((1.1, 0.021), False)]
)
def test_a_first_step_is_held_to_both_of_its_targets(monkeypatch, times, held):
    answers = iter(times * 10)
    monkeypatch.setattr(footprint, "_in_child", lambda function, arguments, environment: next(answers))
    table = footprint.first_steps("first-step", Settings(rules=("AdamW",), threads=(1,), rounds=3, sizes=TINY))
    assert [row.cells[0] for row in table.rows] == ["SGD", "AdamW"]
    assert [row.held for row in table.rows] == [held, held]


def test_temporary_memory_is_held_to_its_target(monkeypatch):
    peaks = iter([{"ours": 999_999, "foreach": 128_000_000}, {"ours": 1_000_000}] * 2)
    monkeypatch.setattr(footprint, "_in_child", lambda function, arguments, environment: next(peaks))
    table = footprint.memory("memory", Settings(rules=("RMSprop",), threads=(1,), rounds=1, sizes=TINY))
    assert [row.cells[2:] for row in table.rows[:2]] == [("1.00", "-", "128.00"), ("1.00", "-", "-")]
    assert [row.held for row in table.rows[:2]] == [True, False]


def test_where_no_peak_is_told_there_is_a_note(monkeypatch):
    monkeypatch.setattr(footprint, "_in_child", lambda function, arguments, environment: {})
    settings = Settings(rules=("AdamW",), threads=(1,), rounds=1, sizes=TINY)
    assert footprint.memory("memory", settings).rows == []
    assert "does not tell a process's peak" in settings.notes[0]


@pytest.mark.long
@needs_compiler
def test_the_first_step_is_measured_in_processes_of_its_own():
    settings = Settings(rules=("AdamW",), threads=(1,), rounds=1, sizes=TINY)
    (first, second) = footprint.first_steps("first-step", settings).rows
    assert (first.cells[0], second.cells[0]) == ("SGD", "AdamW")
    assert all(float(cell) > 0 for row in (first, second) for cell in row.cells[1:])


@pytest.mark.long
@needs_compiler
def test_temporary_memory_is_measured_beside_torchs():
    sizes = Sizes(large=4_000_000, tensors=5, width=8)
    table = footprint.memory("memory", Settings(rules=("AdamW",), threads=(1,), rounds=1, sizes=sizes))
    if not table.rows:
        pytest.skip("this system does not tell")
    assert [row.cells[:2] for row in table.rows[:2]] == [("AdamW", "one of 4 M"), ("AdamW", "5 of 8")]
    assert float(table.rows[0].cells[4]) > 15  # the temporaries of torch's foreach, of 16 MB each


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rules": ["adamm"]}, "did you mean 'adam'"),
        ({"rules": ["lion"]}, "torch has no Lion to compare with; give some of"),
        ({"rules": []}, "no rule named"),
        ({"cases": ["huge"]}, "there is no case 'huge'; give some of large, model"),
        ({"threads": [0]}, "threads is 0; give numbers from 1, such as 1,2"),
        ({"threads": []}, "threads is empty"),
        ({"threads": [1, 10**6]}, "threads is 1, 1000000; this machine has"),
        ({"rounds": 0}, "rounds is 0; give 1 or more"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_measured(given, message):
    told = []
    with pytest.raises(UsageError, match=re.escape(message)):
        commands.bench(**given, sizes=TINY, progress=told.append)
    assert told == []


def test_a_file_that_cannot_be_written_is_refused_first(tmp_path):
    told = []
    for out in (tmp_path, tmp_path / "missing" / "page.md"):
        with pytest.raises(RunError, match="cannot be written"):
            commands.bench(out=out, sizes=TINY, progress=told.append)
    assert told == []


def test_the_command_passes_its_words_on(monkeypatch, capsys):
    given = {}
    monkeypatch.setattr(commands, "bench", lambda **words: given.update(words) or "# Page")
    words = ["bench", "--quick", "--threads", "1,2", "--case", "large, groups", "--rules", "adamw", "--rounds", "3"]
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 0
    assert capsys.readouterr().out == "# Page\n"
    assert given.pop("progress") is not None
    expected = {"quick": True, "threads": [1, 2], "rounds": 3, "cases": ["large", "groups"], "rules": ["adamw"]}
    assert given == {**expected, "heavyball": False, "out": None}


def test_threads_that_are_no_numbers_are_refused(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["bench", "--threads", "two"])
    assert caught.value.code == 2
    assert capsys.readouterr().err == "descend: threads is 'two'; give numbers from 1, such as 1,2\n"
