"""Discovery: before the first round, the server finds out which clients there are, and which nodes can serve them."""

from collections.abc import Iterable, Mapping
from time import monotonic, sleep

from flwr.serverapp import Grid

from fedbabu.config import RunConfig
from fedbabu.data.classes import ClassNames
from fedbabu.errors import ConfigError
from fedbabu.federation.class_names import agree_on_class_names, renumbered
from fedbabu.federation.clients import ClientInfo, Federation
from fedbabu.federation.compatibility import incompatible_nodes
from fedbabu.federation.messages import NodeInfo
from fedbabu.federation.queries import ask_nodes
from fedbabu.formatting import counted
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
    infos: dict[int, NodeInfo] = {}  # of the nodes that are connected
    refused: dict[int, ConfigError] = {}  # why nodes are left out
    failures: dict[int, str] = {}  # why nodes that are asked again failed
    heartbeat = Heartbeat()
    last_news = monotonic()

    def seconds_for_answers() -> float:
        return NODE_WAIT_SECONDS if config.may_start_with(len(_clients(infos.values()))) else config.client_timeout

    while True:
        connected = set(grid.get_node_ids())
        infos = {node: info for node, info in infos.items() if node in connected}
        refused = {node: error for node, error in refused.items() if node in connected}  # others may come back mended
        new_nodes = sorted(connected - infos.keys() - refused.keys())
        for answer in ask_nodes(grid, new_nodes, config, seconds_for_answers, heartbeat, marker):
            failures.pop(answer.node, None)
            if answer.failed:
                failures[answer.node] = answer.failed
            elif answer.refused:
                refused[answer.node] = answer.refused
            elif answer.info:
                infos[answer.node] = answer.info
                last_news = monotonic()
        infos = dict(sorted(infos.items()))  # whichever node answers first
        all_are_here = len(_clients(infos.values())) == config.num_clients
        refused |= incompatible_nodes(infos, class_names, all_are_here)
        if refused and not config.starts_without_all_clients:
            raise next(iter(refused.values()))
        infos = {node: info for node, info in infos.items() if node not in refused}
        clients = _clients(infos.values())
        num_nodes = max((info.num_nodes for info in infos.values()), default=0)
        if len(clients) == config.num_clients and len(infos) >= num_nodes:
            return _federation(infos, refused, class_names)
        if monotonic() - last_news > NODE_WAIT_SECONDS:
            if config.may_start_with(len(clients)):
                return _federation(infos, refused, class_names)
            raise _too_few_clients(config, clients, len(infos), failures, refused)
        on_nodes = f"on {counted(len(infos), 'SuperNode')}"
        heartbeat.beat(f"    {len(clients)} of {counted(config.num_clients, 'client')} found {on_nodes} so far")
        sleep(1.0 if failures else 0.1)


def _clients(infos: Iterable[NodeInfo]) -> set[int]:
    return {client for info in infos for client in info.clients}


def _too_few_clients(
    config: RunConfig,
    clients: set[int],
    num_nodes: int,
    failures: Mapping[int, str],
    refused: Mapping[int, ConfigError],
) -> ConfigError:
    """The error of a run whose clients were not found, with the reasons of nodes that cannot be used."""
    if refused and not clients:  # what is wrong with all of them is wrong with the configuration
        return next(iter(refused.values()))
    nodes = counted(num_nodes, "connected SuperNode")
    problem = f"there are only {nodes} of a larger simulation"
    if missing := set(range(config.num_clients)) - clients:
        problem = f"{len(missing)} of them (client {min(missing)} for one) are on none of the {nodes}"
        problem += " that can be used" if refused else ""
    key, number, remedy = "num-clients", config.num_clients, "start all nodes, or lower num-clients"
    if config.starts_without_all_clients:
        key, number = f"num-clients = {number} and min-available-clients", config.min_available_clients
        remedy = "start more nodes, or lower min-available-clients"
    reasons = "".join(f" Node {node} failed: {reason}." for node, reason in failures.items())
    reasons += "".join(f" {sentence}" for sentence in dict.fromkeys(map(str, refused.values())))
    return ConfigError(f"{key} = {number}, but {problem}: {remedy}.{reasons}")


def _federation(
    infos: Mapping[int, NodeInfo], refused: Mapping[int, ConfigError], class_names: ClassNames
) -> Federation:
    """The federation of these nodes, whose data fit together, with a note about each that cannot be used."""
    class_names = class_names or agree_on_class_names({node: info.class_names for node, info in infos.items()})
    clients: dict[int, ClientInfo] = {}
    nodes_of: dict[int, list[int]] = {}
    for node, info in infos.items():
        for client, client_info in info.clients.items():
            nodes_of.setdefault(client, []).append(node)
            clients[client] = renumbered(client_info, info.class_names, class_names)
    names = {info.dataset for info in infos.values()}
    normalizations = {(info.mean, info.std) for info in infos.values()}
    notes = [f"SuperNode {node} is not used: {error}".removesuffix(".") for node, error in refused.items()]
    notes += [note for info in infos.values() for note in info.notes]
    return Federation(
        clients=dict(sorted(clients.items())),
        nodes_of=nodes_of,
        local_data=any(info.local_data for info in infos.values()),
        dataset=names.pop() if len(names) == 1 else "own-data",
        image_shape=next(iter(infos.values())).image_shape,
        class_names=class_names,
        devices=tuple(sorted({info.device for info in infos.values()})),
        normalization=normalizations.pop() if len(normalizations) == 1 else None,
        notes=tuple(dict.fromkeys(notes)),
        refused_nodes=frozenset(refused),
        concurrency={node: info.concurrency for node, info in infos.items()},
    )
