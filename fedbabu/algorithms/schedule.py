"""How many rounds an algorithm runs, and the learning rate of each of them (Section 3, "Experimental setup")."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """The rounds of an algorithm and their learning rate, given the run-config keys num-server-rounds (K) and so on.

    By default, the learning rate is divided by ten after half of the training rounds, and again after three quarters.
    """

    rounds_divisor: int = 1  # the algorithm trains for K over this number of rounds, rounded down, and at least one
    initial_decays: int = 0  # how many times the learning rate is divided by ten before the first round
    decays_after: tuple[float, ...] = (0.5, 0.75)  # the fractions of the rounds after which it is divided by ten
    # 0 if clients communicate. Otherwise every client trains alone, all training rounds one after the other, in one of
    # this number of server rounds: they only decide how often progress is reported and saved.
    solo_server_rounds: int = 0

    def num_rounds(self, num_server_rounds: int, num_clients: int) -> int:
        """Number of rounds that the server runs."""
        if self.solo_server_rounds:
            return min(self.solo_server_rounds, num_clients)
        return max(num_server_rounds // self.rounds_divisor, 1)

    def training_rounds(self, server_round: int, num_server_rounds: int) -> list[int]:
        """The training rounds, counted from 1, that a client goes through in one round of the server."""
        return list(range(1, num_server_rounds + 1)) if self.solo_server_rounds else [server_round]

    def learning_rate(self, initial: float, training_round: int, num_server_rounds: int) -> float:
        """Learning rate of one training round, counted from 1, given the initial learning rate."""
        rounds, finished = max(num_server_rounds // self.rounds_divisor, 1), training_round - 1
        decays = self.initial_decays + sum(finished >= fraction * rounds for fraction in self.decays_after)
        return initial / 10**decays


PAPER_SCHEDULE = Schedule()
