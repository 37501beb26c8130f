"""The ClientApp: what a SuperNode does for its clients when the server asks.

A client is a data owner; a SuperNode is where ClientApps run. With at least as many simulated nodes as clients,
node p offers client p; with fewer, every node can read the whole dataset and offers all. A node started with
`--node-config "data-path='/path/to/data' partition-id=3"` offers client 3, its own folder.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedbabu.aggregation import State, weighted_sum
from fedbabu.algorithms import ALGORITHMS, Algorithm, Phase
from fedbabu.config import RunConfig
from fedbabu.data import (
    Examples,
    ImageDataset,
    Partition,
    client_examples,
    open_dataset,
    open_partition,
    whole_dataset,
)
from fedbabu.errors import ConfigError
from fedbabu.evaluation import ClientResult, evaluate_initial, evaluate_personalized
from fedbabu.messages import EvaluateReply, Offer, Task, TrainReply
from fedbabu.models import ImageShape, SplitNetwork, build_model
from fedbabu.seeding import Purpose, torch_generator
from fedbabu.training import SGDSettings, train

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

app = ClientApp()


@app.query()
def describe(message: Message, context: Context) -> Message:
    """Say which clients this node offers, what each holds and what the model must fit; or what is wrong."""
    try:
        content = _Node.of(context).offer().to_content()
    except ConfigError as error:
        content = Offer.refusal(error)
    return Message(content, reply_to=message)


@app.train()
def train_clients(message: Message, context: Context) -> Message:
    """Train the clients of the task, each from the global model, and reply with the sum of what they share."""
    node = _Node.of(context)
    task, global_model = Task.from_content(message.content)
    shared = node.algorithm.shares.names(global_model)
    model = node.model(global_model)
    num_examples, loss_sum = 0, 0.0

    def trained_clients() -> Iterator[tuple[State, int]]:
        nonlocal num_examples, loss_sum
        for client in task.clients:
            model.load_state_dict(global_model)
            examples = node.examples("train", client)
            losses = list(node.train(model, node.algorithm.trains, examples, Purpose.TRAINING, client, task))
            num_examples += len(examples)
            loss_sum += len(examples) * sum(losses) / len(losses)
            state = model.state_dict()
            yield {name: state[name] for name in shared}, len(examples)

    if len(task.clients) == 1:
        ((update, weight),) = trained_clients()
    else:
        update, weight = weighted_sum(trained_clients()), 1
    reply = TrainReply(dict(update), weight, num_examples, loss_sum / num_examples)
    return Message(reply.to_content(), reply_to=message)


@app.evaluate()
def evaluate_clients(message: Message, context: Context) -> Message:
    """Evaluate the global model on each client of the task, fine-tuning it on the way if so asked."""
    node = _Node.of(context)
    task, global_model = Task.from_content(message.content)
    model, transform = node.model(global_model), node.dataset.transform
    results: dict[int, ClientResult] = {}
    for client in task.clients:
        model.load_state_dict(global_model)
        test = node.examples("test", client)
        if task.personalize:
            own = node.examples("train", client)
            fine_tuning = node.train(model, node.algorithm.personalizes, own, Purpose.FINE_TUNING, client, task)
            results[client] = evaluate_personalized(model, own, test, transform, fine_tuning)
        else:
            results[client] = evaluate_initial(model, test, transform)
    return Message(EvaluateReply(results).to_content(), reply_to=message)


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
    def of(cls, context: Context) -> "_Node":
        """The node of a message's context. What is costly to open is opened once per process."""
        config = RunConfig.from_flower(context.run_config)
        node: Mapping[str, Any] = context.node_config
        number, num_nodes = node.get("partition-id"), node.get("num-partitions", 0)
        if own_folder := node.get("data-path"):
            if type(number) is not int or not 0 <= number < config.num_clients:
                raise ConfigError(
                    f"The SuperNode with data-path = '{own_folder}' has partition-id = {number!r}: it must be its "
                    f"client's number, from 0 to num-clients - 1 = {config.num_clients - 1}."
                )
            dataset = open_dataset(own_folder, config.image_column, config.label_column)
            return cls(config, dataset, whole_dataset(dataset, number, config.seed), [number], owner=True)
        dataset, partition = _open_simulated_data(config)
        clients = partition.clients
        if number is not None and num_nodes >= len(clients):
            clients = clients[number : number + 1]
        return cls(config, dataset, partition, clients, num_nodes)

    @property
    def algorithm(self) -> Algorithm:
        """The row of the table."""
        return ALGORITHMS[self.config.algorithm]

    def model(self, state: State) -> SplitNetwork:
        """A network to load such a state dict into, one per process.

        The server decides the width of the head: an owner may not know of all classes.
        """
        return _open_model(self.config.model_name, self.dataset.image_shape, len(state["head.bias"]))

    def offer(self) -> Offer:
        """Say what the server needs to know before it can sample clients and build the global model."""
        rows, labels = self.partition.rows, self.dataset.labels["train"]
        return Offer(
            clients=self.clients,
            num_train=[len(rows["train"][client]) for client in self.clients],
            num_test=[len(rows["test"][client]) for client in self.clients],
            classes=[" ".join(map(str, np.unique(labels[rows["train"][client]]))) for client in self.clients],
            dataset=self.dataset.name,
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
        phases: tuple[Phase, ...],
        examples: Examples,
        purpose: Purpose,
        client: int,
        task: Task,
    ) -> Iterator[float]:
        """Train a model as the task says; see training.train."""
        personalizes = purpose is Purpose.FINE_TUNING
        settings = SGDSettings(
            epochs=self.config.num_finetune_epochs if personalizes else self.config.num_local_epochs,
            batch_size=self.config.batch_size,
            learning_rate=task.learning_rate,
            momentum=self.config.momentum,
        )
        generator = torch_generator(self.config.seed, purpose, task.server_round, client)
        return train(model, examples, self.dataset.transform, phases, settings, generator)


@cache
def _open_simulated_data(config: RunConfig) -> tuple[ImageDataset, Partition]:
    dataset = open_dataset(config.dataset, config.image_column, config.label_column)
    return dataset, open_partition(dataset, config.num_clients, config.shards_per_client, config.seed)


@cache
def _open_model(name: str, image_shape: ImageShape, num_classes: int) -> SplitNetwork:
    return build_model(name, image_shape, num_classes, seed=0).to(DEVICE)
