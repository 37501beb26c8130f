"""Discovery: before the first round, the server finds out which clients there are, and which nodes can serve them."""

from collections.abc import Mapping
from time import monotonic, sleep

from flwr.serverapp import Grid

from fedbabu.config import RunConfig
from fedbabu.data.classes import ClassNames, shorten
from fedbabu.errors import ConfigError, counted
from fedbabu.federation.class_names import agree_on_class_names, renumbered
from fedbabu.federation.clients import ClientInfo, Federation
from fedbabu.federation.messages import NodeInfo
from fedbabu.federation.queries import ask_nodes
from fedbabu.heartbeat import Heartbeat

NODE_WAIT_SECONDS = 60.0  # without a new node, before a run starts without some clients, or stops for lack of them


def discover(grid: Grid, config: RunConfig, class_names: ClassNames = (), marker: str = "") -> Federation:
    """Ask every node which clients it can serve, until all num-clients clients are found.

    If min-available-clients is less than num-clients, nodes that cannot be used are left out, and no more than that
    many clients are needed once no other was found for a minute.

    Args:
        grid: Flower's grid.
        config: The run configuration.
        class_names: The classes of the run that is resumed, in order; empty for a new run, for which the nodes' count.
        marker: The path of a file in the results-dir, which nodes must see if clients keep something there.

    Raises:
        ConfigError: If a node cannot use the configuration, if the nodes' data do not fit together, or if clients are
            missing.
    """
    infos: dict[int, NodeInfo] = {}  # by node
    refused: dict[int, ConfigError] = {}  # by node
    failures: dict[int, str] = {}  # by node
    heartbeat = Heartbeat()
    last_news = monotonic()
    while True:
        new_nodes = sorted(set(grid.get_node_ids()) - infos.keys() - refused.keys())
        for answer in ask_nodes(grid, new_nodes, config, config.client_timeout, heartbeat, marker):
            failures.pop(answer.node, None)
            if answer.refused and not config.starts_without_all_clients:
                raise answer.refused
            if answer.failed:
                failures[answer.node] = f"failed: {answer.failed}"
            elif answer.refused:
                refused[answer.node] = answer.refused
            elif answer.info:
                infos[answer.node] = answer.info
                last_news = monotonic()
        infos = dict(sorted(infos.items()))  # whichever node answers first
        _check_local_data(infos)
        clients = {client for info in infos.values() for client in info.clients}
        num_missing = config.num_clients - len(clients)
        if infos and not num_missing and len(infos) >= max(info.num_nodes for info in infos.values()):
            return _federation(infos, refused, class_names)
        if monotonic() - last_news > NODE_WAIT_SECONDS:
            if config.starts_without_all_clients and len(clients) >= config.min_available_clients:
                return _federation(infos, refused, class_names)
            raise _too_few_clients(config, clients, len(infos), failures, refused)
        on_nodes = f"on {counted(len(infos), 'SuperNode')}"
        heartbeat.beat(f"    {len(clients)} of {counted(config.num_clients, 'client')} found {on_nodes} so far")
        sleep(1.0 if failures else 0.1)


def _too_few_clients(
    config: RunConfig,
    clients: set[int],
    num_nodes: int,
    failures: Mapping[int, str],
    refused: Mapping[int, ConfigError],
) -> ConfigError:
    """The error of a run whose clients were not found, with the reasons of nodes that cannot be used."""
    nodes = counted(num_nodes, "connected SuperNode")
    problem = f"there are only {nodes} of a larger simulation"
    if missing := set(range(config.num_clients)) - clients:
        problem = f"{len(missing)} of them (client {min(missing)} for one) are on none of the {nodes}"
    needed = f" with min-available-clients = {config.min_available_clients}" if refused else ""
    reasons = "".join(f" Node {node} {reason}." for node, reason in failures.items())
    reasons += "".join(f" SuperNode {node} cannot be used: {error}" for node, error in refused.items())
    return ConfigError(
        f"num-clients = {config.num_clients}{needed}, but {problem}: start all nodes, or lower num-clients.{reasons}"
    )


def _check_local_data(infos: Mapping[int, NodeInfo]) -> None:
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


def _federation(infos: dict[int, NodeInfo], refused: Mapping[int, ConfigError], class_names: ClassNames) -> Federation:
    """The federation of these nodes, with a note about each that cannot be used.

    Raises:
        ConfigError: If the images' shapes differ, or if classes cannot be matched with each other or with those of the
            run that is resumed, if that has any.
    """
    names_of = {node: info.class_names for node, info in infos.items()}
    class_names = class_names or agree_on_class_names(names_of)
    clients: dict[int, ClientInfo] = {}
    nodes_of: dict[int, list[int]] = {}
    for node, info in infos.items():
        if unknown := [name for name in info.class_names if name not in class_names]:
            raise ConfigError(
                f"SuperNode {node} has classes that the resumed run does not have: {shorten(unknown)}. The run has "
                f"{shorten(class_names)}."
            )
        for client, client_info in info.clients.items():
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
    notes = [f"SuperNode {node} is not used: {error}".removesuffix(".") for node, error in refused.items()]
    notes += [note for info in infos.values() for note in info.notes]
    return Federation(
        clients=dict(sorted(clients.items())),
        nodes_of=nodes_of,
        local_data=any(info.local_data for info in infos.values()),
        dataset=names.pop() if len(names) == 1 else "own-data",
        image_shape=next(iter(node_of_shape)),
        class_names=class_names,
        devices=tuple(sorted({info.device for info in infos.values()})),
        normalization=normalizations.pop() if len(normalizations) == 1 else None,
        notes=tuple(dict.fromkeys(notes)),
    )
