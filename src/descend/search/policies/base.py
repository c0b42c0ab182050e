"""`Policy` and `Result`, what a policy is told; and the catalog of policies by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from descend.schedules.arguments import finite, whole
from descend.search.space import Member

_LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Result:
    """What became of a proposal.

    Attributes:
        reward: from 0 (a training that diverged) to 1, larger is better, such as exp(-validation cross-entropy); None
            if the proposal is invalid and was never trained.
        repeat: whether an equal proposal was seen before in this search; the reward is then the one of that time.

    Raises:
        TypeError, ValueError: the reward is neither None nor a number from 0 to 1, or repeat is not True or False.
    """

    reward: float | None
    repeat: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.repeat, bool):
            raise TypeError(f"repeat must be True or False; got {self.repeat!r}")
        if self.reward is not None and not 0 <= finite("reward (0 if training diverged)", self.reward) <= 1:
            raise ValueError(f"reward must be from 0 to 1, such as exp(-loss); got {self.reward!r}")


class Policy(Protocol[Member]):
    """Proposes members of a space and learns from what it is told.

    Its constructor takes the space first and `seed` by keyword, and its asks are a function of its arguments and of
    what it was told.
    """

    name: str
    """What the command line calls it."""

    def ask(self, count: int) -> list[Member]:
        """Return so many proposals; one that was proposed before may come again."""

    def tell(self, members: Sequence[Member], results: Sequence[Result]) -> None:
        """Learn what became of proposals, in the order of asking."""


_Class = TypeVar("_Class", bound="type[Policy[Any]]")
_policies: dict[str, type[Policy[Any]]] = {}


def register(policy: _Class) -> _Class:
    """Enter a policy's class in the `catalog`, under its `name`.

    Raises:
        ValueError: the name is taken.
    """
    if policy.name in _policies:
        raise ValueError(f"a policy named {policy.name!r} is registered already: choose another name")
    _policies[policy.name] = policy
    return policy


def catalog() -> dict[str, type[Policy[Any]]]:
    """Every registered policy's class by name, in alphabetical order."""
    return dict(sorted(_policies.items()))


def checked_seed(policy: str, seed: int) -> int:
    """Return a seed, a whole number from 0 to 2**63 - 1."""
    number = whole(f"{policy}: seed", seed, least=0)
    if number > _LARGEST_SEED:
        raise ValueError(f"{policy}: seed must be at most 2**63 - 1; got {seed!r}")
    return number


def check_told(members: Sequence[Any], results: Sequence[Result]) -> None:
    """Refuse results that are not one `Result` per member."""
    if len(members) != len(results):
        raise ValueError(f"results must be one per member; got {len(results)} results for {len(members)} members")
    for result in results:
        if not isinstance(result, Result):
            raise TypeError(f"results must be of Result(reward, repeat); got {result!r}")
