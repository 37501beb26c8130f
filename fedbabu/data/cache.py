"""What is made once per machine and kept: under a lock, whole or not at all, and made again if it is damaged."""

import os
import shutil
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar
from zipfile import BadZipFile

from filelock import FileLock
from platformdirs import user_cache_dir

from fedbabu.errors import ConfigError

DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile)  # what reading a damaged file can raise

T = TypeVar("T")


def cache_dir() -> Path:
    """The folder of all cache entries: FEDBABU_CACHE, or else the user's cache folder."""
    return Path(os.environ.get("FEDBABU_CACHE") or user_cache_dir("fedbabu"))


def cached(path: Path, build: Callable[[Path], None], read: Callable[[Path], T]) -> T:
    """Read a file or folder of the cache, which is built first unless it is there: once a machine, whole or not at all.

    `build` writes it under another name; whoever asks meanwhile waits for it. `read` raises one of DAMAGED if it is not
    there or not as it was written; then it is built again.

    Raises:
        ConfigError: if the cache cannot be written.
    """
    with suppress(*DAMAGED):
        return read(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            with suppress(*DAMAGED):
                return read(path)  # built by another process meanwhile
            if path.exists():
                print(f"{path} is damaged and built again.", flush=True)
            building, damaged = (path.with_name(f".{path.name}.{state}") for state in ("building", "damaged"))
            for rest in (building, damaged):  # left by a process that was killed
                _remove(rest)
            try:
                build(building)
                if path.exists():
                    path.rename(damaged)
                building.rename(path)
            finally:
                for rest in (building, damaged):
                    _remove(rest)
            return read(path)
    except OSError as error:
        raise ConfigError(
            f"The cache of decoded images, {cache_dir()}, cannot be written ({error}): set the environment "
            "variable FEDBABU_CACHE to a folder that can, with room for the dataset."
        ) from error


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def file_checksum(path: Path) -> int:
    """The CRC-32 of a file; a gigabyte takes about a second."""
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return checksum
