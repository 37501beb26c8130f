"""Small datasets for measurements that would take too long on a whole dataset."""

import io
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, disable_progress_bars
from PIL import Image as Pillow
from sklearn.datasets import load_digits

from fedbabu.data.source import DataSpec, load_source

IMAGES_PER_CLIENT = {"train": 20, "test": 4}

disable_progress_bars()


def tenth(dataset: str, folder: Path) -> Path:
    """Write a tenth of every class of a dataset, which takes as long as ten of its hundred clients."""
    folder.mkdir()
    source = load_source(DataSpec(dataset))
    for split, labels in source.values(source.spec.label_column).items():
        rows = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        chosen = np.sort(np.concatenate([each[: len(each) // 10] for each in rows]))
        source.splits[split].select(chosen).to_parquet(folder / f"{split}.parquet")
    return folder


def for_clients(num_clients: int, folder: Path) -> Path:
    """Write digits of 16×16 pixels, repeated until each client has IMAGES_PER_CLIENT of them."""
    folder.mkdir()
    digits = load_digits()
    encoded: list[list[dict[str, object]]] = [[] for _ in range(10)]
    for pixels, label in zip(digits.images, digits.target, strict=True):
        file = io.BytesIO()
        Pillow.fromarray((pixels * 15).astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)).save(file, "png")
        encoded[label].append({"bytes": file.getvalue(), "path": None})
    features = Features({"image": Image(), "label": ClassLabel(names=[str(digit) for digit in range(10)])})
    for split, per_client in IMAGES_PER_CLIENT.items():
        labels = [row % 10 for row in range(num_clients * per_client)]
        images = [encoded[label][row // 10 % len(encoded[label])] for row, label in enumerate(labels)]
        rows = Dataset.from_dict({"image": images, "label": labels}, features=features)
        rows.to_parquet(folder / f"{split}.parquet")
    return folder
