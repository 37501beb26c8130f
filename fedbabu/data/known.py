"""The datasets that the run-config key `dataset` knows by name: their origin, their columns and their transforms."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from datasets import DatasetDict


@dataclass(frozen=True)
class KnownDataset:
    """A dataset that is known by name.

    A copy with another name is recognized by its columns, class names, image shape and numbers of images.
    """

    title: str  # what figures call it
    source: "str | Callable[[], DatasetDict]"  # the id on the Hub, or a function that returns the splits
    image_column: str
    label_column: str
    mean: tuple[float, ...] | None = None  # as in BatchTransform; None to compute it from the training images
    std: tuple[float, ...] | None = None
    class_names: tuple[str, ...] | None = None  # in order; None if other datasets have the same
    crop_padding: int | None = None  # as in BatchTransform; None for an eighth of the shorter side, 4 of CIFAR's 32
    flip: bool = True
    client_column: str = ""  # the column that names the owner of each image; empty if there is none
    superclass_column: str = ""  # the column of a coarser label, one for each class; empty if there is none
    test_fraction: float = 0.0  # of the training split, held out as the test split if there is none
    num_examples: tuple[int, int] = (0, 0)  # of training and of test, after a test split was held out
    image_shape: tuple[int, int, int] = (3, 32, 32)  # channels, height and width


def make_digits() -> "DatasetDict":
    """Scikit-learn's handwritten digits, which need no download, enlarged from 8×8 to 16×16 pixels.

    16×16 is the least that a network with four poolings takes. Both splits are balanced, as CIFAR's are, so that every
    shard has images of one class: of each digit, the first 144 images are for training and the next 30 for testing.
    The other 57 of the 1,797 images are left out.
    """
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    images = pixels.repeat(2, axis=1).repeat(2, axis=2)
    rows_of_digits = [np.flatnonzero(digits.target == digit) for digit in range(10)]
    features = Features({"image": Image(mode="L"), "label": ClassLabel(num_classes=10)})
    splits = {}
    for split, part in (("train", slice(144)), ("test", slice(144, 174))):
        rows = np.sort(np.concatenate([rows_of_digit[part] for rows_of_digit in rows_of_digits]))
        columns = {"image": list(images[rows]), "label": digits.target[rows]}
        splits[split] = Dataset.from_dict(columns, features=features)
    return DatasetDict(splits)


_CLASSES = json.loads(Path(__file__).with_name("known_classes.json").read_text(encoding="utf-8"))

# CIFAR's normalization and augmentation are those of the paper's official code.
KNOWN_DATASETS = {
    "cifar10": KnownDataset(
        "CIFAR-10", "uoft-cs/cifar10", "img", "label", class_names=tuple(_CLASSES["cifar10"]),
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), num_examples=(50_000, 10_000),
    ),
    "cifar100": KnownDataset(
        "CIFAR-100", "uoft-cs/cifar100", "img", "fine_label", class_names=tuple(_CLASSES["cifar100"]),
        mean=(0.507, 0.487, 0.441), std=(0.267, 0.256, 0.276), superclass_column="coarse_label",
        num_examples=(50_000, 10_000),
    ),
    # EMNIST by class (62 classes), with its writers. The paper's Table 8 has 814,255 images, nine tenths of them for
    # training; the Hub's copy has 22 more. Cropped and mirrored as Appendix A.2 says, although a mirrored b is a d.
    "emnist": KnownDataset(
        "EMNIST", "flwrlabs/femnist", "image", "character", class_names=tuple(_CLASSES["emnist"]),
        client_column="writer_id", test_fraction=0.1, num_examples=(732_850, 81_427),
        image_shape=(1, 28, 28),
    ),
    "fashion-mnist": KnownDataset(
        "Fashion-MNIST", "zalando-datasets/fashion_mnist", "image", "label",
        class_names=tuple(_CLASSES["fashion-mnist"]), num_examples=(60_000, 10_000), image_shape=(1, 28, 28),
    ),
    # No augmentation: mirrored digits are no digits, and a crop would cut them.
    "digits": KnownDataset(
        "digits", make_digits, "image", "label", mean=(0.5,), std=(0.5,), crop_padding=0, flip=False,
        num_examples=(1_440, 300), image_shape=(1, 16, 16),
    ),
}  # fmt: skip


def dataset_title(name: str) -> str:
    """What figures and tables call a dataset: the title of a known one, or otherwise its name."""
    known = KNOWN_DATASETS.get(name)
    return known.title if known else name
