"""What the server and the nodes say to each other, and how it travels in the records of Flower's messages.

A query is answered with an `Offer`; a train or evaluate message carries a `Task` and is answered with a
`TrainReply` or an `EvaluateReply`. Every message to a node carries the run configuration, which is the server's to
decide. A node's replies are checked here before anything else sees them.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from fedbabu.errors import ConfigError
from fedbabu.training.evaluation import ClientResult

# What a ClientResult has a value of for every fine-tuning epoch.
PER_TRAINING_EPOCH = ("in_class", "out_of_class")  # what a TrainReply may have a value of for every epoch
PER_EPOCH = ("accuracy", "loss", "id_accuracy", "ood_accuracy")

# Accuracies on classes of which a client may have no test image; they are NaN then.
MAYBE_NONE = ("id_accuracy", "ood_accuracy", *PER_TRAINING_EPOCH)

NOT_FINITE = "loss not finite"  # why a client failed that diverged
MAX_REASON = 300  # characters of what a node says is wrong
MAX_CLASSES = 1_000_000
NPY_HEADER = 4096  # bytes that NumPy's format may add to an array's own


class ReplyError(ValueError):
    """A reply that is not what was asked for; says what is wrong with it."""


@dataclass(frozen=True)
class Offer:
    """Which clients a node serves, what each holds, and what the global model must fit.

    Attributes:
        clients: ids; the next three lists have an entry for each.
        num_train, num_test: examples.
        classes: of the training examples, as text ("0 7").
        dataset: the name of the data.
        checksum: of the data.
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
    checksum: str
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
    def from_content(cls, content: RecordDict, num_clients: int) -> "Offer":
        """Unpack, and check.

        Raises:
            ConfigError: the node's, if it refused.
            ReplyError: if it is no offer.
        """
        said: dict[str, Any] = dict(content.config_records.get("offer") or {})
        if "error" in said:
            raise ConfigError(str(said["error"]))
        for spec in fields(cls):
            item = {list[int]: int, list[str]: str}.get(spec.type)  # type: ignore[arg-type]
            value = said.get(spec.name)
            right = type(value) is list and all(type(v) is item for v in value) if item else type(value) is spec.type
            if not right:
                raise ReplyError(f"its {spec.name} is {value!r}")
        offer = cls(**{spec.name: said[spec.name] for spec in fields(cls)})
        if not len(offer.clients) == len(offer.num_train) == len(offer.num_test) == len(offer.classes):
            raise ReplyError("it does not say of every client what it holds")
        labels = {label for classes in offer.classes for label in classes.split()}
        if not 0 < offer.num_classes <= MAX_CLASSES or not all(label.isdecimal() for label in labels):
            raise ReplyError(f"its num_classes is {offer.num_classes} and its classes are {sorted(labels)[:5]}")
        if (
            len(offer.image_shape) != 3
            or min(offer.image_shape) < 1
            or not all(0 <= client < num_clients for client in offer.clients)
        ):
            raise ReplyError(f"its image_shape is {offer.image_shape} and its clients are {offer.clients[:5]}")
        return offer


@dataclass(frozen=True)
class Task:
    """What a node shall do with the global model, and for which clients.

    Attributes:
        run: the absolute path of the run folder.
        run_id: tells this run from others of the same name.
        server_round: of the message.
        clients: ids.
        kept: for each client, the rounds whose kept state it must not forget, as text ("7 3"); it starts from that of
            the first, or from none if that is 0.
        rounds: of training, one after the other; usually this round's alone. In evaluation, none.
        personalize: in evaluation, whether to measure accuracy without the head and after each epoch of
            fine-tuning too.
    """

    run: str
    run_id: str
    server_round: int
    clients: list[int]
    kept: list[str]
    rounds: list[int]
    personalize: bool = False

    def to_content(self, global_model: ArrayRecord, run_config: ConfigRecord) -> RecordDict:
        """Pack, with the global model and the run configuration."""
        return RecordDict({"arrays": global_model, "run-config": run_config, "task": ConfigRecord(asdict(self))})

    @classmethod
    def from_content(cls, content: RecordDict) -> "Task":
        """Unpack."""
        fields: dict[str, Any] = dict(content.config_records["task"])
        return cls(**fields)

    def of(self, clients: list[int]) -> "Task":
        """The same for some of its clients."""
        kept = dict(zip(self.clients, self.kept, strict=True))
        return replace(self, clients=clients, kept=[kept[client] for client in clients])

    def needed(self, client: int) -> list[int]:
        """The rounds whose kept state a client must not forget; it starts from that of the first."""
        return [int(server_round) for server_round in self.kept[self.clients.index(client)].split()]


