"""The files of the app that are no Python: pyproject.toml, conf/ and what else Flower needs to run it.

In the repository, and where Flower unpacks the app, they are beside the package. A wheel has them in the package.
"""

import shutil
import tempfile
import zlib
from contextlib import suppress
from functools import cache
from pathlib import Path

from platformdirs import user_cache_path

PACKAGE = Path(__file__).parent
IN_WHEEL = PACKAGE / "_app"  # where pyproject.toml puts the files when a wheel is built


def app_file(name: str) -> Path:
    """The path of a file or folder of the app, for example "pyproject.toml" or "conf"."""
    return (IN_WHEEL if IN_WHEEL.is_dir() else PACKAGE.parent) / name


@cache
def app_folder() -> Path:
    """A folder that `flwr run` accepts: the repository, or a copy in the user's cache if a wheel was installed."""
    if not IN_WHEEL.is_dir():
        return PACKAGE.parent
    files = sorted(path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    checksum = zlib.crc32(b"".join(path.read_bytes() for path in files))
    folder = user_cache_path("fedbabu") / f"app-{checksum:08x}"  # so that a run of another version keeps its own
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        copy = Path(tempfile.mkdtemp(dir=folder.parent))
        shutil.copytree(IN_WHEEL, copy, dirs_exist_ok=True)
        shutil.copytree(PACKAGE, copy / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__", IN_WHEEL.name))
        with suppress(OSError):  # another process has made it meanwhile
            copy.rename(folder)
    return folder
