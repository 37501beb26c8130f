"""What the server and the nodes send each other, and how it is packed into the records of Flower's messages.

A query is answered with a `NodeInfo`. A train or evaluate message carries a `Task` and is answered with a `TrainReply`
or an `EvaluateReply`. Numbers and texts travel as JSON in a ConfigRecord, tensors in an ArrayRecord. Every message to a
node also carries the run configuration, which the server decides on.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, Self

import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt, ValidationError
from torch import Tensor

from fedbabu.config import TEMPLATES
from fedbabu.data.classes import ClassNames
from fedbabu.errors import ConfigError
from fedbabu.federation.clients import ClientInfo
from fedbabu.federation.reply_checks import ReplyError, check_length, checked_state, one_line
from fedbabu.training.aggregation import State, add_weighted
from fedbabu.training.client import TrainedClient
from fedbabu.training.evaluation import TRAVELS, ClientResult, Finite, PercentOrNaN

MAX_CLASSES = 1_000_000
NOT_FINITE = "loss not finite"  # begins the reason with which a client fails whose training diverged
SECONDS = "seconds"  # the metric of every reply that says how long the node worked


class Content(BaseModel):
    """The numbers and texts of a message or reply."""

    model_config = TRAVELS

    def to_record(self) -> ConfigRecord:
        """These numbers and texts as JSON in a ConfigRecord."""
        return ConfigRecord({"json": self.model_dump_json()})

    @classmethod
    def from_content(cls, content: RecordDict) -> Self:
        """Read what `to_record` wrote from the content of a message, and check the type and range of every value.

        Raises:
            ReplyError: If a value is missing, not declared, or not as declared.
        """
        try:
            return cls.model_validate_json(str(content.config_records["content"]["json"]))
        except KeyError as error:
            raise ReplyError(f"records are {', '.join(content) or 'none'}, without content") from error
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "content"
            raise ReplyError(f"{place} is refused ({first['msg']}): {one_line(repr(first['input']))}") from error


class NodeInfo(Content):
    """Which clients a node can serve, and which inputs and outputs the model needs."""

    clients: dict[NonNegativeInt, ClientInfo]
    dataset: str  # the name of the data
    image_shape: tuple[PositiveInt, PositiveInt, PositiveInt]  # channels, height, width: the same on every node
    class_names: Annotated[ClassNames, Field(min_length=1, max_length=MAX_CLASSES)]  # that the node knows of
    mean: tuple[float, ...]  # with which each channel is normalized, of pixel values scaled to [0, 1]
    std: tuple[float, ...]
    tested_classes: ClassNames  # of which a node with local data has test images
    notes: tuple[str, ...]  # sentences about its data, without their full stops
    num_nodes: NonNegativeInt  # in the simulation; 0 if the node does not know it
    local_data: bool  # whether the node has local data and is therefore the only one that can serve its client
    device: str  # "cpu", or "cuda: " and the name of the GPU
    concurrency: PositiveInt  # for how many clients the node works at a time

    def to_content(self) -> RecordDict:
        """The content of the reply to a query: this description of the node."""
        return RecordDict({"content": self.to_record()})

    @staticmethod
    def refusal(error: ConfigError) -> RecordDict:
        """The content of the reply to a query in which a node says why it cannot take part."""
        return RecordDict({"content": ConfigRecord({"error": str(error)})})

    @classmethod
    def from_content(cls, content: RecordDict) -> Self:
        """Read the content of a reply and check it.

        Raises:
            ConfigError: The node's own error, if it cannot take part.
            ReplyError: If the reply is not of this form.
        """
        record = content.config_records.get("content", ConfigRecord())
        if "error" in record:
            raise ConfigError(str(record["error"]))
        return super().from_content(content)


class Task(Content):
    """What a node is asked to do with the global model, and for which clients."""

    run: str  # the absolute path of the run folder
    run_id: str  # tells this run from others with the same path
    server_round: int
    # For each client, the rounds whose saved client state must not be deleted. The client starts from the state of the
    # first of them, or from none if that is 0.
    clients: dict[int, list[int]]
    training_rounds: list[int]  # to go through, usually this round alone; empty in evaluation
    last_sampled_client: int = 0  # of the round
    class_names: ClassNames = ()  # the numbering of the classes, for nodes with local data; empty for the node's own
    data_checksums: dict[int, str] = {}  # of each client's data, as its node said before the run, or when it joined
    personalize: bool = False  # in evaluation, whether to measure accuracy without the head and to fine-tune
    keep_models: bool = False  # whether to save each client's model after its fine-tuning

    def to_content(self, global_model: ArrayRecord, run_config: ConfigRecord) -> RecordDict:
        """The content of a message to a node: this task, the global model and the run configuration."""
        return RecordDict({"arrays": global_model, "run-config": run_config, "content": self.to_record()})

    def restricted_to(self, clients: list[int]) -> "Task":
        """The same task for some of its clients."""
        saved_rounds = {client: self.clients[client] for client in clients}
        checksums = {client: value for client, value in self.data_checksums.items() if client in saved_rounds}
        return self.model_copy(update={"clients": saved_rounds, "data_checksums": checksums})

    def joined_with(self, others: Iterable["Task"]) -> "Task":
        """The same task for its clients and those of other such tasks."""
        tasks = [self, *others]
        saved_rounds = {client: saved for task in tasks for client, saved in task.clients.items()}
        checksums = {client: value for task in tasks for client, value in task.data_checksums.items()}
        return self.model_copy(update={"clients": saved_rounds, "data_checksums": checksums})


class TrainResult(BaseModel):
    """What a client reports after training: its mean loss and, if they are recorded, its class accuracies."""

    model_config = TRAVELS

    loss: Finite
    in_class: list[PercentOrNaN]
    out_of_class: list[PercentOrNaN]


class Reply(Content):
    """What the replies to train and evaluate messages have in common."""

    failed: dict[int, str] = {}  # why each of the clients without a result has none
    seconds: float = Field(default=0.0, exclude=True)  # that the node worked for

    def _to_content(self, arrays: Mapping[str, Tensor], **metrics: int) -> RecordDict:
        """The content of this reply, with tensors and metrics; the seconds are a metric too."""
        records = ArrayRecord(dict(arrays)), MetricRecord({**metrics, SECONDS: self.seconds})
        return RecordDict({"arrays": records[0], "metrics": records[1], "content": self.to_record()})


class TrainReply(Reply):
    """What a node's clients share after training."""

    results: dict[int, TrainResult] = {}  # of each client that trained successfully
    num_examples: int = 0  # the number of training examples of all clients that trained successfully
    # Tensors by name. If the node was asked for one client, its parameters in the model's type; if for several, their
    # sum, each multiplied by its weight, in float64, which must not be rounded.
    update: dict[str, Any] = Field(default={}, exclude=True)
    # What the server multiplies the update by: the weight of one client; 1 for a weighted sum.
    weight: int = Field(default=1, exclude=True)

    def add(self, client: int, trained: TrainedClient, *, only_client: bool) -> None:
        """Add a client that trained successfully; only_client says that the node was asked for no other."""
        if only_client:
            self.update = dict(trained.shared)
        else:
            add_weighted(self.update, trained.shared, trained.weight)
        self.num_examples += trained.num_examples
        self.results[client] = TrainResult(
            loss=trained.loss, in_class=trained.in_class, out_of_class=trained.out_of_class
        )

    def to_content(self) -> RecordDict:
        """The content of a reply: these results, the tensors, and the metric num-examples of Flower's FedAvg."""
        arrays = {name: value.cpu() for name, value in self.update.items()}
        return self._to_content(arrays, **{"num-examples": self.num_examples})

    @classmethod
    def parse(
        cls,
        content: RecordDict,
        asked_clients: Collection[int],
        num_train: Mapping[int, int],
        weights: Mapping[int, int],
        shared: State,
        num_class_accuracies: int = 0,
    ) -> "TrainReply":
        """Read the content of a reply and check it.

        Args:
            content: The content of the reply.
            asked_clients: The clients that the node was asked to train.
            num_train: The number of training examples of every client.
            weights: The weight of every client in the mean.
            shared: The shared part of the global model, for its names, shapes and types.
            num_class_accuracies: How many in-class and how many out-of-class accuracies there must be per client.

        Raises:
            ReplyError: If the reply does not answer what was asked.
        """
        reply = cls.from_content(content)
        reply.failed = _failures(reply.results, reply.failed, asked_clients)
        expected, summed = sum(num_train[client] for client in reply.results), len(asked_clients) > 1
        if reply.num_examples != expected:
            raise ReplyError(f"num_examples is {reply.num_examples}, but its clients have {expected}")
        for result in reply.results.values():
            check_length("in_class", result.in_class, num_class_accuracies)
            check_length("out_of_class", result.out_of_class, num_class_accuracies)
        total_weight = sum(weights[client] for client in reply.results)
        reply.weight, reply.update = 1 if summed else total_weight, {}
        if reply.results:
            form = {name: value.double() if summed else value for name, value in shared.items()}
            reply.update = checked_state(content, form)
        for name, value in reply.update.items():
            # A float64 sum may be finite where the mean, in the model's type, is not.
            mean = (value / total_weight).to(shared[name].dtype) if summed else value
            if not torch.isfinite(mean).all():
                raise ReplyError(f"array {name} is not finite")
        return reply


