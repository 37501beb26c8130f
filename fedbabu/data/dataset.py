"""A decoded dataset: images are decoded once per machine, into files of the cache that every process maps.

A cache entry is a folder with, for the splits "train" and "test", `train-images.npy` (uint8 [n, H, W, C]),
`train-labels.npy` (int64 [n]) and, if the dataset names the images' owners, `train-clients.npy` (int64 [n]), and with
`meta.json`, which has the checksums of the others. Once it exists, neither the Hub nor an image decoder is needed.
"""

import hashlib
import json
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from fedbabu.data.cache import cache_dir, cached
from fedbabu.data.classes import ClassNames, read_classes
from fedbabu.data.decoding import decode_images, image_transform, read_owners, read_superclasses
from fedbabu.data.known import KNOWN_DATASETS
from fedbabu.data.local_folder import list_files
from fedbabu.data.source import SPLITS, DataSpec, ImageArray, IntArray, Source, load_source
from fedbabu.data.transforms import BatchTransform
from fedbabu.errors import ConfigError

FORMAT = 3  # of a cache entry; to be raised when its files or the partitions change


@dataclass(frozen=True)
class ImageDataset:
    """A decoded dataset; each mapping has the keys "train" and "test"."""

    name: str  # a key of KNOWN_DATASETS if the dataset is one of them, otherwise the run-config value
    folder: Path  # the cache entry
    images: Mapping[str, ImageArray]  # uint8 [n, H, W, C], mapped from disk
    labels: Mapping[str, IntArray]  # int64 [n]
    transform: BatchTransform
    owners: Mapping[str, IntArray] = field(default_factory=dict)  # int64 [n]; empty if the dataset does not name owners
    class_names: ClassNames = ()
    superclasses: tuple[str, ...] | None = None  # the name of each class's superclass, if the dataset has superclasses
    notes: tuple[str, ...] = ()  # sentences about how the dataset was read, without their full stops
    checksum: str = ""  # of images, labels and owners

    @property
    def num_classes(self) -> int:
        """Number of classes, with those that have no images."""
        return len(self.class_names)

    @property
    def augmentation(self) -> str:
        """What is done to training images, in words."""
        padding, flip = self.transform.crop_padding, self.transform.flip
        crops = f"random crops with a padding of {padding} pixels" if padding else "no crops"
        return f"{crops}, {'mirrored at random' if flip else 'not mirrored'} (crop-padding, horizontal-flip)"

    def with_class_names(self, class_names: ClassNames) -> "ImageDataset":
        """The same dataset, whose labels are numbered by these names, among which all of its own are."""
        if class_names == self.class_names:
            return self
        number_of = {name: number for number, name in enumerate(class_names)}
        numbers = np.array([number_of[name] for name in self.class_names])
        labels = {split: numbers[labels] for split, labels in self.labels.items()}
        return replace(self, labels=labels, class_names=class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        height, width, channels = self.images["train"].shape[1:]
        return channels, height, width


@cache
def open_dataset(spec: DataSpec) -> ImageDataset:
    """Open a dataset, which is decoded first if this machine has not decoded it before.

    Its transform has the augmentation of the specification, or else its own.

    Raises:
        ConfigError: If the dataset cannot be found, reached or decoded, or lacks a split or column, or if the cache
            cannot be written.
    """
    decoded = replace(spec, crop_padding=-1, flip=None)
    dataset = cached(cache_dir() / _entry_name(decoded), lambda entry: _build(entry, load_source(decoded)), _read)
    if spec.crop_padding >= min(dataset.image_shape[1:]):
        raise ConfigError(
            f"crop-padding = {spec.crop_padding} would crop images of '{dataset.name}' to nothing but padding: it must "
            f"be below {min(dataset.image_shape[1:])}, their shorter side in pixels."
        )
    padding = dataset.transform.crop_padding if spec.crop_padding < 0 else spec.crop_padding
    flip = dataset.transform.flip if spec.flip is None else spec.flip
    return replace(dataset, transform=replace(dataset.transform, crop_padding=padding, flip=flip))


def _entry_name(spec: DataSpec) -> str:
    """A name that changes with everything that the entry depends on, the files of a local folder too."""
    identity: list[Any] = [FORMAT, *astuple(spec)]
    folder = Path(spec.dataset).expanduser()
    if spec.dataset not in KNOWN_DATASETS and folder.is_dir():
        files = list_files(Path(os.path.abspath(folder)))
        identity += [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files if path.exists()]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', folder.name)}-{digest}"


def _build(entry: Path, source: Source) -> None:
    """Decode a dataset into the folder of a new cache entry."""
    entry.mkdir()
    decode_images(entry, source)
    labels, class_names, notes = read_classes(source)
    for kind, arrays in (("labels", labels), ("clients", read_owners(source))):
        for split, values in arrays.items():
            np.save(entry / f"{split}-{kind}.npy", values)
    meta: dict[str, Any] = {
        "name": source.name,
        "class_names": class_names,
        "notes": [*source.notes, *notes],
        "superclasses": read_superclasses(source, labels["train"], len(class_names)),
        "transform": asdict(image_transform(source.known, np.load(entry / "train-images.npy", mmap_mode="r"))),
        "checksums": {path.name: _file_checksum(path) for path in sorted(entry.iterdir())},
    }
    meta["checksum"] = _json_checksum(meta)
    (entry / "meta.json").write_text(json.dumps(meta, indent=2), encoding="utf-8")


def _read(entry: Path) -> ImageDataset:
    """Open a cache entry; raises an exception if a file of it is missing or damaged."""
    meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
    checksums = meta["checksums"]
    found = {name: _file_checksum(entry / name) for name in checksums}
    if found != checksums or meta.pop("checksum") != _json_checksum(meta):
        raise ValueError(f"{entry} is damaged")

    def load(kind: str) -> dict[str, Any]:
        return {split: np.load(entry / f"{split}-{kind}.npy", mmap_mode="r") for split in SPLITS}

    owners = load("clients") if "train-clients.npy" in checksums else {}
    superclasses = tuple(meta["superclasses"]) if meta["superclasses"] else None
    return ImageDataset(
        meta["name"], entry, load("images"), load("labels"), BatchTransform(**meta["transform"]),
        owners, tuple(meta["class_names"]), superclasses, tuple(meta["notes"]), f"{_json_checksum(checksums):08x}",
    )  # fmt: skip


def _json_checksum(value: object) -> int:
    """The CRC-32 of a value's JSON form."""
    return zlib.crc32(json.dumps(value).encode())


def _file_checksum(path: Path) -> int:
    """The CRC-32 of a file that is not empty; a gigabyte takes about a second."""
    return zlib.crc32(np.memmap(path, mode="r").data)
