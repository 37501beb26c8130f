"""The partition of a dataset: which of its rows each client trains and is tested on."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from fedbabu.data.cache import cached
from fedbabu.data.classes import listed_classes
from fedbabu.data.dataset import ImageDataset, open_dataset
from fedbabu.data.known import dataset_title
from fedbabu.data.partitions import PARTITIONS, PartitionSpec
from fedbabu.data.partitions.rounding import round_table
from fedbabu.data.source import SPLITS, DataSpec, IntArray
from fedbabu.errors import ConfigError
from fedbabu.formatting import counted
from fedbabu.seeding import Purpose, numpy_generator

MIN_TRAIN_IMAGES = 2  # of a client


@dataclass(frozen=True)
class Partition:
    """Which rows of a dataset each client holds, by split and client: `rows["test"][3]` is what client 3 is tested on.

    Row numbers, int64 [n], are in random order, since evaluation takes images in order, and BatchNorm needs batches of
    mixed classes.
    """

    rows: Mapping[str, Mapping[int, IntArray]]

    @property
    def clients(self) -> list[int]:
        """The ids of all clients, in order."""
        return sorted(self.rows["train"])

    def shuffled_rows(self, split: str, rng: np.random.Generator) -> IntArray:
        """The rows of all clients in a split, in random order."""
        return rng.permutation(np.concatenate(list(self.rows[split].values())))


def whole_dataset(dataset: ImageDataset, client: int, seed: int) -> Partition:
    """The partition that gives a whole dataset to one client, for a node with local data."""
    rng = numpy_generator(seed, Purpose.PARTITION, client)
    return Partition({split: {client: rng.permutation(len(dataset.labels[split]))} for split in SPLITS})


@cache
def open_simulated_data(data_spec: DataSpec, partition_spec: PartitionSpec) -> tuple[ImageDataset, Partition]:
    """Open a dataset that every node can read, and its partition among all clients, once per process."""
    dataset = open_dataset(data_spec)
    return dataset, open_partition(dataset, partition_spec)


def open_partition(dataset: ImageDataset, spec: PartitionSpec) -> Partition:
    """The partition that a specification describes, from the cache if this machine has made it before."""
    # Beside the dataset's folder, not in it, since another process may be rebuilding that.
    path = dataset.folder.with_name(f"{dataset.folder.name}-{partition_name(spec)}.npz")
    return cached(path, lambda path: _write(path, make_partition(dataset, spec)), _read)


def _write(path: Path, partition: Partition) -> None:
    """Write a partition: for each split, the row numbers of all clients in one array, and where each client's end."""
    arrays = {}
    for split, rows in partition.rows.items():
        arrays[split] = np.concatenate(list(rows.values()))
        arrays[f"{split}_ends"] = np.cumsum([len(rows_of_client) for rows_of_client in rows.values()])
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _read(path: Path) -> Partition:
    """Read a partition; raises an exception if the file is missing or damaged."""
    with np.load(path) as file:
        if file.zip.testzip():
            raise ValueError(f"{path} is damaged")
        rows = {split: np.split(file[split], file[f"{split}_ends"][:-1]) for split in SPLITS}
    return Partition({split: dict(enumerate(rows_of_clients)) for split, rows_of_clients in rows.items()})


def partition_name(spec: PartitionSpec) -> str:
    """A name for files that says all that a partition depends on, for example "shards-2-of-100-seed-42"."""
    options = (getattr(spec, option) for option in PARTITIONS[spec.scheme].options)
    parts = [spec.scheme, *options, "of", spec.num_clients, "seed", spec.seed]
    name = "-".join(map(str, parts)) + ("-iid-test" if spec.iid_test_set else "")
    return re.sub(r"[^\w.-]+", "-", name)  # the name of a column may have characters that no file name can have


def partition_title(dataset: ImageDataset, spec: PartitionSpec) -> str:
    """A partition in a few words, for example "digits: 20 clients (s = 2)"."""
    clients, scheme = counted(spec.num_clients, "client"), PARTITIONS[spec.scheme].title(spec)
    return f"{dataset_title(dataset.name)}: {clients} ({scheme})"


