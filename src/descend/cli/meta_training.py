"""The command line of `descend meta-train`."""

from pathlib import Path
from typing import Annotated

import typer

from descend import commands
from descend.cli.printing import console, output, print_meta_training
from descend.cli.words import in_words


def meta_train(
    task: Annotated[
        str, typer.Option(help="What it is learned on: quadratics, digits-mlp or mnist-mlp.")
    ] = "quadratics",
    network: Annotated[
        str, typer.Option(help="lstm, by backpropagation through unrolls; or mlp, by evolution strategies.")
    ] = "lstm",
    seeds: Annotated[int | None, typer.Option(help="Trainings, each by itself (3; quick: 1).")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few episodes: a screening.")] = False,
    workers: Annotated[int | None, typer.Option(help="Jobs at a time (the cores), one thread each.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; by default one under runs/.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over.")] = False,
) -> None:
    """Learn an optimizer that is a network, beside tuned rules.

    Started again with the same options, it goes on where it was stopped.
    """
    from descend.experiments.console import Bar

    shown_on = console()
    with in_words(), shown_on.status("loading") as loading:
        found = commands.meta_train(
            task,
            network=network,
            seeds=seeds,
            quick=quick,
            workers=workers,
            out=out,
            fresh=fresh,
            progress=lambda: Bar(shown_on, loading, "jobs"),
        )
    with output():
        print_meta_training(shown_on, found)
