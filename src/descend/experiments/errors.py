"""What can go wrong for reasons outside the code; each message says what to do."""


class UsageError(ValueError):
    """What was asked for makes no sense: an unknown name, a number out of range."""


class RunError(RuntimeError):
    """A run directory cannot be used or written."""


class Interrupted(KeyboardInterrupt):
    """A run was stopped from the keyboard; the message says how far it is and how to go on.

    Args:
        done: trials that are finished and kept.
        total: trials that the run has.
        what: is done, where it is no trials.
    """

    def __init__(self, done: int, total: int, what: str = "trials") -> None:
        super().__init__()
        self.what = what
        self.done = done
        self.total = total
        self.command: str | None = None

    def __str__(self) -> str:
        how = f":\n  {self.command}" if self.command else "."
        return f"stopped after {self.done} of {self.total} {self.what}, which are kept. The same command goes on{how}"
