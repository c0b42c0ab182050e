"""The `descend` command: argument parsing around `descend.commands`, and errors as one line."""

import sys

from descend import commands

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
    "contourpy",
    "jinja2",
    "vl_convert",
)
_INTERRUPTED = 130


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

    from descend.cli.application import application
    from descend.cli.words import Stopped
    from descend.experiments.errors import RunError, UsageError

    words = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        code = int(application(words, prog_name="descend", standalone_mode=False) or 0)
        if code == _INTERRUPTED:  # what Typer makes of Ctrl-C, without a word
            _say("stopped")
        return code
    except Stopped as stop:
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
