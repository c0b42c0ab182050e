"""The `descend` command: argument parsing around `descend.commands`, and errors as one line."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from descend import __version__, commands, option_values
from descend.experiments import defaults

if TYPE_CHECKING:
    import typer
    from rich.console import Console

_LAB = (
    "typer",
    "rich",
    "loky",
    "optuna",
    "PIL",
    "sacrebleu",
    "sqlalchemy",
    "scipy",
    "sklearn",
    "altair",
    "jinja2",
    "vl_convert",
)
_INTERRUPTED = 130
_PLAIN_WIDTH = 110


class _Stopped(Exception):
    """A comparison was stopped by Ctrl-C, in words that Typer would swallow."""


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit: 0 done, 1 it failed, 2 it was asked for wrongly, 130 it was interrupted.

    Args:
        arguments: the words after `descend`; by default the process's own.
    """
    try:
        code = _run(arguments)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _LAB:
            raise
        _say(f"this command needs more packages: {commands.INSTALL}")
        code = 1
    except KeyboardInterrupt:
        _say("stopped")
        code = _INTERRUPTED
    sys.exit(code)


def _run(arguments: list[str] | None) -> int:
    import typer

    from descend.experiments.errors import RunError, UsageError

    words = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        code = int(_application()(words, prog_name="descend", standalone_mode=False) or 0)
        if code == _INTERRUPTED:  # what Typer makes of Ctrl-C, without a word
            _say("stopped")
        return code
    except _Stopped as stop:
        _say(str(stop))
        return _INTERRUPTED
    except typer.TyperException as error:
        _say(error.format_message())
        return 2
    except UsageError as error:
        _say(str(error))
        return 2
    except RunError as error:
        _say(str(error))
        return 1


def _say(message: str) -> None:
    print(f"descend: {message}", file=sys.stderr)


def _application() -> "typer.Typer":
    """Build the command line; in a function, so that a missing extra is noticed by `main`."""
    import typer

    full, quickly = defaults.FULL, defaults.QUICK
    application = typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )

    @application.callback()
    def descend(
        version: Annotated[
            bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
        ] = False,
    ) -> None:
        """Optimizers for PyTorch, each written once as a formula."""

    @application.command()
    def compare(
        task: Annotated[
            str, typer.Option(help="Name of a task, or a Python file: a task's, or a training script.")
        ] = "digits",
        optimizers: Annotated[
            str | None, typer.Option(help=f"Names, separated by commas; by default {','.join(defaults.OPTIMIZERS)}.")
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
        subset: Annotated[
            int | None, typer.Option(help="Training examples to take; other splits in proportion.")
        ] = None,
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
        from descend.experiments.errors import Interrupted, UsageError
        from descend.tasks import TaskError

        console = _console()
        try:
            with console.status("loading") as loading:
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
                    progress=lambda problem: ConsoleProgress(console, problem.metric, loading),
                )
        except TaskError as error:
            raise UsageError("\n".join([str(error), *getattr(error, "__notes__", [])])) from error
        except Interrupted as stop:
            raise _Stopped(str(stop)) from None
        with _output():
            _print_results(console, comparison)

    @application.command("range-test")
    def range_test(
        task: Annotated[str, typer.Option(help="Name of a task, or a Python file with one.")] = "digits",
        optimizer: Annotated[str, typer.Option(help="Name of an optimizer.")] = "sgd",
        form: Annotated[str, typer.Option(help="How the rate rises: exponential or linear.")] = "exponential",
        low: Annotated[
            float | None, typer.Option(help="First rate (a ten-thousandth of the known one; linear: 0).")
        ] = None,
        high: Annotated[
            float | None, typer.Option(help="Last rate (a hundred times the known one; linear: 30).")
        ] = None,
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
        from descend.experiments.errors import UsageError
        from descend.tasks import TaskError

        try:
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
        except TaskError as error:
            raise UsageError(str(error)) from error
        lines = [f"{task}, {optimizer}{', a screening' if quick else ''}: {found}"]
        with _output():
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
        said = _schema() if schema else f"report: {commands.report(runs or [], out=out)}"
        with _output():
            print(said)

    @application.command()
    def show(
        name: Annotated[str, typer.Argument(help="An optimizer, such as adamw.")],
        hyper_parameters: Annotated[
            list[str] | None, typer.Argument(metavar="[HYPER=VALUE]...", help="Choose the variant: momentum=0.9.")
        ] = None,
        source: Annotated[
            str | None, typer.Option(help="Print source code instead: cpp, the fused kernel; or python.")
        ] = None,
    ) -> None:
        """Print an optimizer's formula, LaTeX, state, cost and variants."""
        described = commands.show(name, source=source, **option_values.assignments(hyper_parameters or []))
        with _output():
            print(described)

    @application.command("list")
    def list_(
        kind: Annotated[str | None, typer.Argument(help="optimizers, schedules or tasks; by default all.")] = None,
    ) -> None:
        """Name optimizers, schedules and tasks, with a line each."""
        listing = commands.list_(kind)
        with _output():
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
        with _output():
            _print_cache(kept, clear)

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
        (which also steps SGD, to load what all rules share).
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
        with _output():
            print(page)

    return application


def _schema() -> str:
    import json

    from descend import report

    return json.dumps(report.schema(), indent=1)


def _show_version(wanted: bool) -> None:
    import typer

    if wanted:
        print(f"descend {__version__}")
        raise typer.Exit


@contextmanager
def _output() -> Iterator[None]:
    """Print, and let it fail here where it cannot be written, not when Python ends."""
    from descend.experiments.errors import RunError

    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # takes what is still in the buffer
        if isinstance(error, BrokenPipeError):  # its reader has seen enough
            sys.exit(1)
        raise RunError(f"the output cannot be written ({error.strerror})") from error


def _console() -> "Console":
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=_PLAIN_WIDTH)


def _print_results(console: "Console", comparison: Any) -> None:
    from descend.experiments.console import table

    console.print(table(comparison.results, console.width))
    lines = [*(f"- {caveat}" for caveat in comparison.results["caveats"]), f"\nreport: {comparison.report}"]
    for line in [*lines, comparison.note] if comparison.note else lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _print_cache(kept: commands.Cache, clear: bool) -> None:
    width = max((len(kernel.title) for kernel in kept.kernels), default=0)
    now = time.time()
    for kernel in kept.kernels:
        ages = f"compiled {_ago(now - kernel.created)}, used {_ago(now - kernel.used)}"
        print(f"  {kernel.title:<{width}}  {kernel.bytes / 1024:6.1f} KiB  {ages}")
    if clear:
        print(f"{_kernels(kept.removed)} removed from {kept.directory}")
    if kept.kernels or not clear:
        size = sum(kernel.bytes for kernel in kept.kernels) / 1024
        print(f"{_kernels(len(kept.kernels))}, {size:.1f} KiB, in {kept.directory}")


def _kernels(count: int) -> str:
    return f"{count} kernel" + ("" if count == 1 else "s")


def _ago(seconds: float) -> str:
    """Write an age in the largest unit that it fills."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"
