"""Small local datasets of random images, copies of the known ones among them."""

from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, Value

RNG = np.random.default_rng(0)
EMNIST = [*map(str, range(10)), *map(chr, range(ord("A"), ord("Z") + 1)), *map(chr, range(ord("a"), ord("z") + 1))]

# Of each known dataset: image shape, class names between the first and the last one, and the other columns' values.
KNOWN = {
    "cifar10": ((32, 32, 3), "img", "label", ["airplane", *map(str, range(8)), "truck"], {}),
    "cifar100": (
        (32, 32, 3), "img", "fine_label", ["apple", *map(str, range(98)), "worm"],
        {"coarse_label": (ClassLabel(names=[f"super{i}" for i in range(20)]), lambda label, row: label % 20)},
    ),
    "emnist": (
        (28, 28), "image", "character", EMNIST,
        {"writer_id": (Value("string"), lambda label, row: f"f{row % 5:04}_14")},
    ),
    "fashion-mnist": ((28, 28), "image", "label", ["T - shirt / top", *map(str, range(8)), "Ankle boot"], {}),
}  # fmt: skip


def write_known(folder: Path, name: str, num: int = 200) -> Path:
    """A copy of a known dataset by its columns and classes, `num` images a split; emnist has no test split."""
    shape, image, label, names, others = KNOWN[name]
    folder.mkdir(parents=True, exist_ok=True)
    features = Features({image: Image(), label: ClassLabel(names=names)} | {c: kind for c, (kind, _) in others.items()})
    for split in ("train",) if name == "emnist" else ("train", "test"):
        labels = [row % len(names) for row in range(num)]
        columns = {image: list(RNG.integers(0, 256, (num, *shape), dtype=np.uint8)), label: labels}
        columns |= {c: [value(*pair[::-1]) for pair in enumerate(labels)] for c, (_, value) in others.items()}
        Dataset.from_dict(columns, features=features).to_parquet(folder / f"{split}.parquet")
    return folder