@dataclass(frozen=True)
class TrainReply:
    """What a node's clients share after training: `update` times `weight` is their sum weighted by example counts.

    Attributes:
        clients: ids of those that trained well.
        update: one client's own parameters, of the model's type; or of several clients the weighted sum, float64, which
            must not be rounded; nothing if no client trained well.
        weight: one client's example count, as Flower's FedAvg would have it; or 1.
        num_examples: of all these clients.
        losses: the mean training loss of each of them.
        failed: why each of the other clients did not.
        in_class, out_of_class: if asked for, of each client the accuracies of `recording.ClassAccuracy`, client by
            client.
    """

    clients: list[int]
    update: Mapping[str, Tensor]
    weight: int
    num_examples: int
    losses: list[float]
    failed: Mapping[int, str] = field(default_factory=dict)
    in_class: list[float] = field(default_factory=list)
    out_of_class: list[float] = field(default_factory=list)

    def to_content(self) -> RecordDict:
        """Pack."""
        metrics: dict[str, Any] = {
            key: getattr(self, key) for key in ("clients", "weight", "losses", *PER_TRAINING_EPOCH)
        }
        return RecordDict(
            {
                "arrays": ArrayRecord({name: value.cpu() for name, value in self.update.items()}),
                "metrics": MetricRecord({"num-examples": self.num_examples, **metrics}),
                "failed": _failed_record(self.failed),
            }
        )

    @classmethod
    def from_content(
        cls,
        content: RecordDict,
        asked: Collection[int],
        num_train: Mapping[int, int],
        shared: Mapping[str, Tensor],
        num_values: int = 0,
    ) -> "TrainReply":
        """Unpack, and check.

        Args:
            content: of the reply.
            asked: the clients that the node was asked to train.
            num_train: every client's training examples.
            shared: what is shared of the global model, for its names, shapes and types.
            num_values: how many class accuracies of each kind there must be for each client.

        Raises:
            ReplyError: if it is not what was asked for.
        """
        clients, metrics = _checked_clients(content, asked), dict(content.metric_records["metrics"])
        num_examples, weight, losses = (metrics.get(key) for key in ("num-examples", "weight", "losses"))
        expected = sum(num_train[client] for client in clients)
        if type(num_examples) is not int or num_examples != expected:
            raise ReplyError(f"its num-examples is {num_examples!r}, its clients have {expected}")
        if type(weight) is not int or weight not in (1, expected):
            raise ReplyError(f"its weight is {weight!r}, neither 1 nor {expected}")
        if type(losses) is not list or len(losses) != len(clients) or not all(map(_is_finite, losses)):
            raise ReplyError(f"its losses are {losses!r}")
        failed = _failed(content, set(asked) - set(clients))
        columns = [_checked_column(metrics, name, num_values, len(clients)) for name in PER_TRAINING_EPOCH]
        if not clients:
            return cls(clients, {}, weight, num_examples, losses, failed)  # type: ignore[arg-type]
        of_one = weight == expected
        update = _checked_state(content, {n: value if of_one else value.double() for n, value in shared.items()})
        for name, value in update.items():  # a sum may be finite where the mean, in the model's type, is not
            if not torch.isfinite((value * weight / num_examples).to(shared[name].dtype)).all():
                raise ReplyError(f"its {name} is not finite")
        return cls(clients, update, weight, num_examples, losses, failed, *columns)  # type: ignore[arg-type]


@dataclass(frozen=True)
class EvaluateReply:
    """What a node's clients measured.

    Attributes:
        results: by the id of the client.
        failed: why there is none of the other clients.
        directions: if asked for, the sum over these clients of what `recording.watch_directions` notes.
    """

    results: Mapping[int, ClientResult]
    failed: Mapping[int, str] = field(default_factory=dict)
    directions: Mapping[str, Tensor] = field(default_factory=dict)

    def to_content(self) -> RecordDict:
        """Pack: lists with a value per fine-tuning epoch follow one another, client by client."""
        results = self.results.values()
        metrics: dict[str, Any] = {"clients": list(self.results)}
        for name in PER_EPOCH:
            metrics[name] = [value for result in results for value in getattr(result, name)]
        metrics["without_head_accuracy"] = [
            result.without_head_accuracy for result in results if result.without_head_accuracy is not None
        ]
        content = RecordDict({"metrics": MetricRecord(metrics), "failed": _failed_record(self.failed)})
        if self.directions:
            content["arrays"] = ArrayRecord(dict(self.directions))
        return content

    @classmethod
    def from_content(
        cls,
        content: RecordDict,
        asked: Collection[int],
        num_values: Mapping[str, int],
        directions: Mapping[str, Tensor] | None = None,
    ) -> "EvaluateReply":
        """Unpack, and check.

        Args:
            content: of the reply.
            asked: the clients that the node was asked to evaluate.
            num_values: how many values there must be for each client, by the name of what was measured.
            directions: those that must come too, for their names, shapes and types; nothing if none were asked for.

        Raises:
            ReplyError: if it is not what was asked for.
        """
        clients = _checked_clients(content, asked)
        failed = _failed(content, set(asked) - set(clients))
        if not clients:
            return cls({}, failed)
        sums = _checked_state(content, directions) if directions else {}
        for name, value in sums.items():
            if not value.norm() <= len(clients) * (1 + 1e-5):  # so many vectors of length one; NaN is not, either
                raise ReplyError(f"its {name} is no sum of {len(clients)} unit vectors")
        metrics: dict[str, Any] = dict(content.metric_records["metrics"])
        columns = {}
        for name, number in num_values.items():
            column = _checked_column(metrics, name, number, len(clients))
            columns[name] = [column[index * number : (index + 1) * number] for index in range(len(clients))]
        without_head = columns.pop("without_head_accuracy")
        return cls(
            {
                client: ClientResult(
                    **{name: column[index] for name, column in columns.items()},
                    without_head_accuracy=without_head[index][0] if without_head[index] else None,
                )
                for index, client in enumerate(clients)
            },
            failed,
            sums,
        )


