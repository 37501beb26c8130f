"""Which rows of a dataset each client holds."""

import io
import warnings
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedbabu.data.cache import cached
from fedbabu.data.dataset import ImageDataset
from fedbabu.data.decoding import Labels
from fedbabu.data.partitions import PARTITIONS
from fedbabu.data.partitions.rounding import round_table
from fedbabu.data.source import SPLITS
from fedbabu.errors import ConfigError
from fedbabu.seeding import Purpose, numpy_generator

if TYPE_CHECKING:
    from fedbabu.config import RunConfig

MIN_TRAIN = 2  # training images of a client


@dataclass(frozen=True)
class Partition:
    """The rows, int64, of each client by its id, in every split: `rows["test"][3]` are those that test client 3."""

    rows: Mapping[str, Mapping[int, Labels]]

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


def open_partition(dataset: ImageDataset, config: "RunConfig") -> Partition:
    """The partition of a dataset that the run config asks for, from the cache if it was made before.

    Raises:
        ConfigError: if the dataset cannot be partitioned like that.
    """
    # Beside the dataset's folder, not in it, which another process may be building again.
    path = dataset.folder.with_name(f"{dataset.folder.name}-{partition_name(config)}.npz")

    def build(building: Path) -> None:
        arrays = {}  # all clients' rows in one, and where each client's end
        for split, rows in make_partition(dataset, config).rows.items():
            arrays[split] = np.concatenate(list(rows.values()))
            arrays[f"{split}_ends"] = np.cumsum([len(of_client) for of_client in rows.values()])
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        body = buffer.getvalue()
        building.write_bytes(body + zlib.crc32(body).to_bytes(4))

    def read(path: Path) -> Partition:
        content = path.read_bytes()
        if zlib.crc32(content[:-4]).to_bytes(4) != content[-4:]:
            raise ValueError(f"{path} is damaged")
        with np.load(io.BytesIO(content[:-4])) as file:
            arrays = dict(file)
        return Partition(
            {split: dict(enumerate(np.split(arrays[split], arrays[f"{split}_ends"][:-1]))) for split in SPLITS}
        )

    return cached(path, build, read)


def partition_name(config: "RunConfig") -> str:
    """A name that says all that a partition depends on, for files: "shards-2-of-100-seed-42"."""
    scheme, values = PARTITIONS[config.partition], config.to_flower()
    parts = [scheme.name, *(values[key] for key in scheme.keys), "of", config.num_clients, "seed", config.seed]
    return "-".join(map(str, parts)) + ("-iid-test" if config.iid_test_set else "")


def make_partition(dataset: ImageDataset, config: "RunConfig") -> Partition:
    """Deal a dataset to the clients by the scheme that the run config names.

    The test images of a class go to the clients that train on it, in proportion to what they hold of it, and their
    number, by client and by class, is rounded to a neighbouring integer; so whoever's share of a class is an image or
    more is tested on that class. With iid_test_set, they are spread evenly over all clients instead, class by class
    (Appendix J).

    Raises:
        ConfigError: if the dataset cannot be partitioned like that, or a client comes out too small.
    """
    from fedbabu.data.rows import Rows

    scheme, labels = PARTITIONS[config.partition], dataset.labels
    if not scheme.by_client and MIN_TRAIN * config.num_clients > len(labels["train"]):
        raise ConfigError(
            f"num-clients = {config.num_clients} is too many for the {len(labels['train'])} training images of "
            f"'{dataset.name}', of which each needs {MIN_TRAIN}: it must be at most "
            f"{len(labels['train']) // MIN_TRAIN}."
        )
    columns = {"row": np.arange(len(labels["train"])), "label": labels["train"]}
    if dataset.clients:
        columns["client"] = dataset.clients["train"]
    with warnings.catch_warnings():  # of what pyarrow will deprecate
        warnings.simplefilter("ignore", FutureWarning)
        partitioner = scheme.partitioner(config, dataset, Rows.from_dict(columns))
        train = [partitioner.load_partition(client)["row"] for client in range(config.num_clients)]
    if config.iid_test_set:
        test = _spread(labels["test"], config.num_clients, config.seed)
    elif scheme.by_client:
        test = _own(dataset, train, config.seed)
    else:
        test = _deal(labels["test"], class_counts(dataset, "train", train), config.seed)
    for client, rows in enumerate(zip(train, test, strict=True)):
        if too_small := too_small_client(client, *map(len, rows)):
            raise ConfigError(f"partition = '{scheme.name}': {too_small}: {scheme.way_out}.")
    return Partition({"train": dict(enumerate(train)), "test": dict(enumerate(test))})


