"""scikit-learn's handwritten digits as a folder of parquet files, so that they load like any other dataset."""

from pathlib import Path

import numpy as np

TRAIN_PER_CLASS, TEST_PER_CLASS = 144, 30  # 174 images is what the rarest digit has
ENLARGEMENT = 2  # 8×8 pixels become 16×16, which is what four poolings need


def write_digits(folder: Path) -> None:
    """Write train.parquet and test.parquet with the columns `image` (16×16, grayscale) and `label`.

    Both splits are balanced, as CIFAR's are, so that shards hold one class each: of every digit the first
    144 images train and the next 30 test. The other 57 of the 1,797 images are left out.
    """
    from datasets import ClassLabel, Dataset, Features, Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    images = pixels.repeat(ENLARGEMENT, axis=1).repeat(ENLARGEMENT, axis=2)
    features = Features({"image": Image(mode="L"), "label": ClassLabel(names=[str(d) for d in range(10)])})
    rows_of_class = [np.flatnonzero(digits.target == digit) for digit in range(10)]
    for split, first, last in (
        ("train", 0, TRAIN_PER_CLASS),
        ("test", TRAIN_PER_CLASS, TRAIN_PER_CLASS + TEST_PER_CLASS),
    ):
        rows = np.sort(np.concatenate([rows[first:last] for rows in rows_of_class]))
        columns = {"image": list(images[rows]), "label": digits.target[rows]}
        Dataset.from_dict(columns, features=features).to_parquet(folder / f"{split}.parquet")
