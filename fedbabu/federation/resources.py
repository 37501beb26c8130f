"""How many nodes a machine has room for, and for how many clients they work at a time."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

NODES_PER_GPU = 4


def num_cpus_of_machine() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fitting_federation(federation: Mapping[str, Any], num_clients: int) -> dict[str, Any]:
    """Flower's federation config for this machine, in numbers.

    Args:
        federation: num-supernodes (a number, "auto" for as many as fit, or "clients" for one per client),
            client-resources-num-cpus, and client-resources-num-gpus (a number or "auto").
        num_clients: The number of clients of the run.
    """
    num_cpus = num_cpus_of_machine()
    num_gpus, resolved = torch.cuda.device_count(), dict(federation)
    fitting_nodes = max(num_cpus // resolved["client-resources-num-cpus"], 1)
    if resolved["client-resources-num-gpus"] == "auto":
        per_gpu = min(NODES_PER_GPU, max(fitting_nodes // num_gpus, 1)) if num_gpus else 0
        resolved["client-resources-num-gpus"] = 1 / per_gpu if num_gpus else 0
    if gpu_share := resolved["client-resources-num-gpus"]:
        fitting_nodes = min(fitting_nodes, max(int(num_gpus / gpu_share), 1))
    numbers = {"auto": min(fitting_nodes, num_clients), "clients": num_clients}
    resolved["num-supernodes"] = numbers.get(resolved["num-supernodes"], resolved["num-supernodes"])
    return resolved


def clients_at_a_time(num_nodes: int, cpus_per_node: int, num_clients: int, machines: Sequence[int]) -> int:
    """For how many clients the nodes of a simulation on CPUs work at a time.

    Args:
        num_nodes: The number of nodes. With at least as many as clients, each has one client; otherwise, a node works
            for as many at a time as it has CPUs.
        cpus_per_node: The number of CPUs of a node.
        num_clients: The number of clients of the run.
        machines: The number of CPUs of each machine.
    """
    nodes_at_a_time = min(num_nodes, max(sum(cpus // cpus_per_node for cpus in machines), 1))
    return nodes_at_a_time * (cpus_per_node if num_nodes < num_clients else 1)
