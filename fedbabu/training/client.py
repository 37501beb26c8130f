"""One client: its data, its local training in a round, and its evaluation without fine-tuning.

A client starts from the global model, in which its client state (the part that the algorithm keeps on the client)
replaces the same part of the global model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite

import numpy as np
import torch
from torch import Tensor

from fedbabu.algorithms import EvaluationRule, Part, Phase
from fedbabu.config import RunConfig
from fedbabu.data.dataset import ImageDataset
from fedbabu.data.partitions.partition import Partition
from fedbabu.data.transforms import Examples, client_examples
from fedbabu.models import SplitNetwork
from fedbabu.seeding import Purpose, torch_generator
from fedbabu.training.aggregation import State
from fedbabu.training.device import training_device
from fedbabu.training.diagnostics import ClassAccuracyCurve
from fedbabu.training.evaluation import BestEpoch, ClientEvaluation, ClientResult
from fedbabu.training.local_sgd import Deadline, LocalTrainingSettings, check_finite, train
from fedbabu.training.privacy import private_update


@dataclass(frozen=True)
class Client:
    """A client on a node: its number, its data (its rows of the dataset), and the networks that the node works with.

    The parameters of `model` are overwritten; `global_model` is the global model as the server sent it.
    """

    id: int
    config: RunConfig
    dataset: ImageDataset
    partition: Partition
    model: SplitNetwork
    global_model: SplitNetwork
    secret_noise: bool = False  # whether noise of differential privacy must not follow from the seed

    def examples(self, split: str, of_client: int | None = None) -> Examples:
        """The examples of the split "train" or "test" of this or another client, on this process's device."""
        rows = self.partition.rows[split][self.id if of_client is None else of_client]
        device = training_device(self.config.device)
        return client_examples(self.dataset.images[split], self.dataset.labels[split], rows, device)

    def whole_test_split(self) -> Examples:
        """All test examples of the dataset that the client's node reads, on this process's device."""
        images, labels = self.dataset.images["test"], self.dataset.labels["test"]
        return client_examples(images, labels, np.arange(len(labels)), training_device(self.config.device))

    def without_augmentation(self) -> "Client":
        """The same client, whose images are not augmented."""
        transform = replace(self.dataset.transform, crop_padding=0, flip=False)
        return replace(self, dataset=replace(self.dataset, transform=transform))

    def reset_model(self, client_state: State) -> None:
        """Make the client's model the global model, with the client state in the place of the same part."""
        self.model.load_state_dict({**self.global_model.state_dict(), **client_state})

    def train_model(
        self,
        examples: Examples,
        phases: Sequence[Phase],
        generator: torch.Generator,
        epochs: int,
        learning_rate: float,
        after_epoch: Sequence[Callable[[], object]],
        velocities: dict[str, Tensor] | None = None,
    ) -> list[float]:
        """Train the client's model with the run's settings; see `local_sgd.train`."""
        settings, transform = LocalTrainingSettings.from_config(self.config), self.dataset.transform
        return train(
            self.model, self.global_model, examples, transform, phases, settings, generator,
            epochs=epochs, learning_rate=learning_rate, after_epoch=after_epoch, velocities=velocities,
        )  # fmt: skip


@dataclass(frozen=True)
class TrainedClient:
    """The outcome of one client's local training."""

    shared: State  # the state dict of the part that the client sends to the server
    client_state: State  # the state dict of the part that stays on the client; empty if the algorithm keeps nothing
    num_examples: int
    weight: int  # in the mean over clients
    loss: float  # the mean training loss over all epochs of the shared model
    in_class: list[float] = field(default_factory=list)  # of ClassAccuracyCurve; empty if it is not recorded
    out_of_class: list[float] = field(default_factory=list)


def train_client(client: Client, client_state: State, training_rounds: list[int]) -> TrainedClient:
    """Train one client for its part of a round (Algorithm 1, client update).

    Args:
        client: The client.
        client_state: What the client kept from an earlier round; empty if nothing.
        training_rounds: The training rounds, usually one, each with its own learning rate and random numbers.

    Raises:
        FloatingPointError: If training diverges.
        TimeoutError: If training takes longer than client-timeout.
    """
    config, algorithm, model = client.config, client.config.algorithm_spec, client.model
    deadline = Deadline(config.client_timeout, len(training_rounds))
    examples = client.examples("train")
    starts_from_global = algorithm.trains_personal or algorithm.evaluation is EvaluationRule.BEFORE_AGGREGATION
    client.reset_model({} if starts_from_global else client_state)
    curve = None
    if "class-accuracy" in config.diagnostics:
        curve = ClassAccuracyCurve(model, examples, client.whole_test_split(), client.dataset.transform)
    loss = _train_rounds(client, examples, algorithm.trains, training_rounds, deadline, curve)
    global_state = client.global_model.state_dict()
    shared = private_update(
        _part_of(model, algorithm.shares), global_state, config, training_rounds[-1], client.id,
        secret=client.secret_noise,
    )  # fmt: skip
    if algorithm.trains_personal:
        client.reset_model(client_state)
        _train_rounds(client, examples, algorithm.trains_personal, training_rounds, deadline)
    kept = _part_of(model, algorithm.keeps)
    check_finite(loss, *shared.values(), *kept.values())
    curves = (curve.in_class, curve.out_of_class) if curve else ()
    return TrainedClient(shared, kept, len(examples), config.aggregation_weight(len(examples)), loss, *curves)


def _train_rounds(
    client: Client,
    examples: Examples,
    phases: tuple[Phase, ...],
    training_rounds: list[int],
    deadline: Deadline,
    curve: ClassAccuracyCurve | None = None,
) -> float:
    """Train the client's model, and return the mean training loss over all epochs."""
    config = client.config
    losses: list[float] = []
    algorithm = config.algorithm_spec
    velocities: dict[str, Tensor] | None = {} if algorithm.one_optimizer else None
    after_epoch: list[Callable[[], object]] = [deadline.check]
    if curve:
        after_epoch.append(curve.measure)
    best = None
    if algorithm.evaluation is EvaluationRule.BEST_EPOCH_OF_EACH_CLIENT:
        best = BestEpoch(client.model, client.examples("test"), client.dataset.transform)
        after_epoch.append(best.note)
    for training_round in training_rounds:
        if curve:
            curve.measure()
        generator = torch_generator(config.seed, Purpose.TRAINING, training_round, client.id)
        learning_rate = config.learning_rate_in(training_round)
        losses += client.train_model(
            examples, phases, generator, config.num_local_epochs, learning_rate, after_epoch, velocities
        )
        if len(training_rounds) > 1 and not isfinite(losses[-1]):  # the rounds that follow would be in vain
            place = f"in training round {training_round} of {len(training_rounds)}, at learning rate {learning_rate:g}"
            raise FloatingPointError(f" {place}")
    if best:
        client.model.load_state_dict(best.state)
    return sum(losses) / len(losses)


def evaluate_client(client: Client, client_state: State) -> ClientResult:
    """Measure one client's model without fine-tuning it; raises what `train_client` raises."""
    deadline = Deadline(client.config.client_timeout)
    client.reset_model(client_state)
    evaluation = ClientEvaluation(client.model, client.examples("test"), client.dataset.transform)
    evaluation.measure()
    deadline.check()
    check_finite(*evaluation.result.loss)
    return evaluation.result


def _part_of(model: SplitNetwork, part: Part) -> dict[str, Tensor]:
    """A copy of one part of a model's state dict."""
    state = model.state_dict()
    return {name: state[name].clone() for name in part.names(state)}
