"""The sentence that the data of a comparison support, and no more."""

from __future__ import annotations

from descend.report.formats import Metric, count, listing
from descend.report.results import Results, Row


def finding(results: Results) -> str:
    """One sentence or two on the final results: who leads, and whether the seeds separate it from the others.

    Overlap of the 95 % intervals with the leader's is all that is judged, so that the sentence never speaks of
    significance, nor of two that follow.
    """
    metric, titles = Metric.of(results), results.titles()
    measured = [row for row in results.summary if not row.failed]
    if not measured:
        return "Every optimizer diverged at its chosen rate, so there is no test result to compare."
    leader = measured[0]
    sentence = _lead(leader, measured, metric, titles)
    lost = [f"{titles[row.optimizer]} diverged in {divergence(row)}" for row in results.summary if row.diverged]
    return f"{sentence} {listing(lost)}." if lost else sentence


def divergence(row: Row) -> str:
    """How many of an optimizer's final seeds diverged: `2 of 3 seeds`, `both seeds`, `all three seeds`."""
    if 1 < row.diverged == row.n:
        return "both seeds" if row.n == 2 else f"all {count(row.n, 'seed')}"
    return f"{row.diverged} of {row.n} seed{'' if row.n == 1 else 's'}"


def followers(results: Results) -> str:
    """Which optimizers follow the schedule, and where it multiplies something else than the rate."""
    own = [optimizer.title for optimizer in results.optimizers if optimizer.scheduled is None]
    if len(own) == len(results.optimizers):
        return "No optimizer follows it."
    others = [
        f"In {optimizer.title} it multiplies {optimizer.scheduled} in place of the rate."
        for optimizer in results.optimizers
        if optimizer.scheduled not in (None, "lr")
    ]
    return " ".join([f"All optimizers {f'but {listing(own)} ' if own else ''}follow it, as it was run.", *others])


def _lead(leader: Row, measured: list[Row], metric: Metric, titles: dict[str, str]) -> str:
    name, seeds = f"{titles[leader.optimizer]} {metric.mean(leader)}", count(leader.n, "seed")
    subject = f"test {metric.name}"
    if len(measured) == 1:
        return f"{name} is the only result on {subject}, over {seeds}; there is nothing to compare it with."
    if leader.test_low is None or leader.test_high is None:
        best = "highest" if metric.higher_is_better else "lowest"
        return f"{name} is the {best} {subject}, but {seeds} cannot tell how much of the difference is chance."
    rivals = [row for row in measured[1:] if _overlap(leader, row)]
    if not rivals:
        return f"{name} leads on {subject}; over {seeds} its interval overlaps no other."
    if len(rivals) == 1:
        who = f"that of {titles[rivals[0].optimizer]}"
    elif len(rivals) == len(measured) - 1 and len(rivals) > 3:
        who = f"those of all {count(len(rivals), 'other')}"
    else:
        who = f"those of {listing([titles[row.optimizer] for row in rivals])}"
    others = "them" if len(rivals) > 1 else titles[rivals[0].optimizer]
    return f"{name} leads on {subject}; its interval overlaps {who}, so these {seeds} do not separate it from {others}."


def _overlap(one: Row, other: Row) -> bool:
    """Whether two intervals meet; a bare mean counts for one that is missing."""
    return min(one.reach()) <= max(other.reach()) and min(other.reach()) <= max(one.reach())
