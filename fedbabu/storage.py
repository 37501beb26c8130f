"""State dicts on disk, as safetensors: a model, and what each client keeps between rounds."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from platformdirs import user_state_dir
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedbabu.errors import ConfigError


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


def save_state(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write a state dict, which appears whole or not at all."""
    unfinished = path.with_name(f"{path.name}.tmp")
    save_file({name: value.contiguous() for name, value in state.items()}, unfinished)
    unfinished.replace(path)


def load_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict onto the CPU.

    Raises:
        OSError: if the file cannot be read.
        SafetensorError: if it is not what `save_state` writes.
    """
    return load_file(path)


class ClientStore:
    """What the clients of one run keep: a file for each in a folder, so that no process holds more than one.

    Where the file is does not depend on which node trains the client.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, client: int) -> dict[str, Tensor]:
        """What a client kept, as a state dict on the CPU; empty before its first round."""
        path = self._path(client)
        return load_state(path) if path.exists() else {}

    def save(self, client: int, state: Mapping[str, Tensor]) -> None:
        """Keep a state dict in the place of what the client kept before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        save_state(self._path(client), state)

    def _path(self, client: int) -> Path:
        return self.folder / f"{client}.safetensors"
