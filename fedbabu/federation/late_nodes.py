"""Nodes that connect after the start of a run: with clients that are missing, or that were there before.

A SuperNode without authentication has another id when it is restarted, so that it looks like a new one.
"""

from time import monotonic

from flwr.serverapp import Grid

from fedbabu.config import RunConfig
from fedbabu.data.classes import shorten
from fedbabu.errors import counted
from fedbabu.federation.class_names import renumbered
from fedbabu.federation.clients import Federation
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
        self._asked = {node for nodes in federation.nodes_of.values() for node in nodes}
        self._silent_until: dict[int, float] = {}  # when a node that did not answer is asked again

    def look(self) -> bool:
        """If some clients are on no connected node, ask those that were never asked; returns whether clients joined.

        A node is not used for a client that has other data than before, or data that do not fit, and a line says so.
        """
        connected, nodes_of = set(self.grid.get_node_ids()), self.federation.nodes_of
        if all(connected.intersection(nodes_of.get(client, ())) for client in range(self.config.num_clients)):
            return False
        waited_for = {node for node, until in self._silent_until.items() if monotonic() < until}
        if not (new_nodes := sorted(connected - self._asked - waited_for)):
            return False
        before = len(self.federation.clients)
        self._silent_until |= dict.fromkeys(new_nodes, monotonic() + NEW_NODE_SECONDS + SILENT_NODE_SECONDS)
        for answer in ask_nodes(self.grid, new_nodes, self.config, NEW_NODE_SECONDS, Heartbeat()):
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
        if reason := self._misfit(info):
            print(f"SuperNode {node} is not used: {reason}", flush=True)
            return
        federation = self.federation
        for client, offered in info.clients.items():
            client_info = renumbered(offered, info.class_names, federation.class_names)
            checksum = federation.checksum_of(client, client_info)
            if federation.checksums.setdefault(client, checksum) != checksum:
                print(f"SuperNode {node} is not used for client {client}, whose data were others before", flush=True)
                continue
            joins = client not in federation.clients
            federation.add(client, client_info, node)
            print(f"SuperNode {node} serves client {client} now{', which joins the run' if joins else ''}", flush=True)

    def _misfit(self, info: NodeInfo) -> str:
        """Why what a node offers does not fit to the run; empty if it does."""
        federation = self.federation
        if unknown := [name for name in info.class_names if name not in federation.class_names]:
            return f"the run, which has started, does not know its classes {shorten(unknown)}."
        if info.image_shape != federation.image_shape:
            (channels, height, width), (_, *size) = info.image_shape, federation.image_shape
            images = f"{height}×{width} pixels with {counted(channels, 'channel')}"
            return f"its images have {images}, those of the run {size[0]}×{size[1]} with {federation.image_shape[0]}."
        trained = {label for each in federation.clients.values() for label in each.classes}
        offered = [renumbered(each, info.class_names, federation.class_names) for each in info.clients.values()]
        trained.update(label for each in offered for label in each.classes)
        trained_names = {federation.class_names[label] for label in trained}
        if untrained := [name for name in info.tested_classes if name not in trained_names]:
            return f"it has test images of classes of which no client has training images, {shorten(untrained)}."
        return ""
