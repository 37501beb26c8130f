"""Small local datasets of random images, among them copies of the known datasets."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
from datasets import ClassLabel, Dataset, Features, Image, Value

from fedbabu.data.known import KNOWN_DATASETS

RNG = np.random.default_rng(0)

# Of each known dataset: image shape, image column, label column, class names, and the other columns, each with its type
# and a function of an image's label and row.
KNOWN = {
    "cifar10": ((32, 32, 3), "img", "label", KNOWN_DATASETS["cifar10"].class_names, {}),
    "cifar100": (
        (32, 32, 3), "img", "fine_label", KNOWN_DATASETS["cifar100"].class_names,
        {"coarse_label": (ClassLabel(names=[f"super{i}" for i in range(20)]), lambda label, row: label % 20)},
    ),
    "emnist": (
        (28, 28), "image", "character", KNOWN_DATASETS["emnist"].class_names,
        {"writer_id": (Value("string"), lambda label, row: f"f{row % 5:04}_14")},
    ),
    "fashion-mnist": ((28, 28), "image", "label", KNOWN_DATASETS["fashion-mnist"].class_names, {}),
}  # fmt: skip


def write_known(folder: Path, name: str, num: int = 200) -> Path:
    """Write a dataset with the columns and classes of a known one, and `num` images a split (emnist: train only).

    It is not taken for the original, which has more images; see `recognized_with`.
    """
    shape, image, label, names, others = KNOWN[name]
    folder.mkdir(parents=True, exist_ok=True)
    types = {column: column_type for column, (column_type, _) in others.items()}
    features = Features({image: Image(), label: ClassLabel(names=list(names))} | types)
    for split in ("train",) if name == "emnist" else ("train", "test"):
        labels = [row % len(names) for row in range(num)]
        columns = {image: list(RNG.integers(0, 256, (num, *shape), dtype=np.uint8)), label: labels}
        for column, (_, value) in others.items():
            columns[column] = [value(label_of_row, row) for row, label_of_row in enumerate(labels)]
        Dataset.from_dict(columns, features=features).to_parquet(folder / f"{split}.parquet")
    return folder


def recognized_with(monkeypatch, name: str, num: int = 200) -> None:
    """Let a known dataset have `num` images a split, so that what `write_known` writes is taken for it."""
    sizes = (num - num // 10, num // 10) if KNOWN_DATASETS[name].test_fraction else (num, num)
    monkeypatch.setitem(KNOWN_DATASETS, name, replace(KNOWN_DATASETS[name], num_examples=sizes))


def write_images(folder: Path, numbers: dict[str, int], size=(16, 16), modes=("RGB",)) -> dict[str, list[bytes]]:
    """Write so many random images into each of the given folders below `folder`, as PNG files of these modes in turn.

    Returns:
        The pixels of the images of each folder, as they are read: in colour, or in grayscale if the first mode is.
    """
    written = {}
    for place, number in numbers.items():
        (folder / place).mkdir(parents=True, exist_ok=True)
        written[place] = []
        for index in range(number):
            mode = modes[index % len(modes)]
            image = PIL.Image.fromarray(RNG.integers(0, 256, (*size, 3), dtype=np.uint8)).convert(mode)
            image.save(folder / place / f"{index}.png")
            written[place].append(image.convert("L" if modes[0] in ("L", "LA", "1") else "RGB").tobytes())
    return written


def write_folder(folder, splits=("train", "test"), classes=4, size=(20, 16), num=40, channels=3, labels=None, **more):
    """Write a dataset of `num` random images a split, with the columns `picture` and `kind` and more of integers.

    The classes have names and alternate, unless `labels` gives them as plain integers.

    Returns:
        The pixels, uint8 [num, height, width, channels], and the labels, [num], of each split.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kind = Value("int64") if labels else ClassLabel(names=[f"c{i}" for i in range(classes)])
    features = Features({"picture": Image(), "kind": kind} | {column: Value("int64") for column in more})
    written = {}
    for split in splits:
        pixels = RNG.integers(0, 256, (num, *size, channels), dtype=np.uint8)
        images = [p if channels == 3 else p[..., 0] for p in pixels]
        kinds = labels or [i % classes for i in range(num)]
        data = Dataset.from_dict({"picture": images, "kind": kinds} | more, features=features)
        data.to_parquet(folder / f"{split}.parquet")
        written[split] = pixels, np.array(kinds)
    return written
