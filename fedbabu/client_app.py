"""The ClientApp: what a SuperNode does for its clients when the server asks.

A client is a data owner; a SuperNode is where ClientApps run. With at least as many simulated nodes as clients,
node p offers client p; with fewer, every node can read the whole dataset and offers all. A node started with
`--node-config "data-path='/path/to/data' partition-id=3"` offers client 3, its own folder.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from torch import Tensor

from fedbabu.algorithms import Part, Phase
from fedbabu.config import RunConfig
from fedbabu.data import (
    Examples,
    ImageDataset,
    Partition,
    client_examples,
    data_spec,
    open_dataset,
    open_simulated_data,
    whole_dataset,
)
from fedbabu.errors import ConfigError
from fedbabu.federation.messages import NOT_FINITE, EvaluateReply, Offer, Task, TrainReply
from fedbabu.models import ImageShape, SplitNetwork, build_model
from fedbabu.runs.files import ClientStore, check_writable, state_dir
from fedbabu.seeding import Purpose, torch_generator
from fedbabu.training.aggregation import State, add_weighted, weighted_sum
from fedbabu.training.diagnostics import ClassAccuracy, watch_directions
from fedbabu.training.evaluation import ClientResult, evaluate_initial, evaluate_personalized
from fedbabu.training.local_sgd import DEVICE, Deadline, check_finite, train

app = ClientApp()


@app.query()
def describe(message: Message, context: Context) -> Message:
    """Say which clients this node offers, what each holds and what the model must fit; or what is wrong."""
    try:
        content = _Node.of(message, context).offer().to_content()
    except ConfigError as error:
        content = Offer.refusal(error)
    return Message(content, reply_to=message)


@app.train()
def train_clients(message: Message, context: Context) -> Message:
    """Train the clients of the task, each from the global model, and reply with the sum of what they share."""
    node, task, global_model = _unpack(message, context)
    store = node.store(task)
    model, received = node.models(global_model)
    examples: dict[int, int] = {}  # of the clients that trained well,
    losses: list[float] = []  # likewise
    curves: list[ClassAccuracy] = []  # likewise, if asked for
    failed: dict[int, str] = {}

    def trained_clients() -> Iterator[tuple[State, int]]:
        for client in task.clients:
            with _noting(failed, client):
                shared, num_examples, loss, curve = _train_client(
                    node, store, task, client, global_model, model, received
                )
                examples[client] = num_examples
                losses.append(loss)
                curves.extend([curve] if curve else [])
                yield shared, num_examples

    if len(task.clients) == 1:
        update, weight = next(trained_clients(), ({}, 1))
    else:
        update, weight = weighted_sum(trained_clients()), 1
    reply = TrainReply(
        list(examples), update, weight, sum(examples.values()), losses, failed,
        in_class=[value for curve in curves for value in curve.in_class],
        out_of_class=[value for curve in curves for value in curve.out_of_class],
    )  # fmt: skip
    return Message(reply.to_content(), reply_to=message)


def _train_client(
    node: "_Node",
    store: ClientStore,
    task: Task,
    client: int,
    global_model: dict[str, Tensor],
    model: SplitNetwork,
    received: SplitNetwork,
) -> tuple[State, int, float, ClassAccuracy | None]:
    """A client's round: what it shares afterwards, its number of examples, its mean loss, and what `record` asks for.

    Raises:
        FloatingPointError: if it diverged.
        TimeoutError: if it took longer than client-timeout.
    """
    row, deadline = node.config.row, Deadline(node.config.client_timeout)
    examples = node.examples("train", client)
    own_model = global_model | store.load(client, task.needed(client)[0])
    model.load_state_dict(global_model if row.trains_kept else own_model)
    curve = node.class_accuracy(model, examples, client)
    loss = node.train(model, received, row.trains, examples, client, task, deadline, curve)
    shared = _part(model, row.shares)
    if row.trains_kept:
        model.load_state_dict(own_model)
        node.train(model, received, row.trains_kept, examples, client, task, deadline)
    kept = _part(model, row.keeps)
    check_finite(loss, *shared.values(), *kept.values())
    if kept:
        store.save(client, task.server_round, kept, task.needed(client))
    return shared, len(examples), loss, curve


@app.evaluate()
def evaluate_clients(message: Message, context: Context) -> Message:
    """Evaluate each client's model, the global one and what the client keeps, fine-tuning it on the way if so asked."""
    node, task, global_model = _unpack(message, context)
    store, transform = node.store(task), node.dataset.transform
    model, received = node.models(global_model)
    results: dict[int, ClientResult] = {}
    failed: dict[int, str] = {}
    directions: dict[str, Tensor] = {}  # summed over clients, if asked for
    for client in task.clients:
        with _noting(failed, client):
            deadline = Deadline(node.config.client_timeout)
            model.load_state_dict(global_model | store.load(client, task.needed(client)[0]))
            test = node.examples("test", client)
            of_client: dict[str, Tensor] = {}
            if task.personalize:
                own = node.examples("train", client)
                fine_tuning = deadline.watch(node.fine_tune(model, received, own, client, task))
                if "similarity" in node.config.records:
                    fine_tuning = watch_directions(model, fine_tuning, of_client)
                result = evaluate_personalized(
                    model, own, test, transform, fine_tuning, by_distribution=node.config.iid_test_set
                )
            else:
                result = evaluate_initial(model, test, transform)
            deadline.check()
            check_finite(*result.loss)
            results[client] = result
            add_weighted(directions, of_client)
    return Message(EvaluateReply(results, failed, directions).to_content(), reply_to=message)


