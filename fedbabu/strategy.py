"""The strategy: FedAvg over the part of the model that an algorithm shares, and over clients rather than nodes."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path
from time import perf_counter, sleep
from typing import Any, NoReturn

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result
from torch import Tensor

from fedbabu.config import RunConfig
from fedbabu.errors import DivergedError, RunError, why
from fedbabu.federation.clients import Federation
from fedbabu.federation.messages import MAX_REASON, NOT_FINITE, PER_TRAINING_EPOCH, EvaluateReply, Task, TrainReply
from fedbabu.federation.messenger import NOT_CONNECTED, Exchange
from fedbabu.runs.checkpoints import STAYING, Checkpoint
from fedbabu.seeding import Purpose, numpy_generator
from fedbabu.training.aggregation import add_weighted, weighted_sum
from fedbabu.training.diagnostics import layer_similarity, mean_of_known, weights
from fedbabu.training.evaluation import ClientResult
from fedbabu.training.server_training import ServerData

RECONNECT_SECONDS = 10.0  # before a round is repeated because nodes had gone

Record = dict[str, Any]  # a line of rounds.jsonl


class SharedPartFedAvg(FedAvg):
    """Federated averaging of the shared part; what is not shared keeps its value on the server.

    With FedBABU's row of the table this is Algorithm 1: the server samples clients, broadcasts the global model,
    averages the bodies that come back and leaves the head alone. Each node gets one message that names its
    clients. After the last round, every client is evaluated and fine-tuned.

    A client that fails is left out of the mean, and the round's record says why. A round of too few clients is repeated
    with others.

    Args:
        config: the run configuration.
        federation: the clients, and the nodes that offer them.
        run: the absolute path of the run folder.
        run_id: tells this run from others of the same name.
        checkpoints: of this run so far, newest first; it goes on from the first.
        server_data: what the server itself trains on after each aggregation, if anything.
        on_round: called at the end of every round with its record.
        on_evaluation: called before a round's evaluation with whether it fine-tunes.
        on_checkpoint: called with every checkpoint.
    """

    def __init__(
        self,
        config: RunConfig,
        federation: Federation,
        run: Path,
        run_id: str,
        checkpoints: Collection[Checkpoint],
        server_data: ServerData | None = None,
        on_round: Callable[[Record], None] = lambda record: None,
        on_evaluation: Callable[[bool], None] = lambda personalize: None,
        on_checkpoint: Callable[[Checkpoint], None] = lambda checkpoint: None,
    ) -> None:
        super().__init__()
        newest = next(iter(checkpoints))
        self.config = config
        self.federation = federation
        self.run = run
        self.run_id = run_id
        self.server_data = server_data
        self.global_model = dict(newest.model)
        self.shared = {name: newest.model[name] for name in config.row.shares.names(newest.model)}
        self.results: dict[int, ClientResult] = {}  # of the last evaluation, by client id,
        self.missing: dict[int, str] = {}  # and why there is none of the other clients
        self.similarity: dict[str, list[float]] = {}  # of the clients' layers, if it is recorded
        self._on_round = on_round
        self._on_evaluation = on_evaluation
        self._on_checkpoint = on_checkpoint
        self._num_train = {client: info.num_train for client, info in federation.clients.items()}

        self._trained = newest.server_round  # the last round whose training is over
        self._to_evaluate = newest.record is not None  # whether its evaluation is still due
        self._record: Record = dict(newest.record or {})  # of the round that goes on
        self._history = list(newest.history)  # the records of those that are over
        self._kept = dict(newest.kept)  # for each client that keeps something, the round in which it kept it;
        self._kept_at = {c.server_round: c.kept for c in checkpoints}  # likewise at the newest checkpoints
        self._exchange: Exchange | None = None  # with the nodes, that goes on
        self._silent: set[int] = set()  # nodes that did not answer when they were last asked
        self._started = perf_counter() - self._record.get("train-seconds", 0.0)

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 0.0,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run what is left of `num_rounds` rounds: Flower's own loop, with repeated rounds and checkpoints.

        Args:
            grid: the nodes.
            initial_arrays: the global model to begin with.
            num_rounds: in all, those that are over included.
            timeout: seconds that a client may take; 0 for any time.
            train_config: the run configuration, which goes to the nodes with every message.
            evaluate_config: likewise.
            evaluate_fn: not called; server_data evaluates the global model.

        Raises:
            RunError: if the run cannot go on.
        """
        config, result = train_config or ConfigRecord(), Result(arrays=initial_arrays)
        for server_round in range(self._trained + (not self._to_evaluate), num_rounds + 1):
            if not self._to_evaluate:
                result.arrays, metrics = self._train(server_round, result.arrays, config, grid, timeout)
                result.train_metrics_clientapp[server_round] = metrics
                if server_round % self.config.checkpoint_every == 0 or server_round == num_rounds:
                    self.save_checkpoint()
            messages = self.configure_evaluate(server_round, result.arrays, evaluate_config or config, grid)
            evaluated = self.aggregate_evaluate(server_round, self._send(messages, timeout))
            if evaluated is not None:
                result.evaluate_metrics_clientapp[server_round] = evaluated
        return result

    def save_checkpoint(self) -> None:
        """Hand on the state after the last round whose training is over, unless that was done before."""
        if self._trained in self._kept_at:
            return
        record = self._record if self._to_evaluate else None
        self._on_checkpoint(Checkpoint(self._trained, self.global_model, self._kept, self._history, record))
        self._kept_at[self._trained] = dict(self._kept)
        for server_round in sorted(self._kept_at)[:-STAYING]:
            del self._kept_at[server_round]

    def _train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid, timeout: float
    ) -> tuple[ArrayRecord, MetricRecord]:
        """The training of a round, repeated while too few clients train well."""
        self._started = perf_counter()
        self._record = {"round": server_round, "failed": {}, "bytes-sent": 0, "bytes-received": 0}
        for attempt in range(self.config.max_round_retries + 1):
            if NOT_CONNECTED in self._record["failed"].values():
                sleep(RECONNECT_SECONDS)
            self._record["attempts"] = attempt + 1
            messages = self.configure_train(server_round, arrays, config, grid)
            averaged, metrics = self.aggregate_train(server_round, self._send(messages, timeout))
            if averaged is not None and metrics is not None:
                self._trained, self._to_evaluate = server_round, True
                return averaged, metrics
        failed = self._record["failed"]
        if set(failed.values()) == {NOT_FINITE}:
            self._diverged("the loss of every client that was tried")
        raise RunError(
            f"Round {server_round} was tried {self.config.max_round_retries + 1} times, but never had "
            f"min-fit-clients = {self.config.min_fit_clients} clients that trained well: {why(failed, MAX_REASON)}."
        )

    def sample_clients(self, server_round: int) -> list[int]:
        """The clients of a round, drawn without replacement (Algorithm 1, line 4).

        Without communication, each client comes in one round. In a round that is repeated, those that failed are
        left out, as long as there are enough others.
        """
        clients, again = sorted(self.federation.clients), self._record["attempts"] - 1
        if not self.config.row.shares:
            return clients[server_round - 1 :: self.config.num_rounds]
        others = [client for client in clients if client not in self._record["failed"]]
        clients = others if len(others) >= self.config.min_fit_clients else clients
        rng = numpy_generator(self.config.seed, Purpose.SAMPLING, server_round, *([again] if again else []))
        return sorted(rng.choice(clients, min(self.config.clients_per_round, len(clients)), replace=False).tolist())

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample the clients of a round and send them the global model."""
        clients, rounds = self.sample_clients(server_round), self.config.local_rounds(server_round)
        self._record |= {"learning-rate": self.config.learning_rate_of(rounds[-1]), "clients": clients}
        task = self._task(server_round, clients, rounds)
        self._exchange = Exchange(self.federation, grid, MessageType.TRAIN, task, arrays, config, self._silent)
        return self._exchange.messages()

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Replace the shared part of the global model by the clients' mean, weighted by example counts.

        Then train it on the server, if it has data (Section 4; Appendix L). If too few clients trained well, nothing
        changes, and nothing is returned.

        Raises:
            DivergedError: if training diverged.
        """
        exchange = self._exchange
        assert exchange is not None
        num_curve = self.config.num_curve_values(self._record["round"])
        checked = exchange.checked(
            replies,
            lambda content, asked: TrainReply.from_content(content, asked, self._num_train, self.shared, num_curve),
        )
        nodes = [node for node in checked if node.clients]
        self._note(exchange)
        losses = {client: loss for node in nodes for client, loss in zip(node.clients, node.losses, strict=True)}
        alone = not self.config.row.shares
        if set(exchange.failed.values()) == {NOT_FINITE} and len(exchange.failed) > 1 and not losses:
            self._diverged(f"the loss of all {len(exchange.failed)} clients")
        if self.config.clients_per_round and len(losses) < self.config.min_fit_clients and not alone:
            return None, None
        metrics: dict[str, Any] = {}
        model, num_examples = dict(self.global_model), sum(node.num_examples for node in nodes)
        if nodes:
            sums = weighted_sum((node.update, node.weight) for node in nodes)
            model |= {name: (value / num_examples).to(model[name].dtype) for name, value in sums.items()}
            metrics["train-loss"] = sum(losses[c] * self._num_train[c] for c in sorted(losses)) / num_examples
        if num_curve:
            for key in PER_TRAINING_EPOCH:
                of_clients = np.array([value for node in nodes for value in getattr(node, key)]).reshape(-1, num_curve)
                self._record[key.replace("_", "-")] = mean_of_known(of_clients)
        if self.server_data:
            try:
                model, metrics["server-loss"] = self.server_data.train(model, server_round)
            except FloatingPointError:
                self._diverged("the loss on the server")
        self.global_model = model
        if self.config.row.keeps:
            self._kept |= dict.fromkeys(losses, server_round)
        self._record |= {"num-examples": num_examples, **metrics, "train-seconds": perf_counter() - self._started}
        return ArrayRecord(model), MetricRecord(metrics)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the global model to all clients, if this is a round to evaluate; in the last, to fine-tune it."""
        self._exchange = None
        personalize = server_round == self.config.num_rounds
        # Without communication, there is nothing to evaluate before every client has trained.
        every = self.config.evaluate_every if self.config.row.shares else 0
        if not personalize and not (every and server_round % every == 0):
            return []
        self._on_evaluation(personalize)
        if self.server_data:
            self._record["test-accuracy"] = self.server_data.test_accuracy(self.global_model)
        clients = list(self.federation.clients)
        if not self.config.row.shares:  # whoever failed to train has no model of its own
            clients = [client for client in clients if client in self._kept]
        task = replace(self._task(server_round, clients, []), personalize=personalize)
        self._exchange = Exchange(self.federation, grid, MessageType.EVALUATE, task, arrays, config, self._silent)
        return self._exchange.messages()

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Collect what every client measured, and end the round's record with their mean initial accuracy.

        Raises:
            RunError: if no client could be evaluated.
        """
        metrics = None
        if exchange := self._exchange:
            results: dict[int, ClientResult] = {}
            epochs = 1 + exchange.task.personalize * self.config.finetune_epochs
            by_distribution = exchange.task.personalize and self.config.iid_test_set
            num_values = dict.fromkeys(("accuracy", "loss"), epochs)
            num_values |= dict.fromkeys(("id_accuracy", "ood_accuracy"), epochs * by_distribution)
            num_values["without_head_accuracy"] = int(exchange.task.personalize)
            directions = self._directions(epochs) if exchange.task.personalize else {}
            total: dict[str, Tensor] = {}  # of directions, one reply after the other: they may be large
            for reply in exchange.checked(
                replies, lambda content, asked: EvaluateReply.from_content(content, asked, num_values, directions)
            ):
                results |= reply.results
                add_weighted(total, reply.directions)
            self._note(exchange)
            untrained = self.federation.clients.keys() - set(exchange.task.clients)
            missing = dict.fromkeys(untrained, "it never trained") | exchange.failed
            self.results, self.missing = dict(sorted(results.items())), dict(sorted(missing.items()))
            if set(exchange.failed.values()) == {NOT_FINITE} and not results:
                self._diverged(f"the loss of all {len(exchange.failed)} clients in their evaluation")
            if not results:
                raise RunError(
                    f"No client could be evaluated after round {server_round}: {why(self.missing, MAX_REASON)}."
                )
            self.similarity = layer_similarity(total, len(results)) if len(results) > 1 else {}
            initial = sum(result.accuracy[0] for result in self.results.values()) / len(results)
            self._record |= {"initial-accuracy": initial, "missing": self.missing}
            metrics = MetricRecord({"initial-accuracy": initial})
        seconds = perf_counter() - self._started
        self._record |= {"seconds": seconds, "evaluate-seconds": seconds - self._record["train-seconds"]}
        self._history.append(self._record)
        self._to_evaluate = False
        self._on_round(self._record)
        return metrics

    def _task(self, server_round: int, clients: list[int], rounds: list[int]) -> Task:
        """A task for clients, which shall not forget what they kept last nor at the newest checkpoints."""
        needed = [self._kept, *self._kept_at.values()]
        kept = [" ".join(dict.fromkeys(str(at.get(client, 0)) for at in needed)) for client in clients]
        return Task(str(self.run), self.run_id, server_round, clients, kept, rounds)

    def _directions(self, num_values: int) -> dict[str, Tensor]:
        """The names, shapes and types of what `recording.watch_directions` notes, if that is asked for; no values."""
        if "similarity" not in self.config.records:
            return {}
        return {
            f"{epoch} {name}": torch.empty(value.numel(), dtype=torch.float64, device="meta")
            for epoch in range(num_values)
            for name, value in weights(self.global_model).items()
        }

    def _send(self, messages: Iterable[Message], timeout: float) -> list[Message]:
        return self._exchange.send(messages, timeout) if self._exchange else []

    def _note(self, exchange: Exchange) -> None:
        """Write an exchange that is over into the round's record."""
        self._record["bytes-sent"] += exchange.bytes_sent
        self._record["bytes-received"] += exchange.bytes_received
        if exchange.message_type == MessageType.TRAIN:
            before = {c: reason for c, reason in self._record["failed"].items() if c not in exchange.task.clients}
            self._record["failed"] = before | exchange.failed

    def _diverged(self, what: str) -> NoReturn:
        record = self._record
        raise DivergedError(
            f"Training diverged in round {record['round']}, at learning rate {record['learning-rate']:g}: {what} is "
            f"not finite. Start a new run with a learning-rate below {self.config.learning_rate:g}."
        )
