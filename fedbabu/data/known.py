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
        mean: per channel, of pixel values scaled to [0, 1]; None to compute it from the training images.
        std: likewise.
        classes: the number of classes, the first and the last one's name; a folder or Hub dataset with these
            and the same two columns is a copy of this dataset and treated like it. None if that is not enough
            to tell.
        crop_padding: zero pixels around an image before a random crop, in training.
        flip: whether training images are mirrored at random.
        client_column: that says whose an image is, if there is one.
        superclass_column: with a coarser label, if there is one; a class belongs to one superclass.
        test_fraction: of the training split to hold out if the dataset has no test split.
        num_examples: training and test images; this and the next only to tell beforehand how long a run takes.
        image_shape: channels, height and width.
    """

    source: str | Callable[[Path], None]
    image_column: str
    label_column: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: tuple[int, str, str] | None = None
    crop_padding: int = 4
    flip: bool = True
    client_column: str = ""
    superclass_column: str = ""
    test_fraction: float = 0.0
    num_examples: tuple[int, int] = (0, 0)
    image_shape: tuple[int, int, int] = (3, 32, 32)


# CIFAR's normalization and augmentation are those of the paper's official code.
KNOWN_DATASETS = {
    "cifar10": KnownDataset(
        "uoft-cs/cifar10", "img", "label", classes=(10, "airplane", "truck"),
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), num_examples=(50_000, 10_000),
    ),
    "cifar100": KnownDataset(
        "uoft-cs/cifar100", "img", "fine_label", classes=(100, "apple", "worm"),
        mean=(0.507, 0.487, 0.441), std=(0.267, 0.256, 0.276), superclass_column="coarse_label",
        num_examples=(50_000, 10_000),
    ),
    # By class (62), with its writers; the 814,255 images of the paper's Table 8, which trains on nine tenths of them.
    # Cropped as the paper says, but not mirrored: a mirrored b is a d.
    "emnist": KnownDataset(
        "flwrlabs/femnist", "image", "character", classes=(62, "0", "z"), flip=False,
        client_column="writer_id", test_fraction=0.1, num_examples=(731_668, 82_587),
        image_shape=(1, 28, 28),
    ),
    "fashion-mnist": KnownDataset(
        "zalando-datasets/fashion_mnist", "image", "label", classes=(10, "T - shirt / top", "Ankle boot"),
        num_examples=(60_000, 10_000), image_shape=(1, 28, 28),
    ),
    # Mirrored digits are no digits, and a crop would cut them: no augmentation.
    "digits": KnownDataset(
        write_digits, "image", "label", mean=(0.5,), std=(0.5,), crop_padding=0, flip=False,
        num_examples=(1_440, 357), image_shape=(1, 8, 8),
    ),
}  # fmt: skip
