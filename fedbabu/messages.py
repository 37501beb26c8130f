"""What the server and the nodes say to each other, and how it travels in the records of Flower's messages.

A query is answered with an `Offer`; a train or evaluate message carries a `Task` and is answered with a
`TrainReply` or an `EvaluateReply`.
"""

from dataclasses import asdict, dataclass
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from fedbabu.errors import ConfigError
from fedbabu.evaluation import ClientResult

# What a ClientResult has a value of for every fine-tuning epoch.
PER_EPOCH = ("accuracy", "loss", "id_accuracy", "ood_accuracy")


@dataclass(frozen=True)
class Offer:
    """Which clients a node serves, what each holds, and what the global model must fit.

    Attributes:
        clients: ids; the next three lists have an entry for each.
        num_train, num_test: examples.
        classes: of the training examples, as text ("0 7").
        dataset: the name of the data.
        image_shape: channels, height, width; the same on every node.
        num_classes: that the node knows of.
        num_nodes: in the whole simulation; 0 where a node does not know.
        owner: whether the node has data of its own and so is the only one to serve its client.
        device: "cpu" or "cuda".
    """

    clients: list[int]
    num_train: list[int]
    num_test: list[int]
    classes: list[str]
    dataset: str
    image_shape: list[int]
    num_classes: int
    num_nodes: int
    owner: bool
    device: str

    def to_content(self) -> RecordDict:
        """Pack."""
        return RecordDict({"offer": ConfigRecord(asdict(self))})

    @staticmethod
    def refusal(error: ConfigError) -> RecordDict:
        """Pack the sentence that says why this node can offer nothing."""
        return RecordDict({"offer": ConfigRecord({"error": str(error)})})

    @classmethod
    def from_content(cls, content: RecordDict) -> "Offer":
        """Unpack.

        Raises:
            ConfigError: the node's, if it refused.
        """
        fields: dict[str, Any] = dict(content.config_records["offer"])
        if "error" in fields:
            raise ConfigError(fields["error"])
        return cls(**fields)


@dataclass(frozen=True)
class Task:
    """What a node shall do with the global model, and for which clients.

    Attributes:
        run: the absolute path of the run folder, whose last part names the run.
        server_round: of the message.
        clients: ids.
        rounds: of training, one after the other; usually this round's alone. In evaluation, none.
        personalize: in evaluation, whether to measure accuracy without the head and after each epoch of
            fine-tuning too.
    """

    run: str
    server_round: int
    clients: list[int]
    rounds: list[int]
    personalize: bool = False

    def to_content(self, global_model: ArrayRecord) -> RecordDict:
        """Pack, with the global model."""
        return RecordDict({"arrays": global_model, "config": ConfigRecord(asdict(self))})

    @classmethod
    def from_content(cls, content: RecordDict) -> tuple["Task", dict[str, Tensor]]:
        """Unpack, with the global model's state dict."""
        fields: dict[str, Any] = dict(content.config_records["config"])
        return cls(**fields), content.array_records["arrays"].to_torch_state_dict()


@dataclass(frozen=True)
class TrainReply:
    """What a node's clients share after training: `update` times `weight` is their sum weighted by example counts.

    Attributes:
        update: one client's own parameters, float32; or of several clients the weighted sum, float64, which must
            not be rounded.
        weight: one client's example count, as Flower's FedAvg would have it; or 1.
        num_examples: of all the node's clients.
        train_loss: their mean, weighted likewise.
    """

    update: dict[str, Tensor]
    weight: int
    num_examples: int
    train_loss: float

    def to_content(self) -> RecordDict:
        """Pack."""
        arrays = ArrayRecord({name: value.cpu() for name, value in self.update.items()})
        metrics = MetricRecord(
            {"num-examples": self.num_examples, "weight": self.weight, "train-loss": self.train_loss}
        )
        return RecordDict({"arrays": arrays, "metrics": metrics})

    @classmethod
    def from_content(cls, content: RecordDict) -> "TrainReply":
        """Unpack."""
        metrics: dict[str, Any] = dict(content.metric_records["metrics"])
        update = content.array_records["arrays"].to_torch_state_dict()
        return cls(update, metrics["weight"], metrics["num-examples"], metrics["train-loss"])


@dataclass(frozen=True)
class EvaluateReply:
    """What each of a node's clients measured, by its id."""

    results: dict[int, ClientResult]

    def to_content(self) -> RecordDict:
        """Pack: lists with a value per fine-tuning epoch follow one another, client by client."""
        results = self.results.values()
        metrics: dict[str, Any] = {"clients": list(self.results)}
        for name in PER_EPOCH:
            metrics[name] = [value for result in results for value in getattr(result, name)]
        metrics["without_head_accuracy"] = [
            result.without_head_accuracy for result in results if result.without_head_accuracy is not None
        ]
        return RecordDict({"metrics": MetricRecord(metrics)})

    @classmethod
    def from_content(cls, content: RecordDict) -> "EvaluateReply":
        """Unpack."""
        metrics: dict[str, Any] = dict(content.metric_records["metrics"])
        clients, without_head = metrics["clients"], metrics["without_head_accuracy"]
        columns = {}
        for name in PER_EPOCH:
            values = len(metrics[name]) // len(clients)
            columns[name] = [metrics[name][index * values : (index + 1) * values] for index in range(len(clients))]
        results = {
            client: ClientResult(
                **{name: column[index] for name, column in columns.items()},
                without_head_accuracy=without_head[index] if without_head else None,
            )
            for index, client in enumerate(clients)
        }
        return cls(results)
