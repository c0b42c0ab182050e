"""The steps themselves: ours beside torch's and other libraries', case by case."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from descend import optim
from descend.benchmarks import contestants
from descend.benchmarks.contestants import IMPLEMENTATIONS, OURS, PEERS, Peers
from descend.benchmarks.page import Row, Table, count, milliseconds
from descend.benchmarks.settings import Settings
from descend.benchmarks.targets import BFLOAT16, LIMITS, MATRICES, WHOLE_TENSORS, Shapes
from descend.benchmarks.timing import Timing, interleaved, threads

COLD: Final = "cold"
WARM: Final = "warm"
_CACHES: Final = (
    " Cold: the others have stepped in between, as a model's passes do in training. Warm: every contestant has just "
    "taken four steps that were not timed."
)


@dataclass(frozen=True)
class Case:
    """Parameters to step.

    Attributes:
        title: of its table.
        shapes: of the parameters.
        arrange: what the constructors are given.
        patience: how many times as many rounds it takes: short steps scatter more.
        fits_caches: whether it is small enough for its memory to stay in them from one step to the next.
    """

    title: str
    shapes: Shapes
    arrange: Callable[[list[nn.Parameter]], Any] = list
    patience: int = 1
    fits_caches: bool = False


def _case(name: str, settings: Settings) -> Case:
    sizes = settings.sizes
    elements = sum(math.prod(shape) for shape in sizes.model)
    small = [(sizes.width,)]
    return {
        "large": Case(f"One tensor of {count(sizes.large)}", [(sizes.large,)]),
        "model": Case(
            f"ResNet-18's parameters: {len(sizes.model)} tensors, {count(elements)}", sizes.model, patience=2
        ),
        "tensors": Case(
            f"{sizes.tensors:,} tensors of {sizes.width}", small * sizes.tensors, patience=2, fits_caches=True
        ),
        "groups": Case(
            f"{sizes.groups:,} param groups of one tensor of {sizes.width}",
            small * sizes.groups,
            contestants.in_groups,
            patience=2,
            fits_caches=True,
        ),
    }[name]


def against_torch(name: str, settings: Settings) -> Table:
    """Time every rule on the parameters of a case."""
    case = _case(name, settings)
    peers = Peers(PEERS if settings.heavyball else PEERS[:1])
    rounds = settings.rounds * case.patience
    table = Table(
        case.title,
        f"The limit is on our time over the best of torch's; n = {rounds}." + (_CACHES if case.fits_caches else ""),
        _columns(peers=True),
    )
    for number in settings.threads:
        for rule in settings.rules:
            settings.progress(f"{case.title}: {rule}, threads: {number}")
            with threads(number):
                steps = contestants.steps(rule, case.shapes, case.arrange)
                steps |= peers.steps(rule, case.shapes, case.arrange)
                limit = LIMITS[name].of(contestants.is_fused_in_torch(rule), number)
                for caches in (COLD, WARM) if case.fits_caches else (COLD,):
                    times = interleaved(steps, rounds, warm=caches == WARM)
                    table.rows.append(comparison(rule, number, caches, times, limit, _others(peers=True)))
    settings.note(peers.notes)
    return table


def clip_and_average(name: str, settings: Settings) -> Table:
    """Time clipping by norm, a step and the averaging of weights together."""
    shapes, rounds, rule = settings.sizes.model, settings.rounds * 2, "AdamW"
    elements = sum(math.prod(shape) for shape in shapes)
    table = Table(
        f"Clipping by norm, step and average of the weights: {len(shapes)} tensors, {count(elements)}",
        "Ours is one step with `clip_norm` and `ema_decay`; torch's is `clip_grad_norm_`, a step, and "
        f"`AveragedModel.update_parameters` with `get_ema_multi_avg_fn`; n = {rounds}.",
        _columns(peers=False),
    )
    for number in settings.threads:
        settings.progress(f"clipping and averaging, threads: {number}")
        with threads(number):
            times = interleaved(contestants.clipped_and_averaged(rule, shapes), rounds)
        limit = LIMITS[name].of(True, number)
        table.rows.append(comparison(rule, number, COLD, times, limit, _others(peers=False)))
    return table


def whole_tensors(name: str, settings: Settings) -> Table:
    """Time rules with norms of whole tensors, which torch does not have, beside another library's."""
    shapes, rounds, peers = settings.sizes.model, settings.rounds * 2, Peers(PEERS[:1])
    elements = sum(math.prod(shape) for shape in shapes)
    table = Table(
        f"Norms of whole tensors: {len(shapes)} tensors, {count(elements)}",
        f"Rules that torch does not have, with their defaults, beside {PEERS[0]}'s; n = {rounds}.",
        ("rule", "threads", "ours, ms", f"{PEERS[0]}, ms", "ratio", "limit"),
    )
    for number in settings.threads:
        settings.progress(f"norms of whole tensors, threads: {number}")
        for rule, limit in WHOLE_TENSORS.items():
            with threads(number):
                steps = {OURS: getattr(optim, rule)(contestants.parameters(shapes)).step}
                times = interleaved(steps | peers.steps(rule, shapes), rounds)
            table.rows.append(_beside(PEERS[0], rule, number, times, limit))
    settings.note(peers.notes)
    return table


