"""Discovery: the server asks nodes which clients they can serve, all before the first round, and later new ones."""

from collections.abc import Iterable, Iterator, Sequence
from time import monotonic, sleep

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedbabu.config import RunConfig
from fedbabu.data.classes import shorten
from fedbabu.data.partitions.partition import too_small_client
from fedbabu.errors import ConfigError, counted
from fedbabu.federation.class_names import agree_on_class_names, renumbered
from fedbabu.federation.clients import ClientInfo, Federation
from fedbabu.federation.delivery import pull_seconds
from fedbabu.federation.messages import NodeInfo
from fedbabu.federation.reply_checks import ReplyError
from fedbabu.heartbeat import Heartbeat

NEW_NODE_SECONDS = 60.0  # that a node which connects during a run may take to say what it offers
SILENT_NODE_SECONDS = 600.0  # after which a node that did not is asked again
NODE_WAIT_SECONDS = 60.0  # without a new node, before the run stops for lack of clients


def discover(grid: Grid, config: RunConfig) -> Federation:
    """Ask every node which clients it can serve, until all num-clients clients are found.

    Raises:
        ConfigError: If a node cannot use the configuration, if the nodes' data do not fit together, or if clients are
            missing.
    """
    infos: dict[int, NodeInfo] = {}  # by node
    heartbeat = Heartbeat()
    failures: dict[int, str] = {}  # by node
    last_news = monotonic()
    while True:
        if new_nodes := sorted(set(grid.get_node_ids()) - infos.keys()):
            found = _query(grid, new_nodes, config, failures, heartbeat)
            infos = dict(sorted((infos | found).items()))  # whichever node answers first
            _check_local_data(infos)
            last_news = monotonic() if found else last_news
        clients = {client for info in infos.values() for client in info.clients}
        num_missing = config.num_clients - len(clients)
        if infos and not num_missing and len(infos) >= max(info.num_nodes for info in infos.values()):
            return _federation(infos)
        if monotonic() - last_news > NODE_WAIT_SECONDS:
            reasons = "".join(f" Node {node} {reason}." for node, reason in failures.items())
            nodes = counted(len(infos), "connected SuperNode")
            problem = f"there are only {nodes} of a larger simulation"
            if missing := set(range(config.num_clients)) - clients:
                problem = f"{num_missing} of them (client {min(missing)} for one) are on none of the {nodes}"
            raise ConfigError(
                f"num-clients = {config.num_clients}, but {problem}: start all nodes, or lower num-clients.{reasons}"
            )
        on_nodes = f"on {counted(len(infos), 'SuperNode')}"
        heartbeat.beat(f"    {len(clients)} of {counted(config.num_clients, 'client')} found {on_nodes} so far")
        sleep(1.0 if failures else 0.1)


class ReturningNodes:
    """Nodes that connect after discovery: a SuperNode without authentication has another id when it is restarted."""

    def __init__(self, grid: Grid, config: RunConfig, federation: Federation) -> None:
        self.grid = grid
        self.config = config
        self.federation = federation
        self._asked = {node for nodes in federation.nodes_of.values() for node in nodes}
        self._silent_until: dict[int, float] = {}  # when a node that did not answer is asked again

    def ask_for(self, clients: Iterable[int], connected: set[int]) -> None:
        """If some clients are on no connected node, ask those that were never asked, and add what they offer.

        A node whose clients have other data than when the run started is not used, and a line says so.
        """
        nodes_of = self.federation.nodes_of
        if all(connected.intersection(nodes_of[client]) for client in clients):
            return
        waited_for = {node for node, until in self._silent_until.items() if monotonic() < until}
        if not (new_nodes := sorted(connected - self._asked - waited_for)):
            return
        self._silent_until |= dict.fromkeys(new_nodes, monotonic() + NEW_NODE_SECONDS + SILENT_NODE_SECONDS)
        for reply in _replies(self.grid, _queries(new_nodes, self.config), NEW_NODE_SECONDS, Heartbeat()):
            node = reply.metadata.src_node_id
            del self._silent_until[node]
            if reply.has_error():  # its process may have died: it is asked again next time
                continue
            self._asked.add(node)
            try:
                self._add(node, _described(reply, self.config))
            except ConfigError as error:
                print(f"SuperNode {node} is not used: {error}", flush=True)

    def _add(self, node: int, info: NodeInfo) -> None:
        """Use a node for those of its clients whose data are the same as before."""
        before, class_names = self.federation.clients, self.federation.class_names
        for client, offered in info.clients.items():
            known = set(info.class_names) <= set(class_names)
            if known and before.get(client) == renumbered(offered, info.class_names, class_names):
                self.federation.nodes_of[client].append(node)
                print(f"SuperNode {node} serves client {client} now", flush=True)
            else:
                print(f"SuperNode {node} is not used for client {client}, whose data were others before", flush=True)


