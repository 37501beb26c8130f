"""A dataset as every process sees it: images decoded once per machine, into files that are mapped instead of loaded.

A cache entry is a folder with `train-images.npy` and `test-images.npy` (uint8 [n, H, W, C]), `train-labels.npy`
and `test-labels.npy` (int64 [n]), `train-clients.npy` and `test-clients.npy` (int64 [n]) if the dataset says whose an
image is, and `meta.json`, with the checksums of the others. Once it exists, neither the Hub nor an image decoder is
touched again.
"""

import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fedbabu.data.cache import cache_dir, cached, file_checksum
from fedbabu.data.decoding import (
    Images,
    Labels,
    decode_images,
    image_transform,
    read_clients,
    read_labels,
    read_superclasses,
)
from fedbabu.data.known import KNOWN_DATASETS
from fedbabu.data.source import SPLITS, DataSpec, Source, load_source
from fedbabu.data.transforms import BatchTransform

FORMAT = 2  # of a cache entry; raise it when its files or the partition change


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
        clients: per split, whose an image is, int64 [n]; empty if the dataset does not say.
        class_names: one per class, if the dataset has them.
        superclasses: the name of each class's superclass, if the dataset has them.
        checksum: of the images, labels and clients.
    """

    name: str
    folder: Path
    num_classes: int
    images: Mapping[str, Images]
    labels: Mapping[str, Labels]
    transform: BatchTransform
    clients: Mapping[str, Labels] = field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    superclasses: tuple[str, ...] | None = None
    checksum: str = ""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        height, width, channels = self.images["train"].shape[1:]
        return channels, height, width


@cache
def open_dataset(spec: DataSpec) -> ImageDataset:
    """Open a dataset, decoding it first if this machine never did.

    Raises:
        ConfigError: if it cannot be found, reached or decoded, lacks a split or column, or the cache cannot be
            written.
    """
    return cached(cache_dir() / _entry_name(spec), lambda entry: _build(entry, load_source(spec)), _read)


def _read(entry: Path) -> ImageDataset:
    """Open a cache entry; raises one of DAMAGED if it is not as it was written."""
    meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
    if meta.pop("checksum") != zlib.crc32(json.dumps(meta).encode()):
        raise ValueError(f"{entry / 'meta.json'} is damaged")
    for name, checksum in meta["checksums"].items():
        if file_checksum(entry / name) != checksum:
            raise ValueError(f"{entry / name} is damaged")

    def arrays(kind: str, mode: Literal["r"] | None = None) -> dict[str, Any]:
        paths = {split: entry / f"{split}-{kind}.npy" for split in SPLITS}
        return {split: np.load(path, mmap_mode=mode) for split, path in paths.items() if path.name in meta["checksums"]}

    class_names, superclasses = (tuple(meta[key]) if meta[key] else None for key in ("class_names", "superclasses"))
    return ImageDataset(
        meta["name"], entry, meta["num_classes"], arrays("images", "r"), arrays("labels"),
        BatchTransform(**meta["transform"]), arrays("clients"), class_names, superclasses,
        f"{zlib.crc32(json.dumps(meta['checksums']).encode()):08x}",
    )  # fmt: skip


def _entry_name(spec: DataSpec) -> str:
    """A name that changes with whatever the entry depends on: for a local folder, its files too."""
    identity: list[Any] = [FORMAT, *astuple(spec)]
    folder = Path(spec.dataset).expanduser()
    if spec.dataset not in KNOWN_DATASETS and folder.is_dir():
        files = sorted(path for path in folder.resolve().rglob("*") if path.is_file())
        identity += [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', folder.name)}-{digest}"


def _build(entry: Path, source: Source) -> None:
    """Decode a dataset into the folder of a new cache entry."""
    entry.mkdir()
    decode_images(entry, source)
    labels, num_classes = read_labels(source)
    for kind, splits in (("labels", labels), ("clients", read_clients(source))):
        for split, values in splits.items():
            np.save(entry / f"{split}-{kind}.npy", values)
    meta = {
        "name": source.name,
        "num_classes": num_classes,
        "class_names": source.class_names,
        "superclasses": read_superclasses(source, labels["train"], num_classes),
        "transform": asdict(image_transform(source.known, np.load(entry / "train-images.npy", mmap_mode="r"))),
        "checksums": {path.name: file_checksum(path) for path in sorted(entry.iterdir())},
    }
    meta["checksum"] = zlib.crc32(json.dumps(meta).encode())
    (entry / "meta.json").write_text(json.dumps(meta, indent=2), encoding="utf-8")
