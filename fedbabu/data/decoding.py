"""From a dataset as it comes to arrays: pixels, labels, whose an image is, and how to normalize."""

import io
import os
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from fedbabu.data.known import KnownDataset
from fedbabu.data.source import Source
from fedbabu.data.transforms import BatchTransform
from fedbabu.errors import ConfigError

DECODE_BATCH = 1000  # images that a thread decodes at a time
SMALL = 64 * 64  # pixels
MODES = {"1": "L", "L": "L", "LA": "L"} | dict.fromkeys(("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr"), "RGB")

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


def decode_images(folder: Path, source: Source) -> None:
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
        if hasattr(os, "posix_fallocate"):  # a full disk is an OSError here, and a crash when a page is written
            with path.open("rb+") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)

        def decode(start: int, split: str = split, rows: datasets.Dataset = rows, images: Images = images) -> None:
            for row, cell in enumerate(rows[start : start + DECODE_BATCH][source.image_column], start):
                image = _decode(source, split, row, cell)
                if image.size != first.size:
                    raise ConfigError(
                        f"dataset = '{source.name}' has images of several sizes: {source.place(split, row)} has "
                        f"{image.width}×{image.height} pixels and the first training image "
                        f"{first.width}×{first.height}; resize them to one size."
                    )
                if MODES[image.mode] != mode:
                    raise ConfigError(
                        f"dataset = '{source.name}' has images in colour and in grayscale: "
                        f"{source.place(split, row)} is {image.mode} and the first training image {first.mode}; "
                        "convert them to one mode."
                    )
                images[row] = np.asarray(image.convert(mode)).reshape(shape)

        # Decoding lets other threads run, but for small images, taking turns takes longer than decoding.
        with ThreadPoolExecutor(os.cpu_count() if first.width * first.height > SMALL else 1) as pool:
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
            f"dataset = '{source.name}' has no image that can be decoded in {source.place(split, row)}{file}: {error}. "
            "Replace or remove it."
        ) from error


def read_labels(source: Source) -> tuple[dict[str, Labels], int]:
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
                f"dataset = '{source.name}' has the label {labels[outside[0]]} in "
                f"{source.place(split, outside[0])}: labels must be from 0 to {num_classes - 1}."
            )
    return {split: labels.astype(np.int64) for split, labels in columns.items()}, num_classes


def read_clients(source: Source) -> dict[str, Labels]:
    """Whose the images of both splits are, int64 [n] in the order of the owners' names; empty if not known."""
    if not source.client_column:
        return {}
    columns = source.values(source.client_column)
    values = list(columns.values())
    _, numbers = np.unique(np.concatenate(values), return_inverse=True)
    return dict(zip(columns, np.split(numbers.astype(np.int64), [len(values[0])]), strict=True))


def read_superclasses(source: Source, labels: Labels, num_classes: int) -> list[str] | None:
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


def image_transform(known: KnownDataset | None, train_images: npt.NDArray[np.uint8]) -> BatchTransform:
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