def _query(
    grid: Grid, nodes: Sequence[int], config: RunConfig, failures: dict[int, str], heartbeat: Heartbeat
) -> dict[int, NodeInfo]:
    """What nodes answer; why a node failed is put into `failures`, and the node is asked again later."""
    infos = {}
    for reply in _replies(grid, _queries(nodes, config), config.client_timeout, heartbeat):
        node = reply.metadata.src_node_id
        if reply.has_error():  # its process may have died
            failures[node] = f"failed: {reply.error.reason}"
            continue
        infos[node] = _described(reply, config)
        failures.pop(node, None)
    return infos


def _queries(nodes: Iterable[int], config: RunConfig) -> list[Message]:
    """The messages that ask nodes what they offer."""
    content = RecordDict({"run-config": ConfigRecord(config.to_flower())})
    return [Message(content, message_type=MessageType.QUERY, dst_node_id=node) for node in nodes]


def _described(reply: Message, config: RunConfig) -> NodeInfo:
    """What a node says that it offers; raises a ConfigError if it cannot take part, or if that cannot be."""
    node = reply.metadata.src_node_id
    try:
        info = NodeInfo.from_content(reply.content)
    except ReplyError as error:
        raise ConfigError(f"The description of node {node} is refused: its {error}.") from error
    num_classes = len(info.class_names)
    if (last := max((label for each in info.clients.values() for label in each.classes), default=0)) >= num_classes:
        raise ConfigError(f"Node {node} has images of class {last}, but names {num_classes} classes.")
    if (last := max(info.clients, default=0)) >= config.num_clients:
        raise ConfigError(f"Node {node} has client {last}, but there are num-clients = {config.num_clients}.")
    return info


def _replies(grid: Grid, queries: Sequence[Message], timeout: float, heartbeat: Heartbeat) -> Iterator[Message]:
    """The replies of the nodes as they come, until all have answered or, if it is not 0, the timeout is over."""
    grid.push_messages(queries)
    waiting = {query.metadata.message_id for query in queries}
    started = monotonic()
    while waiting and not (timeout and monotonic() - started > timeout):
        answers = list(grid.pull_messages(list(waiting)))
        waiting.difference_update(answer.metadata.reply_to_message_id for answer in answers)
        yield from answers
        if not answers:
            heartbeat.beat(f"    {counted(len(waiting), 'SuperNode')} reading data")
            sleep(pull_seconds(grid))


def _check_local_data(infos: dict[int, NodeInfo]) -> None:
    """Raise a ConfigError if a client with local data is on several nodes: the data of some would not be used."""
    nodes_of: dict[int, list[int]] = {}
    for node, info in infos.items():
        for client in info.clients:
            nodes_of.setdefault(client, []).append(node)
    for client, nodes in nodes_of.items():
        if len(nodes) > 1 and any(infos[node].local_data for node in nodes):
            raise ConfigError(
                f"Client {client} is on the SuperNodes {nodes}, but with local data a client is on one node: start "
                "every SuperNode with a data-path, and with a partition-id that no other SuperNode has."
            )


def _federation(infos: dict[int, NodeInfo]) -> Federation:
    """The federation of these nodes.

    Raises:
        ConfigError: If a client has too few images, if the images' shapes differ, or if classes cannot be matched.
    """
    class_names = agree_on_class_names({node: info.class_names for node, info in infos.items()})
    clients: dict[int, ClientInfo] = {}
    nodes_of: dict[int, list[int]] = {}
    for node, info in infos.items():
        for client, client_info in info.clients.items():
            if too_small := too_small_client(client, client_info.num_train, client_info.num_test):
                raise ConfigError(f"{too_small[0].upper()}{too_small[1:]}: give it more, or set test-fraction.")
            nodes_of.setdefault(client, []).append(node)
            clients[client] = renumbered(client_info, info.class_names, class_names)
    trained = {class_names[label] for client in clients.values() for label in client.classes}
    for node, info in infos.items():
        if untrained := [name for name in info.tested_classes if name not in trained]:
            raise ConfigError(
                f"SuperNode {node} has test images of classes of which no client has training images: "
                f"{shorten(untrained)}. Remove them, or add training images."
            )
    node_of_shape = {info.image_shape: node for node, info in reversed(infos.items())}
    if len(node_of_shape) > 1:
        images = (
            f"SuperNode {node} has images of {height}×{width} pixels with {counted(channels, 'channel')}"
            for (channels, height, width), node in reversed(node_of_shape.items())
        )
        raise ConfigError(f"{', and '.join(images)}: they must have one size, and all be in colour or in grayscale.")
    names = {info.dataset for info in infos.values()}
    normalizations = {(info.mean, info.std) for info in infos.values()}
    return Federation(
        clients=dict(sorted(clients.items())),
        nodes_of=nodes_of,
        local_data=any(info.local_data for info in infos.values()),
        dataset=names.pop() if len(names) == 1 else "own-data",
        image_shape=next(iter(node_of_shape)),
        class_names=class_names,
        devices=tuple(sorted({info.device for info in infos.values()})),
        normalization=normalizations.pop() if len(normalizations) == 1 else None,
        notes=tuple(dict.fromkeys(note for info in infos.values() for note in info.notes)),
    )
