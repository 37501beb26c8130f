"""Image files without labels, read for a model that classifies them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedbabu.data.decoding import open_image
from fedbabu.data.local_folder import IMAGE_SUFFIXES, list_files
from fedbabu.data.source import ImageArray
from fedbabu.errors import ConfigError


def find_images(path: Path) -> list[Path]:
    """The image file that a path names, or all image files in a folder and below it, sorted.

    Raises:
        ConfigError: If there is no such file or folder, or no image in it.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ConfigError(f"{path} does not exist: give an image file, or a folder of image files.")
    if not (images := [file for file in list_files(path) if file.suffix.lower() in IMAGE_SUFFIXES]):
        raise ConfigError(f"{path} has no image files, which end in {', '.join(sorted(IMAGE_SUFFIXES))}.")
    return images


def read_images(files: Sequence[Path], image_shape: tuple[int, int, int]) -> ImageArray:
    """The pixels of image files, uint8 [n, height, width, channels].

    Raises:
        ConfigError: If a file is no image, or an image has another size than the given channels, height and width say.
    """
    channels, height, width = image_shape
    pixels = np.empty((len(files), height, width, channels), np.uint8)
    for row, file in enumerate(files):
        try:
            image = open_image(file)
        except ValueError as error:
            raise ConfigError(f"{file} cannot be used: {error}.") from error
        if (image.width, image.height) != (width, height):
            raise ConfigError(
                f"{file} has {image.height}×{image.width} pixels: it must have {height}×{width}, as the model's images."
            )
        converted = np.asarray(image.convert("L" if channels == 1 else "RGB"))
        pixels[row] = converted.reshape(height, width, channels)
    return pixels
