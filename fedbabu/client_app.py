"""The ClientApp: what a SuperNode does for its clients when the server asks.

A client is a data owner; a SuperNode is where ClientApps run. With at least as many simulated nodes as clients,
node p offers client p; with fewer, every node can read the whole dataset and offers all. A node started with
`--node-config "data-path='/path/to/data' partition-id=3"` offers client 3, its own folder.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedbabu.aggregation import State, weighted_sum
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
from fedbabu.evaluation import ClientResult, evaluate_initial, evaluate_personalized
from fedbabu.messages import EvaluateReply, Offer, Task, TrainReply
from fedbabu.models import ImageShape, SplitNetwork, build_model
from fedbabu.seeding import Purpose, torch_generator
from fedbabu.storage import ClientStore, check_writable, state_dir
from fedbabu.training import DEVICE, train

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
    row, store = node.config.row, node.store(task)
    model, received = node.models(global_model)
    num_examples, losses = 0, []

    def trained_clients() -> Iterator[tuple[State, int]]:
        nonlocal num_examples
        for client in task.clients:
            examples = node.examples("train", client)
            own_model = global_model | store.load(client)
            model.load_state_dict(global_model if row.trains_kept else own_model)
            loss = node.train(model, received, row.trains, examples, client, task)
            shared = _part(model, row.shares)
            if row.trains_kept:
                model.load_state_dict(own_model)
                node.train(model, received, row.trains_kept, examples, client, task)
            if row.keeps:
                store.save(client, _part(model, row.keeps))
            num_examples += len(examples)
            losses.append(loss * len(examples))
            yield shared, len(examples)

    if len(task.clients) == 1:
        ((update, weight),) = trained_clients()
    else:
        update, weight = weighted_sum(trained_clients()), 1
    reply = TrainReply(dict(update), weight, num_examples, sum(losses) / num_examples)
    return Message(reply.to_content(), reply_to=message)


@app.evaluate()
def evaluate_clients(message: Message, context: Context) -> Message:
    """Evaluate each client's model, the global one and what the client keeps, fine-tuning it on the way if so asked."""
    node = _Node.of(context)
    task, global_model = Task.from_content(message.content)
    store, transform = node.store(task), node.dataset.transform
    model, received = node.models(global_model)
    results: dict[int, ClientResult] = {}
    for client in task.clients:
        model.load_state_dict(global_model | store.load(client))
        test = node.examples("test", client)
        if task.personalize:
            own = node.examples("train", client)
            fine_tuning = node.fine_tune(model, received, own, client, task)
            results[client] = evaluate_personalized(
                model, own, test, transform, fine_tuning, by_distribution=node.config.iid_test_set
            )
        else:
            results[client] = evaluate_initial(model, test, transform)
    return Message(EvaluateReply(results).to_content(), reply_to=message)


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
    run_id: int
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
            dataset = open_dataset(data_spec(config, own_folder))
            return cls(
                config, dataset, whole_dataset(dataset, number, config.seed), [number], context.run_id, owner=True
            )
        dataset, partition = open_simulated_data(config)
        clients = partition.clients
        if number is not None and num_nodes >= len(clients):
            clients = clients[number : number + 1]
        return cls(config, dataset, partition, clients, context.run_id, num_nodes)

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
            run = state_dir() / f"{run.name}-{self.run_id}"
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
    ) -> float:
        """Train a model for the task's rounds and return the mean loss over their epochs."""
        losses: list[float] = []
        for training_round in task.rounds:
            learning_rate = self.config.learning_rate_of(training_round)
            losses += train(
                model, received, examples, self.dataset.transform, phases, self.config,
                torch_generator(self.config.seed, Purpose.TRAINING, training_round, client),
                epochs=self.config.num_local_epochs, learning_rate=learning_rate,
            )  # fmt: skip
        return sum(losses) / len(losses)

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
