"""Which rows of a dataset each client holds: shards of one class each, and test images of the same classes."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedbabu.data.cache import ImageDataset, build_once
from fedbabu.data.source import SPLITS
from fedbabu.errors import ConfigError
from fedbabu.seeding import Purpose, numpy_generator

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Partition:
    """The rows, int64, of each client by its id, in every split: `rows["test"][3]` are those that test client 3."""

    rows: Mapping[str, Mapping[int, Rows]]

    @property
    def clients(self) -> list[int]:
        """The ids of the clients that hold this dataset, in order."""
        return sorted(self.rows["train"])


def whole_dataset(dataset: ImageDataset, client: int, seed: int) -> Partition:
    """The partition that leaves all of a dataset to one client, its owner, in random order.

    Evaluation takes rows in order, and BatchNorm wants its batches mixed; a folder may be sorted by class.
    """
    rng = numpy_generator(seed, Purpose.PARTITION, client)
    return Partition({split: {client: rng.permutation(len(dataset.labels[split]))} for split in SPLITS})


def open_partition(
    dataset: ImageDataset, num_clients: int, shards_per_client: int, seed: int, iid_test_set: bool = False
) -> Partition:
    """The partition of a dataset into shards (Section 3), from the cache if it was made before.

    The training split is sorted by label, cut into num_clients · shards_per_client equal shards, and each client
    gets shards_per_client of them at random (flwr-datasets' ShardPartitioner). The test images of a class go
    to the clients that train on it, in proportion to what they hold of it. With balanced labels this cuts the test
    split just as the training split is cut. With iid_test_set, they are spread evenly over all clients instead, class
    by class (Appendix J).

    Raises:
        ConfigError: if there are more shards than images, or more to a client than there are classes.
    """
    test = "-iid-test" if iid_test_set else ""
    path = dataset.folder / f"shards-{num_clients}-{shards_per_client}-{seed}{test}.npz"

    def build(building: Path) -> None:
        _check(dataset, num_clients, shards_per_client)
        train, test = _shards(dataset, num_clients, shards_per_client, seed, iid_test_set)
        with building.open("wb") as file:  # all clients' rows in one array, and where each client's end
            np.savez(
                file,
                train=np.concatenate(train),
                test=np.concatenate(test),
                train_ends=np.cumsum([len(rows) for rows in train]),
                test_ends=np.cumsum([len(rows) for rows in test]),
            )

    build_once(path, build)
    with np.load(path) as arrays:
        return Partition(
            {split: dict(enumerate(np.split(arrays[split], arrays[f"{split}_ends"][:-1]))) for split in SPLITS}
        )


def _check(dataset: ImageDataset, num_clients: int, shards_per_client: int) -> None:
    if shards_per_client > dataset.num_classes:
        raise ConfigError(
            f"shards-per-client = {shards_per_client} is more than the labels allow: '{dataset.name}' has "
            f"{dataset.num_classes} classes, so it must be from 1 to {dataset.num_classes}."
        )
    for split in SPLITS:
        examples = len(dataset.labels[split])
        if num_clients * shards_per_client > examples:
            raise ConfigError(
                f"num-clients = {num_clients} with shards-per-client = {shards_per_client} needs "
                f"{num_clients * shards_per_client} shards, but '{dataset.name}' has only {examples} {split} "
                f"images: num-clients must be from 1 to {examples // shards_per_client}."
            )


def _shards(
    dataset: ImageDataset, num_clients: int, shards_per_client: int, seed: int, iid_test_set: bool
) -> tuple[list[Rows], list[Rows]]:
    """Each client's training rows and each client's test rows."""
    from datasets import Dataset
    from flwr_datasets.partitioner import ShardPartitioner

    labels = dataset.labels["train"]
    partitioner = ShardPartitioner(
        num_partitions=num_clients,
        partition_by="label",
        num_shards_per_partition=shards_per_client,
        seed=seed,
    )
    partitioner.dataset = Dataset.from_dict({"label": labels, "row": np.arange(len(labels))})
    with warnings.catch_warnings():  # the sort by label says that pyarrow will deprecate an option of it
        warnings.simplefilter("ignore", FutureWarning)
        train = [np.asarray(partitioner.load_partition(client)["row"]) for client in range(num_clients)]
    counts = np.stack([np.bincount(labels[rows], minlength=dataset.num_classes) for rows in train])
    test = dataset.labels["test"]
    return train, _spread(test, num_clients, seed) if iid_test_set else _deal(test, counts, seed)


def _spread(labels: npt.NDArray[np.int64], num_clients: int, seed: int) -> list[Rows]:
    """Deal rows to the clients in turn, class after class, so that every class is spread as evenly as can be."""
    rng = numpy_generator(seed, Purpose.PARTITION)
    rows = rng.permutation(len(labels))
    rows = rows[np.argsort(labels[rows], kind="stable")]
    return [rng.permutation(rows[client::num_clients]) for client in range(num_clients)]


def _deal(labels: npt.NDArray[np.int64], train_counts: Rows, seed: int) -> list[Rows]:
    """Deal the rows of each class to the clients in proportion to train_counts, int64 [clients, classes]."""
    rng = numpy_generator(seed, Purpose.PARTITION)
    dealt: list[list[Rows]] = [[] for _ in train_counts]
    for label, counts in enumerate(train_counts.T):
        rows = rng.permutation(np.flatnonzero(labels == label))
        if counts.any():
            ends = np.round(np.cumsum(counts) * (len(rows) / counts.sum())).astype(int)
            for client, part in enumerate(np.split(rows, ends[:-1])):
                dealt[client].append(part)
    # In random order, for the reason that whole_dataset gives.
    return [rng.permutation(np.concatenate(parts)) for parts in dealt]
