"""Faults for tests: clients that fail, take too long or diverge, nodes that fail, and forged replies."""

import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MessageType, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID

from fedbabu import client_work
from fedbabu.runs.folder import RunFolder
from fedbabu.runs.records import RoundRecord
from fedbabu.training.client import Client

ALL_WORK = ("train_client", "evaluate_client", "fine_tune_client")  # what the ClientApp does for a client

Forgery = Callable[[RecordDict], object]
"""Changes the content of a reply in place."""


def fail_clients(
    monkeypatch: pytest.MonkeyPatch,
    clients: Iterable[int],
    error: Exception,
    work: Iterable[str] = ALL_WORK,
    training_rounds: Iterable[int] = (),
    once: bool = False,
) -> None:
    """Let some kinds of work end in an error for some clients, wherever they are.

    Args:
        monkeypatch: Undoes it after the test.
        clients: The ids of the clients.
        error: The error.
        work: The functions of `client_work` that raise it.
        training_rounds: The rounds in which `train_client` raises it; empty for all.
        once: Whether each of the clients fails only once.
    """
    failing, failing_rounds = set(clients), set(training_rounds)

    def failing_version(do):
        def work_or_fail(client, *arguments):
            if client.id in failing and (not failing_rounds or failing_rounds & set(arguments[-1])):
                failing.difference_update({client.id} if once else ())
                raise error
            return do(client, *arguments)

        return work_or_fail

    for name in work:
        monkeypatch.setattr(client_work, name, failing_version(getattr(client_work, name)))


def slow_down_clients(monkeypatch: pytest.MonkeyPatch, clients: Collection[int], seconds: float, split: str) -> None:
    """Let time pass only when some clients open their examples of a split, and then many seconds at once."""
    now, open_examples = [0.0], Client.examples

    def examples(client, opened_split):
        if client.id in clients and opened_split == split:
            now[0] += seconds
        return open_examples(client, opened_split)

    monkeypatch.setattr(Client, "examples", examples)
    monkeypatch.setattr("fedbabu.training.local_sgd.monotonic", lambda: now[0])


def make_clients_diverge(monkeypatch: pytest.MonkeyPatch, clients: Collection[int]) -> None:
    """Give some clients images that are not numbers, so that every loss and parameter computed with them is NaN."""
    open_examples = Client.examples

    def examples(client, split):
        original = open_examples(client, split)
        return type(original)(original.images * math.nan, original.labels) if client.id in clients else original

    monkeypatch.setattr(Client, "examples", examples)


def node_error(message: Message) -> Message:
    """The reply that Flower gives for a node whose process died: it comes from the SuperLink."""
    reply = Message(Error(0, "The actor died."), reply_to=message)
    reply.metadata.__dict__["_src_node_id"] = SUPERLINK_NODE_ID
    return reply


def failing_once(*nodes: int) -> Callable[[Message, Message], Message]:
    """A fault for `InProcessGrid`: each of these nodes dies when it is first asked what it offers."""
    failing = set(nodes)

    def fault(message: Message, reply: Message) -> Message:
        node = message.metadata.dst_node_id
        if message.metadata.message_type == MessageType.QUERY and node in failing:
            failing.remove(node)
            return node_error(message)
        return reply

    return fault


def forge_replies(
    forgery: Forgery, message_type: str = "train", node: int = 101
) -> Callable[[Message, Message], Message]:
    """A fault for `InProcessGrid`: one node's replies to messages of one type are forged."""

    def fault(message: Message, reply: Message) -> Message:
        if message.metadata.dst_node_id == node and message.metadata.message_type == message_type:
            forgery(reply.content)
        return reply

    return fault


def change_arrays(change: Callable[[dict], object]) -> Forgery:
    """A forgery of the arrays; `change` is given them by name and changes them in place."""

    def forgery(content: RecordDict) -> None:
        arrays = dict(content["arrays"])
        change(arrays)
        content["arrays"] = ArrayRecord(arrays)

    return forgery


def change_values(change: Callable[[dict], object]) -> Forgery:
    """A forgery of the numbers and texts; `change` is given them as a JSON object and changes them in place."""

    def forgery(content: RecordDict) -> None:
        values = json.loads(str(content["content"]["json"]))
        change(values)
        content["content"] = ConfigRecord({"json": json.dumps(values)})

    return forgery


def change_clients(**changes: Any) -> Forgery:
    """A forgery of what is reported about every client: new values of these fields, or a function of the old value."""

    def change(values: dict) -> None:
        for result in values["results"].values():
            for name, new in changes.items():
                result[name] = new(result[name]) if callable(new) else new

    return change_values(change)


def num_train_examples(run: RunFolder) -> dict[int, int]:
    """Number of training examples of each client of a finished run."""
    return {record["client"]: record["num-train-examples"] for record in run.clients}


@contextmanager
def stopped_after_round(server_round: int) -> Iterator[None]:
    """A run within is stopped, as by Ctrl-C, once the record of a round is written."""
    append = RunFolder.append_round

    def append_and_stop(run: RunFolder, record: RoundRecord) -> None:
        append(run, record)
        if record.round == server_round:
            raise KeyboardInterrupt

    with patch.object(RunFolder, "append_round", append_and_stop), pytest.raises(KeyboardInterrupt):
        yield
