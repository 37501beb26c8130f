"""Nodes that connect after the start of a run: with clients that are missing, or that were there before.

A SuperNode without authentication has another id when it is restarted, so that it looks like a new one.
"""

from time import monotonic

from flwr.serverapp import Grid

from fedbabu.config import RunConfig
from fedbabu.federation.class_names import renumbered
from fedbabu.federation.clients import Federation
from fedbabu.federation.compatibility import other_shape, unknown_classes
from fedbabu.federation.messages import NodeInfo
from fedbabu.federation.queries import ask_nodes
from fedbabu.heartbeat import Heartbeat

NEW_NODE_SECONDS = 60.0  # that a node which connects during a run may take to say what it offers
SILENT_NODE_SECONDS = 600.0  # after which a node that did not is asked again


class LateNodes:
    """Asks nodes that connect during a run what they offer, and lets them serve clients that no connected node serves.

    Args:
        grid: Flower's grid.
        config: The run configuration.
        federation: The clients and nodes of the run, to which those are added that come late.
    """

    def __init__(self, grid: Grid, config: RunConfig, federation: Federation) -> None:
        self.grid = grid
        self.config = config
        self.federation = federation
        # The connected nodes that need not be asked (again).
        self._asked = {node for nodes in federation.nodes_of.values() for node in nodes} | federation.refused_nodes
        self._silent_until: dict[int, float] = {}  # when a node that did not answer is asked again

    def look(self) -> bool:
        """If some clients are on no connected node, ask those that were never asked; returns whether clients joined.

        A node is not used for a client that has other data than before, or data that do not fit, and a line says so.
        """
        connected, nodes_of = set(self.grid.get_node_ids()), self.federation.nodes_of
        self._asked &= connected  # a node that comes back may offer something else
        if all(connected.intersection(nodes_of.get(client, ())) for client in range(self.config.num_clients)):
            return False
        waited_for = {node for node, until in self._silent_until.items() if monotonic() < until}
        if not (new_nodes := sorted(connected - self._asked - waited_for)):
            return False
        before = len(self.federation.clients)
        self._silent_until |= dict.fromkeys(new_nodes, monotonic() + NEW_NODE_SECONDS + SILENT_NODE_SECONDS)
        for answer in ask_nodes(self.grid, new_nodes, self.config, lambda: NEW_NODE_SECONDS, Heartbeat()):
            del self._silent_until[answer.node]
            if answer.failed:  # it is asked again next time
                continue
            self._asked.add(answer.node)
            if answer.refused:
                print(f"SuperNode {answer.node} is not used: {answer.refused}", flush=True)
            elif answer.info:
                self._add(answer.node, answer.info)
        return len(self.federation.clients) > before

    def _add(self, node: int, info: NodeInfo) -> None:
        """Use a node for those of its clients whose data fit."""
        federation = self.federation
        problem = unknown_classes(node, info, federation.class_names)
        if info.image_shape != federation.image_shape:
            problem = other_shape(node, info.image_shape, "The run", federation.image_shape)
        if problem:
            print(f"SuperNode {node} is not used: {problem}", flush=True)
            return
        for client, offered in info.clients.items():
            client_info = renumbered(offered, info.class_names, federation.class_names)
            checksum = federation.checksum_of(client, client_info)
            if federation.checksums.setdefault(client, checksum) != checksum:
                print(f"SuperNode {node} is not used for client {client}, whose data were others before", flush=True)
                continue
            joins = client not in federation.clients
            federation.add(client, client_info, node, info.concurrency)
            print(f"SuperNode {node} serves client {client} now{', which joins the run' if joins else ''}", flush=True)
