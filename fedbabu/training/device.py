"""The device that a process trains on, and the memory that it keeps."""

import ctypes
import os
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from fedbabu.data.cache import cache_dir
from fedbabu.errors import ConfigError

GPUS_OF_DRIVER = Path("/proc/driver/nvidia/gpus")  # a folder for each GPU that NVIDIA's driver has
CPU_INFO = Path("/proc/cpuinfo")  # of Linux
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
