"""The local SGD loop: all that a client computes between receiving the global model and answering."""

import math
from collections.abc import Iterable, Iterator, Sequence
from time import monotonic

import torch
from torch import Tensor, nn

import fedbabu.allocation  # noqa: F401
from fedbabu.algorithms import Phase, Step
from fedbabu.config import RunConfig
from fedbabu.data import BatchTransform, Examples
from fedbabu.models import SplitNetwork

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train(
    model: SplitNetwork,
    received: SplitNetwork,
    examples: Examples,
    transform: BatchTransform,
    phases: Iterable[Phase],
    config: RunConfig,
    generator: torch.Generator,
    *,
    epochs: int,
    learning_rate: float,
) -> Iterator[float]:
    """Train a model in place, phase after phase, and yield the mean training loss after every epoch.

    Args:
        model: what is trained, each phase from rest.
        received: the global model as it came, which some losses compare with.
        examples: the client's training examples.
        transform: augmentation and normalization.
        phases: of the algorithm.
        config: batch size, momentum (there is no weight decay) and the coefficients of the losses.
        generator: the CPU's. It draws, for each epoch, the order of the examples and then, batch by batch, the
            augmentation; so the batches are the same on every device.
        epochs: of a phase that does not say.
        learning_rate: of SGD.
    """
    for phase in phases:
        named, rates = dict(model.named_parameters()), _learning_rates(model, phase, learning_rate)
        for name, parameter in named.items():
            # Learning rate zero for the rest: no step moves it, so its gradient is not computed either.
            parameter.requires_grad_(name in rates)
        parameters, learning_rates = [named[name] for name in rates], list(rates.values())
        velocities = [torch.zeros_like(parameter) for parameter in parameters]

        def loss_of(batch: tuple[Tensor, Tensor], phase: Phase = phase) -> Tensor:
            return phase.loss(model, received, batch, config)

        for _ in range(epochs if phase.epochs is None else phase.epochs):
            model.train()  # in every epoch: whoever takes the loss may evaluate in between
            order = torch.randperm(len(examples), generator=generator).to(examples.labels.device)
            # Summed on the device: reading the loss of a step would make every step wait for it.
            loss_sum, num_summed = torch.zeros((), device=examples.labels.device), 0
            for rows in _steps(order.split(config.batch_size), phase.batches_per_step):
                batches = [(transform.augment(examples.images[r], generator), examples.labels[r]) for r in rows]
                loss, gradients = phase.gradient(Step(loss_of, parameters, learning_rates, batches, config))
                _sgd_step(parameters, gradients, velocities, learning_rates, config.momentum)
                loss_sum += loss * len(rows[-1])
                num_summed += len(rows[-1])
            yield loss_sum.item() / num_summed


def check_finite(*values: float | Tensor) -> None:
    """Make sure that training did not diverge.

    Raises:
        FloatingPointError: if a number, or an element of a tensor, is NaN or infinite.
    """
    for value in values:
        if not (torch.isfinite(value).all() if isinstance(value, Tensor) else math.isfinite(value)):
            raise FloatingPointError("Training diverged.")


class Deadline:
    """When a client must be done: `seconds` from now, or never if that is 0."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._started = monotonic()

    def watch(self, epochs: Iterable[float]) -> Iterator[float]:
        """Pass epochs on as they are trained.

        Raises:
            TimeoutError: after an epoch that ends too late.
        """
        for loss in epochs:
            self.check()
            yield loss

    def check(self) -> None:
        """Make sure that it is not over.

        Raises:
            TimeoutError: if it is.
        """
        if self.seconds and monotonic() - self._started > self.seconds:
            raise TimeoutError(f"took longer than client-timeout = {self.seconds} s")


def _learning_rates(model: SplitNetwork, phase: Phase, learning_rate: float) -> dict[str, float]:
    """The learning rate of every parameter that the phase moves, by name."""
    named = dict(model.named_parameters())
    names = phase.part.names(named)
    if phase.blocks:
        frozen = {id(parameter) for block in model.blocks[phase.blocks :] for parameter in block.parameters()}
        names = [name for name in names if id(named[name]) not in frozen]
    return {name: learning_rate * (phase.head_rate if name.startswith("head.") else 1) for name in names}


def _steps(batches: Sequence[Tensor], size: int) -> Iterator[list[Tensor]]:
    """The batches of each step of an epoch; the last step makes up its number with the first of the epoch."""
    for start in range(0, len(batches), size):
        yield [batches[index % len(batches)] for index in range(start, start + size)]


@torch.no_grad()
def _sgd_step(
    parameters: Sequence[nn.Parameter],
    gradients: Sequence[Tensor],
    velocities: Sequence[Tensor],
    learning_rates: Sequence[float],
    momentum: float,
) -> None:
    """A step of SGD with momentum, bit for bit that of torch.optim.SGD.

    It is written out because making the first torch.optim optimizer of a process imports PyTorch's compiler,
    which takes every worker seconds before its first step.
    """
    for parameter, gradient, velocity, rate in zip(parameters, gradients, velocities, learning_rates, strict=True):
        velocity.mul_(momentum).add_(gradient)
        parameter.sub_(velocity, alpha=rate)