def _unpack(message: Message, context: Context) -> "tuple[_Node, Task, dict[str, Tensor]]":
    global_model = message.content.array_records["arrays"].to_torch_state_dict()
    return _Node.of(message, context), Task.from_content(message.content), global_model


@contextmanager
def _noting(failed: dict[int, str], client: int) -> Iterator[None]:
    """Note why a client failed, of whatever kind the error is, and go on with the node's others."""
    try:
        yield
    except FloatingPointError:
        failed[client] = NOT_FINITE
    except Exception as error:
        failed[client] = f"{type(error).__name__}: {error}"


def _part(model: SplitNetwork, part: Part) -> State:
    """A copy of a part of a model's state dict."""
    state = model.state_dict()
    return {name: state[name].clone() for name in part.names(state)}


@dataclass(frozen=True)
class _Node:
    """What a node works with: the configuration, its data, and which clients it offers.

    `num_nodes` is that of the whole simulation, or 0 where a node does not know it; an owner has data of its own.
    """

    config: RunConfig
    dataset: ImageDataset
    partition: Partition
    clients: list[int]
    num_nodes: int = 0
    owner: bool = False

    @classmethod
    def of(cls, message: Message, context: Context) -> "_Node":
        """The node that a message has reached. What is costly to open is opened once per process."""
        config = RunConfig.from_flower(message.content.config_records["run-config"])
        node: Mapping[str, Any] = context.node_config
        number, num_nodes = node.get("partition-id"), node.get("num-partitions", 0)
        if own_folder := node.get("data-path"):
            if type(number) is not int or not 0 <= number < config.num_clients:
                raise ConfigError(
                    f"The SuperNode with data-path = '{own_folder}' has partition-id = {number!r}: it must be its "
                    f"client's number, from 0 to num-clients - 1 = {config.num_clients - 1}."
                )
            dataset = open_dataset(data_spec(config, own_folder))
            return cls(config, dataset, whole_dataset(dataset, number, config.seed), [number], owner=True)
        dataset, partition = open_simulated_data(config)
        clients = partition.clients
        if number is not None and num_nodes >= len(clients):
            clients = clients[number : number + 1]
        return cls(config, dataset, partition, clients, num_nodes)

    def models(self, global_model: State) -> tuple[SplitNetwork, SplitNetwork]:
        """A network to work on, and one that is the global model; both are opened once per process.

        The server decides the width of the head: an owner may not know of all classes.
        """
        shape, num_classes = self.dataset.image_shape, len(global_model["head.bias"])
        model, received = _open_models(self.config.model_name, shape, num_classes)
        received.load_state_dict(global_model)
        return model, received

    def store(self, task: Task) -> ClientStore:
        """What this run's clients keep: in the run folder, or in a real federation on the node's own disk.

        Raises:
            RuntimeError: if the clients would keep it on another machine than where they train next.
        """
        run = Path(task.run)
        if self.owner or not run.is_dir():
            if len(self.clients) > 1 and self.config.row.keeps:
                raise RuntimeError(
                    f"Nodes that share clients must share the run folder {run}, where '{self.config.algorithm}' keeps "
                    "a part of every client's model; this one cannot see it."
                )
            run = state_dir() / task.run_id
        return ClientStore(run / "clients")

    def offer(self) -> Offer:
        """Say what the server needs to know before it can sample clients and build the global model.

        Raises:
            ConfigError: if the client could not keep anything on its own disk and will have to.
        """
        if self.owner and self.config.row.keeps:
            check_writable(state_dir(), "The folder of what this client keeps (FEDBABU_STATE)")
        rows, labels = self.partition.rows, self.dataset.labels["train"]
        return Offer(
            clients=self.clients,
            num_train=[len(rows["train"][client]) for client in self.clients],
            num_test=[len(rows["test"][client]) for client in self.clients],
            classes=[" ".join(map(str, np.unique(labels[rows["train"][client]]))) for client in self.clients],
            dataset=self.dataset.name,
            checksum=self.dataset.checksum,
            image_shape=list(self.dataset.image_shape),
            num_classes=self.dataset.num_classes,
            num_nodes=self.num_nodes,
            owner=self.owner,
            device=DEVICE.type,
        )

    def examples(self, split: str, client: int) -> Examples:
        """A client's training or test examples, on this node's device."""
        rows = self.partition.rows[split][client]
        return client_examples(self.dataset.images[split], self.dataset.labels[split], rows, DEVICE)

    def train(
        self,
        model: SplitNetwork,
        received: SplitNetwork,
        phases: Iterable[Phase],
        examples: Examples,
        client: int,
        task: Task,
        deadline: "Deadline",
        curve: ClassAccuracy | None = None,
    ) -> float:
        """Train a model for the task's rounds and return the mean loss over their epochs; a curve watches them."""
        losses: list[float] = []
        for training_round in task.rounds:
            learning_rate = self.config.learning_rate_of(training_round)
            epochs = deadline.watch(train(
                model, received, examples, self.dataset.transform, phases, self.config,
                torch_generator(self.config.seed, Purpose.TRAINING, training_round, client),
                epochs=self.config.num_local_epochs, learning_rate=learning_rate,
            ))  # fmt: skip
            losses += curve.watch(epochs) if curve else epochs
        return sum(losses) / len(losses)

    def class_accuracy(self, model: SplitNetwork, examples: Examples, client: int) -> ClassAccuracy | None:
        """What watches a client's model while it trains, if that is asked for."""
        if "class-accuracy" not in self.config.records:
            return None
        test = self.examples("test", client)
        return ClassAccuracy(model, test, torch.isin(test.labels, examples.labels), self.dataset.transform)

    def fine_tune(
        self, model: SplitNetwork, received: SplitNetwork, examples: Examples, client: int, task: Task
    ) -> Iterator[float]:
        """Fine-tune a model, an epoch each time the result is advanced."""
        return train(
            model, received, examples, self.dataset.transform, self.config.row.personalizes, self.config,
            torch_generator(self.config.seed, Purpose.FINE_TUNING, task.server_round, client),
            epochs=self.config.num_finetune_epochs, learning_rate=self.config.finetune_learning_rate,
        )  # fmt: skip


@cache
def _open_models(name: str, image_shape: ImageShape, num_classes: int) -> tuple[SplitNetwork, SplitNetwork]:
    model, received = (build_model(name, image_shape, num_classes, seed=0).to(DEVICE) for _ in range(2))
    return model, received
