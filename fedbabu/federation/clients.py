"""Clients and nodes: which clients there are, which nodes can serve them, and which node gets which clients.

A client is a data owner, a node (Flower's SuperNode) is where ClientApps run, and their numbers are independent.
"""

import json
import zlib
from collections.abc import Collection, Iterable
from dataclasses import astuple, dataclass, field
from heapq import heapreplace
from typing import Any

from pydantic import ConfigDict, NonNegativeInt
from pydantic.dataclasses import dataclass as checked_dataclass

from fedbabu.data.classes import ClassNames
from fedbabu.models import ImageShape


@checked_dataclass(frozen=True, config=ConfigDict(strict=True))
class ClientInfo:
    """A client as the server knows it: its example counts, its training examples' classes, its data's checksum."""

    num_train: NonNegativeInt
    num_test: NonNegativeInt
    classes: tuple[NonNegativeInt, ...]
    checksum: str = ""


@dataclass(frozen=True)
class Federation:
    """All clients that were found, and the nodes that can serve them; both may become more during a run."""

    clients: dict[int, ClientInfo]  # every client by its id
    nodes_of: dict[int, list[int]]  # for each client, the ids of the nodes that can serve it
    local_data: bool  # whether nodes have local data, as in a real federation, instead of parts of one dataset
    dataset: str  # a name for the data
    image_shape: ImageShape  # channels, height and width of every image
    class_names: ClassNames  # in the order of the labels that all nodes use
    devices: tuple[str, ...]  # the devices of the nodes, "cpu", or "cuda: " and the name of the GPU
    # The mean and standard deviation with which all nodes normalize each channel; None if they differ.
    normalization: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    notes: tuple[str, ...] = ()  # sentences of the nodes about their data, without their full stops
    # The checksum of each client's data, also of clients that took part before the run was resumed.
    checksums: dict[int, str] = field(default_factory=dict)
    refused_nodes: frozenset[int] = frozenset()  # that were asked, and cannot be used
    # For how many clients each node works at a time; for one, if a node is not there.
    concurrency: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for client, info in self.clients.items():
            self.checksums.setdefault(client, self.checksum_of(client, info))

    @property
    def num_classes(self) -> int:
        """The width of the head."""
        return len(self.class_names)

    @property
    def checksum(self) -> str:
        """CRC-32 of the images' shape, the number of classes, and what the server knows of each client's data."""
        return self._crc([[client, *astuple(info)] for client, info in sorted(self.clients.items())])

    def checksum_of(self, client: int, info: ClientInfo) -> str:
        """CRC-32 of the images' shape, the number of classes, and what the server knows of a client's data."""
        return self._crc([client, *astuple(info)])

    def _crc(self, clients: list[Any]) -> str:
        return f"{zlib.crc32(json.dumps([self.image_shape, self.num_classes, clients]).encode()):08x}"

    def add(self, client: int, info: ClientInfo, node: int, concurrency: int) -> None:
        """Add a node that can serve a client, which may be new."""
        self.clients[client] = info
        self.concurrency[node] = concurrency
        self.nodes_of.setdefault(client, []).append(node)

    @property
    def num_nodes(self) -> int:
        """Number of nodes that can serve at least one client."""
        return len({node for nodes in self.nodes_of.values() for node in nodes})

    @property
    def num_train(self) -> dict[int, int]:
        """Number of training examples of every client."""
        return {client: info.num_train for client, info in self.clients.items()}

    def assign(
        self, clients: Iterable[int], connected_nodes: Collection[int], unreliable_nodes: Collection[int] = ()
    ) -> dict[int, list[int]]:
        """Assign each client to one of the nodes that can serve it, so that the nodes are busy for equally long.

        The largest client is assigned first, each to the place with the fewest examples so far: a node that works for
        several clients at a time has as many places. Of places with equally few, those of one node come before those
        of the next, so that a node rarely works for fewer clients than it could. An unreliable node gets a client only
        if no other connected node can serve it.

        Returns:
            The clients of each node that gets any. A client that no connected node can serve is in none of them.
        """
        sizes = {client: self.clients[client].num_train for client in clients}
        nodes = {node for nodes in self.nodes_of.values() for node in nodes if node in connected_nodes}
        # The number of examples at each place of a node, the least first.
        places = {node: [0] * min(self.concurrency.get(node, 1), len(sizes)) for node in nodes}
        assigned: dict[int, list[int]] = {}
        for client in sorted(sizes, key=lambda client: (-sizes[client], client)):
            if candidates := [node for node in self.nodes_of[client] if node in nodes]:
                node = min(candidates, key=lambda node: (node in unreliable_nodes, places[node][0], node))
                heapreplace(places[node], places[node][0] + sizes[client])
                assigned.setdefault(node, []).append(client)
        return assigned
