"""The strategy: FedAvg over the part of the model that an algorithm shares, and over clients rather than nodes."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from torch import Tensor

from fedbabu.aggregation import weighted_sum
from fedbabu.config import RunConfig
from fedbabu.evaluation import ClientResult
from fedbabu.federation import Federation
from fedbabu.messages import EvaluateReply, Task, TrainReply
from fedbabu.seeding import Purpose, numpy_generator
from fedbabu.server_data import ServerData

Record = dict[str, Any]  # a line of rounds.jsonl


class SharedPartFedAvg(FedAvg):
    """Federated averaging of the shared part; what is not shared keeps its value on the server.

    With FedBABU's row of the table this is Algorithm 1: the server samples clients, broadcasts the global model,
    averages the bodies that come back and leaves the head alone. Each node gets one message that names its
    clients. After the last round, every client is evaluated and fine-tuned.

    Args:
        config: the run configuration.
        federation: the clients, and the nodes that offer them.
        initial_model: the global model's state dict before the first round.
        run: the absolute path of the run folder.
        server_data: what the server itself trains on after each aggregation, if anything.
        on_round: called at the end of every round with its record.
        on_evaluation: called before a round's evaluation with whether it fine-tunes.
    """

    def __init__(
        self,
        config: RunConfig,
        federation: Federation,
        initial_model: Mapping[str, Tensor],
        run: Path,
        server_data: ServerData | None = None,
        on_round: Callable[[Record], None] = lambda record: None,
        on_evaluation: Callable[[bool], None] = lambda personalize: None,
    ) -> None:
        super().__init__()
        self.config = config
        self.federation = federation
        self.global_model = dict(initial_model)
        self.shared = config.row.shares.names(initial_model)
        self.run = run
        self.server_data = server_data
        self.results: dict[int, ClientResult] = {}  # of the last evaluation, by client id
        self._on_round = on_round
        self._on_evaluation = on_evaluation
        self._record: Record = {}
        self._started = 0.0
        self._num_asked = 0  # nodes that owe a reply

    def sample_clients(self, server_round: int) -> list[int]:
        """The clients of a round, drawn without replacement (Algorithm 1, line 4).

        Without communication, each client comes in one round.
        """
        clients = sorted(self.federation.clients)
        if not self.config.row.shares:
            return clients[server_round - 1 :: self.config.num_rounds]
        rng = numpy_generator(self.config.seed, Purpose.SAMPLING, server_round)
        return sorted(rng.choice(clients, self.config.clients_per_round, replace=False).tolist())

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample the clients of a round and send them the global model."""
        self._started = perf_counter()
        clients, rounds = self.sample_clients(server_round), self.config.local_rounds(server_round)
        self._record = {
            "round": server_round,
            "learning-rate": self.config.learning_rate_of(rounds[-1]),
            "clients": clients,
            "bytes-sent": 0,
            "bytes-received": 0,
        }
        return self._messages(MessageType.TRAIN, arrays, Task(str(self.run), server_round, clients, rounds))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Replace the shared part of the global model by the clients' mean, weighted by example counts.

        Then train it on the server, if it has data (Section 4; Appendix L).
        """
        nodes = [TrainReply.from_content(content) for content in self._contents(replies)]
        for node in nodes:
            if sorted(node.update) != sorted(self.shared):
                raise RuntimeError(f"A node sent {sorted(node.update)}, but {sorted(self.shared)} are shared.")
        losses: dict[str, Any] = {}
        num_examples = sum(node.num_examples for node in nodes)
        if nodes:
            sums = weighted_sum((node.update, node.weight) for node in nodes)
            self.global_model |= {
                name: (value / num_examples).to(self.global_model[name].dtype) for name, value in sums.items()
            }
            losses["train-loss"] = sum(node.train_loss * node.num_examples for node in nodes) / num_examples
        if self.server_data:
            self.global_model, losses["server-loss"] = self.server_data.train(self.global_model, server_round)
        self._record |= {"num-examples": num_examples, **losses, "train-seconds": perf_counter() - self._started}
        return ArrayRecord(self.global_model), MetricRecord(losses)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the global model to all clients, if this is a round to evaluate; in the last, to fine-tune it."""
        self._num_asked = 0
        personalize = server_round == self.config.num_rounds
        # Without communication, there is nothing to evaluate before every client has trained.
        every = self.config.evaluate_every if self.config.row.shares else 0
        if not personalize and not (every and server_round % every == 0):
            return []
        self._on_evaluation(personalize)
        if self.server_data:
            self._record["test-accuracy"] = self.server_data.test_accuracy(self.global_model)
        task = Task(str(self.run), server_round, list(self.federation.clients), [], personalize)
        return self._messages(MessageType.EVALUATE, arrays, task)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Collect what every client measured, and end the round's record with their mean initial accuracy."""
        results: dict[int, ClientResult] = {}
        for content in self._contents(replies):
            results |= EvaluateReply.from_content(content).results
        seconds = perf_counter() - self._started
        self._record |= {"seconds": seconds, "evaluate-seconds": seconds - self._record["train-seconds"]}
        metrics = None
        if results:
            self.results = dict(sorted(results.items()))
            initial = sum(result.accuracy[0] for result in results.values()) / len(results)
            self._record["initial-accuracy"] = initial
            metrics = MetricRecord({"initial-accuracy": initial})
        self._on_round(self._record)
        return metrics

    def _messages(self, message_type: str, arrays: ArrayRecord, task: Task) -> list[Message]:
        """One message to each node, with the global model and its share of the task's clients."""
        messages = [
            Message(replace(task, clients=ids).to_content(arrays), message_type=message_type, dst_node_id=node)
            for node, ids in self.federation.assign(task.clients).items()
        ]
        self._num_asked = len(messages)
        self._record["bytes-sent"] += len(messages) * _num_bytes(arrays)
        return messages

    def _contents(self, replies: Iterable[Message]) -> list[RecordDict]:
        """The contents of all replies.

        Raises:
            RuntimeError: if a node failed or did not reply, since a mean over the others would be quietly wrong.
        """
        contents: list[RecordDict] = []
        for reply in replies:
            if reply.has_error():
                raise RuntimeError(f"Node {reply.metadata.src_node_id} failed: {reply.error.reason}")
            contents.append(reply.content)
            self._record["bytes-received"] += sum(map(_num_bytes, reply.content.array_records.values()))
        if len(contents) != self._num_asked:
            raise RuntimeError(f"Only {len(contents)} of {self._num_asked} nodes replied.")
        return contents


def _num_bytes(arrays: ArrayRecord) -> int:
    return sum(len(array.data) for array in arrays.values())
