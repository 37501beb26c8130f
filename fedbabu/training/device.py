"""The device that a process trains on, its memory, and how many nodes fit on this machine's CPUs and GPUs."""

import ctypes
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from fedbabu.data.cache import cache_dir
from fedbabu.errors import ConfigError

GPUS_OF_DRIVER = Path("/proc/driver/nvidia/gpus")  # a folder for each GPU that NVIDIA's driver has
CPU_INFO = Path("/proc/cpuinfo")  # of Linux
NODES_PER_GPU = 4
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # parameters of mallopt, from <malloc.h>
KEPT_BYTES = 1 << 30  # more than one training step uses at a time
KEPT_BYTES_OF_OLD_GLIBC = 32 << 20  # the most that glibc accepts before version 2.35
# More than glibc requests at a time for a thread. Blocks of over 64 MiB it returns all the same, if they are not those
# of the main thread: activations of 250 images in 4convNet, say.
ARENA_BYTES = 128 << 20
_taken: list[object] = []  # the lock of the GPU that this process has taken


@cache
def training_device(wanted: str) -> torch.device:
    """The device that this process trains on: "cpu", "cuda", or for "auto" a GPU if PyTorch sees one.

    The first call prepares this process for training and, if there are several GPUs, takes one that the fewest
    processes have.

    Raises:
        ConfigError: If a GPU is wanted that PyTorch does not see.
    """
    keep_freed_memory()
    torch.backends.cudnn.allow_tf32 = False  # PyTorch allows it for convolutions; here, float32 means float32
    torch.backends.cudnn.deterministic = True  # so that a run, or one that was resumed, gives the same bits again
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(
            f"device = 'cuda', but {why_no_gpu() or 'this machine has no GPU'}: it must be 'auto' or 'cpu'."
        )
    num_gpus = torch.cuda.device_count()
    return torch.device("cuda", _take_one_of(num_gpus) if num_gpus > 1 else 0)


@cache
def has_amx() -> bool:
    """Whether the processor multiplies bf16 matrices in tiles (Intel's AMX), with which bf16 is faster than float32."""
    with suppress(OSError):  # another system than Linux
        return "amx_bf16" in CPU_INFO.read_text().split()
    return False


def device_name(device: torch.device) -> str:
    """A device in words: "cpu", or "cuda" with the name of the GPU."""
    return f"cuda: {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type


def why_no_gpu() -> str:
    """Why PyTorch does not see the GPUs of this machine; empty if it sees them, or if there seem to be none."""
    if torch.cuda.is_available() or not any(GPUS_OF_DRIVER.glob("*")):
        return ""
    if not torch.version.cuda:
        return "this PyTorch was built without CUDA"
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return f"CUDA_VISIBLE_DEVICES = '{visible}' hides the GPU"
    return "PyTorch cannot use the GPU (python -c 'import torch; torch.zeros(1).cuda()' says why)"


def _take_one_of(number: int) -> int:
    """A number below the given one that the fewest processes with the same cache have taken."""
    folder, place = cache_dir() / "gpus", 0
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        for index in range(number):
            with suppress(Timeout):  # another process has this place
                # The lock is kept, and so held, until the process ends.
                _taken.append(FileLock(folder / f"{index}-{place}.lock", timeout=0).acquire())
                return index
        place += 1


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
            # So much is kept of each thread's memory, which glibc would return without regard to the threshold.
            mallopt(M_TOP_PAD, ARENA_BYTES)


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
