"""Files that appear whole or not at all, even if this process or this machine stops: JSON, and safetensors files.

A function that cannot read or write a file raises OSError, which names the path.
"""

import json
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fedbabu.errors import ConfigError

CHECKSUM_KEY = "checksum"  # in the metadata of a safetensors file


class DamagedError(ValueError):
    """A file does not have the content that was written; the message names the file."""


def check_writable(folder: Path, description: str) -> None:
    """Create a folder if it does not exist; a ConfigError with its description is raised if files cannot be created."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ConfigError(f"{description} cannot be written ({folder}: {error.strerror}): give another one.") from error


@contextmanager
def marked(folder: Path) -> Iterator[str]:
    """Put a file into a folder, by which other processes can tell that they see the same folder; yields its path."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".marker-", suffix=".tmp") as file:
        yield file.name


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it appears whole or not at all. If that fails, the previous content is still there."""
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


def remove_unfinished_files(folder: Path) -> None:
    """Remove the temporary files that `write_whole` left in a folder, or below it, when its process was killed."""
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def json_lines(objects: Iterable[Mapping[str, Any]]) -> bytes:
    """JSON objects as the lines of a file."""
    return "".join(json.dumps(each) + "\n" for each in objects).encode()


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects in the lines of a file, except for a last line without an end."""
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def save_state(path: Path, state: Mapping[str, Tensor], values: Mapping[str, Any] | None = None) -> None:
    """Write a state dict, on any device, and JSON values by name to a safetensors file, with a checksum of both."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    texts = {name: json.dumps(value) for name, value in (values or {}).items()}
    write_whole(path, save(tensors, texts | {CHECKSUM_KEY: _checksum(tensors, texts)}))


def load_state(path: Path, *, checksum_required: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the state dict in a safetensors file onto the CPU, and the JSON values by name.

    A DamagedError is raised if its checksum is wrong, or if it has none, as in files of other programs, but must have.
    """
    try:
        with safe_open(path, "pt") as file:
            texts = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  the file is not a dict
    except SafetensorError as error:
        raise DamagedError(f"{path} is damaged: {error}") from error
    expected = texts.pop(CHECKSUM_KEY, None)
    if expected is None and not checksum_required:
        return tensors, {}
    if expected != _checksum(tensors, texts):
        raise DamagedError(f"{path} is damaged: its content does not have its checksum")
    return tensors, {name: json.loads(text) for name, text in texts.items()}


def _checksum(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> str:
    """CRC-32 of named tensors, with their dtypes and shapes, and of texts, as eight hexadecimal digits."""
    form = {name: [str(value.dtype), list(value.shape)] for name, value in tensors.items()}
    checksum = zlib.crc32(json.dumps([form, dict(texts)], sort_keys=True).encode())
    for name in sorted(tensors):
        checksum = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, checksum)
    return f"{checksum:08x}"
