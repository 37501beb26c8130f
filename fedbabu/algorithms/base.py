"""What describes a federated algorithm: the parts it trains, shares and fine-tunes."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Flag


class Part(Flag):
    """A part of a network whose two children are called `body` and `head` (Section 3)."""

    NOTHING = 0
    BODY = 1
    HEAD = 2
    FULL = 3

    def names(self, state: Iterable[str]) -> list[str]:
        """Those names of a state dict that belong to this part, in the same order."""
        return [name for name in state if Part[name.split(".", 1)[0].upper()] in self]


@dataclass(frozen=True)
class Phase:
    """A stretch of local SGD that moves one part; every other parameter has learning rate zero."""

    part: Part


@dataclass(frozen=True)
class Algorithm:
    """A federated algorithm as a row of a table.

    Attributes:
        name: the value of the run-config key `algorithm`.
        trains: what a sampled client trains in a round, in order, for `num-local-epochs` each.
        shares: what it sends back and the server averages; the rest stays as initialized.
        personalizes: what a client fine-tunes in the final evaluation, for `num-finetune-epochs` each.
    """

    name: str
    trains: tuple[Phase, ...]
    shares: Part
    personalizes: tuple[Phase, ...] = (Phase(Part.FULL),)
