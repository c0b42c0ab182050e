"""The command line: options, their help, and what each command calls."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from descend import __version__, commands, option_values
from descend.cli.diagnosing import diagnose
from descend.cli.meta_training import meta_train
from descend.cli.printing import console, output, print_cache, print_comparison, print_study
from descend.cli.searching import search
from descend.cli.words import in_words
from descend.experiments import defaults


def results_schema() -> str:
    """Return the schema of `results.json` as text."""
    import json

    from descend import report

    return json.dumps(report.schema(), indent=1)


def show_version(wanted: bool) -> None:
    """Print the version and end, if that is asked for."""
    if wanted:
        print(f"descend {__version__}")
        raise typer.Exit


full, quickly = defaults.FULL, defaults.QUICK
application = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


application.add_typer(search, name="search")
application.command()(diagnose)
application.command()(meta_train)


@application.callback()
def descend(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=show_version)
    ] = False,
) -> None:
    """Optimizers for PyTorch, each written once as a formula."""


@application.command()
def compare(
    task: Annotated[
        str, typer.Option(help="Name of a task, or a Python file: a task's, or a training script.")
    ] = "digits",
    optimizers: Annotated[
        str | None,
        typer.Option(help=f"Names or rules' files, separated by commas; by default {','.join(defaults.OPTIMIZERS)}."),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(help=f"Rates per optimizer ({full.trials}; quick: {quickly.trials}).")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help=f"Fresh seeds per optimizer ({full.seeds}; quick: {quickly.seeds}).")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps per trial (the task's; quick: a quarter).")] = None,
    grid: Annotated[
        str | None, typer.Option(help="One more hyper-parameter to tune: weight_decay=0,1e-4,1e-3.")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(help='The shape of the rate: "warmup(50) >> warm_restarts(100, mult=2)".')
    ] = None,
    snapshots: Annotated[
        int | None, typer.Option(help="Cosine cycles, each with a snapshot; the results add their ensemble.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The smallest honest run: a screening, no claim.")] = False,
    subset: Annotated[int | None, typer.Option(help="Training examples to take; other splits in proportion.")] = None,
    model: Annotated[str | None, typer.Option(help="Which model, of a task with several.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="File or folder with the task's data, in place of DESCEND_DATA.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Another setting of the task; may be repeated.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Trials at a time (the cores), one thread each.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; by default one under runs/.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over.")] = False,
) -> None:
    """Compare optimizers on a task, each tuned alike.

    Started again with the same options, it goes on where it was stopped.
    """
    from descend.experiments.console import ConsoleProgress

    shown_on = console()
    with in_words(), shown_on.status("loading") as loading:
        comparison = commands.compare(
            task,
            option_values.names(optimizers),
            trials=trials,
            seeds=seeds,
            steps=steps,
            quick=quick,
            subset=subset,
            model=model,
            data=data,
            settings=option_values.settings(setting),
            grid=None if grid is None else option_values.grid(grid),
            schedule=schedule,
            snapshots=snapshots,
            workers=workers,
            out=out,
            fresh=fresh,
            progress=lambda problem: ConsoleProgress(shown_on, problem.metric, loading),
        )
    with output():
        print_comparison(shown_on, comparison)


@application.command()
def ensemble(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a comparison made with --snapshots.")],
    optimizers: Annotated[
        str | None, typer.Option(help="Some of its optimizers, separated by commas; by default all.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer points between snapshots: a screening.")] = False,
    workers: Annotated[int | None, typer.Option(help="Jobs at a time (the cores), one thread each.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Throw away what an earlier study kept.")] = False,
) -> None:
    """Say what a comparison's snapshots are worth at equal cost.

    Trains the controls that the run lacks, and keeps them in it. Started again, it goes on where it was stopped.
    """
    from descend.experiments.console import Bar

    shown_on = console()
    with in_words(), shown_on.status("loading") as loading:
        study = commands.ensemble(
            run,
            optimizers=option_values.names(optimizers),
            quick=quick,
            workers=workers,
            fresh=fresh,
            progress=lambda: Bar(shown_on, loading, "jobs"),
        )
    with output():
        print_study(shown_on, study)


@application.command("range-test")
def range_test(
    task: Annotated[str, typer.Option(help="Name of a task, or a Python file with one.")] = "digits",
    optimizer: Annotated[str, typer.Option(help="Name of an optimizer, or a rule's file.")] = "sgd",
    form: Annotated[str, typer.Option(help="How the rate rises: exponential or linear.")] = "exponential",
    low: Annotated[
        float | None, typer.Option(help="First rate (a ten-thousandth of the known one; linear: 0).")
    ] = None,
    high: Annotated[float | None, typer.Option(help="Last rate (a hundred times the known one; linear: 30).")] = None,
    steps: Annotated[int | None, typer.Option(help="Updates per seed (200; quick: 60).")] = None,
    seeds: Annotated[int | None, typer.Option(help="Runs: models, orders of the data (5; quick: 3).")] = None,
    subset: Annotated[int | None, typer.Option(help="Training examples to take.")] = None,
    model: Annotated[str | None, typer.Option(help="Which model, of a task with several.")] = None,
    data: Annotated[Path | None, typer.Option(help="File or folder with the task's data.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Another setting of the task; may be repeated.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The smallest honest run: a screening.")] = False,
    out: Annotated[Path | None, typer.Option(help="A picture: a file that ends in .svg, .png or .html.")] = None,
) -> None:
    """Train under a rising rate, and say where the loss falls."""
    with in_words():
        found = commands.range_test(
            task,
            optimizer,
            form=form,
            low=low,
            high=high,
            steps=steps,
            seeds=seeds,
            subset=subset,
            model=model,
            data=data,
            settings=option_values.settings(setting),
            quick=quick,
            out=out,
        )
    lines = [f"{task}, {optimizer}{', a screening' if quick else ''}: {found}"]
    with output():
        print("\n".join(lines if out is None else [*lines, f"picture: {out}"]))


@application.command()
def report(
    runs: Annotated[list[Path] | None, typer.Argument(metavar="RUN", help="Directories of finished runs.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="An HTML file; by default the run's report.html, or joined.html.")
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of results.json.")] = False,
) -> None:
    """Write a run's report anew, or join runs in one page."""
    from descend.experiments.errors import UsageError

    if schema == bool(runs):
        raise UsageError("give one run or more, such as runs/demo, or --schema alone")
    said = results_schema() if schema else f"report: {commands.report(runs or [], out=out)}"
    with output():
        print(said)