def make_partition(dataset: ImageDataset, spec: PartitionSpec) -> Partition:
    """Divide a dataset among the clients.

    The scheme divides the training images. The test images of a class go to the clients that train on the class, in
    proportion to their training images of it, and the numbers of a client and of a class are rounded to neighbouring
    integers; so a client is tested on every class of which its share is at least one image. There are two exceptions:
    if clients are the owners that the dataset names, each is tested on its own test images, and with `iid_test_set`,
    the test images of every class are spread evenly over all clients (Appendix J).

    Raises:
        ConfigError: If the dataset cannot be divided as specified, or a client gets too few images.
    """
    scheme, num_images = PARTITIONS[spec.scheme], len(dataset.labels["train"])
    if not scheme.by_owner and MIN_TRAIN_IMAGES * spec.num_clients > num_images:
        raise ConfigError(
            f"num-clients = {spec.num_clients} is too many for the {num_images} training images of '{dataset.name}', "
            f"since each client needs {MIN_TRAIN_IMAGES}: it must be at most {num_images // MIN_TRAIN_IMAGES}."
        )
    if untrained := not scheme.by_owner and not spec.iid_test_set and untrained_test_images(dataset):
        raise ConfigError(f"dataset = '{dataset.name}' has {untrained}: remove them, or add training images.")
    train = scheme.divide(spec, dataset)
    if spec.iid_test_set:
        test = _spread_evenly(dataset.labels["test"], spec)
    elif scheme.by_owner:
        test = _test_rows_of_owners(dataset, train, spec)
    else:
        test = _share_in_proportion(dataset.labels["test"], _class_counts(dataset, "train", train), spec)
    for client, (train_rows, test_rows) in enumerate(zip(train, test, strict=True)):
        if too_small := too_small_client(client, len(train_rows), len(test_rows)):
            raise ConfigError(f"partition = '{scheme.name}': {too_small}: {scheme.remedy}.")
    return Partition({"train": dict(enumerate(train)), "test": dict(enumerate(test))})


def untrained_test_images(dataset: ImageDataset) -> str:
    """Say how many test images are of classes without training images, and name the classes; empty for none."""
    counts = {split: np.bincount(labels, minlength=dataset.num_classes) for split, labels in dataset.labels.items()}
    untrained = np.flatnonzero((counts["test"] > 0) & (counts["train"] == 0))
    if not len(untrained):
        return ""
    names = listed_classes([dataset.class_names[label] for label in untrained])
    return f"{counted(counts['test'][untrained].sum(), 'test image')} of classes without training images ({names})"


def all_class_counts(dataset: ImageDataset, partition: Partition) -> dict[str, IntArray]:
    """Number of images of each class that each client holds, int64 [clients, classes], for each split."""
    return {split: _class_counts(dataset, split, rows.values()) for split, rows in partition.rows.items()}


def _class_counts(dataset: ImageDataset, split: str, rows_of_clients: Iterable[IntArray]) -> IntArray:
    labels = dataset.labels[split]
    return np.stack([np.bincount(labels[rows], minlength=dataset.num_classes) for rows in rows_of_clients])


def too_small_client(client: int, num_train: int, num_test: int) -> str:
    """Say what is wrong with a client that has too few images to train or to be tested on; empty if it has enough."""
    if num_train >= MIN_TRAIN_IMAGES and num_test:
        return ""
    return (
        f"client {client} has {num_train} training and {num_test} test images, but needs at least {MIN_TRAIN_IMAGES} "
        "training images, since BatchNorm compares the images of a batch, and 1 test image"
    )


def _spread_evenly(labels: IntArray, spec: PartitionSpec) -> list[IntArray]:
    """Deal test rows to the clients in turn, class after class, so that every class is spread as evenly as possible."""
    rng = numpy_generator(spec.seed, Purpose.PARTITION)
    rows = rng.permutation(len(labels))
    rows = rows[np.argsort(labels[rows], kind="stable")]
    return [rng.permutation(rows[client :: spec.num_clients]) for client in range(spec.num_clients)]


def _test_rows_of_owners(dataset: ImageDataset, train: list[IntArray], spec: PartitionSpec) -> list[IntArray]:
    """For each client, the test rows of the owner of its training rows."""
    rng = numpy_generator(spec.seed, Purpose.PARTITION)
    train_owners, test_owners = dataset.owners["train"], dataset.owners["test"]
    return [rng.permutation(np.flatnonzero(test_owners == train_owners[rows[0]])) for rows in train]


def _share_in_proportion(labels: IntArray, train_counts: IntArray, spec: PartitionSpec) -> list[IntArray]:
    """Share the test rows of each class among the clients, in proportion to train_counts, int64 [clients, classes]."""
    rng = numpy_generator(spec.seed, Purpose.PARTITION)
    num_test = np.bincount(labels, minlength=train_counts.shape[1])
    shares = train_counts * (num_test / np.maximum(train_counts.sum(axis=0), 1))
    counts = round_table(shares, numpy_generator(spec.seed, Purpose.ROUNDING))
    shared = [rng.permutation(np.flatnonzero(labels == label))[:n] for label, n in enumerate(counts.sum(axis=0))]
    rows = np.concatenate(shared)
    clients = np.concatenate([np.repeat(np.arange(len(counts)), n) for n in counts.T])
    return [rng.permutation(rows[clients == client]) for client in range(len(counts))]
