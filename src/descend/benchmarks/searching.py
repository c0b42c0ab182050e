"""Training many update rules at once, beside loops that train one network each with torch's Adam.

Ours is what a search does: `descend.search.training.train`, chunk by chunk, in two processes of one thread each. The
loops train the same network on the same batches: one with one thread, one with two, and two in processes of their own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from random import Random
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from descend.backends.bytecode import obstacle
from descend.benchmarks.page import Row, Table
from descend.benchmarks.settings import Settings
from descend.benchmarks.targets import SEARCHES
from descend.benchmarks.timing import Timing, interleaved, threads
from descend.rule import Rule
from descend.search import children
from descend.search.children import Child, ConvNet
from descend.search.nos import Nos
from descend.search.training import train

SWEPT: Final = "7 rates, 2 seeds"
DISTINCT: Final = "distinct rules"
TRACED: Final = "distinct rules, traced anew"
CONVNET: Final = "Bello et al.'s ConvNet"

_PROCESSES: Final = 2
_RATES: Final = tuple(np.geomspace(1e-5, 3e-4, 7).tolist())  # so small that hardly any row diverges and is left out
_OF_KIND: Final = {SWEPT: (_RATES, (0, 1)), DISTINCT: (_RATES[:1], (0,)), TRACED: (_RATES[:1], (0,))}
_PER_PERCEPTRON, _PER_CONVNET = "digits", "noise"


def search(name: str, settings: Settings) -> Table:
    """Time the training of many rules per row and step, and loops per step."""
    sizes, rounds = settings.sizes, -(-settings.rounds // 3)
    table = Table(
        "Many update rules at once",
        "Random sentences of the search space of Bello et al. at depth one, each row a network with a rule of its own, "
        f"trained for {sizes.search_steps} steps and validated. The network is a perceptron 64-32-10 on digits with "
        "batches of 64; of the ConvNet there are few rows, one after the other. Ours runs in two processes. The time "
        "per row and step stands beside the time of a step of the best loop: one network, torch.optim.Adam, with one "
        "thread, two threads, or two such loops at once. Tracing and planning a rule is done before, except where it "
        f"is said; n = {rounds}.",
        ("rows", "what", "ours, us", "best loop, us", "ours / best", "times as fast", "limit"),
    )
    with _pair() as pair:
        for count in sizes.searched:
            settings.progress(f"many rules at once: {count:,} rows")
            part = count // _PROCESSES
            jobs: Jobs = {
                kind: functools.partial(train_perceptrons, kind, part, sizes.search_steps) for kind in _OF_KIND
            }
            table.rows += _rows(pair, jobs, count, sizes.loop_steps, sizes.search_steps, _PER_PERCEPTRON, rounds)
        if sizes.convnets:
            settings.progress("many rules at once: ConvNets")
            jobs = {CONVNET: functools.partial(train_convnets, sizes.convnets // _PROCESSES, sizes.convnet_steps)}
            table.rows += _rows(
                pair, jobs, sizes.convnets, sizes.convnet_steps * 2, sizes.convnet_steps, _PER_CONVNET, rounds
            )
    return table


Jobs = dict[str, Callable[[int], Any]]


def _rows(pair: _Pair, jobs: Jobs, count: int, in_loop: int, steps: int, child: str, rounds: int) -> list[Row]:
    """The lines of some jobs, all timed in one run with the loops."""
    alone = {f"{n} thread{'s' * (n > 1)}": functools.partial(pair.first, loop, child, in_loop, n) for n in (1, 2)}
    two = functools.partial(_loop_of, child, in_loop)
    contestants: dict[str, Callable[[], object]] = {**alone, "two loops": functools.partial(pair.both, two)}
    contestants |= {kind: functools.partial(pair.both, job) for kind, job in jobs.items()}
    times = interleaved(contestants, rounds)
    loops = {kind: times[kind].median / in_loop for kind in alone}
    loops["two loops"] = times["two loops"].median / in_loop / _PROCESSES
    best = min(loops, key=lambda kind: loops[kind])
    return [_row(count, kind, times[kind], count * steps, best, loops[best]) for kind in jobs]


def _row(count: int, kind: str, timing: Timing, work: int, best: str, of_best: float) -> Row:
    ours = timing.median / work
    ratio, limit = ours / of_best, SEARCHES.get(kind)
    spread = f"{ours * 1e6:.1f} ({timing.low / work * 1e6:.1f} to {timing.high / work * 1e6:.1f})"
    cells = (f"{count:,}", kind, spread, f"{of_best * 1e6:,.0f} ({best})", f"{ratio:.3f}", f"{1 / ratio:.1f}")
    return Row((*cells, "-" if limit is None else f"{limit:.3f}"), None if limit is None else ratio <= limit)


class _Pair:
    """Two processes, each of which keeps what it has made."""

    def __init__(self, executors: Sequence[Any]) -> None:
        self._executors = executors

    def first(self, function: Callable[..., Any], *args: Any) -> None:
        """Let the first one work alone."""
        self._executors[0].submit(function, *args).result()

    def both(self, function: Callable[[int], Any]) -> None:
        """Let both work, each given its number."""
        started: list[Future[Any]] = [e.submit(function, number) for number, e in enumerate(self._executors)]
        for future in started:
            future.result()


@contextmanager
def _pair() -> Iterator[_Pair]:
    from loky import ProcessPoolExecutor

    executors = [ProcessPoolExecutor(max_workers=1) for _ in range(_PROCESSES)]
    try:
        yield _Pair(executors)
    finally:
        for executor in executors:
            executor.shutdown(wait=True, kill_workers=True)


# what the processes do


def train_perceptrons(kind: str, rows: int, steps: int, number: int) -> None:
    """Train so many rows of a kind with rules of this process's number."""
    rates, seeds = _OF_KIND[kind]
    count = max(1, rows // (len(rates) * len(seeds)))
    members = _members(number, count)
    rules = [_space.rule(member) for member in members] if kind == TRACED else _rules(number, count)
    train(_PER_PERCEPTRON, rules, rates, seeds, rungs=[(steps, len(rates))])


def train_convnets(rows: int, steps: int, number: int) -> None:
    """Train so many ConvNets, each with a rule of its own."""
    train(_child(_PER_CONVNET), _rules(number, rows), _RATES[:1], [0], rungs=[(steps, 1)])


def loop(child: str, steps: int, number: int) -> None:
    """Train one network with torch's Adam and so many threads."""
    found = _child(child)
    batches = found.batches(0)
    with threads(number):
        model = _network(found)
        optimizer = torch.optim.Adam(model.parameters(), lr=_RATES[0])
        for _ in range(steps):
            inputs, targets = next(batches)
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
            optimizer.step()


def _loop_of(child: str, steps: int, number: int) -> None:
    loop(child, steps, 1)


_space: Final = Nos()


@functools.cache
def _members(number: int, count: int) -> tuple[Any, ...]:
    """Random sentences whose training stays finite, drawn by the number."""
    random, found = Random(number), list[Any]()
    while len(found) < count:
        drawn = [_space.random(random) for _ in range(256)]
        rules = [_space.rule(member) for member in drawn]
        fit = [i for i, rule in enumerate(rules) if obstacle(rule.formula()) is None]
        trained = train(_PER_PERCEPTRON, [rules[i] for i in fit], _RATES[:1], [0], rungs=[(30, 1)])
        found += [drawn[i] for i, loss in zip(fit, trained.best_losses(), strict=True) if np.isfinite(loss)]
    return tuple(found[:count])


@functools.cache
def _rules(number: int, count: int) -> list[Rule]:
    return [_space.rule(member) for member in _members(number, count)]


class _Noise:
    """Images of CIFAR-10's shape without content: how long a step takes does not depend on it."""

    def tensors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Training and validation examples."""
        generator = torch.Generator().manual_seed(0)
        parts = {"train": 500, "validation": 20}
        return {
            part: (torch.randn(n, 3, 32, 32, generator=generator), torch.randint(10, (n,), generator=generator))
            for part, n in parts.items()
        }

    def prepare(self, inputs: Tensor) -> Tensor:
        """The images as they are."""
        return inputs


@functools.cache
def _child(name: str) -> Child:
    return ConvNet(name, _Noise, 100) if name == _PER_CONVNET else children.load(name)


def _network(child: Child) -> nn.Module:
    """The same network as torch's modules."""
    if isinstance(child, ConvNet):
        layers: list[nn.Module] = []
        for channels in (3, child.filters):
            layers += [nn.Conv2d(channels, child.filters, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            layers.append(nn.BatchNorm2d(child.filters))
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(child.filters * 64, 10))
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