@application.command()
def show(
    name: Annotated[str, typer.Argument(help="An optimizer, such as adamw, or a rule's file.")],
    hyper_parameters: Annotated[
        list[str] | None, typer.Argument(metavar="[HYPER=VALUE]...", help="Choose the variant: momentum=0.9.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Print source code instead: cpp, the fused kernel; or python.")
    ] = None,
) -> None:
    """Print an optimizer's formula, LaTeX, state, cost and variants."""
    described = commands.show(name, source=source, **option_values.assignments(hyper_parameters or []))
    with output():
        print(described)


@application.command("list")
def list_(
    kind: Annotated[str | None, typer.Argument(help="optimizers, schedules or tasks; by default all.")] = None,
) -> None:
    """Name optimizers, schedules and tasks, with a line each."""
    listing = commands.list_(kind)
    with output():
        for heading, lines in listing.items():
            print(heading if len(listing) > 1 else "", end="\n" if len(listing) > 1 else "")
            width = max(map(len, lines), default=0)
            for name, line in lines.items():
                print(f"  {name:<{width}}  {line}")


@application.command()
def cache(clear: Annotated[bool, typer.Option("--clear", help="Remove them all.")] = False) -> None:
    """List the compiled kernels that are kept on disk.

    One that was not loaded for 90 days is removed when another one is stored.
    """
    kept = commands.cache(clear=clear)
    with output():
        print_cache(kept, clear)


@application.command()
def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Few rounds and rules: a screening, no claim.")] = False,
    threads: Annotated[
        str | None, typer.Option(help="Numbers of threads up to the cores, separated by commas (1,2).")
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(help="How often each step is timed (15; quick: 5); short steps take twice as many."),
    ] = None,
    case: Annotated[str | None, typer.Option(help="Names, separated by commas; by default all.")] = None,
    rules: Annotated[
        str | None, typer.Option(help="Names; by default AdamW and what torch has not fused (quick: two of them).")
    ] = None,
    heavyball: Annotated[bool, typer.Option("--heavyball", help="Measure HeavyBall too, for minutes.")] = False,
    out: Annotated[Path | None, typer.Option(help="A Markdown file for the tables.")] = None,
) -> None:
    """Time steps beside torch's, and print tables with targets.

    Cases: large, model, tensors, groups, bfloat16, clip-ema, norms, matrices, bandwidth, memory, first-step
    (which also steps SGD, to load what all rules share), search, curvature.
    """
    page = commands.bench(
        quick=quick,
        threads=None if threads is None else option_values.counts(threads),
        rounds=rounds,
        cases=option_values.names(case),
        rules=option_values.names(rules),
        heavyball=heavyball,
        out=out,
        progress=lambda message: print(message, file=sys.stderr, flush=True),
    )
    with output():
        print(page)
