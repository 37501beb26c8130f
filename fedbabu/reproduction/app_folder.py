"""The folder of the app that `flwr run` takes, also where a wheel was installed."""

import shutil
import zlib
from functools import cache
from pathlib import Path

from fedbabu.config.defaults import IN_WHEEL, PACKAGE
from fedbabu.data.cache import cache_dir, cached


@cache
def app_folder() -> Path:
    """The repository, or a copy of the app in the cache if a wheel was installed; a copy for each version of it."""
    if not IN_WHEEL.is_dir():
        return PACKAGE.parent
    files = sorted(path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    checksum = zlib.crc32(b"".join(path.read_bytes() for path in files))
    return cached(cache_dir() / f"app-{checksum:08x}", _copy_app, lambda folder: folder.resolve(strict=True))


def _copy_app(folder: Path) -> None:
    """Put the package, and beside it what a wheel has in it instead, into a new folder."""
    shutil.copytree(IN_WHEEL, folder)
    # Flower refuses to leave out what is not there: the wheel has no tests, docs and results.
    pyproject = folder / "pyproject.toml"
    lines = pyproject.read_text(encoding="utf-8").splitlines(keepends=True)
    pyproject.write_text("".join(line for line in lines if not line.startswith("fab-exclude")), encoding="utf-8")
    shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__", IN_WHEEL.name))
