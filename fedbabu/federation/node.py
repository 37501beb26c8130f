"""The node's side: which clients a SuperNode can serve, and the data and networks that it serves them with.

With at least as many simulated nodes as clients, node p serves client p. With fewer, every node reads the whole dataset
and can serve all clients. A node that was started with `--node-config "data-path='/path/to/data' partition-id=3"`
serves client 3, with the local data in that folder.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from threading import get_ident
from typing import Any

import numpy as np
from flwr.app import Context, Message

from fedbabu.config import RunConfig
from fedbabu.data.classes import ClassNames
from fedbabu.data.dataset import ImageDataset, open_dataset
from fedbabu.data.known import KNOWN_DATASETS
from fedbabu.data.partitions import PARTITIONS, usable_owners
from fedbabu.data.partitions.partition import Partition, open_simulated_data, untrained_test_images, whole_dataset
from fedbabu.errors import ConfigError
from fedbabu.federation.client_pool import num_cpus
from fedbabu.federation.clients import ClientInfo
from fedbabu.federation.messages import NodeInfo
from fedbabu.federation.ray_workers import cpus_of_machines, is_ray_worker
from fedbabu.federation.resources import clients_at_a_time
from fedbabu.formatting import counted
from fedbabu.models import ImageShape, SplitNetwork, build_model
from fedbabu.training.aggregation import State
from fedbabu.training.client import Client
from fedbabu.training.device import device_name, has_amx, training_device, why_no_gpu


@dataclass(frozen=True)
class Node:
    """A SuperNode in one run: its data, how they are divided among clients, and the clients that it can serve.

    `num_nodes` is the number of nodes in the simulation, or 0 if the node does not know it; `local_data` says whether
    the node has local data instead of a dataset that all nodes read.
    """

    config: RunConfig
    dataset: ImageDataset
    partition: Partition
    clients: list[int]
    num_nodes: int = 0
    local_data: bool = False

    @classmethod
    def from_message(cls, message: Message, context: Context) -> "Node":
        """The node that received a message. Its data are opened once per process.

        Raises:
            ConfigError: If the run or node configuration is wrong, or the data cannot be used.
        """
        config = RunConfig.from_flower(message.content.config_records["run-config"])
        node_config: Mapping[str, Any] = context.node_config
        number, num_nodes = node_config.get("partition-id"), node_config.get("num-partitions", 0)
        if data_path := node_config.get("data-path"):
            folder = os.path.abspath(Path(str(data_path)).expanduser())
            if not isinstance(data_path, str) or not os.path.isdir(folder):
                raise ConfigError(
                    f"A SuperNode has data-path = '{Path(folder).name}', which is no folder there: it must be the "
                    "absolute path of the folder of its client's images."
                )
            if type(number) is not int or not 0 <= number < config.num_clients:
                raise ConfigError(
                    f"The SuperNode with data-path = '{Path(folder).name}' has partition-id = {number!r}: it must be "
                    f"the number of its client, from 0 to num-clients - 1 = {config.num_clients - 1}."
                )
            dataset = open_dataset(replace(config.data_spec, dataset=folder))
            partition = whole_dataset(dataset, number, config.partition_spec.seed)
            return cls(config, dataset, partition, [number], local_data=True)
        dataset, partition = open_simulated_data(config.data_spec, config.partition_spec)
        clients = partition.clients
        if number is not None and num_nodes >= len(clients):
            clients = clients[number : number + 1]
        return cls(config, dataset, partition, clients, num_nodes)

    def info(self) -> NodeInfo:
        """What the server must know before it can sample clients and build the global model."""
        rows, labels = self.partition.rows, self.dataset.labels["train"]
        clients = {
            client: ClientInfo(
                num_train=len(rows["train"][client]),
                num_test=len(rows["test"][client]),
                classes=tuple(np.unique(labels[rows["train"][client]]).tolist()),
                checksum=self.dataset.checksum,
            )
            for client in self.clients
        }
        tested = np.unique(self.dataset.labels["test"]) if self.local_data else ()
        return NodeInfo(
            clients=clients,
            dataset=Path(self.dataset.name).name if self.local_data else self.dataset.name,
            image_shape=self.dataset.image_shape,
            class_names=self.dataset.class_names,
            mean=tuple(self.dataset.transform.mean),
            std=tuple(self.dataset.transform.std),
            tested_classes=tuple(self.dataset.class_names[label] for label in tested),
            notes=self._notes(),
            num_nodes=self.num_nodes,
            local_data=self.local_data,
            device=device_name(training_device(self.config.device)),
            concurrency=self.concurrency,
        )

    @property
    def threads_per_client(self) -> int:
        """With how many threads a client computes: with one, so that its results do not depend on the node's CPUs.

        A node with local data, which has one client, and a node with a GPU use all their CPUs for one client at a time.
        """
        return num_cpus() if self.local_data or training_device(self.config.device).type != "cpu" else 1

    @property
    def concurrency(self) -> int:
        """How many clients the node works for at a time: as many as it has CPUs for."""
        return max(min(num_cpus() // self.threads_per_client, len(self.clients)), 1)

    def _notes(self) -> tuple[str, ...]:
        """What the user should know about the node's data and device."""
        notes, spec = list(self.dataset.notes), self.config.partition_spec
        if PARTITIONS[spec.scheme].by_owner and not self.local_data:
            _, num_left_out = usable_owners(spec, self.dataset)
            too_few = f"{counted(num_left_out, 'owner')} with too few images left out (min-examples-per-owner)"
            notes += [too_few] if num_left_out else []
        if not self.local_data and (untrained := untrained_test_images(self.dataset)):
            notes.append(f"There are {untrained}")
        if self.config.device == "auto" and (reason := why_no_gpu()):
            notes.append(f"This machine has a GPU that is not used: {reason}")
        on_cpu = training_device(self.config.device).type == "cpu"
        if on_cpu and self.config.precision == "float32" and has_amx():
            notes.append("This processor has AMX: precision = 'bf16' trains faster, with fewer digits")
        if unused := self._unused_cpus():
            notes.append(unused)
        if self.dataset.name not in KNOWN_DATASETS:  # theirs is documented, and that of others is a guess
            notes.append(f"Augmentation: {self.dataset.augmentation}")
        return tuple(notes)

    def _unused_cpus(self) -> str:
        """A sentence about CPUs of a simulation with which no client is trained, and how they are used; or nothing."""
        if not is_ray_worker() or training_device(self.config.device).type != "cpu":
            return ""
        config, machines, of_node = self.config, cpus_of_machines(), num_cpus()
        most = (config.algorithm_spec.communicates and config.clients_per_round) or config.num_clients

        def at_a_time(option: tuple[int, int]) -> int:
            return min(clients_at_a_time(*option, config.num_clients, machines), most)

        usable = min(sum(machines), most)
        # More nodes like these, which share their memory among several clients, or else nodes with one CPU each.
        options = [(usable // of_node, of_node), (usable, 1)]
        if self.num_nodes >= config.num_clients:  # each has one client, and still shall
            options = [(self.num_nodes, 1)]
        nodes, cpus = option = max(options, key=at_a_time)
        if at_a_time(option) <= (now := at_a_time((self.num_nodes, of_node))):
            return ""
        return (
            f"Clients are trained on {now} of {sum(machines)} CPUs; --federation-config "
            f'"num-supernodes={nodes} client-resources-num-cpus={cpus}" uses {at_a_time(option)}'
        )

    def with_class_names(self, class_names: ClassNames) -> "Node":
        """The same node, whose labels have the numbers of these class names; of its own ones if there are none."""
        return replace(self, dataset=self.dataset.with_class_names(class_names)) if class_names else self

    def global_model(self, state: State) -> SplitNetwork:
        """A network that holds the global model, in evaluation mode, so that no loss changes its running statistics."""
        model = self._network("global model").eval()
        model.load_state_dict(state)
        return model

    def _network(self, purpose: object) -> SplitNetwork:
        """A network for a purpose, whose head has the classes of all nodes; built once for it in each process."""
        config, dataset = self.config, self.dataset
        return build_network(
            config.model_name, dataset.image_shape, dataset.num_classes, config.head_blocks, config.device, purpose
        )

    def client(self, client: int, global_model: SplitNetwork, data_checksum: str = "") -> Client:
        """One of the node's clients, ready for training or evaluation in this thread, with the thread's own network.

        Raises:
            RuntimeError: If its data do not have the given checksum.
        """
        if data_checksum and data_checksum != self.dataset.checksum:
            raise RuntimeError("its data have changed since the run started, or since it joined")
        model = self._network(get_ident())
        return Client(client, self.config, self.dataset, self.partition, model, global_model, self.local_data)


@cache
def build_network(
    name: str, image_shape: ImageShape, num_classes: int, head_blocks: int, device: str, purpose: object
) -> SplitNetwork:
    """A network with any weights, another one for every purpose; see `build_model`."""
    return build_model(name, image_shape, num_classes, seed=0, head_blocks=head_blocks).to(training_device(device))
