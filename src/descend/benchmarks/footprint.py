"""What a step takes beside time: temporary memory, and the first step of a rule.

Each is measured in a process of its own, where nothing is loaded yet and no memory is left over from before.
"""

from __future__ import annotations

import gc
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from descend import optim
from descend.benchmarks import contestants
from descend.benchmarks.page import Row, Table, count, milliseconds
from descend.benchmarks.settings import Settings
from descend.benchmarks.targets import CACHED_SECONDS, COLD_SECONDS, TEMPORARY_BYTES, Shapes
from descend.benchmarks.timing import WARM_UP

_OPTIONS: Final[Mapping[str, Mapping[str, float]]] = {
    "": {},
    ", clip_norm and ema_decay": {"clip_norm": 1.0, "ema_decay": 0.999},
}
_OPENER: Final = "SGD"
"""Steps first in a process, so that what all rules share is loaded before another is measured."""
_REPEATS: Final = 3
# every temporary of 64 KiB or more is returned when it is freed, and counts anew when it is made again
_RETURNING: Final = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
_CHILD: Final = (
    "import json, sys; from descend.benchmarks import footprint; "
    "print(json.dumps(getattr(footprint, sys.argv[1])(**json.loads(sys.argv[2]))))"
)


def memory(name: str, settings: Settings) -> Table:
    """Measure the temporary memory of a step."""
    table = Table(
        "Temporary memory of a step",
        "How far the resident memory of a fresh process rises above what it was before the step, at its peak; the "
        f"system counts it in steps of about 0.1 MB. The target is below {TEMPORARY_BYTES / 1e6:g} MB.",
        ("rule", "tensors", "ours, MB", "torch fused, MB", "torch foreach, MB"),
    )
    sizes = settings.sizes
    models = {
        f"one of {count(sizes.large)}": [(sizes.large,)],
        f"{sizes.tensors:,} of {sizes.width}": [(sizes.width,)] * sizes.tensors,
    }
    for rule in settings.rules:
        for options in _OPTIONS if rule == settings.rules[0] else [""]:
            for model, shapes in models.items():
                settings.progress(f"temporary memory: {rule}{options}, {model}")
                asked = {"rule": rule, "shapes": shapes, "options": _OPTIONS[options]}
                peaks = _in_child("peaks_of_steps", asked, _RETURNING)
                ours = peaks.get(contestants.OURS)
                if ours is None:
                    settings.note(["temporary memory was not measured: this system does not tell a process's peak"])
                    return table
                cells = [f"{peaks[key] / 1e6:.2f}" if key in peaks else "-" for key in ("ours", "fused", "foreach")]
                table.rows.append(Row((rule + options, model, *cells), ours < TEMPORARY_BYTES))
    return table


def first_steps(name: str, settings: Settings) -> Table:
    """Measure the first step of a rule, with its kernel still to compile and with it in the cache on disk."""
    repeats = min(_REPEATS, settings.rounds)
    table = Table(
        "The first step of a rule",
        f"Medians of {repeats} fresh processes each, with an empty cache directory and then with the same one filled, "
        f"on three small tensors. {_OPENER} is the first to step in its process; the others follow it. The targets are "
        f"below {COLD_SECONDS:g} s cold and {milliseconds(CACHED_SECONDS)} ms from the cache.",
        ("rule", "cold, ms", "from the cache, ms"),
    )
    for rule in (_OPENER, *(rule for rule in settings.rules if rule != _OPENER)):
        settings.progress(f"first step: {rule}")
        pairs = [_cold_and_cached(rule) for _ in range(repeats)]
        cold, cached = (statistics.median(times) for times in zip(*pairs, strict=True))
        cells = (rule, milliseconds(cold), milliseconds(cached))
        table.rows.append(Row(cells, cold < COLD_SECONDS and cached < CACHED_SECONDS))
    return table


def _cold_and_cached(rule: str) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        environment = {"XDG_CACHE_HOME": folder}
        cold, cached = (_in_child("seconds_of_first_step", {"rule": rule}, environment) for _ in range(2))
    return float(cold), float(cached)


def _in_child(function: str, arguments: Mapping[str, Any], environment: Mapping[str, str]) -> Any:
    """What a function of this module returns in a process of its own, with more environment variables.

    Raises:
        ChildProcessError: the process failed; the message is its last line.
    """
    words = [sys.executable, "-c", _CHILD, function, json.dumps(arguments)]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode != 0:
        last = done.stderr.strip().rpartition("\n")[2]
        raise ChildProcessError(f"a process that measures {function} failed: {last}")
    return json.loads(done.stdout)


def seconds_of_first_step(rule: str) -> float:
    """How long the first step of a rule takes here, after one of another rule."""
    taken = 0.0
    for name in dict.fromkeys((_OPENER, rule)):
        optimizer = getattr(optim, name)(contestants.parameters([(64, 32), (64,), (7,)]))
        start = time.perf_counter()
        optimizer.step()
        taken = time.perf_counter() - start
    return taken


def peaks_of_steps(rule: str, shapes: Sequence[Sequence[int]], options: Mapping[str, float]) -> dict[str, int]:
    """By contestant, how many bytes the memory of this process rises during a step; empty where that is not told."""
    made: Shapes = [tuple(shape) for shape in shapes]
    builders: dict[str, tuple[Any, Mapping[str, Any]]] = {contestants.OURS: (getattr(optim, rule), options)}
    twin = optim.twin(rule)
    if twin is not None and not options:
        flags = contestants.IMPLEMENTATIONS
        names = ["fused", "foreach"] if contestants.is_fused_in_torch(rule) else ["foreach"]
        builders |= {name: (twin, flags[name]) for name in names}
    found: dict[str, int] = {}
    for name, (build, arguments) in builders.items():
        optimizer = build(contestants.parameters(made), **arguments)
        for _ in range(WARM_UP):
            optimizer.step()
        gc.collect()
        peak = _peak_of(optimizer.step)
        if peak is not None:
            found[name] = peak
        del optimizer
        gc.collect()
    return found


def _peak_of(step: Any) -> int | None:
    """The rise of the resident memory during a call, in bytes; None where the system does not tell."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what is resident now
        before = _status("VmRSS")
        step()
        return max(_status("VmHWM") - before, 0)
    except (OSError, LookupError):
        return None


def _status(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), flags=re.MULTILINE)
    if found is None:
        raise LookupError(name)
    return int(found[1]) * 1024
