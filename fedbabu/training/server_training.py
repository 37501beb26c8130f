"""Training on the server: on a part of the data after each aggregation (Tables 2 and 21), or centralized (Table 9)."""

from dataclasses import dataclass

from torch import Tensor

from fedbabu.algorithms import Phase
from fedbabu.config import RunConfig
from fedbabu.data.partitions.partition import open_simulated_data
from fedbabu.data.transforms import BatchTransform, Examples, client_examples
from fedbabu.errors import ConfigError
from fedbabu.models import SplitNetwork
from fedbabu.seeding import Purpose, numpy_generator, torch_generator
from fedbabu.training.aggregation import State
from fedbabu.training.device import training_device
from fedbabu.training.evaluation import ClientEvaluation
from fedbabu.training.local_sgd import LocalTrainingSettings, check_finite, train


@dataclass(frozen=True)
class ServerTrainer:
    """Trains the global model on training images that the server has, and tests it on all test images."""

    config: RunConfig
    model: SplitNetwork
    train_examples: Examples
    test_examples: Examples
    transform: BatchTransform

    @classmethod
    def open(cls, config: RunConfig, model: SplitNetwork) -> "ServerTrainer":
        """Draw the server's training images at random, once for the whole run, from those of all clients.

        Raises:
            ConfigError: If server-data-fraction is so small that no image is drawn.
        """
        dataset, partition = open_simulated_data(config.data_spec, config.partition_spec)
        rng = numpy_generator(config.seed, Purpose.SERVER_DATA)
        rows = {split: partition.shuffled_rows(split, rng) for split in ("train", "test")}
        num_train, num_images = round(config.server_data_fraction * len(rows["train"])), len(rows["train"])
        if not num_train:
            raise ConfigError(
                f"server-data-fraction = {config.server_data_fraction} of {num_images} images is less than one image: "
                "raise it."
            )
        rows["train"], device = rows["train"][:num_train], training_device(config.device)
        train_examples, test_examples = (
            client_examples(dataset.images[split], dataset.labels[split], rows[split], device) for split in rows
        )
        return cls(config, model.to(device), train_examples, test_examples, dataset.transform)

    def train(self, state: State, server_round: int) -> tuple[dict[str, Tensor], float]:
        """Train the global model for one epoch; returns its state dict, on the CPU, and the mean loss, both finite."""
        self.model.load_state_dict(state)
        (loss,) = train(
            self.model,
            self.model,
            self.train_examples,
            self.transform,
            (Phase(self.config.part_trained_on_server),),
            LocalTrainingSettings.from_config(self.config),
            torch_generator(self.config.seed, Purpose.SERVER_TRAINING, server_round),
            epochs=1,
            learning_rate=self.config.learning_rate_in(server_round),
        )
        trained = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
        check_finite(loss, *trained.values())
        return trained, loss

    def test_accuracy(self, state: State) -> float:
        """Accuracy of the global model on all test examples, in percent."""
        self.model.load_state_dict(state)
        evaluation = ClientEvaluation(self.model, self.test_examples, self.transform)
        evaluation.measure()
        return evaluation.result.accuracy[0]
