"""The local SGD loop: all that a client computes between receiving the global model and answering."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedbabu.algorithms import Part, Phase
from fedbabu.data import BatchTransform, Examples
from fedbabu.models import SplitNetwork


@dataclass(frozen=True)
class SGDSettings:
    """Epochs of each phase, images in a batch, and SGD's learning rate and momentum (no weight decay)."""

    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float


def train(
    model: SplitNetwork,
    examples: Examples,
    transform: BatchTransform,
    phases: Iterable[Phase],
    settings: SGDSettings,
    generator: torch.Generator,
) -> Iterator[float]:
    """Train a model in place, phase after phase, and yield the mean training loss after every epoch.

    The generator is the CPU's and draws, for each epoch, the order of the examples and then, batch by batch, the
    augmentation; so the batches are the same on every device.
    """
    for phase in phases:
        yield from _sgd(model, examples, transform, phase.part, settings, generator)


def _sgd(
    model: SplitNetwork,
    examples: Examples,
    transform: BatchTransform,
    part: Part,
    settings: SGDSettings,
    generator: torch.Generator,
) -> Iterator[float]:
    trained = set(part.names(name for name, _ in model.named_parameters()))
    for name, parameter in model.named_parameters():
        # Learning rate zero for the rest: no step moves it, so its gradient is not computed either.
        parameter.requires_grad_(name in trained)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    velocities = [torch.zeros_like(parameter) for parameter in parameters]
    for _ in range(settings.epochs):
        model.train()  # in every epoch: whoever takes the loss may evaluate in between
        order = torch.randperm(len(examples), generator=generator).to(examples.labels.device)
        # Summed on the device: reading the loss of a step would make every step wait for it.
        loss_sum = torch.zeros((), device=examples.labels.device)
        for batch in order.split(settings.batch_size):
            images = transform.augment(examples.images[batch], generator)
            loss = F.cross_entropy(model(images), examples.labels[batch])
            gradients = torch.autograd.grad(loss, parameters)
            _sgd_step(parameters, gradients, velocities, settings)
            loss_sum += loss.detach() * len(batch)
        yield loss_sum.item() / len(examples)


@torch.no_grad()
def _sgd_step(
    parameters: list[nn.Parameter], gradients: Sequence[Tensor], velocities: list[Tensor], settings: SGDSettings
) -> None:
    """A step of SGD with momentum, bit for bit that of torch.optim.SGD.

    It is written out because making the first torch.optim optimizer of a process imports PyTorch's compiler,
    which takes every worker seconds before its first step.
    """
    for parameter, gradient, velocity in zip(parameters, gradients, velocities, strict=True):
        velocity.mul_(settings.momentum).add_(gradient)
        parameter.sub_(velocity, alpha=settings.learning_rate)
