"""The data of a simulation: one dataset that every node can read, and its partition into clients."""

from functools import cache
from typing import TYPE_CHECKING

from fedbabu.data.dataset import ImageDataset, open_dataset
from fedbabu.data.partitioning import Partition, open_partition
from fedbabu.data.source import DataSpec

if TYPE_CHECKING:
    from fedbabu.config import RunConfig


@cache
def open_simulated_data(config: "RunConfig") -> tuple[ImageDataset, Partition]:
    """Open both, once per process.

    Raises:
        ConfigError: if the dataset cannot be opened, or not be partitioned as asked.
    """
    dataset = open_dataset(data_spec(config))
    return dataset, open_partition(dataset, config)


def data_spec(config: "RunConfig", folder: str = "") -> DataSpec:
    """What the run config says of its dataset, or of an owner's folder in the place of it."""
    return DataSpec(
        folder or config.dataset, config.image_column, config.label_column, config.client_column, config.test_fraction
    )
