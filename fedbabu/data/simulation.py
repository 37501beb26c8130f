"""The data of a simulation: one dataset that every node can read, and its partition into clients."""

from functools import cache

from fedbabu.config import RunConfig
from fedbabu.data.cache import ImageDataset, open_dataset
from fedbabu.data.partition import Partition, open_partition


@cache
def open_simulated_data(config: RunConfig) -> tuple[ImageDataset, Partition]:
    """Open both, once per process.

    Raises:
        ConfigError: if the dataset cannot be opened, or not be cut into that many shards.
    """
    dataset = open_dataset(config.dataset, config.image_column, config.label_column)
    partition = open_partition(dataset, config.num_clients, config.shards_per_client, config.seed, config.iid_test_set)
    return dataset, partition
