"""`find_rules`: the search for update rules."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from descend.commands.comparing import compare
from descend.commands.needs import FOR_COMPARISONS, require

if TYPE_CHECKING:
    from descend.experiments.run_directory import RunDirectory
    from descend.experiments.workers import Here, Pool
    from descend.search.budget import Budget
    from descend.search.evaluation import Recipe
    from descend.search.policies import Policy
    from descend.search.progress import Noted, Progress
    from descend.search.screening import Screening
    from descend.search.space import Space
    from descend.tasks import Problem

KNOWN = ("adam", "adamw", "sgd", "powersign", "addsign")
"""The optimizers that finalists are compared with."""
_RULES, _HELD_OUT = "rules", "held-out"


@dataclass(frozen=True)
class Search:
    """A finished search.

    Attributes:
        directory: where everything of it is.
        results: the content of its `search.json`.
        report: its HTML page.
    """

    directory: Path
    results: Mapping[str, Any]
    report: Path


@dataclass(frozen=True)
class _Extent:
    """How much a search does after the search: rules on the leaderboard, fresh seeds of each, finalists."""

    top: int
    seeds: int
    finalists: int


_FULL, _QUICK = _Extent(30, 8, 3), _Extent(8, 3, 1)


@dataclass(frozen=True)
class _Parts:
    """What a search is put together of."""

    space: Space[Any]
    policy: Policy[Any]
    screening: Screening[Any]
    recipe: Recipe
    budget: Budget
    extent: _Extent

    def carried_out(self, run: RunDirectory, hands: Here | Pool, progress: Progress) -> dict[str, Any]:
        """Search, train the leaderboard, and return the results without held-out tasks."""
        from descend.search import leaderboard
        from descend.search.document import document
        from descend.search.evaluation import Evaluator
        from descend.search.formulas import one_line
        from descend.search.run import search
        from descend.search.store import Store

        space, screening, recipe = self.space, self.screening, self.recipe
        with contextlib.closing(Store(run.trials)) as store:
            evaluate = Evaluator(space, screening, recipe, store, hands)
            found = search(
                self.policy,
                space,
                screening,
                evaluate,
                store,
                self.budget,
                progress,
                lambda member: one_line(space.rule(member)),
            )
            among = leaderboard.candidates(space, screening, found.members, self.extent.top)
            seeds = leaderboard.FRESH_SEEDS[: self.extent.seeds]
            rows = leaderboard.train(among, recipe, seeds, store, hands, progress.training)
        return document(run.manifest, space, screening, recipe, found, rows)


def find_rules(
    space: str = "nos",
    policy: str = "evolution",
    task: str = "digits",
    budget: str | int | None = None,
    *,
    depth: int | None = None,
    decays: bool = False,
    reward: str = "loss",
    seed: int = 0,
    held_out: str | Sequence[str] | None = None,
    rungs: Sequence[tuple[int, int]] | None = None,
    workers: int | None = None,
    quick: bool = False,
    out: str | Path | None = None,
    fresh: bool = False,
    progress: Callable[[], Progress] | None = None,
) -> Search:
    """Search for update rules: propose formulas, train each on a small network, rank the best with fresh seeds.

    1. Search: the policy proposes; what is new and descends on probes is trained at seven rates and two seeds, and
       rewarded by validation examples.
    2. Leaderboard: the best are trained again, beside known rules, with seeds that selected nothing
       (`descend.search.leaderboard`).
    3. Held-out tasks: the first of them that are no known rules go to `compare`, beside known optimizers.

    Killed and started again with the same arguments, it continues; with a budget in evaluations it ends with the same
    numbers for any number of workers. A finished search is read, not repeated. Bello et al. 2017, arXiv:1709.07417
    (space "nos"); Chen et al. 2023, arXiv:2302.06675 (space "programs", whose evolution starts from AdamW).

    Args:
        space: "nos", sentences of one to three groups, or "programs".
        policy: "evolution", "controller" (of sentences only) or "random".
        task: of the child network: "digits", "mnist" or "cifar10". Its test examples are not seen.
        budget: a time, such as "90s", "20m" or "1.5h", or a number of distinct evaluations, such as 2000 (20m; quick:
            2m).
        depth: groups of a sentence, 1 to 3 (1).
        decays: whether sentences may have decays over the training.
        reward: "loss", exp(-validation cross-entropy), or "accuracy".
        seed: of the policy.
        held_out: names of tasks to compare the finalists on (digits and, where its data are there, mnist; quick:
            digits), in a list or between commas; "none" or empty for none.
        rungs: pairs of a step and how many of the seven rates are trained up to it (30: 7, 100: 3, 200: 1; on cifar10
            100: 7, 500: 1, which is one epoch and five).
        workers: trainings at a time, each in a process of one thread; by default as many as there are cores.
        quick: a smaller leaderboard and quick comparisons, a screening.
        out: the run directory; by default one under `runs/`, named after the options.
        fresh: start over.
        progress: makes the object that is told how it goes on.

    Raises:
        ModuleNotFoundError: a package of the lab extra is missing.
        TaskError: a held-out task is unknown, or data are missing or damaged.
        UsageError: another argument makes no sense.
        RunError: the run directory holds something else, is in use, damaged, or cannot be written.
        Interrupted: stopped by Ctrl-C; the message says how to go on.
    """
    require(FOR_COMPARISONS)
    from descend.experiments import options, run_directory
    from descend.experiments import workers as processes
    from descend.experiments.errors import Interrupted
    from descend.search import budget as budgets
    from descend.search import run as searching
    from descend.search.progress import Noted, Silence
    from descend.search.screening import Screening

    if isinstance(held_out, str):
        held_out = [] if held_out == "none" else [name.strip() for name in held_out.split(",")]
    chosen = searching.space(space, depth, decays)
    spent = budgets.parse(("2m" if quick else "20m") if budget is None else budget)
    recipe = recipe_of(task, reward, rungs)
    screening: Screening[Any] = Screening(chosen)
    proposing = searching.policy(policy, chosen, screening, seed)
    on, note = _held_out(held_out, quick)
    at_a_time = options.at_least("workers", 1, processes.available() if workers is None else workers)
    asked = {
        "space": space,
        "policy": policy,
        "task": task,
        "budget": str(budget) if budget is not None else "2m" if quick else "20m",
        "depth": getattr(chosen, "depth", None),
        "decays": decays,
        "reward": reward,
        "seed": seed,
        "held_out": on,
        "rungs": [list(rung) for rung in recipe.rungs],
        "quick": quick,
    }
    problem, asked["data_sha256"] = loaded(task)
    words = None if held_out is None else ",".join(held_out) or "none"
    command = command_line({**asked, "depth": depth, "held_out": words, "workers": workers, "out": out})
    extent = _QUICK if quick else _FULL
    directory = Path(out) if out is not None else Path("runs") / _directory_name(asked)
    manifest = _manifest(asked, extent, recipe, command, at_a_time)
    with run_directory.opened(directory, manifest, fresh, searching.SEARCH) as run:
        document = run.results()
        if document is None:
            told = Noted(progress() if progress else Silence())
            try:
                with processes.hands(task, {}, problem, at_a_time) as hands:
                    parts = _Parts(chosen, proposing, screening, recipe, spent, extent)
                    document = parts.carried_out(run, hands, told)
                document["caveats"] += [note] if note else []
                _compare(document, extent.finalists, on, run, workers, told)
            except Interrupted as stop:  # within a comparison
                stop.command = command
                raise
            except KeyboardInterrupt:
                interrupted = Interrupted(*told.place)
                interrupted.command = command
                raise interrupted from None
            finally:
                told.end()
            run.write_results(document)
        return Search(directory, document, _page(run))


def recipe_of(task: str, reward: str, rungs: Sequence[tuple[int, int]] | None) -> Recipe:
    """Return how rules are trained on the child network of a task; UsageError for what makes no sense."""
    from descend.experiments.errors import UsageError
    from descend.search import children
    from descend.search.evaluation import RELATIVE_RATES, REWARDS, Recipe

    if task not in children.names():
        raise UsageError(f"task is {task!r}; there is a child network for {', '.join(children.names())}")
    if reward not in REWARDS:
        raise UsageError(f"reward is {reward!r}; choose {' or '.join(REWARDS)}")
    recipe = Recipe.of(task, reward)
    if rungs is None:
        return recipe
    steps, counts = zip(*rungs, strict=True) if rungs else ((0,), (0,))
    is_rising = list(steps) == sorted(set(steps)) and steps[0] >= 1
    is_falling = list(counts) == sorted(counts, reverse=True) and counts[-1] >= 1
    if not is_rising or not is_falling or counts[0] != len(RELATIVE_RATES):
        raise UsageError(f"rungs is {rungs!r}; give rising steps from 1 with fewer and fewer of the seven rates")
    return replace(recipe, rungs=tuple((int(step), int(count)) for step, count in rungs))


def _held_out(asked: Sequence[str] | None, quick: bool) -> tuple[list[str], str]:
    """The tasks to compare on, their data being there, and what is to be said of one that is left out."""
    from descend import tasks
    from descend.tasks import TaskError

    if asked is not None:
        for name in asked:
            tasks.load(name).sizes  # noqa: B018 (loads the data: what is missing is said before anything is written)
        return list(asked), ""
    if quick:
        return ["digits"], ""
    try:
        tasks.load("mnist").sizes  # noqa: B018
    except TaskError:
        missing = "mnist is no held-out task, as its data are not there"
        return ["digits"], f"{missing}; `descend compare --task mnist` says how to get them."
    return ["digits", "mnist"], ""


def loaded(task: str) -> tuple[Problem, str | None]:
    """Return the task of a child, whose data are loaded here, and their hash."""
    from descend import tasks
    from descend.experiments import options
    from descend.tasks.data import noted

    problem = tasks.load(task)
    with noted() as files:
        problem.sizes  # noqa: B018 (loads the data)
    return problem, options.hashes(task, {}, files)["data_sha256"]


def _manifest(asked: Mapping[str, Any], extent: _Extent, recipe: Recipe, command: str, workers: int) -> dict[str, Any]:
    from descend.experiments.manifest import hardware, versions
    from descend.search.leaderboard import FRESH_SEEDS
    from descend.search.run import SEARCH

    return {
        "format": SEARCH.format,
        "kind": SEARCH.command,
        "options": dict(asked),
        "versions": versions(),
        "hardware": hardware(workers),
        "seeds": {
            "policy": [asked["seed"]],
            "select": list(recipe.seeds),
            "fresh": list(FRESH_SEEDS[: extent.seeds]),
        },
        "command": command,
    }


def _directory_name(asked: Mapping[str, Any]) -> str:
    depth = "" if asked["depth"] is None else str(asked["depth"])
    words = [
        f"search-{asked['space']}{depth}",
        *(["decays"] if asked["decays"] else []),
        asked["policy"],
        asked["task"],
    ]
    words += [asked["budget"], f"seed{asked['seed']}", *(["quick"] if asked["quick"] else [])]
    return "-".join(words)


def command_line(given: Mapping[str, Any]) -> str:
    """Return the command that asks for a search, from the options that it has."""
    words = ["descend", "search"]
    named = ("map", "space", "policy", "task", "budget", "depth", "decays", "reward", "seed", "held_out", "workers")
    for name in (*named, "quick", "out"):
        value = given.get(name)
        if value is True:
            words.append(f"--{name}")
        elif value is not None and value is not False:
            words += [f"--{name.replace('_', '-')}", shlex.quote(str(value))]
    return " ".join(words)


def _compare(
    document: dict[str, Any], count: int, on: Sequence[str], run: RunDirectory, workers: int | None, told: Noted
) -> None:
    """Compare the finalists on held-out tasks, and enter what they come to."""
    from descend.experiments import run_directory

    quick = document["manifest"]["options"]["quick"]
    new = [row for row in document["leaderboard"] if not row["is_known"] and row["known_as"] is None]
    finalists = [row for row in new if not row["schedules"] and row["loss"] is not None][:count]
    if not on:
        return
    if any(row["schedules"] for row in new[: count + 1]):
        document["caveats"].append(
            "Rules with decays of their own took no part on held-out tasks: a comparison drives the rate alone."
        )
    if not finalists:
        document["caveats"].append("No rule that is not known took part on held-out tasks: none was found.")
        return
    (run.path / _RULES).mkdir(exist_ok=True)
    files = []
    for row in finalists:
        path = run.path / _RULES / f"{row['name']}.py"
        run_directory.write_text(path, row["source"])
        files.append(str(path))
    for name in on:
        place = Path(_HELD_OUT) / name
        compared = compare(
            name, [*KNOWN, *files], quick=quick, workers=workers, out=run.path / place, progress=told.comparing(name)
        )
        document["held_out"].append(_summary(compared.results, finalists, place))


def _summary(results: Mapping[str, Any], finalists: Sequence[Mapping[str, Any]], place: Path) -> dict[str, Any]:
    titles = {one["name"]: one["title"] for one in results["optimizers"]}
    ranks = {row["name"]: row["rank"] for row in finalists}
    task, options = results["task"], results["manifest"]["options"]
    taken = ("test_mean", "test_low", "test_high", "validation_mean", "rate")
    rows = [
        {
            "name": row["optimizer"],
            "title": f"found {ranks[row['optimizer']]}" if row["optimizer"] in ranks else titles[row["optimizer"]],
            "rank": ranks.get(row["optimizer"]),
            **{key: row[key] for key in taken},
        }
        for row in results["summary"]
    ]
    return {
        "task": task["name"],
        "title": task["title"],
        "metric": task["metric"],
        "direction": task["direction"],
        "label": results["label"],
        "steps": task["steps"],
        "seeds": options["seeds"],
        "trials": options["trials"],
        "directory": place.as_posix(),
        "rows": rows,
    }


def _page(run: RunDirectory) -> Path:
    """Write the page of a finished search."""
    from descend import report

    return report.write_search(run.path)