def class_counts(dataset: ImageDataset, split: str, clients: Iterable[Labels]) -> Labels:
    """How many images of each class each client holds, int64 [clients, classes], given the rows of each."""
    return np.stack([np.bincount(dataset.labels[split][rows], minlength=dataset.num_classes) for rows in clients])


def all_class_counts(dataset: ImageDataset, partition: Partition) -> dict[str, Labels]:
    """How many images of each class each client holds, int64 [clients, classes], by split."""
    return {split: class_counts(dataset, split, rows.values()) for split, rows in partition.rows.items()}


def partition_title(dataset: ImageDataset, config: "RunConfig") -> str:
    """A partition in a few words."""
    return f"{dataset.name}: {config.num_clients} clients ({PARTITIONS[config.partition].title(config.to_flower())})"


def too_small_client(client: int, num_train: int, num_test: int) -> str:
    """What is wrong with a client that has too few examples to train or test on; empty if there are enough."""
    if num_train >= MIN_TRAIN and num_test:
        return ""
    return (
        f"client {client} has {num_train} training and {num_test} test images and needs at least {MIN_TRAIN}, since "
        "BatchNorm compares the images of a batch, and 1"
    )


def _spread(labels: Labels, num_clients: int, seed: int) -> list[Labels]:
    """Deal rows to the clients in turn, class after class, so that every class is spread as evenly as can be."""
    rng = numpy_generator(seed, Purpose.PARTITION)
    rows = rng.permutation(len(labels))
    rows = rows[np.argsort(labels[rows], kind="stable")]
    return [rng.permutation(rows[client::num_clients]) for client in range(num_clients)]


def _own(dataset: ImageDataset, train: Sequence[Labels], seed: int) -> list[Labels]:
    """The test rows of whoever each client's training rows are of."""
    rng = numpy_generator(seed, Purpose.PARTITION)
    owners = dataset.clients["test"]
    order = np.argsort(owners, kind="stable")
    wanted = [dataset.clients["train"][rows[0]] for rows in train]
    first, last = (np.searchsorted(owners[order], wanted, side) for side in ("left", "right"))
    return [rng.permutation(order[start:end]) for start, end in zip(first, last, strict=True)]


def _deal(labels: Labels, train_counts: Labels, seed: int) -> list[Labels]:
    """Deal the rows of each class to the clients in proportion to train_counts, int64 [clients, classes]."""
    rng = numpy_generator(seed, Purpose.PARTITION)
    numbers = np.bincount(labels, minlength=train_counts.shape[1])
    shares = train_counts * (numbers / np.maximum(train_counts.sum(axis=0), 1))
    dealt: list[list[Labels]] = [[np.empty(0, dtype=np.int64)] for _ in train_counts]
    for label, counts in enumerate(round_table(shares, numpy_generator(seed, Purpose.ROUNDING)).T):
        rows = rng.permutation(np.flatnonzero(labels == label))
        for client, part in enumerate(np.split(rows[: counts.sum()], np.cumsum(counts)[:-1])):
            dealt[client].append(part)
    # In random order, for the reason that whole_dataset gives.
    return [rng.permutation(np.concatenate(parts)) for parts in dealt]