def opaque_calls(name: str, settings: Settings) -> Table:
    """Time Muon, whose matrix products both leave to torch; and all but those products, by no iterations."""
    shapes = [(shape[0], math.prod(shape[1:])) for shape in settings.sizes.model if len(shape) > 1]
    rounds = settings.rounds
    table = Table(
        f"Muon: {len(shapes)} matrices, {count(sum(map(math.prod, shapes)))}",
        f"torch.optim.Muon has the same matrix products; without them is with `ns_steps=0`; n = {rounds}.",
        ("rule", "threads", "ours, ms", "torch, ms", "ratio", "limit"),
    )
    for number in settings.threads:
        settings.progress(f"Muon, threads: {number}")
        for title, options, limit in (("Muon", {}, MATRICES), ("Muon without the products", {"ns_steps": 0}, None)):
            with threads(number):
                ours, theirs = (
                    module.Muon(contestants.parameters(shapes), **options) for module in (optim, torch.optim)
                )
                times = interleaved({OURS: ours.step, "torch": theirs.step}, rounds)
            table.rows.append(_beside("torch", title, number, times, limit))
    return table


def _beside(peer: str, rule: str, number: int, times: Mapping[str, Timing], limit: float | None) -> Row:
    ours = times[OURS]
    if peer not in times:
        return Row((rule, str(number), _with_quartiles(ours), "-", "-", _limit(limit)))
    theirs = times[peer]
    ratio = ours.median / theirs.median
    cells = (rule, str(number), _with_quartiles(ours), _with_quartiles(theirs), f"{ratio:.3f}", _limit(limit))
    return Row(cells, None if limit is None else ratio <= limit, slower=ratio > 1)


def low_precision(name: str, settings: Settings) -> Table:
    """Time steps in bfloat16 beside ours in float32."""
    rule, size = "AdamW", settings.sizes.large
    table = Table(
        f"bfloat16: one tensor of {count(size)}",
        "Parameters and gradients in bfloat16, against our own step in float32 in the same run; "
        f"n = {settings.rounds}.",
        ("rule", "threads", "types", "ms", "/ our float32", "limit"),
    )
    for number in settings.threads:
        settings.progress(f"bfloat16, threads: {number}")
        with threads(number):
            times = interleaved(contestants.in_bfloat16(rule, size), settings.rounds)
        for types, timing in times.items():
            ratio = timing.median / times["float32"].median
            limit = BFLOAT16.get(types)
            cells = (rule, str(number), types, _with_quartiles(timing), f"{ratio:.2f}", _limit(limit))
            table.rows.append(Row(cells, None if limit is None else ratio <= limit))
    return table


def comparison(
    rule: str, number: int, caches: str, times: Mapping[str, Timing], limit: float, others: Sequence[str]
) -> Row:
    """The line of one rule: our time, its ratio to the best of torch's, and to each.

    Args:
        rule: its class's name.
        number: of threads.
        caches: what they hold as a step begins.
        times: by contestant, ours among them.
        limit: what the ratio to the best of torch's may be.
        others: the contestants that have a column each.
    """
    ours = times[OURS].median
    best = min((name for name in times if name in IMPLEMENTATIONS), key=lambda name: times[name].median)
    ratio = ours / times[best].median
    each = [f"{ours / times[name].median:.2f}" if name in times else "-" for name in others]
    theirs = f"{milliseconds(times[best].median)} ({best})"
    cells = (rule, str(number), caches, _with_quartiles(times[OURS]), theirs, f"{ratio:.3f}", *each, _limit(limit))
    return Row(cells, ratio <= limit, slower=ratio > 1)


def _others(peers: bool) -> tuple[str, ...]:
    return (*IMPLEMENTATIONS, *PEERS) if peers else tuple(IMPLEMENTATIONS)


def _columns(peers: bool) -> tuple[str, ...]:
    others = (f"/ {name}" for name in _others(peers))
    return ("rule", "threads", "caches", "ours, ms", "best of torch, ms", "ours / best", *others, "limit")


def _with_quartiles(timing: Timing) -> str:
    low, high = milliseconds(timing.low), milliseconds(timing.high)
    return f"{milliseconds(timing.median)} ({low} to {high})"


def _limit(limit: float | None) -> str:
    return "-" if limit is None else f"{limit:.2f}"
