"""The dataset says whose an image is: by writer, say."""

from typing import TYPE_CHECKING

import numpy as np

from fedbabu.data.partitions.base import Scheme
from fedbabu.errors import ConfigError
from fedbabu.seeding import Purpose, numpy_generator

if TYPE_CHECKING:
    import datasets
    from flwr_datasets.partitioner import Partitioner

    from fedbabu.config import RunConfig
    from fedbabu.data import ImageDataset


def _partitioner(config: "RunConfig", dataset: "ImageDataset", rows: "datasets.Dataset") -> "Partitioner":
    from flwr_datasets.partitioner import GroupedNaturalIdPartitioner

    if not dataset.clients:
        raise ConfigError(
            f"partition = 'natural' needs client-column to be set: the column of '{dataset.name}' that says whose an "
            "image is."
        )
    owners = np.unique(dataset.clients["train"])
    if config.num_clients > len(owners):
        raise ConfigError(
            f"num-clients = {config.num_clients} is more than '{dataset.name}' has in its client column: it must be "
            f"from 1 to {len(owners)}."
        )
    drawn = numpy_generator(config.seed, Purpose.CLIENTS).choice(owners, config.num_clients, replace=False)
    partitioner = GroupedNaturalIdPartitioner("client", group_size=1, mode="strict", sort_unique_ids=True)
    partitioner.dataset = rows.select(np.flatnonzero(np.isin(dataset.clients["train"], drawn))).shuffle(config.seed)
    return partitioner


NATURAL = Scheme(
    "natural",
    _partitioner,
    setting="natural",
    keys=("client-column",),
    way_out="choose a client-column with more images to a value, or raise test-fraction",
    by_client=True,
)
