"""What a comparison does unless told otherwise; free of torch, so that the command line's help can say it."""

from dataclasses import dataclass

OPTIMIZERS = ("sgd", "adam", "adamw", "amsgrad", "rmsprop", "powersign", "addsign", "lion")


@dataclass(frozen=True)
class Thoroughness:
    """How much a comparison does unless told otherwise.

    Attributes:
        trials: rates per optimizer.
        seeds: fresh seeds per optimizer.
        steps_share: the task's own number of steps is divided by this.
    """

    trials: int
    seeds: int
    steps_share: int


FULL = Thoroughness(trials=9, seeds=6, steps_share=1)
QUICK = Thoroughness(trials=7, seeds=3, steps_share=4)
"""The smallest honest run; anything smaller supports no claim either."""
