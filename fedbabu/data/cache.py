"""Images decoded once per machine, into files that every process maps instead of loading.

A cache entry is a folder with `train-images.npy` and `test-images.npy` (uint8 [n, H, W, C]), `train-labels.npy`
and `test-labels.npy` (int64 [n]), `train-clients.npy` and `test-clients.npy` (int64 [n]) if the dataset says whose an
image is, and `meta.json`, with the checksums of the others. It is built under a lock in a temporary folder and renamed,
so that it exists whole or not at all, and built again if it is found damaged. Once it exists, neither the Hub nor an
image decoder is touched again.
"""

import hashlib
import io
import json
import os
import re
import shutil
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
from filelock import FileLock
from PIL import Image, ImageOps
from platformdirs import user_cache_dir

from fedbabu.data.known import KNOWN_DATASETS, KnownDataset
from fedbabu.data.source import SPLITS, DataSpec, Source, load_source
from fedbabu.data.transforms import BatchTransform
from fedbabu.errors import ConfigError

FORMAT = 2  # of a cache entry; raise it when its files or the partition change
DECODE_BATCH = 1000  # images that a thread decodes at a time
MODES = {"1": "L", "L": "L", "LA": "L"} | dict.fromkeys(("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr"), "RGB")
DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile)  # what reading a damaged file can raise

T = TypeVar("T")
Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


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

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        height, width, channels = self.images["train"].shape[1:]
        return channels, height, width


def cache_dir() -> Path:
    """The folder of all cache entries: FEDBABU_CACHE, or else the user's cache folder."""
    return Path(os.environ.get("FEDBABU_CACHE") or user_cache_dir("fedbabu"))


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
        if _checksum(entry / name) != checksum:
            raise ValueError(f"{entry / name} is damaged")

    def arrays(kind: str, mode: Literal["r"] | None = None) -> dict[str, Any]:
        paths = {split: entry / f"{split}-{kind}.npy" for split in SPLITS}
        return {split: np.load(path, mmap_mode=mode) for split, path in paths.items() if path.name in meta["checksums"]}

    class_names, superclasses = (tuple(meta[key]) if meta[key] else None for key in ("class_names", "superclasses"))
    return ImageDataset(
        meta["name"], entry, meta["num_classes"], arrays("images", "r"), arrays("labels"),
        BatchTransform(**meta["transform"]), arrays("clients"), class_names, superclasses,
    )  # fmt: skip


def _checksum(path: Path) -> int:
    """The CRC-32 of a file; a gigabyte takes about a second."""
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _entry_name(spec: DataSpec) -> str:
    """A name that changes with whatever the entry depends on: for a local folder, its files too."""
    identity: list[Any] = [FORMAT, *astuple(spec)]
    folder = Path(spec.dataset).expanduser()
    if spec.dataset not in KNOWN_DATASETS and folder.is_dir():
        files = sorted(path for path in folder.resolve().rglob("*") if path.is_file())
        identity += [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', folder.name)}-{digest}"


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


def _build(entry: Path, source: Source) -> None:
    """Decode a dataset into the folder of a new cache entry."""
    entry.mkdir()
    _decode_images(entry, source)
    labels, num_classes = _labels(source)
    for kind, splits in (("labels", labels), ("clients", _clients(source))):
        for split, values in splits.items():
            np.save(entry / f"{split}-{kind}.npy", values)
    meta = {
        "name": source.name,
        "num_classes": num_classes,
        "class_names": source.class_names,
        "superclasses": _superclasses(source, labels["train"], num_classes),
        "transform": asdict(_transform(source.known, np.load(entry / "train-images.npy", mmap_mode="r"))),
        "checksums": {path.name: _checksum(path) for path in sorted(entry.iterdir())},
    }
    meta["checksum"] = zlib.crc32(json.dumps(meta).encode())
    (entry / "meta.json").write_text(json.dumps(meta, indent=2), encoding="utf-8")


def _decode_images(folder: Path, source: Source) -> None:
    """Write all images as uint8 [n, H, W, C]: one channel if they are grayscale, three if they are in colour."""
    import datasets

    encoded = {
        split: rows.select_columns(source.image_column).cast_column(source.image_column, datasets.Image(decode=False))
        for split, rows in source.splits.items()
    }
    first = _decode(source, "train", 0, encoded["train"][0][source.image_column])
    mode = MODES[first.mode]
    shape = (first.height, first.width, 1 if mode == "L" else 3)

    for split, rows in encoded.items():
        path = folder / f"{split}-images.npy"
        images = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(len(rows), *shape))

        def decode(start: int, split: str = split, rows: datasets.Dataset = rows, images: Images = images) -> None:
            for row, cell in enumerate(rows[start : start + DECODE_BATCH][source.image_column], start):
                image = _decode(source, split, row, cell)
                if image.size != first.size:
                    raise ConfigError(
                        f"dataset = '{source.name}' has images of several sizes: row {row} of its {split} split has "
                        f"{image.width}×{image.height} pixels and the first training image "
                        f"{first.width}×{first.height}; resize them to one size."
                    )
                if MODES[image.mode] != mode:
                    raise ConfigError(
                        f"dataset = '{source.name}' has images in colour and in grayscale: row {row} of its {split} "
                        f"split is {image.mode} and the first training image {first.mode}; convert them to one mode."
                    )
                images[row] = np.asarray(image.convert(mode)).reshape(shape)

        with ThreadPoolExecutor() as pool:  # decoding lets other threads run
            deque(pool.map(decode, range(0, len(rows), DECODE_BATCH)), maxlen=0)
        images.flush()


