"""A step's bytes per second beside those of a minimal loop over as many streams.

The loop is compiled like every kernel, goes over its memory by the same driver, and does nothing but add what it reads
and write the sum.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from descend import optim, rules
from descend.backends import compiler, cpp, openmp
from descend.backends.launches import Call
from descend.backends.plan import Plan, plan
from descend.benchmarks import contestants
from descend.benchmarks.page import Row, Table, count, milliseconds
from descend.benchmarks.settings import Settings
from descend.benchmarks.targets import BANDWIDTH, BANDWIDTH_OF_FUNCTIONS
from descend.benchmarks.timing import Step, interleaved, threads
from descend.rule import Rule

_FLOAT = 4  # bytes


@dataclass(frozen=True)
class Streams:
    """How many tensors a loop goes over: those it reads, reads and writes, and writes."""

    read: int
    updated: int
    written: int = 0

    @property
    def bytes_per_element(self) -> int:
        """What moves per element in float32."""
        return _FLOAT * (self.read + 2 * self.updated + self.written)

    def __str__(self) -> str:
        parts = {"r": self.read, "rw": self.updated, "w": self.written}
        return ", ".join(f"{number} {kind}" for kind, number in parts.items() if number)


def streams_of(planned: Plan) -> Streams | None:
    """The streams of a plan; None if it goes over its tensors more than once."""
    if len(planned.passes) != 1 or planned.passes[0].reductions:
        return None
    loaded = {leaf.op if leaf.op in ("p", "g") else leaf.value[0] for leaf in planned.passes[0].loads}  # type: ignore[index]
    stored = planned.stored
    return Streams(len(loaded - stored), len(loaded & stored), len(stored - loaded))


def source(streams: Streams) -> str:
    """The C++ of the minimal loop over float32 streams: every written element becomes the mean of those read."""
    reads = [f"r{i}" for i in range(streams.read)]
    updates = [f"u{i}" for i in range(streams.updated)]
    writes = [f"w{i}" for i in range(streams.written)]
    names = [*reads, *updates, *writes]
    constant = dict.fromkeys(reads, "const ")
    fields = "\n".join(f"    {constant.get(name, '')}float* {name};" for name in names)
    arguments = ", ".join(f"{constant.get(name, '')}float* __restrict {name}" for name in names)
    loaded = [*reads, *updates]
    mean = f"({' + '.join(f'{name}[i]' for name in loaded)}) * {1 / len(loaded)!r}f" if loaded else "1.0f"
    stores = " ".join(f"{name}[i] = mean;" for name in [*updates, *writes])
    pointers = ", ".join(f"row.{name} + start" for name in names)
    return f"""struct Row : Tensor {{
{fields}
}};
static __attribute__((noinline)) void loop(int64_t count, {arguments}) {{
    for (int64_t i = 0; i < count; i++) {{ const float mean = {mean}; {stores} }}
}}
static void chunk(const Call<Row>&, const Row& row, int64_t, int64_t start, int64_t length, int64_t) {{
    loop(length, {pointers});
}}
extern "C" __attribute__((visibility("default"))) void stream(const Call<Row>* call) {{ for_each_chunk(*call, chunk); }}
"""


def loop(streams: Streams, size: int, team_of: int) -> Step:
    """The minimal loop over so many elements of every stream, ready to be called.

    Args:
        streams: what it goes over.
        size: elements of each.
        team_of: how many threads it runs on.
    """
    library = compiler.load(cpp.translation_unit([source(streams)], f"minimal loop over {streams}"))
    function = library.stream
    function.restype, function.argtypes = None, [ctypes.c_void_p]
    tensors = [torch.ones(size) for _ in range(streams.read + streams.updated + streams.written)]
    rows = np.array([[size, 0, 0, 0, 0, *(x.data_ptr() for x in tensors)]], dtype=np.int64)
    call = Call(rows=rows.ctypes.data, count=1, work=size)
    call.parallel, call.number, call.size, call.threads = openmp.team(team_of)

    def step(kept: tuple[Any, ...] = (tensors, rows)) -> None:  # the memory lives as long as the step
        function(ctypes.byref(call))

    return step


def bandwidth(name: str, settings: Settings) -> Table:
    """Measure the share of the streaming bandwidth that elementwise rules reach."""
    size = settings.sizes.large
    table = Table(
        f"Share of the streaming bandwidth: one tensor of {count(size)}",
        "Bytes that a step moves by its plan, over its whole time, beside a minimal loop over as many streams that are "
        f"read (r), updated (rw) and written (w); n = {settings.rounds}. The target is {BANDWIDTH:.0%}, and "
        f"{BANDWIDTH_OF_FUNCTIONS:.0%} where a rule takes exp, log, pow or tanh per element.",
        ("rule", "threads", "streams", "ms", "GB/s", "loop's GB/s", "share"),
    )
    chosen = [rule for rule in rules.catalog().values() if settings.all_rules or rule.title in settings.rules]
    for number in settings.threads:
        for rule in chosen:
            planned = plan(rule.formula().settle(frozenset()))
            streams = streams_of(planned)
            if streams is None:
                settings.note([f"{rule.title} is not elementwise, and has no bandwidth to reach"])
                continue
            settings.progress(f"bandwidth: {rule.title}, threads: {number}")
            table.rows.append(_row(rule, planned, streams, number, settings))
    return table


def _row(rule: Rule, planned: Plan, streams: Streams, number: int, settings: Settings) -> Row:
    size = settings.sizes.large
    ours = getattr(optim, rule.title)(contestants.parameters([(size,)]))
    with threads(number):
        times = interleaved({"ours": ours.step, "loop": loop(streams, size, number)}, settings.rounds)
    moved = size * planned.traffic(dict.fromkeys(planned.streams, _FLOAT))
    rates = {name: moved / timing.median / 1e9 for name, timing in times.items()}
    share = rates["ours"] / rates["loop"]
    target = BANDWIDTH_OF_FUNCTIONS if rule.cost().transcendental else BANDWIDTH
    cells = (rule.title, str(number), str(streams), milliseconds(times["ours"].median))
    return Row((*cells, f"{rates['ours']:.1f}", f"{rates['loop']:.1f}", f"{share:.0%}"), share >= target)
