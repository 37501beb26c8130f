"""The device that a process trains on, its memory, and how many nodes fit on this machine's CPUs and GPUs.

A node trains with as many threads as it has CPUs (client-resources-num-cpus), which Ray sets.
"""

import ctypes
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Any

import torch

NODES_PER_GPU = 4
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # parameters of mallopt, from <malloc.h>
KEPT_BYTES = 1 << 30  # more than one training step uses at a time
KEPT_BYTES_OF_OLD_GLIBC = 32 << 20  # the most that glibc accepts before version 2.35


@cache
def training_device() -> torch.device:
    """The GPU if PyTorch sees one, otherwise the CPU. The first call prepares this process for training."""
    keep_freed_memory()
    torch.backends.cudnn.allow_tf32 = False  # PyTorch allows it for convolutions; here, float32 means float32
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def keep_freed_memory() -> None:
    """Make glibc keep the memory that a training step frees, for the next step.

    A step allocates and frees tensors of megabytes. By default glibc returns them to the system and requests them
    again, and the system clears every page in between, which costs about a tenth of a step.
    """
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        # In this order: once one of the two is set, glibc no longer adapts the other by itself.
        if mallopt(M_MMAP_THRESHOLD, KEPT_BYTES) or mallopt(M_MMAP_THRESHOLD, KEPT_BYTES_OF_OLD_GLIBC):
            mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def fitting_federation(federation: Mapping[str, Any], num_clients: int) -> dict[str, Any]:
    """Flower's federation config for this machine, in numbers.

    Args:
        federation: num-supernodes (a number, "auto" for as many as fit, or "clients" for one per client),
            client-resources-num-cpus, and client-resources-num-gpus (a number or "auto").
        num_clients: The number of clients of the run.
    """
    num_cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
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
