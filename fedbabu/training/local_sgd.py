"""The local SGD loop: all that a client computes between receiving the global model and answering."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any

import torch
from torch import Tensor, nn

import fedbabu.training.memory  # noqa: F401
from fedbabu.algorithms import Batch, Phase, Step
from fedbabu.config import RunConfig
from fedbabu.data import BatchTransform, Examples
from fedbabu.models import SplitNetwork
from fedbabu.training.cuda_graphs import GraphedStep

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
torch.backends.cudnn.allow_tf32 = False  # PyTorch's own default for convolutions; here, float32 means float32


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
        config: batch size, momentum (there is no weight decay), the coefficients of the losses and the precision.
        generator: the CPU's, so that the batches are the same on every device. It draws, for each epoch, the order of
            the examples and then, batch by batch, the augmentation.
        epochs: of a phase that does not say.
        learning_rate: of SGD.
    """
    for phase in phases:
        sgd = _LocalSGD(model, received, phase, config, learning_rate)
        step = GraphedStep(sgd.step) if config.cuda_graph and DEVICE.type == "cuda" else sgd.step
        for _ in range(phase.num_epochs(epochs)):
            model.train()  # in every epoch: whoever takes the loss may evaluate in between
            # Summed on the device: reading the loss of a step would make every step wait for it.
            loss_sum, num_summed = torch.zeros((), device=examples.labels.device), 0
            with _tf32(config.precision == "tf32"):
                for drawn in _draw_epoch(examples, transform, generator, config.batch_size, phase.batches_per_step):
                    batches = [
                        (transform.augment(examples.images[rows], how), examples.labels[rows]) for rows, how in drawn
                    ]
                    num_examples = len(batches[-1][1])
                    loss_sum += step(batches) * num_examples
                    num_summed += num_examples
            yield loss_sum.item() / num_summed


class _LocalSGD:
    """SGD with momentum on what one phase moves."""

    def __init__(
        self, model: SplitNetwork, received: SplitNetwork, phase: Phase, config: RunConfig, learning_rate: float
    ) -> None:
        self.model, self.received, self.phase, self.config = model, received, phase, config
        named, rates = dict(model.named_parameters()), _learning_rates(model, phase, learning_rate)
        for name, parameter in named.items():
            # Learning rate zero for the rest: no step moves it, so its gradient is not computed either.
            parameter.requires_grad_(name in rates)
        self.parameters, self.learning_rates = [named[name] for name in rates], list(rates.values())
        self.velocities = [torch.zeros_like(parameter) for parameter in self.parameters]

    def loss(self, batch: Batch) -> Tensor:
        """The phase's loss of a batch, a scalar; in bfloat16 where PyTorch's autocast thinks that enough, if asked."""
        with torch.autocast(batch[0].device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            return self.phase.loss(self.model, self.received, batch, self.config)

    def step(self, batches: Sequence[Batch]) -> Tensor:
        """Take a step, and return the loss before it: a scalar, detached."""
        loss, gradients = self.phase.gradient(
            Step(self.loss, self.parameters, self.learning_rates, batches, self.config)
        )
        _sgd_step(self.parameters, gradients, self.velocities, self.learning_rates, self.config.momentum)
        return loss


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


def _draw_epoch(
    examples: Examples, transform: BatchTransform, generator: torch.Generator, batch_size: int, batches_per_step: int
) -> Iterator[Sequence[tuple[Tensor, Tensor]]]:
    """For each batch of each step of an epoch: its rows, int64 [n], and how their images are augmented, int64 [3, n].

    The last step makes up its number with the first batches of the epoch. All is drawn beforehand and copied to the
    examples' device at once: a GPU would wait for every copy.
    """
    order = torch.randperm(len(examples), generator=generator).split(batch_size)
    num_batches = math.ceil(len(order) / batches_per_step) * batches_per_step
    rows = [order[index % len(order)] for index in range(num_batches)]
    drawn = torch.cat([torch.cat([each.unsqueeze(0), transform.draw(len(each), generator)]) for each in rows], dim=1)
    batches = drawn.to(examples.labels.device).split([len(each) for each in rows], dim=1)
    for start in range(0, num_batches, batches_per_step):
        yield [(batch[0], batch[1:]) for batch in batches[start : start + batches_per_step]]


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Whether a GPU may round the factors of matrix products and convolutions to a mantissa of ten bits."""
    backends: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = allowed
        yield
    finally:
        for backend, allowed_before in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed_before


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
