"""Decoding a dataset into arrays: pixels, owners and superclasses, and the transform that fits the pixels."""

import io
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from fedbabu.data.known import KnownDataset
from fedbabu.data.source import ImageArray, IntArray, Source
from fedbabu.data.transforms import BatchTransform
from fedbabu.errors import ConfigError
from fedbabu.heartbeat import Heartbeat

BATCH_SIZE = 1000  # images that are read at a time
SMALL_IMAGE = 64 * 64  # pixels
# The mode to which an image of each supported mode is converted: grayscale or colour.
TARGET_MODES = {"1": "L", "L": "L", "LA": "L"} | dict.fromkeys(("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr"), "RGB")


def decode_images(folder: Path, source: Source) -> None:
    """Write the images of both splits to `train-images.npy` and `test-images.npy`, uint8 [n, H, W, C].

    Grayscale images have one channel, and colour images have three. ConfigError is raised if an image cannot be
    decoded, or if the images differ in size or in being grayscale or colour.
    """
    import datasets

    column = source.spec.image_column
    encoded = {
        split: rows.select_columns(column).cast_column(column, datasets.Image(decode=False))
        for split, rows in source.splits.items()
    }
    first = _decode(source, "train", 0, encoded["train"][0][column])
    shape = (first.height, first.width, 1 if TARGET_MODES[first.mode] == "L" else 3)
    heartbeat, num_done, num_images = Heartbeat(), 0, sum(len(rows) for rows in encoded.values())
    for split, rows in encoded.items():
        with (folder / f"{split}-images.npy").open("wb") as file, ThreadPoolExecutor() as pool:
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(rows), *shape)}
            np.lib.format.write_array_header_1_0(file, header)
            # Decoding lets other threads run, but for small images the switching takes longer than the decoding.
            map_images = pool.map if first.width * first.height > SMALL_IMAGE else map
            for start in range(0, len(rows), BATCH_SIZE):
                cells = rows[start : start + BATCH_SIZE][column]
                for pixels in map_images(partial(_pixels, source, first, split), range(start, len(rows)), cells):
                    file.write(pixels)
                num_done += len(cells)
                heartbeat.beat(f"Decoding '{source.name}': {num_done} of {num_images} images")


def _pixels(source: Source, first: Image.Image, split: str, row: int, cell: Mapping[str, Any] | None) -> bytes:
    """Decode one cell into its pixels; its image must have the size and colours of the first one."""
    image, mode = _decode(source, split, row, cell), TARGET_MODES[first.mode]
    if (image.size, TARGET_MODES[image.mode]) != (first.size, mode):
        raise ConfigError(
            f"dataset = '{source.name}' must have images of one size that are all in colour or all in grayscale: "
            f"{source.location(split, row)} has {image.width}×{image.height} pixels in mode {image.mode}, and the "
            f"first training image {first.width}×{first.height} pixels in mode {first.mode}. Convert them."
        )
    return image.convert(mode).tobytes()


def open_image(file: Path | io.BytesIO) -> Image.Image:
    """An image file, decoded and upright, in one of TARGET_MODES.

    Raises:
        ValueError: Whatever is wrong with it, as the end of a sentence.
    """
    try:
        opened = Image.open(file)
        opened.load()
        image = ImageOps.exif_transpose(opened) if "exif" in opened.info else opened
    except Exception as error:  # its kind depends on the image format and on the damage
        raise ValueError("it is no image file" if isinstance(error, UnidentifiedImageError) else str(error)) from error
    if image.mode not in TARGET_MODES:
        raise ValueError(f"its mode is {image.mode}, and only {', '.join(TARGET_MODES)}, of 8 bits, can be used")
    return image


def _decode(source: Source, split: str, row: int, cell: Mapping[str, Any] | None) -> Image.Image:
    """Decode one cell of an image column; several times as fast as the column's own decoder."""
    try:
        if cell is None or not (cell["bytes"] or cell["path"]):
            raise ValueError("there is none")
        return open_image(io.BytesIO(cell["bytes"]) if cell["bytes"] else Path(cell["path"]))
    except ValueError as error:
        file = f" ({cell['path']})" if cell and cell["path"] else ""
        raise ConfigError(
            f"dataset = '{source.name}' has no image that can be decoded in {source.location(split, row)}{file}: "
            f"{error}. Convert, replace or remove it."
        ) from error


def read_owners(source: Source) -> dict[str, IntArray]:
    """The owner of each image of both splits, int64 [n], numbered in the order of their names; empty if unknown."""
    if not source.spec.client_column:
        return {}
    columns = source.values(source.spec.client_column)
    _, numbers = np.unique(np.concatenate(list(columns.values())), return_inverse=True)
    train, test = np.split(numbers, [len(columns["train"])])
    return {"train": train, "test": test}


def read_superclasses(source: Source, train_labels: IntArray, num_classes: int) -> list[str] | None:
    """The name of each class's superclass, empty for a class without images; None if the dataset does not name any."""
    column = source.known.superclass_column
    superclasses = getattr(source.splits["train"].features.get(column), "names", None)
    if superclasses is None:
        return None
    names = [""] * num_classes
    classes, first_rows = np.unique(train_labels, return_index=True)
    for label, superclass in zip(classes, source.values(column)["train"][first_rows], strict=True):
        names[label] = superclasses[superclass]
    return names


def image_transform(known: KnownDataset, train_images: ImageArray) -> BatchTransform:
    """The transform of a known dataset; otherwise the paper's augmentation, and the training images' mean and std.

    The paper crops CIFAR's 32×32 images with a padding of 4 pixels; the padding of others is in the same proportion.
    """
    padding = round(min(train_images.shape[1:3]) / 8) if known.crop_padding is None else known.crop_padding
    if known.mean and known.std:
        return BatchTransform(known.mean, known.std, padding, known.flip)
    sums = np.zeros((2, train_images.shape[-1]))
    for chunk in np.array_split(train_images, max(1, len(train_images) // 1024)):
        pixels = chunk.reshape(-1, chunk.shape[-1]) / 255
        sums += pixels.sum(axis=0), (pixels**2).sum(axis=0)
    mean, mean_square = sums / (train_images.size / train_images.shape[-1])
    std = np.sqrt(np.maximum(mean_square - mean**2, 1e-12))
    return BatchTransform(tuple(mean.tolist()), tuple(std.tolist()), padding, known.flip)