class EvaluateReply(Reply):
    """What a node's clients measured."""

    results: dict[int, ClientResult] = {}
    # The sum over the clients of `WeightDirections.directions`, if they are recorded.
    direction_sums: dict[str, Any] = Field(default={}, exclude=True)

    def to_content(self) -> RecordDict:
        """The content of a reply: these results, and the direction sums as arrays."""
        return self._to_content(self.direction_sums)

    @classmethod
    def parse(
        cls, content: RecordDict, asked_clients: Collection[int], num_values: Mapping[str, int], directions: State
    ) -> "EvaluateReply":
        """Read the content of a reply and check it.

        Args:
            content: The content of the reply.
            asked_clients: The clients that the node was asked to evaluate.
            num_values: How many values each attribute of ClientResult must have.
            directions: Tensors with the names, shapes and types of the direction sums; empty if they are not recorded.

        Raises:
            ReplyError: If the reply does not answer what was asked.
        """
        reply = cls.from_content(content)
        reply.failed = _failures(reply.results, reply.failed, asked_clients)
        for result in reply.results.values():
            for name, number in num_values.items():
                values = getattr(result, name)
                check_length(name, values, number)
            if result.without_head_accuracy and set(result.without_head_accuracy) != set(TEMPLATES):
                raise ReplyError(f"without_head_accuracy is of {', '.join(map(repr, result.without_head_accuracy))}")
        reply.direction_sums = checked_state(content, directions) if reply.results and directions else {}
        for name, value in reply.direction_sums.items():
            # The sum of vectors of length one is at most as long as their number. A comparison with NaN is false.
            if not value.norm() <= len(reply.results) * (1 + 1e-5):
                raise ReplyError(f"array {name} is not the sum of {len(reply.results)} unit vectors")
        return reply


def _failures(results: Collection[int], failed: Mapping[int, str], asked_clients: Collection[int]) -> dict[int, str]:
    """Why each client that was asked for has no result; raises a ReplyError if there are results of other clients."""
    if unexpected := set(results).difference(asked_clients):
        raise ReplyError(f"results are of clients {sorted(unexpected)}, which are not among {sorted(asked_clients)}")
    missing = [client for client in asked_clients if client not in results]
    return {client: one_line(failed.get(client, "its node does not say why")) for client in missing}


def work_seconds(reply: RecordDict) -> float:
    """How many seconds a node worked for a reply, as the node says; 0 if it does not."""
    seconds = reply.metric_records.get("metrics", MetricRecord()).get(SECONDS, 0.0)
    return seconds if isinstance(seconds, float) else 0.0
