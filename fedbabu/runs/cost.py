"""What a run costs, in images: a training step's work on one image, which a measured speed turns into time."""

from dataclasses import dataclass
from functools import cached_property

from fedbabu.config import RunConfig

# A forward pass costs about a third of a training step; only estimates of time depend on it.
FORWARD_COST = 1 / 3


@dataclass(frozen=True)
class Cost:
    """What the parts of a run cost.

    Attributes:
        config: the run's.
        num_train: training images of all clients.
        num_test: test images of all clients.
    """

    config: RunConfig
    num_train: int
    num_test: int

    @property
    def whole(self) -> float:
        """All of a run."""
        config, rounds = self.config, self.config.num_rounds
        share = config.clients_per_round / config.num_clients if config.row.shares else 1 / rounds
        training = sum(self.training(each, share * self.num_train) for each in range(1, rounds + 1))
        return training + self.evaluations(0) + self.fine_tuning

    def training(self, server_round: int, num_examples: float) -> float:
        """A round's, of clients with so many examples together, and of the server."""
        clients = self._epochs * len(self.config.local_rounds(server_round)) * num_examples
        return clients + self.config.server_data_fraction * self.num_train

    @cached_property
    def _epochs(self) -> int:
        """Of a client in a round, all phases together."""
        phases = self.config.row.trains + self.config.row.trains_kept
        return sum(phase.num_epochs(self.config.num_local_epochs) for phase in phases)

    def evaluations(self, done: int) -> float:
        """Of the evaluations that follow on so many rounds, but for the final one, in the last round's place."""
        every = self.config.evaluate_every
        number = max((self.config.num_rounds - 1) // every - done // every, 0) if every else 0
        return number * FORWARD_COST * self.num_test

    @property
    def fine_tuning(self) -> float:
        """The final evaluation, with fine-tuning."""
        epochs = self.config.finetune_epochs
        return (epochs + FORWARD_COST) * self.num_train + (epochs + 1) * FORWARD_COST * self.num_test
