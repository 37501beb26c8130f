"""What describes a federated algorithm: what it trains, shares and keeps, and how it personalizes."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Flag
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedbabu.models import SplitNetwork

if TYPE_CHECKING:  # the run config names the algorithms, so it cannot be imported here
    from fedbabu.config import RunConfig


class Part(Flag):
    """A part of a network whose two children are called `body` and `head` (Section 3)."""

    NOTHING = 0
    BODY = 1
    HEAD = 2
    FULL = 3

    def names(self, state: Iterable[str]) -> list[str]:
        """Those names of a state dict that belong to this part, in the same order."""
        return [name for name in state if Part[name.split(".", 1)[0].upper()] in self]


Batch = tuple[Tensor, Tensor]
"""Normalized images, float32 [n, C, H, W], and labels, int64 [n]."""

Loss = Callable[[SplitNetwork, SplitNetwork, Batch, "RunConfig"], Tensor]
"""What a step lowers: a scalar of the model in training, the global model as received, a batch and the run config."""


def cross_entropy(model: SplitNetwork, received: SplitNetwork, batch: Batch, config: "RunConfig") -> Tensor:
    """The mean cross-entropy of a batch."""
    images, labels = batch
    return F.cross_entropy(model(images), labels)


@dataclass(frozen=True)
class Step:
    """What the gradient of one step is made of.

    Attributes:
        loss: a scalar, of a batch.
        parameters: those that move.
        learning_rates: of each of them.
        batches: as many as the phase asks for.
        config: the run config.
    """

    loss: Callable[[Batch], Tensor]
    parameters: Sequence[nn.Parameter]
    learning_rates: Sequence[float]
    batches: Sequence[Batch]
    config: "RunConfig"


Gradient = Callable[[Step], tuple[Tensor, Sequence[Tensor]]]
"""What a step follows: a loss to report (scalar, detached) and a gradient for each parameter."""


def plain_gradient(step: Step) -> tuple[Tensor, Sequence[Tensor]]:
    """The gradient of the loss on one batch."""
    (batch,) = step.batches
    loss = step.loss(batch)
    return loss.detach(), torch.autograd.grad(loss, step.parameters)


@dataclass(frozen=True)
class Phase:
    """A stretch of local SGD that moves one part; every other parameter has learning rate zero.

    Attributes:
        part: what moves.
        epochs: over the client's examples; None for as many as the run config says.
        loss: what is lowered.
        gradient: what each step follows.
        batches_per_step: how many batches `gradient` wants.
        blocks: how many blocks of the body move, counted from the input; 0 for all (Tables 14 and 15).
        head_rate: the head's learning rate over the body's (Table 23).
    """

    part: Part
    epochs: int | None = None
    loss: Loss = cross_entropy
    gradient: Gradient = plain_gradient
    batches_per_step: int = 1
    blocks: int = 0
    head_rate: float = 1.0

    def num_epochs(self, otherwise: int) -> int:
        """Its epochs, or otherwise those that the run config says."""
        return otherwise if self.epochs is None else self.epochs


@dataclass(frozen=True)
class Algorithm:
    """A federated algorithm as a row of a table.

    A client starts a round from the global model, in which its own, kept part takes the place of the global one.
    What is neither shared nor kept stays as initialized.

    Attributes:
        name: the value of the run-config key `algorithm`.
        trains: what a sampled client trains in a round, in order.
        shares: what it sends back and the server averages. With NOTHING there is no communication: every client is
            visited once and trains its rounds one after the other.
        keeps: what stays on the client from round to round; before its first round, a client has the global one.
        trains_kept: for a kept model beside the shared one: how that is trained, on the same batches. `trains` then
            starts from the global model alone.
        personalizes: what a client fine-tunes in the final evaluation, in order.
        continues: the algorithm whose finished run it goes on from, for a quarter of the rounds and from a hundredth of
            the learning rate; None to start afresh.
        keys: of the run configuration, that only this algorithm reads: its coefficients.
    """

    name: str
    trains: tuple[Phase, ...]
    shares: Part
    keeps: Part = Part.NOTHING
    trains_kept: tuple[Phase, ...] = ()
    personalizes: tuple[Phase, ...] = (Phase(Part.FULL),)
    continues: str | None = None
    keys: tuple[str, ...] = ()
