"""The datasets that `dataset` knows by name: where they are, their columns and the paper's transforms."""

from dataclasses import dataclass


@dataclass(frozen=True)
class KnownDataset:
    """A dataset by name. `mean` and `std` are per channel, of pixel values scaled to [0, 1].

    `first_class` and `last_class` recognize a local copy: a folder with the same two columns, number of
    classes, and first and last class name is this dataset and is treated like it.
    """

    hub_id: str
    image_column: str
    label_column: str
    num_classes: int
    first_class: str
    last_class: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int = 4
    flip: bool = True


# Normalization and augmentation are those of the paper's official code.
KNOWN_DATASETS = {
    "cifar10": KnownDataset(
        "uoft-cs/cifar10", "img", "label", 10, "airplane", "truck",
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
    ),
    "cifar100": KnownDataset(
        "uoft-cs/cifar100", "img", "fine_label", 100, "apple", "worm",
        mean=(0.507, 0.487, 0.441), std=(0.267, 0.256, 0.276),
    ),
    # Mirrored digits are no digits, and a crop would cut them: no augmentation.
    "digits": KnownDataset(
        "", "image", "label", 10, "0", "9", mean=(0.5,), std=(0.5,), crop_padding=0, flip=False,
    ),
}  # fmt: skip
