"""What a run of the benchmarks is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from descend.benchmarks.targets import Sizes


@dataclass(frozen=True)
class Settings:
    """What is measured, and how often.

    Attributes:
        rules: names of classes that torch has too.
        threads: the numbers of threads.
        rounds: how often each contestant is timed; short steps take twice as many.
        heavyball: whether HeavyBall is measured; compiling its steps takes minutes.
        all_rules: whether the bandwidth is measured for every elementwise rule, or for `rules` alone.
        sizes: how much is stepped.
        progress: is told what comes next.
        notes: what was left out, and why; filled by the run.
    """

    rules: tuple[str, ...]
    threads: tuple[int, ...]
    rounds: int
    heavyball: bool = False
    all_rules: bool = True
    sizes: Sizes = field(default_factory=Sizes)
    progress: Callable[[str], None] = lambda message: None
    notes: list[str] = field(default_factory=list)

    def note(self, lines: Iterable[str]) -> None:
        """Keep what was left out, once."""
        self.notes.extend(line for line in lines if line not in self.notes)
