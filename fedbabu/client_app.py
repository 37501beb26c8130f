"""The ClientApp: what a SuperNode does for its clients when the server asks.

A client is a data owner; a SuperNode is where ClientApps run. With at least as many simulated nodes as clients,
node p offers client p; with fewer, every node can read the whole dataset and offers all. A node started with
`--node-config "data-path='/path/to/data' partition-id=3"` offers client 3, its own folder.
"""

from collections.abc import Iterator
from functools import cache, cached_property
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from fedbabu.aggregation import weighted_mean
from fedbabu.algorithms import ALGORITHMS, Phase
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
from fedbabu.models import SplitNetwork, build_model
from fedbabu.seeding import Purpose, torch_generator
from fedbabu.training import SGDSettings, train

app = ClientApp()


@app.query()
def describe(message: Message, context: Context) -> Message:
    """Say which clients this node offers, what each holds, and what the model must fit; or what is wrong."""
    try:
        offer = _Node.of(context).offer()
    except ConfigError as error:
        offer = {"error": str(error)}
    return Message(RecordDict({"offer": ConfigRecord(offer)}), reply_to=message)


@app.train()
def train_clients(message: Message, context: Context) -> Message:
    """Train the clients that the message names, each from the global model, and reply with their mean.

    Only the shared part is sent back; `num-examples` is its weight.
    """
    node, work = _Node.of(context), message.content["config"]
    global_model = message.content["arrays"].to_torch_state_dict()
    shared = node.algorithm.shares.names(global_model)
    losses: list[tuple[dict[str, Tensor], int]] = []

    def trained_clients() -> Iterator[tuple[dict[str, Tensor], int]]:
        for client in work["clients"]:
            node.model.load_state_dict(global_model)
            examples = node.examples("train", client)
            epochs = list(node.train(node.algorithm.trains, examples, Purpose.TRAINING, client, work))
            losses.append(({"train-loss": torch.tensor(epochs).mean()}, len(examples)))
            state = node.model.state_dict()
            yield {name: state[name] for name in shared}, len(examples)

    mean, num_examples = weighted_mean(trained_clients())
    loss = weighted_mean(losses)[0]["train-loss"].item()
    # One client's float32 parameters are exact as they are; a mean of several travels in float64.
    dtype = torch.float32 if len(losses) == 1 else torch.float64
    arrays = ArrayRecord({name: value.to("cpu", dtype) for name, value in mean.items()})
    metrics = MetricRecord({"num-examples": num_examples, "train-loss": loss})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate_clients(message: Message, context: Context) -> Message:
    """Evaluate the global model on the clients that the message names and reply with a row for each.

    With `personalize`, also without the head and after every epoch of fine-tuning. Lists of one value per epoch
    follow one another, client by client.
    """
    node, work = _Node.of(context), message.content["config"]
    global_model = message.content["arrays"].to_torch_state_dict()
    results: list[ClientResult] = []
    num_examples = 0
    for client in work["clients"]:
        node.model.load_state_dict(global_model)
        test = node.examples("test", client)
        num_examples += len(test)
        if work["personalize"]:
            own = node.examples("train", client)
            fine_tune = node.train(node.algorithm.personalizes, own, Purpose.FINE_TUNING, client, work)
            results.append(evaluate_personalized(node.model, own, test, node.dataset.transform, fine_tune))
        else:
            results.append(evaluate_initial(node.model, test, node.dataset.transform))
    metrics = {
        "num-examples": num_examples,
        "clients": list(work["clients"]),
        "accuracy": [value for result in results for value in result.accuracy],
        "loss": [value for result in results for value in result.loss],
    }
    if work["personalize"]:
        metrics["without-head-accuracy"] = [result.without_head_accuracy for result in results]
    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=message)


class _Node:
    """What a node works with: the configuration, its data, which clients it offers, a model and a device."""

    def __init__(
        self,
        config: RunConfig,
        dataset: ImageDataset,
        partition: Partition,
        clients: list[int],
        num_nodes: int = 0,
    ) -> None:
        self.config = config
        self.algorithm = ALGORITHMS[config.algorithm]
        self.dataset = dataset
        self.partition = partition
        self.clients = clients
        self.num_nodes = num_nodes  # of the whole simulation; 0 where a node does not know
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @staticmethod
    def of(context: Context) -> "_Node":
        """The node of a message's context, opened once per process."""
        return _open_node(
            RunConfig.from_flower(context.run_config),
            context.node_config.get("data-path"),
            context.node_config.get("partition-id"),
            context.node_config.get("num-partitions", 0),
        )

    @cached_property
    def model(self) -> SplitNetwork:
        """A network to load each client's parameters into."""
        shape, num_classes = self.dataset.image_shape, self.dataset.num_classes
        return build_model(self.config.model_name, shape, num_classes, self.config.seed).to(self.device)

    def offer(self) -> dict[str, Any]:
        """What the server needs to know before it can sample clients and build the global model."""
        held = [self.partition.rows["train"][client] for client in self.clients]
        labels = self.dataset.labels["train"]
        return {
            "clients": self.clients,
            "num-train-examples": [len(rows) for rows in held],
            "num-test-examples": [len(self.partition.rows["test"][client]) for client in self.clients],
            "classes": [" ".join(map(str, sorted(set(labels[rows].tolist())))) for rows in held],
            "dataset": self.dataset.name,
            "image-shape": list(self.dataset.image_shape),
            "num-classes": self.dataset.num_classes,
            "num-nodes": self.num_nodes,
            "device": str(self.device),
        }

    def examples(self, split: str, client: int) -> Examples:
        """A client's training or test examples, on this node's device."""
        rows = self.partition.rows[split][client]
        return client_examples(self.dataset.images[split], self.dataset.labels[split], rows, self.device)

    def train(
        self, phases: tuple[Phase, ...], examples: Examples, purpose: Purpose, client: int, work: ConfigRecord
    ) -> Iterator[float]:
        """Train the model as the message says; see training.train."""
        personalizes = purpose is Purpose.FINE_TUNING
        settings = SGDSettings(
            epochs=self.config.num_finetune_epochs if personalizes else self.config.num_local_epochs,
            batch_size=self.config.batch_size,
            learning_rate=work["learning-rate"],
            momentum=self.config.momentum,
        )
        generator = torch_generator(self.config.seed, purpose, work["server-round"], client)
        return train(self.model, examples, self.dataset.transform, phases, settings, generator)


@cache
def _open_node(config: RunConfig, data_path: str | None, number: int | None, num_nodes: int = 0) -> _Node:
    if data_path is not None:
        if number is None:
            raise ConfigError(f"A node with data-path = '{data_path}' needs a partition-id, the id of its client.")
        dataset = open_dataset(data_path, config.image_column, config.label_column)
        return _Node(config, dataset, whole_dataset(dataset, number), [number])
    dataset = open_dataset(config.dataset, config.image_column, config.label_column)
    partition = open_partition(dataset, config.num_clients, config.shards_per_client, config.seed)
    clients = partition.clients
    if number is not None and num_nodes >= len(clients):
        clients = clients[number : number + 1]
    return _Node(config, dataset, partition, clients, num_nodes)
