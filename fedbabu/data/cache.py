"""Images decoded once per machine, into files that every process maps instead of loading.

A cache entry is a folder with `train-images.npy` and `test-images.npy` (uint8 [n, H, W, C]), `train-labels.npy`
and `test-labels.npy` (int64 [n]) and `meta.json`. It is built under a lock in a temporary folder and renamed, so
that it exists whole or not at all. Once it exists, neither the Hub nor an image decoder is touched again.
"""

import hashlib
import io
import json
import os
import re
import shutil
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock
from PIL import Image, ImageOps
from platformdirs import user_cache_dir

from fedbabu.data.known import KNOWN_DATASETS, KnownDataset
from fedbabu.data.source import SPLITS, Source, load_source
from fedbabu.data.transforms import BatchTransform
from fedbabu.errors import ConfigError

FORMAT = 1  # of a cache entry; raise it when its files or the partition change
DECODE_BATCH = 1000  # images that a thread decodes at a time


@dataclass(frozen=True)
class ImageDataset:
    """A decoded dataset.

    Attributes:
        name: a key of KNOWN_DATASETS if it is one of them, else what the run config says.
        folder: of the cache entry.
        num_classes: of the label column.
        images: per split, uint8 [n, H, W, C], mapped from disk.
        labels: per split, int64 [n].
        transform: normalization, and augmentation for training.
    """

    name: str
    folder: Path
    num_classes: int
    images: Mapping[str, npt.NDArray[np.uint8]]
    labels: Mapping[str, npt.NDArray[np.int64]]
    transform: BatchTransform

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        height, width, channels = self.images["train"].shape[1:]
        return channels, height, width


def cache_dir() -> Path:
    """The folder of all cache entries: FEDBABU_CACHE, or else the user's cache folder."""
    return Path(os.environ.get("FEDBABU_CACHE") or user_cache_dir("fedbabu"))


@cache
def open_dataset(dataset: str, image_column: str = "", label_column: str = "") -> ImageDataset:
    """Open a dataset, decoding it first if this machine never did.

    Args:
        dataset: a key of KNOWN_DATASETS, a Hub id, or a local folder that `datasets.load_dataset` can read.
        image_column: its column of images; empty for a known dataset's own.
        label_column: its column of labels, ClassLabel or integers from 0; empty for a known dataset's own.

    Raises:
        ConfigError: if it cannot be found, reached or decoded, lacks a split or column, or the cache cannot be
            written.
    """
    folder = cache_dir() / _entry_name(dataset, image_column, label_column)
    build_once(folder, lambda building: _build(building, load_source(dataset, image_column, label_column)))
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    return ImageDataset(
        name=meta["name"],
        folder=folder,
        num_classes=meta["num_classes"],
        images={split: np.load(folder / f"{split}-images.npy", mmap_mode="r") for split in SPLITS},
        labels={split: np.load(folder / f"{split}-labels.npy") for split in SPLITS},
        transform=BatchTransform(**meta["transform"]),
    )


