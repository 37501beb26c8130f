"""Asking nodes what they offer: which clients each can serve, and what data these have."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import monotonic, sleep

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedbabu.config import RunConfig
from fedbabu.data.partitions.partition import too_small_client
from fedbabu.errors import ConfigError
from fedbabu.federation.delivery import pull_seconds
from fedbabu.federation.messages import NodeInfo
from fedbabu.federation.reply_checks import ReplyError
from fedbabu.formatting import counted
from fedbabu.heartbeat import Heartbeat

MARKER = "marker"  # the record of a query with the path of a file in the results-dir


@dataclass(frozen=True)
class Answer:
    """What a node answered: what it offers, or why it cannot take part, or why it failed and may be asked again."""

    node: int
    info: NodeInfo | None = None
    refused: ConfigError | None = None
    failed: str = ""


def ask_nodes(
    grid: Grid,
    nodes: Sequence[int],
    config: RunConfig,
    timeout: Callable[[], float],
    heartbeat: Heartbeat,
    marker: str = "",
) -> Iterator[Answer]:
    """Ask nodes what they offer; yields their answers as they come, until all have answered or the timeout is over.

    Args:
        grid: Flower's grid.
        nodes: The nodes' ids.
        config: The run configuration, which nodes need to read their data.
        timeout: Returns the seconds that all may take together, 0 for any time; it is called again and again.
        heartbeat: Says how many nodes are silent.
        marker: The path of a file in the results-dir, which nodes must see if clients keep something there.
    """
    if not nodes:
        return
    content = RecordDict({"run-config": ConfigRecord(config.to_flower()), MARKER: ConfigRecord({"path": marker})})
    queries = [Message(content, message_type=MessageType.QUERY, dst_node_id=node) for node in nodes]
    grid.push_messages(queries)
    # The nodes by the ids of their messages: the reply for a node that is gone comes from the SuperLink.
    waiting = {query.metadata.message_id: query.metadata.dst_node_id for query in queries}
    started = monotonic()
    while waiting and not 0 < timeout() < monotonic() - started:
        replies = list(grid.pull_messages(list(waiting)))
        for reply in replies:
            yield _answer(waiting.pop(reply.metadata.reply_to_message_id), reply, config)
        if not replies:
            heartbeat.beat(f"    {counted(len(waiting), 'SuperNode')} reading data")
            sleep(pull_seconds(grid))


def _answer(node: int, reply: Message, config: RunConfig) -> Answer:
    """The answer in a node's reply, which is checked."""
    if reply.has_error():  # its process may have died
        return Answer(node, failed=str(reply.error.reason))
    try:
        info = NodeInfo.from_content(reply.content)
        _check(node, info, config)
    except ReplyError as error:
        return Answer(node, refused=ConfigError(f"The description of node {node} is refused: its {error}."))
    except ConfigError as error:
        return Answer(node, refused=error)
    return Answer(node, info)


def _check(node: int, info: NodeInfo, config: RunConfig) -> None:
    """Raise a ConfigError if what a node offers cannot be, or if a client of it has too few images."""
    num_classes = len(info.class_names)
    if (last := max((label for each in info.clients.values() for label in each.classes), default=0)) >= num_classes:
        raise ConfigError(f"Node {node} has images of class {last}, but names {num_classes} classes.")
    if (last := max(info.clients, default=0)) >= config.num_clients:
        raise ConfigError(f"Node {node} has client {last}, but there are num-clients = {config.num_clients}.")
    for client, offered in info.clients.items():
        if too_small := too_small_client(client, offered.num_train, offered.num_test):
            raise ConfigError(f"{too_small[0].upper()}{too_small[1:]}: give it more, or set test-fraction.")
