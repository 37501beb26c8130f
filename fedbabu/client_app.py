"""The ClientApp: what a SuperNode does for its clients when the server asks.

A client is a data owner; a SuperNode is where ClientApps run. With at least as many simulated nodes as clients,
node p offers client p; with fewer, every node can read the whole dataset and offers all. A node started with
`--node-config "data-path='/path/to/data' partition-id=3"` offers client 3, its own folder.
"""

from collections.abc import Iterator
from functools import cache, cached_property

import numpy as np
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

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
from fedbabu.messages import EvaluateReply, Offer, State, Task, TrainReply
from fedbabu.models import SplitNetwork, build_model
from fedbabu.seeding import Purpose, torch_generator
from fedbabu.training import SGDSettings, train

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
    """Train the clients of the task, each from the global model, and reply with the mean of what they share."""
    node = _Node.of(context)
    task, global_model = Task.from_content(message.content)
    shared = node.algorithm.shares.names(global_model)

    def trained_clients() -> Iterator[tuple[State, int]]:
        for client in task.clients:
            node.model.load_state_dict(global_model)
            examples = node.examples("train", client)
            losses = list(node.train(node.algorithm.trains, examples, Purpose.TRAINING, client, task))
            state = node.model.state_dict()
            shared_state = {name: state[name] for name in shared}
            yield shared_state | {"train-loss": torch.tensor(losses).mean()}, len(examples)

    mean, num_examples = weighted_mean(trained_clients())
    train_loss = mean.pop("train-loss").item()
    if len(task.clients) == 1:  # one client's parameters are exact in their own dtype; a mean of several is not
        mean = {name: value.to(global_model[name].dtype) for name, value in mean.items()}
    mean = {name: value.cpu() for name, value in mean.items()}
    return Message(TrainReply(mean, num_examples, train_loss).to_content(), reply_to=message)


@app.evaluate()
def evaluate_clients(message: Message, context: Context) -> Message:
    """Evaluate the global model on each client of the task, fine-tuning it on the way if so asked."""
    node = _Node.of(context)
    task, global_model = Task.from_content(message.content)
    transform = node.dataset.transform
    results: dict[int, ClientResult] = {}
    num_examples = 0
    for client in task.clients:
        node.model.load_state_dict(global_model)
        test = node.examples("test", client)
        num_examples += len(test)
        if task.personalize:
            own = node.examples("train", client)
            fine_tuning = node.train(node.algorithm.personalizes, own, Purpose.FINE_TUNING, client, task)
            results[client] = evaluate_personalized(node.model, own, test, transform, fine_tuning)
        else:
            results[client] = evaluate_initial(node.model, test, transform)
    return Message(EvaluateReply(results, num_examples).to_content(), reply_to=message)


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
            device=self.device.type,
        )

    def examples(self, split: str, client: int) -> Examples:
        """A client's training or test examples, on this node's device."""
        rows = self.partition.rows[split][client]
        return client_examples(self.dataset.images[split], self.dataset.labels[split], rows, self.device)

    def train(
        self, phases: tuple[Phase, ...], examples: Examples, purpose: Purpose, client: int, task: Task
    ) -> Iterator[float]:
        """Train the model as the task says; see training.train."""
        personalizes = purpose is Purpose.FINE_TUNING
        settings = SGDSettings(
            epochs=self.config.num_finetune_epochs if personalizes else self.config.num_local_epochs,
            batch_size=self.config.batch_size,
            learning_rate=task.learning_rate,
            momentum=self.config.momentum,
        )
        generator = torch_generator(self.config.seed, purpose, task.server_round, client)
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
