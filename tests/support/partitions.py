"""Small datasets without pictures, and partitions of them."""

import numpy as np

from fedbabu.config import RunConfig, default_run_config
from fedbabu.data.dataset import ImageDataset
from fedbabu.data.partitions import PartitionSpec
from fedbabu.data.partitions.partition import Partition, all_class_counts
from fedbabu.data.source import SPLITS
from fedbabu.data.transforms import BatchTransform


def partition_spec(scheme: str = "shards", **options) -> PartitionSpec:
    """A specification with the default values of the run config for everything else."""
    keys = {key.replace("_", "-"): value for key, value in options.items()}
    return RunConfig.from_flower(default_run_config() | {"partition": scheme} | keys).partition_spec


def labelled_dataset(train_counts, test_counts, owners: int = 0, seed: int = 0) -> ImageDataset:
    """The dataset "made" with so many images of each class, in random order; with owners, each image has one."""
    rng = np.random.default_rng(seed)
    labels = {
        split: rng.permutation(np.repeat(np.arange(len(counts)), counts))
        for split, counts in zip(SPLITS, (train_counts, test_counts), strict=True)
    }
    owners_of = {split: rng.integers(0, owners, len(labels[split])) for split in SPLITS} if owners else {}
    images = {split: np.zeros((len(labels[split]), 1, 1, 1), np.uint8) for split in SPLITS}
    class_names = tuple(range(len(train_counts)))
    return ImageDataset("made", None, images, labels, BatchTransform((0.5,), (0.5,)), owners_of, class_names)


def train_and_test_counts(dataset: ImageDataset, partition: Partition) -> list[np.ndarray]:
    """Number of images of each client and class, int64 [clients, classes], for training and for testing."""
    return list(all_class_counts(dataset, partition).values())


def assert_same_partition(one: Partition, other: Partition) -> None:
    """Check that all clients have the same rows in the same order."""
    assert one.clients == other.clients
    for split in SPLITS:
        assert all(np.array_equal(one.rows[split][client], other.rows[split][client]) for client in one.clients)
