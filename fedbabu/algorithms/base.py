"""How a federated algorithm is described: what it trains, shares and keeps, and how clients personalize."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, Flag
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
        """Names of the tensors in a state dict that belong to this part, in the order of the state dict.

        Raises:
            KeyError: If a name begins with neither `body.` nor `head.`.
        """
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
    """One SGD step: what it is taken from, and the parameters that it moves."""

    loss: Callable[[Batch], Tensor]  # the training loss of one batch, a scalar
    parameters: Sequence[nn.Parameter]  # those that this step updates
    global_parameters: Sequence[nn.Parameter]  # the same of the global model as received
    velocities: Sequence[Tensor]  # v ← m · v + g of momentum, one for each parameter and of its shape
    learning_rates: Sequence[float]  # one for each parameter
    momentum: float
    weight_decay: float
    batches: Sequence[Batch]  # as many as the phase's batches_per_step
    coefficients: Coefficients

    @torch.no_grad()
    def move(self, gradients: Sequence[Tensor], learning_rate: float | None = None) -> None:
        """Move the parameters by SGD with momentum, at their learning rates or all at one, bit for bit as torch.optim.

        It is written out because the first torch.optim optimizer of a process imports PyTorch's compiler, which would
        delay every worker by seconds before its first step.
        """
        rates = self.learning_rates if learning_rate is None else [learning_rate] * len(self.parameters)
        for parameter, gradient, velocity, rate in zip(self.parameters, gradients, self.velocities, rates, strict=True):
            if self.weight_decay:
                gradient = gradient.add(parameter, alpha=self.weight_decay)
            velocity.mul_(self.momentum).add_(gradient)
            parameter.sub_(velocity, alpha=rate)


StepFunction = Callable[[Step], Tensor]
"""Takes a step: moves the parameters, and returns the loss to report, a detached scalar."""


def gradient_step(step: Step) -> Tensor:
    """A step of SGD with momentum along the gradient of one batch; returns the loss before it."""
    (batch,) = step.batches
    loss, gradients = gradients_of(step, batch)
    step.move(gradients)
    return loss


def gradients_of(step: Step, batch: Batch) -> tuple[Tensor, Sequence[Tensor]]:
    """The loss of a batch, a detached scalar, and its gradient by backpropagation, one tensor per parameter."""
    loss = step.loss(batch)
    return loss.detach(), torch.autograd.grad(loss, step.parameters)


class TrainedOn(Enum):
    """The images that a phase trains on."""

    TRAINING_IMAGES = "the client's training images, augmented"
    TEST_IMAGES_OF_LAST_SAMPLED_CLIENT = "the test images of the client that was sampled last, as they are"


@dataclass(frozen=True)
class Phase:
    """A number of epochs of local SGD that train one part of the network; the rest has learning rate zero."""

    part: Part
    epochs: int | None = None  # passes over the client's training examples; None for the number in the run config
    loss: Loss = cross_entropy
    step: StepFunction = gradient_step  # how each step moves the parameters
    batches_per_step: int = 1  # how many batches `step` needs
    # The number of steps in an epoch, given its number of batches and the number of epochs; by default as many as the
    # batches make. If they need more batches than one pass has, a new pass begins.
    steps_per_epoch: Callable[[int, int], int] | None = None
    trains_on: TrainedOn = TrainedOn.TRAINING_IMAGES
    trained_blocks: int = 0  # how many blocks of the body are trained, from the input; 0 for all (Tables 14 and 15)
    head_learning_rate_factor: float = 1.0  # the head's learning rate over the body's, α_h/α_b (Table 23)

    def num_epochs(self, default: int) -> int:
        """Number of epochs of this phase, given the number in the run config."""
        return default if self.epochs is None else self.epochs


class EvaluationRule(Enum):
    """What a client evaluates after a round; all but the first are rules of the authors' code for single algorithms."""

    # The new global model with what the client keeps. Clients are personalized after the last round alone, from the
    # model of the last round, and from that of the best round, which has the highest mean accuracy of all clients.
    OF_THE_GLOBAL_MODEL = "of the global model"
    # The same, but clients are personalized after every round that is evaluated, at the learning rate of the next one,
    # and the best round is that with the highest personalized accuracy.
    PERSONALIZED_EVERY_ROUND = "personalized every round"
    # Clients of the round evaluate the models that they trained, all others the global model from before the round.
    # Then all go on from the new global model: what a client keeps is only evaluated.
    BEFORE_AGGREGATION = "before aggregation"
    # Every client has a best round of its own, by its test images. The part that clients share is averaged over the
    # clients' best rounds, and the best round is that after which these combinations have the highest mean accuracy.
    BEST_ROUND_OF_EACH_CLIENT = "best round of each client"
    # A client that trains alone keeps its best epoch, by its test images.
    BEST_EPOCH_OF_EACH_CLIENT = "best epoch of each client"


@dataclass(frozen=True)
class Algorithm:
    """A federated algorithm: what is trained, what is shared, what stays on the client (Algorithms 1 and 2).

    A client starts a round from the global model; where it keeps a part (its client state), it uses its own instead of
    the global one. A part that is neither shared nor kept, like FedBABU's head, stays as it was initialized.
    """

    name: str  # the value of the run-config key `algorithm` that chooses this algorithm
    trains: tuple[Phase, ...]  # the phases of a sampled client's local training, in order
    # The part that clients send to the server, which averages it. With NOTHING there is no communication: every client
    # trains alone, so the schedule needs `solo_server_rounds`.
    shares: Part
    keeps: Part = Part.NOTHING  # the part that stays on the client; a client that never trained has the global one
    # The phases that train a personal model, kept whole beside the shared one, on the same batches. `trains` then
    # starts from the global model alone.
    trains_personal: tuple[Phase, ...] = ()
    personalizes: tuple[Phase, ...] = (Phase(Part.FULL),)  # the phases of fine-tuning in the final evaluation
    starts_from: str | None = None  # the algorithm whose finished run provides the initial model
    schedule: Schedule = PAPER_SCHEDULE  # how many rounds the algorithm runs, and at which learning rates
    coefficients: tuple[str, ...] = ()  # the run-config keys that only this algorithm's losses and steps read

    title: str = ""  # what figures call it; empty for its name

    # What only declarations of the authors' code need.
    # Run-config keys whose values the code fixes. A text is another key, whose value is taken.
    fixes: Mapping[str, Any] = field(default_factory=dict)
    # Whether one optimizer takes all steps of a client, so that momentum goes on from phase to phase, and gathers for
    # parts whose learning rate is zero.
    one_optimizer: bool = False
    evaluation: EvaluationRule = EvaluationRule.OF_THE_GLOBAL_MODEL

    def __post_init__(self) -> None:
        """Raise a ValueError if the parts do not fit together."""
        if not self.shares and not (self.keeps and self.schedule.solo_server_rounds):
            raise ValueError(
                f"The algorithm '{self.name}' shares nothing: `keeps` must say what its clients have in the end, and "
                "`solo_server_rounds` of its schedule must not be 0."
            )
        if self.trains_personal and self.keeps is not Part.FULL:
            raise ValueError(f"The algorithm '{self.name}' has trains_personal: `keeps` must be Part.FULL.")

    @property
    def communicates(self) -> bool:
        """Whether clients share anything; if not, each trains alone, in one server round."""
        return bool(self.shares)
