"""Files that appear whole or not at all, and state dicts in them, as safetensors with a checksum."""

import json
import os
import tempfile
import zlib
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

import torch
from platformdirs import user_state_dir
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fedbabu.errors import ConfigError

CHECKSUM = "checksum"  # of a safetensors file's metadata


class DamagedError(ValueError):
    """A file that is not as it was written; says which."""


def state_dir() -> Path:
    """Where a node keeps what its clients keep in a real federation: FEDBABU_STATE, or the user's state folder."""
    return Path(os.environ.get("FEDBABU_STATE") or user_state_dir("fedbabu"))


def check_writable(path: Path, what: str) -> None:
    """Make sure that files can be created in a folder, creating it if need be.

    Raises:
        ConfigError: if not; it begins with `what` the folder is.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ConfigError(f"{what} cannot be written ({path}: {error.strerror}): give a folder that can.") from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all, whatever becomes of this process or this machine.

    Raises:
        OSError: if it cannot be written; it names the path, and what was there before is still there.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error


def remove_unfinished(folder: Path) -> None:
    """Remove what `write_whole` left in a folder, or below it, when its process was killed."""
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def save_state(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a state dict, and text beside it, with a checksum over both.

    Raises:
        OSError: if the file cannot be written.
    """
    tensors, texts = {name: value.contiguous() for name, value in state.items()}, dict(metadata or {})
    write_whole(path, save(tensors, texts | {CHECKSUM: _checksum(tensors, texts)}))


def load_state(path: Path, *, ours: bool = False) -> dict[str, Tensor]:
    """Read a state dict onto the CPU.

    Args:
        path: of the file.
        ours: whether it must have the checksum that `save_state` writes; a file from elsewhere may have none.

    Raises:
        OSError: if the file cannot be read.
        DamagedError: if it is no safetensors file, or not what `save_state` wrote.
    """
    return load_state_and_metadata(path, ours=ours)[0]


def load_state_and_metadata(path: Path, *, ours: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a state dict onto the CPU, and the text that was written with it. Raises what `load_state` raises."""
    try:
        with safe_open(path, "pt") as file:
            texts = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
    except SafetensorError as error:
        raise DamagedError(f"{path} is damaged: {error}") from error
    expected = texts.pop(CHECKSUM, None)
    if (ours or expected is not None) and expected != _checksum(tensors, texts):
        raise DamagedError(f"{path} is damaged: its checksum is not that of its content")
    return tensors, texts


def _checksum(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> str:
    """The CRC-32 of tensors by name, with their types and shapes, and of texts."""
    form = {name: [str(value.dtype), list(value.shape)] for name, value in tensors.items()}
    checksum = zlib.crc32(json.dumps([form, dict(texts)], sort_keys=True).encode())
    for name in sorted(tensors):
        checksum = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, checksum)
    return f"{checksum:08x}"


class ClientStore:
    """What the clients of one run keep: a file for each client and round in a folder, which no process holds in memory.

    The server says which round's file a client starts from, so that a resumed run finds what it had. Where the file is
    does not depend on which node trains the client.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, client: int, server_round: int) -> dict[str, Tensor]:
        """What a client kept in a round, as a state dict on the CPU; empty for round 0, before its first.

        Raises:
            OSError: if the file is not there or cannot be read.
            DamagedError: if it is damaged.
        """
        return load_state(self.path(client, server_round), ours=True) if server_round else {}

    def save(self, client: int, server_round: int, state: Mapping[str, Tensor], needed: Collection[int]) -> None:
        """Keep a state dict, and forget what the client kept in earlier rounds that are not needed any more.

        Raises:
            OSError: if it cannot be written.
        """
        path = self.path(client, server_round)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_state(path, state)
        for other in path.parent.glob("round-*.safetensors"):
            number = int(other.stem.removeprefix("round-"))
            if number < server_round and number not in needed:  # later ones, if this node has been slow, are in use
                other.unlink(missing_ok=True)

    def path(self, client: int, server_round: int) -> Path:
        """The file of a client and a round."""
        return self.folder / str(client) / f"round-{server_round}.safetensors"
