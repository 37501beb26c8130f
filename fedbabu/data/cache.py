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
import tempfile
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock
from PIL import Image, ImageOps
from platformdirs import user_cache_dir

from fedbabu.data.digits import write_digits
from fedbabu.data.known import KNOWN_DATASETS, KnownDataset
from fedbabu.data.transforms import BatchTransform
from fedbabu.errors import ConfigError

if TYPE_CHECKING:
    import datasets

FORMAT = 1  # of a cache entry; raise it when the layout changes
SPLITS = ("train", "test")
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
        ConfigError: if it cannot be found or reached, lacks a split or column, or holds other data.
    """
    if dataset not in KNOWN_DATASETS and _looks_local(dataset) and not Path(dataset).expanduser().is_dir():
        raise ConfigError(
            f"dataset = '{dataset}' is a folder that does not exist (looked for "
            f"{Path(dataset).expanduser().absolute()}): give a folder of parquet files, "
            f"{', '.join(KNOWN_DATASETS)}, or a Hub id."
        )
    folder = cache_dir() / _entry_name(dataset, image_column, label_column)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".building-"))
            try:
                _build(building, dataset, image_column, label_column)
                building.rename(folder)
            finally:
                shutil.rmtree(building, ignore_errors=True)
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    return ImageDataset(
        name=meta["name"],
        folder=folder,
        num_classes=meta["num_classes"],
        images={split: np.load(folder / f"{split}-images.npy", mmap_mode="r") for split in SPLITS},
        labels={split: np.load(folder / f"{split}-labels.npy") for split in SPLITS},
        transform=BatchTransform(**meta["transform"]),
    )


def _looks_local(dataset: str) -> bool:
    return dataset.startswith((".", "/", "~")) or dataset.count("/") > 1 or "\\" in dataset


def _entry_name(dataset: str, image_column: str, label_column: str) -> str:
    """A name that changes with whatever the entry depends on: for a local folder, its files too."""
    identity: list[Any] = [FORMAT, dataset, image_column, label_column]
    folder = Path(dataset).expanduser()
    if dataset not in KNOWN_DATASETS and folder.is_dir():
        files = sorted(path for path in folder.resolve().rglob("*") if path.is_file())
        identity += [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', folder.name)}-{digest}"


def _build(entry: Path, dataset: str, image_column: str, label_column: str) -> None:
    """Decode the splits of a dataset into the folder of a new cache entry."""
    from datasets import disable_progress_bars

    disable_progress_bars()  # from a worker, they are noise in the run's log
    with tempfile.TemporaryDirectory() as scratch:
        source = str(Path(dataset).expanduser())
        if dataset == "digits":
            write_digits(Path(scratch))
            source = scratch
        elif dataset in KNOWN_DATASETS:
            source = KNOWN_DATASETS[dataset].hub_id
        splits = {split: _load_split(dataset, source, split) for split in SPLITS}
        features = splits["train"].features
        known = _recognize(dataset, features)
        name = dataset if known is None else known
        if known is not None:
            image_column = image_column or KNOWN_DATASETS[known].image_column
            label_column = label_column or KNOWN_DATASETS[known].label_column
        for split, rows in splits.items():
            _check_columns(dataset, split, rows, image_column, label_column)
            _decode_images(entry / f"{split}-images.npy", dataset, split, rows.select_columns(image_column))
        num_classes = _write_labels(entry, dataset, splits, label_column)
    transform = _transform(KNOWN_DATASETS.get(name), np.load(entry / "train-images.npy", mmap_mode="r"))
    meta = {"name": name, "num_classes": num_classes, "transform": asdict(transform)}
    (entry / "meta.json").write_text(json.dumps(meta, indent=2), encoding="utf-8")


def _load_split(dataset: str, source: str, split: str) -> "datasets.Dataset":
    from datasets.exceptions import DatasetNotFoundError
    from flwr_datasets import FederatedDataset

    try:
        return FederatedDataset(dataset=source, partitioners={}, shuffle=False).load_split(split)
    except DatasetNotFoundError as error:
        raise ConfigError(
            f"dataset = '{dataset}' is neither a local folder nor a dataset on the Hub ('{source}' was not "
            f"found there): give {', '.join(KNOWN_DATASETS)}, a Hub id, or a folder of parquet files."
        ) from error
    except OSError as error:  # what datasets and huggingface_hub raise without a network
        raise ConfigError(
            f"The Hub cannot be reached to download '{source}': give a local copy, as in "
            "--run-config \"dataset='/path/to/a/folder/of/parquet/files'\", or run the quickstart, which needs "
            "no download, with --run-config conf/quickstart.toml."
        ) from error
    except ValueError as error:  # a split that is not there, or files that datasets cannot read
        raise ConfigError(f"dataset = '{dataset}' cannot be used: {error}") from error


def _recognize(dataset: str, features: "datasets.Features") -> str | None:
    """The known dataset that this is: by its name, or by the columns and class names of a copy."""
    if dataset in KNOWN_DATASETS:
        return dataset
    for name, known in KNOWN_DATASETS.items():
        classes = getattr(features.get(known.label_column), "names", None)
        if (
            known.image_column in features
            and classes
            and (len(classes), classes[0], classes[-1]) == (known.num_classes, known.first_class, known.last_class)
        ):
            return name
    return None


def _check_columns(dataset: str, split: str, rows: "datasets.Dataset", image: str, label: str) -> None:
    import datasets

    columns = ", ".join(rows.column_names)
    for key, column in (("image-column", image), ("label-column", label)):
        if column not in rows.column_names:
            given = f"no column '{column}'" if column else "no known columns"
            raise ConfigError(f"dataset = '{dataset}' has {given} in its {split} split: set {key} to one of {columns}.")
    if not isinstance(rows.features[image], datasets.Image):
        raise ConfigError(f"image-column = '{image}' holds no images in the {split} split of '{dataset}'.")
    feature = rows.features[label]
    if not isinstance(feature, datasets.ClassLabel) and "int" not in str(getattr(feature, "dtype", "")):
        raise ConfigError(f"label-column = '{label}' of '{dataset}' must hold class labels or integers.")
    if len(rows) == 0:
        raise ConfigError(f"dataset = '{dataset}' has no rows in its {split} split.")


def _decode_images(path: Path, dataset: str, split: str, rows: "datasets.Dataset") -> None:
    """Write the images of a split as uint8 [n, H, W, C], one channel if the first is grayscale, else three."""
    import datasets

    (column,) = rows.column_names
    rows = rows.cast_column(column, datasets.Image(decode=False))
    first = _open_image(rows[0][column])
    mode = "L" if first.mode in ("1", "L") else "RGB"
    shape = (first.height, first.width, 1 if mode == "L" else 3)
    images = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(len(rows), *shape))

    def decode(start: int) -> None:
        for row, encoded in enumerate(rows[start : start + DECODE_BATCH][column], start):
            image = _open_image(encoded)
            if image.size != first.size:
                raise ConfigError(
                    f"dataset = '{dataset}' has images of several sizes: row {row} of its {split} split has "
                    f"{image.width}×{image.height} pixels and row 0 {first.width}×{first.height}; "
                    "all must be equal."
                )
            images[row] = np.asarray(image.convert(mode)).reshape(shape)

    with ThreadPoolExecutor() as pool:  # decoding lets other threads run
        deque(pool.map(decode, range(0, len(rows), DECODE_BATCH)), maxlen=0)
    images.flush()


def _open_image(encoded: Mapping[str, Any]) -> Image.Image:
    """An image of a `datasets.Image` column, upright; the column's own decoder takes several times as long."""
    image = Image.open(io.BytesIO(encoded["bytes"]) if encoded["bytes"] else encoded["path"])
    return ImageOps.exif_transpose(image) if "exif" in image.info else image


def _write_labels(entry: Path, dataset: str, splits: Mapping[str, "datasets.Dataset"], column: str) -> int:
    """Write the labels of both splits as int64 [n] and return the number of classes."""
    labels = {split: np.asarray(rows.with_format("numpy")[column][:], np.int64) for split, rows in splits.items()}
    names = getattr(splits["train"].features[column], "names", None)
    num_classes = len(names) if names else int(labels["train"].max()) + 1
    for split, values in labels.items():
        outside = np.flatnonzero((values < 0) | (values >= num_classes))
        if len(outside):
            raise ConfigError(
                f"dataset = '{dataset}' has the label {values[outside[0]]} in row {outside[0]} of its {split} "
                f"split: labels must be from 0 to {num_classes - 1}."
            )
        np.save(entry / f"{split}-labels.npy", values)
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
