"""The rounds in which clients were best by their test images, whose models the authors' code reports."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from fedbabu.algorithms import EvaluationRule
from fedbabu.federation.evaluation import Evaluation
from fedbabu.training.aggregation import State, weighted_sum

Evaluate = Callable[[State, Mapping[int, int]], Evaluation]
"""Evaluates all clients with a global model, and with the client states that were saved in a round for each client."""


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


@dataclass
class BestRounds:
    """The best of the rounds that were evaluated, by the rule of the algorithm's evaluation."""

    rule: EvaluationRule
    overall: BestRound | None = None  # by the mean over clients
    of_each_client: ClientsBestRounds = field(default_factory=ClientsBestRounds)  # empty unless the rule needs it

    def consider(
        self,
        server_round: int,
        evaluation: Evaluation,
        model: State,
        client_state_rounds: Mapping[int, int],
        shared: State,
        evaluate: Evaluate,
    ) -> None:
        """Make an evaluated round the best one, if the clients' mean accuracy is higher than ever before.

        Args:
            server_round: The number of the round; 0 for the initial model, which can only be a client's own best.
            evaluation: What the clients measured.
            model: The model that they evaluated.
            client_state_rounds: For each client with a client state, the round in which it was saved.
            shared: The shared part of the global model after the round.
            evaluate: Evaluates the combination of the clients' own best rounds, if the rule needs that.
        """
        states = dict(client_state_rounds)
        if self.rule is EvaluationRule.BEST_ROUND_OF_EACH_CLIENT:
            accuracies = {client: result.accuracy[0] for client, result in evaluation.results.items()}
            self.of_each_client.update(server_round, accuracies, states, shared)
            if server_round == 0:
                return
            model = {**model, **self.of_each_client.mean_shared()}
            states = dict(self.of_each_client.client_state_rounds)
            evaluation = evaluate(model, states)
        accuracy = evaluation.mean_accuracy(-1 if self.rule is EvaluationRule.PERSONALIZED_EVERY_ROUND else 0)
        if not self.overall or accuracy > self.overall.accuracy:
            self.overall = BestRound(server_round, accuracy, model, states)

    def to_evaluate_after(self, last_round: int) -> BestRound | None:
        """The best round, if its models are others than those that were evaluated after the last round."""
        is_last = self.overall and self.overall.server_round == last_round
        return None if is_last and self.rule is not EvaluationRule.BEST_ROUND_OF_EACH_CLIENT else self.overall

    @property
    def client_state_rounds(self) -> list[Mapping[int, int]]:
        """The client states of the best rounds: for each client, the round in which it was saved."""
        return [self.of_each_client.client_state_rounds, *([self.overall.client_state_rounds] if self.overall else [])]
