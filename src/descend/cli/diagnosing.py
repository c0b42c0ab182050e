"""The command line of `descend diagnose`."""

from pathlib import Path
from typing import Annotated

import typer

from descend import commands, option_values
from descend.cli.printing import console, output, print_diagnosis
from descend.cli.words import in_words


def diagnose(
    task: Annotated[str, typer.Option(help="Name of a task, or a Python file with one.")] = "digits",
    checkpoint: Annotated[
        list[Path] | None, typer.Option(help="File with trained weights, in place of training; may be repeated.")
    ] = None,
    population: Annotated[
        Path | None, typer.Option(help="Table of checkpoints and their hyper-parameters, in place of checkpoints.")
    ] = None,
    optimizer: Annotated[str, typer.Option(help="Name of an optimizer that trains, or a rule's file.")] = "sgd",
    rate: Annotated[float | None, typer.Option(help="Its peak rate (the known one).")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps per training (the task's; quick: a quarter).")] = None,
    seeds: Annotated[int | None, typer.Option(help="Solutions that are trained (3; quick: 2).")] = None,
    examples: Annotated[
        int | None, typer.Option(help="Training examples that instruments see (2000; quick: 500).")
    ] = None,
    ceiling: Annotated[float, typer.Option(help="Of the time of watching the first training, a share of it.")] = 0.03,
    instruments: Annotated[
        str | None,
        typer.Option(
            help="Some of eigenvalues,trace,density,sharpness,rescaling,slices,interpolation,trajectory,memorization,"
            "directions,symmetry,measures,training."
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Coarse grids, few examples: a screening.")] = False,
    subset: Annotated[int | None, typer.Option(help="Training examples to take; other splits in proportion.")] = None,
    model: Annotated[str | None, typer.Option(help="Which model, of a task with several.")] = None,
    data: Annotated[Path | None, typer.Option(help="File or folder with the task's data.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Another setting of the task; may be repeated.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Jobs at a time (the cores), one thread each.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; by default one under runs/.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over.")] = False,
) -> None:
    """Measure trained weights, from curvature to symmetry.

    Trains solutions of its own, or takes checkpoints. Started again with the same options, it goes on where it was
    stopped.
    """
    from descend.experiments.console import Bar

    shown_on = console()
    with in_words(), shown_on.status("loading") as loading:
        found = commands.diagnose(
            task,
            checkpoint or [],
            population=population,
            optimizer=optimizer,
            rate=rate,
            steps=steps,
            seeds=seeds,
            examples=examples,
            ceiling=ceiling,
            instruments=option_values.names(instruments),
            quick=quick,
            subset=subset,
            model=model,
            data=data,
            settings=option_values.settings(setting),
            workers=workers,
            out=out,
            fresh=fresh,
            progress=lambda: Bar(shown_on, loading, "measurements"),
        )
    with output():
        print_diagnosis(shown_on, found)
