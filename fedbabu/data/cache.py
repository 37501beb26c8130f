"""Files that are made once per machine: built under a lock, complete as soon as they exist, rebuilt if damaged."""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from filelock import FileLock
from platformdirs import user_cache_dir

from fedbabu.errors import ConfigError

T = TypeVar("T")


def cache_dir() -> Path:
    """The folder of all cache entries: the environment variable FEDBABU_CACHE, or else the user's cache folder."""
    return Path(os.environ.get("FEDBABU_CACHE") or user_cache_dir("fedbabu"))


def cached(path: Path, build: Callable[[Path], None], read: Callable[[Path], T]) -> T:
    """Read a cache entry, a file or a folder, which is built first if it is missing or damaged.

    `build` writes the entry to a path; `read` raises an exception of any kind if the entry is missing or damaged. If
    several processes need the same entry at once, one of them builds it and the others wait. ConfigError is raised if
    the cache cannot be written.
    """
    with suppress(Exception):
        return read(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            with suppress(Exception):
                return read(path)  # another process has built it meanwhile
            if path.exists():
                print(f"{path} is damaged and built again.", flush=True)
            building = path.with_name(f".{path.name}.building")
            _remove(building)  # left by a process that was killed
            try:
                build(building)
                _remove(path)
                building.rename(path)
            finally:
                _remove(building)
            return read(path)
    except OSError as error:
        if error.filename and not Path(error.filename).is_relative_to(cache_dir()):
            raise ConfigError(f"A file of the dataset cannot be read: {error}.") from error
        raise ConfigError(
            f"The cache of decoded images, {cache_dir()}, cannot be written ({error}): set the environment variable "
            "FEDBABU_CACHE to a folder that can be written, with room for the dataset."
        ) from error


def _remove(path: Path) -> None:
    """Remove a file or a folder, if it exists."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
