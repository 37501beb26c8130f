"""Exactly k classes for every client, the split of the earlier Flower baseline."""

from typing import TYPE_CHECKING

from fedbabu.data.partitions.base import Scheme
from fedbabu.errors import ConfigError

if TYPE_CHECKING:
    import datasets
    from flwr_datasets.partitioner import Partitioner

    from fedbabu.config import RunConfig
    from fedbabu.data import ImageDataset


def _partitioner(config: "RunConfig", dataset: "ImageDataset", rows: "datasets.Dataset") -> "Partitioner":
    from flwr_datasets.partitioner import PathologicalPartitioner

    given, num_classes = f"num-classes-per-client = {config.num_classes_per_client}", len(rows.unique("label"))
    if config.num_classes_per_client > num_classes:
        raise ConfigError(
            f"{given} is more than there are: '{dataset.name}' has {num_classes} classes, so it must be from 1 to "
            f"{num_classes}."
        )
    if config.num_clients < num_classes:
        raise ConfigError(
            f"num-clients = {config.num_clients} is too few for partition = 'classes', where client i holds class i: "
            f"'{dataset.name}' has {num_classes} classes, so it must be at least {num_classes}."
        )
    # Every client has one class by its number, which uses all classes, and the others at random.
    partitioner = PathologicalPartitioner(
        config.num_clients,
        "label",
        config.num_classes_per_client,
        class_assignment_mode="first-deterministic",
        seed=config.seed,
    )
    partitioner.dataset = rows
    try:
        partitioner.num_partitions  # noqa: B018  it is what makes the partitions
    except ValueError as error:
        raise ConfigError(
            f"{given} with num-clients = {config.num_clients} gives a class of '{dataset.name}' to more clients than "
            "it has training images: lower either."
        ) from error
    return partitioner


CLASSES = Scheme(
    "classes",
    _partitioner,
    setting="{num-classes-per-client} classes each",
    keys=("num-classes-per-client",),
    way_out="lower num-clients or num-classes-per-client",
)