def _decode(source: Source, split: str, row: int, cell: Mapping[str, Any] | None) -> Image.Image:
    """An image of a `datasets.Image` column, upright; the column's own decoder takes several times as long."""
    try:
        if cell is None or not (cell["bytes"] or cell["path"]):
            raise ValueError("there is none")
        image = Image.open(io.BytesIO(cell["bytes"]) if cell["bytes"] else cell["path"])
        image.load()
        if image.mode not in MODES:
            raise ValueError(f"its mode is {image.mode}, and {', '.join(MODES)} are known")
        return ImageOps.exif_transpose(image) if "exif" in image.info else image
    except Exception as error:  # of many kinds, by the format and by what is broken
        file = f" ({cell['path']})" if cell and cell["path"] else ""
        raise ConfigError(
            f"dataset = '{source.name}' has no image that can be decoded in row {row} of its {split} split{file}: "
            f"{error}. Replace or remove it."
        ) from error


def _labels(source: Source) -> tuple[dict[str, Labels], int]:
    """The labels of both splits, int64 [n], and the number of classes."""
    columns = source.values(source.label_column)
    if source.class_names is not None:
        num_classes = len(source.class_names)
    else:
        num_classes = max(int(labels.max()) for labels in columns.values()) + 1
        num_rows = sum(map(len, columns.values()))
        if num_classes > num_rows:
            raise ConfigError(
                f"label-column = '{source.label_column}' of dataset = '{source.name}' goes up to {num_classes - 1} in "
                f"{num_rows} rows, which is no numbering of classes: labels must be 0, 1, 2, …"
            )
    for split, labels in columns.items():
        outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
        if len(outside):
            raise ConfigError(
                f"dataset = '{source.name}' has the label {labels[outside[0]]} in row {outside[0]} of its {split} "
                f"split: labels must be from 0 to {num_classes - 1}."
            )
    return {split: labels.astype(np.int64) for split, labels in columns.items()}, num_classes


def _clients(source: Source) -> dict[str, Labels]:
    """Whose the images of both splits are, int64 [n] in the order of the owners' names; empty if not known."""
    if not source.client_column:
        return {}
    columns = source.values(source.client_column)
    values = list(columns.values())
    _, numbers = np.unique(np.concatenate(values), return_inverse=True)
    return dict(zip(columns, np.split(numbers.astype(np.int64), [len(values[0])]), strict=True))


def _superclasses(source: Source, labels: Labels, num_classes: int) -> list[str] | None:
    """The name of each class's superclass, if the dataset has such a column; empty for a class without an image."""
    rows, column = source.splits["train"], source.known.superclass_column if source.known else ""
    superclasses = getattr(rows.features.get(column), "names", None)
    if superclasses is None:
        return None
    classes, first = np.unique(labels, return_index=True)
    names = [""] * num_classes
    for label, superclass in zip(classes, source.values(column)["train"][first], strict=True):
        names[label] = superclasses[superclass]
    return names


def _transform(known: KnownDataset | None, train_images: npt.NDArray[np.uint8]) -> BatchTransform:
    """A known dataset's transform; what is not known is the paper's augmentation and the images' mean and deviation."""
    known = known or KnownDataset("", "", "")
    if known.mean and known.std:
        return BatchTransform(known.mean, known.std, known.crop_padding, known.flip)
    sums = np.zeros((2, train_images.shape[-1]))
    for chunk in np.array_split(train_images, max(1, len(train_images) // 1024)):
        pixels = chunk.reshape(-1, chunk.shape[-1]) / 255
        sums += pixels.sum(axis=0), (pixels**2).sum(axis=0)
    mean, square = sums / (train_images.size / train_images.shape[-1])
    deviation = np.sqrt(np.maximum(square - mean**2, 1e-12))
    return BatchTransform(tuple(mean.tolist()), tuple(deviation.tolist()), known.crop_padding, known.flip)
