"""Clients and nodes are two numbers: which clients there are, which nodes offer them, and who gets which."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from fedbabu.models import ImageShape


@dataclass(frozen=True)
class ClientInfo:
    """A data owner: its training and test examples, the training examples' classes, and a checksum of the dataset."""

    num_train: int
    num_test: int
    classes: tuple[int, ...]
    checksum: str = ""


@dataclass(frozen=True)
class Federation:
    """What the nodes said of themselves.

    Attributes:
        clients: every client by its id, in order.
        nodes_of: for each client, the ids of the nodes that offer it.
        owners: whether the clients have data of their own, rather than parts of one dataset.
        dataset: a name for the data.
        image_shape: channels, height and width of every image.
        num_classes: width of the head.
        devices: "cpu" or "cuda", as many as there are kinds among the nodes.
    """

    clients: Mapping[int, ClientInfo]
    nodes_of: Mapping[int, Sequence[int]]
    owners: bool
    dataset: str
    image_shape: ImageShape
    num_classes: int
    devices: tuple[str, ...]

    @property
    def num_nodes(self) -> int:
        """How many nodes offer at least one client."""
        return len({node for nodes in self.nodes_of.values() for node in nodes})

    def assign(
        self, clients: Iterable[int], nodes: Collection[int] | None = None, unless: Collection[int] = ()
    ) -> dict[int, list[int]]:
        """Give each client to one of the nodes that offer it, so that the nodes' example counts come out even.

        Largest client first, always to the node with the least so far.

        Args:
            clients: ids.
            nodes: that are connected; None for all.
            unless: nodes to give a client to only if no other offers it.

        Returns:
            The clients of each node that has any; a client that no connected node offers is in none.
        """
        load = {node: 0 for offering in self.nodes_of.values() for node in offering if nodes is None or node in nodes}
        assigned: dict[int, list[int]] = {}
        for client in sorted(clients, key=lambda client: (-self.clients[client].num_train, client)):
            offering = [node for node in self.nodes_of[client] if node in load]
            if offering:
                node = min(offering, key=lambda node: (node in unless, load[node], node))
                load[node] += self.clients[client].num_train
                assigned.setdefault(node, []).append(client)
        return assigned