def _entry_name(dataset: str, image_column: str, label_column: str) -> str:
    """A name that changes with whatever the entry depends on: for a local folder, its files too."""
    identity: list[Any] = [FORMAT, dataset, image_column, label_column]
    folder = Path(dataset).expanduser()
    if dataset not in KNOWN_DATASETS and folder.is_dir():
        files = sorted(path for path in folder.resolve().rglob("*") if path.is_file())
        identity += [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', folder.name)}-{digest}"


def build_once(path: Path, build: Callable[[Path], None]) -> None:
    """Make a file or folder of the cache unless it exists: once per machine, whole or not at all.

    `build` writes it under another name; whoever asks meanwhile waits for it.

    Raises:
        ConfigError: if the cache cannot be written.
    """
    if path.exists():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.exists():
                building = path.with_name(f".{path.name}.building")
                shutil.rmtree(building, ignore_errors=True)  # left by a process that was killed
                try:
                    build(building)
                    building.rename(path)
                finally:
                    shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        raise ConfigError(
            f"The cache of decoded images, {cache_dir()}, cannot be written ({error}): set the environment "
            "variable FEDBABU_CACHE to a folder that can, with room for the dataset."
        ) from error


def _build(entry: Path, source: Source) -> None:
    """Decode a dataset into the folder of a new cache entry."""
    entry.mkdir()
    _decode_images(entry, source)
    num_classes = _write_labels(entry, source)
    transform = _transform(source.known, np.load(entry / "train-images.npy", mmap_mode="r"))
    meta = {"name": source.name, "num_classes": num_classes, "transform": asdict(transform)}
    (entry / "meta.json").write_text(json.dumps(meta, indent=2), encoding="utf-8")


def _decode_images(folder: Path, source: Source) -> None:
    """Write all images as uint8 [n, H, W, C]: one channel if the first training image is grayscale, else three."""
    import datasets

    encoded = {
        split: rows.select_columns(source.image_column).cast_column(source.image_column, datasets.Image(decode=False))
        for split, rows in source.splits.items()
    }
    first = _decode(source, "train", 0, encoded["train"][0][source.image_column])
    mode = "L" if first.mode in ("1", "L") else "RGB"
    shape = (first.height, first.width, 1 if mode == "L" else 3)

    for split, rows in encoded.items():
        path = folder / f"{split}-images.npy"
        images = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(len(rows), *shape))

        def decode(
            start: int, split: str = split, rows: datasets.Dataset = rows, images: npt.NDArray[np.uint8] = images
        ) -> None:
            for row, cell in enumerate(rows[start : start + DECODE_BATCH][source.image_column], start):
                image = _decode(source, split, row, cell)
                if image.size != first.size:
                    raise ConfigError(
                        f"dataset = '{source.name}' has images of several sizes: row {row} of its {split} split has "
                        f"{image.width}×{image.height} pixels and the first training image "
                        f"{first.width}×{first.height}; all must be equal."
                    )
                images[row] = np.asarray(image.convert(mode)).reshape(shape)

        with ThreadPoolExecutor() as pool:  # decoding lets other threads run
            deque(pool.map(decode, range(0, len(rows), DECODE_BATCH)), maxlen=0)
        images.flush()


def _decode(source: Source, split: str, row: int, cell: Mapping[str, Any] | None) -> Image.Image:
    """An image of a `datasets.Image` column, upright; the column's own decoder takes several times as long."""
    try:
        if cell is None:
            raise ValueError("there is none")
        image = Image.open(io.BytesIO(cell["bytes"]) if cell["bytes"] else cell["path"])
        image.load()
    except (OSError, ValueError, SyntaxError) as error:  # SyntaxError is what a broken PNG raises
        raise ConfigError(
            f"dataset = '{source.name}' has no image that can be decoded in row {row} of its {split} split: {error}."
        ) from error
    return ImageOps.exif_transpose(image) if "exif" in image.info else image


def _write_labels(folder: Path, source: Source) -> int:
    """Write the labels of both splits as int64 [n] and return the number of classes."""
    columns = {
        split: np.asarray(rows.with_format("numpy")[source.label_column][:]) for split, rows in source.splits.items()
    }
    for split, labels in columns.items():
        if labels.dtype.kind not in "iu":  # null becomes NaN
            raise ConfigError(f"dataset = '{source.name}' has rows without a label in its {split} split.")
    if source.class_names is not None:
        num_classes = len(source.class_names)
    else:
        num_classes = max(int(labels.max()) for labels in columns.values()) + 1
    for split, labels in columns.items():
        outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
        if len(outside):
            raise ConfigError(
                f"dataset = '{source.name}' has the label {labels[outside[0]]} in row {outside[0]} of its {split} "
                f"split: labels must be from 0 to {num_classes - 1}."
            )
        np.save(folder / f"{split}-labels.npy", labels.astype(np.int64))
    return num_classes


def _transform(known: KnownDataset | None, train_images: npt.NDArray[np.uint8]) -> BatchTransform:
    """A known dataset's transform; for another, the paper's augmentation and its own mean and deviation."""
    if known is not None:
        return BatchTransform(known.mean, known.std, known.crop_padding, known.flip)
    sums = np.zeros((2, train_images.shape[-1]))
    for chunk in np.array_split(train_images, max(1, len(train_images) // 1024)):
        pixels = chunk.reshape(-1, chunk.shape[-1]) / 255
        sums += pixels.sum(axis=0), (pixels**2).sum(axis=0)
    mean, square = sums / (train_images.size / train_images.shape[-1])
    deviation = np.sqrt(np.maximum(square - mean**2, 1e-12))
    return BatchTransform(tuple(mean.tolist()), tuple(deviation.tolist()))
