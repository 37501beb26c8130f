"""The rounds in which clients were best by their test images, whose models the authors' code reports."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from fedbabu.training.aggregation import State, weighted_sum


@dataclass(frozen=True)
class BestRound:
    """The models of the evaluated round after which the clients' mean accuracy was highest so far."""

    server_round: int
    accuracy: float  # in percent
    model: State  # the state dict of the global model that the clients evaluated
    client_state_rounds: Mapping[int, int]  # for each client with a client state, the round in which it was saved


@dataclass
class ClientsBestRounds:
    """The best round of every client on its own, 0 for the initial model (LG-FedAvg in the authors' code)."""

    rounds: dict[int, int] = field(default_factory=dict)  # by client id
    accuracies: dict[int, float] = field(default_factory=dict)  # in percent, by client id
    client_state_rounds: dict[int, int] = field(default_factory=dict)  # when the state of the best round was saved
    shared: dict[int, State] = field(default_factory=dict)  # what the clients shared, by best round

    def update(
        self, server_round: int, accuracies: Mapping[int, float], states: Mapping[int, int], shared: State
    ) -> None:
        """Compare an evaluated round with every client's best one; of equal rounds, the later counts."""
        for client, accuracy in accuracies.items():
            if accuracy >= self.accuracies.get(client, 0.0):
                self.rounds[client], self.accuracies[client] = server_round, accuracy
                self.client_state_rounds[client] = states.get(client, 0)
        self.shared[server_round] = dict(shared)
        self.shared = {best: state for best, state in self.shared.items() if best in self.rounds.values()}

    def mean_shared(self) -> dict[str, Tensor]:
        """The mean over clients of the shared part as it was after each client's best round."""
        sums = weighted_sum((self.shared[best], 1) for best in self.rounds.values())
        types = {name: value.dtype for state in self.shared.values() for name, value in state.items()}
        return {name: (value / len(self.rounds)).to(types[name]) for name, value in sums.items()}
