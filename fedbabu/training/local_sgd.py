"""The training loop: SGD with momentum on one client's examples, phase after phase (Algorithm 1, client update)."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from fedbabu.algorithms import Batch, Phase, Step
from fedbabu.config import RunConfig
from fedbabu.data.transforms import BatchTransform, Examples
from fedbabu.models import SplitNetwork


@dataclass(frozen=True)
class LocalTrainingSettings:
    """The settings of local SGD that are the same in every phase: the run-config keys of these names.

    `coefficients` are the algorithm's own, by their run-config keys.
    """

    batch_size: int
    momentum: float
    weight_decay: float = 0.0
    precision: str = "float32"
    coefficients: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_config(cls, config: RunConfig) -> "LocalTrainingSettings":
        """The settings of a run."""
        return cls(config.batch_size, config.momentum, config.weight_decay, config.precision, config.coefficients)


def train(
    model: SplitNetwork,
    global_model: SplitNetwork,
    examples: Examples,
    transform: BatchTransform,
    phases: Iterable[Phase],
    settings: LocalTrainingSettings,
    generator: torch.Generator,
    *,
    epochs: int,
    learning_rate: float,
    after_epoch: Sequence[Callable[[], object]] = (),
    velocities: dict[str, Tensor] | None = None,
) -> list[float]:
    """Train a model in place, phase after phase, each with new momentum unless velocities are given.

    Args:
        model: The network that is trained.
        global_model: The global model as the client received it, which some losses compare with.
        examples: The training examples.
        transform: Augmentation and normalization.
        phases: The phases of local SGD.
        settings: What is the same in every phase.
        generator: A generator on the CPU, so that the batches are the same on every device. For each epoch it draws
            the order of the examples and then, batch by batch, the augmentation.
        epochs: Number of epochs of a phase that does not have its own.
        learning_rate: The learning rate of SGD.
        after_epoch: Functions that are called, in this order, after every epoch.
        velocities: If given, one optimizer takes the steps of all phases: momentum starts from these velocities of the
            parameters, by name, and they are updated. Parameters whose learning rate is zero gather momentum too.

    Returns:
        The mean training loss of every epoch.
    """
    losses = []
    for phase in phases:
        sgd = _LocalSGD(model, global_model, phase, settings, epochs, learning_rate, velocities)
        for _ in range(sgd.num_epochs):
            losses.append(sgd.train_epoch(examples, transform, generator))
            for function in after_epoch:
                function()
    return losses


class _LocalSGD:
    """SGD with momentum on the parameters that one phase trains."""

    def __init__(
        self,
        model: SplitNetwork,
        global_model: SplitNetwork,
        phase: Phase,
        settings: LocalTrainingSettings,
        epochs: int,
        learning_rate: float,
        velocities: dict[str, Tensor] | None,
    ) -> None:
        self.model, self.global_model, self.phase, self.settings = model, global_model, phase, settings
        self.num_epochs = phase.num_epochs(epochs)
        named, rates = dict(model.named_parameters()), learning_rates(model, phase, learning_rate)
        if velocities is not None:
            rates = {name: rates.get(name, 0.0) for name in named}
        for name, parameter in named.items():
            # All other parameters have learning rate zero: no step moves them, so they need no gradient either.
            parameter.requires_grad_(name in rates)
        self.parameters, self.learning_rates = [named[name] for name in rates], list(rates.values())
        of_global_model = dict(global_model.named_parameters())
        self.global_parameters = [of_global_model[name] for name in rates]
        gathered = {} if velocities is None else velocities
        self.velocities = [gathered.setdefault(name, torch.zeros_like(named[name])) for name in rates]

    def train_epoch(self, examples: Examples, transform: BatchTransform, generator: torch.Generator) -> float:
        """Train for one epoch; returns the mean loss over the examples."""
        self.model.train()  # in every epoch, because the model may be evaluated in between
        # Summed on the device: reading the loss of a step would make every step wait for it.
        loss_sum, num_summed = torch.zeros((), device=examples.labels.device), 0
        _allow_tf32(self.settings.precision == "tf32")
        try:
            for drawn in self._draw_epoch(examples, transform, generator):
                batches = [
                    (transform.augment(examples.images[rows], augmentation), examples.labels[rows])
                    for rows, augmentation in drawn
                ]
                num_examples = len(batches[-1][1])
                loss_sum += self.step(batches) * num_examples
                num_summed += num_examples
        finally:
            _allow_tf32(False)  # evaluation is in float32
        return loss_sum.item() / num_summed

    def step(self, batches: Sequence[Batch]) -> Tensor:
        """Take one SGD step and return the loss before it, a detached scalar."""
        step = Step(
            self.loss,
            self.parameters,
            self.global_parameters,
            self.velocities,
            self.learning_rates,
            self.settings.momentum,
            self.settings.weight_decay,
            batches,
            self.settings.coefficients,
        )
        return self.phase.step(step)

    def _draw_epoch(
        self, examples: Examples, transform: BatchTransform, generator: torch.Generator
    ) -> Iterator[Sequence[tuple[Tensor, Tensor]]]:
        """Draw the batches of one epoch, step by step.

        Everything is drawn at the beginning and copied to the examples' device at once, because a GPU would wait for
        every copy. If the last step lacks batches, it gets the first batches of the epoch. If the phase says how many
        steps an epoch has, and one pass over the examples has fewer batches, further passes in a new order follow.

        Yields:
            For each batch of a step: the rows of its examples, int64 [n], and their augmentation, int64 [3, n].
        """
        batch_size, batches_per_step = self.settings.batch_size, self.phase.batches_per_step
        order = list(torch.randperm(len(examples), generator=generator).split(batch_size))
        if self.phase.steps_per_epoch:
            num_batches = self.phase.steps_per_epoch(len(order), self.num_epochs) * batches_per_step
            while len(order) < num_batches:
                order += torch.randperm(len(examples), generator=generator).split(batch_size)
        else:
            num_batches = math.ceil(len(order) / batches_per_step) * batches_per_step
        rows = [order[index % len(order)] for index in range(num_batches)]
        augmented = [torch.cat([batch.unsqueeze(0), transform.draw(len(batch), generator)]) for batch in rows]
        batches = torch.cat(augmented, dim=1).to(examples.labels.device).split([len(batch) for batch in rows], dim=1)
        for start in range(0, num_batches, batches_per_step):
            yield [(batch[0], batch[1:]) for batch in batches[start : start + batches_per_step]]

    def loss(self, batch: Batch) -> Tensor:
        """The phase's loss of one batch, a scalar, under PyTorch's autocast if the precision is bf16."""
        with torch.autocast(batch[0].device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
            return self.phase.loss(self.model, self.global_model, batch, self.settings.coefficients)


def learning_rates(model: SplitNetwork, phase: Phase, learning_rate: float) -> dict[str, float]:
    """Learning rate of every parameter that a phase trains, by name; all other parameters have learning rate zero.

    With FedBABU's phase, which trains the body, the head is among those others (Section 5.2).
    """
    named = dict(model.named_parameters())
    names = phase.part.names(named)
    if phase.trained_blocks:
        untrained_blocks = model.blocks[phase.trained_blocks :]
        frozen = {id(parameter) for block in untrained_blocks for parameter in block.parameters()}
        names = [name for name in names if id(named[name]) not in frozen]
    factor = phase.head_learning_rate_factor
    return {name: learning_rate * (factor if name.startswith("head.") else 1) for name in names}


def _allow_tf32(allowed: bool) -> None:
    """Allow or forbid a GPU to round the factors of matrix products and convolutions to ten bits of mantissa."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def check_finite(*values: float | Tensor) -> None:
    """Raise a FloatingPointError without text if a number, or an element of a tensor, is not finite."""
    for value in values:
        if not torch.isfinite(torch.as_tensor(value)).all():
            raise FloatingPointError


class Deadline:
    """The time by which a client must have finished: so many seconds for each training round, or never if that is 0."""

    def __init__(self, seconds: float, num_rounds: int = 1) -> None:
        self.seconds, self.num_rounds = seconds, num_rounds
        self._started = monotonic()

    def check(self) -> None:
        """Raise a TimeoutError if the deadline has passed."""
        if self.seconds and monotonic() - self._started > self.seconds * self.num_rounds:
            rounds = f" for each of {self.num_rounds} rounds" if self.num_rounds > 1 else ""
            raise TimeoutError(f"took longer than client-timeout = {self.seconds} s{rounds}")
