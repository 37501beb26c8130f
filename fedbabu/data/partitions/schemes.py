"""The schemes that divide the training images of a dataset among the clients, and how a partition is specified."""

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import ceil

import numpy as np

from fedbabu.data.dataset import ImageDataset
from fedbabu.data.partitions.label_shards import label_shards
from fedbabu.data.source import SPLITS, IntArray
from fedbabu.errors import ConfigError
from fedbabu.formatting import counted
from fedbabu.seeding import Purpose, numpy_generator

MIN_DIRICHLET_IMAGES = 10  # of a client; flwr-datasets draws up to ten times until every client has so many


@dataclass(frozen=True)
class PartitionSpec:
    """Everything that a partition of a dataset into clients depends on, besides the dataset."""

    scheme: str  # a key of PARTITIONS
    num_clients: int
    seed: int
    shards_per_client: int  # s, for the scheme "shards"
    num_classes_per_client: int  # for the scheme "classes"
    dirichlet_beta: float  # β, for the scheme "dirichlet"
    client_column: str  # the dataset column that names the owner of each image, for the scheme "natural"
    min_examples_per_owner: int  # training images that an owner must have to be a client, for the scheme "natural"
    iid_test_set: bool  # whether the test images of every class are spread evenly over all clients (Appendix J)


@dataclass(frozen=True)
class PartitionScheme:
    """A way to divide the training images of one dataset among the clients."""

    name: str  # the value of the run-config key `partition` that chooses this scheme
    divide: Callable[[PartitionSpec, ImageDataset], list[IntArray]]  # returns each client's rows, in random order
    title_format: str  # the partition in a few words, with fields of PartitionSpec in braces
    options: tuple[str, ...]  # the fields of PartitionSpec that this scheme reads, besides num_clients and seed
    remedy: str  # what the user can change if a client gets too few images
    by_owner: bool = False  # whether a client is an owner that the dataset names, with that owner's test images

    def title(self, spec: PartitionSpec) -> str:
        """The partition in a few words, for example "s = 2"."""
        return self.title_format.format_map(asdict(spec))


def _shards(spec: PartitionSpec, dataset: ImageDataset) -> list[IntArray]:
    """The paper's partition: shards of one class each, s of them for each client (Section 3, "Experimental setup")."""
    labels, num_shards = dataset.labels["train"], spec.num_clients * spec.shards_per_client
    num_classes = len(np.unique(labels))
    if spec.shards_per_client > dataset.num_classes:
        raise ConfigError(
            f"shards-per-client = {spec.shards_per_client} is more than the {dataset.num_classes} classes of "
            f"'{dataset.name}': it must be from 1 to {dataset.num_classes}."
        )
    if not num_classes <= num_shards <= len(labels):
        raise ConfigError(
            f"num-clients = {spec.num_clients} with shards-per-client = {spec.shards_per_client} makes {num_shards} "
            f"shards of one class each, but '{dataset.name}' needs at least {num_classes} shards, one for each class, "
            f"and has only {len(labels)} training images: num-clients must be at least "
            f"{ceil(num_classes / spec.shards_per_client)} and at most {len(labels) // spec.shards_per_client}."
        )
    return label_shards(labels, spec.num_clients, spec.shards_per_client, spec.seed)


def _classes(spec: PartitionSpec, dataset: ImageDataset) -> list[IntArray]:
    """Exactly k classes for each client, as in the earlier Flower baseline of FedBABU."""
    from flwr_datasets.partitioner import PathologicalPartitioner

    from fedbabu.data.partitions.flower_partitioners import load_partitions

    labels, k = dataset.labels["train"], spec.num_classes_per_client
    num_classes = len(np.unique(labels))
    if k > num_classes:
        raise ConfigError(
            f"num-classes-per-client = {k} is more than the {num_classes} classes of '{dataset.name}': it must be from "
            f"1 to {num_classes}."
        )
    if spec.num_clients < num_classes:
        raise ConfigError(
            f"num-clients = {spec.num_clients} is too few for partition = 'classes', where client i holds class i: it "
            f"must be at least {num_classes}, the number of classes of '{dataset.name}'."
        )
    # The first class of each client follows from its number, so that every class is used; the others are random.
    partitioner = PathologicalPartitioner(spec.num_clients, "label", k, "first-deterministic", seed=spec.seed)
    try:
        return load_partitions(partitioner, labels)
    except ValueError as error:
        raise ConfigError(
            f"num-classes-per-client = {k} with num-clients = {spec.num_clients} gives a class of '{dataset.name}' to "
            "more clients than it has training images: lower one of them."
        ) from error