def _checked_clients(content: RecordDict, asked: Collection[int]) -> list[int]:
    """The clients that a reply is about."""
    if "metrics" not in content.metric_records or "failed" not in content.config_records:
        raise ReplyError(f"it holds {', '.join(content) or 'nothing'}, not metrics and failed")
    clients = content.metric_records["metrics"].get("clients")
    ids = type(clients) is list and all(type(client) is int for client in clients)
    if not ids or len(set(clients)) != len(clients) or not set(clients) <= set(asked):  # type: ignore[arg-type]
        raise ReplyError(f"it is about the clients {clients!r}, asked were {sorted(asked)}")
    return clients  # type: ignore[return-value]


def _checked_column(metrics: Mapping[str, Any], name: str, number: int, num_clients: int) -> list[float]:
    """Losses or percentages, so many for each client, one client after the other."""
    column = metrics.get(name)
    if type(column) is not list or len(column) != number * num_clients:
        raise ReplyError(f"its {name} is not {number} numbers for every client")
    for value in column:
        maybe_none = name in MAYBE_NONE and type(value) is float and math.isnan(value)
        if not (maybe_none or (_is_finite(value) and (name == "loss" or 0 <= value <= 100))):
            raise ReplyError(f"its {name} is {value!r}")
    return column


def _checked_state(content: RecordDict, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The arrays of a reply, if they have the names, shapes and types of a state dict."""
    arrays = content.array_records.get("arrays")
    if arrays is None:
        raise ReplyError("it holds no arrays")
    for name in sorted(arrays.keys() - like.keys()):
        raise ReplyError(f"it holds {name}, which is not shared")
    state = {}
    for name, expected in like.items():
        if name not in arrays:
            raise ReplyError(f"it lacks {name}")
        state[name] = _checked_tensor(name, arrays[name], expected)
    return state


def _checked_tensor(name: str, array: Array, expected: Tensor) -> Tensor:
    form = (tuple(expected.shape), str(expected.dtype).removeprefix("torch."))
    said = (tuple(array.shape), array.dtype)
    if said != form:
        raise ReplyError(f"its {name} is {said[1]} {list(said[0])}, not {form[1]} {list(form[0])}")
    if len(array.data) > expected.numel() * expected.element_size() + NPY_HEADER:
        raise ReplyError(f"its {name} has {len(array.data)} bytes, too many for {form[1]} {list(form[0])}")
    try:
        values = array.numpy()
    except Exception as error:  # of many kinds, by what is wrong with the bytes
        raise ReplyError(f"its {name} cannot be read: {error}") from error
    if (values.shape, str(values.dtype)) != form:
        raise ReplyError(f"its {name} holds {values.dtype} {list(values.shape)}, not {form[1]} {list(form[0])}")
    return torch.from_numpy(values.copy())


def _is_finite(value: object) -> bool:
    return type(value) is float and math.isfinite(value)


def _failed_record(failed: Mapping[int, str]) -> ConfigRecord:
    return ConfigRecord({"clients": list(failed), "reasons": list(failed.values())})


def _failed(content: RecordDict, missing: Collection[int]) -> dict[int, str]:
    """Why clients that were asked are not among those that did well, as far as the node says."""
    record: dict[str, Any] = dict(content.config_records["failed"])
    try:
        said = dict(zip(record["clients"], record["reasons"], strict=True))
    except (KeyError, TypeError, ValueError) as error:
        raise ReplyError("it does not say which clients failed, and why") from error
    reasons = {client: " ".join(str(said.get(client, "its node does not say why")).split()) for client in missing}
    return {client: reason[:MAX_REASON] for client, reason in reasons.items()}
