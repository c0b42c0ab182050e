"""`descend search`, and `descend search export`."""

from pathlib import Path
from typing import Annotated

import typer

from descend import commands
from descend.cli.printing import console, output, print_search
from descend.cli.words import in_words

search = typer.Typer(
    add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, invoke_without_command=True
)


@search.callback()
def find(
    context: typer.Context,
    space: Annotated[str, typer.Option(help="nos, sentences of operands and functions; or programs.")] = "nos",
    policy: Annotated[str, typer.Option(help="evolution, controller (of nos) or random.")] = "evolution",
    task: Annotated[str, typer.Option(help="Of the child network: digits, mnist or cifar10.")] = "digits",
    budget: Annotated[
        str | None,
        typer.Option(help="A time, such as 90s, 20m or 1.5h, or a number of distinct evaluations (20m; quick: 2m)."),
    ] = None,
    depth: Annotated[int | None, typer.Option(help="Groups of a sentence of nos, 1 to 3 (1).")] = None,
    decays: Annotated[bool, typer.Option("--decays", help="Let sentences have decays over the training.")] = False,
    reward: Annotated[str, typer.Option(help="loss or accuracy, of validation examples.")] = "loss",
    seed: Annotated[int, typer.Option(help="Of the policy.")] = 0,
    held_out: Annotated[
        str | None,
        typer.Option(help="Tasks to compare the best on, separated by commas, or none (digits,mnist; quick: digits)."),
    ] = None,
    map_: Annotated[
        bool, typer.Option("--map", help="Make the map instead: all sentences of one group, trained.")
    ] = False,
    workers: Annotated[int | None, typer.Option(help="Trainings at a time (the cores), one thread each.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A small leaderboard: a screening, no claim.")] = False,
    out: Annotated[Path | None, typer.Option(help="Run directory; by default one under runs/.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over.")] = False,
) -> None:
    """Search for update rules, and rank the best with fresh seeds.

    Started again with the same options, it goes on where it was stopped.
    """
    if context.invoked_subcommand is not None:
        _refuse_others(context, f"descend search {context.invoked_subcommand}", ())
        return
    if map_:
        _refuse_others(context, "--map", ("map_", "task", "workers", "out", "fresh"))
        _make_map(task, workers, out, fresh)
        return
    from descend.search.showing import SearchProgress

    shown_on = console()
    with in_words(), shown_on.status("loading") as loading:
        found = commands.find_rules(
            space,
            policy,
            task,
            budget,
            depth=depth,
            decays=decays,
            reward=reward,
            seed=seed,
            held_out=held_out,
            workers=workers,
            quick=quick,
            out=out,
            fresh=fresh,
            progress=lambda: SearchProgress(shown_on, loading),
        )
    with output():
        print_search(shown_on, found)


@search.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a finished search.")],
    rank: Annotated[int, typer.Argument(metavar="RANK", help="A rule's place on its leaderboard, from 1.")],
    out: Annotated[Path | None, typer.Option(help="The Python file; by default the rule's name with .py.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the rule; by default found with the rank.")] = None,
) -> None:
    """Write a rule that was found as a Python file."""
    exported = commands.export_rule(run, rank, out=out, name=name)
    with output():
        print(f"written: {exported.path}\n\n{exported.usage}")


def _refuse_others(context: typer.Context, what: str, taken: tuple[str, ...]) -> None:
    """Raise UsageError for options that would be ignored."""
    from descend.experiments.errors import UsageError

    sources = {name: context.get_parameter_source(name) for name in context.params if name not in taken}
    given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if given:
        options = ", ".join(f"--{name.strip('_').replace('_', '-')}" for name in given)
        raise UsageError(f"{what} does not go with {options}; leave {'it' if len(given) == 1 else 'them'} out")


def _make_map(task: str, workers: int | None, out: Path | None, fresh: bool) -> None:
    from descend.search.showing import MapProgress

    shown_on = console()
    with in_words(), shown_on.status("loading") as loading:
        progress = MapProgress(shown_on, loading)
        try:
            table = commands.make_map(task, workers=workers, out=out, fresh=fresh, progress=lambda: progress)
        finally:
            progress.end()
    with output():
        print(f"map: {table}")
