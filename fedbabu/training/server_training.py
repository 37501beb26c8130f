"""Training on the server: after each aggregation on a part of the data (Tables 2 and 21), or centralized (Table 9)."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fedbabu.algorithms import Phase
from fedbabu.config import RunConfig
from fedbabu.data import BatchTransform, Examples, client_examples, open_simulated_data
from fedbabu.errors import ConfigError
from fedbabu.federation.clients import Federation
from fedbabu.models import SplitNetwork
from fedbabu.seeding import Purpose, numpy_generator, torch_generator
from fedbabu.training.evaluation import evaluate_initial
from fedbabu.training.local_sgd import DEVICE, check_finite, train

State = dict[str, Tensor]


@dataclass(frozen=True)
class ServerData:
    """What the server trains and tests the global model on.

    Attributes:
        config: the run configuration.
        model: a network to work on.
        examples: the server's training examples.
        test: all test examples, in random order.
        transform: augmentation and normalization.
    """

    config: RunConfig
    model: SplitNetwork
    examples: Examples
    test: Examples
    transform: BatchTransform

    @classmethod
    def open(cls, config: RunConfig, federation: Federation, model: SplitNetwork) -> "ServerData":
        """Draw the server's images at random, once for the whole run, from those of all clients.

        Raises:
            ConfigError: if the clients are owners, whose images the server does not have, or if no image is drawn.
        """
        if federation.owners:
            raise ConfigError(
                f"server-data-fraction = {config.server_data_fraction} needs the clients' images on the server, but "
                "the SuperNodes have data of their own: it must be 0.0."
            )
        dataset, partition = open_simulated_data(config)
        rng = numpy_generator(config.seed, Purpose.SERVER_DATA)
        drawn = {
            split: rng.permutation(np.concatenate(list(clients.values()))) for split, clients in partition.rows.items()
        }
        num_train = round(config.server_data_fraction * len(drawn["train"]))
        if not num_train:
            raise ConfigError(
                f"server-data-fraction = {config.server_data_fraction} of {len(drawn['train'])} images is less than "
                "one: raise it."
            )
        drawn["train"] = drawn["train"][:num_train]
        examples, test = (
            client_examples(dataset.images[split], dataset.labels[split], drawn[split], DEVICE)
            for split in ("train", "test")
        )
        return cls(config, model.to(DEVICE), examples, test, dataset.transform)

    def train(self, state: State, server_round: int) -> tuple[State, float]:
        """Train the global model for one epoch, at the round's learning rate, and return it with the mean loss.

        Raises:
            FloatingPointError: if it diverges.
        """
        self.model.load_state_dict(state)
        (loss,) = train(
            self.model,
            self.model,
            self.examples,
            self.transform,
            (Phase(self.config.server_trains),),
            self.config,
            torch_generator(self.config.seed, Purpose.SERVER_TRAINING, server_round),
            epochs=1,
            learning_rate=self.config.learning_rate_of(server_round),
        )
        trained = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
        check_finite(loss, *trained.values())
        return trained, loss

    def test_accuracy(self, state: State) -> float:
        """The global model's accuracy, in percent, on all test examples."""
        self.model.load_state_dict(state)
        return evaluate_initial(self.model, self.test, self.transform).accuracy[0]
