"""The datasets that `dataset` knows by name: where they come from, their columns and the paper's transforms."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedbabu.data.digits import write_digits


@dataclass(frozen=True)
class KnownDataset:
    """A dataset by name.

    Attributes:
        source: its Hub id, or a function that writes its parquet files into a folder.
        image_column: with the images.
        label_column: with the labels.
        mean: per channel, of pixel values scaled to [0, 1].
        std: likewise.
        classes: the number of classes, the first and the last one's name; a folder or Hub dataset with these
            and the same two columns is a copy of this dataset and treated like it. None if that is not enough
            to tell.
        crop_padding: zero pixels around an image before a random crop, in training.
        flip: whether training images are mirrored at random.
    """

    source: str | Callable[[Path], None]
    image_column: str
    label_column: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[int, str, str] | None = None
    crop_padding: int = 4
    flip: bool = True


# Normalization and augmentation are those of the paper's official code.
KNOWN_DATASETS = {
    "cifar10": KnownDataset(
        "uoft-cs/cifar10", "img", "label", classes=(10, "airplane", "truck"),
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
    ),
    "cifar100": KnownDataset(
        "uoft-cs/cifar100", "img", "fine_label", classes=(100, "apple", "worm"),
        mean=(0.507, 0.487, 0.441), std=(0.267, 0.256, 0.276),
    ),
    # Mirrored digits are no digits, and a crop would cut them: no augmentation.
    "digits": KnownDataset(write_digits, "image", "label", mean=(0.5,), std=(0.5,), crop_padding=0, flip=False),
}  # fmt: skip
