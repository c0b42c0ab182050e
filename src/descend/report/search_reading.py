"""Reading the file `search.json` of a search for rules; what does not fit the format is named with its place."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from descend.report.decoding import decode
from descend.report.files import document
from descend.report.search_results import FORMAT, SearchResults


def read(path: Path) -> SearchResults:
    """Read a `search.json` and check it against the format.

    Raises FileNotFoundError where there is none, ValueError where it is damaged, of a newer format or of another kind
    of run; all name the file and the remedy.
    """
    missing = "give the directory of a finished search, or finish the search by repeating its command"
    data = document(path, FORMAT, "search", missing=missing, damaged=_damaged)
    manifest = data.get("manifest")
    own = manifest.get("kind") if isinstance(manifest, dict) else None
    # Documents of other kinds name theirs at the top.
    if data.get("kind", own) not in (None, "search"):
        raise ValueError(f"{path} is not of a search; give the search.json of one")
    try:
        results: SearchResults = decode(SearchResults, data)
        _check(results)
    except ValueError as error:
        raise ValueError(_damaged(path, str(error))) from None
    return results


def _damaged(path: Path, why: str) -> str:
    return f"{path} is damaged: {why}; repeat the search's command, with --fresh if it reports the search as finished"


def _check(results: SearchResults) -> None:
    """Raise ValueError where numbers that belong together do not."""
    best = results.best_rewards
    for index, found in enumerate(results.improvements):
        if not 1 <= found.evaluation <= len(best) or found.reward != best[found.evaluation - 1]:
            raise ValueError(f"improvements[{index}] is not in best_rewards")
    tier = 1
    for index, row in enumerate(results.leaderboard):
        place = f"leaderboard[{index}]"
        if row.rank != index + 1:
            raise ValueError(f"{place}.rank is {row.rank}, not {index + 1}")
        if row.tier not in (tier, tier + 1) or (index == 0 and row.tier != 1):
            raise ValueError(f"{place}.tier is {row.tier}, which does not follow {tier}")
        tier = row.tier
    for index, one in enumerate(results.held_out):
        if not _is_within(one.directory):
            raise ValueError(f"held_out[{index}].directory is {one.directory!r}, which is no path within the run")


def _is_within(directory: str) -> bool:
    """Whether a path stays in the directory that it is relative to; neither an address nor a drive does."""
    parts = PurePosixPath(directory).parts
    return bool(parts) and ".." not in parts and not re.search(r"^/|[:\\]", directory)
