"""How a federated algorithm is described: what it trains, shares and keeps, and how clients personalize."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Flag
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedbabu.algorithms.schedule import PAPER_SCHEDULE, Schedule
from fedbabu.models import SplitNetwork


class Part(Flag):
    """A part of a network whose two children are called `body` and `head` (Section 3)."""

    NOTHING = 0
    BODY = 1
    HEAD = 2
    FULL = 3

    def names(self, state: Iterable[str]) -> list[str]:
        """Names of the parameters in a state dict that belong to this part, in the order of the state dict."""
        return [name for name in state if Part[name.split(".", 1)[0].upper()] in self]


Batch = tuple[Tensor, Tensor]
"""A training batch: normalized images, float32 [n, C, H, W], and labels, int64 [n]."""

Coefficients = Mapping[str, Any]
"""An algorithm's own coefficients by their run-config keys, for example {"proximal-mu": 0.01}."""

Loss = Callable[[SplitNetwork, SplitNetwork, Batch, Coefficients], Tensor]
"""A training loss, scalar, given the model in training, the global model as received, a batch and the coefficients."""


def cross_entropy(model: SplitNetwork, global_model: SplitNetwork, batch: Batch, coefficients: Coefficients) -> Tensor:
    """Mean cross-entropy of the model on a batch, a scalar."""
    images, labels = batch
    return F.cross_entropy(model(images), labels)


@dataclass(frozen=True)
class Step:
    """What a gradient function is given to compute the gradient of one SGD step."""

    loss: Callable[[Batch], Tensor]  # the training loss of one batch, a scalar
    parameters: Sequence[nn.Parameter]  # those that this step updates
    learning_rates: Sequence[float]  # one for each of these parameters
    batches: Sequence[Batch]  # as many as the phase's batches_per_step
    coefficients: Coefficients


Gradient = Callable[[Step], tuple[Tensor, Sequence[Tensor]]]
"""A gradient function: returns the loss to report (a detached scalar) and one gradient per parameter."""


def plain_gradient(step: Step) -> tuple[Tensor, Sequence[Tensor]]:
    """Loss of one batch, and its gradient by backpropagation."""
    (batch,) = step.batches
    loss = step.loss(batch)
    return loss.detach(), torch.autograd.grad(loss, step.parameters)


@dataclass(frozen=True)
class Phase:
    """A number of epochs of local SGD that train one part of the network; the rest has learning rate zero."""

    part: Part
    epochs: int | None = None  # passes over the client's training examples; None for the number in the run config
    loss: Loss = cross_entropy
    gradient: Gradient = plain_gradient  # how the gradient of each step is computed
    batches_per_step: int = 1  # how many batches `gradient` needs
    trained_blocks: int = 0  # how many blocks of the body are trained, from the input; 0 for all (Tables 14 and 15)
    head_learning_rate_factor: float = 1.0  # the head's learning rate over the body's, α_h/α_b (Table 23)

    def num_epochs(self, default: int) -> int:
        """Number of epochs of this phase, given the number in the run config."""
        return default if self.epochs is None else self.epochs


@dataclass(frozen=True)
class Algorithm:
    """A federated algorithm: what is trained, what is shared, what stays on the client (Algorithms 1 and 2).

    A client starts a round from the global model; where it keeps a part (its client state), it uses its own instead of
    the global one. A part that is neither shared nor kept, like FedBABU's head, stays as it was initialized.
    """

    name: str  # the value of the run-config key `algorithm` that chooses this algorithm
    trains: tuple[Phase, ...]  # the phases of a sampled client's local training, in order
    # The part that clients send to the server, which averages it. With NOTHING there is no communication: every client
    # is visited once, so the schedule needs `visits`.
    shares: Part
    keeps: Part = Part.NOTHING  # the part that stays on the client; a client that never trained has the global one
    # The phases that train a personal model, kept whole beside the shared one, on the same batches. `trains` then
    # starts from the global model alone.
    trains_personal: tuple[Phase, ...] = ()
    personalizes: tuple[Phase, ...] = (Phase(Part.FULL),)  # the phases of fine-tuning in the final evaluation
    starts_from: str | None = None  # the algorithm whose finished run provides the initial model
    schedule: Schedule = PAPER_SCHEDULE  # how many rounds the algorithm runs, and at which learning rates
    coefficients: tuple[str, ...] = ()  # the run-config keys that only this algorithm's losses and gradients read

    @property
    def communicates(self) -> bool:
        """Whether clients share anything; if not, each is visited once and trains on its own."""
        return bool(self.shares)
