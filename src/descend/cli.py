"""The `descend` command: argument parsing around `descend.commands`, and errors as one line."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    import typer
    from rich.console import Console

INSTALL = "pip install 'descend[lab]'"
"""What is printed when the extra is missing."""

_LAB = ("typer", "rich", "optuna", "sqlalchemy", "scipy", "sklearn", "altair", "jinja2", "vl_convert")
_INTERRUPTED = 130
_PLAIN_WIDTH = 110


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
        _say(f"this command needs more packages: {INSTALL}")
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
        return int(_application()(words, prog_name="descend", standalone_mode=False) or 0)
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

    application = typer.Typer(
        help="Optimizers for PyTorch, each written once as a formula.",
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )

    @application.command()
    def compare(
        task: Annotated[str, typer.Option(help="Name of a task, or a Python file with one.")] = "digits",
        optimizers: Annotated[str | None, typer.Option(help="Names, separated by commas; by default eight.")] = None,
        trials: Annotated[int | None, typer.Option(help="Rates per optimizer (9; quick: 7).")] = None,
        seeds: Annotated[int | None, typer.Option(help="Fresh seeds per optimizer (6; quick: 3).")] = None,
        steps: Annotated[int | None, typer.Option(help="Steps per trial (the task's; quick: a quarter).")] = None,
        quick: Annotated[bool, typer.Option("--quick", help="The smallest honest run: a screening, no claim.")] = False,
        out: Annotated[Path | None, typer.Option(help="Run directory; by default one under runs/.")] = None,
        fresh: Annotated[bool, typer.Option("--fresh", help="Start over.")] = False,
    ) -> None:
        """Compare optimizers on a task; started again, it goes on where it was stopped."""
        import descend.commands as commands
        from descend.experiments.console import ConsoleProgress
        from descend.experiments.errors import Interrupted, UsageError
        from descend.tasks import TaskError

        console = _console()
        try:
            comparison = commands.compare(
                task,
                None if optimizers is None else [name.strip() for name in optimizers.split(",") if name.strip()],
                trials=trials,
                seeds=seeds,
                steps=steps,
                quick=quick,
                out=out,
                fresh=fresh,
                progress=lambda problem: ConsoleProgress(console, problem.metric),
            )
        except TaskError as error:
            raise UsageError(str(error)) from error
        except Interrupted as stop:  # said here, as Typer would end the command without a word
            _say(str(stop))
            raise typer.Exit(_INTERRUPTED) from None
        _print_results(console, comparison)

    @application.command()
    def show(
        name: Annotated[str, typer.Argument(help="An optimizer, such as adamw.")],
        hyper_parameters: Annotated[
            list[str] | None, typer.Argument(metavar="[HYPER=VALUE]...", help="Choose the variant: momentum=0.9.")
        ] = None,
    ) -> None:
        """Print an optimizer's formula, LaTeX, state, cost and variants."""
        import descend.commands as commands

        print(commands.show(name, **dict(_assignment(word) for word in hyper_parameters or [])))

    @application.command("list")
    def list_(
        kind: Annotated[str | None, typer.Argument(help="optimizers, schedules or tasks; by default all.")] = None,
    ) -> None:
        """Name optimizers, schedules and tasks, with a line each."""
        import descend.commands as commands

        listing = commands.list_(kind)
        for heading, lines in listing.items():
            print(heading if len(listing) > 1 else "", end="\n" if len(listing) > 1 else "")
            width = max(map(len, lines), default=0)
            for name, line in lines.items():
                print(f"  {name:<{width}}  {line}")

    return application


def _assignment(word: str) -> tuple[str, object]:
    from descend.experiments.errors import UsageError

    name, equals, text = word.partition("=")
    if not equals or not name.isidentifier():
        raise UsageError(f"'{word}' is no hyper-parameter; write name=value, such as momentum=0.9")
    return name, _value(text)


def _value(text: str) -> Any:
    """Read a hyper-parameter's value: true, false, none, a number, numbers separated by commas, or else a word."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    if "," in text:
        return tuple(_value(part) for part in text.split(",") if part)
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def _console() -> "Console":
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=_PLAIN_WIDTH)


def _print_results(console: "Console", comparison: Any) -> None:
    from descend.experiments.console import table

    console.print(table(comparison.results))
    for caveat in comparison.results["caveats"]:
        console.print(f"- {caveat}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"\nreport: {comparison.report}", highlight=False, markup=False, soft_wrap=True)