def _dirichlet(spec: PartitionSpec, dataset: ImageDataset) -> list[IntArray]:
    """Shares of each class from a Dirichlet distribution over the clients (Appendix H, Table 18)."""
    from flwr_datasets.partitioner import DirichletPartitioner

    from fedbabu.data.partitions.flower_partitioners import load_partitions

    partitioner = DirichletPartitioner(
        spec.num_clients, "label", spec.dirichlet_beta, min_partition_size=MIN_DIRICHLET_IMAGES, seed=spec.seed,
        self_balancing=False,  # the paper's clients may have any number of images
    )  # fmt: skip
    try:
        with warnings.catch_warnings():  # one for every draw that is repeated
            warnings.simplefilter("ignore")
            return load_partitions(partitioner, dataset.labels["train"])
    except ValueError as error:
        raise ConfigError(
            f"dirichlet-beta = {spec.dirichlet_beta} with num-clients = {spec.num_clients} leaves clients of "
            f"'{dataset.name}' with fewer than {MIN_DIRICHLET_IMAGES} training images in each of ten draws: raise "
            "dirichlet-beta or lower num-clients."
        ) from error


def _iid(spec: PartitionSpec, dataset: ImageDataset) -> list[IntArray]:
    """Equal parts at random."""
    rows = np.random.default_rng(spec.seed).permutation(len(dataset.labels["train"]))
    return np.array_split(rows, spec.num_clients)


def usable_owners(spec: PartitionSpec, dataset: ImageDataset) -> tuple[IntArray, int]:
    """The owners with enough training images and a test image, int64 [n], and the number of all others."""
    num_owners = 1 + max(int(owners.max()) for owners in dataset.owners.values())
    train, test = (np.bincount(dataset.owners[split], minlength=num_owners) for split in SPLITS)
    is_usable = (train >= spec.min_examples_per_owner) & ((test > 0) | spec.iid_test_set)
    usable = np.flatnonzero(is_usable)
    return usable, int(((train > 0) | (test > 0)).sum()) - len(usable)


def _natural(spec: PartitionSpec, dataset: ImageDataset) -> list[IntArray]:
    """The images of one owner that the dataset names for each client, for example of the writer of characters."""
    if not dataset.owners:
        raise ConfigError(
            f"partition = 'natural' needs client-column to be set, to the column of '{dataset.name}' that names the "
            "owner of each image."
        )
    owners = dataset.owners["train"]
    usable, num_left_out = usable_owners(spec, dataset)
    if spec.num_clients > len(usable):
        left_out = f"; {num_left_out} with fewer are left out" if num_left_out else ""
        raise ConfigError(
            f"num-clients = {spec.num_clients} is more than the {counted(len(usable), 'owner')} that the client column "
            f"of '{dataset.name}' names with at least min-examples-per-owner = {spec.min_examples_per_owner} training "
            f"images and a test image{left_out}: num-clients must be at most {len(usable)}."
        )
    chosen = numpy_generator(spec.seed, Purpose.CLIENTS).choice(usable, spec.num_clients, replace=False)
    rows = np.random.default_rng(spec.seed).permutation(np.flatnonzero(np.isin(owners, chosen)))
    rows = rows[np.argsort(owners[rows], kind="stable")]  # in random order within each owner
    _, first_of_owner = np.unique(owners[rows], return_index=True)
    return np.split(rows, first_of_owner[1:])


_SCHEMES = (
    PartitionScheme(
        "shards", _shards, "s = {shards_per_client}", options=("shards_per_client",),
        remedy="lower num-clients or shards-per-client",
    ),
    PartitionScheme(
        "classes", _classes, "{num_classes_per_client} classes each", options=("num_classes_per_client",),
        remedy="lower num-clients or num-classes-per-client",
    ),
    PartitionScheme(
        "dirichlet", _dirichlet, "Dirichlet, β = {dirichlet_beta}", options=("dirichlet_beta",),
        remedy="raise dirichlet-beta or lower num-clients",
    ),
    PartitionScheme("iid", _iid, "IID", options=(), remedy="lower num-clients"),
    PartitionScheme(
        "natural", _natural, "natural", options=("client_column", "min_examples_per_owner"), by_owner=True,
        remedy="choose a client-column with more images for each value, or raise test-fraction",
    ),
)  # fmt: skip
PARTITIONS = {scheme.name: scheme for scheme in _SCHEMES}
