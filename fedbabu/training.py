"""The local SGD loop: all that a client computes between receiving the global model and answering."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

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
        # Learning rate zero for the rest: it is not given to the optimizer, so no gradient is computed either.
        parameter.requires_grad_(name in trained)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, settings.learning_rate, settings.momentum)
    model.train()
    for _ in range(settings.epochs):
        order = torch.randperm(len(examples), generator=generator).to(examples.labels.device)
        # Summed on the device: reading the loss of a step would make every step wait for it.
        loss_sum = torch.zeros((), device=examples.labels.device)
        for batch in order.split(settings.batch_size):
            images = transform.augment(examples.images[batch], generator)
            loss = F.cross_entropy(model(images), examples.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.detach() * len(batch)
        yield loss_sum.item() / len(examples)
